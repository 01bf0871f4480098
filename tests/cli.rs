//! The binary as scripts see it: exit statuses, one line on standard error, nothing else on standard output.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn nacrefs(dir: &Path, line: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nacrefs"))
        .args(line)
        .current_dir(dir)
        .stdin(Stdio::null())
        .env_remove("NACREFS_PASSPHRASE")
        .env_remove("NACREFS_PASSPHRASE_FILE")
        .env_remove("NACREFS_PASSPHRASE_COMMAND")
        .env_remove("NACREFS_STATE_DIR")
        .env_remove("CREDENTIALS_DIRECTORY")
        .output()
        .unwrap()
}

#[test]
fn bad_input_has_its_exit_status_and_one_line_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("full/x")).unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    for (name, text) in [("file", "no key\n"), ("pass", "secret\n")] {
        fs::write(dir.path().join(name), text).unwrap();
        fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let table: &[(&[&str], i32, &str)] = &[
        (&["frobnicate"], 2, "frobnicate"),
        (&["mount"], 2, "<DIR>"),
        // Of the default drive the directory would be made, in one that is there.
        (&["mount", "gone/further"], 2, "mkdir -p"),
        (&["mount", "s", "gone"], 2, "mkdir -p"),
        (&["mount", "file"], 2, "not a directory"),
        (&["mount", "full"], 2, "not empty"),
        (&["mount", "s", "/proc"], 6, "already a mount"),
        (&["mount", "s", "empty", "-o", "colour=red"], 2, "colour=red"),
        (&["mount", "s", "empty", "-o", "memory=lots"], 2, "memory=lots"),
        (&["mount", "ftp://s", "empty"], 2, "ftp://s"),
        (&["mount", "file://s", "empty"], 2, "three slashes"),
        (&["mount", "s", "empty", "-o", "key_file=a,passphrase_file=b"], 2, "one of them"),
        (&["init"], 2, "<STORE>"),
        (&["init", "s"], 3, "--passphrase-file"),
        (&["init", "s", "--passphrase-file", "gone"], 3, "gone"),
        (&["init", "s", "--key-file", "file"], 3, "64 hexadecimal digits"),
        (&["init", "s", "--recovery"], 2, "recovery"),
        (&["umount", "empty"], 7, "not a nacrefs mount"),
        (&["umount", "gone/further"], 7, "not a nacrefs mount"),
        (&["sync", "empty"], 7, "not in a mounted nacrefs drive"),
        (&["status", "empty", "--json"], 7, "not in a mounted nacrefs drive"),
        (&["status", "--store", "s", "--passphrase-file", "pass"], 7, "there is no directory"),
        (&["log", "gone/by/now"], 7, "not in a mounted nacrefs drive"),
        (&["log", "--store", "s", "../x"], 2, "`..`"),
        (&["cat"], 2, "<PATH>"),
        (&["cat", "file", "--at", "3 moons ago"], 2, "3 days ago"),
        (&["check", "s", "--subset", "1/2"], 2, "--read-data"),
        (&["check", "s"], 7, "there is no directory"),
        (&["key", "list", "s"], 7, "there is no directory"),
        (&["key", "forge"], 2, "forge"),
        (&["completions", "tcsh"], 2, "tcsh"),
        (&["man", "frobnicate"], 2, "frobnicate"),
        (&["man", "--dir", "file"], 1, "file"),
    ];
    for (line, exit, word) in table {
        let out = nacrefs(dir.path(), line);
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(*exit), "{line:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{line:?}: {said}");
        assert!(said.starts_with("nacrefs: ") && said.contains(word), "{line:?}: {said}");
        assert!(out.stdout.is_empty(), "{line:?}");
    }
}

#[test]
fn what_is_asked_for_is_printed() {
    let dir = tempfile::tempdir().unwrap();
    let table: &[(&[&str], &str)] = &[
        (&["--version"], "nacrefs "),
        (&["--help"], "130  interrupted"),
        (&["help", "mount"], "journal=SIZE"),
        (&["help", "exit-status"], "7  not a nacrefs drive or mount"),
        (&["exit-status"], "5  damage found"),
        (&["completions", "bash"], "_nacrefs"),
        (&["man"], ".TH \"nacrefs\" 1"),
        (&["man", "key", "list"], ".TH \"nacrefs\\-key\\-list\" 1"),
    ];
    for (line, word) in table {
        let out = nacrefs(dir.path(), line);
        let said = String::from_utf8(out.stdout).unwrap();
        assert!(out.status.success() && out.stderr.is_empty(), "{line:?}");
        assert!(said.contains(word), "{line:?}: {said}");
    }
    let out = nacrefs(dir.path(), &[]);
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8(out.stderr).unwrap().contains("Usage:"));
}

#[test]
fn a_reader_that_goes_away_ends_a_command_quietly() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let out = Command::new(env!("CARGO_BIN_EXE_nacrefs"))
        .args(["completions", "zsh"])
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(141));
    assert!(out.stderr.is_empty());
}

#[test]
fn more_is_said_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let out = nacrefs(dir.path(), &["-v", "init", "s", "--passphrase-file", "gone"]);
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(said.contains("cannot open gone: No such file") && said.lines().count() == 1, "{said}");
}
