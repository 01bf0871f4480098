//! Directories far below one another, and below themselves; files as large as can be.

use crate::world::{World, tight};
use nacrefs::commit::FileKind;
use nacrefs::drive::types::{Caller, New, SetAttr, Wait};
use nacrefs::error::Kind;
use nacrefs::wire::Writer;

/// To load it, all directories above it were loaded by recursion: the daemon died of its stack's end.
#[test]
fn an_inode_below_very_many_directories_is_loaded() {
    let world = World::new(5, tight());
    let drive = world.open().unwrap();
    let caller = Caller { uid: 1000, gid: 1000, umask: 0 };
    let new = New { kind: FileKind::Directory, perm: 0o755, rdev: 0, target: b"" };
    let mut last = drive.root();
    for _ in 0..5_000 {
        last = drive.make(Wait::yes(), &caller, last, b"d", &new).unwrap().ino;
    }
    drive.commit_all().unwrap();
    assert_eq!(drive.figures().loaded, 1, "nothing but the root stays in memory");
    assert_eq!(drive.stat(Wait::yes(), last).unwrap().ino, last);
}

#[test]
fn a_place_below_itself_is_damage() {
    let world = World::new(5, tight());
    let drive = world.open().unwrap();
    // Inode 5 stands in 6 and 6 in 5; then an attribute of 5 is removed.
    let mut record = Writer::new();
    record.var(2).var(5).var(6).u64(1).var(6).var(5).u64(1).ivar(0).var(0).u8(9).var(5).bytes(b"user.a");
    drive.journal().append(&[record.as_slice()]).unwrap();
    drive.sync().unwrap();
    drop(drive);
    let e = world.open().err().expect("refused");
    assert_eq!(e.kind(), Kind::Damage, "{e:?}");
    assert!(e.chain().contains("below itself"), "{}", e.chain());
}

/// The sum of their sizes overflowed in a check, and was another than what the commits had counted.
#[test]
fn files_larger_together_than_can_be_counted_are_no_damage() {
    let world = World::new(5, tight());
    let drive = world.open().unwrap();
    let caller = Caller { uid: 1000, gid: 1000, umask: 0 };
    let new = New { kind: FileKind::File, perm: 0o644, rdev: 0, target: b"" };
    let how = SetAttr { size: Some(i64::MAX as u64), ..SetAttr::default() };
    let names = [b"a", b"b", b"c"];
    for name in names {
        let ino = drive.make(Wait::yes(), &caller, drive.root(), name, &new).unwrap().ino;
        drive.set_attr(Wait::yes(), &caller, ino, &how).unwrap();
        drive.commit_all().unwrap();
    }
    world.check();
    for name in names {
        drive.unlink(Wait::yes(), drive.root(), name).unwrap();
    }
    drive.commit_all().unwrap();
    world.check();
    assert_eq!(drive.committed().0.commit.counts.bytes, 0);
}
