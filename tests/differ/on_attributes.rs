//! Calls on attributes.

use crate::calls::{Call, Path, When};
use crate::outcome::{Got, Outcome, done, number};
use crate::rules;
use crate::seat::Seat;
use libc::*;
use std::ptr::null;

// Of the raw calls here: paths and names end with NUL, and buffers come with their lengths.
impl Seat {
    pub fn perform_on_attributes(&mut self, call: &Call) -> Option<Outcome> {
        Some(match *call {
            Call::Stat { path, flags } => {
                let (dir, name) = self.place(path);
                // SAFETY: the structure is plain numbers.
                let mut s: stat64 = unsafe { std::mem::zeroed() };
                // SAFETY: as above.
                let r = unsafe { fstatat64(dir, name.as_ptr(), &mut s, empty(path, flags.0)) };
                number(r).map(|_| {
                    let size = rules::size_of_directories(s.st_mode, s.st_size as u64);
                    let (mode, nlink, rdev) = (s.st_mode, s.st_nlink, s.st_rdev);
                    Got::Text(format!("{mode:o} {}:{} x{nlink} {size} {rdev:#x}", s.st_uid, s.st_gid))
                })
            }
            Call::Access { path, mode, flags } => {
                let (dir, name) = self.place(path);
                let flags = empty(path, flags.0);
                // SAFETY: as above. The raw call, for the C library answers some itself.
                done(unsafe { syscall(SYS_faccessat2, dir, name.as_ptr(), mode, flags) })
            }
            Call::Truncate { path, len } => {
                // SAFETY: as above.
                self.plain(path).and_then(|path| done(unsafe { truncate64(path.as_ptr(), len) }))
            }
            Call::Chmod { path, mode, flags } => {
                let (dir, name) = self.place(path);
                match (Seat::open_file(path), flags.0) {
                    // SAFETY: as above.
                    (true, _) => done(unsafe { fchmod(dir, mode.0) }),
                    // SAFETY: as above.
                    (false, 0) => done(unsafe { fchmodat(dir, name.as_ptr(), mode.0, 0) }),
                    // SAFETY: as above.
                    _ => done(unsafe { syscall(SYS_FCHMODAT2, dir, name.as_ptr(), mode.0, flags.0) }),
                }
            }
            Call::Chown { path, uid, gid, flags } => {
                let (dir, name) = self.place(path);
                // SAFETY: as above.
                done(unsafe { fchownat(dir, name.as_ptr(), uid as u32, gid as u32, empty(path, flags.0)) })
            }
            Call::Utimens { path, atime, mtime, flags } => {
                let (dir, name) = self.place(path);
                let times = [atime, mtime].map(|w| match w {
                    When::Omit => timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
                    When::Now => timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
                    When::At(tv_sec, tv_nsec) => timespec { tv_sec, tv_nsec },
                });
                let name = if Seat::open_file(path) { null() } else { name.as_ptr() };
                // SAFETY: as above; the raw call takes null for the open file itself.
                done(unsafe { syscall(SYS_utimensat, dir, name, times.as_ptr(), flags.0) })
            }
            // SAFETY: it takes a number; the umask is this thread's own.
            Call::Umask { mask } => Ok(Got::Number(unsafe { umask(mask.0) }.into())),
            Call::Statfs { path } => self.plain(path).and_then(|path| {
                // SAFETY: as above; the structure is plain numbers.
                let (r, s) = unsafe {
                    let mut s: statvfs64 = std::mem::zeroed();
                    (statvfs64(path.as_ptr(), &mut s), s)
                };
                number(r).map(|_| Got::Text(rules::file_system(&s)))
            }),
            _ => return None,
        })
    }
}

/// fchmodat2(2), which the C library does not know yet.
const SYS_FCHMODAT2: c_long = 452;

/// The flags of a call on an open file, or on a name.
fn empty(path: Path, flags: c_int) -> c_int {
    if Seat::open_file(path) { flags | AT_EMPTY_PATH } else { flags }
}
