//! The real drives behind the command line: [`Backend`] over [`session`](crate::session).

mod answers;
mod ending;
mod leave;
mod live;
mod measures;
mod mounted;
mod silence;

use super::backend::{
    Backend, CheckOptions, CheckReport, Closed, Created, InitOptions, MountRequest, Problem, Running,
};
use super::control::{At, Client, Progress, Reply, Request};
use super::keys::{WEAK, weak_slot};
use super::options::{Atime, MountOptions};
use super::output::{Spinner, warn};
use super::paths::url_path;
use super::secrets::Given;
use super::status::Told;
use super::values::{Moment, escape};
use crate::commit::check;
use crate::crypt::{KdfParams, RecoveryCode, Secret};
use crate::drive::Settings;
use crate::error::{Error, Kind, Result};
use crate::session::{self, Site, StateDir, slots};
use crate::store::OpenOptions;
use crate::sys::memory::settle_allocator;
use crate::sys::{SystemClock, SystemRandom};
use crate::types::{DriveId, Key};
use answers::Past;
use mounted::Mounted;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a daemon that was killed may take to let go of its state directory.
const DYING: Duration = Duration::from_secs(3);

/// Drives in stores that can be reached from here.
pub struct Drives;

/// Opens a store, which takes its time where the secret is a passphrase.
fn unlock(store: &str, secret: &Given) -> Result<Site> {
    let _spinner = Spinner::start("opening the drive");
    Site::unlock(store, &secret_of(secret)?)
}

/// The secret, in the words of the key slots.
pub fn secret_of(given: &Given) -> Result<Secret> {
    Ok(match given {
        Given::Passphrase(text) => Secret::Passphrase(text.clone()),
        Given::KeyFile(key) => Secret::KeyFile(Key::clone(key)),
        Given::Recovery(text) => Secret::Recovery(RecoveryCode::parse(text)?),
    })
}

fn settings_of(options: &MountOptions) -> Settings {
    let mut settings = Settings::within(usize::try_from(options.memory).unwrap_or(usize::MAX));
    settings.timeout = options.timeout;
    settings.journal.limit = options.journal;
    settings.read_only = options.ro;
    settings.noatime = options.atime == Atime::Never;
    settings.sync_store = options.sync_store;
    settings
}

/// Locks a state directory. Who mounts at once after a daemon was killed may find it held still: the kernel takes the
/// mount from a dying process first, and the lock later. A daemon that answers is not waited for.
fn lock_state(request: &MountRequest) -> Result<StateDir> {
    let MountRequest { state_dir, run_dir, control, .. } = request;
    let lock = || match state_dir == run_dir {
        true => StateDir::open(state_dir),
        false => StateDir::open_read_only(state_dir, run_dir),
    };
    let until = Instant::now() + DYING;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match lock() {
            Err(e) if e.kind() == Kind::Conflict && !left.is_zero() && !answers(control, left) => {
                std::thread::sleep(Duration::from_millis(50).min(left));
            }
            done => return done,
        }
    }
}

fn answers(control: &Path, within: Duration) -> bool {
    let daemon = Client::connect(control).and_then(|daemon| daemon.at_once(within));
    daemon.and_then(|daemon| daemon.ask(&Request::Status {}, &mut Told::default())).is_ok()
}

/// Refuses options that this version cannot keep.
fn check_options(options: &MountOptions) -> Result<()> {
    let missing = match options {
        MountOptions { at: Some(_), .. } => "at=",
        MountOptions { dedup: false, .. } => "dedup=off",
        _ => return Ok(()),
    };
    Err(Error::new(Kind::Usage, format!("mount option {missing} is not in this version yet")))
}

impl Backend for Drives {
    fn init(&self, store: &str, secret: &Given, options: &InitOptions) -> Result<Created> {
        let secret = secret_of(secret)?;
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let params = KdfParams::default();
        let _spinner = Spinner::start("making the drive");
        let made =
            session::init(store, &secret, params, owner, options.recovery_code, &SystemClock, &SystemRandom)?;
        Ok(Created { drive: made.drive, recovery_code: made.recovery })
    }

    fn drive_id(&self, store: &str) -> Result<DriveId> {
        let objects = crate::store::open(store, OpenOptions::default())?;
        session::drive_of(&*objects, store)
    }

    fn mount(&self, request: MountRequest) -> Result<Arc<dyn Running>> {
        check_options(&request.options)?;
        // Before there are threads.
        settle_allocator();
        // Before the secrets are opened, so that a drive in use is known at once.
        let state = lock_state(&request)?;
        let site = unlock(&request.store, &request.secret)?;
        if let Some(slot) = weak_slot(&site) {
            tracing::warn!("key slot {slot} was {WEAK}");
        }
        Ok(Mounted::start(request, site, state)?)
    }

    fn answer(&self, drive: &Closed, request: Request, out: &mut dyn Reply) -> Result<()> {
        let site = unlock(&drive.store, &drive.secret)?;
        let mut lost = None;
        let newest = site.newest_opened(&drive.state_dir, &mut |e| lost = Some(e))?;
        let (number, time) = (newest.version(), newest.commit.time);
        let past = Past::new(&site, newest, None);
        match request {
            Request::Status {} => {
                lost.iter().for_each(|e| eprintln!("{}", crate::cli::output::error_line(e, false)));
                out.status(&past.status(&drive.store))
            }
            Request::Log { path } => {
                past.log(&path, out)?;
                lost.map_or(Ok(()), Err)
            }
            Request::Cat { path, at } => {
                let is_older = match at {
                    None => false,
                    Some(At::Version(version)) => version <= number,
                    Some(At::Time(Moment(at))) => at < time,
                };
                match lost.filter(|_| !is_older) {
                    Some(lost) => Err(lost),
                    None => past.cat(&path, at, out),
                }
            }
            Request::Sync {}
            | Request::Commit {}
            | Request::Umount { .. }
            | Request::Remount { .. }
            | Request::LogLevel { .. } => {
                Err(Error::new(Kind::NotADrive, format!("{} is not mounted here", drive.store)))
            }
        }
    }

    fn check(
        &self,
        drive: &Closed,
        options: &CheckOptions,
        progress: &mut dyn FnMut(&Progress) -> Result<()>,
    ) -> Result<CheckReport> {
        let site = unlock(&drive.store, &drive.secret)?;
        // What is lost is among the findings.
        let newest = site.newest_opened(&drive.state_dir, &mut |_| {})?;
        let store = site.chunk_store(newest.commit.runs.clone(), None);
        let asked = check::Options { all: true, read_data: options.read_data, subset: options.subset };
        let mut interrupted = None;
        let found = check::check(&site.versions, &store, &newest, asked, &mut |p| {
            let told = Progress { what: p.what.into(), done: p.done, total: p.total, counted: true };
            if let Err(e) = progress(&told) {
                interrupted.get_or_insert(e);
            }
        })?;
        if let Some(e) = interrupted {
            return Err(e);
        }
        let mut problems: Vec<Problem> = found
            .findings
            .into_iter()
            .map(|f| Problem {
                object: f.object,
                what: f.what,
                files: f.path.iter().map(|p| escape(p)).collect(),
            })
            .collect();
        for (object, e) in slots::list(&*site.objects)?.bent {
            if slots::Slots::is_ours(&object) {
                problems.push(Problem { object, what: e.chain(), files: Vec::new() });
            } else {
                warn(&format!("{object} has not the name of a key slot, and is left alone"));
            }
        }
        if found.more > 0 {
            let what = format!("and {} more findings", found.more);
            problems.push(Problem { object: "…".into(), what, files: Vec::new() });
        }
        Ok(CheckReport {
            drive: site.secrets.drive.to_string(),
            store: drive.store.clone(),
            version: newest.version(),
            heads: found.versions,
            packs: found.packs,
            chunks: found.chunks,
            bytes_read: found.bytes,
            problems,
        })
    }

    fn weak_slots(&self, store: &str) -> Result<Vec<String>> {
        let objects = crate::store::open(store, OpenOptions::default())?;
        let slots = slots::list(&*objects)?.slots;
        Ok(slots.iter().filter(|slot| slot.is_weak()).map(|slot| slot.id().to_string()).collect())
    }

    fn unlock(&self, drive: &Closed) -> Result<Site> {
        unlock(&drive.store, &drive.secret)
    }
}

/// How often things are done for a mount.
fn pace_of(options: &MountOptions, store: &str) -> crate::drive::keeper::Pace {
    let least = Duration::from_millis(10);
    crate::drive::keeper::Pace {
        flush: options.flush.max(least),
        commit: options.commit_interval(store).max(least),
    }
}

/// The directory of a `file://` store.
fn store_dir(store: &str) -> Option<std::path::PathBuf> {
    url_path(store)
}
