//! What this machine keeps of a drive: the state directory, its disk and its lock; the key file.

use super::Finding;
use super::machine::is_encrypted;
use super::patient::Patient;
use crate::cli::control::{Client, Request, connect};
use crate::cli::holders;
use crate::cli::mounts::{self, Mount, shown};
use crate::cli::probe::PATIENCE;
use crate::cli::runtime;
use crate::cli::status::Told;
use crate::cli::values::human_size;
use crate::session::StateDir;
use crate::types::DriveId;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// With less than this a disk is as good as full.
const FULL: u64 = 64 << 20;
/// Below this share of a disk (percent), and below so many bytes, there is not much left.
const SCARCE: u64 = 5;
const PLENTY: u64 = 10 << 30;

pub fn checks(patient: &Patient, state_dir: Option<&Path>) -> Vec<Finding> {
    let Some(dir) = state_dir else {
        let why = "cannot tell where the state directory is, for the daemon does not: give --state-dir, as it was \
                   mounted with (or state_dir=)";
        return vec![Finding::skip("state", why)];
    };
    let meta = match fs::metadata(dir) {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let what = format!(
                "{}: none yet; the first mount makes it (where it is another, by state_dir= or --state-dir, give that \
                 one here)",
                shown(dir)
            );
            return vec![Finding::ok("state", what)];
        }
        Err(e) => {
            return vec![Finding::fail(
                "state",
                format!("cannot look at {} ({e})", shown(dir)),
                "see to it that it can be read",
            )];
        }
    };
    let me = rustix::process::geteuid().as_raw();
    // Root looks at the mounts of others, too.
    let owner = if me == 0 && patient.mount.is_some() { meta.uid() } else { me };
    let mut findings = vec![private(dir, &meta, owner)];
    let read_only = runtime::is_read_only(dir);
    if let Ok(found) = rustix::fs::statfs(dir) {
        findings.push(file_system(dir, found.f_type as u64));
        let status = patient.told();
        let growth = status.map_or(0, |s| s.journal_limit.saturating_sub(s.journal_bytes));
        let (free, total) = (found.f_bavail * found.f_bsize as u64, found.f_blocks * found.f_bsize as u64);
        findings.push(match read_only {
            true => Finding::warn(
                "state disk",
                format!(
                    "{} is on a read-only file system: a mount can only be read-only (-o ro)",
                    shown(dir)
                ),
                "make it writable, or mount with another state directory (state_dir=)",
            ),
            false => room("state disk", dir, free, total, growth),
        });
    }
    let told = patient.mount.as_ref().and_then(|mount| mounts::control_socket(mount).ok());
    let (holder, control) = (StateDir::holder(dir), told.unwrap_or_else(|| runtime::control(dir)));
    let serves = match (holder, &patient.mount) {
        (None, Some(_)) if patient.told().is_some() => Serves::Unseen,
        (_, Some(_)) => Serves::Mounted,
        (None, None) => Serves::Nobody,
        (Some(pid), None) => serves(&control, pid),
    };
    findings.push(lock(holder, &serves, |pid| {
        fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|name| name.trim().to_owned())
    }));
    findings.push(socket(&control, holder));
    if let Some(store) = patient.store_dir().and_then(|s| fs::metadata(s).ok()) {
        findings.push(apart(store.dev() == meta.dev()));
    }
    findings
}

/// A state directory of another drive, with which this one cannot be mounted.
pub fn of_another_drive(dir: &Path, drive: DriveId) -> Option<Finding> {
    let other = StateDir::drive_of(dir).filter(|other| *other != drive)?;
    let what = format!("{} belongs to drive {other}, not to {drive}", shown(dir));
    Some(Finding::fail("state", what, "give this drive another (--state-dir, or the option state_dir=)"))
}

fn private(dir: &Path, meta: &Metadata, me: u32) -> Finding {
    let name = shown(dir);
    if !meta.is_dir() {
        return Finding::fail("state", format!("{name} is not a directory"), "move it away");
    }
    if meta.uid() != me {
        return Finding::fail(
            "state",
            format!("{name} belongs to user {}", meta.uid()),
            "mount as that user, or give --state-dir",
        );
    }
    match meta.mode() & 0o077 {
        0 => Finding::ok("state", name),
        _ => Finding::fail("state", format!("{name} is open to others"), format!("`chmod 700 {name}`")),
    }
}

/// Whether a file system keeps what is synced, and locks. The magic numbers are statfs(2)'s.
fn file_system(dir: &Path, magic: u64) -> Finding {
    let todo = "put the state directory on a disk of this machine (state_dir=)";
    let name = shown(dir);
    match magic {
        0x0102_1994 | 0x8584_58f6 => Finding::fail(
            "state kind",
            format!(
                "{name} is in memory: what was acknowledged and is not yet stored is lost when the power goes"
            ),
            todo,
        ),
        0x6969 | 0xff53_4d42 | 0xfe53_4d42 | 0x517b | 0x0102_1997 | 0x6573_5546 | 0x00c3_6400 => {
            Finding::warn(
                "state kind",
                format!("{name} is on a network or FUSE file system: locks and syncs there may not hold"),
                todo,
            )
        }
        _ => Finding::ok("state kind", "on a local file system"),
    }
}

/// `growth`: what may still come, in bytes.
pub fn room(check: &'static str, dir: &Path, free: u64, total: u64, growth: u64) -> Finding {
    let what = format!("{} free of {} at {}", human_size(free), human_size(total), shown(dir));
    let todo = "make room";
    if free < FULL {
        Finding::fail(check, what, todo)
    } else if free < growth {
        let todo =
            format!("make room, or give journal= a lower limit: it may take {} more", human_size(growth));
        Finding::warn(check, what, todo)
    } else if free < PLENTY && free < total / 100 * SCARCE {
        Finding::warn(check, what, todo)
    } else {
        Finding::ok(check, what)
    }
}

/// What the holder of a state directory does.
enum Serves {
    /// The mount that is looked at, or that is at this place.
    Mounted,
    At(String),
    /// The mount that is looked at, and its process is not to be seen: it is in another PID namespace.
    Unseen,
    /// It answers, and the mount that it serves is not seen here.
    Elsewhere,
    /// It answers, from a mount namespace that it is left alone in.
    Forgotten,
    /// It does not answer.
    Nobody,
}

/// Asks who takes calls at a control socket, the process `pid`.
fn serves(control: &Path, pid: i32) -> Serves {
    let mut told = Told::default();
    let client = Client::connect(control).and_then(|client| client.at_once(PATIENCE));
    if client.and_then(|client| client.ask(&Request::Status {}, &mut told)).is_err() {
        return Serves::Nobody;
    }
    let is_its = |mount: &Mount| mounts::control_socket(mount).is_ok_and(|socket| socket == control);
    match mounts::ours().unwrap_or_default().into_iter().find(is_its) {
        Some(mount) => Serves::At(shown(&mount.point)),
        None if holders::is_alone(pid) => Serves::Forgotten,
        None => Serves::Elsewhere,
    }
}

fn lock(holder: Option<i32>, serves: &Serves, name: impl Fn(i32) -> Option<String>) -> Finding {
    match (holder, serves) {
        (Some(pid), Serves::Mounted) => Finding::ok("lock", format!("held by process {pid}")),
        (Some(pid), Serves::At(point)) => {
            Finding::ok("lock", format!("held by process {pid}, which serves {point}"))
        }
        (Some(pid), Serves::Elsewhere) => Finding::warn(
            "lock",
            format!(
                "process {pid} serves the drive, and it is not mounted here any more: it was unmounted by `umount -l` \
                 while files were open, or it is mounted in another mount namespace"
            ),
            "leave it alone: it goes on for who uses it, and stores everything and ends when nobody does",
        ),
        (Some(pid), Serves::Forgotten) => Finding::warn(
            "lock",
            format!(
                "process {pid} serves the drive in a mount namespace that no other process is in (of a service or a \
                 container that has ended, say): it goes on for nobody"
            ),
            format!("`kill {pid}` stores everything and ends it; then mount again"),
        ),
        (Some(pid), Serves::Nobody) => Finding::warn(
            "lock",
            format!(
                "process {pid} ({}) holds the state directory, and does not answer",
                name(pid).unwrap_or("unknown".into())
            ),
            format!("it may be starting or ending; if it stays, end it with `kill {pid}`"),
        ),
        (None, Serves::Nobody) => Finding::ok("lock", "free"),
        (_, Serves::Unseen) => {
            Finding::ok("lock", "held by the daemon, whose process is not to be seen from here")
        }
        (None, _) => Finding::warn(
            "lock",
            "the drive is mounted, and nobody holds its state directory",
            "unmount it (`nacrefs umount` clears a dead mount), and mount it again",
        ),
    }
}

/// The control socket.
fn socket(path: &Path, holder: Option<i32>) -> Finding {
    let there = fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    match (there, holder) {
        (false, Some(pid)) => Finding::warn(
            "control",
            format!("process {pid} has no control socket {}", shown(path)),
            format!(
                "it may be starting or ending; if it stays so, somebody has removed the socket: `kill {pid}` stores \
                 everything and unmounts"
            ),
        ),
        (false, None) => Finding::ok("control", "no socket is left over"),
        (true, _) => match connect(path) {
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                Finding::ok("control", "a dead daemon has left its socket; the next mount removes it")
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => Finding::fail(
                "control",
                format!("nobody takes calls at {}: the daemon is stopped", shown(path)),
                match holder {
                    Some(pid) => format!("`kill -CONT {pid}` lets it go on"),
                    None => "let it go on (`kill -CONT`)".to_owned(),
                },
            ),
            Err(e) => Finding::warn(
                "control",
                format!("cannot call {} ({e})", shown(path)),
                "run this as the mount's user",
            ),
            Ok(_) => Finding::ok("control", "the daemon can be called"),
        },
    }
}

/// Whether the store and the state are on disks of their own.
fn apart(same: bool) -> Finding {
    match same {
        false => Finding::ok("disks", "the store is on another disk than the state"),
        true => Finding::warn(
            "disks",
            "the store is on the same disk as the state: if it breaks, both are gone",
            "keep a copy of the store elsewhere",
        ),
    }
}

pub fn key_file(path: &Path, state_dir: Option<&Path>) -> Finding {
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) => {
            let what = format!("cannot look at {} ({e})", shown(path));
            let todo =
                "bring it back, or name the right one: in fstab, in the unit's file, or with --key-file";
            return Finding::fail("key file", what, todo);
        }
    };
    let stolen = state_dir.is_some_and(|dir| is_stolen_with(path, dir));
    key(&shown(path), meta.mode(), stolen)
}

/// Whether who steals the disk of the state directory has the key file too.
pub fn is_stolen_with(key: &Path, state_dir: &Path) -> bool {
    match (fs::metadata(key), fs::metadata(state_dir)) {
        (Ok(key), Ok(state)) => key.dev() == state.dev() && !is_encrypted(key.dev()),
        _ => false,
    }
}

pub fn stolen(key: &str) -> String {
    format!("{}: the key is on it ({key})", super::STOLEN)
}

fn key(name: &str, mode: u32, is_stolen: bool) -> Finding {
    if mode & 0o077 != 0 {
        let todo =
            format!("`chmod 600 {name}`; whoever may have read it can open the drive: make another key");
        return Finding::fail("key file", format!("{name} can be read by others"), todo);
    }
    match is_stolen {
        true => unprotected(&stolen(name)),
        false => Finding::ok("key file", name),
    }
}

/// `what`: why who steals the disk can read what is on it.
pub fn unprotected(what: &str) -> Finding {
    let todo = "encrypt the disk, keep the key on another, or use a passphrase";
    Finding::warn("key file", what, todo)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Fail, Ok, Warn};
    use super::super::says;
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_state_directory_is_ones_own_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let me = rustix::process::geteuid().as_raw();
        let look = |me| private(dir.path(), &fs::metadata(dir.path()).unwrap(), me);
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        says(look(me), Ok, "");
        says(look(me + 1), Fail, "belongs to user");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        says(look(me), Fail, "chmod 700");
    }

    #[test]
    fn kinds_of_file_systems_that_lose_or_do_not_lock_are_told() {
        let kind = |magic| file_system(Path::new("/s"), magic);
        says(kind(0xef53), Ok, "local");
        says(kind(0x0102_1994), Fail, "in memory");
        says(kind(0x6969), Warn, "network");
    }

    #[test]
    fn room_is_scarce_by_share_by_need_and_at_the_end() {
        let left = |free, total, growth| room("disk", Path::new("/d"), free, total, growth);
        says(left(1 << 40, 4 << 40, 0), Ok, "free");
        says(left(20 << 20, 4 << 40, 0), Fail, "make room");
        says(left(1 << 30, 100 << 30, 0), Warn, "make room");
        says(left(90 << 30, 4 << 40, 0), Ok, "free");
        says(left(1 << 30, 2 << 30, 2 << 30), Warn, "journal=");
    }

    #[test]
    fn who_holds_the_lock_is_told_with_what_helps() {
        let name = |_| Some("nacrefs".to_owned());
        says(lock(Some(5), &Serves::Mounted, name), Ok, "process 5");
        says(lock(Some(5), &Serves::At("/m".into()), name), Ok, "serves /m");
        says(lock(Some(5), &Serves::Elsewhere, name), Warn, "leave it alone");
        says(lock(Some(5), &Serves::Forgotten, name), Warn, "`kill 5` stores everything");
        says(lock(Some(5), &Serves::Nobody, name), Warn, "process 5 (nacrefs)");
        says(lock(None, &Serves::Mounted, name), Warn, "nobody holds");
        says(lock(None, &Serves::Unseen, name), Ok, "held by the daemon");
        says(lock(None, &Serves::Nobody, name), Ok, "free");
    }

    #[test]
    fn a_socket_that_nobody_serves_is_known_from_a_live_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        says(socket(&path, None), Ok, "no socket");
        says(socket(&path, Some(5)), Warn, "kill 5");
        let listener = UnixListener::bind(&path).unwrap();
        says(socket(&path, Some(5)), Ok, "can be called");
        drop(listener);
        says(socket(&path, None), Ok, "dead daemon");
    }

    #[test]
    fn a_key_that_others_can_have_is_told() {
        says(key("/k", 0o100600, false), Ok, "/k");
        says(key("/k", 0o100600, true), Warn, "not protected if this disk is stolen");
        says(key("/k", 0o100640, true), Fail, "chmod 600");
        assert!(!is_stolen_with(Path::new("/proc/self/status"), Path::new("/")));
        says(key_file(Path::new("/no/such/key"), None), Fail, "--key-file");
        says(apart(true), Warn, "same disk");
        says(apart(false), Ok, "another disk");
    }
}
