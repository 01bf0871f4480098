//! `-o restart=on`: a small process beside the daemon that mounts again when the daemon is killed.
//!
//! It is for mounts that nobody else watches: a mount unit of systemd, unlike a service, has no `Restart=`, and
//! outside systemd there is nobody at all. It is forked before the daemon has a thread or has opened anything,
//! and goes on where the mount command was: with the options and the secret that were given then.

mod signals;

use super::daemon::{self, Report, Started, Waiting};
use super::logging::{self, LogOptions};
use super::mounts::{self, Mount, shown};
use crate::error::{Context, Error, Kind, Result};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid};
use signals::Signals;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The pause before the second try, which doubles up to the longest. The first try follows at once.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// A daemon that has lived for so long had a good start.
const LIFE: Duration = Duration::from_secs(60);

/// Which process this is.
pub enum Side {
    /// A daemon; and what was before, where it is not the first.
    Daemon(Report, Option<Box<Before>>),
    /// The supervisor, when there is nothing more to watch.
    Over,
}

/// What a daemon takes the place of.
#[derive(Clone)]
pub struct Before {
    /// What became of the daemon before.
    pub why: String,
    /// What the last try to take its place failed with.
    pub failed: Option<String>,
    /// What it has left: nobody has unmounted it.
    pub dead: Mount,
    pub state_dir: PathBuf,
    pub log_dir: PathBuf,
}

/// Starts a daemon, and another when it is killed. Returns in each daemon, and in the supervisor when a daemon has
/// ended by itself (it was unmounted, or told to end), when its dead mount was taken away, when it cannot be started
/// again, or when the supervisor is told to end; a daemon that is there then goes on without it. `log`: how the reason for that is told, in the log of the daemon.
pub fn supervise(mut report: Report, dir: &Path, log: &LogOptions) -> Result<Side> {
    let mut before: Option<Before> = None;
    let (mut state_dir, mut log_dir) = (PathBuf::new(), PathBuf::new());
    let mut tries = Tries::default();
    // From the first daemon's start on: before that signals are as much for the command that waits.
    let mut signals: Option<Signals> = None;
    loop {
        let begun = Instant::now();
        let (daemon, waiting) = match daemon::split()? {
            daemon::Half::Child(own) => return Ok(Side::Daemon(own, before.map(Box::new))),
            daemon::Half::Parent(pid, waiting) => (pid, waiting),
        };
        let heard = first_words(waiting, &mut report, &mut signals);
        if let Heard::Deaf(_) = heard {
            // It was mounted for nobody.
            kill_process(daemon, Signal::TERM)
                .map_err(std::io::Error::from)
                .context(|| "cannot end the daemon")?;
        }
        let end = match &heard {
            Heard::Ready(started) => {
                state_dir = started.state_dir.clone().into();
                log_dir = started.log_dir.clone().into();
                let kept = signals.take().map_or_else(Signals::keep, Ok)?;
                let Some(end) = signals.insert(kept).end_of(daemon)? else {
                    return leave_unguarded(&log_dir, log, dir);
                };
                end
            }
            _ => wait(daemon)?,
        };
        let over = |why: &str| give_up(&log_dir, log, dir, why);
        match heard {
            Heard::Deaf(e) => return Err(e),
            Heard::Refused => return Ok(Side::Over),
            Heard::Ready(_) if !was_killed(&end) => return Ok(Side::Over),
            Heard::Ready(_) => {
                let why = format!("the daemon before this one was killed ({})", told(&end));
                let Some(dead) = left_dead(dir)? else { return give_up(&log_dir, log, dir, UNMOUNTED) };
                let (state_dir, log_dir) = (state_dir.clone(), log_dir.clone());
                before = Some(Before { why, failed: None, dead, state_dir, log_dir });
            }
            Heard::Failed(e) if !may_pass(&e) => return over(&e.chain()),
            Heard::Failed(e) => {
                let Some(before) = &mut before else { return Err(e) };
                before.failed = Some(e.chain());
                // It may have mounted first.
                if was_killed(&end) {
                    let Some(dead) = left_dead(dir)? else { return over(UNMOUNTED) };
                    before.dead = dead;
                }
            }
        }
        let pause = tries.pause(begun.elapsed());
        if signals.as_ref().is_some_and(|signals| signals.sleep(pause)) {
            return give_up(&log_dir, log, dir, "its supervisor was told to end");
        }
        if let Some(before) = &before
            && left_dead(dir)?.is_none_or(|found| found.device != before.dead.device)
        {
            return give_up(&log_dir, log, dir, UNMOUNTED);
        }
    }
}

/// The dead mount of a drive at a place, if that is what is on top there.
fn left_dead(dir: &Path) -> Result<Option<Mount>> {
    Ok(mounts::at_exactly(dir)?.filter(|mount| mount.is_ours() && mount.is_dead()))
}

const UNMOUNTED: &str = "it was unmounted, or something else is mounted there";

/// Ends the supervisor, and says why in the log: nobody listens to it any more.
fn give_up(log_dir: &Path, log: &LogOptions, dir: &Path, why: &str) -> Result<Side> {
    logging::log_to(log_dir)?;
    logging::start("info", log)?;
    tracing::warn!("the daemon was killed, and {} is not mounted again: {why}", shown(dir));
    Ok(Side::Over)
}

/// Ends the supervisor of a daemon that goes on, and says so in its log.
fn leave_unguarded(log_dir: &Path, log: &LogOptions, dir: &Path) -> Result<Side> {
    logging::log_to(log_dir)?;
    logging::start("info", log)?;
    tracing::warn!(
        "the supervisor was told to end: {} stays mounted, and is not mounted again if its daemon is killed",
        shown(dir)
    );
    Ok(Side::Over)
}

/// What became of a daemon's start.
enum Heard {
    Ready(Started),
    /// The first start failed, and whoever asked for it has been told.
    Refused,
    /// Whoever asked for the first start is gone.
    Deaf(Error),
    /// A later start failed.
    Failed(Error),
}

/// Waits until the daemon is ready, and passes on what the first one says.
fn first_words(waiting: Waiting, report: &mut Report, signals: &mut Option<Signals>) -> Heard {
    let outcome = waiting.wait();
    if !report.is_awaited() {
        return outcome.map_or_else(Heard::Failed, Heard::Ready);
    }
    let passed_on = match outcome {
        Ok(started) => {
            // Before anybody knows that there is a mount: a signal that follows at once is one for a supervisor.
            let kept = Signals::keep().map(|kept| *signals = Some(kept));
            let told = kept.and_then(|()| daemon::be_silent()).and_then(|()| report.ready(started.clone()));
            told.map(|()| Heard::Ready(started))
        }
        Err(e) => report.failed(e).map(|()| Heard::Refused),
    };
    passed_on.unwrap_or_else(Heard::Deaf)
}

/// Whether the next try may do better without anybody's help.
fn may_pass(e: &Error) -> bool {
    !matches!(e.kind(), Kind::Usage | Kind::Secret | Kind::Damage)
}

fn wait(pid: Pid) -> Result<WaitStatus> {
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(status),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(std::io::Error::from(e)).context(|| "cannot wait for the daemon"),
        }
    }
}

/// The exit status of a process whose main thread panicked.
const PANICKED: i32 = 101;

/// Whether it ended otherwise than it wanted to. SIGTERM is caught by a daemon that serves.
fn was_killed(end: &WaitStatus) -> bool {
    end.signaled() || end.exit_status() == Some(PANICKED)
}

fn told(end: &WaitStatus) -> String {
    match end.terminating_signal() {
        Some(signal) => format!("signal {signal}"),
        None => format!("exit status {}", end.exit_status().unwrap_or(-1)),
    }
}

/// How long to wait before the next try.
#[derive(Default)]
struct Tries {
    next: Duration,
}

impl Tries {
    fn pause(&mut self, lived: Duration) -> Duration {
        if lived >= LIFE {
            self.next = Duration::ZERO;
        }
        let pause = self.next;
        self.next = (2 * pause).clamp(PAUSE, LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_try_is_at_once_and_the_later_ones_are_ever_rarer() {
        let mut t = Tries::default();
        let short = Duration::from_secs(2);
        let pauses: Vec<u64> = (0..9).map(|_| t.pause(short).as_secs()).collect();
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(t.pause(LIFE), Duration::ZERO, "after a good life all is forgotten");
    }

    #[test]
    fn what_only_a_person_can_mend_is_not_tried_again() {
        for (kind, again) in [
            (Kind::Away, true),
            (Kind::Failed, true),
            (Kind::NotADrive, true),
            (Kind::Conflict, true),
            (Kind::Secret, false),
            (Kind::Damage, false),
            (Kind::Usage, false),
        ] {
            assert_eq!(may_pass(&Error::new(kind, "x")), again);
        }
    }

    #[test]
    fn a_kill_is_told_from_an_end() {
        for (script, killed, says) in [
            ("kill -9 $$", true, "signal 9"),
            ("exit 101", true, "exit status 101"),
            ("exit 0", false, "exit status 0"),
            ("exit 4", false, "exit status 4"),
        ] {
            #[expect(clippy::zombie_processes, reason = "waiting is what is tested")]
            let child = std::process::Command::new("sh").arg("-c").arg(script).spawn().unwrap();
            let end = wait(Pid::from_child(&child)).unwrap();
            assert_eq!((was_killed(&end), told(&end).as_str()), (killed, says));
        }
    }
}
