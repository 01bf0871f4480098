//! What is refused: each with its exit status and one line that says what to do, and with nothing changed.

#![allow(clippy::unwrap_used)]

mod common;
use common::{NACREFS, TestDrive};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

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
    let mut c = Command::new(NACREFS);
    c.args(line).current_dir(d.dir()).stdin(Stdio::null());
    for name in
        ["NACREFS_PASSPHRASE", "NACREFS_PASSPHRASE_FILE", "NACREFS_PASSPHRASE_COMMAND", "NACREFS_STATE_DIR"]
    {
        c.env_remove(name);
    }
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
    fs::write(p("wrong-key"), "f".repeat(64) + "\n").unwrap();
    fs::write(p("no-key"), "short\n").unwrap();
    fs::write(p("pass"), "a passphrase\n").unwrap();
    fs::write(p("no-code"), "0000-0000\n").unwrap();
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
            &["no key slot for a passphrase", "key list"],
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
        (&["mount", "store", "mnt", key[0], key[1], key[2], key[3]], 6, &["already a mount"]),
        (
            &["mount", "store", "void", key[0], key[1], key[2], key[3]],
            6,
            &["state directory", "mounted already"],
        ),
        // Making drives.
        (&["init", "store", "--key-file", "key"], 6, &["already"]),
        (&["init", "plain", "--key-file", "key"], 6, &["not empty", "choose another"]),
        (&["init", "newer", "--key-file", "key"], 1, &["format 2"]),
        (&["init", "alien", "--key-file", "key"], 6, &["not empty"]),
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
