//! Metrics, in OpenMetrics text over HTTP: what `-o metrics=` serves, off by default.
//!
//! A few careful lines instead of a web server: each connection carries one GET of `/metrics`, is answered and closed,
//! on a thread of its own; who dawdles is cut off.

mod page;

pub use page::{Kind, Page};

use super::backend::Running;
use super::control::Callers;
use super::mounts::shown;
use crate::error::{Context, Result};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The type of OpenMetrics text, <https://prometheus.io/docs/specs/om/open_metrics_spec/>.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How long a connection may take, from its first byte to its last.
const PATIENCE: Duration = Duration::from_secs(2);
/// More callers at once than this are turned away.
const MAX_CALLERS: usize = 64;
/// The longest head of a request, in bytes.
const HEAD: usize = 8 << 10;

/// Where metrics are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A socket that only its user (and root) can reach.
    Unix(PathBuf),
    /// A port of this machine's own addresses: all its users can reach it.
    Port(SocketAddr),
}

impl Place {
    /// `unix:PATH` with an absolute path, or an address that is this machine's alone and a port: `127.0.0.1:9101`,
    /// `[::1]:9101`. The error is what to say of anything else.
    pub fn parse(text: &str) -> Result<Place, &'static str> {
        if let Some(path) = text.strip_prefix("unix:") {
            // The daemon is in another directory than whoever types this.
            return match path.starts_with('/') {
                true => Ok(Place::Unix(path.into())),
                false => Err("the socket's path must be absolute"),
            };
        }
        match text.parse::<SocketAddr>() {
            Ok(at) if at.ip().is_loopback() => Ok(Place::Port(at)),
            Ok(_) => Err("only addresses of this machine's own: 127.0.0.1:PORT, [::1]:PORT or unix:PATH"),
            Err(_) => Err("needs unix:PATH or 127.0.0.1:PORT"),
        }
    }
}

/// A place that is held, and not yet served.
pub enum Listener {
    Unix(UnixListener, PathBuf),
    Port(TcpListener),
}

impl Listener {
    /// Takes the place. A socket that nobody serves any more is removed.
    pub fn bind(place: &Place) -> Result<Listener> {
        match place {
            Place::Port(at) => {
                let port = TcpListener::bind(at).context(|| format!("cannot serve metrics on {at}"))?;
                Ok(Listener::Port(port))
            }
            Place::Unix(path) => {
                let failed = || format!("cannot serve metrics on {}", shown(path));
                clear_stale(path)?;
                // The umask leaves it to the user alone (`daemon::keep_files_private`).
                Ok(Listener::Unix(UnixListener::bind(path).context(failed)?, path.clone()))
            }
        }
    }

    fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Listener::Unix(listener, _) => Stream::Unix(listener.accept()?.0),
            Listener::Port(listener) => Stream::Port(listener.accept()?.0),
        })
    }

    /// Calls the listener, so that it looks whether it is to stop.
    fn wake(place: &Place) -> bool {
        match place {
            Place::Unix(path) => UnixStream::connect(path).is_ok(),
            Place::Port(at) => TcpStream::connect_timeout(at, PATIENCE).is_ok(),
        }
    }

    fn place(&self) -> Result<Place> {
        Ok(match self {
            Listener::Unix(_, path) => Place::Unix(path.clone()),
            // With port 0 the kernel has chosen one.
            Listener::Port(port) => Place::Port(port.local_addr().context(|| "cannot tell the port")?),
        })
    }
}

/// Removes the socket of a daemon that has died. Whatever else is there stays, and binding fails.
fn clear_stale(path: &Path) -> Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    let mine = found.uid() == rustix::process::geteuid().as_raw();
    let dead = || UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
    if found.file_type().is_socket() && mine && dead() {
        fs::remove_file(path).context(|| format!("cannot remove {}", shown(path)))?;
    }
    Ok(())
}

enum Stream {
    Unix(UnixStream),
    Port(TcpStream),
}

impl Stream {
    fn set_patience(&self, left: Duration) -> io::Result<()> {
        // Zero would mean for ever.
        let left = Some(left.max(Duration::from_millis(1)));
        match self {
            Stream::Unix(s) => s.set_read_timeout(left).and(s.set_write_timeout(left)),
            Stream::Port(s) => s.set_read_timeout(left).and(s.set_write_timeout(left)),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(s) => s.read(out),
            Stream::Port(s) => s.read(out),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(s) => s.write(bytes),
            Stream::Port(s) => s.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Unix(s) => s.flush(),
            Stream::Port(s) => s.flush(),
        }
    }
}

/// Metrics that are being served. Dropping it ends that, and removes the socket.
pub struct Server {
    place: Place,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(listener: Listener, mount: Arc<dyn Running>) -> Result<Server> {
        let place = listener.place()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let serve = move || {
            let callers = Callers::default();
            // Said once each time: any user of the machine may call on a port, and fill the log.
            let mut full = false;
            while let Some(stream) = next(&listener, &stopping) {
                let Some(counted) = callers.admit(MAX_CALLERS) else {
                    if !std::mem::replace(&mut full, true) {
                        tracing::warn!("too many connections for metrics at once");
                    }
                    continue;
                };
                full = false;
                let mount = mount.clone();
                let call = move || {
                    let _counted = counted;
                    if let Err(e) = answer(stream, &*mount) {
                        tracing::debug!("a caller of the metrics went away: {e}");
                    }
                };
                if let Err(e) = thread::Builder::new().name("metrics-call".into()).spawn(call) {
                    tracing::warn!("cannot start a thread for metrics: {e}");
                }
            }
        };
        let thread = thread::Builder::new()
            .name("metrics".into())
            .spawn(serve)
            .context(|| "cannot start a thread for metrics")?;
        match &place {
            Place::Unix(path) => tracing::info!("metrics are served on unix:{}", shown(path)),
            Place::Port(at) => tracing::info!("metrics are served on http://{at}/metrics"),
        }
        Ok(Server { place, stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Where it cannot be called, it is left to end with the process.
        let woken = Listener::wake(&self.place);
        if let Some(thread) = self.thread.take().filter(|_| woken)
            && thread.join().is_err()
        {
            tracing::error!("the thread of the metrics panicked");
        }
        if let Place::Unix(path) = &self.place
            && let Err(e) = fs::remove_file(path)
        {
            tracing::warn!("cannot remove {}: {e}", shown(path));
        }
    }
}

/// The next connection; `None` when it is time to stop.
fn next(listener: &Listener, stop: &AtomicBool) -> Option<Stream> {
    loop {
        let accepted = listener.accept();
        if stop.load(Ordering::SeqCst) {
            return None;
        }
        match accepted {
            Ok(stream) => return Some(stream),
            Err(e) => {
                tracing::warn!("cannot accept a connection for metrics: {e}");
                thread::sleep(PATIENCE);
            }
        }
    }
}

/// Reads one request, answers it, and hangs up.
fn answer(mut stream: Stream, mount: &dyn Running) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let head = read_head(&mut stream, deadline)?;
    let (status, kind, body) = match route(&head) {
        Ok(()) => {
            let mut page = Page::default();
            mount.measure(&mut page);
            ("200 OK", CONTENT_TYPE, page.finish())
        }
        Err(status) => {
            (status, "text/plain; charset=utf-8", format!("{status}: GET /metrics is all there is\n"))
        }
    };
    let head_only = head.starts_with(b"HEAD ");
    let mut reply = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    if !head_only {
        reply.push_str(&body);
    }
    stream.set_patience(deadline.saturating_duration_since(Instant::now()))?;
    stream.write_all(reply.as_bytes())?;
    stream.flush()
}

/// The bytes of a request up to its empty line.
fn read_head(stream: &mut Stream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut part = [0; 1024];
    while !head.windows(4).any(|w| w == b"\r\n\r\n") && head.len() < HEAD {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_patience(left)?;
        match stream.read(&mut part)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => head.extend_from_slice(part.get(..n).unwrap_or_default()),
        }
    }
    Ok(head)
}

/// Refuses all but GET (and HEAD) of /metrics, with the status to answer.
pub(super) fn route(head: &[u8]) -> Result<(), &'static str> {
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    let mut words = line.split(|b| *b == b' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let (Some(method), Some(target), Some(version)) = (method, target, version) else {
        return Err("400 Bad Request");
    };
    if !version.starts_with(b"HTTP/1.") || words.next().is_some() || head.len() >= HEAD {
        return Err("400 Bad Request");
    }
    let path = target.split(|b| *b == b'?').next().unwrap_or_default();
    match (method, path) {
        (b"GET" | b"HEAD", b"/metrics") => Ok(()),
        (b"GET" | b"HEAD", _) => Err("404 Not Found"),
        _ => Err("405 Method Not Allowed"),
    }
}

#[cfg(test)]
mod tests;
