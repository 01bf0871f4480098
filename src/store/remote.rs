//! Any store that the `object_store` crate speaks to, behind a small runtime of its own.

use super::memory::too_short;
use super::objects::{Created, MAX_OBJECT, Objects, check_name};
use super::widen::Widened;
use crate::error::{Error, Kind, Result};
use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error as Upstream, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use std::sync::Arc;
use tokio::runtime::{Builder, Runtime};

/// A store reached through `object_store`. Must not be used from a thread of another async runtime.
pub struct Remote {
    store: Arc<dyn ObjectStore>,
    runtime: Runtime,
    widened: Widened,
    /// What people call the store.
    label: String,
}

impl Remote {
    /// `label` names the store in errors.
    pub fn new(store: Arc<dyn ObjectStore>, label: impl Into<String>) -> Result<Remote> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("store")
            .enable_time()
            .build()
            .map_err(|e| Error::failed("cannot start the threads that talk to the store").with_source(e))?;
        Ok(Remote { store, runtime, widened: Widened::default(), label: label.into() })
    }

    /// `memory://`: a store that is gone with the process.
    pub fn memory() -> Result<Remote> {
        Remote::new(Arc::new(object_store::memory::InMemory::new()), "memory://")
    }

    fn error(&self, doing: &str, name: &str, e: Upstream) -> Error {
        let kind = kind_of(&e);
        let hint = match kind {
            Kind::NoSpace => ": no space left in the store",
            Kind::NotFound => ": no such object",
            _ => "",
        };
        let error = Error::new(kind, format!("cannot {doing} {name} in {}{hint}", self.label));
        // The library's words for what the system said would stand in the place of these, which name the store.
        match errno(&e) {
            Some(errno) => error.with_source(std::io::Error::from_raw_os_error(errno)),
            None => error.with_source(e),
        }
    }

    fn write(&self, doing: &str, name: &str, bytes: Bytes, mode: PutMode) -> Result<Created> {
        let path = path(name)?;
        let options = PutOptions { mode, ..PutOptions::default() };
        let put = self.store.put_opts(&path, bytes.into(), options);
        match self.runtime.block_on(put) {
            Ok(_) => Ok(Created::Created),
            Err(Upstream::AlreadyExists { .. } | Upstream::Precondition { .. }) => Ok(Created::Exists),
            // What is missing is where the object was to go (a bucket), not the object.
            Err(e @ Upstream::NotFound { .. }) => {
                Err(Error::failed(format!("cannot {doing} {name}: {} is not there", self.label))
                    .with_source(e))
            }
            Err(e) => Err(self.error(doing, name, e)),
        }
    }
}

fn path(name: &str) -> Result<Path> {
    check_name(name)?;
    Path::parse(name).map_err(|e| Error::failed(format!("{name} cannot be a name")).with_source(e))
}

/// What sort of trouble an upstream error is: an error of the operating system behind it says most.
fn kind_of(e: &Upstream) -> Kind {
    match e {
        Upstream::NotFound { .. } => return Kind::NotFound,
        Upstream::Generic { .. } => {}
        _ => return Kind::Failed,
    }
    errno(e).map_or(Kind::Away, kind_of_errno)
}

/// What the operating system said, where it is behind an upstream error.
fn errno(e: &Upstream) -> Option<i32> {
    let causes = std::iter::successors(std::error::Error::source(e), |e| e.source());
    causes.filter_map(|e| e.downcast_ref::<std::io::Error>()).find_map(std::io::Error::raw_os_error)
}

/// The kind of an error of the operating system, where it carries an errno.
pub(super) fn kind_of_io(e: &std::io::Error) -> Option<Kind> {
    e.raw_os_error().map(kind_of_errno)
}

fn kind_of_errno(errno: i32) -> Kind {
    match errno {
        libc::ENOSPC | libc::EDQUOT => Kind::NoSpace,
        libc::ENOENT => Kind::NotFound,
        // A network or a removable file system that is gone for now.
        libc::ESTALE | libc::ENOTCONN | libc::ENODEV | libc::ENXIO | libc::EAGAIN | libc::EINTR => Kind::Away,
        libc::ETIMEDOUT | libc::EHOSTDOWN | libc::EHOSTUNREACH | libc::ENETDOWN | libc::ENETUNREACH => {
            Kind::Away
        }
        libc::ECONNREFUSED | libc::ECONNRESET | libc::ECONNABORTED | libc::EPIPE => Kind::Away,
        _ => Kind::Failed,
    }
}

impl Objects for Remote {
    fn get(&self, name: &str) -> Result<Bytes> {
        let path = path(name)?;
        let got = self.runtime.block_on(async {
            let found = self.store.get(&path).await?;
            if found.meta.size > MAX_OBJECT { Ok(None) } else { found.bytes().await.map(Some) }
        });
        match got {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => {
                Err(Error::damage(format!("{name} in {} is longer than any object of ours", self.label)))
            }
            Err(e) => Err(self.error("read", name, e)),
        }
    }

    fn get_range(&self, name: &str, start: u64, len: usize) -> Result<Bytes> {
        let path = path(name)?;
        // Upstream gives what there is of a range that goes on past the end.
        let read = |range| match self.runtime.block_on(self.store.get_range(&path, range)) {
            Err(e @ Upstream::NotFound { .. }) => Err(self.error("read", name, e)),
            // A range that begins past the end is a plain error there: tell it from an unreachable store.
            Err(e) => match self.size(name) {
                Ok(size) if size < start.saturating_add(len as u64) => Err(too_short(name, start, len)),
                _ => Err(self.error("read", name, e)),
            },
            Ok(bytes) => Ok(bytes),
        };
        self.widened.get(name, start, len, read)
    }

    fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.widened.forget(name);
        self.write("write", name, bytes, PutMode::Overwrite).map(drop)
    }

    fn create(&self, name: &str, bytes: Bytes) -> Result<Created> {
        self.write("create", name, bytes, PutMode::Create)
    }

    fn list(&self, dir: &str) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let mut dirs = vec![if dir.is_empty() { None } else { Some(path(dir)?) }];
        while let Some(next) = dirs.pop() {
            match self.runtime.block_on(self.store.list_with_delimiter(next.as_ref())) {
                Ok(found) => {
                    names.extend(found.objects.into_iter().map(|o| o.location.to_string()));
                    dirs.extend(found.common_prefixes.into_iter().map(Some));
                }
                Err(Upstream::NotFound { .. }) => {}
                Err(e) => return Err(self.error("list", dir, e)),
            }
        }
        Ok(names)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.widened.forget(name);
        let path = path(name)?;
        match self.runtime.block_on(self.store.delete(&path)) {
            Ok(()) | Err(Upstream::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.error("delete", name, e)),
        }
    }

    fn size(&self, name: &str) -> Result<u64> {
        let path = path(name)?;
        let head = self.runtime.block_on(self.store.head(&path));
        head.map(|meta| meta.size).map_err(|e| self.error("look at", name, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TRUST 5: range reads are widened. What was not asked for was read all the same.
    #[test]
    fn a_read_of_a_part_reads_what_is_around_it() {
        let far = Arc::new(object_store::memory::InMemory::new());
        let store = Remote::new(far.clone(), "t").unwrap();
        store.put("pack", vec![7; 1 << 20].into()).unwrap();
        store.get_range("pack", 300 << 10, 100).unwrap();
        store.runtime.block_on(far.delete(&Path::from("pack"))).unwrap();
        assert_eq!(store.get_range("pack", 256 << 10, 256 << 10).unwrap().len(), 256 << 10);
        assert_eq!(store.get_range("pack", 512 << 10, 1).unwrap_err().kind(), Kind::NotFound);
        store.delete("pack").unwrap();
        assert_eq!(store.get_range("pack", 300 << 10, 100).unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn a_full_disk_is_told_from_an_absent_store() {
        #[derive(Debug)]
        struct Wrapped(std::io::Error);
        impl std::fmt::Display for Wrapped {
            fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("wrapped")
            }
        }
        impl std::error::Error for Wrapped {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                Some(&self.0)
            }
        }
        let of = |errno| {
            let source = Box::new(Wrapped(std::io::Error::from_raw_os_error(errno)));
            kind_of(&Upstream::Generic { store: "t", source })
        };
        assert_eq!(of(libc::ENOSPC), Kind::NoSpace);
        assert_eq!(of(libc::EDQUOT), Kind::NoSpace);
        assert_eq!(of(libc::ESTALE), Kind::Away);
        assert_eq!(of(libc::EIO), Kind::Failed);
        assert_eq!(kind_of(&Upstream::Generic { store: "t", source: "timed out".into() }), Kind::Away);
    }
}
