//! A state directory on a read-only file system: a disk that dies, a snapshot, a live system.

use crate::common::{NACREFS, TestDrive, ok};
use crate::lab::*;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory that is mounted read-only over itself, as long as this lives.
struct Frozen(PathBuf);

impl Frozen {
    fn at(dir: &Path) -> Frozen {
        let mount = |how: &[&str]| ok(Command::new("mount").args(how).arg(dir).output());
        ok(Command::new("mount").arg("--bind").arg(dir).arg(dir).output());
        let frozen = Frozen(dir.to_owned());
        mount(&["-o", "remount,bind,ro"]);
        let e = fs::write(dir.join("x"), "").unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::EROFS));
        frozen
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// The run-time directory that a mount has said it logs to; removed at the end.
struct RunDir(PathBuf);

impl RunDir {
    #[track_caller]
    fn of(said: &Said) -> RunDir {
        assert_eq!(said.exit, 0, "{said:?}");
        let log =
            said.out.lines().find_map(|line| line.split_once("the log is ")).map(|(_, log)| Path::new(log));
        RunDir(log.and_then(Path::parent).unwrap_or_else(|| panic!("{said:?}")).to_owned())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.0.join("log")).unwrap()
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        assert!(self.0.starts_with("/run/nacrefs"));
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Everything in a directory: names, modes, times and bytes.
fn all_of(dir: &Path) -> Vec<(PathBuf, u32, [i64; 4], Vec<u8>)> {
    let mut all = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let m = fs::symlink_metadata(&path).unwrap();
        if m.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        let bytes = if m.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        all.push((path, m.mode(), [m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()], bytes));
    }
    all.sort();
    all
}

/// A drive of which two files were synced, neither of them to the store, and whose daemon was killed.
fn killed() -> TestDrive {
    let mut d = TestDrive::with("commit=3600");
    d.sh("echo stored > stored");
    d.sync();
    for n in 0..2 {
        let mut f = File::create(d.mnt.join(format!("unstored-{n}"))).unwrap();
        f.write_all(&noise(n, 200_000)).unwrap();
        f.sync_all().unwrap();
    }
    d.sh("echo changed > stored; sync stored");
    d.kill();
    d
}

#[track_caller]
fn all_there(d: &TestDrive) {
    for n in 0..2 {
        assert!(fs::read(d.mnt.join(format!("unstored-{n}"))).unwrap() == noise(n, 200_000), "{n}");
    }
    assert_eq!(d.sh("cat stored"), "changed\n");
}

fn findings(d: &TestDrive) -> impl Fn(&str) -> (String, String) + use<> {
    let said = on_mount(d, &["doctor", "--json"]);
    let told: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    let found: Vec<_> = told["parts"][1]["findings"].as_array().unwrap().clone();
    move |check| {
        let f = found.iter().find(|f| f["check"] == check).unwrap_or_else(|| panic!("{check}: {found:?}"));
        (f["state"].as_str().unwrap().to_owned(), f["what"].as_str().unwrap().to_owned())
    }
}

/// It used to be that nothing could be mounted, for the log could not be opened.
#[test]
fn a_state_directory_that_cannot_be_written_to_is_shown_by_a_read_only_mount_and_stays_as_it_is() {
    let mut d = killed();
    let (before, store) = (all_of(&d.state), objects(&d.store));
    let frozen = Frozen::at(&d.state);
    let refused = Said::from(d.try_mount("commit=3600"));
    refused.expect(1, &["read-only file system", "-o ro", "--state-dir", d.state.to_str().unwrap()]);
    assert_eq!(fs::read_dir(&d.mnt).unwrap().count(), 0, "nothing is mounted");

    let run_dir = RunDir::of(&Said::from(d.try_mount("ro")));
    all_there(&d);
    assert_eq!(fs::write(d.mnt.join("new"), "").unwrap_err().raw_os_error(), Some(libc::EROFS));
    let told = status(&d);
    assert_eq!(told["state_dir"].as_str(), d.state.to_str());
    assert!(told["read_only"].is_string() && told["dirty_bytes"].as_u64().unwrap() > 400_000, "{told}");
    assert_eq!(fs::metadata(&run_dir.0).unwrap().mode() & 0o777, 0o700);
    assert_eq!(fs::read_link(run_dir.0.join("state")).unwrap(), d.state);

    // Whoever asks the daemon finds it, and what looks for the state directory finds that.
    let found = findings(&d);
    assert!(found("state").1.contains(d.state.to_str().unwrap()));
    assert!(found("state disk").0 == "warn" && found("state disk").1.contains("-o ro"));
    assert_eq!(found("lock").1, format!("held by process {}", told["pid"]));
    assert_eq!(found("control").1, "the daemon can be called");
    assert_eq!(run(Command::new(NACREFS).arg("log-level").arg(&d.mnt).arg("debug")).exit, 0);
    assert!(run_dir.log().contains("the log level is now debug"));
    let shown = run(d.nacrefs(&["key", "list"]).arg(&d.mnt));
    assert_eq!(shown.exit, 0, "{shown:?}");

    // A second one is kept out, and so is one that would write, once that can be.
    let (other, line) = (d.dir().join("other"), ["mount", "-o", "ro"]);
    fs::create_dir(&other).unwrap();
    let second = run(d.nacrefs(&line).arg(&d.store).arg(&other));
    second.expect(6, &["holds its state directory"]);
    drop(frozen);
    let writer = run(d.nacrefs(&["mount"]).arg(&d.store).arg(&other));
    writer.expect(6, &["holds its state directory"]);
    let log = d.state.join("log");
    let begun: Vec<_> = before.iter().filter(|f| f.0 != log && f.0 != d.state).cloned().collect();
    let mut now = all_of(&d.state);
    now.retain(|f| f.0 != log && f.0 != d.state);
    assert!(now == begun, "the one that was refused has written its log, and nothing else");

    let frozen = Frozen::at(&d.state);
    let before = all_of(&d.state);
    d.umount();
    assert!(run_dir.log().contains("unmounted") && !run_dir.0.join("control").exists());
    ok(Ok(d.try_mount("ro")));
    all_there(&d);
    d.kill();
    // The socket that a killed one has left is in nobody's way.
    ok(Ok(d.try_mount("ro")));
    all_there(&d);
    d.umount();
    let accept = run(d.nacrefs(&["accept", "--yes"]).arg(&d.store));
    accept.expect(1, &["read-only file system", "make it writable", "nothing was changed"]);
    assert!(all_of(&d.state) == before, "a read-only mount changed the state directory");
    assert_eq!(objects(&d.store), store, "a read-only mount wrote to the store");
    drop(frozen);

    // Where it can be written to again, it goes on from there.
    d.mount();
    all_there(&d);
    d.move_to_a_new_machine();
    all_there(&d);
    d.umount();
    assert_eq!(run(d.nacrefs(&["check", "--read-data"]).arg(&d.store)).exit, 0);
}

#[test]
fn a_supervised_drive_on_a_read_only_state_directory_comes_back_and_logs_where_it_can() {
    let mut d = killed();
    let before = all_of(&d.state);
    let frozen = Frozen::at(&d.state);
    let run_dir = RunDir::of(&Said::from(d.try_mount("ro,restart=on")));
    let pid = |d: &TestDrive| {
        let out = on_mount(d, &["status", "--json"]);
        serde_json::from_str::<serde_json::Value>(&out.out).ok().and_then(|s| s["pid"].as_i64())
    };
    let first = pid(&d).unwrap();
    // SAFETY: the daemon of this test's own drive.
    unsafe { libc::kill(i32::try_from(first).unwrap(), libc::SIGKILL) };
    wait_until("it is mounted again", || pid(&d).is_some_and(|pid| pid != first));
    all_there(&d);
    assert!(run_dir.log().contains("mounting again"));
    d.umount();
    assert!(all_of(&d.state) == before);
    drop(frozen);
    d.mount();
    all_there(&d);
    d.umount();
}

#[test]
fn a_state_directory_that_is_missing_and_cannot_be_made_is_told_and_the_store_is_shown() {
    let mut d = killed();
    let there = d.dir().join("there");
    fs::create_dir(&there).unwrap();
    let frozen = Frozen::at(&there);
    d.state = there.join("a/state");
    Said::from(d.try_mount("commit=3600")).expect(1, &["read-only file system", "-o ro", "--state-dir"]);
    let said = Said::from(d.try_mount("ro"));
    let run_dir = RunDir::of(&said);
    assert!(
        said.out.contains("there is no state directory") && said.out.contains("what the store has"),
        "{said:?}"
    );
    assert_eq!(d.sh("ls; cat stored"), "stored\nstored\n");
    assert!(status(&d)["read_only"].is_string());
    let (other, line) = (d.dir().join("other"), ["mount", "-o", "ro"]);
    fs::create_dir(&other).unwrap();
    run(d.nacrefs(&line).arg(&d.store).arg(&other)).expect(6, &["holds its state directory"]);
    d.umount();
    assert!(run_dir.log().contains("unmounted"));
    drop(frozen);
    assert_eq!(fs::read_dir(&there).unwrap().count(), 0);
}
