//! The `snapkeep` program: see the library's `cli`.

fn main() -> std::process::ExitCode {
    snapkeep::cli::main()
}
