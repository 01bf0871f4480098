//! Answers about versions: `log`, `cat --at`, the status of a drive that is not mounted.

use crate::cli::control::{At, LogEntry, MAX_DATA, Reply, Status};
use crate::cli::keys::weak_slot;
use crate::cli::values::{DrivePath, Moment};
use crate::commit::{Content, Opened, ROOT, View};
use crate::content::{ContentCache, Opener};
use crate::drive::{FromStore, Keys};
use crate::error::{Error, Kind, Result};
use crate::session::Site;
use crate::store::ChunkStore;
use crate::types::Ino;
use std::sync::Arc;

/// Opened chunks that a command may hold, in bytes.
const CACHE: usize = 32 << 20;

/// The versions of a drive, up to the newest.
pub struct Past<'a> {
    site: &'a Site,
    newest: Opened,
    chunks: Arc<Opener<FromStore, Keys>>,
}

impl<'a> Past<'a> {
    /// `store`: the chunks, where they are open already.
    pub fn new(site: &'a Site, newest: Opened, store: Option<Arc<ChunkStore>>) -> Past<'a> {
        let store = store.unwrap_or_else(|| site.chunk_store(newest.commit.runs.clone(), None));
        let cache = Arc::new(ContentCache::new(CACHE));
        let chunks = Arc::new(Opener::new(cache, FromStore(store), Keys(site.keys.clone())));
        Past { site, newest, chunks }
    }

    fn view(&self, version: &Opened) -> View {
        View::new(version.commit.clone(), self.site.keys.clone(), self.chunks.clone())
    }

    pub fn status(&self, store: &str) -> Status {
        Status {
            drive: self.site.secrets.drive.to_string(),
            store: store.to_owned(),
            mount: None,
            version: self.newest.version(),
            last_commit: Some(Moment(self.newest.commit.time)),
            dirty_bytes: 0,
            journal_bytes: 0,
            cache_bytes: 0,
            online: true,
            last_error: None,
            weak_slot: weak_slot(self.site),
            ..Status::default()
        }
    }

    /// The versions of the drive, or of the file at a path, newest first.
    pub fn log(&self, path: &DrivePath, out: &mut dyn Reply) -> Result<()> {
        let view = self.view(&self.newest);
        let inode = view.resolve(path.as_bytes()).map_err(|e| named(path, e))?;
        if inode.ino == ROOT { self.log_drive(out) } else { self.log_inode(&view, inode.ino, out) }
    }

    fn log_drive(&self, out: &mut dyn Reply) -> Result<()> {
        let mut versions = self.site.versions.iter(&self.newest).peekable();
        while let Some(version) = versions.next() {
            let version = version?;
            // Each inode that a version changed has one entry in its history.
            let before = match versions.peek() {
                Some(Ok(before)) => before.commit.history.len(),
                _ => 0,
            };
            let changes = version.commit.history.len().saturating_sub(before);
            out.entry(&LogEntry {
                version: version.version(),
                time: Moment(version.commit.time),
                device: version.commit.device.to_string(),
                change: format!("{changes} changed"),
                path: DrivePath::default(),
                size: Some(version.commit.counts.bytes),
            })?;
        }
        Ok(())
    }

    fn log_inode(&self, view: &View, ino: Ino, out: &mut dyn Reply) -> Result<()> {
        for event in view.versions_of(ino) {
            let (version, event) = event?;
            let (device, time) = match self.site.versions.open(version) {
                Ok(opened) => (opened.commit.device.to_string(), opened.commit.time),
                // Retention took the version; what is known of it stands in later ones.
                Err(e) if e.kind() == Kind::NotFound => (String::new(), event.time),
                Err(e) => return Err(e),
            };
            out.entry(&LogEntry {
                version,
                time: Moment(time),
                device,
                change: event.what.as_str().to_owned(),
                path: DrivePath::new(os(&view.path_of(&event, version)?))?,
                size: Some(event.size),
            })?;
        }
        Ok(())
    }

    /// The bytes of a file as a version has it.
    pub fn cat(&self, path: &DrivePath, at: Option<At>, out: &mut dyn Reply) -> Result<()> {
        let version = match at {
            None => self.newest.clone(),
            Some(at) => self.site.versions.at(at.into(), &self.newest)?,
        };
        let view = self.view(&version);
        let file = view.resolve(path.as_bytes()).map_err(|e| named(path, e))?;
        match &file.content {
            Content::File(_) => {}
            Content::Symlink(target) => return out.data(target),
            Content::Directory(_) => return Err(Error::new(Kind::Usage, format!("{path} is a directory"))),
            Content::Special => return Err(Error::new(Kind::Usage, format!("{path} is no regular file"))),
        }
        let mut buffer = vec![0; MAX_DATA];
        let mut done = 0;
        loop {
            let n = view.read(&file, done, &mut buffer)?;
            if n == 0 {
                return Ok(());
            }
            out.data(buffer.get(..n).unwrap_or_default())?;
            done += n as u64;
        }
    }
}

fn os(bytes: &[u8]) -> std::ffi::OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes.to_vec())
}

/// A file operation's refusal, told for a person.
pub(super) fn named(path: &DrivePath, e: Error) -> Error {
    match e.kind() {
        Kind::Errno(libc::ENOENT) => Error::new(Kind::NotFound, format!("{path}: there is no such file")),
        Kind::Errno(_) => Error::failed(format!("{path}: {e}")),
        _ => e.context(format!("cannot read {path}")),
    }
}
