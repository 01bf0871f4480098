//! What a service manager is told: the datagrams of sd_notify(3), and nothing of libsystemd.

use crate::error::{Context, Error, Result};
use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to the service manager that started this process.
#[derive(Debug)]
pub struct ServiceManager {
    socket: UnixDatagram,
    address: SocketAddr,
    /// How long it waits for a ping before it takes this process for stuck.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// The manager that waits to hear from this very process, if one does (`NOTIFY_SOCKET`, `WATCHDOG_USEC`,
    /// `WATCHDOG_PID`).
    pub fn of_this_process() -> Result<Option<ServiceManager>> {
        let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|p| !p.is_empty()) else { return Ok(None) };
        let var = |name| std::env::var(name).ok();
        let watchdog = watchdog_of(var("WATCHDOG_USEC"), var("WATCHDOG_PID"), std::process::id());
        Self::at(&path, watchdog).map(Some)
    }

    fn at(path: &OsStr, watchdog: Option<Duration>) -> Result<ServiceManager> {
        let failed = || format!("cannot reach the service manager at NOTIFY_SOCKET={}", path.display());
        let address = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            [b'/', ..] => SocketAddr::from_pathname(path),
            _ => return Err(Error::failed(failed())),
        };
        let address = address.context(failed)?;
        let socket = UnixDatagram::unbound().context(failed)?;
        // A manager that does not read must not hold up a file system.
        socket.set_nonblocking(true).context(failed)?;
        Ok(ServiceManager { socket, address, watchdog })
    }

    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Sends assignments, such as `READY=1`, one a line.
    pub fn tell(&self, lines: &[String]) -> Result<()> {
        let text = lines.join("\n");
        self.socket
            .send_to_addr(text.as_bytes(), &self.address)
            .map(drop)
            .context(|| "cannot tell the service manager how things are")
    }
}

/// The watchdog's time, where it is meant for process `own`.
fn watchdog_of(usec: Option<String>, pid: Option<String>, own: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own)) {
        return None;
    }
    usec?.parse().ok().filter(|usec| *usec > 0).map(Duration::from_micros)
}

/// A line that cannot become two.
pub fn assignment(name: &str, value: &str) -> String {
    let value: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("{name}={value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_with_a_path_and_an_abstract_one_are_both_reached() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("nacrefs-test-{}", std::process::id());
        let abstract_name = format!("@{name}");
        let servers = [
            (path.as_os_str(), UnixDatagram::bind(&path).unwrap()),
            (
                OsStr::new(&abstract_name),
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap(),
            ),
        ];
        for (path, server) in servers {
            let manager = ServiceManager::at(path, None).unwrap();
            manager.tell(&["READY=1".into(), assignment("STATUS", "a\nWATCHDOG=1")]).unwrap();
            let mut buf = [0; 100];
            let n = server.recv(&mut buf).unwrap();
            assert_eq!(&buf[..n], b"READY=1\nSTATUS=a WATCHDOG=1");
        }
    }

    #[test]
    fn a_manager_that_cannot_be_reached_is_an_error_and_one_that_does_not_read_holds_nobody_up() {
        for path in ["vsock:2:1234", "relative", "/no/such/socket"] {
            let told = ServiceManager::at(path.as_ref(), None).and_then(|m| m.tell(&["READY=1".into()]));
            assert!(told.is_err(), "{path}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let _deaf = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager::at(path.as_os_str(), None).unwrap();
        let told = (0..10_000).map(|_| manager.tell(&["WATCHDOG=1".into()])).find(Result::is_err);
        assert!(told.is_some(), "a socket holds only so much");
    }

    #[test]
    fn only_a_watchdog_for_this_process_counts() {
        let of = |usec: &str, pid: Option<&str>| watchdog_of(Some(usec.into()), pid.map(Into::into), 7);
        assert_eq!(of("3000000", Some("7")), Some(Duration::from_secs(3)));
        assert_eq!(of("3000000", None), Some(Duration::from_secs(3)));
        for (usec, pid) in [("3000000", Some("8")), ("0", None), ("x", None), ("5", Some(""))] {
            assert_eq!(of(usec, pid), None);
        }
        assert_eq!(watchdog_of(None, Some("7".into()), 7), None);
    }
}
