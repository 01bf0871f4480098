//! The control protocol: how commands talk to the daemon of a mount (docs/CONTROL.md).
//!
//! A Unix stream socket (0600, in the state directory or the one in its place, 0700). A client sends one [`Request`],
//! as one line of JSON; the server answers with lines of JSON, one [`Answer`] each, of which the last is `done` or
//! `error`. An answer `{"data":{"len":N}}` is followed by N bytes as they are. The server checks who calls
//! (SO_PEERCRED): the mount's owner or root.

mod client;
mod protocol;
mod server;

pub use client::Client;
pub use protocol::{Answer, At, Failure, LogEntry, MAX_DATA, Progress, Reply, Request, Status};
#[cfg(fuzzing)]
pub use server::read_request;
pub use server::{Handler, Server};

use crate::error::{Context, Error, Result};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The name of the socket, in a state directory or the one in its place.
pub const SOCKET: &str = "control";

/// The longest line of the protocol, in bytes.
const MAX_LINE: u64 = 256 << 10;

/// A name of a socket that fits in a `sockaddr_un` (108 bytes), and the directory that must stay open while the
/// name is used.
fn short_name(socket: &Path) -> Result<(PathBuf, Option<File>)> {
    if socket.as_os_str().len() < 100 {
        return Ok((socket.to_owned(), None));
    }
    let (Some(dir), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(Error::failed(format!("{} names no socket", socket.display())));
    };
    let dir = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(dir)
        .context(|| format!("cannot open {}", dir.display()))?;
    Ok((PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name), Some(dir)))
}

/// Connects to a socket, if its server takes connections: with one that is stopped and has a full queue, connect(2)
/// would wait as long as that lasts. Then the error is `WouldBlock`.
pub fn connect(socket: &Path) -> io::Result<UnixStream> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
    let (name, _dir) = short_name(socket).map_err(io::Error::other)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&fd, &SocketAddrUnix::new(&name)?)?;
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Who is at the other end of a connection.
pub struct Peer {
    /// None for a process of another PID namespace, which the kernel tells as 0.
    pub pid: Option<rustix::process::Pid>,
    pub uid: rustix::process::Uid,
}

/// Asks the kernel, which noted it at connect(2) or listen(2). (rustix 1.1 has no word for a process without a number: it
/// takes the answer for an error.)
pub fn peer(stream: &UnixStream) -> io::Result<Peer> {
    let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into a structure of that size.
    let done = unsafe {
        let into = (&raw mut found).cast();
        libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, into, &mut len)
    };
    match done {
        0 => Ok(Peer {
            pid: rustix::process::Pid::from_raw(found.pid),
            uid: rustix::process::Uid::from_raw(found.uid),
        }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How many callers a server has at once; each is counted until its [`Caller`] is dropped.
#[derive(Clone, Default)]
pub struct Callers(Arc<AtomicUsize>);

/// One of the callers.
pub struct Caller(Arc<AtomicUsize>);

impl Callers {
    /// Counts one more; None where there are `most` already.
    pub fn admit(&self, most: usize) -> Option<Caller> {
        let caller = Caller(self.0.clone());
        // Dropped, and so no longer counted, where it is one too many.
        (self.0.fetch_add(1, Ordering::SeqCst) < most).then_some(caller)
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
pub(crate) mod tests;
