//! Where a user sits: the files that are open, and each call as system calls.

use crate::calls::{Call, SLOTS};
use crate::outcome::{Errno, Got, Outcome, done, errno, number};
use libc::*;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::ffi::CString;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, IntoRawFd};

/// A descriptor that nobody has.
const NONE: c_int = 9999;

/// The descriptor of a slot, the same for everybody, so that others find it in /proc.
pub fn number_of(slot: u8) -> c_int {
    100 + c_int::from(slot)
}

#[derive(Default)]
pub struct Seat {
    slots: [Option<c_int>; SLOTS as usize],
}

impl Seat {
    pub fn perform(&mut self, call: &Call) -> Outcome {
        self.perform_on_bytes(call)
            .or_else(|| self.perform_on_names(call))
            .or_else(|| self.perform_on_attributes(call))
            .or_else(|| self.perform_on_xattrs(call))
            .unwrap_or_else(|| panic!("{call:?} is not a user's call"))
    }

    pub fn fd(&self, slot: u8) -> c_int {
        self.slots.get(slot as usize).copied().flatten().unwrap_or(NONE)
    }

    /// Puts a descriptor into a slot, where it gets the slot's number; what was there is closed.
    pub fn put(&mut self, slot: u8, fd: Option<c_int>) -> Outcome {
        let slot = slot % SLOTS;
        let place = &mut self.slots[slot as usize];
        // SAFETY: both are this thread's own, and nothing else in it owns them.
        unsafe {
            let closed = match place.take() {
                Some(old) => done(close(old)),
                None => Err(Errno(EBADF)),
            };
            if let Some(fd) = fd {
                *place = number(dup3(fd, number_of(slot), O_CLOEXEC)).ok().map(|fd| fd as c_int);
                close(fd);
            }
            closed
        }
    }

    pub fn give(&self, slot: u8, wire: c_int) -> Outcome {
        if self.fd(slot) == NONE {
            return Err(Errno(EBADF));
        }
        // SAFETY: both are open in this thread's table.
        let (wire, fd) = unsafe { (BorrowedFd::borrow_raw(wire), [BorrowedFd::borrow_raw(self.fd(slot))]) };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut message = SendAncillaryBuffer::new(&mut space);
        message.push(SendAncillaryMessage::ScmRights(&fd));
        match sendmsg(wire, &[IoSlice::new(b"f")], &mut message, SendFlags::empty()) {
            Ok(_) => Ok(Got::Done),
            Err(e) => Err(Errno(e.raw_os_error())),
        }
    }

    pub fn take(&mut self, slot: u8, wire: c_int) -> Outcome {
        // SAFETY: it is open in this thread's table.
        let wire = unsafe { BorrowedFd::borrow_raw(wire) };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut message = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        recvmsg(wire, &mut [IoSliceMut::new(&mut byte)], &mut message, RecvFlags::CMSG_CLOEXEC)
            .map_err(|e| Errno(e.raw_os_error()))?;
        for received in message.drain() {
            if let RecvAncillaryMessage::ScmRights(mut fds) = received {
                let fd = fds.next().map(IntoRawFd::into_raw_fd);
                // An empty slot is no error here.
                let _ = self.put(slot, fd);
            }
        }
        Ok(Got::Done)
    }

    /// The directory that a path begins in, and the rest of it; the rest is empty for an open file itself.
    pub fn place(&self, path: &str) -> (c_int, CString) {
        let (dir, rest) = match path.strip_prefix('@') {
            Some(at) => {
                let (slot, rest) = at.split_once('/').unwrap_or((at, ""));
                (self.fd(slot.parse().unwrap_or(SLOTS)), rest)
            }
            None => (AT_FDCWD, path),
        };
        let long = |name: &str| match name.strip_prefix('L').and_then(|n| n.parse().ok()) {
            Some(n) => "n".repeat(n),
            None => name.to_owned(),
        };
        let whole = rest.split('/').map(long).collect::<Vec<_>>().join("/");
        (dir, CString::new(whole).expect("no path has a NUL"))
    }

    /// Whether a path is an open file itself.
    pub fn open_file(path: &str) -> bool {
        path.starts_with('@') && !path.contains('/')
    }

    /// For calls that take no directory to begin in.
    pub fn plain(&self, path: &str) -> Result<CString, Errno> {
        match self.place(path) {
            (AT_FDCWD, path) => Ok(path),
            // Through the open directory by hand: these calls have no form that takes one.
            _ => Err(Errno(ENOSYS)),
        }
    }

    /// The flags of an open file, 0 for none.
    pub fn flags(&self, slot: u8) -> c_int {
        // SAFETY: F_GETFL takes no pointer.
        unsafe { fcntl(self.fd(slot), F_GETFL) }.max(0)
    }
}

/// Bytes of a pattern that tells where each stood; of 0, zeros.
pub fn pattern(fill: u8, len: usize) -> Vec<u8> {
    match fill {
        0 => vec![0; len],
        // Pages differ from one another, and bytes within a page do too.
        _ => (0..len).map(|i| (i / 4096 * 31 + i * 7) as u8 ^ fill).collect(),
    }
}

/// Room for bytes that begins at a page, as O_DIRECT wants it.
pub struct Aligned {
    bytes: Vec<u8>,
    from: usize,
    len: usize,
}

impl Aligned {
    pub fn of(data: &[u8]) -> Aligned {
        let bytes = vec![0; data.len() + 4096];
        let from = bytes.as_ptr().align_offset(4096);
        let mut out = Aligned { bytes, from, len: data.len() };
        out.get().copy_from_slice(data);
        out
    }

    pub fn get(&mut self) -> &mut [u8] {
        &mut self.bytes[self.from..self.from + self.len]
    }
}

/// Repeats a call that moves some bytes until it moves no more: how many there were, or the first error.
pub fn until_done(len: usize, mut step: impl FnMut(usize) -> isize) -> Outcome {
    let mut total = 0;
    while total < len {
        match number(step(len - total) as i64) {
            Ok(0) => break,
            Ok(n) => total += n as usize,
            Err(e) if total == 0 => return Err(e),
            Err(_) => break,
        }
    }
    Ok(Got::Number(total as i64))
}

pub fn bytes_of(buffer: &mut Aligned, n: isize) -> Outcome {
    match usize::try_from(n) {
        Ok(n) => Ok(Got::Bytes(buffer.get()[..n].to_vec())),
        Err(_) => Err(errno()),
    }
}
