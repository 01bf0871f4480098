//! From what people type to a store.

use super::local::Local;
use super::objects::Objects;
use super::remote::Remote;
use crate::error::{Error, Kind, Result};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;

/// How to open a store.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    /// Make a `file://` store's directory where there is none.
    pub create: bool,
    /// Open a `file://` store that others may write to.
    pub allow_shared: bool,
}

/// Which store a URL names.
#[derive(Debug, PartialEq, Eq)]
enum Location {
    File(PathBuf),
    Memory,
}

/// Opens the store that a URL names: `file:///…`, a plain path, or `memory://`.
/// Anything else is a `Usage` error; a directory that is not there is `NotADrive`.
pub fn open(url: &str, options: OpenOptions) -> Result<Arc<dyn Objects>> {
    Ok(match parse(url)? {
        Location::File(dir) => Arc::new(Local::open(&dir, options.create, options.allow_shared)?),
        Location::Memory => Arc::new(Remote::memory()?),
    })
}

fn parse(url: &str) -> Result<Location> {
    let usage = |why: String| {
        Error::new(Kind::Usage, format!("{why}: a store is file:///path, a path, or memory://"))
    };
    match url.split_once("://") {
        None if url.is_empty() => Err(usage("the store's name is empty".into())),
        None => Ok(Location::File(url.into())),
        Some(("file", path)) if path.starts_with('/') => {
            percent_decode(path).map(Location::File).ok_or_else(|| usage(format!("{url:?} is not a URL")))
        }
        Some(("file", _)) => Err(usage(format!("{url:?} names a host or a relative path"))),
        Some(("memory", "" | "/")) => Ok(Location::Memory),
        Some((scheme, _)) => Err(usage(format!("stores of the kind {scheme:?} are not supported"))),
    }
}

/// The path of a `file` URL (RFC 8089): `%41` is `A`. A NUL is no part of a path.
fn percent_decode(path: &str) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(b) = rest.next() {
        bytes.push(match b {
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                (high * 16 + low) as u8
            }
            b => b,
        });
    }
    (!bytes.contains(&0)).then(|| OsString::from_vec(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_stores() {
        let file = |p: &str| Location::File(p.into());
        for (url, location) in [
            ("file:///a/b", file("/a/b")),
            ("file:///a%20b%2f", file("/a b/")),
            ("/a%20b", file("/a%20b")),
            ("a/b", file("a/b")),
            ("memory://", Location::Memory),
        ] {
            assert_eq!(parse(url).unwrap(), location, "{url}");
        }
        for url in ["", "file://host/a", "file://", "file:///%4", "file:///%00", "s3://bucket", "memory://x"]
        {
            let e = parse(url).unwrap_err();
            assert_eq!(e.kind(), Kind::Usage, "{url}");
            assert!(e.to_string().contains("file:///path"), "{url}");
        }
    }
}
