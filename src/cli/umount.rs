//! `nacrefs umount`, and what umount(8) runs for our type: commit, detach, and wait until the daemon is gone.

use super::args;
use super::control::{Client, LogEntry, Progress, Reply, Request, Status};
use super::holders;
use super::mounts::{self, Mount, shown};
use super::output::Screen;
use super::paths::store_url;
use super::utab;
use super::values::human_size;
use crate::error::{Context, Error, Kind, Result};
use crate::fuse::fusermount;
use crate::types::Version;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io::IsTerminal;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long the daemon may take to end after it was detached (it has committed, or was told not to), or say nothing.
const END_TIME: Duration = Duration::from_secs(120);
/// How long it usually takes at most; who takes longer may be mounted in another namespace as well.
const CLOSE_TIME: Duration = Duration::from_secs(2);
/// How long `--force` waits for a daemon to say that everything is in its journal, and then for its end.
const FORCE_TIME: Duration = Duration::from_secs(5);
const FORCE_END_TIME: Duration = Duration::from_secs(20);
/// How often everything is committed anew because somebody was at the mount meanwhile.
const ROUNDS: usize = 8;
/// How long root waits for another umount of a drive that is another user's.
const ANOTHERS_TIME: Duration = Duration::from_secs(10);
const LOCK_STEP: Duration = Duration::from_millis(50);
/// Who has no terminal is told how much is left after this time, and then each time this has passed again.
const FIRST_WORD: Duration = Duration::from_secs(3);
const NEXT_WORD: Duration = Duration::from_secs(10);

pub fn run(args: &args::Umount) -> Result<()> {
    let store = args.store.as_deref().map(store_url).transpose()?;
    let mount = match mounts::at(&args.dir)? {
        Some(mount) if store.is_some_and(|store| mount.is_ours() && !mount.is_of(&store)) => return Ok(()),
        Some(mount) if mount.is_ours() => mount,
        _ if args.dead => return Ok(()),
        _ => return Err(Error::new(Kind::NotADrive, format!("{} is not a nacrefs mount", shown(&args.dir)))),
    };
    // Where it was called from is not to keep it busy.
    std::env::set_current_dir("/").context(|| "cannot leave the directory")?;
    let twins = mount.twins()?;
    let state_dir = utab::state_dir(&mount.point);
    leave(args, &mount)?;
    let (stayed, gone) = mounts::still_there(twins)?;
    if let Some(dir) = state_dir {
        utab::keep_for(&dir, &stayed.into_iter().map(|twin| twin.point).collect::<Vec<_>>());
    }
    // A daemon that was killed does not do this. One that goes on is mounted elsewhere, and sees to its entries.
    for Mount { point, .. } in gone.iter().chain([&mount]) {
        let is_served = mounts::at_exactly(point)?.is_some_and(|m| m.is_ours());
        if !is_served && !holders::serves_elsewhere(&mount, point) {
            utab::forget(point);
        }
    }
    Ok(())
}

fn leave(args: &args::Umount, mount: &Mount) -> Result<()> {
    if args.dead && !mount.is_dead() {
        return Ok(());
    }
    // Neither asks the daemon, which may hang, and which `--lazy` is not to wait for.
    if args.lazy {
        return take_away(mount, UnmountFlags::DETACH);
    }
    if args.force {
        return force(mount);
    }
    if mount.is_dead() {
        if let Some(inside) = mount.told_inside()? {
            eprintln!("nacrefs: {inside}");
        }
        return take_away(mount, UnmountFlags::DETACH);
    }
    // Who does not want to wait for the store does not wait for whoever does, and leaves no mark.
    let _alone = if args.local { None } else { one_at_a_time(mount)? };
    if mount.has_twin_that_stays()? {
        return take_away(mount, UnmountFlags::empty());
    }
    match store_and_detach(mount, args.local) {
        Err(e) if e.kind() == Kind::Conflict && args.read_only && !mount.is_dead() => {
            mount_remount(&mount.point, MountFlags::RDONLY, c"").map_err(|_| e)
        }
        done => done,
    }
}

/// Stores everything (or with `local` leaves it in the journal), unmounts, and waits for the end of the daemon.
fn store_and_detach(mount: &Mount, local: bool) -> Result<()> {
    let point = &mount.point;
    let (client, socket) = mounts::call(mount)?;
    let pid = client.pid();
    let daemon = pid.map_or(Ok(None), handle)?;
    drop(client);
    let twins = mount.twins()?;
    let mut screen = Left::new(point);
    let mut state = if local { Expired::No } else { expire(mount)? };
    for _ in 0..ROUNDS {
        // A mark that somebody else had left: the daemon stores the rest at its end.
        if state == Expired::Gone {
            break;
        }
        // While it stores, it says how much is left.
        let client = Client::connect(&socket)?.served_by(mount.owner())?.within(END_TIME)?;
        let stored = client.ask(&Request::Umount { local }, &mut screen);
        stored.map_err(|e| match () {
            () if is_gone(mount) => by_another(point).with_source(e),
            () if mount.is_dead() => e,
            () if local => {
                let why = "the journal cannot keep the rest, and the store did not take it";
                e.context(format!("{} is still mounted: {why}", shown(point)))
            }
            () => still_mounted(point, e),
        })?;
        if state == Expired::No {
            break;
        }
        // Nobody has touched the mount since the mark, so nothing came after what was stored. Otherwise it is marked
        // anew: once more.
        state = expire(mount)?;
    }
    screen.screen.finish()?;
    if state != Expired::Gone {
        take_away(mount, UnmountFlags::empty())?;
    }
    // What was to go along has stayed, as a mount does that has others inside: the daemon goes on for it.
    if !mounts::still_there(twins)?.0.is_empty() {
        return Ok(());
    }
    let Some(daemon) = daemon else { return Ok(()) };
    if wait_end(&daemon, CLOSE_TIME)? {
        return Ok(());
    }
    if let Some(who) = holders::elsewhere(mount) {
        // All that was written here is stored; the daemon goes on for them.
        eprintln!(
            "nacrefs: {} is unmounted, but still mounted where {who} runs (another mount namespace)",
            shown(point)
        );
        return Ok(());
    }
    let waits = waits_for(pid.map_or(0, Pid::as_raw_pid));
    eprintln!("nacrefs: {} is unmounted; waiting for its daemon to end: {waits}", shown(point));
    match wait_end(&daemon, END_TIME)? {
        true => Ok(()),
        false => Err(Error::failed(format!(
            "{} is unmounted, but its daemon has not ended within {} s: {waits}",
            shown(point),
            END_TIME.as_secs()
        ))),
    }
}

/// What keeps a daemon from ending, for people.
fn waits_for(pid: i32) -> String {
    match holders::held_up_by(pid) {
        Some(holders::At::Disk) => format!(
            "process {pid} waits for a disk or a network that does not answer, the store's or the state directory's, \
             and ends when that does; until then the drive cannot be mounted again"
        ),
        Some(holders::At::Stopped) => format!("process {pid} is stopped; `kill -CONT {pid}` lets it go on"),
        _ => format!("process {pid} is at work"),
    }
}

/// Whether the mount is no more where it was.
fn is_gone(mount: &Mount) -> bool {
    mounts::at_exactly(&mount.point).is_ok_and(|found| found.is_none_or(|m| m.device != mount.device))
}

/// Whether all was stored, only whoever was faster knows.
fn by_another(point: &Path) -> Error {
    Error::new(Kind::NotADrive, format!("somebody else has unmounted {} meanwhile", shown(point)))
}

/// Waits until nobody else is unmounting the drive, and keeps others waiting until it is dropped. Two at once would each
/// take the other's mark for nobody's (MNT_EXPIRE), or the other's place for one that stays.
fn one_at_a_time(mount: &Mount) -> Result<Option<OwnedFd>> {
    // Where that cannot be told, what comes next says why. The directory is its daemon's, who has a lock in it.
    let Ok(socket) = mounts::control_socket(mount) else { return Ok(None) };
    let Some(dir) = socket.parent().and_then(|dir| directory_of(mount, dir)) else { return Ok(None) };
    // Another user could keep root from unmounting, and root's other drives with it (`umount -a`).
    let of_another = mount.owner().is_some_and(|(user, _)| user != rustix::process::geteuid().as_raw());
    let until = of_another.then(|| Instant::now() + ANOTHERS_TIME);
    let mut waited = false;
    let locked = loop {
        match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if until.is_some_and(|until| Instant::now() >= until) => break Ok(()),
            Err(Errno::WOULDBLOCK) => {
                if !std::mem::replace(&mut waited, true) {
                    eprintln!("nacrefs: waiting for another umount of the drive at {}", shown(&mount.point));
                }
                std::thread::sleep(LOCK_STEP);
            }
            locked => break locked,
        }
    };
    if waited && is_gone(mount) {
        return Err(by_another(&mount.point));
    }
    locked.map_err(std::io::Error::from).context(|| format!("cannot lock {}", shown(&socket)))?;
    Ok(Some(dir))
}

/// The directory that a mount names, if it is its owner's: a mount of another user's could name a device, or a pipe.
fn directory_of(mount: &Mount, dir: &Path) -> Option<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let dir = rustix::fs::open(dir, flags, Mode::empty()).ok()?;
    let owner = rustix::fs::fstat(&dir).ok()?.st_uid;
    mount.owner().is_some_and(|(user, _)| user == owner).then_some(dir)
}

fn still_mounted(point: &Path, e: Error) -> Error {
    let point = shown(point);
    match e.kind() {
        Kind::Away => e.context(format!(
            "{point} is still mounted: the store is out of reach; --local unmounts and keeps the rest in the journal"
        )),
        // Failed: a store that is read-only, or not to be written to by us.
        Kind::NoSpace | Kind::Damage | Kind::Conflict | Kind::Failed => e.context(format!(
            "{point} is still mounted, for not all of it could be stored; --local unmounts and keeps the rest in the journal"
        )),
        _ => e,
    }
}

#[derive(PartialEq, Eq)]
enum Expired {
    /// It was marked, and nobody has touched it since: it is unmounted.
    Gone,
    /// It has the mark now.
    Marked,
    /// It is in use, or the caller is not root.
    No,
}

/// Marks a mount, or unmounts it if the mark is still there (MNT_EXPIRE in umount(2)).
fn expire(mount: &Mount) -> Result<Expired> {
    if !is_on_top(mount)? {
        return Ok(Expired::No);
    }
    Ok(match unmount(&mount.point, UnmountFlags::EXPIRE | UnmountFlags::NOFOLLOW) {
        Ok(()) => Expired::Gone,
        Err(Errno::AGAIN) => Expired::Marked,
        Err(_) => Expired::No,
    })
}

/// Whether a mount is where it was, so that what is done to the place is done to it: to store all that is left takes
/// time, and others mount and move meanwhile. `false`: it is unmounted already.
///
/// # Errors
/// `Conflict` where something else is over it, or it was moved.
fn is_on_top(mount: &Mount) -> Result<bool> {
    let point = shown(&mount.point);
    let all = mounts::list()?;
    let Some(now) = all.iter().find(|m| m.id == mount.id && m.device == mount.device) else {
        return Ok(false);
    };
    let conflict = |what: String| Err(Error::new(Kind::Conflict, what));
    if now.point != mount.point {
        return conflict(format!(
            "the drive was moved from {point} to {} meanwhile, and is still mounted",
            shown(&now.point)
        ));
    }
    match mounts::topmost_at(&all, &mount.point).is_some_and(|top| top.id != mount.id) {
        true => conflict(format!(
            "{point} is still mounted: something else was mounted over it meanwhile; unmount that first"
        )),
        false => Ok(true),
    }
}

/// [`detach`]es a mount, and nothing that may have come to its place since.
fn take_away(mount: &Mount, flags: UnmountFlags) -> Result<()> {
    match is_on_top(mount)? {
        true => detach(&mount.point, flags),
        false => Ok(()),
    }
}

/// Unmounts whatever the store and the daemon say, and cuts off whoever has files open.
fn force(mount: &Mount) -> Result<()> {
    let point = &mount.point;
    let (tell, told) = mpsc::channel::<Result<Option<OwnedFd>>>();
    let asked = mount.clone();
    let ask = move || {
        let client = mounts::daemon(&asked)?;
        let daemon = client.pid().map_or(Ok(None), handle)?;
        client.ask(&Request::Umount { local: true }, &mut Screen::new(false))?;
        Ok(daemon)
    };
    let twins = mount.twins()?;
    // On a thread that is not waited for: a daemon that hangs is what this is for.
    std::thread::Builder::new()
        .name("force".into())
        .spawn(move || tell.send(ask()))
        .context(|| "cannot start a thread")?;
    let force = UnmountFlags::FORCE | UnmountFlags::DETACH;
    let daemon = match told.recv_timeout(FORCE_TIME) {
        Ok(Ok(daemon)) => daemon,
        _ => return take_away(mount, force),
    };
    match take_away(mount, UnmountFlags::empty()) {
        Err(e) if e.kind() == Kind::Conflict => take_away(mount, force),
        done => done,
    }?;
    // Only while this process is there does what is not stored stay in the journal; and the next mount needs what the
    // daemon holds.
    let waits = match mounts::still_there(twins)?.0.is_empty() {
        true => daemon,
        false => None,
    };
    if waits.is_some_and(|daemon| wait_end(&daemon, FORCE_END_TIME).is_ok_and(|ended| !ended)) {
        eprintln!("nacrefs: {} is unmounted, and its daemon goes on until nobody uses it", shown(point));
    }
    Ok(())
}

/// Takes a mount away; with `DETACH` even where it is in use or dead.
pub fn detach(point: &Path, flags: UnmountFlags) -> Result<()> {
    match unmount(point, flags | UnmountFlags::NOFOLLOW) {
        // EINVAL: somebody else was faster. At a shutdown both the service and its mount unit are stopped.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(Errno::BUSY) => Err(busy(point)),
        Err(Errno::PERM) => detach_as_user(point, flags.contains(UnmountFlags::DETACH)),
        Err(e) => Err(std::io::Error::from(e)).context(|| format!("cannot unmount {}", shown(point))),
    }
}

pub fn busy(point: &Path) -> Error {
    let by = match holders::of(point) {
        Some(names) => format!("by {names}"),
        None => format!("(`fuser -vm {}` shows by whom)", shown(point)),
    };
    Error::new(Kind::Conflict, format!("{} is busy, and still mounted: it is in use {by}", shown(point)))
}

/// Ordinary users unmount through the setuid helper of libfuse.
fn detach_as_user(point: &Path, lazy: bool) -> Result<()> {
    let output = Command::new(fusermount())
        .args(if lazy { &["-u", "-z", "--"][..] } else { &["-u", "--"] })
        .arg(point)
        .stdin(Stdio::null())
        .output()
        .context(|| "cannot run fusermount3, without which only root can unmount: install fuse3")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(())
    } else if said.contains("busy") {
        Err(busy(point))
    } else {
        Err(Error::failed(format!("cannot unmount {}: {}", shown(point), said.trim())))
    }
}

/// A handle on the daemon that cannot come to mean another process; `None` where it has ended, or where the
/// kernel has no such handles.
fn handle(pid: Pid) -> Result<Option<OwnedFd>> {
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::SRCH | Errno::NOSYS) => Ok(None),
        Err(e) => Err(std::io::Error::from(e)).context(|| "cannot watch the daemon"),
    }
}

/// Waits until the process has ended, and with it its lock on the state directory; `false` after `time`.
fn wait_end(process: &OwnedFd, time: Duration) -> Result<bool> {
    let mut poll = libc::pollfd { fd: process.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: `poll` is one valid pollfd, for the time of the call.
    match unsafe { libc::poll(&mut poll, 1, time.as_millis() as libc::c_int) } {
        0 => Ok(false),
        -1 => Err(std::io::Error::last_os_error()).context(|| "cannot wait for the daemon"),
        _ => Ok(true),
    }
}

/// Shows how much is left: as a bar on a terminal, else (at boot and shutdown) now and then as a line on standard
/// error.
struct Left<'a> {
    screen: Screen,
    point: &'a Path,
    terminal: bool,
    since: Instant,
    next: Duration,
}

impl Left<'_> {
    fn new(point: &Path) -> Left<'_> {
        let terminal = std::io::stderr().is_terminal();
        Left { screen: Screen::new(false), point, terminal, since: Instant::now(), next: FIRST_WORD }
    }

    /// The line that is due after `passed`, if one is.
    fn line(&mut self, progress: &Progress, passed: Duration) -> Option<String> {
        if passed < self.next {
            return None;
        }
        self.next = passed + NEXT_WORD;
        let left = progress.total.map(|total| human_size(total.saturating_sub(progress.done)));
        let left = left.map_or("not all is stored yet".to_owned(), |left| format!("{left} left to store"));
        Some(format!("nacrefs: {}: {left}, after {} s", shown(self.point), passed.as_secs()))
    }
}

impl Reply for Left<'_> {
    fn progress(&mut self, progress: &Progress) -> Result<()> {
        if self.terminal {
            return self.screen.progress(progress);
        }
        if let Some(line) = self.line(progress, self.since.elapsed()) {
            eprintln!("{line}");
        }
        Ok(())
    }

    fn status(&mut self, status: &Status) -> Result<()> {
        self.screen.status(status)
    }

    fn entry(&mut self, entry: &LogEntry) -> Result<()> {
        self.screen.entry(entry)
    }

    fn version(&mut self, version: Version) -> Result<()> {
        self.screen.version(version)
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.screen.data(bytes)
    }

    fn log_level(&mut self, level: &str) -> Result<()> {
        self.screen.log_level(level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_process_is_awaited() {
        let mut child = Command::new("sleep").arg("0.2").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let start = std::time::Instant::now();
        assert!(!wait_end(&handle(pid).unwrap().unwrap(), Duration::from_millis(10)).unwrap());
        assert!(wait_end(&handle(pid).unwrap().unwrap(), END_TIME).unwrap());
        assert!(start.elapsed() >= Duration::from_millis(150));
        child.wait().unwrap();
        assert!(handle(pid).unwrap().is_none());
    }

    /// Root would open whatever device another user's mount names, and wait for ever at a pipe.
    #[test]
    fn only_a_directory_of_the_mounts_owner_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let me = rustix::process::geteuid().as_raw();
        let mount = |user| {
            let line = format!("40 22 0:50 / /m rw - fuse.nacrefs s rw,user_id={user},group_id=0");
            mounts::parse(line.as_bytes()).pop().unwrap()
        };
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert!(directory_of(&mount(me), dir.path()).is_some());
        assert!(directory_of(&mount(me + 1), dir.path()).is_none());
        for other in [pipe, "/dev/null".into(), dir.path().join("none")] {
            assert!(directory_of(&mount(me), &other).is_none());
        }
    }

    #[test]
    fn only_our_mounts_are_unmounted() {
        for dir in ["/", "/proc", "/no/such"] {
            for lazy in [false, true] {
                let args = args::Umount { dir: dir.into(), lazy, ..args::Umount::default() };
                assert_eq!(run(&args).unwrap_err().exit_status(), 7, "{dir}");
            }
        }
    }

    #[test]
    fn how_much_is_left_is_told_now_and_then() {
        let mut left = Left::new(Path::new("/mnt"));
        let at = |done| Progress { what: "committing".into(), done, total: Some(3 << 30), counted: false };
        let mut said = |done: u64, second| left.line(&at(done), Duration::from_secs(second));
        assert_eq!(said(0, 2), None);
        assert_eq!(said(1 << 30, 4).unwrap(), "nacrefs: /mnt: 2.0 GiB left to store, after 4 s");
        assert_eq!(said(1 << 30, 13), None);
        assert!(said(4 << 30, 15).unwrap().contains("0 B left"));
    }
}
