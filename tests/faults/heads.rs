//! Heads: rolled back, forked, forged; and state directories that were copied.

use crate::common::{NACREFS, TestDrive, ok};
use crate::lab::*;
use nacrefs::commit::versions::Payload;
use nacrefs::crypt::{Secret, Signed, SigningKey};
use nacrefs::session::Site;
use nacrefs::store::{Head, HeadLink};
use nacrefs::sys::SystemRandom;
use nacrefs::types::{DeviceId, Key};
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
fn seen_by_another_machine(d: &TestDrive, at: &[&str]) -> Said {
    let mut c = Command::new(NACREFS);
    c.args(["cat", "--store"]).arg(&d.store).arg("/file").args(at).arg("--key-file").arg(&d.key);
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
    assert_eq!(seen_by_another_machine(&d, &[]).out, "version 2");

    // Only the newest heads are gone, and the hint; then nothing at all is left.
    fs::remove_dir_all(&d.store).unwrap();
    copy(&new, &d.store);
    let heads = heads_of(&d);
    fs::remove_file(d.store.join(heads.last().unwrap())).unwrap();
    let hint = d.store.join(heads.last().unwrap()).parent().unwrap().with_file_name("latest");
    fs::remove_file(hint).unwrap();
    Said::from(d.try_mount("ro")).expect(6, &["rolled back"]);
    for head in &heads[..heads.len() - 1] {
        fs::remove_file(d.store.join(head)).unwrap();
    }
    let said = Said::from(d.try_mount("ro")).expect(6, &["no version at all", "version 5", "from a backup"]);
    assert!(!said.err.contains("accept"), "{said:?}");

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
    assert_eq!(seen_by_another_machine(&d, &[]).out, "and on");
    fs::write(d.store.join(forged_at(10)), forged(&good, 10, 1)).unwrap();
    let found = run(d.nacrefs(&["check"]).arg(&d.store));
    assert!(found.exit == 5 && found.out.contains("head 10"), "{found:?}");
}

/// TRUST 3: whoever has all secrets of the drive but the admin's key cannot make a version. (A former device, or a holder
/// of the realm's keys alone, has as much.)
#[test]
fn a_head_of_a_device_that_the_drive_has_not_certified_counts_as_absent() {
    let mut d = versions(2);
    d.umount();
    let key = Secret::KeyFile(Key(std::array::from_fn(|at| b"\x01\x23\x45\x67\x89\xab\xcd\xef"[at % 8])));
    let site = Site::unlock(&format!("file://{}", d.store.display()), &key).unwrap();
    let newest = site.newest(None).unwrap().opened.unwrap();
    // As good as a head can be: the next number, the right links, a payload under the right key, and a signature that
    // is the device's own. Only who certifies the device differs.
    let forge = |admin: &SigningKey| {
        let (device, signing) = (DeviceId([0xde; 16]), SigningKey::generate(&SystemRandom).unwrap());
        let public = signing.public().to_bytes();
        let certified = [&newest.head.drive.0[..], &newest.head.realm.0, &device.0, &public].concat();
        let mut head = newest.head.clone();
        head.device = device;
        head.before = newest.head.link();
        head.version += 1;
        // The newest version before it that it may skip to: 2 from 3, as the number asks.
        head.skip = HeadLink::default();
        let payload = Payload {
            device_key: public,
            certificate: admin.sign(Signed::Device, &certified),
            ..Payload::open(&newest.head, &site.keys).unwrap()
        };
        head.payload = payload.seal(&head, &site.keys).unwrap().into();
        head.signature = signing.sign(Signed::Head, &head.signed_bytes());
        head
    };
    let name = heads_of(&d).last().unwrap().replace("0003", "0004");
    let forged = forge(&SigningKey::generate(&SystemRandom).unwrap());
    fs::write(d.store.join(&name), forged.encode()).unwrap();
    assert!(site.versions.open(4).unwrap_err().chain().contains("is not a head of this drive"));
    assert_eq!(site.newest(None).unwrap().opened.unwrap().version(), 3);
    let log = LogTail::of(&d);
    d.mount();
    assert!(log.text().contains("0004 counts as absent: its signature is not valid"), "{}", log.text());
    assert_eq!(fs::read_to_string(d.mnt.join("file")).unwrap(), "version 1");
    fs::write(d.mnt.join("file"), "gone on").unwrap();
    d.sync();
    assert_eq!(status(&d)["version"], 5);
    d.umount();
    assert_eq!(seen_by_another_machine(&d, &[]).out, "gone on");

    // With the drive's own admin key the same head is valid: it is refused for the certificate and for nothing else.
    let valid = forge(&site.secrets.admin);
    fs::write(d.store.join(&name), valid.encode()).unwrap();
    let e = site.versions.open(4).unwrap_err().chain();
    assert!(e.contains("version 4 cannot be opened: commit 4 cannot be read"), "{e}");
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

/// Whatever was seen last, newer versions that descend from it tell more; only a journal may stand on it.
#[test]
fn a_version_that_a_machine_saw_last_may_be_gone_when_there_are_newer_ones() {
    for damage in [None, Some("no head")] {
        let mut d = versions(1);
        d.umount();
        let head = object(&d, &heads_of(&d).pop().unwrap());
        d.mount();
        fs::write(d.mnt.join("precious"), "in the journal").unwrap();
        d.umount_local();
        let copied = copied_state(&d);
        let second = Other { state: d.dir().join("second"), mnt: d.dir().join("second-mnt") };
        fs::create_dir(&second.mnt).unwrap();
        assert_eq!(second.mount(&d).exit, 0);
        fs::write(second.mnt.join("of the second"), "x").unwrap();
        assert_eq!(second.ask(&["umount"]).exit, 0);
        match damage {
            None => fs::remove_file(&head).unwrap(),
            Some(garbage) => fs::write(&head, garbage).unwrap(),
        }
        // The machine itself: to read, and to write.
        for options in ["ro", "commit=3600"] {
            ok(Ok(d.try_mount(options)));
            assert_eq!(fs::read_to_string(d.mnt.join("of the second")).unwrap(), "x", "{options}");
            assert_eq!(fs::read_to_string(d.mnt.join("precious")).unwrap(), "in the journal", "{options}");
            d.umount();
        }
        // The copy, which cannot tell what of its journal its twin has stored.
        copied.mount(&d).expect(5, &["copied", "version 2", "gone or damaged", "backup", "accept"]);
        let mut accept = d.nacrefs(&["accept", "--yes"]);
        let said = run(accept.arg("--state-dir").arg(&copied.state).arg(&d.store));
        assert!(said.exit == 0 && said.out.contains("before-accept"), "{said:?}");
        assert_eq!(copied.mount(&d).exit, 0);
        assert_eq!(fs::read_to_string(copied.mnt.join("precious")).unwrap(), "in the journal");
        assert_eq!(copied.ask(&["umount"]).exit, 0);
    }
}

/// To follow the advice was to move away what the first drive had not stored.
#[test]
fn a_state_directory_of_another_drive_is_not_to_be_moved_away() {
    let mut d = TestDrive::with("commit=3600");
    d.sh("echo unstored > f; sync f");
    d.umount_local();
    let mut other = TestDrive::unmounted("commit=3600");
    let own = std::mem::replace(&mut other.state, d.state.clone());
    let said = Said::from(other.mount_command().output().unwrap());
    let said = said.expect(1, &["belongs to drive", "give this one another (--state-dir"]);
    assert!(!said.err.contains("move") && !said.err.contains("backup"), "{said:?}");
    other.state = own;
    d.mount();
    assert_eq!(d.sh("cat f"), "unstored\n");
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
    let known = d.dir().join("as-known");
    copy(&d.store, &known);
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
    let mut c = Command::new(NACREFS);
    c.arg("mount").arg(&known).arg(&other.mnt).arg("--key-file").arg(&d.key);
    ok(c.arg("--state-dir").arg(&other.state).output());
    assert_eq!(fs::read_to_string(other.mnt.join("precious")).unwrap(), "by the copy");
}

#[test]
fn a_damaged_newest_head_is_not_passed_over_by_a_machine_that_never_saw_it() {
    let mut d = versions(2);
    let newest = heads_of(&d).pop().unwrap();
    d.umount();
    let known = fs::read(object(&d, &newest)).unwrap();
    for damage in [known[..100].to_vec(), Vec::new(), [&known[..60], &[known[60] ^ 1], &known[61..]].concat()]
    {
        fs::write(object(&d, &newest), &damage).unwrap();
        fs::remove_dir_all(&d.state).unwrap();
        Said::from(d.mount_command().output().unwrap())
            .expect(5, &["version 3 is damaged or gone", "backup", "-o ro"]);
        ok(Ok(d.try_mount("ro")));
        assert_eq!(fs::read_to_string(d.mnt.join("file")).unwrap(), "version 0");
        d.umount();
        let log = run(d.nacrefs(&["log"]).arg("--store").arg(&d.store));
        let listed = log.out.contains("       2  ");
        assert!(log.exit == 5 && listed && log.err.contains("version 3 is damaged or gone"), "{log:?}");
        let found = run(d.nacrefs(&["check"]).arg(&d.store));
        assert!(found.exit == 5 && found.out.contains("head 3"), "{found:?}");
    }
    fs::write(object(&d, &newest), &known).unwrap();
    d.mount();
    assert_eq!(fs::read_to_string(d.mnt.join("file")).unwrap(), "version 1");
}

#[test]
fn a_version_beside_the_chain_is_found() {
    let mut d = versions(3);
    let heads = heads_of(&d);
    d.umount();
    let third = fs::read(object(&d, &heads[2])).unwrap();
    // As if 3 had never been: another machine goes on from 2.
    fs::write(object(&d, &heads[2]), "").unwrap();
    fs::remove_file(object(&d, &heads[3])).unwrap();
    let hint = d.store.join(heads[0].replace("heads/00000000000000000001", "latest"));
    fs::write(hint, format!("{:020}\n", 2)).unwrap();
    fs::remove_dir_all(&d.state).unwrap();
    d.mount();
    fs::write(d.mnt.join("file"), "another 4").unwrap();
    d.umount();
    assert_eq!(run(d.nacrefs(&["check"]).arg(&d.store)).exit, 0);
    fs::write(object(&d, &heads[2]), third).unwrap();
    let found = run(d.nacrefs(&["check"]).arg(&d.store));
    assert!(found.exit == 5 && found.out.contains("head 3") && found.out.contains("fork"), "{found:?}");
}

fn object(d: &TestDrive, name: &str) -> PathBuf {
    d.store.join(name)
}

#[test]
fn a_newest_version_that_is_gone_is_missed_by_a_machine_that_never_saw_it() {
    // Its head; and the packs that its commit and what it points to are in.
    for part in ["/heads/", "/packs/"] {
        let mut d = versions(1);
        let before = objects(&d.store);
        fs::write(d.mnt.join("file"), "version 1").unwrap();
        d.umount();
        let gone: Vec<String> =
            objects(&d.store).into_iter().filter(|n| !before.contains(n) && n.contains(part)).collect();
        let kept: Vec<_> = gone.iter().map(|n| fs::read(d.store.join(n)).unwrap()).collect();
        let forget = |d: &TestDrive| {
            gone.iter().for_each(|n| fs::remove_file(d.store.join(n)).unwrap());
            fs::remove_dir_all(&d.state).unwrap();
        };
        forget(&d);
        Said::from(d.mount_command().output().unwrap())
            .expect(5, &["version 3 is damaged or gone", "accept"]);
        ok(Ok(d.try_mount("ro")));
        assert_eq!(fs::read_to_string(d.mnt.join("file")).unwrap(), "version 0", "{part}");
        d.umount();
        // Who has seen the version before, and that one alone, does not go on from it either.
        Said::from(d.mount_command().output().unwrap()).expect(5, &["version 3 is damaged or gone"]);
        assert_eq!(run(d.nacrefs(&["check"]).arg(&d.store)).exit, 5, "{part}");
        let now = seen_by_another_machine(&d, &[]);
        assert!(now.exit == 5 && now.out.is_empty(), "{part}: {now:?}");
        assert_eq!(seen_by_another_machine(&d, &["--at", "2"]).out, "version 0", "{part}");
        // It comes back; then it is lost for good, and given up.
        gone.iter().zip(&kept).for_each(|(n, bytes)| fs::write(d.store.join(n), bytes).unwrap());
        d.mount();
        assert_eq!(fs::read_to_string(d.mnt.join("file")).unwrap(), "version 1", "{part}");
        d.umount();
        forget(&d);
        Said::from(d.mount_command().output().unwrap()).expect(5, &["accept"]);
        let accepted = run(d.nacrefs(&["accept", "--yes"]).arg(&d.store));
        assert_eq!(accepted.exit, 0, "{part}: {accepted:?}");
        d.mount();
        fs::write(d.mnt.join("file"), "after it was given up").unwrap();
        d.umount();
        let found = run(d.nacrefs(&["check", "--read-data"]).arg(&d.store));
        assert_eq!(found.exit, 0, "{part}: {found:?}");
    }
}

/// Where old heads were gone, all was said to be well: nothing takes a version, so one that is gone is lost.
#[test]
fn old_heads_that_are_gone_are_missed_by_check_log_and_cat() {
    let mut d = versions(6);
    d.umount();
    let heads = heads_of(&d);
    let last = heads.len();
    // The oldest ones, and some in between: of eight, say, all but the newest; or those before the newest.
    for (gone, at) in [(0..last - 1, 2), (0..1, 1), (last - 3..last - 1, 2)] {
        let kept: Vec<_> =
            heads[gone.clone()].iter().map(|h| (h, fs::read(object(&d, h)).unwrap())).collect();
        kept.iter().for_each(|(head, _)| fs::remove_file(object(&d, head)).unwrap());
        let missing = format!("head {}", gone.end);
        let found = run(d.nacrefs(&["check"]).arg(&d.store));
        assert!(found.exit == 5 && found.out.contains(&missing), "{missing}: {found:?}");
        let log = run(d.nacrefs(&["log"]).arg("--store").arg(&d.store));
        assert!(log.exit == 5 && log.out.contains(&last.to_string()), "{log:?}");
        log.one_line(&["missing"]);
        run(d.nacrefs(&["cat", "file", "--at", "2020-01-01"]).arg("--store").arg(&d.store))
            .expect(5, &["missing"]);
        if !gone.contains(&at) {
            let cat =
                run(d.nacrefs(&["cat", "file", "--at", &(at + 1).to_string()]).arg("--store").arg(&d.store));
            assert_eq!(cat.exit, 0, "{cat:?}");
        }
        for version in gone.clone() {
            let at = (version + 1).to_string();
            run(d.nacrefs(&["cat", "file", "--at", &at]).arg("--store").arg(&d.store))
                .expect(5, &["missing"]);
        }
        kept.iter().for_each(|(head, bytes)| fs::write(object(&d, head), bytes).unwrap());
        assert_eq!(run(d.nacrefs(&["check"]).arg(&d.store)).exit, 0);
    }
    // The newest: what is older is there, and nobody takes it for the newest.
    let newest = object(&d, &heads[last - 1]);
    let kept = fs::read(&newest).unwrap();
    fs::remove_file(&newest).unwrap();
    let from_store = |line: &[&str]| run(d.nacrefs(line).arg("--store").arg(&d.store));
    let log = from_store(&["log"]);
    assert!(log.exit == 5 && log.out.contains(&(last - 1).to_string()), "{log:?}");
    log.one_line(&["damaged or gone", "cat --at"]);
    from_store(&["cat", "file"]).expect(5, &["damaged or gone"]);
    from_store(&["cat", "file", "--at", &last.to_string()]).expect(5, &["damaged or gone"]);
    from_store(&["cat", "file", "--at", "2100-01-01"]).expect(5, &["damaged or gone"]);
    let before = from_store(&["cat", "file", "--at", &(last - 1).to_string()]);
    assert!(before.exit == 0 && !before.out.is_empty(), "{before:?}");
    fs::write(&newest, kept).unwrap();
    assert_eq!(from_store(&["cat", "file"]).exit, 0);
    // Without any there is nothing to go on from.
    fs::remove_dir_all(&d.state).unwrap();
    fs::create_dir(&d.state).unwrap();
    heads.iter().for_each(|head| fs::remove_file(object(&d, head)).unwrap());
    let said = run(d.nacrefs(&["accept", "--yes"]).arg(&d.store));
    assert!(!said.out.contains("goes on from"), "{said:?}");
}
