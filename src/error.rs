//! The one error type: what happened, to which file or object, and what to do about it.
//!
//! Each error has a [`Kind`], from which follow the `errno` that a file operation answers with and the
//! exit status of a command (CLI: `nacrefs help exit-status`).

use std::borrow::Cow;
use std::fmt;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of trouble an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file operation's own refusal, with its errno (ENOENT, EEXIST, …). Not a fault.
    Errno(i32),
    /// What is needed is not in memory, and the caller asked not to wait for it.
    Miss,
    /// Wrong usage of a command.
    Usage,
    /// A key or a passphrase was refused.
    Secret,
    /// The store cannot be reached, for now; trying again may help.
    Away,
    /// Bytes at rest are not what they must be.
    Damage,
    /// Somebody else was first, or holds the thing.
    Conflict,
    /// Not a nacrefs drive, or not a nacrefs mount.
    NotADrive,
    /// No such object in the store.
    NotFound,
    /// No space left.
    NoSpace,
    /// Interrupted by the user.
    Interrupted,
    /// Anything else.
    Failed,
}

/// An error with its story: one line for people, and the errors behind it.
pub struct Error {
    kind: Kind,
    message: Cow<'static, str>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub fn new(kind: Kind, message: impl Into<Cow<'static, str>>) -> Error {
        Error { kind, message: message.into(), source: None }
    }

    /// The refusal of a file operation: costs no allocation.
    pub const fn errno_of(errno: i32) -> Error {
        Error { kind: Kind::Errno(errno), message: Cow::Borrowed(""), source: None }
    }

    pub fn damage(message: impl Into<Cow<'static, str>>) -> Error {
        Error::new(Kind::Damage, message)
    }

    pub fn failed(message: impl Into<Cow<'static, str>>) -> Error {
        Error::new(Kind::Failed, message)
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        self.source = Some(source.into());
        self
    }

    /// The same error, told from one level up: keeps the kind and the cause.
    pub fn context(self, message: impl Into<Cow<'static, str>>) -> Error {
        Error { kind: self.kind, message: message.into(), source: Some(Box::new(self)) }
    }

    /// What a file operation that fails with this answers to the kernel.
    pub fn errno(&self) -> i32 {
        match self.kind {
            Kind::Errno(e) => e,
            Kind::Miss => libc::EAGAIN,
            Kind::Usage => libc::EINVAL,
            Kind::Secret => libc::EACCES,
            Kind::NoSpace => libc::ENOSPC,
            Kind::Interrupted => libc::EINTR,
            Kind::Conflict => libc::EBUSY,
            Kind::Away | Kind::Damage | Kind::NotADrive | Kind::NotFound | Kind::Failed => libc::EIO,
        }
    }

    /// The exit status of a command that fails with this.
    pub fn exit_status(&self) -> u8 {
        match self.kind {
            Kind::Usage => 2,
            Kind::Secret => 3,
            Kind::Away => 4,
            Kind::Damage => 5,
            Kind::Conflict => 6,
            Kind::NotADrive => 7,
            Kind::Interrupted => 130,
            Kind::Errno(_) | Kind::Miss | Kind::NotFound | Kind::NoSpace | Kind::Failed => 1,
        }
    }

    /// One line for people: this error and the reasons behind it, outermost first.
    pub fn chain(&self) -> String {
        let mut line = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(e) = next {
            let reason = e.to_string();
            // Libraries often repeat the reason in their own words.
            if !line.ends_with(&reason) {
                line.push_str(": ");
                line.push_str(&reason);
            }
            next = e.source();
        }
        line
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match (self.kind, &self.message[..]) {
            (Kind::Errno(e), "") => std::io::Error::from_raw_os_error(e).fmt(f),
            (_, m) => f.write_str(m),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.chain())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

/// An error of the host's file system, told with what was being done.
impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Error {
        let kind = match e.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Kind::NoSpace,
            Some(libc::EINTR) => Kind::Interrupted,
            _ if e.kind() == std::io::ErrorKind::NotFound => Kind::NotFound,
            _ => Kind::Failed,
        };
        Error { kind, message: Cow::Owned(e.to_string()), source: None }
    }
}

/// Says what was being done when something failed.
pub trait Context<T> {
    fn context<M: Into<Cow<'static, str>>>(self, message: impl FnOnce() -> M) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context<M: Into<Cow<'static, str>>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|e| e.into().context(message()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_errno_and_its_exit_status() {
        let table = [
            (Kind::Errno(libc::ENOENT), libc::ENOENT, 1),
            (Kind::Usage, libc::EINVAL, 2),
            (Kind::Secret, libc::EACCES, 3),
            (Kind::Away, libc::EIO, 4),
            (Kind::Damage, libc::EIO, 5),
            (Kind::Conflict, libc::EBUSY, 6),
            (Kind::NotADrive, libc::EIO, 7),
            (Kind::NoSpace, libc::ENOSPC, 1),
            (Kind::Interrupted, libc::EINTR, 130),
        ];
        for (kind, errno, exit) in table {
            let e = Error::new(kind, "x");
            assert_eq!((e.errno(), e.exit_status()), (errno, exit), "{kind:?}");
        }
    }

    #[test]
    fn a_reason_that_is_repeated_is_told_once() {
        let full = || std::io::Error::from_raw_os_error(libc::ENOSPC);
        let e = Error::from(full()).context(format!("cannot write /a: {}", full()));
        assert_eq!(e.chain(), "cannot write /a: No space left on device (os error 28)");
    }

    #[test]
    fn context_keeps_the_kind_and_tells_the_chain() {
        let e = Error::damage("chunk ab is not what its name says").context("cannot read /a");
        assert_eq!(e.kind(), Kind::Damage);
        assert_eq!(e.chain(), "cannot read /a: chunk ab is not what its name says");
    }
}
