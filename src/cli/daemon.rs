//! Going into the background, and what a process that serves a mount owes to its surroundings.

use super::control::Failure;
use super::logging::replace;
use super::output::Spinner;
use crate::error::{Context, Error, Result};
use crate::sys::dirs::make_dir;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What a daemon tells the command that started it, once.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Ready(Started),
    Failed(Failure),
}

/// What a daemon says once the mount can be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// To be printed.
    pub lines: Vec<String>,
    pub state_dir: OsString,
    pub log_dir: OsString,
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
    Ok(match fork_with_pipe()? {
        Forked::Child(pipe) => Half::Child(Report { pipe: Some(pipe) }),
        Forked::Parent(pid, pipe) => Half::Parent(pid, Waiting { pipe }),
    })
}

/// The two ends of [`fork_with_pipe`].
pub enum Forked {
    Child(PipeWriter),
    Parent(Pid, PipeReader),
}

/// Forks, with a pipe from the child to the parent.
pub fn fork_with_pipe() -> Result<Forked> {
    let threads = fs::read_dir("/proc/self/task").context(|| "cannot read /proc/self/task")?.count();
    if threads != 1 {
        return Err(Error::failed(format!("cannot fork with {threads} threads (a bug)")));
    }
    let (reader, writer) = std::io::pipe().context(|| "cannot make a pipe")?;
    // SAFETY: this is the only thread (checked above), so the child has no lock that another thread held.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()).context(|| "cannot start a process"),
        0 => Ok(Forked::Child(writer)),
        pid => {
            let pid = Pid::from_raw(pid).ok_or_else(|| Error::failed("fork returned no process"))?;
            Ok(Forked::Parent(pid, reader))
        }
    }
}

/// Lets go of standard error, which is a person's or a script's.
pub fn be_silent() -> Result<()> {
    replace(&null()?, libc::STDERR_FILENO)
}

/// Lets go of what somebody may read to its end: standard output and error.
pub fn be_mute() -> Result<()> {
    replace(&null()?, libc::STDOUT_FILENO)?;
    be_silent()
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

impl Waiting {
    /// Waits until the daemon is ready, and returns what it says then, or its error.
    pub fn wait(mut self) -> Result<Started> {
        let mut said = Vec::new();
        let _spinner = Spinner::start("opening the drive");
        self.pipe.read_to_end(&mut said).context(|| "cannot hear the daemon")?;
        match serde_json::from_slice(&said) {
            Ok(Outcome::Ready(started)) => Ok(started),
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
    pub fn ready(&mut self, started: Started) -> Result<()> {
        match self.pipe.take() {
            Some(pipe) => {
                let left = rustix::process::setsid().map_err(std::io::Error::from);
                left.context(|| "cannot begin a session")?;
                tell(pipe, &Outcome::Ready(started))
            }
            None => super::output::print(&started.lines.iter().map(|l| format!("{l}\n")).collect::<String>()),
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

/// Makes a directory, `what`, durably and for the caller only. One that is there must be so.
pub fn make_private_dir(dir: &Path, what: &str) -> Result<()> {
    make_dir(dir).context(|| format!("cannot make the {what} {}", dir.display()))?;
    check_private(dir, what)
}

/// An error where a directory is not the caller's own, or is open to others.
pub fn check_private(dir: &Path, what: &str) -> Result<()> {
    let found = fs::metadata(dir).context(|| format!("cannot look at the {what} {}", dir.display()))?;
    check_owner(dir, what, found.uid(), rustix::process::geteuid().as_raw())?;
    if found.mode() & 0o077 != 0 {
        return Err(Error::failed(format!("{} is open to others: chmod 700 it", dir.display())));
    }
    Ok(())
}

/// Whoever owns such a directory can put other files there, a socket too: it must be the caller's own.
fn check_owner(dir: &Path, what: &str, owner: u32, me: u32) -> Result<()> {
    if owner == me {
        return Ok(());
    }
    Err(Error::failed(format!(
        "the {what} {} belongs to user {owner}, not to you (user {me}): use --state-dir, or become user {owner}",
        dir.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_state_directory_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        make_private_dir(&state, "state directory").unwrap();
        make_private_dir(&state, "state directory").unwrap();
        assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
        fs::set_permissions(&state, fs::Permissions::from_mode(0o750)).unwrap();
        assert!(make_private_dir(&state, "state directory").unwrap_err().to_string().contains("chmod 700"));
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(make_private_dir(&dir.path().join("file"), "state directory").is_err());
    }

    /// Root would keep its journal, and its control socket, in a directory whose owner can swap them.
    #[test]
    fn a_state_directory_of_another_user_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        make_private_dir(&state, "state directory").unwrap();
        std::os::unix::fs::chown(&state, Some(1000), None).unwrap();
        let e = make_private_dir(&state, "state directory").unwrap_err().to_string();
        assert!(e.contains("belongs to user 1000") && e.contains("--state-dir"), "{e}");
    }

    #[test]
    fn a_process_with_threads_does_not_fork() {
        let stop = std::sync::Arc::new(std::sync::Barrier::new(2));
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
        let started = || Started { lines: vec!["a".into()], state_dir: "/s".into(), log_dir: "/l".into() };
        report.ready(started()).unwrap();
        assert_eq!(waiting.wait().unwrap(), started());
        let (waiting, mut report) = pipe();
        report.failed(Error::new(Kind::Secret, "no")).unwrap();
        assert_eq!(waiting.wait().unwrap_err().exit_status(), 3);
        let (waiting, report) = pipe();
        drop(report);
        assert!(waiting.wait().unwrap_err().to_string().contains("died"));
        let (waiting, mut report) = pipe();
        drop(waiting);
        assert!(report.ready(started()).is_err());
    }
}
