//! Where things are: the default drive, state directories, stores as URLs.

use crate::error::{Context, Error, Kind, Result};
use crate::types::DriveId;
use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The places of one user (XDG base directories) or of the machine (root).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locations {
    /// The store of the default drive.
    pub store: PathBuf,
    /// The key file of the default drive.
    pub key: PathBuf,
    /// Holds a state directory for each drive.
    pub state: PathBuf,
}

impl Locations {
    /// The places of the calling user. Where `HOME` is not set, as under mount(8) and in mount units, it is what the
    /// user database says.
    pub fn of_caller() -> Result<Locations> {
        let home = |name: &str| std::env::home_dir().filter(|_| name == "HOME").map(PathBuf::into_os_string);
        let var = |name: &str| std::env::var_os(name).or_else(|| home(name));
        Locations::of(rustix::process::geteuid().is_root(), &var)
    }

    fn of(root: bool, var: &dyn Fn(&str) -> Option<OsString>) -> Result<Locations> {
        if root {
            let var_lib = PathBuf::from("/var/lib/nacrefs");
            return Ok(Locations {
                store: var_lib.join("store"),
                key: "/etc/nacrefs/key".into(),
                state: var_lib,
            });
        }
        // The XDG specification: a relative path is as good as none.
        let absolute = |name| var(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let place = |name, below_home: &str| match (absolute(name), absolute("HOME")) {
            (Some(dir), _) => Ok(dir.join("nacrefs")),
            (None, Some(home)) => Ok(home.join(below_home).join("nacrefs")),
            (None, None) => {
                Err(Error::failed(format!("neither {name} nor HOME is set: give --state-dir and a STORE")))
            }
        };
        Ok(Locations {
            store: place("XDG_DATA_HOME", ".local/share")?.join("store"),
            key: place("XDG_CONFIG_HOME", ".config")?.join("key"),
            state: place("XDG_STATE_HOME", ".local/state")?,
        })
    }

    /// The state directory of a drive.
    pub fn state_dir(&self, drive: DriveId) -> PathBuf {
        self.state.join(drive.to_string())
    }
}

/// The kinds of stores that there are.
const SCHEMES: &[&str] = &["file", "s3", "gs", "az", "memory"];

/// A STORE as typed, as a URL: a path becomes `file://` and its absolute form.
pub fn store_url(store: &Path) -> Result<String> {
    let shown = store.display();
    let refuse = |why: &str| Err(Error::new(Kind::Usage, format!("the store {shown}: {why}")));
    if store.as_os_str().is_empty() {
        return refuse("is empty");
    }
    let Some((scheme, rest)) = store.to_str().and_then(|s| s.split_once("://")) else {
        return Ok(file_url(&resolve(store)?));
    };
    if !SCHEMES.contains(&scheme) {
        return refuse("unknown kind; in this version a store is a path or file:///path");
    }
    if scheme == "file" {
        return match url_path(&format!("file://{rest}")) {
            Some(path) => Ok(file_url(&path)),
            None => refuse("a file URL has three slashes and an absolute path, as in file:///srv/store"),
        };
    }
    if scheme != "memory" && rest.trim_matches('/').is_empty() {
        return refuse("names no bucket");
    }
    Ok(format!("{scheme}://{}", rest.trim_end_matches('/')))
}

/// An absolute path as a `file://` URL (RFC 8089, bytes escaped as of RFC 3986).
pub fn file_url(path: &Path) -> String {
    let mut url = String::from("file://");
    for b in path.as_os_str().as_bytes() {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                url.push(char::from(*b))
            }
            // Writing to a string cannot fail.
            _ => drop(write!(url, "%{b:02X}")),
        }
    }
    url
}

/// The path of a `file://` URL that [`file_url`] made or somebody typed; `None` for all others.
pub fn url_path(url: &str) -> Option<PathBuf> {
    let rest = url.strip_prefix("file://").filter(|r| r.starts_with('/'))?.as_bytes();
    let mut path = Vec::with_capacity(rest.len());
    let mut at = rest.iter().copied();
    while let Some(b) = at.next() {
        let b = match b {
            b'%' => {
                let digit = |b: Option<u8>| char::from(b?).to_digit(16);
                (digit(at.next())? << 4 | digit(at.next())?) as u8
            }
            b => b,
        };
        if b == 0 {
            return None;
        }
        path.push(b);
    }
    while path.len() > 1 && path.ends_with(b"/") {
        path.pop();
    }
    Some(PathBuf::from(OsString::from_vec(path)))
}

/// The absolute form of a path, of which the last parts need not exist: what exists has its links followed, also
/// those that lead to what does not exist (a disk that is away). `x/..` is nothing where x does not exist.
pub fn resolve(path: &Path) -> Result<PathBuf> {
    let named = || format!("cannot find {}", path.display());
    let absolute = std::path::absolute(path).context(named)?;
    resolve_links(&absolute, MAX_LINKS, &|existing, e| match e.raw_os_error() {
        Some(libc::ENOENT) => Ok(()),
        Some(libc::ENOTCONN) => Err(super::mounts::dead(existing)),
        _ => Err(e).context(named),
    })
}

/// Like [`resolve`], and what cannot be looked at for other reasons is taken as it is: to compare.
pub fn resolve_anyway(path: &Path) -> PathBuf {
    let resolved = std::path::absolute(path).map(|path| resolve_links(&path, MAX_LINKS, &|_, _| Ok(())));
    resolved.ok().and_then(Result::ok).unwrap_or_else(|| path.to_owned())
}

/// As many as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// `is_missing` says whether to do without what cannot be looked at.
fn resolve_links(
    path: &Path,
    links: usize,
    is_missing: &dyn Fn(&Path, std::io::Error) -> Result<()>,
) -> Result<PathBuf> {
    let mut missing: Vec<&OsStr> = Vec::new();
    let and_missing =
        |found: PathBuf, missing: &[&OsStr]| missing.iter().rev().fold(found, |p, name| p.join(name));
    let mut existing = path;
    loop {
        match existing.canonicalize() {
            Ok(found) => return Ok(and_missing(found, &missing)),
            Err(e) => is_missing(existing, e)?,
        }
        let Some(parent) = existing.parent() else { return Ok(path.to_owned()) };
        let target = existing.read_link().ok().filter(|_| links > 0);
        match (target, existing.file_name()) {
            (Some(target), Some(_)) => {
                return resolve_links(&and_missing(parent.join(target), &missing), links - 1, is_missing);
            }
            (_, Some(name)) => {
                missing.push(name);
                existing = parent;
            }
            // It ends in `..`.
            (_, None) => {
                let before = resolve_links(parent, links, is_missing)?;
                let without = and_missing(before.parent().unwrap_or(&before).to_owned(), &missing);
                return match links {
                    0 => Ok(without),
                    _ => resolve_links(&without, links - 1, is_missing),
                };
            }
        }
    }
}

/// Like [`resolve`], but the last name is taken as it is: a link stays a link, a dead mount is not touched.
pub fn resolve_parent(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).context(|| format!("cannot find {}", path.display()))?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok(resolve(parent)?.join(name)),
        _ => resolve(&absolute),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_places_of_root_and_of_users() {
        let of = |root, vars: &[(&str, &str)]| {
            Locations::of(root, &|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into()))
        };
        let l = of(true, &[("HOME", "/root")]).unwrap();
        assert_eq!((l.store, l.key), ("/var/lib/nacrefs/store".into(), "/etc/nacrefs/key".into()));
        assert_eq!(l.state, Path::new("/var/lib/nacrefs"));
        let l =
            of(false, &[("HOME", "/h"), ("XDG_CONFIG_HOME", "/c"), ("XDG_DATA_HOME", "relative")]).unwrap();
        assert_eq!(
            (l.store.clone(), l.key.clone()),
            ("/h/.local/share/nacrefs/store".into(), "/c/nacrefs/key".into())
        );
        assert_eq!(l.state_dir(DriveId([1; 16])), Path::new("/h/.local/state/nacrefs").join("01".repeat(16)));
        assert!(of(false, &[]).is_err());
    }

    #[test]
    fn stores_become_urls() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        let url = |s: &Path| store_url(s).unwrap();
        assert_eq!(url(&real.join("link/a b")), file_url(&real.join("a b")));
        assert!(url(&real.join("a b%")).ends_with("/a%20b%25"));
        assert_eq!(url(Path::new("file:///srv//store/")), "file:///srv//store");
        assert_eq!(url(Path::new("s3://bucket/p/")), "s3://bucket/p");
        assert_eq!(url(Path::new("memory://")), "memory://");
        for bad in ["", "ftp://x", "file://srv/store", "file:///%zz", "s3://", "file:///a%00"] {
            assert_eq!(store_url(Path::new(bad)).unwrap_err().kind(), Kind::Usage, "{bad}");
        }
    }

    #[test]
    fn a_link_at_the_end_can_be_kept() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::os::unix::fs::symlink("/", real.join("link")).unwrap();
        assert_eq!(resolve(&real.join("link")).unwrap(), Path::new("/"));
        assert_eq!(resolve_parent(&real.join("link")).unwrap(), real.join("link"));
        assert_eq!(resolve_parent(&real.join("gone/x")).unwrap(), real.join("gone/x"));
        assert_eq!(resolve(Path::new("/")).unwrap(), Path::new("/"));
        assert_eq!(resolve(&real.join("gone/../x")).unwrap(), real.join("x"));
    }

    /// A drive whose disk is away was taken for another one.
    #[test]
    fn links_are_followed_to_what_does_not_exist() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, real.join(name)).unwrap();
        link("/media/gone/drives", "drives");
        link("drives/mine", "mine");
        link("round", "round");
        std::fs::create_dir(real.join("deep")).unwrap();
        link("../drives", "deep/up");
        assert_eq!(resolve(&real.join("drives")).unwrap(), Path::new("/media/gone/drives"));
        assert_eq!(resolve(&real.join("mine/x/y")).unwrap(), Path::new("/media/gone/drives/mine/x/y"));
        assert_eq!(resolve(&real.join("deep/up/x")).unwrap(), Path::new("/media/gone/drives/x"));
        assert!(resolve(&real.join("round/x")).is_err());
        assert_eq!(resolve_anyway(&real.join("round/x")), real.join("round/x"));
        link("/media/gone/sub/../drives", "up");
        assert_eq!(resolve(&real.join("up/x")).unwrap(), Path::new("/media/gone/drives/x"));
        link("gone/../drives/./there", "about");
        assert_eq!(resolve(&real.join("about/../x")).unwrap(), Path::new("/media/gone/drives/x"));
    }

    proptest! {
        #[test]
        fn file_urls_come_back(name in proptest::collection::vec(1u8.., 1..30)) {
            let path = PathBuf::from(OsString::from_vec([b"/", &name[..], b"x"].concat()));
            prop_assert_eq!(url_path(&file_url(&path)), Some(path));
        }
    }
}
