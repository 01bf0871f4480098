//! Random calls on few names, so that they meet.

use crate::calls::*;
use crate::dice::Dice;
use libc::*;

/// The same seed gives the same calls.
pub fn steps(seed: u64, len: usize) -> Vec<Step> {
    let mut g = Generator { dice: Dice(seed), who: ROOT };
    let mut out = g.beginning();
    out.extend((0..len).map(|_| g.step()));
    out
}

const NAMES: [Path; 5] = ["a", "b", "c", "d", "e"];
const PATHS: [Path; 24] = [
    "d/a", "d/b", "d/c", "d/d", "e/a", "e/b", "e/d", "d/d/a", "d/d/b", "e/d/a", "c/a", "b/a", "a/", "d/",
    "d/.", "d/..", "d/../a", ".", "..", "", "L255", "L256", "/a", "d/L255",
];
const TARGETS: [Path; 14] =
    ["a", "b", "c", "d", "e", "../a", "d/a", "d/d", ".", "..", "/d", "nowhere", "L255", "L4090"];
const XATTRS: [Path; 12] = [
    "user.a",
    "user.a",
    "user.b",
    "trusted.t",
    "security.s",
    "security.capability",
    "system.posix_acl_access",
    "system.posix_acl_default",
    "user.",
    "user.L256",
    "nowhere.x",
    "user.a",
];
const SIZES: [u64; 18] = [
    0,
    1,
    5,
    100,
    511,
    4095,
    4096,
    4097,
    8192,
    10_000,
    16_384,
    65_535,
    65_536,
    65_537,
    131_072,
    200_000,
    1 << 20,
    (1 << 20) + 4097,
];
const LENGTHS: [usize; 11] = [0, 1, 7, 100, 4095, 4096, 4097, 12_288, 65_536, 70_000, 140_000];

struct Generator {
    dice: Dice,
    who: usize,
}

impl Generator {
    fn below(&mut self, n: u64) -> u64 {
        self.dice.below(n)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A few directories and files to begin with, of several users.
    fn beginning(&mut self) -> Vec<Step> {
        let mode = self.pick(&[0o777, 0o1777, 0o2777, 0o775]);
        let owner = self.pick(&[ROOT, ANN, EVE]);
        vec![
            Step(owner, Call::Mkdir { path: "d", mode: Mode(0o777) }),
            Step(owner, Call::Chmod { path: "d", mode: Mode(mode), flags: At(0) }),
            Step(ANN, Call::Mkdir { path: "e", mode: Mode(0o755) }),
            Step(
                self.user(),
                Call::Open { slot: 0, path: "a", flags: Open(O_CREAT | O_RDWR), mode: Mode(0o666) },
            ),
            Step(BEN, Call::Open { slot: 0, path: "d/a", flags: Open(O_CREAT | O_RDWR), mode: Mode(0o664) }),
        ]
    }

    fn user(&mut self) -> usize {
        self.pick(&[ROOT, ROOT, ANN, ANN, BEN, EVE])
    }

    fn step(&mut self) -> Step {
        // Who has begun goes on for a while.
        if self.one_in(4) {
            self.who = self.user();
        }
        Step(self.who, self.call())
    }

    fn path(&mut self) -> Path {
        match self.below(20) {
            0..12 => self.pick(&NAMES),
            12..19 => self.pick(&PATHS),
            _ => self.pick(&["@0", "@1", "@0/a", "@1/a", "@2", "@2/d", "@3/b"]),
        }
    }

    fn object(&mut self) -> Path {
        if self.one_in(5) { self.pick(&["@0", "@1", "@2", "@3"]) } else { self.path() }
    }

    fn slot(&mut self) -> u8 {
        self.pick(&[0, 0, 0, 1, 1, 2, 3])
    }

    fn size(&mut self) -> u64 {
        match self.below(40) {
            0 => self.pick(&[1 << 30, 1 << 40, (1 << 32) - 5]),
            1..8 => self.below(150_000),
            _ => self.pick(&SIZES),
        }
    }

    fn len(&mut self) -> usize {
        if self.one_in(4) { self.below(30_000) as usize } else { self.pick(&LENGTHS) }
    }

    fn fill(&mut self) -> u8 {
        if self.one_in(10) { 0 } else { self.below(256) as u8 }
    }

    fn mode(&mut self) -> Mode {
        Mode(match self.below(4) {
            0 => self.below(0o10000) as u32,
            1 => self.pick(&[0o4755, 0o2755, 0o6777, 0o2644, 0o1777, 0o2070]),
            _ => self.pick(&[0o777, 0o666, 0o644, 0o755, 0o700, 0o600, 0o070, 0o007, 0o444, 0]),
        })
    }

    fn follow(&mut self) -> At {
        At(self.pick(&[0, 0, AT_SYMLINK_NOFOLLOW]))
    }

    fn when(&mut self) -> When {
        match self.below(6) {
            0 => When::Omit,
            1 | 2 => When::Now,
            _ => {
                let second = self.pick(&[
                    0,
                    1,
                    -1,
                    -5,
                    1_000_000_000,
                    1 << 31,
                    1 << 32,
                    -2_000_000_000,
                    9_000_000_000,
                ]);
                When::At(second, self.pick(&[0, 1, 300_000_000, 999_999_999, 999_999_999, 1_000_000_000]))
            }
        }
    }

    fn open_flags(&mut self) -> Open {
        let mut flags = self.pick(&[O_RDWR, O_RDWR, O_RDONLY, O_WRONLY, O_WRONLY | O_RDWR]);
        if self.one_in(2) {
            flags |= O_CREAT;
        }
        for (flag, chance) in [
            (O_EXCL, 8),
            (O_TRUNC, 5),
            (O_APPEND, 6),
            (O_DIRECT, 8),
            (O_SYNC, 16),
            (O_DSYNC, 16),
            (O_DIRECTORY, 10),
            (O_NOFOLLOW, 10),
            (O_NOATIME, 12),
            (O_PATH, 20),
        ] {
            if self.one_in(chance) {
                flags |= flag;
            }
        }
        if self.one_in(8) {
            flags = O_RDONLY | O_DIRECTORY;
        }
        Open(flags)
    }

    fn call(&mut self) -> Call {
        match self.below(1000) {
            0..500 => self.call_on_bytes(),
            500..760 => self.call_on_names(),
            760..997 => self.call_on_attributes(),
            997 => Call::Remount {},
            998 => Call::Crash {},
            _ => Call::Commit {},
        }
    }

    fn call_on_bytes(&mut self) -> Call {
        let slot = self.slot();
        let at = self.size();
        let (len, fill) = (self.len(), self.fill());
        match self.below(100) {
            0..22 => Call::Open { slot, path: self.path(), flags: self.open_flags(), mode: self.mode() },
            22..24 => Call::Close { slot },
            24..26 => Call::Dup { slot, to: self.slot() },
            26..29 => Call::Pass { slot, to: self.user() },
            29 => Call::GetFlags { slot },
            30..32 => {
                let flags = self.pick(&[0, O_APPEND, O_DIRECT, O_NOATIME, O_APPEND | O_NOATIME]);
                Call::SetFlags { slot, flags: Open(flags) }
            }
            32..38 => Call::Read { slot, len },
            38..44 => Call::Pread { slot, at, len },
            44..50 => Call::Write { slot, len, fill },
            50..58 => Call::Pwrite { slot, at, len, fill },
            58..60 => Call::Writev { slot, first: len, second: self.len(), fill },
            60..63 => {
                let flags = self.pick(&[0, RWF_APPEND, RWF_DSYNC, RWF_SYNC, RWF_HIPRI]);
                let at = if self.one_in(3) { -1 } else { at as i64 };
                Call::Pwritev2 { slot, at, len, fill, flags: Write2(flags) }
            }
            63..66 => {
                let at = if self.one_in(8) { -1 } else { at as i64 };
                Call::Lseek { slot, at, whence: self.below(3) as u8 }
            }
            66..69 => Call::SeekData { slot, at: self.offset() },
            69..72 => Call::SeekHole { slot, at: self.offset() },
            72..75 => Call::Truncate { path: self.path(), len: self.offset() },
            75..79 => Call::Ftruncate { slot, len: self.offset() },
            79..84 => {
                let (keep, punch, zero) = (FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE);
                let mode = self.pick(&[0, keep, keep | punch, keep | punch, zero, zero | keep, punch]);
                // What ext4 would have to keep room for must be small.
                let at = self.pick(&SIZES) as i64;
                Call::Fallocate { slot, mode: Alloc(mode), at, len: self.below(300_000) as i64 - 5 }
            }
            84..87 => {
                let (to, to_at) = (self.slot(), self.pick(&SIZES) as i64);
                Call::CopyRange { slot, at: self.pick(&SIZES) as i64, to, to_at, len }
            }
            87..89 => Call::Sendfile { slot, at: self.pick(&SIZES) as i64, to: self.slot(), len },
            89..92 => Call::MapWrite { slot, at: self.below(20_000), len: len.min(20_000), fill },
            92..93 => Call::MapRead { slot, at: self.below(20_000), len: len.min(20_000) },
            93..95 => Call::Fsync { slot, data: self.one_in(2) },
            95..97 => {
                let how = self.pick(&[LOCK_SH, LOCK_EX, LOCK_UN]);
                Call::Flock { slot, how: Flock(how) }
            }
            _ => {
                let how = self.pick(&[Lock::Read, Lock::Write, Lock::Unlock]);
                let (at, len) = (self.below(10) as i64 * 10, self.below(4) as i64 * 10);
                let ofd = self.one_in(3);
                match self.one_in(3) {
                    true => Call::GetLock { slot, how, at, len, ofd },
                    false => Call::SetLock { slot, how, at, len, ofd },
                }
            }
        }
    }

    fn offset(&mut self) -> i64 {
        if self.one_in(20) { self.pick(&[-1, i64::MIN]) } else { self.size() as i64 }
    }

    fn call_on_names(&mut self) -> Call {
        let path = self.path();
        match self.below(100) {
            0..10 => Call::Mkdir { path, mode: self.mode() },
            10..18 => {
                let kinds = [S_IFREG, S_IFREG, 0, S_IFIFO, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK, S_IFDIR];
                let mode = Mode(self.pick(&kinds) | self.mode().0);
                // Of characters: null and zero. Of blocks: one that no machine has.
                let dev = match mode.0 & S_IFMT {
                    S_IFCHR => makedev(1, self.pick(&[3, 5])),
                    S_IFBLK => makedev(120, 7),
                    _ => 0,
                };
                Call::Mknod { path, mode, dev }
            }
            18..25 => Call::Symlink { target: self.pick(&TARGETS), path },
            25..34 => {
                let flags = self.pick(&[0, 0, AT_SYMLINK_FOLLOW]);
                Call::Link { from: self.object(), to: path, flags: At(flags) }
            }
            34..44 => Call::Unlink { path },
            44..51 => Call::Rmdir { path },
            51..75 => {
                // Whiteouts are in `regressions.rs` alone: ext4 moves the times of the directory also where such
                // a rename fails.
                let flags = self.pick(&[0, 0, 0, 0, 1, 2, 2, 3, 6, 8]);
                Call::Rename { from: self.path(), to: path, flags: Ren(flags) }
            }
            75..79 => Call::Readlink { path, len: self.pick(&[4096, 4096, 3, 1, 0]) },
            79..84 => Call::Chdir { path: self.object() },
            84..86 => Call::Getcwd {},
            86..94 => Call::List { path: self.object() },
            _ => Call::ListAcross {
                path: self.object(),
                cut: self.below(5) as u8,
                removed: self.pick(&NAMES),
                made: self.pick(&NAMES),
            },
        }
    }

    fn call_on_attributes(&mut self) -> Call {
        let path = self.object();
        match self.below(100) {
            0..6 => Call::Stat { path, flags: self.follow() },
            6..12 => {
                let flags = self.pick(&[0, AT_EACCESS, AT_SYMLINK_NOFOLLOW]);
                Call::Access { path, mode: self.below(8) as u32, flags: At(flags) }
            }
            12..28 => Call::Chmod { path, mode: self.mode(), flags: self.follow() },
            28..42 => {
                let uid = self.pick(&[-1, 0, 1001, 1002, 1003, 1001]);
                let gid = self.pick(&[-1, 0, 1001, 1003, 1004, -1]);
                Call::Chown { path, uid, gid, flags: self.follow() }
            }
            42..55 => Call::Utimens { path, atime: self.when(), mtime: self.when(), flags: self.follow() },
            55..58 => Call::Umask { mask: Mode(self.pick(&[0, 0o022, 0o077, 0o027, 0o777])) },
            58 => Call::Statfs { path: self.path() },
            59..72 => Call::SetXattr {
                path,
                name: self.pick(&XATTRS),
                len: self.pick(&[0, 1, 10, 100, 3000, 5000, 65_536, 65_537]),
                fill: self.fill(),
                flags: Xattr(self.pick(&[0, 0, XATTR_CREATE, XATTR_REPLACE, 3])),
                follow: self.one_in(2),
            },
            72..79 => Call::GetXattr {
                path,
                name: self.pick(&XATTRS),
                room: self.pick(&[0, 65_536, 65_536, 50]),
                follow: self.one_in(2),
            },
            79..83 => Call::ListXattr { path, room: self.pick(&[0, 4096, 10]), follow: self.one_in(2) },
            83..88 => Call::RemoveXattr { path, name: self.pick(&XATTRS), follow: self.one_in(2) },
            _ => Call::SetAcl { path, default: self.one_in(2), acl: self.below(8) as u8 },
        }
    }
}
