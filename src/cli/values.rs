//! Values that people type and read: sizes, moments, paths inside a drive, names made safe to print.

use crate::error::{Error, Kind, Result};
use crate::types::Time;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::ffi::OsStr;
use std::fmt::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

/// A size in bytes from text: a whole number with an optional K, M, G or T (powers of 1024; `KiB` and `kb`
/// mean the same).
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let shift = match suffix.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A size for people: three digits and a binary unit.
pub fn human_size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" || value >= 100.0 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

/// A span of time for people, in its two largest units.
pub fn human_span(seconds: i64) -> String {
    let s = seconds.max(0);
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86400, s % 86400 / 3600),
    }
}

/// Text that is safe on a terminal and stays on one line: control characters, invisible direction marks and
/// bytes that are no UTF-8 become `\n`, `\t`, `\xNN` or `\u{N}`, and a backslash is doubled.
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for part in bytes.utf8_chunks() {
        for c in part.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                c if is_unsafe(c) => out.extend(c.escape_default()),
                c => out.push(c),
            }
        }
        for b in part.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(out, "\\x{b:02x}");
        }
    }
    out
}

/// A message made safe for a terminal: like [`escape`], but a backslash stays, since names in messages may be
/// escaped already.
pub fn escape_message(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Characters that could steer a terminal or disguise what follows them.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

/// A moment, written as RFC 3339 in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub Time);

impl Moment {
    fn utc(self) -> Option<OffsetDateTime> {
        let nanos = i128::from(self.0.sec) * 1_000_000_000 + i128::from(self.0.nsec);
        OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()
    }

    pub fn from_utc(t: OffsetDateTime) -> Moment {
        Moment(Time { sec: t.unix_timestamp(), nsec: t.nanosecond() })
    }

    pub fn now() -> Moment {
        Moment::from_utc(OffsetDateTime::now_utc())
    }

    /// For people: to the second, in local time where that is known, always with its offset.
    pub fn human(self) -> String {
        let Some(utc) = self.utc() else { return self.to_string() };
        let local = utc.to_offset(UtcOffset::local_offset_at(utc).unwrap_or(UtcOffset::UTC));
        let format = time::macros::format_description!(
            "[year]-[month]-[day] [hour]:[minute]:[second] [offset_hour sign:mandatory]:[offset_minute]"
        );
        local.format(format).unwrap_or_else(|_| self.to_string())
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.utc().and_then(|t| t.format(&Rfc3339).ok()) {
            Some(text) => f.write_str(&text),
            // Outside the years 0 to 9999, which RFC 3339 cannot tell.
            None => write!(f, "@{}", self.0.sec),
        }
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Moment, D::Error> {
        let text = String::deserialize(d)?;
        if let Some(sec) = text.strip_prefix('@').and_then(|s| s.parse().ok()) {
            return Ok(Moment(Time { sec, nsec: 0 }));
        }
        OffsetDateTime::parse(&text, &Rfc3339).map(Moment::from_utc).map_err(serde::de::Error::custom)
    }
}

/// A path from the root of a drive: names joined by `/`, none of them empty, `.` or `..`; empty for the root.
///
/// In JSON a string, or an array of bytes where it is not UTF-8.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct DrivePath(Vec<u8>);

impl DrivePath {
    /// Takes a path whose leading `/` and `.` mean nothing; refuses `..` and NUL.
    pub fn new(path: impl AsRef<Path>) -> Result<DrivePath> {
        let path = path.as_ref();
        let refuse =
            |why| Err(Error::new(Kind::Usage, format!("{}: {why}", escape(path.as_os_str().as_bytes()))));
        let mut bytes = Vec::new();
        for part in path.components() {
            match part {
                Component::Normal(name) if name.as_bytes().contains(&0) => return refuse("NUL in a path"),
                Component::Normal(name) => {
                    if !bytes.is_empty() {
                        bytes.push(b'/');
                    }
                    bytes.extend_from_slice(name.as_bytes());
                }
                Component::ParentDir => return refuse("`..` in a path from the root of a drive"),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        Ok(DrivePath(bytes))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The names from the root down.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|n| !n.is_empty())
    }
}

/// As it is shown on a terminal; the root is `/`.
impl fmt::Display for DrivePath {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if self.0.is_empty() { f.write_str("/") } else { f.write_str(&escape(&self.0)) }
    }
}

impl Serialize for DrivePath {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => s.serialize_str(text),
            Err(_) => self.0.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for DrivePath {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<DrivePath, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            Bytes(Vec<u8>),
        }
        let bytes = match Form::deserialize(d)? {
            Form::Text(text) => text.into_bytes(),
            Form::Bytes(bytes) => bytes,
        };
        DrivePath::new(OsStr::from_bytes(&bytes)).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        let table = [
            ("0", Some(0)),
            ("512", Some(512)),
            ("256M", Some(256 << 20)),
            ("2g", Some(2 << 30)),
            ("1KiB", Some(1024)),
            ("3TB", Some(3 << 40)),
            ("", None),
            ("M", None),
            ("-1", None),
            ("1.5G", None),
            ("1 G", None),
            ("12X", None),
            ("18446744073709551616", None),
            ("18446744073709551615T", None),
        ];
        for (text, size) in table {
            assert_eq!(parse_size(text), size, "{text}");
        }
        assert_eq!(human_size(999), "999 B");
        assert_eq!(human_size(1536), "1.5 KiB");
        assert_eq!(human_size(200 << 30), "200 GiB");
        assert_eq!(human_span(3), "3 s");
        assert_eq!(human_span(90000), "1 d 1 h");
    }

    #[test]
    fn moments_are_rfc_3339() {
        let m = Moment(Time { sec: 1_763_374_210, nsec: 500_000_000 });
        assert_eq!(serde_json::to_string(&m).unwrap(), "\"2025-11-17T10:10:10.5Z\"");
        assert_eq!(serde_json::from_str::<Moment>("\"2025-11-17T11:10:10.5+01:00\"").unwrap(), m);
        let far = Moment(Time { sec: i64::MAX, nsec: 0 });
        assert_eq!(serde_json::from_str::<Moment>(&serde_json::to_string(&far).unwrap()).unwrap(), far);
    }

    #[test]
    fn names_cannot_steer_a_terminal() {
        assert_eq!(escape(b"a\x1b[2Jb\n\\\xff"), "a\\u{1b}[2Jb\\n\\\\\\xff");
        assert_eq!(escape("gr\u{fc}n \u{202e}txt".as_bytes()), "gr\u{fc}n \\u{202e}txt");
        assert_eq!(escape_message("a\\x\r\n"), "a\\x\\r\\n");
    }

    #[test]
    fn drive_paths_are_normal() {
        assert_eq!(DrivePath::new("/a/./b//c/").unwrap().as_bytes(), b"a/b/c");
        assert_eq!(DrivePath::new("/").unwrap(), DrivePath::default());
        assert!(DrivePath::new("a/../b").is_err());
        assert!(serde_json::from_str::<DrivePath>("\"../etc\"").is_err());
        assert!(serde_json::from_str::<DrivePath>("\"a\\u0000b\"").is_err());
    }

    proptest! {
        #[test]
        fn drive_paths_come_back_from_json(names in proptest::collection::vec(
            proptest::collection::vec(any::<u8>().prop_filter("name", |b| *b != 0 && *b != b'/'), 1..9), 0..5)) {
            let joined = names.join(&b'/');
            if let Ok(path) = DrivePath::new(OsStr::from_bytes(&joined)) {
                let json = serde_json::to_string(&path).unwrap();
                prop_assert!(!json.contains('\n'));
                prop_assert_eq!(serde_json::from_str::<DrivePath>(&json).unwrap(), path);
            }
        }

        #[test]
        fn what_is_escaped_is_printable(bytes: Vec<u8>) {
            prop_assert!(!escape(&bytes).chars().any(is_unsafe));
        }
    }
}
