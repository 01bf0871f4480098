//! A line in `/run/mount/utab`, so that umount(8) finds our umount helper.
//!
//! libmount saves itself reading mountinfo where it can: `umount /absolute/path` as root asks statfs(2) for the
//! type, which for all of FUSE is `fuse`, and so runs `umount.fuse`, not `umount.fuse.nacrefs`; unless utab, where
//! libmount keeps the options that the kernel does not, has an entry for the place. Our entry has a source of its
//! own: so libmount takes it for none of its own entries, and goes on to write those. (libmount 2.36 to 2.41:
//! `lookup_umount_fs_by_statfs`, `mnt_update_already_done`, `mnt_table_merge_user_fs`.)
//!
//! It also says where the state directory is, for `nacrefs doctor`: a daemon that has died cannot be asked.

mod watch;

use super::mounts::{self, unescape};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use watch::Watch;

const DIR: &str = "/run/mount";
const FILE: &str = "utab";
const SOURCE: &str = "SRC=nacrefs-umount-helper ";
/// What precedes the state directory, at the end of the line.
const STATE: &str = " ROOT=/ OPTS=helper=nacrefs,state_dir=";
/// How long to wait for the file's lock: whoever may read the lock file (everybody, as libmount makes it) can hold it for
/// ever.
const LOCK_TIME: Duration = Duration::from_secs(2);
const LOCK_STEP: Duration = Duration::from_millis(20);

/// The entries of a drive, one for each place where it is mounted, for as long as this lives.
///
/// The kernel mounts it at places that nobody is told of (propagation), and umount(8) takes an entry along when it has
/// unmounted there, also in another mount namespace, where only a copy of the mount has gone; the file is the same for
/// all. So a thread looks after them whenever the mounts or the file change.
pub struct Entries {
    table: Table,
    watch: Option<Watch>,
}

impl Entries {
    /// Makes the entry of a new mount, where this process may: only root can. Without it everything works but that
    /// `umount` does not wait for the store.
    pub fn keep(point: &Path, state_dir: &Path) -> Option<Entries> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let table = Table::new(Path::new(DIR), state_dir);
        if let Err(e) = table.claim(point) {
            // The thread tries again.
            tracing::warn!("plain `umount` does not wait for the store yet: cannot write {DIR}/{FILE}: {e}");
        }
        let watch = mounts::at_exactly(point).ok().flatten().map(|m| Watch::start(table.clone(), m));
        let watch = watch.and_then(|started| {
            started
                .inspect_err(|e| tracing::warn!("plain `umount` may not wait for the store: {}", e.chain()))
                .ok()
        });
        Some(Entries { table, watch })
    }
}

impl Drop for Entries {
    fn drop(&mut self) {
        // It would make anew what is removed.
        self.watch.take();
        if let Err(e) = self.table.give_up() {
            tracing::debug!("cannot remove the entries in {DIR}/{FILE}: {e}");
        }
    }
}

/// For the places where a drive stays mounted when it goes from one: its daemon would see to that as well, a moment later.
pub fn keep_for(state_dir: &Path, points: &[PathBuf]) {
    if rustix::process::geteuid().is_root()
        && let Err(e) = Table::new(Path::new(DIR), state_dir).add(points)
    {
        tracing::debug!("cannot write {DIR}/{FILE}: {e}");
    }
}

/// Removes the entry that a daemon has left which was killed.
pub fn forget(point: &Path) {
    let dir = Path::new(DIR);
    if rustix::process::geteuid().is_root()
        && dir.join(FILE).exists()
        && let Err(e) = rewrite(dir, |lines| lines.retain(|line| !is_of_place(line, &place(point))))
    {
        tracing::debug!("cannot remove the entry in {DIR}/{FILE}: {e}");
    }
}

/// Where the daemon that serves a mount of root's, or served it until it was killed, has its state.
pub fn state_dir(point: &Path) -> Option<PathBuf> {
    state_dir_in(Path::new(DIR), point)
}

/// The file, as one drive sees it.
#[derive(Clone)]
struct Table {
    dir: PathBuf,
    /// What all entries of the drive end with.
    state: Vec<u8>,
}

impl Table {
    fn new(dir: &Path, state_dir: &Path) -> Table {
        Table { dir: dir.to_owned(), state: [STATE.as_bytes(), &escape(state_dir), b"\n"].concat() }
    }

    fn line(&self, point: &Path) -> Vec<u8> {
        [place(point).as_slice(), &self.state].concat()
    }

    fn is_of_drive(&self, line: &[u8]) -> bool {
        line.starts_with(SOURCE.as_bytes()) && line.ends_with(&self.state)
    }

    /// Makes the entry of a new mount, in place of what a daemon has left there that was killed. At the beginning:
    /// umount(8) removes the last one of a place.
    fn claim(&self, point: &Path) -> io::Result<()> {
        rewrite(&self.dir, |lines| {
            lines.retain(|line| !is_of_place(line, &place(point)));
            lines.insert(0, self.line(point));
        })
    }

    /// Sees to it that these are the places of the drive's entries.
    fn settle(&self, points: &[PathBuf]) -> io::Result<()> {
        let wanted = self.lines(points);
        self.change(|lines| {
            lines.retain(|line| !self.is_of_drive(line) || wanted.contains(line));
            add(lines, &wanted);
        })
    }

    /// Sees to it that these are among them.
    fn add(&self, points: &[PathBuf]) -> io::Result<()> {
        let wanted = self.lines(points);
        self.change(|lines| add(lines, &wanted))
    }

    fn lines(&self, points: &[PathBuf]) -> Vec<Vec<u8>> {
        points.iter().map(|point| self.line(point)).collect()
    }

    /// Each use of the lock wakes those who watch: who has nothing to change leaves it alone.
    fn change(&self, change: impl Fn(&mut Vec<Vec<u8>>)) -> io::Result<()> {
        let old = read(&self.dir)?;
        let mut new = old.clone();
        change(&mut new);
        if new == old { Ok(()) } else { rewrite(&self.dir, change) }
    }

    /// Removes the entries of the drive, and only them: another drive may be mounted there by now. Also those that
    /// libmount has given other options (`-o remount,x-…`), where nothing is mounted.
    fn give_up(&self) -> io::Result<()> {
        let mounted = mounts::list().unwrap_or_default();
        let is_changed = |line: &[u8]| {
            line.starts_with(SOURCE.as_bytes())
                && !line.windows(STATE.len()).any(|part| part == STATE.as_bytes())
                && mounted.iter().all(|m| !is_of_place(line, &place(&m.point)))
        };
        rewrite(&self.dir, |lines| lines.retain(|line| !self.is_of_drive(line) && !is_changed(line)))
    }
}

fn add(lines: &mut Vec<Vec<u8>>, wanted: &[Vec<u8>]) {
    let missing: Vec<_> = wanted.iter().filter(|line| !lines.contains(line)).cloned().collect();
    lines.extend(missing);
}

/// The lines of the file, with their ends.
fn read(dir: &Path) -> io::Result<Vec<Vec<u8>>> {
    let text = match fs::read(dir.join(FILE)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        text => text?,
    };
    Ok(text.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect())
}

fn rewrite(dir: &Path, change: impl FnOnce(&mut Vec<Vec<u8>>)) -> io::Result<()> {
    // Everybody may look; the umask of a daemon would say otherwise.
    let for_all = |mode| Permissions::from_mode(mode);
    match fs::create_dir(dir) {
        Ok(()) => fs::set_permissions(dir, for_all(0o755))?,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(e),
    }
    let open = |name: &str| File::options().write(true).create(true).truncate(true).open(dir.join(name));
    // As libmount does it: a lock beside the file, and a new file in its place.
    let lock = open("utab.lock")?;
    wait_for(&lock, &dir.join("utab.lock"))?;
    let old = read(dir)?;
    let mut new = old.clone();
    change(&mut new);
    if new == old {
        return Ok(());
    }
    let mut file = open("utab.nacrefs")?;
    file.set_permissions(for_all(0o644))?;
    file.write_all(&new.concat())?;
    fs::rename(dir.join("utab.nacrefs"), dir.join(FILE))
}

/// # Errors
/// `WouldBlock` where somebody else holds the lock for long.
fn wait_for(lock: &File, path: &Path) -> io::Result<()> {
    let until = Instant::now() + LOCK_TIME;
    loop {
        match flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(LOCK_STEP),
            Err(Errno::WOULDBLOCK) => {
                let path = path.display();
                let held = format!("somebody holds the lock of {path} (`fuser -v {path}` shows who)");
                return Err(io::Error::new(io::ErrorKind::WouldBlock, held));
            }
            locked => return Ok(locked?),
        }
    }
}

fn is_of_place(line: &[u8], place: &[u8]) -> bool {
    line.strip_prefix(place).is_some_and(|rest| rest.starts_with(b" "))
}

fn place(point: &Path) -> Vec<u8> {
    [format!("{SOURCE}TARGET=").as_bytes(), &escape(point)].concat()
}

fn state_dir_in(dir: &Path, point: &Path) -> Option<PathBuf> {
    let text = fs::read(dir.join("utab")).ok()?;
    let start = [&place(point), STATE.as_bytes()].concat();
    text.split(|b| *b == b'\n').find_map(|line| Some(unescape(line.strip_prefix(start.as_slice())?)))
}

/// Blanks, tabs, line ends and backslashes as three octal digits.
fn escape(path: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    for b in path.as_os_str().as_bytes() {
        match b {
            b' ' | b'\t' | b'\n' | b'\\' => out.extend(format!("\\{b:03o}").bytes()),
            b => out.push(*b),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_first_and_goes_and_the_others_stay() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("mount");
        let text = || fs::read_to_string(dir.join("utab")).unwrap();
        let (a, b) = (Path::new("/mnt/a b"), Path::new("/mnt/a"));
        let table = |state: &str| Table::new(&dir, Path::new(state));
        table("/var/a, b").claim(a).unwrap();
        let mine = "SRC=nacrefs-umount-helper TARGET=/mnt/a\\040b ROOT=/ OPTS=helper=nacrefs,state_dir=/var/a,\\040b\n";
        assert_eq!(text(), mine);
        let other = "SRC=/srv TARGET=/mnt/a\\040b ROOT=/ OPTS=_netdev\n";
        fs::write(dir.join("utab"), format!("{other}{mine}")).unwrap();
        table("/var/b").claim(b).unwrap();
        // A daemon that was killed has left its entry; the next one's replaces it, wherever its state is.
        table("/elsewhere").claim(a).unwrap();
        assert_eq!(state_dir_in(&dir, a), Some("/elsewhere".into()));
        table("/var/a, b").claim(a).unwrap();
        assert!(text().starts_with(mine) && text().lines().count() == 3 && text().ends_with(other));
        assert_eq!(state_dir_in(&dir, a), Some("/var/a, b".into()));
        assert_eq!(
            (state_dir_in(&dir, b), state_dir_in(&dir, Path::new("/mnt"))),
            (Some("/var/b".into()), None)
        );
        // One that ends later than another was mounted in its place takes nothing of that one's.
        table("/elsewhere").give_up().unwrap();
        table("/var/b").give_up().unwrap();
        assert_eq!(text(), format!("{mine}{other}"));
        // libmount changes the options of entries, whoever has made them.
        let changed = |place: &str| format!("SRC=nacrefs-umount-helper TARGET={place} ROOT=/ OPTS=x-foo\n");
        fs::write(dir.join("utab"), text() + &changed("/mnt/a\\040b") + &changed("/")).unwrap();
        table("/var/a, b").give_up().unwrap();
        assert_eq!(text(), format!("{other}{}", changed("/")));
    }

    #[test]
    fn the_entries_of_a_drive_are_at_the_places_where_it_is_mounted() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path();
        let found = |point: &str| {
            state_dir_in(dir, Path::new(point)).map(|p| p.into_os_string().into_string().unwrap())
        };
        let settle = |table: &Table, points: &[&str]| {
            table.settle(&points.iter().map(PathBuf::from).collect::<Vec<_>>()).unwrap();
        };
        let (a, b) = (Table::new(dir, Path::new("/var/a")), Table::new(dir, Path::new("/b/var/a")));
        a.claim(Path::new("/a")).unwrap();
        b.claim(Path::new("/b")).unwrap();
        settle(&a, &["/a", "/bind"]);
        assert_eq!(
            (found("/a"), found("/bind"), found("/b")),
            (Some("/var/a".into()), Some("/var/a".into()), Some("/b/var/a".into()))
        );
        let before = fs::metadata(dir.join("utab")).unwrap();
        settle(&a, &["/bind", "/a"]);
        settle(&b, &["/b"]);
        let inode = |m: &fs::Metadata| std::os::unix::fs::MetadataExt::ino(m);
        assert_eq!(
            inode(&fs::metadata(dir.join("utab")).unwrap()),
            inode(&before),
            "nothing was written for nothing"
        );
        // Two drives at one place, in two mount namespaces: neither drives the other one out.
        settle(&b, &["/b", "/a"]);
        settle(&a, &["/moved"]);
        settle(&a, &["/moved", "/b"]);
        assert_eq!(
            (found("/a"), found("/bind"), found("/moved")),
            (Some("/b/var/a".into()), None, Some("/var/a".into()))
        );
        let utab = fs::read_to_string(dir.join("utab")).unwrap();
        assert_eq!(utab.lines().filter(|line| line.contains("TARGET=/b ")).count(), 2);
    }

    #[test]
    fn a_file_that_cannot_be_written_spoils_nothing() {
        let tmp = tempfile::tempdir().unwrap();
        fs::write(tmp.path().join("mount"), "in the way").unwrap();
        let table = Table::new(&tmp.path().join("mount"), Path::new("/s"));
        assert!(table.claim(Path::new("/mnt")).is_err() && table.give_up().is_err());
        assert_eq!(state_dir_in(&tmp.path().join("mount"), Path::new("/mnt")), None);
        assert_eq!(fs::read_to_string(tmp.path().join("mount")).unwrap(), "in the way");
    }

    /// Any user may take the lock; every mount and umount used to wait until he let it go.
    #[test]
    fn a_lock_that_somebody_keeps_is_not_waited_for_and_the_entry_comes_when_it_is_free() {
        let tmp = tempfile::tempdir().unwrap();
        let lock = File::create(tmp.path().join("utab.lock")).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        let table = Table::new(tmp.path(), Path::new("/s"));
        let mount = mounts::at_exactly(Path::new("/")).unwrap().unwrap();
        let e = table.claim(&mount.point).unwrap_err();
        assert!(e.kind() == io::ErrorKind::WouldBlock && e.to_string().contains("utab.lock"), "{e}");
        let watch = Watch::start(table, mount.clone()).unwrap();
        std::thread::sleep(LOCK_STEP);
        assert_eq!(state_dir_in(tmp.path(), &mount.point), None);
        drop(lock);
        let until = Instant::now() + Duration::from_secs(60);
        while state_dir_in(tmp.path(), &mount.point).is_none() {
            assert!(Instant::now() < until);
            std::thread::sleep(LOCK_STEP);
        }
        drop(watch);
    }
}
