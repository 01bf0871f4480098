//! What this machine keeps of a drive: the state directory, its disk and its lock; the key file.

use super::machine::is_encrypted;
use super::{Finding, Patient};
use crate::cli::control::{SOCKET, connect};
use crate::cli::mounts::shown;
use crate::cli::values::human_size;
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
    let mut findings = vec![private(dir, &meta, me)];
    if let Ok(found) = rustix::fs::statfs(dir) {
        findings.push(file_system(dir, found.f_type as u64));
        let status = patient.told();
        let growth = status.map_or(0, |s| s.journal_limit.saturating_sub(s.journal_bytes));
        let (free, total) = (found.f_bavail * found.f_bsize as u64, found.f_blocks * found.f_bsize as u64);
        findings.push(room("state disk", dir, free, total, growth));
    }
    let holder = fs::metadata(dir.join("lock")).ok().and_then(|lock| {
        let locks = fs::read_to_string("/proc/locks").ok()?;
        holder_of(&locks, lock.dev(), lock.ino())
    });
    findings.push(lock(holder, patient.mount.is_some(), |pid| {
        fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|name| name.trim().to_owned())
    }));
    findings.push(socket(&dir.join(SOCKET), holder.is_some()));
    if let Some(store) = patient.store_dir().and_then(|s| fs::metadata(s).ok()) {
        findings.push(apart(store.dev() == meta.dev()));
    }
    findings
}

fn private(dir: &Path, meta: &Metadata, me: u32) -> Finding {
    let name = shown(dir);
    if !meta.is_dir() {
        return Finding::fail("state", format!("{name} is not a directory"), "move it away");
    }
    if me != 0 && meta.uid() != me {
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

/// Who holds the flock of a file: a line of `/proc/locks` such as `1: FLOCK ADVISORY WRITE 1234 fe:00:131 0 EOF`.
fn holder_of(locks: &str, device: u64, inode: u64) -> Option<i32> {
    let file = format!("{:02x}:{:02x}:{inode}", rustix::fs::major(device), rustix::fs::minor(device));
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        if words.next()? != "FLOCK" {
            return None;
        }
        let (pid, at) = (words.nth(2)?, words.next()?);
        (at == file).then(|| pid.parse().ok())?
    })
}

fn lock(holder: Option<i32>, mounted: bool, name: impl Fn(i32) -> Option<String>) -> Finding {
    match (holder, mounted) {
        (Some(pid), true) => Finding::ok("lock", format!("held by process {pid}")),
        (None, false) => Finding::ok("lock", "free"),
        (None, true) => Finding::warn(
            "lock",
            "the drive is mounted, and nobody holds its state directory",
            "unmount it (`nacrefs umount` clears a dead mount), and mount it again",
        ),
        (Some(pid), false) => Finding::warn(
            "lock",
            format!(
                "process {pid} ({}) holds the state directory, and no mount of it is seen here",
                name(pid).unwrap_or("unknown".into())
            ),
            "it may be ending, or mount in another namespace; if it stays, end it with `kill PID`",
        ),
    }
}

/// The control socket.
fn socket(path: &Path, held: bool) -> Finding {
    let there = fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    match (there, held) {
        (false, true) => Finding::warn(
            "control",
            format!("the daemon has no control socket {}", shown(path)),
            "it is starting or ending; if it stays so, `kill` it, and mount again",
        ),
        (false, false) => Finding::ok("control", "no socket is left over"),
        (true, _) => match connect(path) {
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                Finding::ok("control", "a dead daemon has left its socket; the next mount removes it")
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => Finding::fail(
                "control",
                format!("nobody takes calls at {}: the daemon is stopped", shown(path)),
                "let it go on (`kill -CONT`), or kill it, and mount again",
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
            return Finding::fail("key file", what, "give the right one with --key-file");
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
        true => Finding::warn(
            "key file",
            stolen(name),
            "encrypt the disk, keep the key on another, or use a passphrase",
        ),
        false => Finding::ok("key file", name),
    }
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
    fn the_holder_of_a_lock_is_found() {
        let locks = "1: POSIX  ADVISORY  WRITE 77 fe:00:131 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 1234 fe:00:131 0 EOF\n3: -> FLOCK ADVISORY WRITE 9 fe:00:7 0 EOF\n";
        let device = rustix::fs::makedev(0xfe, 0);
        assert_eq!(holder_of(locks, device, 131), Some(1234));
        assert_eq!(holder_of(locks, device, 13), None);
        assert_eq!(holder_of("", device, 131), None);
        let name = |_| Some("nacrefs".to_owned());
        says(lock(Some(5), true, name), Ok, "process 5");
        says(lock(Some(5), false, name), Warn, "process 5 (nacrefs)");
        says(lock(None, true, name), Warn, "nobody holds");
        says(lock(None, false, name), Ok, "free");
    }

    #[test]
    fn a_socket_that_nobody_serves_is_known_from_a_live_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        says(socket(&path, false), Ok, "no socket");
        says(socket(&path, true), Warn, "no control socket");
        let listener = UnixListener::bind(&path).unwrap();
        says(socket(&path, true), Ok, "can be called");
        drop(listener);
        says(socket(&path, false), Ok, "dead daemon");
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
