//! A line in `/run/mount/utab`, so that umount(8) finds our umount helper.
//!
//! libmount saves itself reading mountinfo where it can: `umount /absolute/path` as root asks statfs(2) for the
//! type, which for all of FUSE is `fuse`, and so runs `umount.fuse`, not `umount.fuse.nacrefs`; unless utab, where
//! libmount keeps the options that the kernel does not, has an entry for the place. Our entry has a source of its
//! own: so libmount takes it for none of its own entries, and goes on to write those. (libmount 2.36 to 2.41:
//! `lookup_umount_fs_by_statfs`, `mnt_update_already_done`, `mnt_table_merge_user_fs`.)
//!
//! It also says where the state directory is, for `nacrefs doctor`: a daemon that has died cannot be asked.

use super::mounts::unescape;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const DIR: &str = "/run/mount";
const SOURCE: &str = "SRC=nacrefs-umount-helper ";
/// What precedes the state directory, at the end of the line.
const STATE: &str = " ROOT=/ OPTS=helper=nacrefs,state_dir=";

/// The entry of a mount; dropping it removes it, and those of other places where its drive was mounted.
pub struct Entry {
    dir: PathBuf,
    /// What all entries of this place begin with: that of a daemon that was killed, too.
    place: Vec<u8>,
    line: Vec<u8>,
    /// What all entries of its drive end with; nothing where that is not known.
    state: Vec<u8>,
}

impl Entry {
    /// Makes the entry, where this process may: only root can. Without it everything works but that `umount` does
    /// not wait for the store.
    pub fn of(point: &Path, state_dir: &Path) -> Option<Entry> {
        rustix::process::geteuid().is_root().then(|| Entry::make(Path::new(DIR), point, state_dir))
    }

    fn new(dir: &Path, point: &Path, state_dir: &Path) -> Entry {
        let place = place(point);
        let state = match state_dir.as_os_str().is_empty() {
            true => Vec::new(),
            false => [STATE.as_bytes(), &escape(state_dir), b"\n"].concat(),
        };
        let line = [place.as_slice(), &state].concat();
        Entry { dir: dir.to_owned(), place, line, state }
    }

    fn make(dir: &Path, point: &Path, state_dir: &Path) -> Entry {
        let entry = Entry::new(dir, point, state_dir);
        if let Err(e) = entry.update(true) {
            tracing::warn!(
                "plain `umount` will not wait for the store: cannot write {}/utab: {e}",
                dir.display()
            );
        }
        entry
    }

    /// Rewrites the file without this entry, or with it at its beginning: umount(8) removes the last one of a place.
    fn update(&self, wanted: bool) -> io::Result<()> {
        // Everybody may look; the umask of a daemon would say otherwise.
        let for_all = |mode| Permissions::from_mode(mode);
        match fs::create_dir(&self.dir) {
            Ok(()) => fs::set_permissions(&self.dir, for_all(0o755))?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
        let open =
            |name: &str| File::options().write(true).create(true).truncate(true).open(self.dir.join(name));
        // As libmount does it: a lock beside the file, and a new file in its place.
        let lock = open("utab.lock")?;
        flock(&lock, FlockOperation::LockExclusive)?;
        let old = match fs::read(self.dir.join("utab")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            old => old?,
        };
        let stays = |line: &&[u8]| !self.is_of_place(line) && (wanted || !self.is_of_drive(line));
        let others = old.split_inclusive(|b| *b == b'\n').filter(stays);
        let mine = wanted.then_some(self.line.as_slice());
        let new: Vec<u8> = mine.into_iter().chain(others).flatten().copied().collect();
        if new == old {
            return Ok(());
        }
        let mut file = open("utab.nacrefs")?;
        file.set_permissions(for_all(0o644))?;
        file.write_all(&new)?;
        fs::rename(self.dir.join("utab.nacrefs"), self.dir.join("utab"))
    }
}

/// Removes the entry that a daemon has left which was killed.
pub fn forget(point: &Path) {
    if rustix::process::geteuid().is_root() && Path::new(DIR).join("utab").exists() {
        drop(Entry::new(Path::new(DIR), point, Path::new("")));
    }
}

/// Doubles the entry of a place. umount(8) takes one of them along when it has unmounted there, also in another mount
/// namespace, where only a copy of the mount has gone; the file is the same for all.
pub fn spare(point: &Path) {
    if rustix::process::geteuid().is_root() {
        spare_in(Path::new(DIR), point);
    }
}

fn spare_in(dir: &Path, point: &Path) {
    let Some(state) = state_dir_in(dir, point) else { return };
    let mut entry = Entry::new(dir, point, &state);
    entry.line = entry.line.repeat(2);
    if let Err(e) = entry.update(true) {
        tracing::warn!("plain `umount` may not wait for the store: cannot write {}/utab: {e}", dir.display());
    }
    // Not dropped: the daemon does that at its end.
    std::mem::forget(entry);
}

/// For the places where a drive is mounted as well, by the kernel (propagation), or stays so (bind mounts) when it is
/// unmounted from `point`: nobody was told of them, and `umount` of such a one is to wait as well.
pub fn inherit<'a>(point: &Path, places: impl Iterator<Item = &'a Path>) {
    if rustix::process::geteuid().is_root() {
        inherit_in(Path::new(DIR), point, places);
    }
}

fn inherit_in<'a>(dir: &Path, point: &Path, places: impl Iterator<Item = &'a Path>) {
    let Some(state) = state_dir_in(dir, point) else { return };
    // Not dropped: they stay until their own unmounting, or the daemon's end.
    places
        .filter(|place| *place != point)
        .for_each(|place| std::mem::forget(Entry::make(dir, place, &state)));
}

impl Entry {
    fn is_of_drive(&self, line: &[u8]) -> bool {
        !self.state.is_empty() && line.starts_with(SOURCE.as_bytes()) && line.ends_with(&self.state)
    }

    fn is_of_place(&self, line: &[u8]) -> bool {
        line.strip_prefix(self.place.as_slice()).is_some_and(|rest| rest.starts_with(b" "))
    }
}

fn place(point: &Path) -> Vec<u8> {
    [format!("{SOURCE}TARGET=").as_bytes(), &escape(point)].concat()
}

/// Where the daemon that serves a mount of root's, or served it until it was killed, has its state.
pub fn state_dir(point: &Path) -> Option<PathBuf> {
    state_dir_in(Path::new(DIR), point)
}

fn state_dir_in(dir: &Path, point: &Path) -> Option<PathBuf> {
    let text = fs::read(dir.join("utab")).ok()?;
    let start = [&place(point), STATE.as_bytes()].concat();
    text.split(|b| *b == b'\n').find_map(|line| Some(unescape(line.strip_prefix(start.as_slice())?)))
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Err(e) = self.update(false) {
            tracing::debug!("cannot remove the entry in {}/utab: {e}", self.dir.display());
        }
    }
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
        let state = Path::new("/var/a, b");
        let a = Entry::make(&dir, Path::new("/mnt/a b"), state);
        let mine = "SRC=nacrefs-umount-helper TARGET=/mnt/a\\040b ROOT=/ OPTS=helper=nacrefs,state_dir=/var/a,\\040b\n";
        assert_eq!(text(), mine);
        let other = "SRC=/srv TARGET=/mnt/a\\040b ROOT=/ OPTS=_netdev\n";
        fs::write(dir.join("utab"), format!("{other}{mine}")).unwrap();
        let b = Entry::make(&dir, Path::new("/mnt/a"), Path::new("/var/b"));
        // A daemon that was killed has left its entry; the next one's replaces it, wherever its state is.
        let elsewhere = Entry::make(&dir, Path::new("/mnt/a b"), Path::new("/elsewhere"));
        assert_eq!(state_dir_in(&dir, Path::new("/mnt/a b")), Some("/elsewhere".into()));
        let again = Entry::make(&dir, Path::new("/mnt/a b"), state);
        assert!(text().starts_with(mine) && text().lines().count() == 3 && text().ends_with(other));
        let found = |point: &str| state_dir_in(&dir, Path::new(point));
        assert_eq!(found("/mnt/a b").as_deref(), Some(state));
        assert_eq!((found("/mnt/a"), found("/mnt")), (Some("/var/b".into()), None));
        drop((a, b, elsewhere, again));
        assert_eq!(text(), other);
    }

    #[test]
    fn a_place_where_a_drive_stays_mounted_gets_an_entry_of_its_own_until_its_daemon_ends() {
        let tmp = tempfile::tempdir().unwrap();
        let found = |point: &str| state_dir_in(tmp.path(), Path::new(point));
        let a = Entry::make(tmp.path(), Path::new("/a"), Path::new("/var/a"));
        let b = Entry::make(tmp.path(), Path::new("/b"), Path::new("/b/var/a"));
        inherit_in(tmp.path(), Path::new("/a"), ["/a", "/bind"].map(Path::new).into_iter());
        inherit_in(tmp.path(), Path::new("/no"), [Path::new("/nobind")].into_iter());
        assert_eq!((found("/bind"), found("/nobind")), (Some("/var/a".into()), None));
        // As in another mount namespace; umount(8) then takes the last one.
        spare_in(tmp.path(), Path::new("/b"));
        spare_in(tmp.path(), Path::new("/b"));
        let utab = fs::read_to_string(tmp.path().join("utab")).unwrap();
        assert_eq!(utab.lines().filter(|line| line.contains("TARGET=/b ")).count(), 2);
        // As `umount` of the first place does.
        drop(Entry::new(tmp.path(), Path::new("/a"), Path::new("")));
        assert_eq!((found("/a"), found("/bind")), (None, Some("/var/a".into())));
        drop(a);
        assert_eq!((found("/bind"), found("/b")), (None, Some("/b/var/a".into())));
        drop(b);
    }

    #[test]
    fn a_file_that_cannot_be_written_spoils_nothing() {
        let tmp = tempfile::tempdir().unwrap();
        fs::write(tmp.path().join("mount"), "in the way").unwrap();
        drop(Entry::make(&tmp.path().join("mount"), Path::new("/mnt"), Path::new("/s")));
        assert_eq!(state_dir_in(&tmp.path().join("mount"), Path::new("/mnt")), None);
        assert_eq!(fs::read_to_string(tmp.path().join("mount")).unwrap(), "in the way");
    }
}
