//! A real drive, small and the same every time: what hostile things are laid beside.

use crate::world::{World, tight};
use nacrefs::commit::FileKind;
use nacrefs::drive::types::{Caller, New, Wait};
use nacrefs::drive::{Drive, Settings};
use nacrefs::error::Result;
use nacrefs::store::memory::Memory;
use nacrefs::sys::SimDisk;
use nacrefs::types::Ino;
use std::sync::{Arc, LazyLock};

pub const CALLER: Caller = Caller { uid: 1000, gid: 1000, umask: 0o022 };

fn settings() -> Settings {
    Settings { cache: 4 << 20, written: 64 << 10, loaded_inodes: 1000, remembered: 1000, ..tight() }
}

/// Makes something under a name.
pub fn make(drive: &Drive, dir: Ino, name: &str, kind: FileKind) -> Result<Ino> {
    let target: &[u8] = if kind == FileKind::Symlink { b"there" } else { b"" };
    let new = New { kind, perm: 0o664, rdev: 0, target };
    Ok(drive.make(Wait::yes(), &CALLER, dir, name.as_bytes(), &new)?.ino)
}

/// Something of everything: a version of the drive that is committed.
pub fn fill(drive: &Drive) -> Result<()> {
    let wait = Wait::yes;
    let root = drive.root();
    let dir = make(drive, root, "dir", FileKind::Directory)?;
    let deep = make(drive, dir, "deep", FileKind::Directory)?;
    for (name, kind) in
        [("link", FileKind::Symlink), ("fifo", FileKind::Fifo), ("device", FileKind::CharDevice)]
    {
        make(drive, dir, name, kind)?;
    }
    for (name, len) in [("empty", 0), ("inline", 100), ("chunk", 5000), ("set", 200_000), ("two", 1_100_000)]
    {
        let ino = make(drive, deep, name, FileKind::File)?;
        let text: Vec<u8> = (0..len).map(|i: u32| (i / 7) as u8).collect();
        for (n, part) in text.chunks(60_000).enumerate() {
            drive.write(wait(), ino, n as u64 * 60_000, part, false, false)?;
        }
        drive.set_xattr(wait(), &CALLER, ino, b"user.name", name.as_bytes(), 0)?;
    }
    let shell = make(drive, root, "shell", FileKind::File)?;
    drive.link(wait(), shell, dir, b"second")?;
    drive.set_xattr(wait(), &CALLER, dir, b"user.large", &[7; 2000], 0)?;
    drive.commit_all()?;
    // Over what is committed.
    let set = drive.lookup(wait(), deep, b"set")?.map_or(0, |s| s.ino);
    drive.write(wait(), set, 70_000, b"an extent over a set", false, false)?;
    drive.unlink(wait(), deep, b"empty")?;
    drive.commit_all()?;
    Ok(())
}

fn world(store: Memory) -> World {
    World::on(store, [7; 32], SimDisk::new(), 3, settings())
}

static STORE: LazyLock<Memory> = LazyLock::new(|| {
    let world = World::new(1, settings());
    let world = world_like(&world);
    let drive = world.open().expect("a new drive opens");
    fill(&drive).expect("a new drive can be written to");
    world.store()
});

/// The machine that all have in common, at another's store.
fn world_like(other: &World) -> World {
    world(other.store())
}

/// A machine that has just written all that is in the store.
pub fn base() -> World {
    world(STORE.copy())
}

/// Puts records into the machine's journal, as they are, and opens the drive, which replays them.
pub fn replayed<'a>(world: &World, records: impl Iterator<Item = &'a [u8]>) -> Result<Arc<Drive>> {
    let drive = world.open()?;
    for record in records {
        drive.journal().append(&[record])?;
    }
    drive.journal().sync(drive.journal().last())?;
    drop(drive);
    world.open()
}

/// Looks at everything there is, to some depth, then changes a little, commits, and looks again.
pub fn exercise(drive: &Drive) -> Result<()> {
    look(drive, drive.root(), 8, &mut 200);
    let name = b"made afterwards";
    let new = New { kind: FileKind::File, perm: 0o600, rdev: 0, target: b"" };
    if let Ok(made) = drive.make(Wait::yes(), &CALLER, drive.root(), name, &new) {
        let _ = drive.write(Wait::yes(), made.ino, 10, b"bytes", true, false);
        drive.forget(made.ino, 1);
    }
    drive.commit_all()?;
    look(drive, drive.root(), 8, &mut 200);
    Ok(())
}

fn look(drive: &Drive, dir: Ino, depth: u32, left: &mut usize) {
    let mut names = Vec::new();
    let _ = drive.read_dir(Wait::yes(), dir, 0, true, &mut |item| {
        if item.stat.is_some() {
            names.push((item.ino, item.kind, item.name.to_vec()));
        }
        names.len() < 50
    });
    for (ino, kind, name) in names {
        if *left > 0 {
            *left -= 1;
            let _ = drive.lookup(Wait::yes(), dir, &name).map(|found| {
                if let Some(found) = found {
                    drive.forget(found.ino, 1);
                }
            });
            let _ = drive.stat(Wait::yes(), ino);
            let _ = drive.list_xattr(Wait::yes(), ino);
            match kind {
                FileKind::Directory if depth > 0 => look(drive, ino, depth - 1, left),
                FileKind::Symlink => drop(drive.read_link(Wait::yes(), ino)),
                FileKind::File => {
                    for at in [0, 1 << 20, u64::MAX - 10] {
                        let _ = drive.read(Wait::yes(), ino, at, 10_000);
                    }
                    let _ = drive.seek(Wait::yes(), ino, 0, nacrefs::drive::types::Seek::Hole);
                }
                _ => {}
            }
        }
        drive.forget(ino, 1);
    }
}
