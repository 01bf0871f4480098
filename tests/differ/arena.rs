//! An ext4 and a drive side by side, on which the same calls are made.

use crate::calls::{Call, SLOTS, Step, USERS};
use crate::common::{TestDrive, ok};
use crate::compare::{Comparer, Difference};
use crate::look::{Look, Targets, look, quietly};
use crate::outcome::Outcome;
use crate::rules;
use crate::worker::{Wire, Worker, wire};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// ext4 on a loop device. It keeps attributes of any size (`ea_inode`), as a drive does.
struct Ext4 {
    image: PathBuf,
    mnt: PathBuf,
    _dir: TempDir,
}

impl Ext4 {
    fn new() -> Ext4 {
        let dir = tempfile::Builder::new().prefix("nacre-ext4-").tempdir().unwrap();
        let (image, mnt) = (dir.path().join("image"), dir.path().join("mnt"));
        fs::File::create(&image).and_then(|f| f.set_len(2 << 30)).unwrap();
        fs::create_dir(&mnt).unwrap();
        ok(Command::new("mkfs.ext4").args(["-q", "-F", "-O", "ea_inode"]).arg(&image).output());
        let out = Ext4 { image, mnt, _dir: dir };
        out.mount();
        out
    }

    fn mount(&self) {
        ok(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mnt).output());
    }

    fn umount(&self) {
        ok(Command::new("umount").arg(&self.mnt).output());
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        // A test that failed may have left it in use; there is nobody to tell of more.
        let _ = Command::new("umount").arg("-l").arg(&self.mnt).output();
    }
}

/// How the drive lies, in tests of this machinery: about an answer, or about what is there (given its root).
pub type Lie = fn(&Step, &mut Outcome, &Path);

pub struct Arena {
    drive: TestDrive,
    ext4: Ext4,
    cases: u32,
    fine: bool,
    pub lie: Option<Lie>,
}

/// A difference, and after which call.
#[derive(Clone, Debug)]
pub struct Failure {
    pub at: usize,
    pub difference: Difference,
}

/// Everybody on one of the two.
struct Side {
    root: PathBuf,
    workers: Vec<Worker>,
    targets: Targets,
}

impl Side {
    fn start(&mut self, wire: &Wire) {
        self.workers = USERS.iter().map(|user| Worker::start(&self.root, user, wire)).collect();
    }

    fn call(&self, Step(who, call): &Step) -> Outcome {
        match *call {
            Call::Pass { slot, to } => self.workers[*who].pass(slot, &self.workers[to % USERS.len()]),
            _ => self.workers[*who].call(call),
        }
    }

    /// Where an open file can be reached from outside.
    fn open_file(&self, who: usize, slot: u8) -> PathBuf {
        format!("/proc/self/task/{}/fd/{}", self.workers[who].tid, crate::seat::number_of(slot)).into()
    }

    fn look(&mut self, deep: bool) -> Result<Look, Difference> {
        let mut open = Vec::new();
        for (who, user) in USERS.iter().enumerate() {
            for slot in 0..SLOTS {
                open.push((format!("{}:{slot}", user.name), self.open_file(who, slot)));
            }
        }
        look(&self.root, &open, deep, &mut self.targets)
            .map_err(|e| Difference::new("unreadable", format!("{}: {e}", self.root.display())))
    }
}

impl Arena {
    pub fn new() -> Arena {
        let drive = TestDrive::with("allow_other");
        fs::set_permissions(drive.dir(), Permissions::from_mode(0o755)).unwrap();
        let ext4 = Ext4::new();
        let fine = tells_changes_apart(&ext4.mnt);
        Arena { drive, ext4, cases: 0, fine, lie: None }
    }

    /// Makes the calls on both, in a directory of their own, and compares: answers and attributes after each call,
    /// and contents after each `deep`th.
    pub fn run(&mut self, steps: &[Step], deep: usize) -> Result<(), Failure> {
        self.cases += 1;
        let name = format!("case-{}", self.cases);
        let side = |mnt: &Path| {
            let root = mnt.join(&name);
            fs::create_dir(&root).unwrap();
            fs::set_permissions(&root, Permissions::from_mode(0o777)).unwrap();
            Side { root, workers: Vec::new(), targets: Targets::new() }
        };
        let mut sides = [side(&self.ext4.mnt), side(&self.drive.mnt)];
        let result = self.run_on(&mut sides, steps, deep);
        for side in &mut sides {
            side.workers.clear();
            fs::remove_dir_all(&side.root).unwrap_or_else(|e| panic!("{}: {e}", side.root.display()));
        }
        result
    }

    fn run_on(&mut self, sides: &mut [Side; 2], steps: &[Step], deep: usize) -> Result<(), Failure> {
        let wires = [wire(), wire()];
        let start = |sides: &mut [Side; 2]| sides.iter_mut().zip(&wires).for_each(|(s, w)| s.start(w));
        start(sides);
        let mut comparer = Comparer::new(self.fine);
        let mut seen = Look::new();
        for (at, step) in steps.iter().enumerate() {
            let fail = |difference| Failure { at, difference };
            match step.1 {
                Call::Commit {} => self.drive.sync(),
                Call::Remount {} | Call::Crash {} => {
                    sides.iter_mut().for_each(|s| s.workers.clear());
                    self.begin_anew(matches!(step.1, Call::Crash {}));
                    start(sides);
                }
                _ if rules::left_out(step, &seen) => continue,
                _ => self.call(sides, step).map_err(fail)?,
            }
            let all = at + 1 == steps.len()
                || (at + 1) % deep == 0
                || matches!(step.1, Call::Remount {} | Call::Crash {});
            let [ext4, drive] = sides;
            seen = ext4.look(all).map_err(fail)?;
            let there = drive.look(all).map_err(fail)?;
            comparer.compare(&seen, &there).map_err(|mut d| {
                d.says = format!("after {}: {}", step.1.name(), d.says);
                fail(d)
            })?;
        }
        Ok(())
    }

    /// One call on both.
    fn call(&self, [ext4, drive]: &[Side; 2], step: &Step) -> Result<(), Difference> {
        let (want, mut got) = (ext4.call(step), drive.call(step));
        if let Some(lie) = self.lie {
            lie(step, &mut got, &drive.root);
        }
        let name = step.1.name();
        if !rules::alike(&step.1, &want, &got) {
            let short = |o: &Outcome| match o {
                Ok(_) => "ok".to_owned(),
                Err(e) => format!("{e:?}"),
            };
            let kind = format!("{name}: {} and {}", short(&want), short(&got));
            return Err(Difference::new(kind, format!("{name}: {want:?}, on the drive {got:?}")));
        }
        if let Call::SeekData { slot, .. } | Call::SeekHole { slot, .. } = step.1 {
            let file = quietly(&ext4.open_file(step.0, slot)).ok();
            for (whose, outcome) in [("ext4", &want), ("the drive", &got)] {
                rules::seeks(&step.1, outcome, file.as_ref()).map_err(|e| {
                    Difference::new(format!("{name} of {whose}"), format!("{name} of {whose}: {e}"))
                })?;
            }
        }
        Ok(())
    }

    /// Unmounts and mounts both; with `crash` the drive's daemon is killed, after an fsync of anything, which makes
    /// everything durable.
    fn begin_anew(&mut self, crash: bool) {
        self.ext4.umount();
        self.ext4.mount();
        if crash {
            fs::File::open(&self.drive.mnt).and_then(|dir| dir.sync_all()).unwrap();
            self.drive.kill();
            self.drive.mount();
        } else {
            self.drive.remount();
        }
    }
}

/// Whether two changes at once have two times once somebody has looked between them.
fn tells_changes_apart(dir: &Path) -> bool {
    let path = dir.join("clock");
    let times = (0..20).map(|n: u32| {
        fs::write(&path, n.to_le_bytes()).unwrap();
        let m = fs::metadata(&path).unwrap();
        (m.mtime(), m.mtime_nsec())
    });
    times.collect::<std::collections::HashSet<_>>().len() == 20
}
