//! Damage that is found while a drive is mounted, and content that is written once more: what is acknowledged is stored.

use crate::common::TestDrive;
use crate::lab::*;
use std::fs;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

fn packs(d: &TestDrive) -> Vec<String> {
    let mut packs: Vec<_> = objects(&d.store).into_iter().filter(|n| n.contains("/packs/")).collect();
    packs.sort_by_key(|n| fs::metadata(d.store.join(n)).unwrap().modified().unwrap());
    packs
}

/// The largest pack.
fn largest(d: &TestDrive) -> String {
    packs(d).into_iter().max_by_key(|n| fs::metadata(d.store.join(n)).unwrap().len()).unwrap()
}

/// Reads a file past the kernel's cache.
fn read_directly(path: &Path) -> std::io::Result<()> {
    let file = fs::File::options().read(true).custom_flags(libc::O_DIRECT).open(path)?;
    let mut buffer = vec![0; 1 << 20];
    (0..file.metadata()?.len())
        .step_by(buffer.len())
        .try_for_each(|at| file.read_at(&mut buffer, at).map(drop))
}

/// What a mount had stored itself it took for stored, although a read of it had failed since: a repair was acknowledged
/// and lost.
#[test]
fn what_was_found_damaged_is_stored_again_when_it_is_written_again() {
    for cut in [false, true] {
        let mut d = TestDrive::with("commit=3600");
        let good = noise(77, 3_000_000);
        let names = ["copied", "rewritten", "replaced"];
        for name in names {
            fs::write(d.mnt.join(name), &good).unwrap();
        }
        d.sync();
        // What the next commit reads stands in another pack.
        fs::write(d.mnt.join("small"), "x").unwrap();
        d.sync();
        let pack = d.store.join(largest(&d));
        if cut {
            // Not removed: who has it open would not notice.
            fs::File::create(&pack).unwrap();
        } else {
            let file = fs::File::options().read(true).write(true).open(&pack).unwrap();
            for at in (100_000..2_000_000).step_by(50_000) {
                let mut byte = [0];
                file.read_exact_at(&mut byte, at).unwrap();
                file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            }
        }
        // The daemon that has stored it finds the damage.
        assert!(names.iter().any(|name| read_directly(&d.mnt.join(name)).is_err()), "cut {cut}");
        fs::write(d.mnt.join("another"), &good).unwrap();
        fs::remove_file(d.mnt.join("replaced")).unwrap();
        fs::write(d.mnt.join("replaced"), &good).unwrap();
        fs::write(d.mnt.join("copied"), &good).unwrap();
        let file = fs::File::options().write(true).open(d.mnt.join("rewritten")).unwrap();
        file.write_all_at(&good, 0).unwrap();
        drop(file);
        d.sync();
        d.move_to_a_new_machine();
        for name in names.iter().chain(&["another"]) {
            assert!(fs::read(d.mnt.join(name)).is_ok_and(|b| b == good), "cut {cut}: {name}");
        }
        d.umount();
    }
}

/// A drive whose newest version but one is small: its other pack has the root, the history and the index of packs.
fn small_versions() -> (TestDrive, PathBuf) {
    let mut d = TestDrive::with("commit=3600");
    fs::create_dir(d.mnt.join("dir")).unwrap();
    for n in 0..5 {
        fs::write(d.mnt.join(format!("dir/{n}")), format!("file {n}")).unwrap();
    }
    d.sync();
    fs::write(d.mnt.join("dir/x"), "x").unwrap();
    d.sync();
    d.umount();
    let all = packs(&d);
    let pack = d.store.join(&all[all.len() - 2]);
    (d, pack)
}

/// An index of packs that cannot be read made every chunk one "which no version lists".
#[test]
fn an_unread_index_of_packs_is_not_said_to_list_nothing() {
    let (d, pack) = small_versions();
    let good = fs::read(&pack).unwrap();
    let mut met = 0;
    for at in (40..good.len()).step_by(97) {
        let mut bent = good.clone();
        bent[at] ^= 1;
        fs::write(&pack, bent).unwrap();
        let found = run(d.nacrefs(&["check"]).arg(&d.store));
        if found.out.contains("index of packs") {
            met += 1;
            assert!(!found.out.contains("which no version lists"), "byte {at}: {found:?}");
        }
    }
    assert!(met > 0, "no damage to the index of packs was met");
    fs::write(&pack, good).unwrap();
}
