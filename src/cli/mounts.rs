//! The mounts of this machine, and which of them are ours.

use super::control::Client;
use super::paths::{file_url, resolve, resolve_anyway, resolve_parent, store_url, url_path};
use super::probe::{self, Answer};
use super::propagation;
use super::status::may_see;
use super::values::{DrivePath, escape};
use crate::error::{Context, Error, Kind, Result};
use crate::fuse::topmost;
use rustix::mount::UnmountFlags;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The file-system type of our mounts, as `/proc/self/mountinfo` shows it.
pub const FS_TYPE: &str = "fuse.nacrefs";
/// The attribute of a mounted root whose value is the path of the mount's control socket.
pub const CONTROL_XATTR: &str = "nacre.control";

/// The attribute whose value is the process that serves the mount.
const PID_XATTR: &str = "nacre.pid";
/// How long a daemon may have mounted without taking calls.
const STARTING: Duration = Duration::from_secs(2);

/// A line of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub id: u64,
    /// The id of the mount that it is on.
    pub parent: u64,
    /// `major:minor`: bind mounts of a drive have the same.
    pub device: String,
    /// Which directory of the file system is mounted: not `/` for a bind mount.
    pub root: PathBuf,
    pub point: PathBuf,
    /// Options of this mount point, between commas: `ro`, `nosuid`, …
    pub flags: String,
    /// Its peer group, if it is shared.
    pub shared: Option<u64>,
    /// The peer groups whose slave it is: the immediate one, and the nearest in sight.
    pub masters: Vec<u64>,
    pub fs_type: String,
    /// What is mounted: of ours, the store as it was given.
    pub source: String,
    /// Options of the file system, between commas.
    pub options: String,
    /// Whether this mount, or the file system, is read-only.
    pub read_only: bool,
    ours: bool,
}

impl Mount {
    pub fn is_ours(&self) -> bool {
        self.ours
    }

    /// The user and the group that mounted it, where FUSE tells: the daemon runs as that user, and nobody else may be
    /// let in.
    pub fn owner(&self) -> Option<(u32, u32)> {
        let id = |name: &str| self.options.split(',').find_map(|o| o.strip_prefix(name)?.parse().ok());
        Some((id("user_id=")?, id("group_id=")?))
    }
}

/// Reads the mounts of this process, oldest first.
pub fn list() -> Result<Vec<Mount>> {
    let text = std::fs::read("/proc/self/mountinfo").context(|| "cannot read /proc/self/mountinfo")?;
    Ok(parse(&text))
}

pub(super) fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|b| *b == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /root /point rw,noatime optional… - type source super-options`
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let mut id = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
    let (id, parent) = (id()?, id()?);
    let device = String::from_utf8_lossy(fields.next()?).into_owned();
    let root = unescape(fields.next()?);
    let point = unescape(fields.next()?);
    let flags = String::from_utf8_lossy(fields.next()?).into_owned();
    let tags: Vec<&str> =
        fields.by_ref().take_while(|f| *f != b"-").filter_map(|f| std::str::from_utf8(f).ok()).collect();
    let group = |name: &str| tags.iter().find_map(|tag| tag.strip_prefix(name)?.parse().ok());
    let shared = group("shared:");
    let masters = ["master:", "propagate_from:"].into_iter().filter_map(group).collect();
    let mut tail = fields;
    let fs_type = String::from_utf8_lossy(tail.next()?).into_owned();
    let source = unescape(tail.next().unwrap_or_default()).to_string_lossy().into_owned();
    let options = String::from_utf8_lossy(tail.next().unwrap_or_default()).into_owned();
    let ours =
        fs_type == FS_TYPE || (fs_type == "fuse" && options.split(',').any(|o| o == "subtype=nacrefs"));
    let read_only = [&flags, &options].iter().any(|list| list.split(',').any(|o| o == "ro"));
    Some(Mount {
        id,
        parent,
        device,
        root,
        point,
        flags,
        shared,
        masters,
        fs_type,
        source,
        options,
        read_only,
        ours,
    })
}

/// Undoes `\040` of the kernel, fstab and utab: blanks, tabs, line ends and backslashes are written as three octal digits.
pub fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

/// The mount that an absolute path lies in: of those above it the nearest, of those stacked the topmost.
fn above<'m>(mounts: &'m [Mount], path: &Path) -> Option<&'m Mount> {
    let above = mounts.iter().filter(|m| path.starts_with(&m.point));
    let nearest = above.map(|m| m.point.as_path()).max_by_key(|point| point.as_os_str().len())?;
    topmost_at(mounts, nearest)
}

/// Of these mounts the one on top at a place.
pub fn topmost_at<'m>(mounts: &'m [Mount], point: &Path) -> Option<&'m Mount> {
    let here: Vec<&Mount> = mounts.iter().filter(|m| m.point == point).collect();
    topmost(&here, |m| (m.id, m.parent)).copied()
}

/// What is mounted on exactly this directory, if anything; links on the way are followed, and a dead mount is
/// found without touching it.
pub fn at(dir: &Path) -> Result<Option<Mount>> {
    match at_exactly(&resolve_parent(dir)?)? {
        Some(mount) => Ok(Some(mount)),
        None => at_exactly(&resolve(dir)?),
    }
}

/// What is mounted at a path as mountinfo has it: the topmost.
pub fn at_exactly(path: &Path) -> Result<Option<Mount>> {
    Ok(topmost_at(&list()?, path).cloned())
}

/// Finds the drive that a path lies in, and the path from the drive's root. The path need not exist.
pub fn locate(path: &Path) -> Result<(Mount, DrivePath)> {
    let mounts = list()?;
    let typed = std::path::absolute(path).context(|| format!("cannot find {}", shown(path)))?;
    let inside = above(&mounts, &typed).filter(|m| m.is_ours() && m.point != typed);
    let mut found = match inside {
        // Who follows links in it waits for as long as its daemon is stopped.
        Some(mount) if matches!(mount.ask(), Ok(Answer::Silent)) => typed.clone(),
        // A link inside a drive is itself meant; a link to a drive means the drive.
        _ => resolve_parent(path)?,
    };
    if !above(&mounts, &found).is_some_and(Mount::is_ours) {
        found = resolve(path)?;
    }
    match above(&mounts, &found) {
        Some(mount) if mount.is_ours() => {
            let below = found.strip_prefix(&mount.point).unwrap_or(Path::new(""));
            Ok((mount.clone(), DrivePath::new(mount.root.join(below))?))
        }
        _ => Err(Error::new(
            Kind::NotADrive,
            format!("{} is not in a mounted nacrefs drive (use --store STORE without a mount)", shown(path)),
        )),
    }
}

/// Our mounts.
pub fn ours() -> Result<Vec<Mount>> {
    Ok(list()?.into_iter().filter(Mount::is_ours).collect())
}

/// The mount that is meant where none is named: the one around the current directory, else the only one.
pub fn implied() -> Result<Mount> {
    if let Ok((mount, _)) = locate(Path::new(".")) {
        return Ok(mount);
    }
    let mut mounts: Vec<_> = ours()?.into_iter().filter(may_see).collect();
    match (mounts.pop(), mounts.len()) {
        (Some(mount), 0) => Ok(mount),
        (None, _) => Err(Error::new(
            Kind::NotADrive,
            "no nacrefs drive is mounted (use --store STORE without a mount)",
        )),
        _ => Err(Error::new(Kind::Usage, "several nacrefs drives are mounted: say which")),
    }
}

/// Calls a mount's daemon.
pub fn daemon(mount: &Mount) -> Result<Client> {
    call(mount).map(|(client, _)| client)
}

/// Calls a mount's daemon, and says where.
pub fn call(mount: &Mount) -> Result<(Client, PathBuf)> {
    let until = Instant::now() + STARTING;
    loop {
        let socket = control_socket(mount)?;
        match Client::connect(&socket) {
            Err(e) if e.kind() != Kind::NotFound => return Err(e),
            // It has just mounted, or is about to end.
            Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(50)),
            Err(e) => return Err(mount.without_socket(&socket).with_source(e)),
            Ok(client) => return Ok((client.served_by(mount.owner())?, socket)),
        }
    }
}

/// Asks a mount's daemon where its control socket is.
pub fn control_socket(mount: &Mount) -> Result<PathBuf> {
    let point = &mount.point;
    match mount.ask()? {
        Answer::Value(path) if !path.is_empty() => Ok(PathBuf::from(OsString::from_vec(path))),
        Answer::Value(_) | Answer::Errno(libc::ENODATA | libc::EOPNOTSUPP) => {
            Err(Error::new(Kind::NotADrive, format!("{} is not a nacrefs mount", shown(point))))
        }
        Answer::Errno(libc::ENOTCONN) => Err(dead(point)),
        Answer::Errno(e) => Err(std::io::Error::from_raw_os_error(e))
            .context(|| format!("cannot ask the drive at {}", shown(point))),
        Answer::Silent => Err(silent(point)),
    }
}

/// The error for a mount whose daemon is there and does not answer.
fn silent(point: &Path) -> Error {
    Error::failed(format!(
        "the daemon of the drive at {} does not answer: it is stopped or stuck; if it stays so, kill it and mount \
         again, which goes on where it was",
        shown(point)
    ))
}

impl Mount {
    /// Whether its daemon is gone: the kernel answers in its place.
    pub fn is_dead(&self) -> bool {
        matches!(self.ask(), Ok(Answer::Errno(libc::ENOTCONN)))
    }

    /// Whether its daemon is there, and takes calls.
    pub fn answers(&self) -> bool {
        matches!(self.ask(), Ok(Answer::Value(_)))
    }

    /// Asks its daemon where its control socket is. An attribute, because the kernel would answer stat(2) from its
    /// cache, even for a daemon that is dead.
    fn ask(&self) -> Result<Answer> {
        // By its path: what is over it would answer.
        if at_exactly(&self.point)?.is_some_and(|over| over.id != self.id) {
            let point = shown(&self.point);
            let said = format!(
                "{}, mounted on {point}, lies below another mount there",
                escape(self.source.as_bytes())
            );
            return Err(Error::new(Kind::Conflict, said));
        }
        let ask = || probe::getxattr(&self.point, CONTROL_XATTR, self.owner());
        match ask()? {
            // It was killed, and ended while it was asked: from now on the kernel answers in its place.
            Answer::Errno(libc::ECONNABORTED) => ask(),
            answer => Ok(answer),
        }
    }

    /// The process that serves it, as it says itself; `None` where it says nothing that is so.
    pub fn daemon_pid(&self) -> Option<i32> {
        let Ok(Answer::Value(said)) = probe::getxattr(&self.point, PID_XATTR, self.owner()) else {
            return None;
        };
        let pid: i32 = std::str::from_utf8(&said).ok()?.parse().ok()?;
        // What a user has mounted could name anybody's process.
        self.owner().is_some_and(|(user, _)| is_run_by(pid, user)).then_some(pid)
    }

    /// The error for a mount that answers, and whose control socket is gone: `NotFound`.
    fn without_socket(&self, socket: &Path) -> Error {
        let point = shown(&self.point);
        let what = format!(
            "the drive at {point} works, but its control socket {} is gone: somebody has removed it, or moved the state \
             directory away, or it was mounted where that path leads elsewhere (a chroot, a container); ",
            shown(socket)
        );
        let helps = match self.daemon_pid() {
            Some(pid) => format!("`kill {pid}` stores everything and unmounts"),
            None => format!("`nacrefs umount --force {point}` unmounts"),
        };
        Error::new(Kind::NotFound, what + &helps)
    }

    /// The store's URL, of a mount of ours: its source is the store as it was given, a path or a URL.
    pub fn store(&self) -> String {
        store_url(Path::new(&self.source)).unwrap_or_else(|_| self.source.clone())
    }

    /// Whether it is a mount of the store with this URL. The source is what was given then, so links are followed in
    /// both.
    pub fn is_of(&self, store: &str) -> bool {
        let real = |url: String| url_path(&url).map_or(url, |path| file_url(&resolve_anyway(&path)));
        self.source == store || real(self.store()) == real(store.to_owned())
    }

    /// What to say of what is mounted inside a dead mount: it is out of reach, and goes along.
    pub fn told_inside(&self) -> Result<Option<String>> {
        told_inside(&self.point, "dead mount")
    }

    /// The error for a dead mount of another drive where one is to be mounted.
    pub fn dead_of_another(&self) -> Error {
        let (point, source) = (shown(&self.point), escape(self.source.as_bytes()));
        let said = format!(
            "the dead mount of another drive, {source}, is on {point}: `nacrefs umount {point}` clears it; or mount on \
             another directory"
        );
        Error::new(Kind::Conflict, said)
    }

    /// Where else the same drive is mounted: bind mounts, what it was made from, or what has come along with a
    /// directory that is bound elsewhere ([`propagation`]); perhaps at the same place.
    pub fn twins(&self) -> Result<Vec<Mount>> {
        Ok(list()?.into_iter().filter(|m| self.is_twin(m)).collect())
    }

    fn is_twin(&self, other: &Mount) -> bool {
        other.device == self.device && other.id != self.id
    }

    /// Whether the drive surely stays mounted at another place when it is unmounted from this one.
    pub fn has_twin_that_stays(&self) -> Result<bool> {
        let all = list()?;
        Ok(all.iter().filter(|m| self.is_twin(m)).any(|twin| propagation::stays(twin, self, &all)))
    }
}

/// What to say of what is mounted inside a mount that is taken away: it goes along.
pub fn told_inside(point: &Path, what: &str) -> Result<Option<String>> {
    let all = list()?;
    let inside = all.iter().filter(|m| m.point != point && m.point.starts_with(point));
    let names: Vec<String> = inside.map(|m| shown(&m.point)).collect();
    Ok((!names.is_empty()).then(|| {
        let (names, point) = (names.join(", "), shown(point));
        format!("unmounted along with the {what} at {point}, to be mounted again: {names}")
    }))
}

/// Parts mounts into those that are still there and those that are gone.
pub fn still_there(mounts: Vec<Mount>) -> Result<(Vec<Mount>, Vec<Mount>)> {
    let now = list()?;
    Ok(mounts.into_iter().partition(|m| now.iter().any(|n| n.id == m.id && n.device == m.device)))
}

/// Whether a process is one of ours, and runs as this user. (Who owns its files in /proc does not tell: its memory is
/// protected.)
fn is_run_by(pid: i32, user: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let word = |name: &str, nth| {
        status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().nth(nth))
    };
    // `nacrefs`, `mount.nacrefs`, and `mount.fuse.nacr`: a name has 15 bytes there.
    word("Name:", 0).is_some_and(|name| name.contains("nacr"))
        && word("Uid:", 1).and_then(|uid| uid.parse().ok()) == Some(user)
}

/// The error for a mount whose daemon is gone.
pub fn dead(point: &Path) -> Error {
    let point = shown(point);
    Error::failed(format!(
        "the drive at {point} has lost its daemon: `nacrefs umount {point}` clears it, and a new mount goes on where it was"
    ))
}

/// What is mounted at a place just before a drive is. Others may mount there at the same time, and the kernel would
/// stack them.
pub struct Ground {
    point: PathBuf,
    /// Devices.
    below: Vec<String>,
    dead: Option<String>,
}

impl Ground {
    /// Looks at the place, and clears it of dead mounts of the drive whose store's URL this is, but for the one at the
    /// bottom: the new mount is to take its place ([`Ground::dead`]), so that nobody finds the bare directory in between
    /// and writes to it. That of another drive stays: its own supervisor or service may be about to take its place, and
    /// whoever goes on there is not to write into the wrong drive. With `dead`, the device of one, that one must be
    /// there.
    ///
    /// # Errors
    /// `Conflict` where another drive is mounted there, or has left its dead mount; `NotADrive` where `dead` is gone.
    pub fn prepare(point: &Path, store: &str, dead: Option<&str>) -> Result<Ground> {
        let found = at_exactly(point)?.filter(Mount::is_ours);
        if dead.is_some_and(|dead| !found.as_ref().is_some_and(|m| m.device == dead && m.is_dead())) {
            let point = shown(point);
            return Err(Error::new(Kind::NotADrive, format!("{point} was unmounted meanwhile")));
        }
        let is_own = |mount: &Mount| dead == Some(mount.device.as_str()) || mount.is_of(store);
        loop {
            let all = list()?;
            let here: Vec<&Mount> = all.iter().filter(|m| m.point == point).collect();
            let top = topmost(&here, |m| (m.id, m.parent)).filter(|m| m.is_ours());
            if let Some(mount) = top {
                if !mount.is_dead() {
                    return Err(taken(point));
                }
                if !is_own(mount) {
                    return Err(mount.dead_of_another());
                }
                if let Some(inside) = mount.told_inside()? {
                    tracing::warn!("{inside}");
                }
                if here.iter().any(|m| m.id == mount.parent && m.is_ours() && is_own(m)) {
                    super::umount::detach(point, UnmountFlags::DETACH)?;
                    continue;
                }
            }
            let below = here.iter().map(|m| m.device.clone()).collect();
            return Ok(Ground { point: point.to_owned(), below, dead: top.map(|m| m.device.clone()) });
        }
    }

    /// The device of the dead mount on top, in whose place to mount.
    pub fn dead(&self) -> Option<&str> {
        self.dead.as_deref()
    }

    /// To be asked after mounting: an error where another drive was mounted there first, since [`Ground::prepare`]. Of
    /// two, the one below stays.
    pub fn check(&self, device: &str) -> Result<()> {
        match self.is_first(&list()?, device) {
            true => Ok(()),
            false => Err(taken(&self.point)),
        }
    }
}

impl Ground {
    fn is_first(&self, mounts: &[Mount], device: &str) -> bool {
        let mut found = mounts.iter().find(|m| m.point == self.point && m.device == device);
        // Somebody else has unmounted it already.
        if found.is_none() {
            return false;
        }
        while let Some(mount) = found {
            if mount.device != device && mount.is_ours() && !self.below.contains(&mount.device) {
                return false;
            }
            found = mounts.iter().find(|m| m.id == mount.parent && m.id != mount.id && m.point == self.point);
        }
        true
    }
}

fn taken(point: &Path) -> Error {
    let said = format!("another drive was mounted on {} at the same time", shown(point));
    Error::new(Kind::Conflict, said)
}

pub fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &[u8] = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        40 22 0:50 / /home/joe/my\\040drive rw,nosuid shared:9 master:2 - fuse.nacrefs file:///s rw,user_id=1000,group_id=100\n\
        41 22 0:51 /sub /srv/bind rw - fuse nacrefs rw,subtype=nacrefs\n\
        42 22 0:52 / /mnt rw - fuse.sshfs host: rw\n\
        43 40 0:53 / /home/joe/my\\040drive/usb rw - vfat /dev/sdb rw\n\
        44 22 0:54 / /a\\134b\\011c\\012 rw - tmpfs tmpfs rw\n\
        short line\n\n\
        45 22 0:55 / /nodash rw";

    #[test]
    fn mountinfo_is_read() {
        let mounts = parse(INFO);
        assert_eq!(mounts.len(), 6);
        assert_eq!(mounts[1].flags, "rw,nosuid");
        let ours = mounts.iter().filter(|m| m.is_ours()).map(|m| m.point.as_path()).collect::<Vec<_>>();
        assert_eq!(ours, [Path::new("/home/joe/my drive"), Path::new("/srv/bind")]);
        assert_eq!(mounts[5].point, Path::new("/a\\b\tc\n"));
        assert_eq!(mounts[2].root, Path::new("/sub"));
        assert_eq!((mounts[1].id, mounts[1].parent), (40, 22));
        assert_eq!((mounts[1].shared, mounts[1].masters.as_slice()), (Some(9), &[2][..]));
        assert_eq!((mounts[2].shared, mounts[2].masters.as_slice()), (None, &[][..]));
        assert_eq!((mounts[1].device.as_str(), mounts[1].source.as_str()), ("0:50", "file:///s"));
        assert_eq!((mounts[1].owner(), mounts[2].owner()), (Some((1000, 100)), None));
    }

    #[test]
    fn the_nearest_and_topmost_mount_counts() {
        let mut mounts = parse(INFO);
        let point = |mounts: &[Mount], p: &str| above(mounts, Path::new(p)).map(|m| m.fs_type.clone());
        assert_eq!(point(&mounts, "/home/joe/my drive/a").as_deref(), Some("fuse.nacrefs"));
        assert_eq!(point(&mounts, "/home/joe/my drive/usb/a").as_deref(), Some("vfat"));
        assert_eq!(point(&mounts, "/home/joe/my driveway").as_deref(), Some("ext4"));
        let mut over = mounts[0].clone();
        over.fs_type = "overlay".into();
        mounts.push(over);
        assert_eq!(point(&mounts, "/etc").as_deref(), Some("overlay"));
    }

    #[test]
    fn octal_is_undone_and_nothing_else() {
        for (field, path) in [(&b"a\\040b"[..], "a b"), (b"\\04", "\\04"), (b"\\", "\\"), (b"\\999", "\\999")]
        {
            assert_eq!(unescape(field), Path::new(path));
        }
    }

    #[test]
    fn this_machine_has_mounts_and_tmp_is_not_ours() {
        assert!(!list().unwrap().is_empty());
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(locate(&dir.path().join("gone/file")).unwrap_err().kind(), Kind::NotADrive);
        assert_eq!(at(dir.path()).unwrap(), None);
        let mut no_drive = list().unwrap().pop().unwrap();
        no_drive.point = dir.path().to_owned();
        assert_eq!(control_socket(&no_drive).unwrap_err().kind(), Kind::NotADrive);
        assert!(!no_drive.is_dead());
    }

    #[test]
    fn of_two_that_are_mounted_at_once_the_lower_one_stays_whichever_was_made_first() {
        let line = |id, parent, device| format!("{id} {parent} 0:{device} / /m rw - fuse.nacrefs s rw\n");
        let ground = |below: &[&str]| Ground {
            point: "/m".into(),
            below: below.iter().map(|d| d.to_string()).collect(),
            dead: None,
        };
        let stacked = parse([line(90, 91, 50), line(91, 22, 51)].concat().as_bytes());
        assert!(ground(&[]).is_first(&stacked, "0:51") && !ground(&[]).is_first(&stacked, "0:50"));
        assert!(ground(&["0:51"]).is_first(&stacked, "0:50"), "it was there before");
        assert!(!ground(&[]).is_first(&stacked, "0:52"), "it is gone");
        assert_eq!(topmost_at(&stacked, Path::new("/m")).unwrap().device, "0:50");
        assert_eq!(above(&stacked, Path::new("/m/f")).unwrap().device, "0:50");
    }
}
