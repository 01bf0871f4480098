//! Calls on names and directories.

use crate::calls::Call;
use crate::listing::{Listing, list};
use crate::outcome::{Errno, Got, Outcome, done, errno, number};
use crate::seat::Seat;
use libc::*;

// Of the raw calls here: paths end with NUL, and buffers come with their lengths.
impl Seat {
    pub fn perform_on_names(&mut self, call: &Call) -> Option<Outcome> {
        Some(match *call {
            Call::Mkdir { path, mode } => {
                let (dir, name) = self.place(path);
                // SAFETY: as above.
                done(unsafe { mkdirat(dir, name.as_ptr(), mode.0) })
            }
            Call::Mknod { path, mode, dev } => {
                let (dir, name) = self.place(path);
                // SAFETY: as above.
                done(unsafe { mknodat(dir, name.as_ptr(), mode.0, dev) })
            }
            Call::Symlink { target, path } => {
                let (dir, name) = self.place(path);
                let (_, target) = self.place(target);
                // SAFETY: as above.
                done(unsafe { symlinkat(target.as_ptr(), dir, name.as_ptr()) })
            }
            Call::Link { from, to, flags } => {
                let ((dir, old), (to_dir, new)) = (self.place(from), self.place(to));
                let flags = if Seat::open_file(from) { flags.0 | AT_EMPTY_PATH } else { flags.0 };
                // SAFETY: as above.
                done(unsafe { linkat(dir, old.as_ptr(), to_dir, new.as_ptr(), flags) })
            }
            Call::Unlink { path } => {
                let (dir, name) = self.place(path);
                // SAFETY: as above.
                done(unsafe { unlinkat(dir, name.as_ptr(), 0) })
            }
            Call::Rmdir { path } => {
                let (dir, name) = self.place(path);
                // SAFETY: as above.
                done(unsafe { unlinkat(dir, name.as_ptr(), AT_REMOVEDIR) })
            }
            Call::Rename { from, to, flags } => {
                let ((dir, old), (to_dir, new)) = (self.place(from), self.place(to));
                // SAFETY: as above.
                done(unsafe { renameat2(dir, old.as_ptr(), to_dir, new.as_ptr(), flags.0 as c_uint) })
            }
            Call::Readlink { path, len } => {
                let (dir, name) = self.place(path);
                let mut room = vec![0; len];
                // SAFETY: as above.
                let n = unsafe { readlinkat(dir, name.as_ptr(), room.as_mut_ptr().cast(), len) };
                number(n as i64).map(|n| Got::Bytes(room[..n as usize].to_vec()))
            }
            Call::Chdir { path } => match Seat::open_file(path) {
                // SAFETY: as above.
                true => done(unsafe { fchdir(self.place(path).0) }),
                // SAFETY: as above.
                false => self.plain(path).and_then(|path| done(unsafe { chdir(path.as_ptr()) })),
            },
            Call::Getcwd {} => {
                let mut room = vec![0u8; 8192];
                // SAFETY: as above. The raw call, for the C library has its own way with directories removed.
                let n = unsafe { syscall(SYS_getcwd, room.as_mut_ptr(), room.len()) };
                number(n).map(|n| Got::Bytes(room[..n as usize].to_vec()))
            }
            Call::List { path } => self.open_dir(path).and_then(|dir| {
                let all = list(dir, None);
                self.close_dir(path, dir);
                all.map(|l| Got::Names(l.counts()))
            }),
            Call::ListAcross { path, cut, removed, made } => self.open_dir(path).and_then(|dir| {
                let outcome = across(dir, cut.into(), removed, made);
                self.close_dir(path, dir);
                outcome
            }),
            _ => return None,
        })
    }

    /// A directory to list: opened for this, or the one in a slot, from its beginning.
    fn open_dir(&self, path: &str) -> Result<c_int, Errno> {
        let (dir, name) = self.place(path);
        if Seat::open_file(path) {
            // SAFETY: it takes numbers alone.
            return number(unsafe { lseek64(dir, 0, SEEK_SET) }).map(|_| dir);
        }
        // SAFETY: as above.
        let fd = unsafe { openat(dir, name.as_ptr(), O_RDONLY | O_DIRECTORY | O_CLOEXEC) };
        number(fd).map(|fd| fd as c_int)
    }

    fn close_dir(&self, path: &str, dir: c_int) {
        // SAFETY: they take numbers alone; what is closed was opened by `open_dir`.
        match Seat::open_file(path) {
            // Places in a directory are each file system's own: none is left to be seen.
            true => _ = unsafe { lseek64(dir, 0, SEEK_SET) },
            false => _ = unsafe { close(dir) },
        }
    }
}

/// Lists with changes in between. What the order is, each file system decides; what stays must come exactly once,
/// also from a place that was kept (readdir(3), telldir(3)).
fn across(dir: c_int, cut: usize, removed: &str, made: &str) -> Outcome {
    let before = list(dir, None)?;
    // SAFETY: it takes numbers alone.
    number(unsafe { lseek64(dir, 0, SEEK_SET) })?;
    let mut seen = list(dir, Some(cut))?;
    let kept = seen.place;
    let name = |name: &str| std::ffi::CString::new(name.replace('/', "")).map_err(|_| Errno(EINVAL));
    let (removed_name, made_name) = (name(removed)?, name(made)?);
    // SAFETY: names end with NUL.
    let (gone, new) = unsafe {
        let gone = number(unlinkat(dir, removed_name.as_ptr(), 0)).map_err(|e| e.0).err();
        (gone, number(mknodat(dir, made_name.as_ptr(), S_IFREG | 0o644, 0)).map_err(|e| e.0).err())
    };
    seen.items.extend(list(dir, None)?.items);
    // SAFETY: it takes numbers alone.
    if unsafe { lseek64(dir, kept, SEEK_SET) } < 0 {
        return Err(errno());
    }
    let again = list(dir, None)?;
    let steady = |l: &Listing| {
        let changed = [removed_name.to_string_lossy(), made_name.to_string_lossy()];
        let mut l = l.counts();
        l.retain(|n, _| !changed.iter().any(|c| n.split(' ').next() == Some(c)));
        l
    };
    let (whole, first) = (steady(&before), seen.items.len().min(cut));
    let rest = Listing { items: seen.items[first..].to_vec(), place: 0 };
    let mut says = format!("removed {gone:?}, made {new:?}");
    if steady(&seen) != whole {
        says += &format!("; {:?} was there, {:?} was listed", whole, steady(&seen));
    }
    if steady(&again) != steady(&rest) {
        says += &format!("; {:?} came first, {:?} from there again", steady(&rest), steady(&again));
    }
    Ok(Got::Text(says))
}
