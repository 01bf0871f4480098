//! A mounted drive, and what it answers on its control socket.

use super::answers::Past;
use super::live;
use super::{pace_of, settings_of, store_dir};
use crate::cli::backend::{MountRequest, Phase, Running};
use crate::cli::clear_dead;
use crate::cli::control::{Handler, Progress, Reply, Request, Status};
use crate::cli::values::{Moment, escape};
use crate::drive::Drive;
use crate::drive::keeper::Keeper;
use crate::error::{Error, Kind, Result};
use crate::fuse::{Mount, MountConfig, Serving, Unmounter};
use crate::session::{self, Opening, Site, StateDir};
use parking_lot::Mutex;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a mount that is told to end waits for open files to be closed.
const CLOSE: Duration = Duration::from_secs(1);
/// How often a waiting command is told how far its commit is.
const TELL: Duration = Duration::from_millis(200);

pub struct Mounted {
    inner: Arc<Inner>,
    serving: Mutex<Option<Serving>>,
    keeper: Mutex<Keeper>,
}

struct Inner {
    drive: Arc<Drive>,
    site: Site,
    store: String,
    dir: PathBuf,
    unmounter: Unmounter,
    read_only: bool,
    /// The rest stays in the journal when the mount ends.
    local: AtomicBool,
    /// How many wait for the last commit, to unmount then.
    leaving: AtomicUsize,
    ended: AtomicBool,
}

impl Mounted {
    /// Opens the drive, replays its journal, and mounts it.
    pub fn start(request: MountRequest, site: Site, state: StateDir) -> Result<Arc<Mounted>> {
        let MountRequest { store, dir, options, control, .. } = request;
        let opening = Opening {
            site: site.clone(),
            state,
            settings: settings_of(&options),
            store_dir: store_dir(&store),
            cache: options.cache,
        };
        let (drive, replayed) = session::open(opening)?;
        if replayed.records > 0 {
            tracing::info!("replayed {} changes from the journal", replayed.records);
        }
        drive.set_control(control.as_os_str().as_bytes().to_vec());
        let root = rustix::process::geteuid().is_root();
        let config = MountConfig {
            source: store.clone(),
            read_only: options.ro,
            allow_other: options.allow_other,
            suid: root && !options.nosuid,
            dev: root && !options.nodev,
            exec: !options.noexec,
            uid: options.uid,
            gid: options.gid,
            writeback: options.writeback,
            ..MountConfig::default()
        };
        let keeper = Keeper::start(drive.clone(), pace_of(&options, &store))?;
        clear_dead(&dir)?;
        let mount = Mount::new(drive.clone(), &dir, &config)?;
        let unmounter = mount.unmounter();
        let serving = mount.spawn()?;
        let inner = Inner {
            drive,
            site,
            store,
            dir,
            unmounter,
            read_only: options.ro,
            local: AtomicBool::new(false),
            leaving: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        };
        Ok(Arc::new(Mounted {
            inner: Arc::new(inner),
            serving: Mutex::new(Some(serving)),
            keeper: Mutex::new(keeper),
        }))
    }
}

impl Running for Mounted {
    fn handler(&self) -> Arc<dyn Handler> {
        self.inner.clone()
    }

    fn wait(&self) -> Result<()> {
        let serving = self.serving.lock().take();
        let served = serving.map_or(Ok(()), Serving::wait);
        self.inner.ended.store(true, Ordering::SeqCst);
        self.keeper.lock().stop();
        let inner = &self.inner;
        if inner.read_only {
            return served;
        }
        let kept = inner.drive.sync_journal();
        if inner.local.load(Ordering::SeqCst) {
            return kept.and(served);
        }
        // What the store has needs no journal, even one that has failed.
        match inner.drive.commit_all() {
            Ok(_) => served,
            Err(e) => {
                tracing::error!(
                    "what is not in the store stays in the journal until the next mount: {}",
                    e.chain()
                );
                kept.and(served)
            }
        }
    }

    fn phase(&self) -> Phase {
        match (self.inner.ended.load(Ordering::SeqCst), self.inner.leaving.load(Ordering::SeqCst)) {
            (true, _) => Phase::Ended,
            (false, 0) => Phase::Serving,
            (false, _) => Phase::Leaving,
        }
    }

    fn check_threads(&self) -> Result<()> {
        // Held only while it is stopped; then there is nothing to check.
        match self.keeper.try_lock().is_none_or(|k| k.is_whole()) {
            true => Ok(()),
            false => Err(Error::failed("a thread that keeps the drive going has died")),
        }
    }

    fn stop(&self) {
        self.inner.local.store(true, Ordering::SeqCst);
        let unmounter = &self.inner.unmounter;
        let patience = Instant::now() + CLOSE;
        let mut ended = unmounter.unmount();
        // Whoever holds a file open must not keep a service from stopping.
        while ended.as_ref().is_err_and(|e| e.kind() == Kind::Conflict) && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(50));
            ended = unmounter.unmount();
        }
        if ended.is_err() {
            tracing::warn!("files are open on the mount: whoever holds them is cut off");
            ended = self.inner.drive.sync_journal().and(unmounter.cut_off());
        }
        if let Err(e) = ended {
            tracing::error!("cannot unmount {}: {}", self.inner.dir.display(), e.chain());
        }
    }
}

impl Inner {
    /// Commits everything, telling how far that is.
    fn commit_all(&self, out: &mut dyn Reply) -> Result<u64> {
        let drive = &self.drive;
        let total = drive.journal().usage().bytes;
        std::thread::scope(|scope| {
            let work = scope.spawn(|| drive.commit_all());
            let mut heard = Ok(());
            while !work.is_finished() {
                std::thread::park_timeout(TELL);
                let left = drive.journal().usage().bytes.min(total);
                let told = Progress { what: "committing".into(), done: total - left, total: Some(total) };
                if heard.is_ok() {
                    heard = out.progress(&told);
                }
            }
            let done = work.join().unwrap_or_else(|_| Err(Error::failed("the commit panicked")))?;
            heard.map(|()| done)
        })
    }

    fn status(&self) -> Status {
        let (progress, usage) = (self.drive.progress(), self.drive.journal().usage());
        Status {
            drive: self.site.secrets.drive.to_string(),
            store: self.store.clone(),
            mount: Some(escape(self.dir.as_os_str().as_bytes())),
            version: progress.version,
            last_commit: Some(Moment(progress.last_commit)),
            dirty_bytes: if self.drive.is_stored() { 0 } else { usage.bytes },
            journal_bytes: usage.bytes,
            cache_bytes: self.drive.cached_bytes(),
            online: !progress.away,
            last_error: progress.last_error,
        }
    }
}

impl Handler for Inner {
    fn handle(&self, request: Request, out: &mut dyn Reply) -> Result<()> {
        match request {
            Request::Status {} => out.status(&self.status()),
            Request::Sync {} => {
                let version = self.commit_all(out)?;
                out.version(version)
            }
            Request::Commit {} => {
                self.drive.want_commit();
                out.version(self.drive.version())
            }
            Request::Umount { local } => {
                if self.read_only {
                    return Ok(());
                }
                if local {
                    self.local.store(true, Ordering::SeqCst);
                    return self.drive.sync_journal();
                }
                self.leaving.fetch_add(1, Ordering::SeqCst);
                let done = self.commit_all(out).map(drop);
                self.leaving.fetch_sub(1, Ordering::SeqCst);
                done
            }
            Request::Log { path } => self.past().log(&path, out),
            Request::Cat { path, at: None } => live::cat(&self.drive, &path, out),
            Request::Cat { path, at } => self.past().cat(&path, at, out),
        }
    }
}

impl Inner {
    fn past(&self) -> Past<'_> {
        let (newest, store) = self.drive.committed();
        Past::new(&self.site, newest, Some(store))
    }
}
