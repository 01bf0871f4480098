//! What the kernel asked for, counted.

use crate::sys::Counter;

macro_rules! calls {
    ($($call:ident $name:literal)*) => {
        /// The kinds of requests that are served from the drive.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Call { $($call),* }

        impl Call {
            pub const ALL: &[Call] = &[$(Call::$call),*];

            /// As FUSE calls it, in small letters.
            pub const fn name(self) -> &'static str {
                match self { $(Call::$call => $name),* }
            }
        }
    };
}

calls! {
    CopyFileRange "copy_file_range"
    Create "create"
    Fallocate "fallocate"
    Forget "forget"
    Fsync "fsync"
    Fsyncdir "fsyncdir"
    Getattr "getattr"
    Getxattr "getxattr"
    Link "link"
    Listxattr "listxattr"
    Lookup "lookup"
    Lseek "lseek"
    Mkdir "mkdir"
    Mknod "mknod"
    Open "open"
    Read "read"
    Readdir "readdir"
    Readdirplus "readdirplus"
    Readlink "readlink"
    Release "release"
    Removexattr "removexattr"
    Rename "rename"
    Rmdir "rmdir"
    Setattr "setattr"
    Setxattr "setxattr"
    Statfs "statfs"
    Symlink "symlink"
    Unlink "unlink"
    Write "write"
}

/// One more than the largest errno of Linux that is told apart (EHWPOISON).
const ERRNOS: usize = 134;

/// What was answered since the mount began.
pub struct Counts {
    calls: [Counter; Call::ALL.len()],
    errors: [Counter; ERRNOS],
    /// Bytes that were handed to the kernel and taken from it. What it reads from its own cache is not seen here.
    pub read: Counter,
    pub written: Counter,
}

impl Default for Counts {
    fn default() -> Counts {
        Counts {
            calls: std::array::from_fn(|_| Counter::default()),
            errors: std::array::from_fn(|_| Counter::default()),
            read: Counter::default(),
            written: Counter::default(),
        }
    }
}

impl Counts {
    pub(super) fn answered(&self, call: Call) {
        if let Some(counter) = self.calls.get(call as usize) {
            counter.one();
        }
    }

    pub(super) fn refused(&self, errno: i32) {
        // What is beyond the table counts as the EIO that most of it means.
        let at = usize::try_from(errno).ok().filter(|at| *at < ERRNOS).unwrap_or(libc::EIO as usize);
        if let Some(counter) = self.errors.get(at) {
            counter.one();
        }
    }

    /// How many requests of each kind were answered.
    pub fn calls(&self) -> impl Iterator<Item = (Call, u64)> {
        Call::ALL.iter().zip(&self.calls).map(|(call, n)| (*call, n.get()))
    }

    /// How many answers were an errno, for each that was given.
    pub fn errors(&self) -> impl Iterator<Item = (i32, u64)> {
        self.errors.iter().enumerate().map(|(e, n)| (e as i32, n.get())).filter(|(_, n)| *n > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_and_every_errno_has_its_counter() {
        let counts = Counts::default();
        for call in Call::ALL {
            counts.answered(*call);
        }
        assert!(counts.calls().all(|(_, n)| n == 1));
        for errno in [libc::ENOENT, libc::EHWPOISON, 4000, -1] {
            counts.refused(errno);
        }
        let errors: Vec<_> = counts.errors().collect();
        assert_eq!(errors, [(libc::ENOENT, 1), (libc::EIO, 2), (libc::EHWPOISON, 1)]);
    }
}
