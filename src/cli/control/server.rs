//! The daemon's side of the control socket: a thread for each connection, each of one request.

use super::protocol::{Answer, Failure, LogEntry, MAX_DATA, Progress, Reply, Request, Status};
use super::{Caller, Callers, MAX_LINE, peer, short_name};
use crate::error::{Context, Error, Kind, Result};
use crate::types::Version;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Answers requests; called on a thread of its own for each.
pub trait Handler: Send + Sync {
    fn handle(&self, request: Request, out: &mut dyn Reply) -> Result<()>;
}

/// How long a caller may take to say what it wants.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// More callers at once than this are turned away.
pub(super) const MAX_CALLERS: usize = 256;
/// Progress is told no more often than this.
const PROGRESS_TIME: Duration = Duration::from_millis(100);

/// A control socket that is being served. Dropping it ends that and removes the socket.
pub struct Server {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// Makes the socket and serves it for the user `owner` (and root). The directory must be the caller's own,
    /// 0700 and locked: a socket that is there is stale, and is removed.
    pub fn start(path: &Path, owner: u32, handler: Arc<dyn Handler>) -> Result<Server> {
        let failed = || format!("cannot make the control socket {}", path.display());
        match fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).context(failed),
            _ => {}
        }
        let (name, _dir) = short_name(path)?;
        let listener = UnixListener::bind(name).context(failed)?;
        fs::set_permissions(path, Permissions::from_mode(0o600)).context(failed)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let acceptor = thread::Builder::new()
            .name("control".into())
            .spawn(move || accept(&listener, &stopping, owner, &handler))
            .context(failed)?;
        Ok(Server { path: path.to_owned(), stop, acceptor: Some(acceptor) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // A call wakes the acceptor. Where it cannot be called, it is left to end with the process.
        let woken = short_name(&self.path).is_ok_and(|(name, _dir)| UnixStream::connect(name).is_ok());
        let acceptor = self.acceptor.take().filter(|_| woken);
        if acceptor.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the control socket's thread panicked");
        }
        if let Err(e) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove {}: {e}", self.path.display());
        }
    }
}

fn accept(listener: &UnixListener, stop: &AtomicBool, owner: u32, handler: &Arc<dyn Handler>) {
    let callers = Callers::default();
    loop {
        let accepted = listener.accept();
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!("cannot accept a control connection: {e}");
                thread::sleep(PROGRESS_TIME);
                continue;
            }
        };
        let Some(caller) = callers.admit(MAX_CALLERS) else {
            tracing::warn!("too many control connections at once");
            turn_away(&stream);
            continue;
        };
        let call = Call { handler: handler.clone(), _counted: caller };
        // When it cannot be spawned, the closure is dropped, and the count with it.
        if let Err(e) =
            thread::Builder::new().name("control-call".into()).spawn(move || call.run(stream, owner))
        {
            tracing::warn!("cannot start a thread for a control connection: {e}");
        }
    }
}

/// Says so, if that can be said without waiting.
fn turn_away(mut stream: &UnixStream) {
    let busy = Error::new(
        Kind::Conflict,
        format!("{MAX_CALLERS} others ask the drive's daemon now: try again later"),
    );
    let mut line = serde_json::to_vec(&Answer::Error(Failure::of(&busy))).unwrap_or_default();
    line.push(b'\n');
    if let Err(e) = stream.set_nonblocking(true).and_then(|()| stream.write_all(&line)) {
        tracing::debug!("a control caller went away: {e}");
    }
}

/// One connection.
struct Call {
    handler: Arc<dyn Handler>,
    _counted: Caller,
}

impl Call {
    fn run(self, stream: UnixStream, owner: u32) {
        let mut out = Lines { out: BufWriter::new(&stream), told: None };
        let outcome = read_request(&stream, owner).and_then(|request| {
            tracing::debug!("control: {request:?}");
            self.handler.handle(request, &mut out)
        });
        let last = match &outcome {
            Ok(()) => Answer::Done {},
            Err(e) => Answer::Error(Failure::of(e)),
        };
        if let Err(e) = out.line(&last).and_then(|()| out.flush()) {
            tracing::debug!("a control caller went away: {}", e.chain());
        }
    }
}

/// Reads what a caller wants; refuses callers but the owner and root.
pub fn read_request(stream: &UnixStream, owner: u32) -> Result<Request> {
    let peer = peer(stream).context(|| "cannot tell who calls the control socket")?;
    let uid = peer.uid.as_raw();
    if uid != owner && uid != 0 {
        tracing::warn!("user {uid} tried to control the mount of user {owner}");
        return Err(Error::new(Kind::Failed, "this mount belongs to another user"));
    }
    stream.set_read_timeout(Some(REQUEST_TIME)).context(|| "control socket")?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_LINE)).read_line(&mut line).context(|| "no request came")?;
    serde_json::from_str(&line).map_err(|e| {
        Error::new(Kind::Usage, "the daemon does not know this request: it may be of another version")
            .with_source(e)
    })
}

/// Writes answers to the socket.
struct Lines<'s> {
    out: BufWriter<&'s UnixStream>,
    told: Option<Instant>,
}

impl Lines<'_> {
    fn line(&mut self, answer: &Answer) -> Result<()> {
        let mut line = serde_json::to_vec(answer)
            .map_err(|e| Error::failed("cannot encode an answer").with_source(e))?;
        line.push(b'\n');
        self.out.write_all(&line).context(|| "the caller went away")
    }

    fn flush(&mut self) -> Result<()> {
        self.out.flush().context(|| "the caller went away")
    }
}

impl Reply for Lines<'_> {
    fn progress(&mut self, progress: &Progress) -> Result<()> {
        if self.told.is_some_and(|at| at.elapsed() < PROGRESS_TIME) {
            return Ok(());
        }
        self.told = Some(Instant::now());
        self.line(&Answer::Progress(progress.clone()))?;
        self.flush()
    }

    fn status(&mut self, status: &Status) -> Result<()> {
        self.line(&Answer::Status(Box::new(status.clone())))
    }

    fn entry(&mut self, entry: &LogEntry) -> Result<()> {
        self.line(&Answer::Entry(entry.clone()))
    }

    fn version(&mut self, version: Version) -> Result<()> {
        self.line(&Answer::Version(version))
    }

    fn log_level(&mut self, level: &str) -> Result<()> {
        self.line(&Answer::LogLevel(level.to_owned()))
    }

    fn note(&mut self, text: &str) -> Result<()> {
        self.line(&Answer::Note(text.to_owned()))
    }

    fn caller(&self) -> Option<OwnedFd> {
        let pid = peer(self.out.get_ref()).ok()?.pid?;
        rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        for part in bytes.chunks(MAX_DATA) {
            self.line(&Answer::Data { len: part.len() })?;
            self.out.write_all(part).context(|| "the caller went away")?;
        }
        Ok(())
    }
}
