//! Two trees, alike or not.

use crate::look::{Facts, Look, Time};
use crate::rules;
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

/// What differs: a word for its kind, by which shrinking knows it again, and all of it.
#[derive(Clone, Debug)]
pub struct Difference {
    pub kind: String,
    pub says: String,
}

impl Difference {
    pub fn new(kind: impl Into<String>, says: impl Into<String>) -> Difference {
        Difference { kind: kind.into(), says: says.into() }
    }
}

/// Compares what is seen call by call, so that also which times change with a call is compared.
pub struct Comparer {
    began: SystemTime,
    /// By inode, as they were before the call: ext4's and the drive's.
    before: [HashMap<u64, Facts>; 2],
    /// Whether the kernel's ext4 tells two changes in one tick of the clock apart once somebody has looked between
    /// them (Linux 6.13 on).
    fine: bool,
}

impl Comparer {
    pub fn new(fine: bool) -> Comparer {
        Comparer { began: SystemTime::now(), before: Default::default(), fine }
    }

    /// Whether a time was given by a clock while this ran, not set by somebody. (Clocks for times of files may be
    /// a tick behind.)
    fn of_this_run(&self, time: Time) -> bool {
        let since =
            |t: SystemTime| t.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
        let (first, last) = (self.began - Duration::from_secs(1), SystemTime::now() + Duration::from_secs(1));
        (since(first)..=since(last)).contains(&time.0)
    }

    /// Compares, and remembers what was seen.
    pub fn compare(&mut self, ext4: &Look, drive: &Look) -> Result<(), Difference> {
        let names = |look: &Look| look.keys().cloned().collect::<Vec<_>>();
        if names(ext4) != names(drive) {
            let only =
                |a: &Look, b: &Look| a.keys().filter(|k| !b.contains_key(*k)).cloned().collect::<Vec<_>>();
            let says =
                format!("only on ext4: {:?}; only on the drive: {:?}", only(ext4, drive), only(drive, ext4));
            return Err(Difference::new("names", says));
        }
        for ((name, e), d) in ext4.iter().zip(drive.values()) {
            self.compare_one(e, d).map_err(|x| {
                Difference::new(x.kind, format!("{name:?}: {}\n  ext4  {e:?}\n  drive {d:?}", x.says))
            })?;
        }
        let by_inode = |look: &Look| look.values().map(|f| (f.ino, f.clone())).collect();
        self.before = [by_inode(ext4), by_inode(drive)];
        Ok(())
    }

    fn compare_one(&self, e: &Facts, d: &Facts) -> Result<(), Difference> {
        macro_rules! equal {
            ($($what:literal: $of:expr;)*) => {$(
                let of = $of;
                if of(e) != of(d) {
                    return Err(Difference::new($what, format!("{} {:?}, on the drive {:?}", $what, of(e), of(d))));
                }
            )*};
        }
        equal! {
            "mode": |f: &Facts| format!("{:o}", f.mode);
            "owner": |f: &Facts| (f.uid, f.gid);
            "links": |f: &Facts| f.nlink;
            "same file": |f: &Facts| f.first.clone();
            "device": |f: &Facts| f.rdev;
            "size": |f: &Facts| rules::size_of_directories(f.mode, f.size);
            "target": |f: &Facts| f.inside.as_ref().map(|i| i.target.clone());
            "attributes": |f: &Facts| f.inside.as_ref().map(|i| i.xattrs.clone());
            "content": |f: &Facts| f.inside.as_ref().map(|i| i.content);
        }
        rules::blocks(d).map_err(|says| Difference::new("blocks", says))?;
        self.compare_times(e, d)
    }

    fn compare_times(&self, e: &Facts, d: &Facts) -> Result<(), Difference> {
        let before = [self.before[0].get(&e.ino), self.before[1].get(&d.ino)];
        type Get = fn(&Facts) -> Time;
        let times: [(&str, Get); 2] = [("mtime", |f| f.mtime), ("ctime", |f| f.ctime)];
        for (what, of) in times {
            let (te, td) = (of(e), of(d));
            if !self.of_this_run(te) || !self.of_this_run(td) {
                if te != td {
                    return Err(Difference::new(what, format!("{what} {te:?}, on the drive {td:?}")));
                }
                continue;
            }
            let [Some(be), Some(bd)] = before else { continue };
            let (moved, moved_there) = (of(be) != te, of(bd) != td);
            if moved && !moved_there || moved_there && !moved && self.fine {
                let who = if moved { "ext4" } else { "the drive" };
                return Err(Difference::new(what, format!("{what} moved on {who} alone")));
            }
            if td < of(bd) && self.of_this_run(of(bd)) {
                return Err(Difference::new(what, format!("{what} went back from {:?} to {td:?}", of(bd))));
            }
        }
        if !rules::access_time(e.atime, d.atime, |t| self.of_this_run(t)) {
            return Err(Difference::new("atime", format!("atime {:?}, on the drive {:?}", e.atime, d.atime)));
        }
        Ok(())
    }
}
