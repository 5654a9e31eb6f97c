//! Cases and properties of rewriting.

use super::*;
use crate::ids::InstanceId;
use proptest::prelude::*;
use std::ffi::OsString;

fn names_of(instance: &str, dirs: &[&str]) -> SourceNames {
    SourceNames::new(&InstanceId::parse(instance).unwrap(), dirs.iter().map(Path::new))
}

fn golden() -> SourceNames {
    names_of("golden", &["/vms/golden", "/data/vms/golden/"])
}

fn mentioned(text: &str) -> bool {
    mentions(text.as_bytes(), &golden()).is_some()
}

fn plan(path: &str, text: &str) -> FilePlan {
    plan_small_file(Path::new(path), text.as_bytes(), &golden())
}

fn rewritten(path: &str, text: &str) -> Result<String, RewriteError> {
    let out = rewrite(text.as_bytes(), &plan(path, text), &golden(), Path::new("/vms/web-1"))?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn the_directory_and_all_below_it_are_names_in_every_spelling() {
    for text in [
        "/vms/golden",
        "/vms/golden/",
        "/vms/golden/disk.raw",
        "\"/vms/golden\"",
        "'/vms/golden'",
        "/data/vms/golden",
        "file=/vms/golden/disk.raw,if=virtio",
        "-drive=/vms/golden,x",
        "/vms/golden:/mnt",
        "/vms/golden=/mnt",
        "See /vms/golden.",
        "See /vms/golden... and more",
        "(/vms/golden)",
        "\u{201c}/vms/golden\u{201d}",
        r"\/vms\/golden\/disk",
        r"\\/vms\\/golden",
        r"\u002fvms\u002Fgolden",
        r"\u002fvms/\u0067olden/x",
        r"a\n/vms/golden\n",
        r"a\u0020/vms/golden",
        "file:///vms/golden/disk",
        "file://localhost/vms/golden",
        "FILE://host/vms/golden",
        "?path=%2Fvms%2fgolden%2Fdisk",
        "a%20/vms/golden",
        "/vms//golden/./disk",
        "//vms/./golden",
        "/vms/other/../golden/disk",
        "/vms/golden-7/../golden",
        "/vms/golden/../golden-7",
        "EnvironmentFile=-/vms/golden/env",
        "-I/vms/golden/include",
        "-v /vms/golden->/x",
        "/vms/golden-\"",
        "@/vms/golden/args",
        "/vms/golden\0",
        "x\0/vms/golden/x",
        "\0\x1d/vms/golden/disk",
        "\0\x0b/vms/golden7",
    ] {
        assert!(mentioned(text), "{text:?}");
    }
}

#[test]
fn siblings_and_directories_elsewhere_are_not_names() {
    for text in [
        "",
        "/",
        "/vms",
        "/vms/golde",
        "/vms/golden-7",
        "/vms/golden-7/disk",
        "/vms/golden.bak",
        "/vms/golden_old",
        "/vms/golden2",
        "/vms/golden\u{fc}",
        "/vms/golden%2d7",
        r"/vms/golden\u002d7",
        "/vms/goldenGate",
        "/vms/golden@2",
        "/mnt/vms/golden",
        "./vms/golden",
        "../vms/golden",
        "x/vms/golden",
        "x//vms/golden",
        r"x\/vms\/golden",
        "~/vms/golden",
        "http://host/vms/golden",
        "/vms/Golden",
        "/vms golden",
        "golden",
        "../golden",
        "\0\x0d/vms/golden-7",
    ] {
        assert!(!mentioned(text), "{text:?}");
    }
}

#[test]
fn utf_16_of_both_byte_orders_is_seen() {
    let wide = |text: &str, bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
    for bytes in [u16::to_le_bytes, u16::to_be_bytes] {
        assert!(mentions(&wide("xx/vms/golden/disk", bytes), &golden()).is_some());
        assert_eq!(mentions(&wide("/vms/golden", bytes), &golden()), Some(0));
        assert_eq!(mentions(&wide("/vms/golden-7", bytes), &golden()), None);
    }
}

#[test]
fn strings_of_json_are_rewritten_and_every_other_byte_stays() {
    let text = "{ \"a\" :1.0000000000000000000001,\n\t\"dir\": \"/vms/golden\", \"b\":\"\\/vms\\/golden\\/x\\u00fc\", \"/vms/golden/key\":null,\
                \"drive\":\"file=/vms/golden/disk.raw,if=virtio\", \"url\":\"file:///vms/golden/d\", \"no\":\"/vms/golden-7\", \"up\":\"../golden/x\" }\n";
    let want = "{ \"a\" :1.0000000000000000000001,\n\t\"dir\": \"/vms/web-1\", \"b\":\"/vms/web-1\\/x\\u00fc\", \"/vms/web-1/key\":null,\
                \"drive\":\"file=/vms/web-1/disk.raw,if=virtio\", \"url\":\"file:///vms/web-1/d\", \"no\":\"/vms/golden-7\", \"up\":\"../web-1/x\" }\n";
    assert_eq!(rewritten("config.json", text).unwrap(), want);
    assert_eq!(rewritten("vm.conf", text).unwrap(), want, "by its content");
}

#[test]
fn strings_and_comments_of_toml_are_rewritten_in_their_own_quoting() {
    let text = "# of /vms/golden\na = \"/vms/golden\" # \"/vms/golden\nb = '/vms/golden/x'\nc = \"\"\"\n\"/vms/golden\"\"\"\"\n\
                d = '''it's /vms/golden'''\n\"/vms/golden\" = 1\ne = \"x\\\"/vms/golden\"\n";
    assert_eq!(rewritten("vm.toml", text).unwrap(), text.replace("golden", "web-1"));
    let odd = Path::new("/it's/a \"b\"");
    let one = |text: &str| rewrite(text.as_bytes(), &plan("vm.toml", text), &golden(), odd).map(|out| String::from_utf8(out).unwrap());
    assert_eq!(one("a = \"/vms/golden/x\"").unwrap(), "a = \"/it's/a \\\"b\\\"/x\"");
    assert_eq!(one("a = '/vms/golden/x'"), Err(RewriteError::Unquotable { character: '\'' }));
}

#[test]
fn a_path_with_odd_characters_is_quoted_or_refused() {
    let one = |text: &str, dest: &str| {
        let out = rewrite(text.as_bytes(), &plan("c.json", text), &golden(), Path::new(dest));
        out.map(|out| String::from_utf8(out).unwrap())
    };
    assert_eq!(one(r#"["/vms/golden/x"]"#, "/v m/\"a\\\n").unwrap(), r#"["/v m/\"a\\\u000a/x"]"#);
    assert_eq!(one(r#"["file:///vms/golden/x"]"#, "/v m/\u{e4}%").unwrap(), r#"["file:///v%20m/%C3%A4%25/x"]"#);
    assert_eq!(one(r#"["%2Fvms%2Fgolden%2Fx"]"#, "/v,m").unwrap(), r#"["/v%2Cm%2Fx"]"#);
    assert_eq!(one(r#"["file=/vms/golden,a=b"]"#, "/v,m"), Err(RewriteError::Unquotable { character: ',' }));
    let not_utf8 = OsStr::from_bytes(b"/v\xff");
    let text = br#"["/vms/golden"]"#;
    let plan = plan_small_file(Path::new("c.json"), text, &golden());
    assert_eq!(rewrite(text, &plan, &golden(), Path::new(not_utf8)), Err(RewriteError::NotUtf8));
}

#[test]
fn what_is_neither_json_nor_toml_is_reported_with_its_place() {
    for (path, text, offset) in [
        ("run.sh", "qemu -drive file=/vms/golden/disk", 17),
        ("broken.json", "{\"a\": \"/vms/golden\"", 7),
        ("broken.toml", "a = \"/vms/golden", 5),
        ("disk.vmdk", "RW 8 FLAT \"/vms/golden/a-flat.vmdk\" 0", 11),
        ("state", "\0\0/vms/golden/vsock.sock", 2),
        ("run.sh", "x=../golden/disk", 2),
        ("etc/run.sh", "x=../../golden/disk", 2),
    ] {
        let got = plan(path, text);
        assert!(matches!(got, FilePlan::Names { .. }), "{path}: {got:?}");
        if !text.contains("..") {
            assert_eq!(got, FilePlan::Names { offset }, "{path}");
        }
        assert!(matches!(rewritten(path, text), Err(RewriteError::Names { .. })), "{path}");
    }
    for (path, text) in [("etc/run.sh", "x=../golden/disk"), ("run.sh", "x=a/../golden"), ("a.json", "{\"x\": \"/srv\"}")] {
        assert_eq!(plan(path, text), FilePlan::Verbatim, "{path}");
    }
}

#[test]
fn a_fork_in_its_gone_sources_place_keeps_every_byte() {
    let text = b"{\"a\": \"/vms//golden\"}";
    let plan = plan_small_file(Path::new("a.json"), text, &golden());
    assert_eq!(rewrite(text, &plan, &golden(), Path::new("/vms/golden")).unwrap(), text);
    assert_eq!(rewrite(text, &FilePlan::Names { offset: 1 }, &golden(), Path::new("/data/vms/golden")).unwrap(), text);
}

#[test]
fn a_plan_is_not_applied_to_other_bytes() {
    let text = b"{\"a\": \"/vms/golden\"}";
    let plan = plan_small_file(Path::new("a.json"), text, &golden());
    assert_eq!(rewrite(b"{}", &plan, &golden(), Path::new("/vms/web-1")), Err(RewriteError::Changed));
}

#[test]
fn links_into_the_sources_tree_lead_into_the_forks() {
    let link = |at: &str, target: &str| {
        repoint_symlink(Path::new(at), OsStr::new(target), &golden(), Path::new("/vms/web-1")).map(|t: OsString| t.into_string().unwrap())
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(link("disk", "/vms/golden/images/disk.raw"), some("/vms/web-1/images/disk.raw"));
    assert_eq!(link("disk", "/data/vms//golden/./x"), some("/vms/web-1/x"));
    assert_eq!(link("self", "/vms/golden"), some("/vms/web-1"));
    assert_eq!(link("self", "/vms/golden/"), some("/vms/web-1"));
    assert_eq!(link("a", "/vms/x/../golden/d"), some("/vms/web-1/d"));
    assert_eq!(link("disk", "../golden/disk.raw"), some("disk.raw"));
    assert_eq!(link("a/b/disk", "../../../golden/disk.raw"), some("../../disk.raw"));
    assert_eq!(link("a/disk", "../../../vms/golden/disk.raw"), some("../disk.raw"));
    assert_eq!(link("self", "../golden"), some("."));
    assert_eq!(link("a/self", "../../golden"), some("../"));
    for (at, target) in [
        ("disk", "disk.raw"),
        ("a/disk", "../disk.raw"),
        ("disk", "../golden-7/disk.raw"),
        ("disk", "../base/disk.raw"),
        ("disk", "/vms/golden-7/disk"),
        ("disk", "/vms/golden/../base/disk"),
        ("disk", "/usr/lib/x"),
        ("a/disk", "../golden/disk.raw"),
        ("golden/x", "../golden/y"),
    ] {
        assert_eq!(link(at, target), None, "{at} -> {target}");
    }
    let own = repoint_symlink(Path::new("a"), OsStr::new("/vms/golden/x"), &golden(), Path::new("/vms/golden"));
    assert_eq!(own, None, "a fork in its source's place");
}

#[test]
fn images_that_stand_on_the_sources_files_name_it() {
    for backing in [
        "/vms/golden/base.qcow2",
        "file:/vms/golden/base.qcow2",
        "json:{\"file\":{\"filename\":\"/vms/golden/base.qcow2\"}}",
        "../golden/base.qcow2",
        "file:../golden/base.qcow2",
        "x/../../golden/base",
    ] {
        let image = qcow2_image(backing.as_bytes());
        let named = FilePlan::Names { offset: 8 };
        assert_eq!(plan_small_file(Path::new("d.qcow2"), &image, &golden()), named, "{backing}");
        assert_eq!(plan_header(Path::new("d.qcow2"), &image, &golden()), named, "{backing}");
    }
    for backing in ["", "base.qcow2", "/srv/images/base.qcow2", "../golden-7/base"] {
        let image = qcow2_image(backing.as_bytes());
        assert_eq!(plan_header(Path::new("d.qcow2"), &image, &golden()), FilePlan::Verbatim, "{backing}");
    }
    assert_eq!(plan_header(Path::new("d.raw"), b"guest data /vms/golden/x", &golden()), FilePlan::Verbatim);
    assert_eq!(plan_header(Path::new("d.vmdk"), b"KDMV\0\0/vms/golden/x", &golden()), FilePlan::Names { offset: 6 });
}

fn qcow2_image(backing: &[u8]) -> Vec<u8> {
    let mut header = vec![0u8; 112];
    header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    header[100..104].copy_from_slice(&104u32.to_be_bytes());
    header[8..16].copy_from_slice(&112u64.to_be_bytes());
    header[16..20].copy_from_slice(&u32::try_from(backing.len()).unwrap().to_be_bytes());
    header.extend(backing);
    header
}

/// Pieces of which files that name the source, or almost do, are put together.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec!["/vms/golden", "/vms//golden", "/data/vms/golden", "../golden", "../", "%2Fvms%2Fgolden", "/vms/x/../golden"])
            .prop_map(str::to_owned),
        4 => prop::sample::select(vec!["/", "-7", ".bak", ".", " ", ",", "=", "\"", "\\", "'", "\n", "#", "\u{fc}", "file://", "%", "-I", "\\u002f", "n", "\u{1f600}"])
            .prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(prop::collection::vec(piece(), 0..6).prop_map(|pieces| pieces.concat()), 1..8)
}

/// JSON with some of its slashes and letters escaped.
fn json_of(texts: &[String], escape: bool) -> String {
    let text = serde_json::to_string(texts).unwrap();
    if escape { text.replace('/', "\\/").replace('g', "\\u0067") } else { text }
}

proptest! {
    #[test]
    fn rewriting_json_leaves_no_name_and_changes_nothing_else(texts in texts(), escape: bool) {
        let names = golden();
        let json = json_of(&texts, escape);
        let plan = plan_small_file(Path::new("a.json"), json.as_bytes(), &names);
        let Ok(out) = rewrite(json.as_bytes(), &plan, &names, Path::new("/vms/web-1")) else {
            prop_assert!(matches!(plan, FilePlan::Names { .. }), "a plan that cannot be applied");
            return Ok(());
        };
        prop_assert_eq!(mentions(&out, &names), None);
        let after: Vec<String> = serde_json::from_slice(&out).unwrap();
        prop_assert_eq!(after.len(), texts.len());
        for (before, after) in texts.iter().zip(&after) {
            prop_assert_eq!(mentions(after.as_bytes(), &names), None, "{:?}", after);
            if !before.contains("golden") && !before.contains('\\') && !before.contains('%') {
                prop_assert_eq!(before, after);
            }
        }
    }

    #[test]
    fn rewriting_toml_leaves_no_name_and_still_parses(texts in texts()) {
        let names = golden();
        let table: toml::Table = texts.iter().enumerate().map(|(n, text)| (format!("k{n}"), toml::Value::String(text.clone()))).collect();
        let text = table.to_string();
        let plan = plan_small_file(Path::new("a.toml"), text.as_bytes(), &names);
        if let Ok(out) = rewrite(text.as_bytes(), &plan, &names, Path::new("/vms/web-1")) {
            prop_assert_eq!(mentions(&out, &names), None);
            let after: toml::Table = std::str::from_utf8(&out).unwrap().parse().unwrap();
            for (key, value) in &after {
                let value = value.as_str().unwrap();
                prop_assert_eq!(mentions(value.as_bytes(), &names), None, "{}: {:?}", key, value);
            }
        } else {
            prop_assert!(matches!(plan, FilePlan::Names { .. }), "a plan that cannot be applied");
        }
    }

    #[test]
    fn a_plain_document_is_always_rewritable(below in "[a-z/.]{0,12}", other in "[a-z0-9 ,:=]{0,12}") {
        let names = golden();
        let json = serde_json::json!({ "dir": "/vms/golden", "disk": format!("/vms/golden/{below}"), "other": other }).to_string();
        let plan = plan_small_file(Path::new("a.json"), json.as_bytes(), &names);
        let out = rewrite(json.as_bytes(), &plan, &names, Path::new("/vms/web-1")).unwrap();
        prop_assert_eq!(String::from_utf8(out).unwrap(), json.replace("/vms/golden", "/vms/web-1"));
    }

    #[test]
    fn looking_at_hostile_bytes_never_panics(bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"/\\%.u02fvmsgolden\"{[\0".to_vec())], 0..400)) {
        let names = golden();
        for path in ["a", "a/b.json", "a.toml"] {
            let plan = plan_small_file(Path::new(path), &bytes, &names);
            let _ = rewrite(&bytes, &plan, &names, Path::new("/vms/web-1"));
            let _ = plan_header(Path::new(path), &bytes, &names);
        }
    }
}
