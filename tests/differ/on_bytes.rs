//! Calls on open files.

use crate::calls::{Call, Lock};
use crate::outcome::{Got, Outcome, done, number};
use crate::rules;
use crate::seat::{Aligned, Seat, bytes_of, pattern, until_done};
use libc::*;
use std::ptr::{copy_nonoverlapping, null_mut};

// Of the raw calls here: they read or write no more than the buffers that they are given with their lengths, or
// take numbers alone; a descriptor that is not open is EBADF.
impl Seat {
    pub fn perform_on_bytes(&mut self, call: &Call) -> Option<Outcome> {
        Some(match *call {
            Call::Open { slot, path, flags, mode } => {
                // An empty slot is no error here.
                let _ = self.put(slot, None);
                let (dir, name) = self.place(path);
                let flags = rules::open_flags(flags.0);
                // SAFETY: as above. Without O_NONBLOCK a fifo would wait for its other end.
                match number(unsafe { openat(dir, name.as_ptr(), flags | O_NONBLOCK | O_CLOEXEC, mode.0) }) {
                    Ok(fd) => {
                        let _ = self.put(slot, Some(fd as c_int));
                        Ok(Got::Done)
                    }
                    Err(e) => Err(e),
                }
            }
            Call::Close { slot } => self.put(slot, None),
            // SAFETY: as above.
            Call::Dup { slot, to } => match number(unsafe { fcntl(self.fd(slot), F_DUPFD_CLOEXEC, 3) }) {
                Ok(fd) => {
                    let _ = self.put(to, Some(fd as c_int));
                    Ok(Got::Done)
                }
                Err(e) => Err(e),
            },
            // SAFETY: as above.
            Call::GetFlags { slot } => number(unsafe { fcntl(self.fd(slot), F_GETFL) }).map(Got::Number),
            Call::SetFlags { slot, flags } => {
                let flags = rules::open_flags(flags.0) & (O_APPEND | O_DIRECT | O_NOATIME) | O_NONBLOCK;
                // SAFETY: as above.
                done(unsafe { fcntl(self.fd(slot), F_SETFL, flags) })
            }
            Call::Read { slot, len } => {
                let (len, _) = self.aligned(slot, len, 0);
                self.align_place(slot);
                let mut room = Aligned::of(&vec![0; len]);
                // SAFETY: as above.
                let n = unsafe { read(self.fd(slot), room.get().as_mut_ptr().cast(), len) };
                bytes_of(&mut room, n)
            }
            Call::Pread { slot, at, len } => {
                let (len, at) = self.aligned(slot, len, at as i64);
                let mut room = Aligned::of(&vec![0; len]);
                // SAFETY: as above.
                let n = unsafe { pread64(self.fd(slot), room.get().as_mut_ptr().cast(), len, at) };
                bytes_of(&mut room, n)
            }
            Call::Write { slot, len, fill } => {
                let (len, _) = self.aligned(slot, len, 0);
                self.align_place(slot);
                let mut data = Aligned::of(&pattern(fill, len));
                // SAFETY: as above.
                number(unsafe { write(self.fd(slot), data.get().as_ptr().cast(), len) } as i64)
                    .map(Got::Number)
            }
            Call::Pwrite { slot, at, len, fill } => {
                let (len, at) = self.aligned(slot, len, at as i64);
                let mut data = Aligned::of(&pattern(fill, len));
                // SAFETY: as above.
                let n = unsafe { pwrite64(self.fd(slot), data.get().as_ptr().cast(), len, at) };
                number(n as i64).map(Got::Number)
            }
            Call::Writev { slot, first, second, fill } => {
                let ((first, _), (second, _)) = (self.aligned(slot, first, 0), self.aligned(slot, second, 0));
                self.align_place(slot);
                let (mut a, mut b) =
                    (Aligned::of(&pattern(fill, first)), Aligned::of(&pattern(fill ^ 0x55, second)));
                let pieces = [&mut a, &mut b]
                    .map(|x| iovec { iov_base: x.get().as_mut_ptr().cast(), iov_len: x.get().len() });
                // SAFETY: as above.
                number(unsafe { writev(self.fd(slot), pieces.as_ptr(), 2) } as i64).map(Got::Number)
            }
            Call::Pwritev2 { slot, at, len, fill, flags } => {
                let (len, at) = self.aligned(slot, len, at);
                let flags = if self.flags(slot) & O_DIRECT != 0 { flags.0 & !RWF_APPEND } else { flags.0 };
                self.align_place(slot);
                let mut data = Aligned::of(&pattern(fill, len));
                let piece = iovec { iov_base: data.get().as_mut_ptr().cast(), iov_len: len };
                // SAFETY: as above.
                number(unsafe { pwritev2(self.fd(slot), &piece, 1, at, flags) } as i64).map(Got::Number)
            }
            Call::Lseek { slot, at, whence } => {
                // SAFETY: as above.
                number(unsafe { lseek64(self.fd(slot), at, (whence % 3).into()) }).map(Got::Number)
            }
            Call::SeekData { slot, at } => self.seek(slot, at, SEEK_DATA),
            Call::SeekHole { slot, at } => self.seek(slot, at, SEEK_HOLE),
            // SAFETY: as above.
            Call::Ftruncate { slot, len } => done(unsafe { ftruncate64(self.fd(slot), len) }),
            // SAFETY: as above.
            Call::Fallocate { slot, mode, at, len } => {
                done(unsafe { fallocate64(self.fd(slot), mode.0, at, len) })
            }
            Call::CopyRange { slot, at, to, to_at, len } => {
                let (mut at, mut to_at) = (at, to_at);
                if (self.flags(slot) | self.flags(to)) & O_DIRECT != 0 {
                    return Some(Ok(Got::Text(rules::DIRECT.into())));
                }
                until_done(len, |rest| {
                    // SAFETY: as above; the offsets are moved on.
                    unsafe { copy_file_range(self.fd(slot), &mut at, self.fd(to), &mut to_at, rest, 0) }
                })
            }
            Call::Sendfile { slot, at, to, len } => {
                let mut at = at;
                if (self.flags(slot) | self.flags(to)) & O_DIRECT != 0 {
                    return Some(Ok(Got::Text(rules::DIRECT.into())));
                }
                // SAFETY: as above; the offset is moved on.
                until_done(len, |rest| unsafe { sendfile64(self.fd(to), self.fd(slot), &mut at, rest) })
            }
            Call::MapWrite { slot, at, len, fill } => self.map(slot, at, len, Some(fill)),
            Call::MapRead { slot, at, len } => self.map(slot, at, len, None),
            // SAFETY: as above.
            Call::Fsync { slot, data } => {
                done(unsafe { if data { fdatasync(self.fd(slot)) } else { fsync(self.fd(slot)) } })
            }
            // SAFETY: as above.
            Call::Flock { slot, how } => done(unsafe { flock(self.fd(slot), how.0 | LOCK_NB) }),
            Call::SetLock { slot, how, at, len, ofd } => {
                let lock = self.lock(how, at, len);
                // SAFETY: as above.
                done(unsafe { fcntl(self.fd(slot), if ofd { F_OFD_SETLK } else { F_SETLK }, &lock) })
            }
            Call::GetLock { slot, how, at, len, ofd } => {
                let mut lock = self.lock(how, at, len);
                // SAFETY: as above.
                let r = unsafe { fcntl(self.fd(slot), if ofd { F_OFD_GETLK } else { F_GETLK }, &mut lock) };
                number(r).map(|_| match lock.l_type as c_int {
                    F_UNLCK => Got::Text("free".into()),
                    kind => Got::Text(format!("kind {kind} at {} for {}", lock.l_start, lock.l_len)),
                })
            }
            _ => return None,
        })
    }

    /// A length and a place as O_DIRECT wants them, where the file was opened so.
    fn aligned(&self, slot: u8, len: usize, at: i64) -> (usize, i64) {
        rules::direct_io_is_aligned(self.flags(slot), len, at)
    }

    /// The same for the place that the next read or write begins at.
    fn align_place(&self, slot: u8) {
        if self.flags(slot) & O_DIRECT != 0 {
            // SAFETY: lseek takes numbers alone. What cannot be sought has no place.
            unsafe {
                let at = lseek64(self.fd(slot), 0, SEEK_CUR);
                lseek64(self.fd(slot), at.max(0) / 4096 * 4096, SEEK_SET);
            }
        }
    }

    fn seek(&self, slot: u8, at: i64, whence: c_int) -> Outcome {
        // SAFETY: lseek takes numbers alone.
        unsafe {
            let before = lseek64(self.fd(slot), 0, SEEK_CUR);
            let found = number(lseek64(self.fd(slot), at, whence)).map(Got::Place);
            lseek64(self.fd(slot), before, SEEK_SET);
            found
        }
    }

    fn lock(&self, how: Lock, at: i64, len: i64) -> flock64 {
        let kind = match how {
            Lock::Unlock => F_UNLCK,
            Lock::Read => F_RDLCK,
            Lock::Write => F_WRLCK,
        };
        flock64 { l_type: kind as _, l_whence: SEEK_SET as _, l_start: at, l_len: len, l_pid: 0 }
    }

    /// Reads, or with `fill` writes, a range by way of a shared mapping.
    fn map(&self, slot: u8, at: u64, len: usize, fill: Option<u8>) -> Outcome {
        let fd = self.fd(slot);
        // SAFETY: the mapping reaches no further than the file (beyond it is SIGBUS), and nobody cuts the file
        // meanwhile: one call at a time is made. It is unmapped before anybody else sees it.
        unsafe {
            let mut stat = std::mem::zeroed();
            number(fstat64(fd, &mut stat))?;
            if stat.st_mode & S_IFMT != S_IFREG || len == 0 || at + len as u64 > stat.st_size as u64 {
                return Ok(Got::Text("not in the file".into()));
            }
            let from = at / 4096 * 4096;
            let (skip, all) = ((at - from) as usize, (at - from) as usize + len);
            let prot = PROT_READ | if fill.is_some() { PROT_WRITE } else { 0 };
            let map = mmap64(null_mut(), all, prot, MAP_SHARED, fd, from as i64);
            if map == MAP_FAILED {
                return Err(crate::outcome::errno());
            }
            let mapped = map.cast::<u8>().add(skip);
            let outcome = match fill {
                Some(fill) => {
                    copy_nonoverlapping(pattern(fill, len).as_ptr(), mapped, len);
                    done(msync(map, all, MS_SYNC))
                }
                None => {
                    let mut bytes = vec![0; len];
                    copy_nonoverlapping(mapped, bytes.as_mut_ptr(), len);
                    Ok(Got::Bytes(bytes))
                }
            };
            munmap(map, all);
            outcome
        }
    }
}
