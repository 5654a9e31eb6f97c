//! The Debian package with the program that is under test: by `cargo deb` where it is installed, and from what Cargo.toml
//! says of it with nothing but dpkg-deb, with the same files, scripts and conffiles.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "support of tests")]

use super::mounts::tool;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file of the package: where it is here, and there, and its mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asset {
    pub from: PathBuf,
    pub to: PathBuf,
    pub mode: u32,
}

pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn metadata() -> toml::Value {
    let text = fs::read_to_string(checkout().join("Cargo.toml")).unwrap();
    text.parse::<toml::Table>().unwrap()["package"]["metadata"]["deb"].clone()
}

/// All files, with patterns resolved; the program is `program`.
pub fn assets(program: &Path) -> Vec<Asset> {
    let mut all = Vec::new();
    for asset in metadata()["assets"].as_array().unwrap() {
        let field = |at: usize| asset[at].as_str().unwrap();
        let (from, to, mode) = (Path::new(field(0)), field(1), u32::from_str_radix(field(2), 8).unwrap());
        let files = match from.file_name().unwrap().to_str().unwrap().split_once('*') {
            _ if field(0) == "target/release/snapkeep" => vec![program.to_owned()],
            None => vec![checkout().join(from)],
            Some((begin, end)) => {
                let dir = checkout().join(from.parent().unwrap());
                let fits = |name: &str| name.starts_with(begin) && name.ends_with(end);
                let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
                entries
                    .map(|entry| entry.unwrap().path())
                    .filter(|path| path.is_file() && fits(path.file_name().unwrap().to_str().unwrap()))
                    .collect()
            }
        };
        assert!(!files.is_empty(), "{}: nothing fits", from.display());
        for file in files {
            let name = if to.ends_with('/') { Path::new(to).join(file.file_name().unwrap()) } else { PathBuf::from(to) };
            all.push(Asset { from: file, to: name, mode });
        }
    }
    all
}

/// Builds the package of this version in `dir` as `cargo deb` does, without building the program; its path.
pub fn by_cargo_deb(program: &Path, version: &str, dir: &Path) -> Result<PathBuf, String> {
    tool("cargo-deb").map_err(|why| format!("{why}: cargo install cargo-deb --locked"))?;
    // It looks for the release, in a target directory that may be any.
    let target = dir.join(format!("target-{version}"));
    fs::create_dir_all(target.join("release")).unwrap();
    fs::copy(program, target.join("release/snapkeep")).unwrap();
    strip(&target.join("release/snapkeep"));
    let package = dir.join(format!("cargo-deb-{version}.deb"));
    let mut command = Command::new("cargo");
    command
        .args(["deb", "--locked", "--offline", "--no-build", "--no-strip", "--fast", "--deb-version", version, "--output"])
        .arg(&package);
    let built = command.env("CARGO_TARGET_DIR", &target).current_dir(checkout()).output().unwrap();
    assert!(built.status.success(), "{built:?}");
    Ok(package)
}

/// What a debugger wants would fill the container's memory.
fn strip(program: &Path) {
    drop(Command::new("strip").arg(program).output());
}

/// Builds the package of this version in `dir` by hand; its path.
pub fn build(program: &Path, version: &str, dir: &Path) -> PathBuf {
    let tree = dir.join(version);
    for asset in assets(program) {
        let to = tree.join(&asset.to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(&asset.from, &to).unwrap_or_else(|e| panic!("{}: {e}", asset.from.display()));
        fs::set_permissions(&to, fs::Permissions::from_mode(asset.mode)).unwrap();
    }
    strip(&tree.join("usr/bin/snapkeep"));
    let control = tree.join("DEBIAN");
    fs::create_dir_all(&control).unwrap();
    let meta = metadata();
    let text = |key: &str| meta[key].as_str().unwrap().to_owned();
    let architecture = Command::new("dpkg").arg("--print-architecture").output().unwrap().stdout;
    let fields = format!(
        "Package: snapkeep\nVersion: {version}\nArchitecture: {}\nMaintainer: {}\nSection: {}\nPriority: {}\nDepends: {}\nDescription: {}\n",
        String::from_utf8(architecture).unwrap().trim(),
        text("maintainer"),
        text("section"),
        text("priority"),
        text("depends").replace("$auto", "libc6"),
        env!("CARGO_PKG_DESCRIPTION"),
    );
    fs::write(control.join("control"), fields).unwrap();
    let conffiles: String = meta["conf-files"].as_array().unwrap().iter().map(|file| format!("{}\n", file.as_str().unwrap())).collect();
    fs::write(control.join("conffiles"), conffiles).unwrap();
    for script in ["postinst", "prerm", "postrm"] {
        fs::copy(checkout().join(text("maintainer-scripts")).join(script), control.join(script)).unwrap();
    }
    let package = dir.join(format!("snapkeep_{version}.deb"));
    let built =
        Command::new("dpkg-deb").args(["--root-owner-group", "-Zgzip", "-z1", "--build"]).arg(&tree).arg(&package).output().unwrap();
    assert!(built.status.success(), "{built:?}");
    package
}
