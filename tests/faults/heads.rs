//! Heads: rolled back, forked, forged; and state directories that were copied.

use crate::common::{NACREFS, TestDrive, ok};
use crate::lab::*;
use nacrefs::store::Head;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

fn heads_of(d: &TestDrive) -> Vec<String> {
    objects(&d.store).into_iter().filter(|n| n.contains("/heads/")).collect()
}

/// A mounted drive with a few versions.
fn versions(n: usize) -> TestDrive {
    let d = TestDrive::with("commit=3600");
    for i in 0..n {
        fs::write(d.mnt.join("file"), format!("version {i}")).unwrap();
        d.sync();
    }
    d
}

/// The text of `file`, from the store and a key alone.
fn seen_by_another_machine(d: &TestDrive) -> Said {
    let mut c = Command::new(NACREFS);
    c.args(["cat", "--store"]).arg(&d.store).arg("/file").arg("--key-file").arg(&d.key);
    run(c.env("NACREFS_STATE_DIR", d.dir().join("no-state")))
}

#[test]
fn a_rolled_back_store_is_refused_and_says_who_when_and_which() {
    let mut d = versions(3);
    d.umount();
    let old = d.dir().join("old-store");
    copy(&d.store, &old);
    d.mount();
    fs::write(d.mnt.join("file"), "the newest").unwrap();
    d.umount();
    let new = d.dir().join("new-store");

    // An older copy of all of it.
    fs::rename(&d.store, &new).unwrap();
    copy(&old, &d.store);
    let year = "20";
    for line in [["mount"], ["check"]] {
        let mut c = d.nacrefs(&line);
        c.arg(&d.store);
        if line == ["mount"] {
            c.arg(&d.mnt);
        }
        run(&mut c).expect(6, &["rolled back", "version 4", "version 5", "device", year, "state directory"]);
    }
    for line in [["log"], ["status"]] {
        run(d.nacrefs(&line).arg("--store").arg(&d.store)).expect(6, &["rolled back"]);
    }
    // Whoever has seen nothing cannot know.
    assert_eq!(seen_by_another_machine(&d).out, "version 2");

    // Only the newest heads are gone, and the hint; then nothing at all is left.
    fs::remove_dir_all(&d.store).unwrap();
    copy(&new, &d.store);
    let heads = heads_of(&d);
    fs::remove_file(d.store.join(heads.last().unwrap())).unwrap();
    Said::from(d.try_mount("ro")).expect(6, &["rolled back"]);
    for head in &heads[..heads.len() - 1] {
        fs::remove_file(d.store.join(head)).unwrap();
    }
    Said::from(d.try_mount("ro")).expect(6, &["no version at all", "version 5"]);

    // The newest copy is accepted as before.
    fs::remove_dir_all(&d.store).unwrap();
    fs::rename(&new, &d.store).unwrap();
    d.mount();
    assert_eq!(fs::read_to_string(d.mnt.join("file")).unwrap(), "the newest");
}

#[test]
fn a_fork_is_refused_by_whoever_saw_the_other_branch() {
    let mut d = versions(2);
    d.umount();
    let (branch, there) = (d.dir().join("branch"), d.dir().join("their-state"));
    copy(&d.store, &branch);
    // Another machine goes on from a copy of the store.
    let mnt = d.dir().join("their-mnt");
    fs::create_dir(&mnt).unwrap();
    let mut c = Command::new(NACREFS);
    c.arg("mount").arg(&branch).arg(&mnt).arg("--key-file").arg(&d.key).arg("--state-dir").arg(&there);
    ok(c.output());
    for text in ["theirs", "theirs again"] {
        fs::write(mnt.join("file"), text).unwrap();
        ok(Command::new(NACREFS).arg("sync").arg(&mnt).output());
    }
    ok(Command::new(NACREFS).arg("umount").arg(&mnt).output());
    d.mount();
    fs::write(d.mnt.join("file"), "ours").unwrap();
    d.umount();

    let ours = d.dir().join("ours");
    fs::rename(&d.store, &ours).unwrap();
    fs::rename(&branch, &d.store).unwrap();
    Said::from(d.try_mount("commit=1")).expect(6, &["does not descend", "device", "version 4"]);
    fs::rename(&d.store, &branch).unwrap();
    fs::rename(&ours, &d.store).unwrap();
    d.mount();
    assert_eq!(fs::read_to_string(d.mnt.join("file")).unwrap(), "ours");
}

/// The bytes of a head that says the same as another, but for its number, its key epoch and its signature.
fn forged(bytes: &[u8], version: u64, epoch: u32) -> Vec<u8> {
    let mut head = Head::decode(bytes).unwrap();
    head.before = head.link();
    head.version = version;
    head.epoch = epoch;
    head.signature = [7; 64];
    head.encode().to_vec()
}

#[test]
fn a_forged_head_counts_as_absent_and_its_number_is_not_used() {
    let mut d = versions(2);
    let heads = heads_of(&d);
    let newest = heads.last().unwrap();
    let forged_at = |n: u64| PathBuf::from(newest.replace("00000000000000000003", &format!("{n:020}")));
    let good = fs::read(d.store.join(newest)).unwrap();
    // While the drive is mounted: the next commit goes past it.
    fs::write(d.store.join(forged_at(4)), forged(&good, 4, 1)).unwrap();
    fs::write(d.store.join(forged_at(5)), forged(&good, 5, 99)).unwrap();
    fs::write(d.mnt.join("file"), "after a forged head").unwrap();
    d.sync();
    assert_eq!(status(&d)["version"], 6);
    d.umount();
    // While it is not: what another key has signed is not followed, nor what is of a key epoch that nobody knows.
    fs::write(d.store.join(forged_at(7)), forged(&good, 7, 1)).unwrap();
    fs::write(d.store.join(forged_at(8)), forged(&good, 8, 99)).unwrap();
    let log = LogTail::of(&d);
    d.mount();
    assert!(log.text().contains("00000000000000000008 counts as absent"), "{}", log.text());
    assert_eq!(fs::read_to_string(d.mnt.join("file")).unwrap(), "after a forged head");
    fs::write(d.mnt.join("file"), "and on").unwrap();
    d.umount();
    let found = run(d.nacrefs(&["check"]).arg(&d.store));
    assert_eq!(found.exit, 0, "{found:?}");
    assert_eq!(seen_by_another_machine(&d).out, "and on");
    fs::write(d.store.join(forged_at(10)), forged(&good, 10, 1)).unwrap();
    let found = run(d.nacrefs(&["check"]).arg(&d.store));
    assert!(found.exit == 5 && found.out.contains("head 10"), "{found:?}");
}

/// A second drive handle over the same store, with a state directory of its own.
struct Other {
    state: PathBuf,
    mnt: PathBuf,
}

impl Other {
    fn mount(&self, d: &TestDrive) -> Said {
        let mut c = Command::new(NACREFS);
        c.arg("mount").arg(&d.store).arg(&self.mnt).args(["-o", "commit=3600"]);
        run(c.arg("--key-file").arg(&d.key).arg("--state-dir").arg(&self.state))
    }

    fn ask(&self, line: &[&str]) -> Said {
        run(Command::new(NACREFS).args(line).arg(&self.mnt))
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = Command::new(NACREFS).arg("umount").arg(&self.mnt).arg("--local").output();
    }
}

fn copied_state(d: &TestDrive) -> Other {
    let other = Other { state: d.dir().join("copied-state"), mnt: d.dir().join("copied-mnt") };
    fs::create_dir(&other.mnt).unwrap();
    copy(&d.state, &other.state);
    other
}

#[test]
fn a_copied_state_directory_gets_an_identity_of_its_own_and_numbers_of_its_own() {
    let mut d = versions(1);
    d.umount();
    let other = copied_state(&d);
    d.mount();
    fs::write(d.mnt.join("first"), "by the original").unwrap();
    d.umount();
    assert_eq!(other.mount(&d).exit, 0);
    assert_eq!(fs::read_to_string(other.mnt.join("first")).unwrap(), "by the original");
    fs::write(other.mnt.join("second"), "by the copy").unwrap();
    assert_eq!(other.ask(&["umount"]).exit, 0);
    assert!(fs::read_to_string(other.state.join("log")).unwrap().contains("copied"));
    d.mount();
    use std::os::unix::fs::MetadataExt;
    let ino = |name: &str| fs::metadata(d.mnt.join(name)).unwrap().ino();
    assert_ne!(ino("first") >> 43, ino("second") >> 43, "the device numbers differ");
    fs::write(d.mnt.join("third"), "by the original").unwrap();
    d.umount();
    let log = run(d.nacrefs(&["log", "--json"]).arg("--store").arg(&d.store));
    let devices: std::collections::BTreeSet<String> = log
        .out
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["device"].as_str().unwrap().to_owned())
        .collect();
    // The one that made the drive, the original, and the copy.
    assert_eq!(devices.len(), 3, "{log:?}");
    assert_eq!(run(d.nacrefs(&["check", "--read-data"]).arg(&d.store)).exit, 0);
}

#[test]
fn what_a_copied_state_directory_has_not_committed_is_not_dropped() {
    let mut d = versions(1);
    d.umount();
    let other = copied_state(&d);
    // Both at once: the slower one cannot commit, and says so.
    d.mount();
    assert_eq!(other.mount(&d).exit, 0);
    fs::write(other.mnt.join("precious"), "by the copy").unwrap();
    for n in 0..50 {
        fs::write(d.mnt.join(format!("file {n}")), "by the original").unwrap();
    }
    d.sync();
    other.ask(&["sync"]).expect(6, &["another machine"]);
    assert_eq!(other.ask(&["umount", "--local"]).exit, 0);
    // Its journal's numbers are those of records that the original has committed: they must not be taken for these.
    other.mount(&d).expect(6, &["copied", "journal"]);
    d.umount();
    other.mount(&d).expect(6, &["copied", "journal"]);
    // The journal is whole: against the store as the copy knew it, all is there.
    let known = d.dir().join("as-known");
    copy(&d.store, &known);
    let last = heads_of(&d).last().unwrap().clone();
    fs::remove_file(known.join(last)).unwrap();
    let mut c = Command::new(NACREFS);
    c.arg("mount").arg(&known).arg(&other.mnt).arg("--key-file").arg(&d.key);
    ok(c.arg("--state-dir").arg(&other.state).output());
    assert_eq!(fs::read_to_string(other.mnt.join("precious")).unwrap(), "by the copy");
}
