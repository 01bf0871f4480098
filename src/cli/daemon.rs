//! Going into the background, and what a process that serves a mount owes to its surroundings: signals, logs,
//! and no secrets in core files.

use super::backend::Running;
use super::control::Failure;
use super::exit;
use crate::error::{Context, Error, Kind, Result};
use parking_lot::Mutex;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File};
use std::io::{IsTerminal, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use tracing_subscriber::EnvFilter;

/// The name of the log in a state directory.
pub const LOG: &str = "log";
/// At the start of a daemon a log larger than this becomes `log.old`.
const LOG_LIMIT: u64 = 4 << 20;

/// What a daemon tells the command that started it, once.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// The mount can be used; lines to print.
    Ready(Vec<String>),
    Failed(Failure),
}

/// Which of the two processes this is.
pub enum Side {
    Command(Waiting),
    Daemon(Report),
}

/// The command's end of the pipe.
pub struct Waiting {
    pipe: PipeReader,
}

/// The daemon's end of the pipe; `None` in the foreground, where lines are printed and errors returned.
pub struct Report {
    pipe: Option<PipeWriter>,
}

/// Splits the process in two: the command that was typed, and a daemon in `/`, with nothing open but the pipe
/// between them and standard error, which it keeps until it has a log. Once it is ready the daemon has a session of
/// its own, and not before: an interrupt on the terminal ends both; and a mount point that is an automount lets in
/// only the process group of the service manager, to which the mount command of a unit belongs.
pub fn fork() -> Result<Side> {
    match split()? {
        Half::Child(report) => {
            if let Some(pipe) = &report.pipe {
                detach(pipe)?;
            }
            Ok(Side::Daemon(report))
        }
        Half::Parent(_, waiting) => Ok(Side::Command(waiting)),
    }
}

/// The two ends of [`split`].
pub enum Half {
    Child(Report),
    Parent(Pid, Waiting),
}

/// Forks, with a pipe on which the child reports.
pub fn split() -> Result<Half> {
    let threads = fs::read_dir("/proc/self/task").context(|| "cannot read /proc/self/task")?.count();
    if threads != 1 {
        return Err(Error::failed(format!("cannot go into the background with {threads} threads (a bug)")));
    }
    let (reader, writer) = std::io::pipe().context(|| "cannot make a pipe")?;
    // SAFETY: this is the only thread (checked above), so the child has no lock that another thread held.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()).context(|| "cannot start the daemon"),
        0 => Ok(Half::Child(Report { pipe: Some(writer) })),
        pid => {
            let pid = Pid::from_raw(pid).ok_or_else(|| Error::failed("fork returned no process"))?;
            Ok(Half::Parent(pid, Waiting { pipe: reader }))
        }
    }
}

/// Lets go of standard error, which is a person's or a script's.
pub fn be_silent() -> Result<()> {
    replace(&null()?, libc::STDERR_FILENO)
}

fn null() -> Result<File> {
    File::options().read(true).write(true).open("/dev/null").context(|| "cannot open /dev/null")
}

fn detach(pipe: &PipeWriter) -> Result<()> {
    std::env::set_current_dir("/").context(|| "cannot detach the daemon")?;
    let null = null()?;
    replace(&null, libc::STDIN_FILENO)?;
    replace(&null, libc::STDOUT_FILENO)?;
    drop(null);
    // Whatever else was inherited (a script's lock, a pipe that somebody waits on) is not ours to hold open.
    let keep = pipe.as_raw_fd() as libc::c_uint;
    for (first, last) in [(3, keep.saturating_sub(1)), (keep + 1, libc::c_uint::MAX)] {
        if first <= last {
            // SAFETY: no object of this process owns a descriptor above 2 but `pipe`, which is left out. A kernel
            // without the call leaves them open, which does no harm here.
            unsafe { libc::close_range(first, last, 0) };
        }
    }
    Ok(())
}

/// Makes a standard descriptor mean `file`.
fn replace(file: &File, standard: i32) -> Result<()> {
    // SAFETY: both are descriptors of this process; dup2 touches no memory.
    match unsafe { libc::dup2(file.as_raw_fd(), standard) } {
        -1 => Err(std::io::Error::last_os_error()).context(|| "cannot redirect standard descriptors"),
        _ => Ok(()),
    }
}

impl Waiting {
    /// Waits until the daemon is ready, and returns the lines that it wants printed, or its error.
    pub fn wait(mut self) -> Result<Vec<String>> {
        let mut said = Vec::new();
        self.pipe.read_to_end(&mut said).context(|| "cannot hear the daemon")?;
        match serde_json::from_slice(&said) {
            Ok(Outcome::Ready(lines)) => Ok(lines),
            Ok(Outcome::Failed(failure)) => Err(failure.into_error()),
            Err(_) => Err(Error::failed(
                "the daemon died before it was ready: its log, in the state directory, says why",
            )),
        }
    }
}

impl Report {
    pub fn foreground() -> Report {
        Report { pipe: None }
    }

    pub fn is_foreground(&self) -> bool {
        self.pipe.is_none()
    }

    /// Whether somebody waits to be told how it went.
    pub fn is_awaited(&self) -> bool {
        self.pipe.is_some()
    }

    /// Says that the mount can be used. An error means that nobody waits for it any more.
    pub fn ready(&mut self, lines: Vec<String>) -> Result<()> {
        match self.pipe.take() {
            Some(pipe) => {
                let left = rustix::process::setsid().map_err(std::io::Error::from);
                left.context(|| "cannot begin a session")?;
                tell(pipe, &Outcome::Ready(lines))
            }
            None => super::output::print(&lines.iter().map(|l| format!("{l}\n")).collect::<String>()),
        }
    }

    /// Hands an error to the command that waits, which prints it; or back, where none does.
    pub fn failed(&mut self, error: Error) -> Result<()> {
        match self.pipe.take() {
            Some(pipe) => tell(pipe, &Outcome::Failed(Failure::of(&error))),
            None => Err(error),
        }
    }
}

fn tell(mut pipe: PipeWriter, outcome: &Outcome) -> Result<()> {
    let text =
        serde_json::to_vec(outcome).map_err(|e| Error::failed("cannot encode an outcome").with_source(e))?;
    pipe.write_all(&text).context(|| "nobody waits for the daemon any more")
}

/// What this process makes on the host, in stores and state directories, is its user's alone.
pub fn keep_files_private() {
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}

/// Makes the state directory, for its owner only. The directories above it are made like any.
pub fn make_state_dir(dir: &Path) -> Result<()> {
    let failed = || format!("cannot make the state directory {}", dir.display());
    if let Some(above) = dir.parent() {
        fs::create_dir_all(above).context(failed)?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        made => made.context(failed)?,
    }
    let mode = rustix::fs::stat(dir).map_err(std::io::Error::from).context(failed)?.st_mode & 0o077;
    if mode != 0 {
        return Err(Error::failed(format!("{} is open to others: chmod 700 it", dir.display())));
    }
    Ok(())
}

/// From here on standard error is the log in the state directory.
pub fn log_to(state_dir: &Path) -> Result<()> {
    let path = state_dir.join(LOG);
    let failed = || format!("cannot open the log {}", path.display());
    if fs::metadata(&path).is_ok_and(|m| m.len() > LOG_LIMIT) {
        fs::rename(&path, state_dir.join("log.old")).context(failed)?;
    }
    let log = File::options().append(true).create(true).mode(0o600).open(&path).context(failed)?;
    replace(&log, libc::STDERR_FILENO)
}

/// Starts logging, to standard error. `NACREFS_LOG` says what (`debug`, `nacrefs::journal=trace`, …).
pub fn start_logging(default: &str) -> Result<()> {
    let filter = match std::env::var("NACREFS_LOG") {
        Ok(text) => EnvFilter::try_new(&text).map_err(|e| {
            Error::new(Kind::Usage, format!("NACREFS_LOG={text:?} is no filter")).with_source(e)
        })?,
        Err(_) => EnvFilter::new(default),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // It would be told with `eprintln!`, which panics on a full disk.
        .log_internal_errors(false)
        .try_init()
        .map_err(|e| Error::failed(format!("cannot start logging: {e}")))
}

/// Ends a mount on SIGTERM, SIGINT and SIGHUP: the first stops it, which leaves the rest to the journal; the
/// second ends the process.
pub struct Signals {
    running: Arc<Mutex<Option<Arc<dyn Running>>>>,
}

impl Signals {
    /// Must be called before any thread is made: threads inherit that these signals are blocked.
    pub fn watch() -> Result<Signals> {
        let running = Arc::new(Mutex::new(None));
        let set = block_signals()?;
        let watched = Signals { running: running.clone() };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                wait_signal(&set);
                let stopped: Option<Arc<dyn Running>> = running.lock().take();
                if let Some(mount) = stopped {
                    tracing::info!("told to end: detaching; what is not stored stays in the journal");
                    mount.stop();
                    wait_signal(&set);
                }
                std::process::exit(exit::INTERRUPTED.into());
            })
            .context(|| "cannot start a thread for signals")?;
        Ok(watched)
    }

    /// From now on a signal stops this mount, rather than the process.
    pub fn stop_on_signal(&self, mount: Arc<dyn Running>) {
        *self.running.lock() = Some(mount);
    }
}

fn block_signals() -> Result<libc::sigset_t> {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set; the calls that follow use it, and the signal numbers are valid.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        let mut set = set.assume_init();
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(&mut set, signal);
        }
        match libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) {
            0 => Ok(set),
            e => Err(std::io::Error::from_raw_os_error(e)).context(|| "cannot block signals"),
        }
    }
}

fn wait_signal(set: &libc::sigset_t) {
    let mut signal = 0;
    // SAFETY: both point to values of the right types; the set is of blocked signals. It fails only for a bad set.
    unsafe { libc::sigwait(set, &mut signal) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_state_directory_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        make_state_dir(&state).unwrap();
        make_state_dir(&state).unwrap();
        assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
        fs::set_permissions(&state, fs::Permissions::from_mode(0o750)).unwrap();
        assert!(make_state_dir(&state).unwrap_err().to_string().contains("chmod 700"));
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(make_state_dir(&dir.path().join("file")).is_err());
    }

    #[test]
    fn a_process_with_threads_does_not_fork() {
        let stop = Arc::new(std::sync::Barrier::new(2));
        let waits = stop.clone();
        let thread = std::thread::spawn(move || waits.wait());
        assert!(fork().is_err());
        stop.wait();
        thread.join().unwrap();
    }

    #[test]
    fn a_report_crosses_the_pipe() {
        let pipe = || {
            let (reader, writer) = std::io::pipe().unwrap();
            (Waiting { pipe: reader }, Report { pipe: Some(writer) })
        };
        let (waiting, mut report) = pipe();
        report.ready(vec!["a".into()]).unwrap();
        assert_eq!(waiting.wait().unwrap(), ["a"]);
        let (waiting, mut report) = pipe();
        report.failed(Error::new(Kind::Secret, "no")).unwrap();
        assert_eq!(waiting.wait().unwrap_err().exit_status(), 3);
        let (waiting, report) = pipe();
        drop(report);
        assert!(waiting.wait().unwrap_err().to_string().contains("died"));
        let (waiting, mut report) = pipe();
        drop(waiting);
        assert!(report.ready(vec![]).is_err());
    }
}
