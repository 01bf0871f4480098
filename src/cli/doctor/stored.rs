//! The store: whether it can be reached, written to, and opened with the key at hand.

use super::Finding;
use super::local::room;
use super::patient::Patient;
use crate::cli::App;
use crate::cli::args::SecretArgs;
use crate::cli::backend::Closed;
use crate::cli::control::{Request, Status};
use crate::cli::mounts::shown;
use crate::cli::secrets::{self, Given};
use crate::cli::status::Told;
use crate::cli::values::{Moment, human_span};
use crate::error::{Error, Kind, Result};
use crate::session::{Dispute, StateDir};
use crate::types::{DriveId, Time};
use rustix::fs::{Access, StatVfsMountFlags};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Clocks that are apart by no more than so many seconds are the same.
const APART: i64 = 60;
/// The first day of the year in which this was written: no clock that is right shows less. Unix time.
const YEAR: i64 = 1_767_225_600;

/// Whether a store's directory is there. Others than `file://` are reached by opening them.
pub fn reach(dir: Option<&Path>) -> Finding {
    let Some(dir) = dir else {
        return Finding::skip("reach", "the store is no directory");
    };
    let name = shown(dir);
    match fs::metadata(dir) {
        Ok(meta) if meta.is_dir() => Finding::ok("reach", name),
        Ok(_) => Finding::fail("reach", format!("{name} is not a directory"), "give the store's directory"),
        Err(e) => Finding::fail(
            "reach",
            format!("{name} is out of reach ({e})"),
            "mount what holds it, or bring it back",
        ),
    }
}

/// Which drive the store holds; the error is what to say instead.
pub fn drive_id(app: &App, patient: &Patient) -> Result<(DriveId, Finding), Finding> {
    match app.backend.drive_id(&patient.store) {
        Ok(drive) => Ok((drive, Finding::ok("store", format!("holds drive {drive}")))),
        // Nothing is to be made in the place of a drive that is in use.
        Err(e) if e.kind() == Kind::NotADrive && patient.mount.is_some() => {
            let todo = "put the mounted drive's own store back in its place: mount the disk that holds it";
            Err(Finding::fail("store", e.chain(), todo))
        }
        Err(e) => Err(unopened(&e)),
    }
}

/// What is wrong where a mounted drive's store holds another one now.
pub fn is_mounted(mounted: Option<&Status>, held: DriveId) -> Option<Finding> {
    let mounted = mounted.filter(|s| s.drive != held.to_string())?;
    let what = format!("holds drive {held}, but what is mounted is drive {}", mounted.drive);
    Some(Finding::fail("store", what, "put the mounted drive's own store back in its place"))
}

/// A store that does not open, and what can be done.
fn unopened(e: &Error) -> Finding {
    let todo = match e.kind() {
        Kind::NotADrive => "give the right STORE, or make a drive with `nacrefs init`",
        Kind::Away => "bring the store back, and try again",
        Kind::Damage => "restore it from a copy; if a later nacrefs made it, use that version",
        Kind::Conflict => "see what `nacrefs help exit-status` says of conflicts, and the message",
        _ => "see to what the message names",
    };
    Finding::fail("store", e.chain(), todo)
}

pub fn checks(
    app: &App,
    secrets: &SecretArgs,
    patient: &Patient,
    key: Option<&Path>,
    state_dir: Option<&Path>,
    tell: &mut dyn FnMut(Finding),
) {
    let dir = patient.store_dir();
    let mut store_time = None;
    if let Some(dir) = &dir {
        tell(writable(dir));
        if let Ok(found) = rustix::fs::statfs(dir) {
            let block = found.f_bsize as u64;
            tell(room("store disk", dir, found.f_bavail * block, found.f_blocks * block, 0));
        }
        store_time = fs::metadata(dir).ok().map(|m| m.mtime());
    }
    let mut last = patient.told().and_then(|s| s.last_commit);
    let weak = app.backend.weak_slots(&patient.store);
    weak.map_or_else(|e| Some(unopened(&e)), |weak| weak_slots(&weak)).into_iter().for_each(&mut *tell);
    match secret(app, secrets, key) {
        None => {
            tell(Finding::skip("key", "no passphrase or key at hand: give --key-file or --passphrase-file"));
        }
        Some(Err(e)) => tell(refused(&e)),
        Some(Ok(secret)) => {
            let drive = Closed {
                store: patient.store.clone(),
                secret,
                // One that is not there remembers nothing.
                state_dir: state_dir.map_or_else(|| "/nonexistent".into(), Path::to_owned),
            };
            let mut told = Told::default();
            match app
                .backend
                .answer(&drive, Request::Status {}, &mut told)
                .and_then(|()| told.status("the store"))
            {
                Ok(status) => {
                    last = last.max(status.last_commit);
                    tell(Finding::ok("key", format!("opens the drive, at version {}", status.version)));
                    if patient.mount.is_none() && StateDir::holder(&drive.state_dir).is_none() {
                        tell(mountable(refusal(app, &drive)));
                    }
                }
                Err(e) if e.kind() == Kind::Secret => tell(refused(&e)),
                Err(e) => tell(unopened(&e)),
            }
        }
    }
    tell(clock(Moment::now(), last, store_time.map(|sec| Moment(Time { sec, nsec: 0 }))));
}

/// Why a mount of a drive that is not in use would be refused: a newest version that is lost, or what this machine keeps of
/// the drive.
fn refusal(app: &App, drive: &Closed) -> Result<Option<Error>> {
    let site = app.backend.unlock(drive)?;
    if !drive.state_dir.join("lock").exists() {
        let mut lost = None;
        site.newest_opened(&drive.state_dir, &mut |e| lost = Some(e))?;
        return Ok(lost);
    }
    let dispute = Dispute::find(site, StateDir::look(&drive.state_dir)?)?;
    Ok(dispute.map(|dispute| dispute.refusal))
}

fn mountable(refusal: Result<Option<Error>>) -> Finding {
    match refusal {
        Ok(None) => Finding::ok("mount", "the store and this machine go together"),
        Ok(Some(e)) | Err(e) => {
            let todo = match e.kind() {
                Kind::Damage | Kind::Conflict => {
                    "do what the message says; `nacrefs accept` shows what the store has, and what this machine"
                }
                _ => "see to what the message names",
            };
            Finding::fail("mount", e.chain(), todo)
        }
    }
}

/// The secret that a mount would find without asking; None where there is none.
fn secret(app: &App, flags: &SecretArgs, key: Option<&Path>) -> Option<Result<Given>> {
    let env = &app.env.open;
    let named = flags.passphrase_file.is_some() || flags.key_file.is_some() || key.is_some();
    let credential = |name| env.credentials.as_ref().is_some_and(|dir| dir.join(name).exists());
    let credential = credential("nacrefs.passphrase") || credential("nacrefs.key");
    let passphrase = env.passphrase.take();
    let given = passphrase.is_some();
    env.passphrase.set(passphrase);
    let set = given || env.passphrase_file.is_some() || env.passphrase_command.is_some();
    (named || credential || set).then(|| Ok(secrets::find(flags, key, env, &mut |_| Ok(None))?.given))
}

/// Passphrases that could be guessed at less cost than they need be.
fn weak_slots(weak: &[String]) -> Option<Finding> {
    let slots = if weak.len() == 1 { "slot" } else { "slots" };
    let what = format!("key {slots} {}: made with less than today's argon2id", weak.join(", "));
    let todo = "`nacrefs key change` with its passphrase, which may stay as it is";
    (!weak.is_empty()).then(|| Finding::warn("key slots", what, todo))
}

fn refused(e: &Error) -> Finding {
    Finding::fail(
        "key",
        e.chain(),
        "give the right passphrase or key file; a recovery code opens it too (--recovery)",
    )
}

fn writable(dir: &Path) -> Finding {
    let name = shown(dir);
    if rustix::fs::statvfs(dir).is_ok_and(|s| s.f_flag.contains(StatVfsMountFlags::RDONLY)) {
        return Finding::fail(
            "store write",
            format!("{name} is on a file system that is mounted read-only"),
            "after an error of its disk the kernel does that: look into its log; else mount it with rw",
        );
    }
    match rustix::fs::access(dir, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Finding::ok("store write", "can be written to"),
        Err(e) => Finding::fail(
            "store write",
            format!("{name} cannot be written to ({})", std::io::Error::from(e)),
            "run as its owner, or change its owner",
        ),
    }
}

/// This machine's clock beside the newest version's time, and the time of the store's directory.
fn clock(now: Moment, last: Option<Moment>, store: Option<Moment>) -> Finding {
    let todo = "set the clock (timedatectl set-ntp true)";
    if now.0.sec < YEAR {
        return Finding::fail("clock", format!("shows {}", now.human()), todo);
    }
    for (what, time) in [("the newest version", last), ("the store's directory", store)] {
        let ahead = time.map_or(0, |t| t.0.sec.saturating_sub(now.0.sec));
        if ahead > APART {
            let what = format!("{what} is {} later than this machine's clock", human_span(ahead));
            return Finding::warn("clock", what, todo);
        }
    }
    Finding::ok("clock", now.human())
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Fail, Ok, Skip, Warn};
    use super::super::says;
    use super::*;

    #[test]
    fn a_store_is_a_directory_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        says(reach(Some(dir.path())), Ok, "");
        says(reach(Some(&dir.path().join("gone"))), Fail, "out of reach");
        says(reach(None), Skip, "no directory");
        fs::write(dir.path().join("file"), "").unwrap();
        says(reach(Some(&dir.path().join("file"))), Fail, "not a directory");
        says(writable(dir.path()), Ok, "can be written");
        says(writable(Path::new("/proc/self/fd/none")), Fail, "cannot be written");
    }

    #[test]
    fn another_drive_in_the_place_of_the_mounted_one_is_told() {
        let held = DriveId([7; 16]);
        let mounted = |drive: String| Status { drive, ..Status::default() };
        assert!(
            is_mounted(None, held).is_none() && is_mounted(Some(&mounted(held.to_string())), held).is_none()
        );
        let other = mounted(DriveId([8; 16]).to_string());
        says(is_mounted(Some(&other), held).unwrap(), Fail, "what is mounted is drive 08");
    }

    #[test]
    fn weak_key_slots_are_told() {
        assert_eq!(weak_slots(&[]), None);
        says(weak_slots(&["ab".into(), "cd".into()]).unwrap(), Warn, "slots ab, cd");
    }

    #[test]
    fn a_clock_that_is_behind_is_told() {
        let at = |sec| Moment(Time { sec, nsec: 0 });
        let now = YEAR + 1_000_000;
        says(clock(at(now), Some(at(now - 9)), Some(at(now + 9))), Ok, "");
        says(clock(at(now), Some(at(now + 3600)), None), Warn, "the newest version is 1 h 0 min later");
        says(clock(at(now), None, Some(at(now + 3600))), Warn, "the store's directory");
        says(clock(at(0), None, None), Fail, "set the clock");
    }

    #[test]
    fn what_does_not_open_says_what_to_do() {
        says(unopened(&Error::new(Kind::NotADrive, "x")), Fail, "nacrefs init");
        says(unopened(&Error::new(Kind::Away, "x")), Fail, "bring the store back");
        says(
            unopened(&Error::damage("of a format that this version does not know")),
            Fail,
            "a later nacrefs",
        );
        says(refused(&Error::new(Kind::Secret, "no slot opens")), Fail, "no slot opens");
    }
}
