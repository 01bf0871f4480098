//! The calls that are compared, and who makes them.

pub use crate::values::*;

/// Who calls, with which groups.
#[derive(Debug, PartialEq, Eq)]
pub struct User {
    pub name: &'static str,
    pub uid: u32,
    pub gid: u32,
    pub groups: &'static [u32],
}

pub const USERS: [User; 4] = [
    User { name: "ROOT", uid: 0, gid: 0, groups: &[] },
    User { name: "ANN", uid: 1001, gid: 1001, groups: &[] },
    // Of Ann's group.
    User { name: "BEN", uid: 1002, gid: 1001, groups: &[] },
    // Of another group, and of Ann's and one more beside it.
    User { name: "EVE", uid: 1003, gid: 1003, groups: &[1001, 1004] },
];
pub const ROOT: usize = 0;
pub const ANN: usize = 1;
pub const BEN: usize = 2;
pub const EVE: usize = 3;

/// How many files a user may have open.
pub const SLOTS: u8 = 4;

/// Somebody's call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step(pub usize, pub Call);

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $t:ty),* })*) => {
        /// One call. `slot`s are places for open files, each user's own.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum Call { $($(#[$doc])* $name { $($field: $t),* }),* }

        impl Call {
            pub fn name(&self) -> &'static str {
                match self { $(Call::$name { .. } => stringify!($name)),* }
            }

            /// The same call with one value made simpler.
            pub fn simpler(&self) -> Vec<Call> {
                let mut out = Vec::new();
                match *self {
                    $(Call::$name { $($field),* } => {
                        let _ = &mut out;
                        calls!(@each out $name [$($field),*] $($field)*);
                    })*
                }
                out
            }
        }
    };
    (@each $out:ident $name:ident $all:tt $($field:ident)*) => {
        $(calls!(@one $out $name $all $field);)*
    };
    (@one $out:ident $name:ident [$($all:ident),*] $field:ident) => {
        for simple in $field.simpler() {
            let $field = simple;
            $out.push(Call::$name { $($all),* });
        }
    };
}

calls! {
    Open { slot: u8, path: Path, flags: Open, mode: Mode }
    Close { slot: u8 }
    Dup { slot: u8, to: u8 }
    /// Gives another user a descriptor of the same open file.
    Pass { slot: u8, to: usize }
    GetFlags { slot: u8 }
    SetFlags { slot: u8, flags: Open }
    Read { slot: u8, len: usize }
    Pread { slot: u8, at: u64, len: usize }
    Write { slot: u8, len: usize, fill: u8 }
    Pwrite { slot: u8, at: u64, len: usize, fill: u8 }
    /// Two pieces.
    Writev { slot: u8, first: usize, second: usize, fill: u8 }
    Pwritev2 { slot: u8, at: i64, len: usize, fill: u8, flags: Write2 }
    Lseek { slot: u8, at: i64, whence: u8 }
    /// The place in the file stays.
    SeekData { slot: u8, at: i64 }
    SeekHole { slot: u8, at: i64 }
    Truncate { path: Path, len: i64 }
    Ftruncate { slot: u8, len: i64 }
    Fallocate { slot: u8, mode: Alloc, at: i64, len: i64 }
    /// Until nothing more is copied.
    CopyRange { slot: u8, at: i64, to: u8, to_at: i64, len: usize }
    Sendfile { slot: u8, at: i64, to: u8, len: usize }
    /// Through a shared mapping, then msync; nothing where the file does not reach so far.
    MapWrite { slot: u8, at: u64, len: usize, fill: u8 }
    MapRead { slot: u8, at: u64, len: usize }
    Fsync { slot: u8, data: bool }

    Mkdir { path: Path, mode: Mode }
    Mknod { path: Path, mode: Mode, dev: u64 }
    Symlink { target: Path, path: Path }
    Link { from: Path, to: Path, flags: At }
    Unlink { path: Path }
    Rmdir { path: Path }
    Rename { from: Path, to: Path, flags: Ren }
    Readlink { path: Path, len: usize }
    Chdir { path: Path }
    Getcwd {}
    List { path: Path }
    /// Lists with a name made and one removed meanwhile, then once more from the middle.
    ListAcross { path: Path, cut: u8, removed: Path, made: Path }

    Stat { path: Path, flags: At }
    Access { path: Path, mode: u32, flags: At }
    Chmod { path: Path, mode: Mode, flags: At }
    Chown { path: Path, uid: i64, gid: i64, flags: At }
    Utimens { path: Path, atime: When, mtime: When, flags: At }
    Umask { mask: Mode }
    Statfs { path: Path }
    SetXattr { path: Path, name: Path, len: usize, fill: u8, flags: Xattr, follow: bool }
    GetXattr { path: Path, name: Path, room: usize, follow: bool }
    ListXattr { path: Path, room: usize, follow: bool }
    RemoveXattr { path: Path, name: Path, follow: bool }
    SetAcl { path: Path, default: bool, acl: u8 }

    Flock { slot: u8, how: Flock }
    SetLock { slot: u8, how: Lock, at: i64, len: i64, ofd: bool }
    GetLock { slot: u8, how: Lock, at: i64, len: i64, ofd: bool }

    /// What was done so far becomes a version: `nacrefs sync`.
    Commit {}
    /// All close what they have open; both are unmounted and mounted.
    Remount {}
    /// The same, but all is synced and the daemon is killed.
    Crash {}
}
