//! Who keeps a mount busy, as far as it can be told at little cost.

use super::mounts::{self, Mount, shown};
use super::values::escape;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// More than so many are not named.
const MOST: usize = 5;
/// What runs us to unmount something, by name.
const ASKING: [&[u8]; 4] = [b"umount", b"sudo", b"doas", b"nacrefs"];

/// Names, for people, of what is in use below a mount point: processes (`bash[817]`), and other mounts. `None` where
/// none is found, or this user may not look.
pub fn of(point: &Path) -> Option<String> {
    let asking = asking();
    let processes = fs::read_dir("/proc").ok()?.flatten().map(|p| p.path()).filter(|p| !asking.contains(p));
    let mut names: Vec<String> = processes.filter_map(|p| name_of(&p, point)).collect();
    let mounts = mounts::list().unwrap_or_default();
    let inside = mounts.iter().filter(|m| m.point != point && m.point.starts_with(point));
    names.extend(inside.map(|m| format!("what is mounted on {}", shown(&m.point))));
    let more = names.len().saturating_sub(MOST);
    names.truncate(MOST);
    if more > 0 {
        names.push(format!("{more} more"));
    }
    if names.is_empty() { None } else { Some(names.join(", ")) }
}

/// The processes (directories of /proc) that ask for the unmounting, and are gone with it: this one, and those that
/// wait for it, such as umount(8), which holds the mount point open.
fn asking() -> Vec<PathBuf> {
    let mut found = vec![Path::new("/proc").join(std::process::id().to_string())];
    while let Some(parent) = found.last().and_then(|process| parent_of(process)) {
        let name = fs::read(parent.join("comm")).unwrap_or_default();
        if !ASKING.contains(&name.trim_ascii_end()) {
            break;
        }
        found.push(parent);
    }
    found
}

/// The parent of a process: the second word behind its name, which is in brackets (proc_pid_stat(5)).
fn parent_of(process: &Path) -> Option<PathBuf> {
    let stat = fs::read(process.join("stat")).ok()?;
    let behind = stat.iter().rposition(|b| *b == b')')? + 1;
    let parent = stat.get(behind..)?.split(|b| *b == b' ').filter(|w| !w.is_empty()).nth(1)?;
    Some(Path::new("/proc").join(std::str::from_utf8(parent).ok()?))
}

/// The name of a process (a directory of /proc) if it has a file below `point` open, mapped, or as its directory.
fn name_of(process: &Path, point: &Path) -> Option<String> {
    process.file_name()?.to_str()?.parse::<u32>().ok()?;
    let leads_there = |link: &Path| fs::read_link(link).is_ok_and(|to| to.starts_with(point));
    let any = |dir: &str| {
        let links = fs::read_dir(process.join(dir)).into_iter().flatten().flatten();
        links.into_iter().any(|link| leads_there(&link.path()))
    };
    let holds =
        ["cwd", "root", "exe"].iter().any(|l| leads_there(&process.join(l))) || any("fd") || any("map_files");
    if holds { named(process) } else { None }
}

/// The command and the number of a process (a directory of /proc).
fn named(process: &Path) -> Option<String> {
    let comm = fs::read(process.join("comm")).unwrap_or_default();
    Some(format!("{}[{}]", escape(comm.trim_ascii_end()), process.file_name()?.to_str()?))
}

/// The name of a process in another mount namespace in which a mount still is, if one can be seen: a service or a
/// container that was started after the drive was mounted has a copy of the mount. (The number of its device may be
/// another drive's by now, if it is nowhere any more.)
pub fn elsewhere(mount: &Mount) -> Option<String> {
    named(&in_another_namespace(|_, m| m.device == mount.device && m.source == mount.source)?)
}

/// Whether the daemon of a drive is in another mount namespace, and still has it mounted at `point`: this namespace only
/// has a copy of the mount, and what is noted of it in `/run` is the other's.
pub fn serves_elsewhere(mount: &Mount, point: &Path) -> bool {
    let is_its = |process: &Path, m: &Mount| {
        m.device == mount.device && m.source == mount.source && m.point == point && is_drives(process)
    };
    in_another_namespace(is_its).is_some()
}

/// A process in another mount namespace, with a mount there.
fn in_another_namespace(is_wanted: impl Fn(&Path, &Mount) -> bool) -> Option<PathBuf> {
    let here = fs::read_link("/proc/self/ns/mnt").ok()?;
    let others = fs::read_dir("/proc").ok()?.flatten().map(|p| p.path());
    let mut others =
        others.filter(|p| fs::read_link(p.join("ns/mnt")).is_ok_and(|namespace| namespace != here));
    others.find(|process| {
        let mounts = mounts::parse(&fs::read(process.join("mountinfo")).unwrap_or_default());
        mounts.iter().any(|m| is_wanted(process, m))
    })
}

/// Whether a process is a daemon of a drive, or a supervisor.
fn is_drives(process: &Path) -> bool {
    fs::read_to_string(process.join("comm")).is_ok_and(|name| name.contains("nacr"))
}

/// Whether nobody is in the mount namespace of a process but daemons of drives, and their supervisors: what they have
/// mounted there is of use to nobody. `false` where that cannot be told.
pub fn is_alone(pid: i32) -> bool {
    let namespace = |process: &Path| fs::read_link(process.join("ns/mnt"));
    let own = namespace(&Path::new("/proc").join(pid.to_string())).ok();
    let (Some(own), Ok(entries)) = (own, fs::read_dir("/proc")) else { return false };
    if namespace(Path::new("/proc/self")).is_ok_and(|here| here == own) {
        return false;
    }
    let is_process =
        |path: &Path| path.file_name().is_some_and(|n| n.as_bytes().iter().all(u8::is_ascii_digit));
    entries.flatten().map(|entry| entry.path()).filter(|path| is_process(path)).all(|process| {
        match namespace(&process) {
            Ok(other) => other != own || is_drives(&process),
            // It has ended; or it is init, into which even root may not be let, and which others are with.
            Err(e) => {
                matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
                    || process == Path::new("/proc/1")
            }
        }
    })
}

/// What a process that does not answer is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// A signal has stopped it.
    Stopped,
    /// A thread of it is in the kernel, and cannot be killed before that returns.
    Disk,
    Other,
}

/// What holds a process up, by the states of its threads (proc_pid_stat(5)); `None` where there is no such process.
pub fn held_up_by(pid: i32) -> Option<At> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let states: Vec<u8> = tasks.filter_map(|task| state_of(&task.path())).collect();
    Some(match states {
        states if states.iter().any(|s| matches!(s, b'T' | b't')) => At::Stopped,
        states if states.contains(&b'D') => At::Disk,
        _ => At::Other,
    })
}

/// The state of a thread: the letter behind its name.
fn state_of(task: &Path) -> Option<u8> {
    let stat = fs::read(task.join("stat")).ok()?;
    let behind = stat.iter().rposition(|b| *b == b')')? + 1;
    stat.get(behind..)?.trim_ascii_start().first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_file_open_is_named_and_who_asks_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let point = dir.path().canonicalize().unwrap();
        assert_eq!(of(&point), None);
        let open = fs::File::create(point.join("file")).unwrap();
        assert_eq!(of(&point), None, "this process has it open, and asks");
        let mut other = std::process::Command::new("sleep").arg("60").stdin(open).spawn().unwrap();
        let names = of(&point).unwrap();
        let elsewhere = of(&point.join("elsewhere"));
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(names.ends_with(&format!("[{}]", other.id())) && !names.contains(','), "{names}");
        assert_eq!(elsewhere, None);
    }

    #[test]
    fn who_shares_a_mount_namespace_with_us_is_not_alone() {
        assert!(!is_alone(std::process::id() as i32));
        assert!(!is_alone(i32::MAX), "there is no such process");
    }

    #[test]
    fn what_holds_a_process_up_is_told() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id() as i32;
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let comes_to = |state| {
            while held_up_by(pid) != state {
                assert!(std::time::Instant::now() < until, "{:?}, not {state:?}", held_up_by(pid));
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        };
        // Its own program may still be on its way from a slow disk: it is at the disk till then.
        comes_to(Some(At::Other));
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&child),
            rustix::process::Signal::STOP,
        )
        .unwrap();
        comes_to(Some(At::Stopped));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(held_up_by(pid), None);
    }

    #[test]
    fn the_parent_of_a_process_is_found_whatever_it_is_called() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("stat"), b"7 (a) b) 5 6) S 42 7 7 0\n").unwrap();
        assert_eq!(parent_of(dir.path()), Some("/proc/42".into()));
        assert_eq!(parent_of(&dir.path().join("gone")), None);
    }
}
