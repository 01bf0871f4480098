//! The values that calls take: each prints as the code that makes it, so that a shrunk failure can be pasted
//! into `regressions.rs`, and knows what is simpler than itself.

use libc::*;
use std::fmt;

/// A path below the root that all users share, as `worker.rs` reads it: `L255` is a name of 255 bytes, `@2` the
/// open file in slot 2, `@2/a` a name in the directory that is open there.
pub type Path = &'static str;

/// What shrinking tries in place of a value. Nothing leads back: shrinking ends where no step is left.
pub trait Simpler: Copy + PartialEq {
    fn simpler(self) -> Vec<Self>;
}

macro_rules! numbers {
    ($($t:ty),*) => {$(
        impl Simpler for $t {
            fn simpler(self) -> Vec<$t> {
                [0, 1, self / 2].into_iter().take_while(|n| *n != self).collect()
            }
        }
    )*};
}
numbers!(u8, u32, u64, i64, usize);

impl Simpler for bool {
    fn simpler(self) -> Vec<bool> {
        if self { vec![false] } else { vec![] }
    }
}

impl Simpler for Path {
    fn simpler(self) -> Vec<Path> {
        ["a", "b", "d", "d/a"].into_iter().take_while(|p| *p != self).collect()
    }
}

/// Permission bits, printed in octal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mode(pub u32);

impl fmt::Debug for Mode {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Mode(0o{:o})", self.0)
    }
}

impl Simpler for Mode {
    fn simpler(self) -> Vec<Mode> {
        let kind = self.0 & S_IFMT;
        [0o777, 0o644, self.0 & 0o777]
            .into_iter()
            .map(|m| Mode(kind | m))
            .take_while(|m| *m != self)
            .collect()
    }
}

/// A time as utimensat(2) takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Omit,
    Now,
    /// Seconds since 1970, and nanoseconds after that.
    At(i64, i64),
}

impl Simpler for When {
    fn simpler(self) -> Vec<When> {
        [When::Omit, When::Now, When::At(1, 0)].into_iter().take_while(|w| *w != self).collect()
    }
}

/// A set of flags of one kind of call, printed by their names. Longer names come first where they contain others.
macro_rules! flags {
    ($($name:ident: $($flag:ident)*;)*) => {$(
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub struct $name(pub c_int);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                let mut rest = self.0;
                let mut words = Vec::new();
                $(if $flag != 0 && rest & $flag == $flag {
                    words.push(stringify!($flag).to_owned());
                    rest &= !$flag;
                })*
                if rest != 0 || words.is_empty() {
                    words.push(rest.to_string());
                }
                write!(f, "{}({})", stringify!($name), words.join(" | "))
            }
        }

        impl Simpler for $name {
            fn simpler(self) -> Vec<$name> {
                let all = [$($flag),*];
                let set = all.into_iter().filter(|f| *f != 0 && self.0 & f == *f);
                set.map(|f| $name(self.0 & !f)).collect()
            }
        }
    )*};
}

flags! {
    Open: O_SYNC O_DSYNC O_RDWR O_WRONLY O_CREAT O_EXCL O_TRUNC O_APPEND O_DIRECT O_DIRECTORY O_NOFOLLOW
        O_NOATIME O_PATH;
    Alloc: FALLOC_FL_KEEP_SIZE FALLOC_FL_PUNCH_HOLE FALLOC_FL_ZERO_RANGE;
    Write2: RWF_APPEND RWF_SYNC RWF_DSYNC RWF_HIPRI;
    Ren: RENAME_FLAG_NOREPLACE RENAME_FLAG_EXCHANGE RENAME_FLAG_WHITEOUT;
    At: AT_SYMLINK_NOFOLLOW AT_SYMLINK_FOLLOW AT_EACCESS;
    Xattr: XATTR_CREATE XATTR_REPLACE;
    Flock: LOCK_SH LOCK_EX LOCK_UN;
}

// The C library has these as unsigned.
pub const RENAME_FLAG_NOREPLACE: c_int = 1;
pub const RENAME_FLAG_EXCHANGE: c_int = 2;
pub const RENAME_FLAG_WHITEOUT: c_int = 4;

/// How fcntl(2) locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    Unlock,
    Read,
    Write,
}

impl Simpler for Lock {
    fn simpler(self) -> Vec<Lock> {
        vec![]
    }
}

/// Access control lists that users set: (tag, permissions, id) as in `linux/posix_acl.h`. The last two are refused.
pub const ACLS: [&[(u16, u16, u32)]; 8] = [
    &[(0x01, 6, !0), (0x04, 4, !0), (0x20, 0, !0)],
    &[(0x01, 7, !0), (0x02, 6, 1001), (0x04, 5, !0), (0x10, 7, !0), (0x20, 0, !0)],
    &[(0x01, 6, !0), (0x02, 0, 1002), (0x04, 6, !0), (0x08, 4, 1004), (0x10, 4, !0), (0x20, 4, !0)],
    &[(0x01, 7, !0), (0x04, 7, !0), (0x08, 7, 1004), (0x10, 5, !0), (0x20, 5, !0)],
    &[(0x01, 7, !0), (0x04, 5, !0), (0x10, 7, !0), (0x20, 5, !0)],
    &[(0x01, 0, !0), (0x02, 7, 1003), (0x04, 0, !0), (0x10, 0, !0), (0x20, 0, !0)],
    &[(0x01, 7, !0), (0x02, 7, 1001), (0x04, 5, !0), (0x20, 0, !0)],
    &[(0x04, 7, !0), (0x20, 5, !0)],
];

/// The bytes of a list as setxattr(2) takes them.
pub fn acl_bytes(which: u8) -> Vec<u8> {
    let mut out = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in ACLS[which as usize % ACLS.len()] {
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&perm.to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
    }
    out
}

#[test]
fn what_is_simpler_never_leads_back() {
    fn ends<T: Simpler>(value: T, steps: usize) {
        assert!(steps > 0, "still something simpler");
        value.simpler().into_iter().for_each(|simpler| ends(simpler, steps - 1));
    }
    [0, 1, 2, 7, -1, -9, 1 << 10].into_iter().for_each(|n: i64| ends(n, 16));
    [0, 0o644, 0o777, 0o600, 0o4755, S_IFIFO | 0o2711].into_iter().for_each(|m| ends(Mode(m), 16));
    [When::Omit, When::Now, When::At(1, 0), When::At(5, 7)].into_iter().for_each(|w| ends(w, 16));
    ["a", "d/a", "", "L255"].into_iter().for_each(|p| ends(p, 16));
    ends(Open(O_RDWR | O_CREAT | O_TRUNC | O_SYNC), 16);
}
