//! Small drives, each of the format of its time: every later build must read them, in full.
//!
//! Each is a directory in tests: in `golden` parts of the index are not padded, and chunks stand in packs as they came.
//! `store/` is the store, `journal/` the journal of a machine with changes that are not committed (without the zeros
//! at the end of its files), `key` the key file, `version-N` how each version looks, `tree` how the drive looks with
//! the journal replayed. With a change of format another one is made, under a new name:
//! `NACREFS_GOLDEN=make cargo test --test sim golden` writes the last.

use crate::kernel::{Kernel, look};
use crate::model::{How, Op};
use crate::world::{World, tight};
use nacrefs::commit::FileKind;
use nacrefs::crypt::Secret;
use nacrefs::drive::Settings;
use nacrefs::store::Objects;
use nacrefs::store::memory::Memory;
use nacrefs::sys::{Disk, SimDisk};
use std::fs;
use std::path::{Path, PathBuf};

const SEED: u64 = 20;
/// Journal files are filled up with zeros to a multiple of this, in bytes.
const JOURNAL_FILE: usize = 256 << 10;
const VERSIONS: u64 = 4;
const DRIVES: [&str; 2] = ["golden", "golden-padded"];

fn here(drive: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(drive)
}

fn settings() -> Settings {
    Settings { cache: 4 << 20, ..tight() }
}

fn write(path: PathBuf, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// The files below a directory, by their paths from there.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut out = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                out.push((name, fs::read(&path).unwrap()));
            }
        }
    }
    out
}

fn lines(drive: &nacrefs::drive::Drive) -> String {
    let seen = look(drive, drive.root()).unwrap();
    seen.iter().map(|(path, line)| format!("{path:?} {line}\n")).collect()
}

/// Makes the drive with its versions, and writes down how each looks.
fn make(here: &Path) {
    let world = World::new(SEED, settings());
    let mut k = Kernel::fresh(world.open().unwrap(), world.clock.clone(), SEED);
    let version = |k: &mut Kernel, world: &World| {
        k.commit();
        write(here.join(format!("version-{}", k.drive.version())), lines(&k.drive).as_bytes());
        assert_eq!(world.elsewhere().open().unwrap().version(), k.drive.version());
    };
    let special = |k: &mut Kernel, name: &str, kind, rdev| {
        k.run(&Op::Make { dir: 0, name: name.into(), kind, perm: 0o640, target: vec![], rdev });
    };
    k.mkdir("directory");
    k.put("directory/inline", 1, 20);
    k.put("directory/chunk", 2, 9000);
    k.put("segments", 3, 100_000);
    let node = k.id("segments");
    for at in [100_000, 5_000_000] {
        k.run(&Op::Write { node, at, len: 100_000, fill: at as u8, append: false, kill: false });
    }
    k.run(&Op::Make {
        dir: 0,
        name: b"symlink".to_vec(),
        kind: FileKind::Symlink,
        perm: 0,
        target: b"directory/inline".to_vec(),
        rdev: 0,
    });
    version(&mut k, &world);
    for (name, kind, rdev) in [
        ("fifo", FileKind::Fifo, 0),
        ("socket", FileKind::Socket, 0),
        ("char", FileKind::CharDevice, 0x103),
        ("block", FileKind::BlockDevice, 0x801),
    ] {
        special(&mut k, name, kind, rdev);
    }
    k.link("directory/chunk", "shell");
    let (small, large) = (k.id("directory/inline"), k.id("directory"));
    k.run(&Op::SetXattr { node: small, name: b"user.small".to_vec(), len: 30, fill: 5 });
    k.run(&Op::SetXattr { node: large, name: b"user.large".to_vec(), len: 3000, fill: 6 });
    version(&mut k, &world);
    k.rename("directory/inline", "\u{fc}ber", How::default());
    k.run(&Op::Truncate { node, size: 4_000_000 });
    k.run(&Op::Punch { node, at: 10_000, len: 20_000 });
    version(&mut k, &world);
    assert_eq!(k.drive.version(), VERSIONS);
    // Not committed.
    k.put("journal", 7, 3000);
    k.rename("shell", "directory/shell", How::default());
    k.unlink("fifo");
    k.sync();
    write(here.join("tree"), lines(&k.drive).as_bytes());
    let store = world.store();
    for name in store.list("").unwrap() {
        write(here.join("store").join(&name), &store.get(&name).unwrap());
    }
    for (name, mut bytes) in world.disk.contents() {
        bytes.truncate(bytes.iter().rposition(|b| *b != 0).map_or(0, |n| n + 1));
        write(here.join("journal").join(&name), &bytes);
    }
    write(here.join("key"), "07".repeat(32).as_bytes());
}

#[test]
fn golden_drives_are_read_by_every_later_build() {
    if std::env::var_os("NACREFS_GOLDEN").is_some_and(|v| v == "make") {
        make(&here(DRIVES[DRIVES.len() - 1]));
    }
    DRIVES.iter().for_each(|drive| read(&here(drive)));
}

fn read(here: &Path) {
    let Ok(Secret::KeyFile(key)) = Secret::from_key_file(&fs::read(here.join("key")).unwrap()) else {
        panic!("no key file")
    };
    let load = |upto: u64| {
        let store = Memory::new();
        for (name, bytes) in files(&here.join("store")) {
            // The drive as it was while a version was the newest.
            let newer = name.contains("/heads/")
                && name.rsplit('/').next().and_then(|n| n.parse::<u64>().ok()).is_some_and(|n| n > upto);
            if !newer {
                store.put(&name, bytes.into()).unwrap();
            }
        }
        store
    };
    for version in 2..=VERSIONS {
        let world = World::on(load(version), key.0, SimDisk::new(), 3, settings());
        let drive = world.open().unwrap();
        assert_eq!(drive.version(), version);
        let must = fs::read_to_string(here.join(format!("version-{version}"))).unwrap();
        assert_eq!(lines(&drive), must, "version {version}");
    }
    let disk = SimDisk::new();
    for (name, mut bytes) in files(&here.join("journal")) {
        bytes.resize(bytes.len().next_multiple_of(JOURNAL_FILE), 0);
        let file = disk.open(&name).unwrap();
        file.write_at(&bytes, 0).unwrap();
        file.sync_data().unwrap();
    }
    disk.sync_names().unwrap();
    let world = World::on(load(VERSIONS), key.0, disk, SEED ^ 0x5eed, settings());
    let drive = world.open().unwrap();
    assert_eq!(lines(&drive), fs::read_to_string(here.join("tree")).unwrap(), "with the journal");
    drive.commit_all().unwrap();
    world.check();
}
