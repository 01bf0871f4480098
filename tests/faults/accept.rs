//! `nacrefs accept`: going on from a store that was rolled back or forked, without losing what was not stored.

use crate::common::{NACREFS, TestDrive, ok};
use crate::lab::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A drive whose store is rolled back by a version, with a change in the journal that was never stored; and the store
/// as it was.
fn rolled_back() -> (TestDrive, PathBuf) {
    let mut d = TestDrive::with("commit=3600");
    let newest = d.dir().join("newest-store");
    fs::write(d.mnt.join("file"), "old").unwrap();
    d.umount();
    let old = d.dir().join("old-store");
    copy(&d.store, &old);
    d.mount();
    fs::write(d.mnt.join("file"), "stored").unwrap();
    d.sync();
    fs::write(d.mnt.join("unstored"), "precious").unwrap();
    d.umount_local();
    fs::rename(&d.store, &newest).unwrap();
    fs::rename(&old, &d.store).unwrap();
    (d, newest)
}

fn accept(d: &TestDrive, line: &[&str]) -> Said {
    run(d.nacrefs(&["accept"]).arg(&d.store).args(line))
}

/// The state directory that an accept says the journal is in.
fn aside(said: &Said) -> PathBuf {
    let words = said.out.split_whitespace();
    PathBuf::from(
        words
            .clone()
            .find(|w| w.contains("before-accept-"))
            .unwrap_or_else(|| panic!("{said:?}"))
            .trim_end_matches(','),
    )
}

#[test]
fn after_a_rollback_the_stores_state_is_accepted_and_what_was_not_stored_is_kept() {
    let (mut d, newest) = rolled_back();
    Said::from(d.try_mount("commit=1")).expect(6, &["rolled back", "nacrefs accept"]);
    run(d.nacrefs(&["check"]).arg(&d.store)).expect(6, &["rolled back", "nacrefs accept"]);

    // Asked, nobody answers: nothing changes.
    let said = accept(&d, &[]);
    assert!(said.exit == 6 && said.err.lines().count() == 1 && said.err.contains("--yes"), "{said:?}");
    for word in ["rolled back", "version 2", "version 3", "device", "seen 20", "made 20", "not stored yet"] {
        assert!(said.out.contains(word), "{word:?} is not in {said:?}");
    }
    let no = crate::common::terminal::converse(
        d.nacrefs(&["accept"]).arg(&d.store),
        &[("Go on from version 2? Type yes: ", "no")],
    );
    assert!(no.status.code() == Some(1) && no.screen.contains("nothing was changed"), "{no:?}");
    Said::from(d.try_mount("commit=1")).expect(6, &["rolled back"]);

    let said = accept(&d, &["--yes"]);
    assert!(said.exit == 0 && said.out.contains("accepted: this machine goes on from version 2"), "{said:?}");
    let aside = aside(&said);
    d.mount();
    assert_eq!(fs::read_to_string(d.mnt.join("file")).unwrap(), "old");
    assert!(!d.mnt.join("unstored").exists());
    fs::write(d.mnt.join("file"), "gone on").unwrap();
    let said = accept(&d, &["--yes"]);
    assert!(said.exit == 6 && said.err.contains("in use"), "{said:?}");
    d.remount();
    assert_eq!(fs::read_to_string(d.mnt.join("file")).unwrap(), "gone on");
    d.umount();
    assert_eq!(run(d.nacrefs(&["check", "--read-data"]).arg(&d.store)).exit, 0);
    let said = accept(&d, &["--yes"]);
    assert!(said.exit == 0 && said.out.contains("nothing to accept"), "{said:?}");

    // With the store that it belongs to, all that was acknowledged is there.
    assert!(aside.starts_with(&d.state), "{}", aside.display());
    ok(mount_with(&d, &newest, &aside).output());
    assert_eq!(fs::read_to_string(d.mnt.join("file")).unwrap(), "stored");
    assert_eq!(fs::read_to_string(d.mnt.join("unstored")).unwrap(), "precious");
    ok(Command::new(NACREFS).arg("umount").arg(&d.mnt).output());
}

fn mount_with(d: &TestDrive, store: &Path, state: &Path) -> Command {
    let mut c = Command::new(NACREFS);
    c.arg("mount").arg(store).arg(&d.mnt).arg("--key-file").arg(&d.key).arg("--state-dir").arg(state);
    c
}

#[test]
fn after_a_fork_the_other_branch_is_accepted_and_numbers_are_not_given_twice() {
    let mut d = TestDrive::with("commit=3600");
    fs::write(d.mnt.join("file"), "common").unwrap();
    d.umount();
    let branch = d.dir().join("branch");
    copy(&d.store, &branch);
    // Another machine goes on from a copy of the store, and so do we.
    let there = d.dir().join("their-state");
    ok(mount_with(&d, &branch, &there).output());
    for name in ["theirs", "theirs too"] {
        fs::write(d.mnt.join(name), "by them").unwrap();
        ok(Command::new(NACREFS).arg("sync").arg(&d.mnt).output());
    }
    ok(Command::new(NACREFS).arg("umount").arg(&d.mnt).output());
    d.mount();
    use std::os::unix::fs::MetadataExt;
    fs::write(d.mnt.join("ours"), "by us").unwrap();
    let number = |d: &TestDrive, name: &str| fs::metadata(d.mnt.join(name)).unwrap().ino();
    let ours = number(&d, "ours");
    d.umount();

    let kept = d.dir().join("our-store");
    fs::rename(&d.store, &kept).unwrap();
    fs::rename(&branch, &d.store).unwrap();
    Said::from(d.try_mount("commit=1")).expect(6, &["does not descend", "nacrefs accept"]);
    let said = accept(&d, &["--yes"]);
    assert!(
        said.exit == 0 && said.out.contains("does not descend") && said.out.contains("accepted"),
        "{said:?}"
    );
    d.mount();
    assert_eq!(fs::read_to_string(d.mnt.join("theirs too")).unwrap(), "by them");
    assert!(!d.mnt.join("ours").exists());
    fs::write(d.mnt.join("new"), "by us again").unwrap();
    assert_ne!(number(&d, "new") >> 43, ours >> 43, "a device number of its own");
    d.remount();
    assert_eq!(fs::read_to_string(d.mnt.join("new")).unwrap(), "by us again");
    d.umount();
    assert_eq!(run(d.nacrefs(&["check", "--read-data"]).arg(&d.store)).exit, 0);
}

#[test]
fn a_newest_head_that_is_damaged_for_good_can_be_given_up() {
    let mut d = TestDrive::with("commit=3600");
    for text in ["one", "two"] {
        fs::write(d.mnt.join("file"), text).unwrap();
        d.sync();
    }
    d.umount();
    let last = objects(&d.store).into_iter().rfind(|n| n.contains("/heads/")).unwrap();
    let mut bytes = fs::read(d.store.join(&last)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(d.store.join(&last), bytes).unwrap();
    Said::from(d.try_mount("commit=1")).expect(5, &["damaged", "nacrefs accept"]);
    let said = accept(&d, &["--yes"]);
    assert!(said.exit == 0 && said.out.contains("goes on from version 2"), "{said:?}");
    d.mount();
    assert_eq!(fs::read_to_string(d.mnt.join("file")).unwrap(), "one");
    fs::write(d.mnt.join("file"), "three").unwrap();
    d.remount();
    assert_eq!(fs::read_to_string(d.mnt.join("file")).unwrap(), "three");
}

#[test]
fn a_machine_that_has_seen_nothing_can_give_up_a_damaged_newest_head_too() {
    let mut d = TestDrive::with("commit=3600");
    fs::write(d.mnt.join("file"), "one").unwrap();
    d.umount();
    fs::remove_dir_all(&d.state).unwrap();
    let last = objects(&d.store).into_iter().rfind(|n| n.contains("/heads/")).unwrap();
    fs::write(d.store.join(&last), "").unwrap();
    Said::from(d.try_mount("commit=1")).expect(5, &["damaged", "nacrefs accept"]);
    let said = accept(&d, &["--yes"]);
    assert!(said.exit == 0 && said.out.contains("has seen no version yet"), "{said:?}");
    d.mount();
    assert!(!d.mnt.join("file").exists());
    fs::write(d.mnt.join("file"), "two").unwrap();
    d.remount();
    assert_eq!(fs::read_to_string(d.mnt.join("file")).unwrap(), "two");
}

#[test]
fn where_there_is_no_version_at_all_nothing_is_accepted() {
    let (d, _) = rolled_back();
    for head in objects(&d.store).into_iter().filter(|n| n.contains("/heads/")) {
        fs::remove_file(d.store.join(head)).unwrap();
    }
    accept(&d, &["--yes"]).expect(5, &["no version"]);
    assert!(d.state.join("memory").exists());
    let new = d.dir().join("no-state");
    let said = run(d.nacrefs(&["accept"]).arg(&d.store).arg("--state-dir").arg(&new));
    assert!(said.exit == 0 && said.out.contains("no state directory") && !new.exists(), "{said:?}");
}
