//! A drive's life as its service manager sees it: ready, status lines, a watchdog's pings, and more time for as
//! long as there is progress (sd_notify(3)).

use super::backend::{Phase, Running};
use super::control::{Request, Status};
use super::mounts;
use super::notify::{ServiceManager, assignment};
use super::status::Told;
use super::values::human_size;
use crate::error::{Context, Kind, Result};
use parking_lot::{Condvar, Mutex};
use rustix::time::{ClockId, clock_gettime};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_secs(1);
/// How much time is asked for when there was progress.
const EXTENSION: Duration = Duration::from_secs(30);
/// Time on the CPU from one tick to the next that a drive at work exceeds, and one that only waits does not.
const WORK: Duration = Duration::from_millis(2);

/// The thread that tells; ends with this.
pub struct Pulse {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    manager: ServiceManager,
    dir: PathBuf,
    stage: Mutex<Stage>,
    changed: Condvar,
}

#[derive(Clone)]
enum Stage {
    Opening,
    Mounted(Arc<dyn Running>),
    Over,
}

impl Pulse {
    /// Begins while the drive is being opened.
    pub fn start(manager: ServiceManager, store: &str, dir: PathBuf) -> Result<Pulse> {
        let opening = assignment("STATUS", &format!("opening {store} and replaying its journal"));
        // A socket that nobody reads may have been inherited from anywhere: no reason not to mount.
        if let Err(e) = manager.tell(&[opening]) {
            tracing::warn!("{}", e.chain());
        }
        let (stage, changed) = (Mutex::new(Stage::Opening), Condvar::new());
        let shared = Arc::new(Shared { manager, dir, stage, changed });
        let theirs = shared.clone();
        let thread = std::thread::Builder::new()
            .name("service-status".into())
            .spawn(move || Telling::default().run(&theirs))
            .context(|| "cannot start a thread for the service manager")?;
        Ok(Pulse { shared, thread: Some(thread) })
    }

    /// The mount can be used.
    pub fn ready(&self, mount: Arc<dyn Running>) {
        if let Err(e) = self.shared.manager.tell(&["READY=1".into()]) {
            tracing::warn!("{}", e.chain());
        }
        self.enter(Stage::Mounted(mount));
    }

    fn enter(&self, stage: Stage) {
        *self.shared.stage.lock() = stage;
        self.shared.changed.notify_all();
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.enter(Stage::Over);
        if self.thread.take().is_some_and(|t| t.join().is_err()) {
            tracing::error!("the thread for the service manager panicked");
        }
    }
}

/// What was told so far.
#[derive(Default)]
struct Telling {
    status: String,
    stopping: bool,
    /// Since when the store is out of reach.
    away: Option<Instant>,
    /// The most that was left to commit since the end began.
    to_commit: u64,
    /// The time on the CPU at the tick before, while it is watched.
    worked: Option<Duration>,
    pinged: Option<Instant>,
    failed: bool,
}

impl Telling {
    fn run(mut self, shared: &Shared) {
        loop {
            let stage = {
                let mut stage = shared.stage.lock();
                if !matches!(*stage, Stage::Over) {
                    shared.changed.wait_for(&mut stage, TICK);
                }
                stage.clone()
            };
            let mut lines = Vec::new();
            match stage {
                Stage::Opening => self.extend(&mut lines),
                Stage::Mounted(mount) => self.look_at(&*mount, shared, &mut lines),
                Stage::Over => return,
            }
            let told = if lines.is_empty() { Ok(()) } else { shared.manager.tell(&lines) };
            // Once, for a manager that is being restarted will listen again.
            if let Err(e) = &told
                && !self.failed
            {
                tracing::warn!("{}", e.chain());
            }
            self.failed = told.is_err();
        }
    }

    fn look_at(&mut self, mount: &dyn Running, shared: &Shared, lines: &mut Vec<String>) {
        let phase = mount.phase();
        // Takes the drive's locks: while they cannot be had there are no pings either.
        let status = match status_of(mount) {
            Ok(status) => status,
            Err(e) => return tracing::error!("cannot tell how the drive is: {}", e.chain()),
        };
        match phase {
            Phase::Serving => {
                self.to_commit = 0;
                self.worked = None;
                self.ping(mount, shared, lines);
            }
            Phase::Leaving => self.extend(lines),
            Phase::Ended => {
                if !std::mem::replace(&mut self.stopping, true) {
                    lines.push("STOPPING=1".into());
                }
                self.extend(lines);
            }
        }
        let line = assignment("STATUS", &self.line(phase, &status));
        if line != self.status {
            lines.push(line.clone());
            self.status = line;
        }
    }

    /// One line for `systemctl status`.
    fn line(&mut self, phase: Phase, status: &Status) -> String {
        let left = status.dirty_bytes;
        if status.online {
            self.away = None;
        } else {
            self.away.get_or_insert_with(Instant::now);
        }
        if phase != Phase::Serving {
            self.to_commit = self.to_commit.max(left);
            return match left {
                0 => format!("committed version {}, ending", status.version),
                _ => format!("committing: {} left of {}", human_size(left), human_size(self.to_commit)),
            };
        }
        let kept = if left == 0 { "nothing".to_owned() } else { human_size(left) };
        match self.away {
            Some(since) => {
                let minutes = since.elapsed().as_secs() / 60;
                format!("usable; the store is out of reach for {minutes} min, {kept} waits in the journal")
            }
            None if left == 0 => format!("usable at version {}; all is stored", status.version),
            None => format!("usable at version {}; {kept} not yet stored", status.version),
        }
    }

    /// Pings the watchdog, where there is one and it is time, if the drive is alive: its locks can be had (its
    /// status was), the threads that commit and make durable are there, and the mount answers.
    fn ping(&mut self, mount: &dyn Running, shared: &Shared, lines: &mut Vec<String>) {
        let Some(time) = shared.manager.watchdog() else { return };
        if self.pinged.is_some_and(|at| at.elapsed() + TICK < time / 3) {
            return;
        }
        let answers = match mounts::at_exactly(&shared.dir) {
            Ok(Some(mount)) => mounts::control_socket(&mount).map(drop),
            listed => listed.map(drop),
        };
        let answers = match answers {
            // Somebody has just unmounted it, or mounted something else over it.
            Err(e) if e.kind() == Kind::NotADrive => Ok(()),
            answered => answered,
        };
        match mount.check_threads().and(answers) {
            Ok(()) => {
                self.pinged = Some(Instant::now());
                lines.push("WATCHDOG=1".into());
            }
            Err(e) => tracing::error!("not alive, and the service manager is not told so: {}", e.chain()),
        }
    }

    /// Asks for more time while work is being done. A process that only waits, for a store that is away or for
    /// ever, uses no CPU, and the manager's time limit holds.
    fn extend(&mut self, lines: &mut Vec<String>) {
        let used = cpu_time();
        let before = self.worked.replace(used);
        if before.is_some_and(|before| used.saturating_sub(before) >= WORK) {
            lines.push(format!("EXTEND_TIMEOUT_USEC={}", EXTENSION.as_micros()));
        }
    }
}

/// The CPU time of all threads of this process.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.try_into().unwrap_or(0))
}

fn status_of(mount: &dyn Running) -> Result<Status> {
    let mut told = Told::default();
    mount.handler().handle(Request::Status {}, &mut told)?;
    told.status("the drive")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(dirty_bytes: u64, online: bool) -> Status {
        Status {
            store: "file:///s".into(),
            version: 7,
            dirty_bytes,
            journal_bytes: dirty_bytes,
            online,
            ..Status::default()
        }
    }

    #[test]
    fn the_status_line_says_what_is_usable_what_is_left_and_what_is_away() {
        let mut t = Telling::default();
        let mut line = |phase, dirty, online| t.line(phase, &status(dirty, online));
        assert_eq!(line(Phase::Serving, 0, true), "usable at version 7; all is stored");
        assert_eq!(line(Phase::Serving, 3 << 20, true), "usable at version 7; 3.0 MiB not yet stored");
        assert_eq!(
            line(Phase::Serving, 3 << 20, false),
            "usable; the store is out of reach for 0 min, 3.0 MiB waits in the journal"
        );
        assert_eq!(line(Phase::Leaving, 9 << 20, true), "committing: 9.0 MiB left of 9.0 MiB");
        assert_eq!(line(Phase::Leaving, 3 << 20, true), "committing: 3.0 MiB left of 9.0 MiB");
        assert_eq!(line(Phase::Ended, 0, true), "committed version 7, ending");
    }

    #[test]
    fn more_time_is_asked_for_while_there_is_work_and_not_while_there_is_none() {
        let mut t = Telling::default();
        let mut lines = Vec::new();
        t.extend(&mut lines);
        assert!(lines.is_empty(), "nothing is known yet");
        t.worked = Some(cpu_time() + WORK);
        t.extend(&mut lines);
        assert!(lines.is_empty(), "nothing was done");
        let before = cpu_time();
        while cpu_time() - before < 2 * WORK {
            std::hint::black_box(0);
        }
        t.extend(&mut lines);
        assert_eq!(lines, ["EXTEND_TIMEOUT_USEC=30000000"]);
    }
}
