//! The files that a disk image of a machine stands on: qcow2's backing file and external data file.
//!
//! Reads headers that a guest or a stranger may have written; believes none of their numbers.

/// What a qcow2 header says about other files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Backing {
    /// The backing file's name as it is written there.
    pub backing_file: Option<Vec<u8>>,
    /// The external data file's name.
    pub data_file: Option<Vec<u8>>,
    /// A name is there, but beyond the bytes that were given: it cannot be told.
    pub cut: bool,
}

const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
const EXTENSION_END: u32 = 0;
const V2_HEADER: usize = 72;
const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
/// More header extensions than any writer makes.
const MOST_EXTENSIONS: usize = 64;

/// Parses the beginning of a qcow2 file, versions 2 and 3; `None` if it is none.
#[must_use]
pub fn qcow2_backing(header: &[u8]) -> Option<Backing> {
    if !header.starts_with(b"QFI\xfb") || !matches!(be32(header, 4)?, 2 | 3) {
        return None;
    }
    let version = be32(header, 4)?;
    let mut found = Backing::default();
    match (be64(header, 8), be32(header, 16)) {
        (Some(0), _) | (_, Some(0)) => {}
        (Some(offset), Some(len)) => {
            found.backing_file = usize::try_from(offset).ok().and_then(|offset| slice(header, offset, len));
            found.cut = found.backing_file.is_none();
        }
        _ => found.cut = true,
    }
    let start = if version == 2 { Some(V2_HEADER) } else { be32(header, 100).and_then(|len| usize::try_from(len).ok()) };
    let wants_data = version == 3 && be64(header, 72).is_none_or(|bits| bits & INCOMPATIBLE_DATA_FILE != 0);
    match start.and_then(|start| data_file(header, start)) {
        Some(name) => found.data_file = name,
        // The extensions do not end within the header: only a file that needs one is in doubt.
        None => found.cut |= wants_data,
    }
    Some(found)
}

/// The name in the extensions from `at`; `None` if they go on beyond the bytes given.
fn data_file(header: &[u8], mut at: usize) -> Option<Option<Vec<u8>>> {
    for _ in 0..MOST_EXTENSIONS {
        let (kind, len) = (be32(header, at)?, be32(header, at.checked_add(4)?)?);
        let data = at.checked_add(8)?;
        match kind {
            EXTENSION_END => return Some(None),
            EXTENSION_DATA_FILE => return slice(header, data, len).map(Some),
            _ => at = data.checked_add(usize::try_from(len).ok()?.checked_next_multiple_of(8)?)?,
        }
    }
    None
}

fn slice(bytes: &[u8], at: usize, len: u32) -> Option<Vec<u8>> {
    let end = at.checked_add(usize::try_from(len).ok()?)?;
    bytes.get(at..end).map(<[u8]>::to_vec)
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_be_bytes)
}

fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn image(version: u32, backing: &[u8], data: &[u8]) -> Vec<u8> {
        let mut header = vec![0u8; 104];
        header[..4].copy_from_slice(b"QFI\xfb");
        header[4..8].copy_from_slice(&version.to_be_bytes());
        header[100..104].copy_from_slice(&104u32.to_be_bytes());
        if version == 2 {
            header.truncate(V2_HEADER);
        } else if !data.is_empty() {
            header[72..80].copy_from_slice(&INCOMPATIBLE_DATA_FILE.to_be_bytes());
        }
        for (kind, text) in [(0xe279_2aca_u32, &b"qcow2"[..]), (EXTENSION_DATA_FILE, data)] {
            if !text.is_empty() {
                header.extend(kind.to_be_bytes());
                header.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                header.extend(text);
                header.resize(header.len().next_multiple_of(8), 0);
            }
        }
        header.extend([0; 8]);
        if !backing.is_empty() {
            let at = header.len() as u64;
            header[8..16].copy_from_slice(&at.to_be_bytes());
            header[16..20].copy_from_slice(&u32::try_from(backing.len()).unwrap().to_be_bytes());
            header.extend(backing);
        }
        header
    }

    #[test]
    fn backing_and_data_files_of_both_versions_are_read() {
        for version in [2, 3] {
            let found = qcow2_backing(&image(version, b"/vms/golden/base.qcow2", b"")).unwrap();
            assert_eq!(found, Backing { backing_file: Some(b"/vms/golden/base.qcow2".to_vec()), data_file: None, cut: false });
        }
        let found = qcow2_backing(&image(3, b"", b"disk.raw")).unwrap();
        assert_eq!(found, Backing { backing_file: None, data_file: Some(b"disk.raw".to_vec()), cut: false });
        assert_eq!(qcow2_backing(b"QFI\xfb\0\0\0\x01"), None);
        assert_eq!(qcow2_backing(b""), None);
    }

    #[test]
    fn a_name_beyond_the_bytes_given_is_reported_as_cut() {
        let whole = image(3, b"/vms/golden/base.qcow2", b"");
        assert!(qcow2_backing(&whole[..whole.len() - 1]).unwrap().cut);
        let whole = image(3, b"", b"disk.raw");
        assert!(qcow2_backing(&whole[..whole.len() - 18]).unwrap().cut);
    }

    proptest! {
        #[test]
        fn hostile_headers_never_panic(tail in proptest::collection::vec(any::<u8>(), 0..300), version in 0u32..5, at in any::<u64>(), len in any::<u32>()) {
            let mut bytes = b"QFI\xfb".to_vec();
            bytes.extend(version.to_be_bytes());
            bytes.extend(at.to_be_bytes());
            bytes.extend(len.to_be_bytes());
            bytes.extend(&tail);
            let _ = qcow2_backing(&bytes);
            let _ = qcow2_backing(&tail);
        }
    }
}
