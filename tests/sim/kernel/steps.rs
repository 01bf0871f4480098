//! Random steps of a scenario.

use super::Kernel;
use crate::model::{How, Id, Op, pattern};
use crate::world::Dice;
use nacrefs::commit::FileKind;
use nacrefs::types::Time;

/// What an operation takes, besides changes.
enum Step {
    Do(Op),
    Open(Id),
    Release(Id),
    Read(Id),
    Seek(Id),
    Compare(Id),
    List(Id, bool),
    Forget(Id),
    Sync,
    Commit,
}

impl Kernel {
    /// A random change.
    pub fn choose_change(&mut self) -> Op {
        let m = &self.model;
        let living: Vec<Id> = (0..m.nodes.len()).filter(|i| !m.is_gone(*i)).collect();
        let dirs: Vec<Id> = living.iter().copied().filter(|i| m.is_dir(*i)).collect();
        let mut files: Vec<Id> =
            living.iter().copied().filter(|i| m.nodes[*i].kind == FileKind::File).collect();
        files.extend(self.opens.iter().copied());
        let mut others = living.clone();
        others.extend(self.opens.iter().copied());
        let d = &mut self.dice;
        let dir = *d.pick(&dirs).unwrap_or(&0);
        let to = *d.pick(&dirs).unwrap_or(&0);
        let name = |d: &mut Dice, dir: Id| -> Vec<u8> {
            let there: Vec<&Vec<u8>> = m.nodes[dir].entries.keys().collect();
            match d.below(10) {
                0..=4 if !there.is_empty() => (*d.pick(&there).unwrap()).clone(),
                5 => vec![b'L'; 255],
                6 => b"\xff\n odd".to_vec(),
                n => format!("n{}", n * d.below(3)).into_bytes(),
            }
        };
        let (old, new) = (name(d, dir), name(d, to));
        let free = format!("f{}", d.below(200)).into_bytes();
        let fill = d.roll() as u8;
        let time = Time { sec: d.below(2_000_000_000) as i64 - 1000, nsec: d.below(1_000_000_000) as u32 };
        let node = *d.pick(&others).unwrap_or(&0);
        let file = d.pick(&files).copied();
        let other = d.pick(&files).copied();
        let far = if d.below(6) == 0 { 300_000 } else { 20_000 };
        match (d.below(30), file) {
            (0..=3, _) if living.len() < 40 => {
                Op::Make { dir, name: free, kind: FileKind::File, perm: 0o6755, target: vec![], rdev: 0 }
            }
            (4 | 5, _) if dirs.len() < 12 => {
                Op::Make { dir, name: new, kind: FileKind::Directory, perm: 0o755, target: vec![], rdev: 0 }
            }
            (6, _) => Op::Make {
                dir,
                name: new,
                kind: FileKind::Symlink,
                perm: 0,
                target: pattern(fill, 1 + fill as usize * 8).into_iter().map(|b| b.max(1)).collect(),
                rdev: 0,
            },
            (7, _) => {
                let kind = *d.pick(&[FileKind::Fifo, FileKind::CharDevice, FileKind::Socket]).unwrap();
                let rdev = if kind == FileKind::CharDevice { u32::from(fill) } else { 0 };
                Op::Make { dir, name: new, kind, perm: 0o600, target: vec![], rdev }
            }
            (8 | 9, Some(node)) => Op::Link { node, dir: to, name: if d.below(3) > 0 { free } else { new } },
            (10, _) => Op::Link { node, dir: to, name: free },
            (11 | 12, _) => Op::Unlink { dir, name: old },
            (13, _) => Op::Rmdir { dir, name: old },
            (14..=17, _) => {
                let how =
                    How { no_replace: d.below(8) == 0, exchange: d.below(4) == 0, whiteout: d.below(8) == 0 };
                let how = if how.exchange { How { exchange: true, ..How::default() } } else { how };
                Op::Rename { dir, name: old, to, to_name: if d.below(2) == 0 { free } else { new }, how }
            }
            (18..=20, Some(node)) => {
                let most = if d.below(5) == 0 { 60_000 } else { 5_000 };
                let len = 1 + d.below(most) as usize;
                Op::Write {
                    node,
                    at: d.below(far),
                    len,
                    fill,
                    append: d.below(4) == 0,
                    kill: d.below(4) == 0,
                }
            }
            (21, Some(node)) => Op::Truncate { node, size: d.below(far) },
            (22, Some(node)) => Op::Punch { node, at: d.below(far), len: 1 + d.below(far) },
            (23, Some(node)) => {
                Op::Zero { node, at: d.below(far), len: 1 + d.below(9000), keep: d.below(2) == 0 }
            }
            (24, Some(node)) => Op::Reserve { node, at: d.below(far), len: 1 + d.below(9000) },
            (25, Some(from)) if other.is_some_and(|o| o != from) => Op::Copy {
                from,
                from_at: d.below(far),
                to: other.unwrap(),
                to_at: d.below(far),
                len: 1 + d.below(50_000),
            },
            (26, _) => Op::Chmod { node, perm: d.below(0o10000) as u16 },
            (27, _) if d.below(2) == 0 => Op::Chown { node, uid: fill.into(), gid: 1000 },
            (27, _) => Op::Utime { node, mtime: time },
            (28, _) => {
                let name = format!("user.x{}", d.below(3)).into_bytes();
                let most = if d.below(3) == 0 { 3000 } else { 60 };
                let len = d.below(most) as usize;
                Op::SetXattr { node, name, len, fill }
            }
            (29, _) => Op::RemoveXattr { node, name: format!("user.x{}", d.below(3)).into_bytes() },
            _ => Op::Make { dir, name: free, kind: FileKind::File, perm: 0o600, target: vec![], rdev: 0 },
        }
    }

    /// A random step of a scenario.
    pub fn step(&mut self, commits: bool) {
        let step = {
            let m = &self.model;
            let files: Vec<Id> = (0..m.nodes.len())
                .filter(|i| m.nodes[*i].kind == FileKind::File && (!m.is_gone(*i) || self.opens.contains(i)))
                .collect();
            let dirs: Vec<Id> = (0..m.nodes.len()).filter(|i| m.is_dir(*i) && !m.is_gone(*i)).collect();
            let known: Vec<Id> = self.known.keys().copied().collect();
            let d = &mut self.dice;
            let file = d.pick(&files).copied();
            match (d.below(40), file) {
                (0 | 1, Some(f)) if self.opens.len() < 6 => Step::Open(f),
                (2, _) if !self.opens.is_empty() => Step::Release(*d.pick(&self.opens).unwrap()),
                (3 | 4, Some(f)) => Step::Read(f),
                (5, Some(f)) => Step::Seek(f),
                (6, Some(f)) => Step::Compare(f),
                (7, _) => Step::List(*d.pick(&dirs).unwrap_or(&0), true),
                (8, _) => Step::List(*d.pick(&dirs).unwrap_or(&0), false),
                (9..=12, _) if !known.is_empty() => Step::Forget(*d.pick(&known).unwrap()),
                (13 | 14, _) => Step::Sync,
                (15, _) if commits => Step::Commit,
                _ => Step::Do(self.choose_change()),
            }
        };
        match step {
            Step::Do(op) => self.run(&op),
            Step::Open(id) => self.open(id),
            Step::Release(id) => self.release(id),
            Step::Read(id) => self.read(id),
            Step::Seek(id) => self.seek(id),
            Step::Compare(id) => self.compare_one(id),
            Step::List(id, changing) => self.list(id, changing),
            Step::Forget(id) => {
                self.forget(id);
            }
            Step::Sync => self.sync(),
            Step::Commit => self.commit(),
        }
    }
}
