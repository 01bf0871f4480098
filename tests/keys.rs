//! What opens a drive: adding, changing and removing it by every way that the command line has.

#![allow(clippy::unwrap_used)]

mod common;
use common::terminal::{converse, end_at};
use common::{NACREFS, TestDrive, ok, private_file};
use nacrefs::crypt::{KdfParams, Secret, Slot};
use nacrefs::session::{Site, slots};
use nacrefs::sys::{Clock, SystemClock, SystemRandom};
use nacrefs::types::Key;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use zeroize::Zeroizing;

/// The command, without a terminal and without a secret.
fn bare(d: &TestDrive, line: &[&str]) -> Command {
    let mut c = Command::new(NACREFS);
    c.args(line).current_dir(d.dir()).stdin(Stdio::null()).env("NACREFS_STATE_DIR", &d.state);
    for of in ["", "NEW_"] {
        for what in ["", "_FILE", "_COMMAND"] {
            c.env_remove(format!("NACREFS_{of}PASSPHRASE{what}"));
        }
    }
    c.env_remove("CREDENTIALS_DIRECTORY");
    c
}

/// Exit status, standard output, standard error.
fn run(c: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = c.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

fn done(c: &mut Command) -> String {
    let (status, out, err) = run(c);
    assert!(status == 0 && err.is_empty(), "{status}: {out}{err}");
    out
}

#[track_caller]
fn refused(c: &mut Command, exit: i32, words: &[&str]) {
    let (status, out, err) = run(c);
    assert_eq!(status, exit, "{out}{err}");
    assert!(out.is_empty() && err.lines().count() == 1 && err.starts_with("nacrefs: "), "{out}{err}");
    for word in words {
        assert!(err.contains(word), "{word:?} is not in {err}");
    }
}

fn list(c: &mut Command) -> Vec<serde_json::Value> {
    done(c.arg("--json")).lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// All objects of a store but its key slots.
fn data(store: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(dir: &Path, out: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for e in fs::read_dir(dir).unwrap().flatten() {
            match e.file_type().unwrap().is_dir() {
                true if e.file_name() == "slots" => {}
                true => walk(&e.path(), out),
                false => drop(out.insert(e.path(), fs::read(e.path()).unwrap())),
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(store, &mut out);
    out
}

/// A drive with a file, opened by its key file alone: the recovery code's slot is removed.
fn drive() -> TestDrive {
    let mut d = TestDrive::with("commit=3600");
    fs::write(d.mnt.join("file"), "what is in it").unwrap();
    d.umount();
    let recovery = list(d.nacrefs(&["key", "list"]).arg(&d.store));
    let recovery = recovery.iter().find(|s| s["kind"] == "recovery-code").unwrap()["slot"].clone();
    done(d.nacrefs(&["key", "remove"]).arg(recovery.as_str().unwrap()).arg(&d.store));
    d
}

fn opens(c: &mut Command) -> bool {
    let (status, out, err) = run(c);
    assert!(status == 0 || status == 3, "{err}");
    assert_eq!(out, if status == 0 { "what is in it" } else { "" });
    status == 0
}

const CAT: [&str; 4] = ["cat", "file", "--store", "store"];

#[test]
fn keys_are_added_changed_and_removed_and_no_data_is_written_anew() {
    let d = drive();
    let before = data(&d.store);
    private_file(&d.dir().join("one"), "the first passphrase\n");
    private_file(&d.dir().join("two"), "the second passphrase\n");
    let with = |line: &[&str], file: &str| {
        let mut c = bare(&d, line);
        c.args(["--passphrase-file", file]);
        c
    };
    refused(&mut with(&CAT, "one"), 3, &["no key slot for a passphrase", "opened by a key file"]);

    // Added: both open it.
    let said = done(
        d.nacrefs(&["key", "add", "store", "--new-passphrase-file", "one", "--label", "Anna's"])
            .current_dir(d.dir()),
    );
    assert!(said.starts_with("added key slot ") && said.contains("(passphrase)"), "{said}");
    assert!(opens(&mut with(&CAT, "one")) && opens(d.nacrefs(&CAT).current_dir(d.dir())));
    let slots = list(&mut with(&["key", "list", "store"], "one"));
    assert_eq!(slots.len(), 2);
    let of = |kind: &str| slots.iter().find(|s| s["kind"] == kind).unwrap();
    let (added, file) = (of("passphrase"), of("key-file"));
    assert_eq!(
        (&added["label"], &added["opened"], &added["weak"]),
        (&"Anna's".into(), &true.into(), &false.into())
    );
    assert_eq!(added["kdf"], serde_json::json!({"memory_kib": 262144, "passes": 3, "lanes": 4}));
    assert_eq!((&file["opened"], &file["kdf"]), (&false.into(), &serde_json::Value::Null));
    let lines = done(&mut with(&["key", "list", "store"], "one"));
    assert!(
        lines.lines().any(|l| l.starts_with("* ") && l.contains("Anna's") && l.contains("256 MiB")),
        "{lines}"
    );

    // Changed: the slot that was opened gets another secret, and keeps its label.
    let said =
        done(with(&["key", "change", "store"], "one").env("NACREFS_NEW_PASSPHRASE_COMMAND", "cat two"));
    assert!(
        said.contains("added key slot") && said.contains("removed key slot") && said.contains("rotate"),
        "{said}"
    );
    assert!(opens(&mut with(&CAT, "two")) && !opens(&mut with(&CAT, "one")));
    assert!(opens(d.nacrefs(&CAT).current_dir(d.dir())));
    let slots = list(&mut with(&["key", "list", "store"], "two"));
    let id =
        |kind: &str| slots.iter().find(|s| s["kind"] == kind).unwrap()["slot"].as_str().unwrap().to_owned();
    assert_eq!(slots.iter().find(|s| s["opened"] == true).unwrap()["label"], "Anna's");

    // Removed: never the one that it was opened with, unless told.
    let (passphrase, key_file) = (id("passphrase"), id("key-file"));
    refused(&mut with(&["key", "remove", &passphrase, "store"], "two"), 6, &["another", "--force"]);
    refused(&mut with(&["key", "remove", "0000", "store"], "two"), 2, &["no key slot 0000", "key list"]);
    let said = done(&mut with(&["key", "remove", &key_file[..8], "store"], "two"));
    assert!(said.contains("removed key slot") && said.contains("all the same"), "{said}");
    assert!(!opens(d.nacrefs(&CAT).current_dir(d.dir())));
    refused(
        &mut with(&["key", "remove", &passphrase, "store"], "two"),
        6,
        &["only one", "nobody", "--force"],
    );
    assert!(data(&d.store) == before, "data was rewritten");

    // Not even the last one, but for those who mean it.
    let said = done(&mut with(&["key", "remove", &passphrase, "store", "--force"], "two"));
    assert!(said.contains("nothing opens the drive any more"), "{said}");
    refused(&mut with(&CAT, "two"), 5, &["no key slot left"]);
}

#[test]
fn recovery_codes_and_key_files_are_made_and_open_the_drive() {
    let d = drive();
    let add = |line: &[&str]| done(d.nacrefs(&["key", "add", "store"]).args(line).current_dir(d.dir()));
    let said = add(&["--new-recovery"]);
    let code = said.lines().find_map(|l| l.strip_prefix("recovery code: ")).unwrap();
    private_file(&d.dir().join("code"), &format!("{}\n", code.to_lowercase().replace('-', " ")));
    let recovery = ["--recovery", "--passphrase-file", "code"];
    assert!(opens(bare(&d, &CAT).args(recovery)));

    let said = add(&["--new-key-file", "keys/another"]);
    assert!(said.contains("made the key file") && said.contains("back it up"), "{said}");
    use std::os::unix::fs::PermissionsExt;
    let made = d.dir().join("keys/another");
    assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(opens(bare(&d, &CAT).args(["--key-file", "keys/another"])));

    // Who has only the recovery code sets a new passphrase with it.
    private_file(&d.dir().join("new"), "a passphrase that is remembered");
    done(bare(&d, &["key", "add", "store"]).args(recovery).args(["--new-passphrase-file", "new"]));
    assert!(opens(bare(&d, &CAT).args(["--passphrase-file", "new"])));
    // And a code that was seen by others is changed for another.
    let said = done(bare(&d, &["key", "change", "store", "--new-recovery"]).args(recovery));
    assert!(!opens(bare(&d, &CAT).args(recovery)));
    let code = said.lines().find_map(|l| l.strip_prefix("recovery code: ")).unwrap();
    private_file(&d.dir().join("code"), code);
    assert!(opens(bare(&d, &CAT).args(recovery)));
}

/// A file that opens nothing was left, to be taken for a key.
#[test]
fn a_key_file_is_not_left_where_its_slot_could_not_be_added() {
    let d = drive();
    let long = "x".repeat(300);
    for line in [["key", "add"], ["key", "change"]] {
        let keyed = |store: &str| {
            let mut c = d.nacrefs(&line);
            c.args([store, "--new-key-file", "new/key"]).current_dir(d.dir());
            c
        };
        refused(keyed("store").args(["--label", &long]), 2, &["255 bytes"]);
        // A store that cannot be written to.
        d.sh_in(d.dir(), "mkdir shut; mount --bind store shut; mount -o remount,bind,ro shut");
        let said = keyed("shut").output();
        d.sh_in(d.dir(), "umount shut; rmdir shut");
        let said = said.unwrap();
        assert_eq!(said.status.code(), Some(1), "{said:?}");
        assert!(String::from_utf8_lossy(&said.stderr).contains("Read-only file system"), "{said:?}");
        assert!(!d.dir().join("new/key").exists());
    }
    assert!(opens(d.nacrefs(&CAT).current_dir(d.dir())));
}

#[test]
fn keys_of_a_mounted_drive_change_while_it_goes_on() {
    let mut d = drive();
    d.mount();
    fs::write(d.mnt.join("before"), "x").unwrap();
    let mnt = d.mnt.to_str().unwrap().to_owned();
    assert_eq!(list(&mut d.nacrefs(&["key", "list", &mnt])).len(), 1);
    let (old, new) = (d.key.clone(), d.dir().join("new-key"));
    done(d.nacrefs(&["key", "change", &mnt, "--new-key-file", "new-key"]).current_dir(d.dir()));
    fs::write(d.mnt.join("after"), "y").unwrap();
    d.umount();
    refused(d.mount_command().arg("-f"), 3, &["key file is wrong"]);
    d.key = new;
    d.mount();
    assert_eq!(fs::read_to_string(d.mnt.join("after")).unwrap(), "y");
    assert_ne!(fs::read(&old).unwrap(), fs::read(&d.key).unwrap());
    d.umount();
}

/// A slot as an earlier version might have made it.
fn weaken(d: &TestDrive, passphrase: &str) {
    let key = Secret::KeyFile(Key(std::array::from_fn(|at| b"\x01\x23\x45\x67\x89\xab\xcd\xef"[at % 8])));
    let site = Site::unlock(&format!("file://{}", d.store.display()), &key).unwrap();
    let cheap = KdfParams { memory_kib: 8 << 10, passes: 1, lanes: 1 };
    let secret = Secret::Passphrase(Zeroizing::new(passphrase.into()));
    let slot = Slot::create(&site.secrets, &secret, cheap, "old", SystemClock.now(), &SystemRandom).unwrap();
    slots::add(&*site.objects, &slot).unwrap();
}

#[test]
fn a_slot_with_weaker_parameters_opens_and_is_said_to_be_weak_until_it_is_changed() {
    let d = drive();
    weaken(&d, "an old passphrase");
    private_file(&d.dir().join("pass"), "an old passphrase");
    let with = |line: &[&str]| {
        let mut c = bare(&d, line);
        c.args(["--passphrase-file", "pass"]);
        c
    };
    let said = done(&mut with(&["key", "list", "store"]));
    assert!(
        said.contains("8 MiB, passes 1") && said.contains("'nacrefs key change' strengthens it"),
        "{said}"
    );
    let log = || fs::read_to_string(d.state.join("log")).unwrap();
    // `status` tells it of the slot that was used, `doctor` of all, without a secret.
    let mount = |weak: bool| {
        done(&mut with(&["mount", "store", "mnt"]));
        for line in [&["status", "mnt"][..], &["doctor", "mnt"]] {
            let said = run(&mut bare(&d, line)).1;
            assert_eq!(said.contains("made with less than today's argon2id"), weak, "{said}");
        }
        let status: serde_json::Value =
            serde_json::from_str(&done(&mut bare(&d, &["status", "mnt", "--json"]))).unwrap();
        assert_eq!(status["weak_slot"].is_string(), weak, "{status}");
        ok(Command::new(NACREFS).arg("umount").arg(&d.mnt).output());
        let said = done(&mut with(&["status", "--store", "store"]));
        assert_eq!(said.contains("made with less than today's argon2id"), weak, "{said}");
    };
    mount(true);
    assert!(log().contains("'nacrefs key change' strengthens it"), "{}", log());
    fs::remove_file(d.state.join("log")).unwrap();

    // With the same passphrase again: what it is stretched with is today's.
    done(with(&["key", "change", "store"]).args(["--new-passphrase-file", "pass"]));
    let slots = list(&mut with(&["key", "list", "store"]));
    let slot = slots.iter().find(|s| s["opened"] == true).unwrap();
    assert_eq!((&slot["weak"], &slot["kdf"]["memory_kib"]), (&false.into(), &262144.into()));
    mount(false);
    assert!(!log().contains("strengthens"), "{}", log());
}

#[test]
fn both_secrets_are_asked_for_on_a_terminal_and_the_new_one_twice() {
    let d = drive();
    weaken(&d, "old");
    let change = |answers: &[(&str, &str)]| converse(&mut bare(&d, &["key", "change", "store"]), answers);
    let (old, new, again) = ("Passphrase: ", "New passphrase: ", "The same again: ");
    // A wrong one is told before anything else is asked.
    let said = change(&[(old, "wrong")]);
    assert!(said.status.code() == Some(3) && !said.screen.contains(new), "{said:?}");
    let said = change(&[(old, "old"), (new, "pearl oyster"), (again, "pearl 0yster")]);
    assert!(said.status.code() == Some(3) && said.screen.contains("differ"), "{said:?}");
    let said = change(&[(old, "old"), (new, "\x03")]);
    assert!(said.status.code() == Some(130), "{said:?}");
    let said = change(&[(old, "olx\x7fd"), (new, "pearl oyster"), (again, "pearl oyster")]);
    assert!(said.status.success() && said.screen.contains("removed key slot"), "{said:?}");
    for secret in ["olx", "pearl", "oyster"] {
        assert!(!said.screen.contains(secret), "{said:?}");
    }
    private_file(&d.dir().join("pass"), "pearl oyster");
    assert!(opens(bare(&d, &CAT).args(["--passphrase-file", "pass"])));
    let said = converse(&mut bare(&d, &["cat", "file", "--store", "store"]), &[(old, "pearl oyster")]);
    assert!(said.status.success() && said.screen.contains("what is in it"), "{said:?}");
}

#[test]
fn systemd_credentials_open_a_drive_and_come_after_the_environment() {
    let d = drive();
    let credentials = d.dir().join("credentials");
    fs::create_dir(&credentials).unwrap();
    private_file(&d.dir().join("pass"), "of the drive");
    done(d.nacrefs(&["key", "add", "store", "--new-passphrase-file", "pass"]).current_dir(d.dir()));
    let with = |line: &[&str]| {
        let mut c = bare(&d, line);
        c.env("CREDENTIALS_DIRECTORY", &credentials);
        c
    };
    private_file(&credentials.join("nacrefs.key"), &fs::read_to_string(&d.key).unwrap());
    assert!(opens(&mut with(&CAT)), "by the key");
    private_file(&credentials.join("nacrefs.passphrase"), "wrong");
    assert!(!opens(&mut with(&CAT)), "the passphrase comes first");
    private_file(&credentials.join("nacrefs.passphrase"), "of the drive\n");
    assert!(opens(&mut with(&CAT)), "by the passphrase");
    assert!(!opens(with(&CAT).env("NACREFS_PASSPHRASE", "wrong")), "the environment comes first");
    private_file(&credentials.join("nacrefs.new-key"), &("ab".repeat(32) + "\n"));
    done(&mut with(&["key", "change", "store"]));
    private_file(&d.dir().join("new"), &"AB".repeat(32));
    assert!(opens(bare(&d, &CAT).args(["--key-file", "new"])));
    assert!(!opens(bare(&d, &CAT).args(["--passphrase-file", "pass"])));
}

#[test]
fn a_secret_that_others_may_read_is_warned_of_in_a_line() {
    use std::os::unix::fs::PermissionsExt;
    let d = drive();
    let mode = |mode| fs::set_permissions(&d.key, fs::Permissions::from_mode(mode)).unwrap();
    for (open, warned) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true)] {
        mode(open);
        let (status, out, err) = run(d.nacrefs(&CAT).current_dir(d.dir()));
        assert_eq!((status, &out[..]), (0, "what is in it"));
        assert_eq!(err.lines().count(), usize::from(warned), "{open:o}: {err}");
        assert!(!warned || err.contains("chmod 600") && err.contains(&format!("{open:04o}")), "{err}");
    }
}

/// A terminal on which nothing that is typed is seen is of no use: it used to stay so.
#[test]
fn a_prompt_that_is_ended_by_a_signal_leaves_the_terminal_as_it_was() {
    let d = TestDrive::unmounted("");
    for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGINT] {
        assert!(end_at(&mut bare(&d, &["mount", "store", "mnt"]), "Passphrase: ", signal), "signal {signal}");
    }
}

/// Both had opened the drive with what the other one removed, and no key was left.
/// `key change` and `key remove` left it opening the drive, without a word.
#[test]
fn a_secret_that_opens_two_slots_is_told_when_it_is_added_and_when_one_is_changed() {
    let d = drive();
    let key = d.key.to_str().unwrap().to_owned();
    let (status, out, err) = run(d.nacrefs(&["key", "add", "--new-key-file", &key]).arg(&d.store));
    assert!(status == 0 && err.contains("opens the drive already"), "{status}: {out}{err}");
    let new = d.dir().join("new").to_str().unwrap().to_owned();
    let (status, out, err) = run(d.nacrefs(&["key", "change", "--new-key-file", &new]).arg(&d.store));
    let words =
        err.lines().find(|l| l.contains("opens another key slot")).map(|l| l.split('\'').nth(1).unwrap());
    let remove =
        words.unwrap_or_else(|| panic!("{status}: {out}{err}")).strip_prefix("nacrefs key remove ").unwrap();
    assert!(status == 0 && opens(d.nacrefs(&CAT).current_dir(d.dir())), "{out}{err}");
    done(bare(&d, &["key", "remove", remove]).arg(&d.store).args(["--key-file", &new]));
    assert!(!opens(d.nacrefs(&CAT).current_dir(d.dir())));
}

#[test]
fn keys_removed_at_once_leave_one_and_an_interrupted_removal_blocks_nobody() {
    let d = drive();
    private_file(&d.dir().join("one"), "the first passphrase\n");
    let with = |line: &[&str]| {
        let mut c = bare(&d, line);
        c.args(["--passphrase-file", "one"]);
        c
    };
    let by_file = |line: &[&str]| {
        let mut c = d.nacrefs(line);
        c.current_dir(d.dir());
        c
    };
    done(&mut by_file(&["key", "add", "store", "--new-passphrase-file", "one"]));
    let id = |kind: &str| {
        let slots = list(&mut by_file(&["key", "list", "store"]));
        slots.iter().find(|s| s["kind"] == kind).unwrap()["slot"].as_str().unwrap().to_owned()
    };
    let (passphrase, file) = (id("passphrase"), id("key-file"));
    // Somebody began to remove the passphrase's slot, and was killed.
    let marks = d.store.join("removing");
    fs::create_dir_all(&marks).unwrap();
    fs::write(marks.join(format!("{passphrase}.0123456789abcdef")), "x").unwrap();
    refused(&mut with(&["key", "remove", &file, "store"]), 6, &[&passphrase, "key change"]);
    done(with(&["key", "change", "store"]).args(["--new-passphrase-file", "one"]));
    assert_eq!(fs::read_dir(&marks).unwrap().count(), 0);

    let passphrase = id("passphrase");
    let mut first = with(&["key", "remove", &file, "store"]).stderr(Stdio::null()).spawn().unwrap();
    let mut second = by_file(&["key", "remove", &passphrase, "store"]).stderr(Stdio::null()).spawn().unwrap();
    let exits = [&mut first, &mut second].map(|c| c.wait().unwrap().code().unwrap());
    let left = fs::read_dir(d.store.join("slots")).unwrap().count();
    assert!(left > 0 && exits.iter().all(|e| [0, 3, 6].contains(e)), "{exits:?}, {left} left");
}
