//! What is refused: each with its exit status and one line that says what to do, and with nothing changed.

#![allow(clippy::unwrap_used)]

mod common;
use common::{NACREFS, TestDrive, private_file};
use nacrefs::crypt::{KdfParams, RecoveryCode, Secret, Slot};
use nacrefs::session::{Site, slots};
use nacrefs::sys::{Clock, SystemClock, SystemRandom};
use nacrefs::types::Key;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use zeroize::Zeroizing;

/// All files below a directory with their bytes.
fn snapshot(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut out = Vec::new();
    for e in fs::read_dir(dir).into_iter().flatten().flatten() {
        if e.path().is_dir() {
            out.extend(snapshot(&e.path()));
        } else {
            out.push((e.path().display().to_string(), fs::read(e.path()).unwrap_or_default()));
        }
    }
    out.sort();
    out
}

fn nacrefs(d: &TestDrive, line: &[&str]) -> (i32, String) {
    nacrefs_with(d, &[], line)
}

fn nacrefs_with(d: &TestDrive, environment: &[(&str, &str)], line: &[&str]) -> (i32, String) {
    let mut c = Command::new(NACREFS);
    c.args(line).current_dir(d.dir()).stdin(Stdio::null());
    for of in ["", "NEW_"] {
        for what in ["", "_FILE", "_COMMAND"] {
            c.env_remove(format!("NACREFS_{of}PASSPHRASE{what}"));
        }
    }
    c.env_remove("NACREFS_STATE_DIR").env_remove("CREDENTIALS_DIRECTORY");
    c.envs(environment.iter().copied());
    let out = c.output().unwrap();
    assert!(
        out.stdout.is_empty() || out.status.success(),
        "{line:?}: {}",
        String::from_utf8_lossy(&out.stdout)
    );
    (out.status.code().unwrap_or(-1), String::from_utf8(out.stderr).unwrap())
}

#[test]
fn each_refusal_has_its_exit_status_and_a_line_that_says_what_to_do_and_changes_nothing() {
    let d = TestDrive::unmounted("commit=1");
    let p = |name: &str| d.dir().join(name);
    fs::create_dir_all(p("full/x")).unwrap();
    fs::create_dir_all(p("plain")).unwrap();
    fs::create_dir_all(p("void")).unwrap();
    fs::write(p("plain/notes.txt"), "not a drive").unwrap();
    fs::write(p("file"), "x").unwrap();
    private_file(&p("wrong-key"), &("f".repeat(64) + "\n"));
    private_file(&p("no-key"), "short\n");
    private_file(&p("pass"), "a passphrase\n");
    private_file(&p("no-code"), "0000-0000\n");
    let bent = |name: &str, from: &str, to: &str| {
        let at = p(name);
        assert!(Command::new("cp").arg("-a").arg(&d.store).arg(&at).status().unwrap().success());
        let text = fs::read_to_string(at.join("nacre.json")).unwrap();
        assert!(text.contains(from));
        fs::write(at.join("nacre.json"), text.replace(from, to)).unwrap();
    };
    bent("newer", "\"format\":1", "\"format\":2");
    bent("alien", "nacre drive", "something else");
    let id = fs::read_to_string(d.store.join("nacre.json")).unwrap();
    let id = id.split('"').find(|s| s.len() == 32).unwrap().to_owned();
    bent("other-id", &id, &"ab".repeat(16));
    bent("bad-id", &id, "zz");
    bent("extra", "}", ",\"segment\":4096}");

    let key = ["--key-file", "key", "--state-dir", "state"];
    let mut held = d.nacrefs(&["mount", "-f"]);
    let mut held =
        held.arg(&d.store).arg(&d.mnt).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !d.state.join("control").exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
        assert!(held.try_wait().unwrap().is_none());
    }
    let before = snapshot(&p("plain"));
    let stores = ["store", "newer", "alien", "other-id"].map(|s| snapshot(&p(s)));

    let table: &[(&[&str], i32, &[&str])] = &[
        // Secrets.
        (
            &["mount", "store", "void", "--key-file", "wrong-key", "--state-dir", "s1"],
            3,
            &["key file is wrong"],
        ),
        (
            &["mount", "store", "void", "--key-file", "no-key", "--state-dir", "s1"],
            3,
            &["no-key", "64 hexadecimal"],
        ),
        (&["mount", "store", "void", "--key-file", "gone", "--state-dir", "s1"], 3, &["gone"]),
        (
            &["mount", "store", "void", "--passphrase-file", "pass", "--state-dir", "s1"],
            3,
            &["no key slot for a passphrase", "opened by a key file or a recovery code"],
        ),
        (
            &["mount", "store", "void", "--recovery", "--passphrase-file", "no-code", "--state-dir", "s1"],
            3,
            &["recovery code"],
        ),
        (&["check", "store", "--key-file", "wrong-key"], 3, &["key file is wrong"]),
        (&["key", "list", "store", "--key-file", "wrong-key"], 3, &["key file is wrong"]),
        // Not a drive.
        (
            &["mount", "plain", "void", "--key-file", "key", "--state-dir", "s1"],
            7,
            &["plain", "not a nacrefs drive"],
        ),
        (&["mount", "gone", "void", "--key-file", "key", "--state-dir", "s1"], 7, &["gone", "no directory"]),
        (
            &["mount", "file", "void", "--key-file", "key", "--state-dir", "s1"],
            7,
            &["file", "not a directory"],
        ),
        (&["check", "plain", "--key-file", "key"], 7, &["not a nacrefs drive"]),
        (&["sync", "plain"], 7, &["not in a mounted"]),
        // Parameters that are not as they were.
        (&["mount", "newer", "void", "--key-file", "key", "--state-dir", "s1"], 1, &["format 2", "newer"]),
        (&["check", "newer", "--key-file", "key"], 1, &["format 2", "newer"]),
        (
            &["mount", "alien", "void", "--key-file", "key", "--state-dir", "s1"],
            5,
            &["nacre.json", "restore"],
        ),
        (&["check", "alien", "--key-file", "key"], 5, &["nacre.json", "restore"]),
        (
            &["mount", "other-id", "void", "--key-file", "key", "--state-dir", "s1"],
            5,
            &["nacre.json", "restore"],
        ),
        (&["mount", "bad-id", "void", "--key-file", "key", "--state-dir", "s1"], 5, &["nacre.json"]),
        (&["mount", "extra", "void", "--key-file", "key", "--state-dir", "s1"], 5, &["nacre.json"]),
        // Mount points.
        (&["mount", "store", "nowhere", key[0], key[1], key[2], key[3]], 2, &["mkdir -p"]),
        (&["mount", "store", "file", key[0], key[1], key[2], key[3]], 2, &["not a directory"]),
        (&["mount", "store", "full", key[0], key[1], key[2], key[3]], 2, &["not empty", "nonempty"]),
        (&["mount", "store", "mnt", key[0], key[1], key[2], key[3]], 6, &["is mounted on", "already"]),
        (
            &["mount", "store", "void", key[0], key[1], key[2], key[3]],
            6,
            &["state directory", "mounted already"],
        ),
        // Making drives.
        (&["init", "store", "--key-file", "key"], 6, &["already"]),
        (&["init", "plain", "--key-file", "key"], 6, &["not empty", "choose another"]),
        (&["init", "newer", "--key-file", "key"], 1, &["format 2"]),
        (&["init", "alien", "--key-file", "key"], 6, &["nacre.json is damaged", "restore it"]),
        (&["init", "file", "--key-file", "key"], 1, &["file"]),
        (&["umount", "void"], 7, &["not a nacrefs mount"]),
    ];
    let mut wrong = Vec::new();
    for (line, exit, words) in table {
        let (status, said) = nacrefs(&d, line);
        let fine = status == *exit
            && said.lines().count() == 1
            && said.starts_with("nacrefs: ")
            && words.iter().all(|w| said.contains(w));
        if !fine {
            wrong.push(format!("{line:?}: want {exit} {words:?}, is {status}: {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(snapshot(&p("plain")), before);
    assert!(
        ["store", "newer", "alien", "other-id"].map(|s| snapshot(&p(s))) == stores,
        "a refusal changed a store"
    );
    assert_eq!(fs::read_dir(p("void")).unwrap().count(), 0);
    let out = Command::new(NACREFS).arg("umount").arg(&d.mnt).output().unwrap();
    assert!(out.status.success());
    assert!(held.wait().unwrap().success());
}

/// A drive that a passphrase opens, one that costs nothing to try.
fn add_passphrase(d: &TestDrive, passphrase: &str) {
    let key = Secret::KeyFile(Key(std::array::from_fn(|at| b"\x01\x23\x45\x67\x89\xab\xcd\xef"[at % 8])));
    let site = Site::unlock(&format!("file://{}", d.store.display()), &key).unwrap();
    let secret = Secret::Passphrase(Zeroizing::new(passphrase.into()));
    let cheap = KdfParams { memory_kib: 64, passes: 1, lanes: 1 };
    let slot = Slot::create(&site.secrets, &secret, cheap, "", SystemClock.now(), &SystemRandom).unwrap();
    slots::add(&*site.objects, &slot).unwrap();
}

#[test]
fn every_wrong_secret_missing_file_bad_option_and_bad_url_has_its_exit_status_and_one_line() {
    let d = TestDrive::unmounted("commit=1");
    add_passphrase(&d, "correct horse");
    let p = |name: &str| d.dir().join(name);
    fs::create_dir(p("dir")).unwrap();
    fs::create_dir(p("none")).unwrap();
    fs::create_dir_all(p("credentials")).unwrap();
    private_file(&p("wrong"), "a passphrase\n");
    private_file(&p("right"), "correct horse\n");
    private_file(&p("empty"), "\n");
    private_file(&p("none/empty"), "");
    assert!(Command::new("mkfifo").args(["-m", "600"]).arg(p("pipe")).status().unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(p("socket")).unwrap();
    private_file(&p("short"), "12ab\n");
    private_file(&p("latin"), "x");
    fs::write(p("latin"), b"caf\xe9\n").unwrap();
    private_file(&p("long"), &"x".repeat(70_000));
    private_file(&p("wrong-key"), &"f".repeat(64));
    private_file(&p("wrong-code"), &RecoveryCode::generate(&SystemRandom).unwrap().to_text());
    private_file(&p("typo"), &RecoveryCode::generate(&SystemRandom).unwrap().to_text().replace('-', "-0"));
    private_file(&p("credentials/nacrefs.passphrase"), "a passphrase");
    private_file(&p("credentials/nacrefs.key"), &fs::read_to_string(&d.key).unwrap());
    let before = snapshot(&d.store);

    type Row<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], i32, &'a [&'a str]);
    let s1 = "--state-dir=s1";
    let list = ["key", "list", "store", s1];
    let table: &[Row] = &[
        // What opens the drive, by every way.
        (&[], &list, 3, &["no terminal", "--passphrase-file", "NACREFS_PASSPHRASE_COMMAND"]),
        (&[], &[list[0], list[1], list[2], s1, "--passphrase-file=wrong"], 3, &["passphrase is wrong"]),
        (&[], &[list[0], list[1], list[2], s1, "--passphrase-file=gone"], 3, &["cannot open gone"]),
        (&[], &[list[0], list[1], list[2], s1, "--passphrase-file=dir"], 3, &["dir is a directory"]),
        (
            &[],
            &[list[0], list[1], list[2], s1, "--passphrase-file=empty"],
            3,
            &["empty is empty", "no passphrase"],
        ),
        (&[], &[list[0], list[1], list[2], s1, "--passphrase-file=latin"], 3, &["latin is not UTF-8"]),
        (&[], &[list[0], list[1], list[2], s1, "--passphrase-file=long"], 3, &["long is too long"]),
        (&[], &[list[0], list[1], list[2], s1, "--key-file=wrong-key"], 3, &["key file is wrong"]),
        (&[], &[list[0], list[1], list[2], s1, "--key-file=gone"], 3, &["cannot open gone"]),
        (&[], &[list[0], list[1], list[2], s1, "--key-file=dir"], 3, &["dir is a directory"]),
        (&[], &[list[0], list[1], list[2], s1, "--key-file=/dev/null"], 3, &["/dev/null is empty", "no key"]),
        (
            &[],
            &[list[0], list[1], list[2], s1, "--key-file=none/empty"],
            3,
            &["none/empty is empty", "no key"],
        ),
        (&[], &[list[0], list[1], list[2], s1, "--key-file=/dev/zero"], 3, &["too long for a key"]),
        (&[], &[list[0], list[1], list[2], s1, "--key-file=pipe"], 3, &["pipe", "nobody writes into it"]),
        (&[], &[list[0], list[1], list[2], s1, "--key-file=socket"], 3, &["cannot open socket"]),
        (&[], &["mount", "store", "dir", s1, "-o", "key_file=pipe"], 3, &["nobody writes into it"]),
        (&[], &["init", "new", "--key-file=/dev/null"], 3, &["/dev/null is empty"]),
        (&[], &["init", "new", "--key-file=dir"], 3, &["dir is a directory"]),
        (&[], &[list[0], list[1], list[2], s1, "--key-file=short"], 3, &["64 hexadecimal"]),
        (&[], &[list[0], list[1], list[2], s1, "--recovery"], 3, &["no terminal"]),
        (
            &[],
            &[list[0], list[1], list[2], s1, "--recovery", "--passphrase-file=wrong-code"],
            3,
            &["recovery code is wrong"],
        ),
        (
            &[],
            &[list[0], list[1], list[2], s1, "--recovery", "--passphrase-file=typo"],
            3,
            &["recovery code"],
        ),
        (
            &[],
            &[list[0], list[1], list[2], s1, "--recovery", "--passphrase-file=wrong"],
            3,
            &["recovery code"],
        ),
        (&[("NACREFS_PASSPHRASE", "wrong")], &list, 3, &["passphrase is wrong"]),
        (&[("NACREFS_PASSPHRASE_FILE", "gone")], &list, 3, &["cannot open gone"]),
        (&[("NACREFS_PASSPHRASE_FILE", "wrong")], &list, 3, &["passphrase is wrong"]),
        (&[("NACREFS_PASSPHRASE_COMMAND", "exit 3")], &list, 3, &["NACREFS_PASSPHRASE_COMMAND failed", "3"]),
        (
            &[("NACREFS_PASSPHRASE_COMMAND", "true")],
            &list,
            3,
            &["NACREFS_PASSPHRASE_COMMAND printed is empty", "no passphrase"],
        ),
        (&[("NACREFS_PASSPHRASE_COMMAND", "cat wrong")], &list, 3, &["passphrase is wrong"]),
        (&[("CREDENTIALS_DIRECTORY", "none")], &list, 3, &["no terminal"]),
        (&[("CREDENTIALS_DIRECTORY", "credentials")], &list, 3, &["passphrase is wrong"]),
        (&[("NACREFS_NEW_PASSPHRASE", "x")], &list, 3, &["no terminal"]),
        (&[], &["mount", "store", "dir", s1], 3, &["no terminal"]),
        (&[], &["mount", "store", "dir", s1, "-o", "passphrase_file=wrong"], 3, &["passphrase is wrong"]),
        (&[], &["mount", "store", "dir", s1, "-o", "key_file=gone"], 3, &["cannot open gone"]),
        (
            &[("NACREFS_PASSPHRASE", "wrong")],
            &["mount", "store", "dir", s1, "-f"],
            3,
            &["passphrase is wrong"],
        ),
        (&[("NACREFS_PASSPHRASE", "wrong")], &["check", "store", s1], 3, &["passphrase is wrong"]),
        (
            &[("NACREFS_PASSPHRASE", "wrong")],
            &["status", "--store", "store", s1],
            3,
            &["passphrase is wrong"],
        ),
        (&[("NACREFS_PASSPHRASE", "wrong")], &["log", "--store", "store", s1], 3, &["passphrase is wrong"]),
        (
            &[("NACREFS_PASSPHRASE", "wrong")],
            &["cat", "x", "--store", "store", s1],
            3,
            &["passphrase is wrong"],
        ),
        // What is to open it.
        (&[], &["key", "add", "store", s1], 3, &["no terminal", "--passphrase-file"]),
        (
            &[],
            &["key", "add", "store", s1, "--key-file=key"],
            3,
            &["no terminal", "--new-passphrase-file", "--new-recovery"],
        ),
        (&[], &["key", "change", "store", s1, "--key-file=key"], 3, &["no terminal", "--new-key-file"]),
        (
            &[("NACREFS_PASSPHRASE", "x")],
            &["key", "add", "store", s1, "--key-file=key"],
            3,
            &["no new passphrase"],
        ),
        (
            &[],
            &["key", "add", "store", s1, "--key-file=key", "--new-passphrase-file=gone"],
            3,
            &["cannot open gone"],
        ),
        (
            &[],
            &["key", "add", "store", s1, "--key-file=key", "--new-passphrase-file=empty"],
            3,
            &["holds no passphrase"],
        ),
        (&[], &["key", "add", "store", s1, "--key-file=key", "--new-key-file=short"], 3, &["64 hexadecimal"]),
        (&[], &["key", "add", "store", s1, "--key-file=key", "--new-key-file=pipe"], 3, &["nobody writes"]),
        (&[], &["key", "add", "store", s1, "--key-file=key", "--new-key-file=right/key"], 1, &["right/key"]),
        (
            &[("NACREFS_NEW_PASSPHRASE_COMMAND", "exit 4")],
            &["key", "add", "store", s1, "--key-file=key"],
            3,
            &["failed", "4"],
        ),
        (
            &[],
            &["key", "change", "store", s1, "--key-file=wrong-key", "--new-recovery"],
            3,
            &["key file is wrong"],
        ),
        // Options.
        (&[], &["key", "add", "store", "--new-recovery", "--new-key-file=x"], 2, &["cannot be used with"]),
        (&[], &["key", "list", "store", "--store=store"], 2, &["cannot be used with"]),
        (&[], &["key", "list", "--key-file=a", "--passphrase-file=b"], 2, &["cannot be used with"]),
        (
            &[],
            &["key", "add", "store", s1, "--key-file=key", "--new-recovery", "--label", &"x".repeat(256)],
            2,
            &["label", "255"],
        ),
        (&[], &["key", "remove"], 2, &["<ID>"]),
        (&[], &["key", "remove", "abc", "store", s1, "--key-file=key"], 2, &["not the id", "key list"]),
        (&[], &["key", "remove", "../key", "store", s1, "--key-file=key"], 2, &["not the id"]),
        (
            &[],
            &["key", "remove", "00000000", "store", s1, "--key-file=key"],
            2,
            &["no key slot 00000000", "key list"],
        ),
        (&[], &["key", "rotate"], 2, &["rotate"]),
        (&[], &["mount", "store", "dir", "-o", "key_file="], 2, &["key_file="]),
        (&[], &["mount", "store", "dir", "-o", "key_file=a,passphrase_file=b"], 2, &["one of them"]),
        (&[], &["accept", "store", "--no"], 2, &["--no"]),
        // Stores and directories.
        (&[], &["key", "list", "gone", s1], 7, &["no directory", "gone"]),
        (&[], &["key", "add", "dir", s1], 7, &["not a nacrefs drive"]),
        (&[], &["key", "list", "wrong", s1], 7, &["not a directory"]),
        (&[], &["key", "change", "ftp://x", s1], 2, &["ftp://x", "unknown kind"]),
        (&[], &["key", "list", "file://host/x", s1], 2, &["three slashes"]),
        (&[], &["key", "list", "file:///%zz", s1], 2, &["%zz"]),
        (&[], &["key", "list", "", s1], 2, &["[STORE|DIR]"]),
        (&[], &["key", "list", "s3://bucket/prefix"], 2, &["s3", "not supported"]),
        (&[], &["key", "list", "s3://"], 2, &["no bucket"]),
        (&[], &["key", "list", "memory://"], 7, &["memory://", "not a nacrefs drive"]),
        (&[], &["accept", "dir", s1], 7, &["not a nacrefs drive"]),
        (&[], &["accept", "gone"], 7, &["no directory"]),
        (&[], &["key", "list", "store", "--state-dir=", "--key-file=key"], 2, &["--state-dir"]),
    ];
    let mut wrong = Vec::new();
    for (environment, line, exit, words) in table {
        let (status, said) = nacrefs_with(&d, environment, line);
        let fine = status == *exit
            && said.lines().count() == 1
            && said.starts_with("nacrefs: ")
            && words.iter().all(|w| said.contains(w));
        if !fine {
            wrong.push(format!("{environment:?} {line:?}: want {exit} {words:?}, is {status}: {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(snapshot(&d.store) == before, "a refusal changed the store");
    // The table is about what it says: with the right secrets the same lines work.
    for right in ["--key-file=key", "--passphrase-file=right"] {
        assert_eq!(nacrefs(&d, &["key", "list", "store", s1, right]), (0, String::new()));
    }
}

/// The object store's own crate panics over such a path; and a state directory in the store would be rolled back with it.
#[test]
fn a_store_whose_path_is_not_utf8_and_a_state_directory_in_the_store_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    let d = TestDrive::unmounted("commit=1");
    let odd = d.dir().join(std::ffi::OsStr::from_bytes(b"odd\xff"));
    let out = d.nacrefs(&["init"]).arg(&odd).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(
        out.status.code() == Some(2) && said.contains("is not UTF-8") && said.lines().count() == 1,
        "{said}"
    );
    assert!(!odd.exists());
    let before = snapshot(&d.store);
    for inside in ["state", "packs/state"] {
        let state = d.store.join(inside);
        let out =
            d.nacrefs(&["mount"]).arg(&d.store).arg(&d.mnt).arg("--state-dir").arg(&state).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.code() == Some(2) && said.contains("is inside the store"), "{said}");
    }
    assert!(snapshot(&d.store) == before);
}
