//! Damage that commits meet: nodes of directories, of the history and of the index of packs, and chunks whose content is
//! written once more. What was acknowledged is stored, and all else goes on.

use crate::common::{TestDrive, ok};
use crate::lab::*;
use std::fs;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
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

fn check(d: &TestDrive) -> Said {
    run(d.nacrefs(&["check", "--read-data"]).arg(&d.store))
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

/// A bit of the history, or of the index of packs, let everything be read and nothing be stored, for good.
#[test]
fn a_flipped_bit_in_what_only_commits_read_keeps_nothing_from_the_store() {
    let (mut d, pack) = small_versions();
    let kept = d.dir().join("kept");
    copy(&d.store, &kept);
    let good = fs::read(&pack).unwrap();
    let step = if full() { 60 } else { good.len() / 7 };
    let (mut harmless, mut read) = (0, 0);
    for at in (40..good.len()).step_by(step) {
        for dir in [&d.store, &d.state] {
            let _ = fs::remove_dir_all(dir);
        }
        copy(&kept, &d.store);
        let mut bent = good.clone();
        bent[at] ^= 1;
        fs::write(&pack, bent).unwrap();
        if !d.try_mount("commit=3600").status.success() {
            continue;
        }
        let readable = (0..5).all(|n| fs::read(d.mnt.join(format!("dir/{n}"))).is_ok());
        let written = fs::write(d.mnt.join("dir/x"), "other").is_ok();
        let made = fs::write(d.mnt.join("dir/new"), "new").is_ok();
        assert!(!readable || written && made, "byte {at}");
        let said = on_mount(&d, &["sync"]);
        assert_eq!(said.exit, 0, "byte {at}: {said:?}");
        d.umount();
        let found = check(&d);
        assert!([0, 5].contains(&found.exit), "byte {at}: {found:?}");
        harmless += usize::from(found.exit == 0);
        read += usize::from(readable);
        let _ = fs::remove_dir_all(&d.state);
        // A root that cannot be read is nobody's to write below.
        if !d.try_mount("commit=3600").status.success() {
            continue;
        }
        for (name, was) in [("dir/x", written), ("dir/new", made)] {
            assert!(!was || fs::read(d.mnt.join(name)).is_ok(), "byte {at}: {name} is lost");
        }
        d.umount();
    }
    assert!(read > harmless, "no damage was met that only commits meet: {read} {harmless}");
}

/// Names made and removed beside a damaged leaf of a large directory were acknowledged and could not be stored, nor could
/// anything else from then on.
#[test]
fn names_beside_a_damaged_leaf_are_stored_and_the_leaf_may_come_back() {
    let mut d = TestDrive::with("commit=3600");
    fs::create_dir(d.mnt.join("dir")).unwrap();
    let count = 1500;
    let file = |d: &TestDrive, n: usize| d.mnt.join(format!("dir/file {n}"));
    for n in 0..count {
        fs::write(file(&d, n), "").unwrap();
    }
    d.sync();
    d.umount();
    let bent = Bent::keep(&d.store, &largest(&d));
    let eio = |e: std::io::Error| assert_eq!(e.raw_os_error(), Some(libc::EIO), "{e}");
    let (mut met, tries) = (0, if full() { 12 } else { 4 });
    let kept = d.dir().join("kept");
    copy(&d.store, &kept);
    for k in 0..tries {
        fs::remove_dir_all(&d.store).unwrap();
        fs::remove_dir_all(&d.state).unwrap();
        copy(&kept, &d.store);
        bent.flip(2000 + k * (bent.len() - 4000) / tries, 0);
        d.mount();
        let mut removed = vec![false; count];
        for (n, removed) in removed.iter_mut().enumerate() {
            match n % 3 {
                0 => *removed = fs::remove_file(file(&d, n)).map_err(eio).is_ok(),
                1 => drop(fs::set_permissions(file(&d, n), fs::Permissions::from_mode(0o600)).map_err(eio)),
                _ => drop(fs::write(d.mnt.join(format!("dir/new {n}")), "new").map_err(eio)),
            }
        }
        fs::write(d.mnt.join("precious"), "precious").unwrap();
        assert_eq!(on_mount(&d, &["sync"]).exit, 0);
        let told = status(&d);
        let hit = (0..count).step_by(3).any(|n| !removed[n]);
        assert!(!hit || told["last_error"].as_str().is_some_and(|e| e.contains("nacrefs check")), "{told}");
        d.move_to_a_new_machine();
        assert_eq!(fs::read_to_string(d.mnt.join("precious")).unwrap(), "precious");
        let unread = (0..count).filter(|n| {
            fs::symlink_metadata(file(&d, *n)).is_err_and(|e| e.raw_os_error() == Some(libc::EIO))
        });
        let unread = unread.count();
        // A leaf; or the node above them all.
        met += usize::from((1..count).contains(&unread));
        for n in (0..count).filter(|n| removed[*n]) {
            let gone = fs::symlink_metadata(file(&d, n)).unwrap_err().raw_os_error();
            assert_eq!(gone, Some(libc::ENOENT), "file {n}");
        }
        // It can be moved out of the way, and does not go by accident.
        fs::rename(d.mnt.join("dir"), d.mnt.join("aside")).unwrap();
        assert!(fs::remove_dir(d.mnt.join("aside")).is_err());
        fs::create_dir(d.mnt.join("dir")).unwrap();
        d.umount();
        if unread > 0 {
            assert_eq!(check(&d).exit, 5, "it is named");
        }
        // The pack comes back.
        bent.cut(bent.len());
        d.mount();
        let left: Vec<_> =
            fs::read_dir(d.mnt.join("aside")).unwrap().map(|e| e.unwrap().file_name()).collect();
        let wanted = (0..count).filter(|n| !removed[*n]).count();
        let olds = left.iter().filter(|n| n.to_str().unwrap().starts_with("file")).count();
        assert_eq!(olds, wanted, "all that nobody removed is there again");
        fs::remove_dir_all(d.mnt.join("aside")).unwrap();
        assert_eq!(on_mount(&d, &["sync"]).exit, 0);
        d.umount();
        let found = check(&d);
        assert_eq!(found.exit, 0, "{found:?}");
    }
    assert!(met > 0, "no leaf was met");
    drop(bent);
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

/// What a killed machine had made durable was out of reach altogether: the drive did not mount, read-only neither, and
/// there was nothing to accept.
#[test]
fn a_journal_about_a_file_whose_directory_was_damaged_since_shows_the_rest_and_can_be_given_up() {
    let mut d = TestDrive::with("commit=3600");
    let count = 1500;
    d.sh(&format!("mkdir dir; for n in $(seq {count}); do : > \"dir/file $n\"; done"));
    d.sync();
    d.umount();
    let bent = Bent::keep(&d.store, &largest(&d));
    d.mount();
    // In each leaf there are some.
    let written: Vec<_> = (1..=count).step_by(10).map(|n| d.mnt.join(format!("dir/file {n}"))).collect();
    written.iter().for_each(|file| fs::write(file, "durable").unwrap());
    d.sh("echo more > other; mkdir new; mv 'dir/file 2' new/moved; echo deep > new/deep; sync other");
    d.kill();
    let unread = |file: &&PathBuf| match fs::read_to_string(file) {
        Ok(text) if text == "durable" => false,
        Ok(text) => panic!("{text:?}"),
        Err(e) => e.raw_os_error() == Some(libc::EIO),
    };
    // Where in the pack the leaves are, only it knows.
    let step = bent.len() / 40;
    let at = (step..bent.len()).step_by(step).find(|at| {
        bent.flip(*at, 0);
        let said = Said::from(d.try_mount("commit=3600"));
        if said.exit == 0 {
            d.kill();
            bent.cut(bent.len());
            return false;
        }
        let said = said.expect(5, &["nacrefs accept", "-o ro"]);
        if said.err.contains("version 2 is damaged") {
            // It met the root directory.
            bent.cut(bent.len());
            return false;
        }
        said.one_line(&["journal record"]);
        ok(Ok(d.try_mount("ro")));
        assert_eq!(d.sh("cat other new/deep"), "more\ndeep\n");
        let lost = written.iter().filter(unread).count();
        assert!(lost > 0);
        // All are lost where it met the node above the leaves.
        let is_leaf = lost < written.len() / 2;
        if !is_leaf {
            d.umount_local();
        }
        is_leaf
    });
    let at = at.expect("no leaf was hit");
    assert!(status(&d)["last_error"].as_str().is_some_and(|e| e.contains("nacrefs accept")));
    d.umount_local();
    // What is damaged comes back.
    bent.cut(bent.len());
    d.mount();
    assert_eq!(written.iter().filter(unread).count(), 0);
    assert_eq!(d.sh("cat other new/deep"), "more\ndeep\n");
    d.kill();
    // Or not.
    bent.flip(at, 0);
    let said = run(d.nacrefs(&["accept", "--yes"]).arg(&d.store));
    assert!(said.exit == 0 && said.out.contains("before-accept"), "{said:?}");
    d.mount();
    assert_eq!(d.sh("ls; echo again > other"), "dir\n");
    d.sync();
    d.umount();
    let aside = said.out.split_whitespace().find(|w| w.contains("before-accept-")).unwrap();
    d.state = aside.trim_end_matches([',', ':', ';']).into();
    ok(Ok(d.try_mount("ro")));
    assert_eq!(d.sh("cat other new/deep"), "more\ndeep\n");
    d.umount_local();
}

/// Such a file, cut or with a hole made in it, kept every commit of the drive back.
#[test]
fn a_file_whose_map_is_damaged_is_cut_and_punched_and_all_is_stored() {
    let mut d = TestDrive::with("commit=3600");
    d.sh("for n in $(seq 0 299); do echo $n | dd of=f bs=1M seek=$n conv=notrunc status=none; done; cp f g; cp f h");
    d.sync();
    d.umount();
    let bent = Bent::keep(&d.store, &largest(&d));
    let mut met = 0;
    let kept = d.dir().join("kept");
    copy(&d.store, &kept);
    for at in (0..bent.len()).step_by(bent.len().div_ceil(if full() { 100 } else { 24 })) {
        [&d.store, &d.state].iter().for_each(|dir| fs::remove_dir_all(dir).unwrap());
        copy(&kept, &d.store);
        bent.flip(at, 0);
        let mounted = Said::from(d.try_mount("commit=3600"));
        // In the root directory, which stands somewhere in that pack, and without which there is no working.
        if mounted.exit == 5 && mounted.err.contains("version 2 is damaged or gone") {
            continue;
        }
        assert_eq!(mounted.exit, 0, "byte {at}: {mounted:?}");
        d.sh("truncate -s 100M f; truncate -s 1 g; fallocate -p -o 10M -l 250M h; echo precious > precious");
        let on = on_mount(&d, &["sync"]);
        assert_eq!(on.exit, 0, "byte {at}: {on:?}");
        d.move_to_a_new_machine();
        let size = |name: &str| fs::metadata(d.mnt.join(name)).unwrap().len();
        assert_eq!((size("f"), size("g"), size("h")), (100 << 20, 1, (299 << 20) + 4));
        assert_eq!(d.sh("cat precious"), "precious\n");
        // What went is known to have gone.
        let zeros = |name: &str, at: u64| {
            let mut bytes = [1; 4];
            let file = fs::File::options().read(true).custom_flags(libc::O_DIRECT).open(d.mnt.join(name));
            file.and_then(|file| file.read_at(&mut bytes, at)).map(|_| bytes == [0; 4])
        };
        assert!((10..260).all(|n| zeros("h", n << 20).is_ok_and(|zero| zero)));
        met += usize::from((0..100).any(|n| zeros("f", n << 20).is_err()));
        d.sh("truncate -s 300M f");
        let zero = |n: &u64| zeros("f", n << 20).is_ok_and(|zero| zero);
        let wrong: Vec<_> = (100..300).filter(|n| !zero(n)).map(|n| (n, zeros("f", n << 20))).collect();
        assert!(wrong.is_empty(), "byte {at}: {wrong:?}");
        d.umount();
    }
    assert!(met > 0, "no damage was met");
}
