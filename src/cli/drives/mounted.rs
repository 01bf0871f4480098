//! A mounted drive, and what it answers on its control socket.

use super::answers::Past;
use super::ending::{REFUSED, commit_patiently};
use super::leave::Leave;
use super::live;
use super::silence::{Listener, silent_since};
use super::{pace_of, settings_of, store_dir};
use crate::cli::backend::{MountRequest, Phase, Running};
use crate::cli::control::{Handler, Progress, Reply, Request, Status};
use crate::cli::keys::weak_slot;
use crate::cli::logging;
use crate::cli::metrics::Page;
use crate::cli::options::{Atime, MountOptions, Synchronous};
use crate::cli::secrets::SecretFile;
use crate::cli::values::{Moment, escape};
use crate::cli::{Ground, told_inside};
use crate::drive::Drive;
use crate::drive::keeper::Keeper;
use crate::error::{Error, Kind, Result};
use crate::fuse::{Abandon, Counts, Durable, Mount, MountConfig, Serving, Unmounter};
use crate::session::{self, Opening, Site, StateDir};
use parking_lot::Mutex;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a mount that is told to end waits for open files to be closed.
const CLOSE: Duration = Duration::from_secs(1);
/// How long the drive's threads may take to end.
const END: Duration = Duration::from_secs(10);
/// How long it waits for what is mounted over it to go.
const COVERED: Duration = Duration::from_secs(5);

pub struct Mounted {
    inner: Arc<Inner>,
    serving: Mutex<Option<Serving>>,
    keeper: Mutex<Keeper>,
}

pub(super) struct Inner {
    pub drive: Arc<Drive>,
    pub site: Site,
    pub calls: Arc<Counts>,
    pub options: MountOptions,
    pub mounted: Moment,
    store: String,
    dir: PathBuf,
    state_dir: PathBuf,
    unprotected: Option<String>,
    secret_file: Option<SecretFile>,
    supervisor: Option<rustix::process::Pid>,
    unmounter: Unmounter,
    abandon: Abandon,
    read_only: bool,
    leave: Leave,
    /// Nobody waits for the store any more.
    hurry: AtomicBool,
    /// Why the commit that came before unmounting has failed: the one after it need not be tried.
    left: Mutex<Option<Error>>,
    /// How many wait for the last commit, to unmount then.
    leaving: AtomicUsize,
    ended: AtomicBool,
}

impl Mounted {
    /// Opens the drive, replays its journal, and mounts it.
    pub fn start(request: MountRequest, site: Site, state: StateDir) -> Result<Arc<Mounted>> {
        let MountRequest {
            store,
            source,
            dir,
            options,
            control,
            state_dir,
            unprotected,
            secret_file,
            dead,
            supervisor,
            ..
        } = request;
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
        let mut config = MountConfig {
            source,
            read_only: options.ro || dead.as_ref().is_some_and(|dead| dead.read_only),
            allow_other: options.allow_other,
            // Another owner's suid programs are not to run with the rights of the one shown.
            suid: root && !options.nosuid && options.uid.is_none() && options.gid.is_none(),
            dev: root && !options.nodev,
            exec: !options.noexec,
            symfollow: !options.nosymfollow,
            noatime: options.atime == Atime::Never,
            nodiratime: options.nodiratime,
            durable: match options.sync {
                Synchronous::Nothing => Durable::OnDemand,
                Synchronous::Names => Durable::Names,
                Synchronous::All => Durable::Changes,
            },
            uid: options.uid,
            gid: options.gid,
            writeback: options.writeback,
            ..MountConfig::default()
        };
        let (mut listener, requests) = (Listener::default(), site.requests.clone());
        let listen = move || listener.look(&requests);
        let keeper = Keeper::start(drive.clone(), pace_of(&options, &store), listen)?;
        let ground = Ground::prepare(&dir, &store, dead.as_ref().map(|dead| dead.device.as_str()))?;
        config.instead_of = ground.dead().map(str::to_owned);
        let mount = Mount::new(drive.clone(), &dir, &config)?;
        ground.check(mount.device())?;
        let (unmounter, calls) = (mount.unmounter(), mount.counts().clone());
        let serving = mount.spawn()?;
        let inner = Inner {
            drive,
            site,
            calls,
            mounted: Moment::now(),
            store,
            dir,
            state_dir,
            unprotected,
            secret_file,
            supervisor,
            unmounter,
            abandon: serving.abandon(),
            read_only: options.ro,
            options,
            leave: Leave::default(),
            hurry: AtomicBool::new(false),
            left: Mutex::default(),
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

    fn trouble(&self) -> Option<String> {
        self.inner.drive.progress().last_error
    }

    fn wait(&self) -> Result<()> {
        let serving = self.serving.lock().take();
        let served = serving.map_or(Ok(()), Serving::wait);
        self.inner.ended.store(true, Ordering::SeqCst);
        let inner = &self.inner;
        if inner.read_only {
            self.keeper.lock().stop_within(END);
            return served;
        }
        let kept = inner.drive.sync_journal();
        let (left, leaves) = (inner.left.lock().take(), inner.leave.holds());
        let stored = match left {
            Some(e) => Err(e),
            None if leaves => Ok(()),
            None => inner.commit_patiently(),
        };
        self.keeper.lock().stop_within(END);
        // What the store has needs no journal, even one that has failed.
        match stored {
            Ok(()) if leaves => kept.and(served),
            Ok(()) => served,
            Err(e) => kept.and(served).and(Err(e)),
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
        self.inner.leaving.fetch_add(1, Ordering::SeqCst);
        // Most of it while the drive can still be used; what is written meanwhile is committed by `wait`.
        if !self.inner.read_only
            && let Err(e) = self.inner.commit_patiently()
        {
            *self.inner.left.lock() = Some(e);
        }
        let unmounter = &self.inner.unmounter;
        let mut ended = self.try_for(CLOSE, || unmounter.unmount());
        // Whoever holds a file open must not keep a service from stopping.
        if let Err(e) = &ended {
            match told_inside(&self.inner.dir, "drive") {
                Ok(Some(inside)) => tracing::warn!("{inside}"),
                _ => tracing::warn!("whoever is at the mount is cut off: {}", e.chain()),
            }
            let synced = self.inner.drive.sync_journal();
            // What is mounted over it is not ours to take away, and it is not cut off as long as that is there.
            ended = synced.and(self.try_for(COVERED, || unmounter.cut_off()));
        }
        if let Err(e) = ended {
            tracing::error!(
                "cannot unmount {}, and ends all the same: a dead mount is left, which the next mount or `nacrefs \
                 umount` clears: {}",
                self.inner.dir.display(),
                e.chain()
            );
            self.inner.abandon.abandon();
        }
    }

    fn hurry(&self) {
        self.inner.hurry.store(true, Ordering::SeqCst);
    }

    fn measure(&self, page: &mut Page) {
        super::measures::measure(&self.inner, page);
    }
}

impl Mounted {
    /// Unmounts, again and again for a while if that is in conflict with others.
    fn try_for(&self, time: Duration, unmount: impl Fn() -> Result<()>) -> Result<()> {
        let until = Instant::now() + time;
        loop {
            match unmount() {
                Err(e)
                    if e.kind() == Kind::Conflict && Instant::now() < until && !self.inner.in_a_hurry() =>
                {
                    std::thread::sleep(Duration::from_millis(50));
                }
                done => return done,
            }
        }
    }
}

impl Inner {
    fn in_a_hurry(&self) -> bool {
        self.hurry.load(Ordering::SeqCst)
    }

    fn commit_patiently(&self) -> Result<()> {
        commit_patiently(&self.drive, &self.site.requests, &self.hurry, REFUSED, || ()).map(drop).map_err(|e| {
            let then = match e.kind() {
                Kind::Damage => {
                    "is stored by a mount that can read what is damaged in the store ('nacrefs check' names it)"
                }
                _ => "is stored after the next mount",
            };
            e.context(format!(
                "not all of {} is in the store: the rest is in the journal, in {}, and {then}",
                self.dir.display(),
                self.state_dir.display()
            ))
        })
    }

    /// Commits everything, telling how far that is.
    fn commit_all(&self, out: &mut dyn Reply) -> Result<u64> {
        let drive = &self.drive;
        let total = drive.unstored_bytes();
        let (mut done, mut heard) = (0, Ok(()));
        let tell = || {
            done = total.saturating_sub(drive.unstored_bytes()).max(done);
            let told = Progress { what: "committing".into(), done, total: Some(total), counted: false };
            if heard.is_ok() {
                heard = out.progress(&told);
            }
        };
        let done = commit_patiently(drive, &self.site.requests, &self.hurry, Duration::ZERO, tell)?;
        heard.map(|()| done)
    }

    /// Whether the store could be reached when it was last needed.
    pub fn is_online(&self) -> bool {
        silent_since(&self.site.requests).is_none() && !self.drive.progress().away
    }

    fn status(&self) -> Status {
        let (progress, usage) = (self.drive.progress(), self.drive.journal().usage());
        let figures = self.drive.figures();
        let silent = silent_since(&self.site.requests).filter(|_| !progress.away);
        let shown = |path: &Path| Some(escape(path.as_os_str().as_bytes()));
        let (key_file, passphrase_file) = match &self.secret_file {
            Some(SecretFile::Key(file)) => (shown(file), None),
            Some(SecretFile::Passphrase(file)) => (None, shown(file)),
            Some(SecretFile::Recovery(_)) | None => (None, None),
        };
        let (last_error, last_error_time) = match silent {
            Some(since) => (Some("the store answers nothing".to_owned()), Some(since)),
            None => (progress.last_error, progress.last_error_time.map(Moment)),
        };
        Status {
            drive: self.site.secrets.drive.to_string(),
            store: self.store.clone(),
            mount: Some(escape(self.dir.as_os_str().as_bytes())),
            version: progress.version,
            last_commit: Some(Moment(progress.last_commit)),
            dirty_bytes: self.drive.unstored_bytes(),
            journal_bytes: usage.bytes,
            cache_bytes: figures.cache_bytes as u64,
            online: !progress.away && silent.is_none(),
            last_error,
            last_error_time,
            online_since: silent.or(progress.since.map(Moment)),
            mounted_since: Some(self.mounted),
            read_only: self.read_only.then(|| "mounted with -o ro".to_owned()),
            journal_limit: usage.limit,
            cache_limit: figures.cache_limit as u64,
            waiting: figures.waiting as u64,
            unprotected: self.unprotected.clone(),
            key_file,
            passphrase_file,
            weak_slot: weak_slot(&self.site),
            store_speed: super::measures::store_speed(&self.site.requests),
            memory_bytes: super::measures::resident_bytes(),
            state_dir: Some(escape(self.state_dir.as_os_str().as_bytes())),
            pid: Some(std::process::id()),
            guarded: self.supervisor.map(|supervisor| rustix::process::getppid() == Some(supervisor)),
            uid: self.options.uid,
            gid: self.options.gid,
            build: Some(env!("CARGO_PKG_VERSION").to_owned()),
        }
    }
}

impl Inner {
    fn remount(&self, ro: bool, options: &[String], out: &mut dyn Reply) -> Result<()> {
        match (ro, self.read_only) {
            // The kernel refuses writes from then on; what it has handed over is made safe before.
            (true, false) => self.drive.sync_journal()?,
            (true, true) | (false, false) => {}
            (false, true) => {
                return Err(Error::new(
                    Kind::Usage,
                    "the drive was opened to be read only, so its journal takes nothing: unmount it, and mount it without `ro`",
                ));
            }
        }
        match self.options.unchangeable(options) {
            fixed if fixed.is_empty() => Ok(()),
            fixed => {
                let fixed = fixed.join(",");
                out.note(&format!(
                    "a remount cannot change this: {fixed}; unmount the drive, and mount it so"
                ))
            }
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
                    self.leave.asked_by(out.caller());
                    return self.drive.sync_journal();
                }
                self.leave.not();
                self.leaving.fetch_add(1, Ordering::SeqCst);
                let done = self.commit_all(out).map(drop);
                self.leaving.fetch_sub(1, Ordering::SeqCst);
                done
            }
            Request::LogLevel { level } => {
                if let Some(level) = level {
                    logging::set_level(&level)?;
                    tracing::info!("the log level is now {level}");
                }
                out.log_level(&logging::level())
            }
            Request::Remount { ro, options } => self.remount(ro, &options, out),
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
