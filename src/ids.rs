//! Identifiers: one validated newtype each, one parser each. Nothing here touches the disk or the clock.

use arrayvec::ArrayString;
use chrono::{DateTime, Utc};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::sync::Arc;

/// Why a string is not an identifier of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {kind}: {why}")]
pub struct IdError {
    /// The kind of identifier that was wanted, in words.
    pub kind: &'static str,
    /// The text that was given.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// What holds the characters of an identifier that has been checked.
trait Text {
    fn of(text: &str) -> Self;
}

/// Shared: it is made once, and cloned into every plan, view and event.
impl Text for Arc<str> {
    fn of(text: &str) -> Self {
        text.into()
    }
}

/// In place: there are many of them, and a plan that looks at all must not follow a pointer for each.
impl<const N: usize> Text for ArrayString<N> {
    fn of(text: &str) -> Self {
        Self::from(text).unwrap_or_default()
    }
}

/// The rule of [`check_name`] as a regular expression.
const NAME: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";
/// The length of a snapshot id.
const SNAPSHOT_ID: usize = 24;
/// The length of a fork id.
const FORK_ID: usize = 17;

macro_rules! id_newtype {
    ($(#[$meta:meta])* $name:ident, $kind:literal, $check:path, $pattern:expr) => {
        id_newtype!($(#[$meta])* $name, $kind, $check, $pattern, Arc<str>);
    };
    ($(#[$meta:meta])* $name:ident, $kind:literal, $check:path, $pattern:expr, $text:ty) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($text);

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }

        /// From any string, without a copy of it: a start reads hundreds of thousands.
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($kind)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::parse(text).map_err(E::custom)
                    }
                }
                from.deserialize_str(Text)
            }
        }

        impl $name {
            /// Parses and validates.
            ///
            /// # Errors
            /// [`IdError`] with the rule that the text breaks.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                match $check(text) {
                    Ok(()) => Ok(Self(<$text>::of(text))),
                    Err(why) => Err(IdError { kind: $kind, text: text.to_owned(), why }),
                }
            }

            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        /// The same rule as a regular expression, for those who read schemas.
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "description": $kind, "pattern": $pattern})
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::parse(&text)
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.as_str().to_owned()
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl AsRef<std::path::Path> for $name {
            fn as_ref(&self) -> &std::path::Path {
                std::path::Path::new(self.as_str())
            }
        }
    };
}

id_newtype!(
    /// The name of a directory directly under the instances root.
    InstanceId, "instance name", check_instance, r"^[^./\x00\n][^/\x00\n]{0,254}$"
);
id_newtype!(
    /// `YYYYMMDD-HHMMSS-` and eight characters of lower-case base 32: sorts by time, never repeats.
    SnapshotId, "snapshot id", check_snapshot_id, "^[0-9]{8}-[0-9]{6}-[a-z2-7]{8}$", ArrayString<SNAPSHOT_ID>
);
id_newtype!(
    /// A fork's identity, and that of the request which makes it: `f` and sixteen characters of base 32.
    ForkId, "fork id", check_fork_id, "^f[a-z2-7]{16}$", ArrayString<FORK_ID>
);
id_newtype!(
    /// The name of a `[[policy]]`.
    PolicyName, "policy name", check_name, NAME
);
id_newtype!(
    /// A snapshot's name for people, unique per instance.
    SnapshotName, "snapshot name", check_name, NAME
);
id_newtype!(
    /// The name of a hold (a pin by hand).
    HoldName, "hold name", check_name, NAME
);
id_newtype!(
    /// The name of a fork: an instance name under the stricter rule of names that snapkeep makes itself.
    ForkName, "fork name", check_name, NAME
);

impl From<ForkName> for InstanceId {
    fn from(name: ForkName) -> Self {
        Self(name.0)
    }
}

/// `^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`, at most 63 characters.
fn check_name(text: &str) -> Result<(), &'static str> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if text.is_empty() {
        Err("it is empty")
    } else if text.len() > 63 {
        Err("it is longer than 63 characters")
    } else if !text.chars().all(inner) {
        Err("only a-z, 0-9 and '-' are allowed")
    } else if text.starts_with('-') || text.ends_with('-') {
        Err("it must begin and end with a letter or a digit")
    } else {
        Ok(())
    }
}

fn check_instance(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        Err("it is empty")
    } else if text.len() > 255 {
        Err("it is longer than 255 bytes")
    } else if text.starts_with('.') {
        Err("it must not begin with '.'")
    } else if text.contains(['/', '\0', '\n']) {
        Err("it must not contain '/', a newline or a zero byte")
    } else {
        Ok(())
    }
}

fn is_base32(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'))
}

fn check_snapshot_id(text: &str) -> Result<(), &'static str> {
    let shape = "it must look like 20261124-090347-abcdefgh";
    let mut parts = text.split('-');
    let digits = |part: Option<&str>, n: usize| part.is_some_and(|p| p.len() == n && p.bytes().all(|b| b.is_ascii_digit()));
    let ok = digits(parts.next(), 8) && digits(parts.next(), 6) && parts.next().is_some_and(|p| p.len() == 8 && is_base32(p));
    if ok && parts.next().is_none() { Ok(()) } else { Err(shape) }
}

fn check_fork_id(text: &str) -> Result<(), &'static str> {
    let ok = text.len() == 17 && text.strip_prefix('f').is_some_and(is_base32);
    if ok { Ok(()) } else { Err("it must be 'f' and sixteen characters of base 32") }
}

/// `n` random characters of lower-case base 32 (RFC 4648 alphabet), five bits each; at most 24.
fn random_base32(n: usize) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    // Version and variant bits of a v4 UUID are fixed: hash two of them to spread the 244 random bits evenly.
    let mut hasher = blake3::Hasher::new();
    hasher.update(uuid::Uuid::new_v4().as_bytes());
    hasher.update(uuid::Uuid::new_v4().as_bytes());
    let pick = |byte: &u8| ALPHABET.get(usize::from(byte & 31)).map_or('a', |b| char::from(*b));
    hasher.finalize().as_bytes().iter().take(n).map(pick).collect()
}

impl SnapshotId {
    /// A new id for a snapshot made at `now`; random, so that two of one second differ.
    #[must_use]
    pub fn generate(now: DateTime<Utc>) -> Self {
        Self(ArrayString::of(&format!("{}-{}", now.format("%Y%m%d-%H%M%S"), random_base32(8))))
    }
}

impl ForkId {
    /// A new random id (80 bits).
    #[must_use]
    pub fn generate() -> Self {
        Self(ArrayString::of(&format!("f{}", random_base32(16))))
    }
}

impl SnapshotName {
    /// `<prefix>-YYYYMMDD-HHMMSS` in UTC; a prefix that is not a valid name (or too long) is made into one.
    #[must_use]
    pub fn stamped(prefix: &str, now: DateTime<Utc>) -> Self {
        let clean: String = prefix.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).take(47).collect();
        let clean = clean.trim_matches('-');
        let clean = if clean.is_empty() { "snapshot" } else { clean };
        Self(format!("{clean}-{}", now.format("%Y%m%d-%H%M%S")).into())
    }

    /// The same name with a number behind it (`-2`, `-3`, …), cut so that it stays valid.
    #[must_use]
    pub fn numbered(&self, n: u32) -> Self {
        let suffix = format!("-{n}");
        let keep: String = self.0.chars().take(63 - suffix.len()).collect();
        Self(format!("{}{suffix}", keep.trim_end_matches('-')).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeZone as _;

    #[test]
    fn generated_ids_parse_and_sort_by_time() {
        let early = SnapshotId::generate(Utc.with_ymd_and_hms(2026, 11, 24, 9, 3, 47).unwrap());
        let late = SnapshotId::generate(Utc.with_ymd_and_hms(2026, 11, 24, 9, 3, 48).unwrap());
        assert!(early.as_str().starts_with("20261124-090347-"));
        assert!(early < late);
        assert_eq!(SnapshotId::parse(early.as_str()), Ok(early));
        let fork = ForkId::generate();
        assert_eq!(ForkId::parse(fork.as_str()), Ok(fork));
    }

    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        for bad in ["", ".", "..", ".hidden", "a/b", "a\0b"] {
            assert!(InstanceId::parse(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "ä"] {
            assert!(ForkName::parse(bad).is_err(), "{bad:?}");
        }
        for bad in ["../../etc", "20261124-090347-ABCDEFGH", "20261124-090347-abcdefgh-x", "f"] {
            assert!(SnapshotId::parse(bad).is_err(), "{bad:?}");
            assert!(ForkId::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_stamped_name_is_valid_for_any_instance_name() {
        let now = Utc.with_ymd_and_hms(2026, 1, 2, 3, 4, 5).unwrap();
        for prefix in ["golden", "Web_1.prod", "ü", &"x".repeat(255), "---"] {
            let name = SnapshotName::stamped(prefix, now);
            assert_eq!(SnapshotName::parse(name.as_str()).as_ref(), Ok(&name));
            assert!(SnapshotName::parse(name.numbered(12).as_str()).is_ok());
        }
    }
}
