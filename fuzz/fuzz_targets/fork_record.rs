//! See `snapkeep::fuzzing::fork_record` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    snapkeep::fuzzing::fork_record(bytes);
});
