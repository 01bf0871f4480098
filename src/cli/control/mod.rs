//! The control protocol: how commands talk to the daemon of a mount (docs/CONTROL.md).
//!
//! A Unix stream socket (0600, in the state directory, 0700). A client sends one [`Request`], as one line of
//! JSON; the server answers with lines of JSON, one [`Answer`] each, of which the last is `done` or `error`.
//! An answer `{"data":{"len":N}}` is followed by N bytes as they are. The server checks who calls
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
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The name of the socket in a state directory.
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

#[cfg(test)]
pub(crate) mod tests;
