//! Living with a drive: `status`, metrics, the log, signals, `doctor`, each on a real mount.

#![allow(clippy::unwrap_used)]

mod common;
use common::{NACREFS, TestDrive, noise, ok, wait_until};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn on_mount(d: &TestDrive, line: &[&str]) -> Output {
    Command::new(NACREFS).args(line).arg(&d.mnt).stdin(Stdio::null()).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn status(d: &TestDrive) -> Value {
    serde_json::from_slice(&ok(Ok(on_mount(d, &["status", "--json"]))).stdout).unwrap()
}

fn log(d: &TestDrive) -> String {
    fs::read_to_string(d.state.join("log")).unwrap_or_default()
}

fn heads(store: &Path) -> usize {
    fn walk(dir: &Path) -> usize {
        let below = fs::read_dir(dir).into_iter().flatten().flatten();
        below.map(|e| if e.path().is_dir() { walk(&e.path()) } else { 1 }).sum()
    }
    let realms = fs::read_dir(store.join("realms")).unwrap().flatten();
    realms.map(|realm| walk(&realm.path().join("heads"))).sum()
}

fn signal(pid: i32, signal: i32) {
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

/// Takes the store out of reach, and gives the way to bring it back.
struct Away<'a>(&'a TestDrive);

impl Away<'_> {
    fn take(d: &TestDrive) -> Away<'_> {
        fs::rename(&d.store, d.dir().join("away")).unwrap();
        Away(d)
    }

    fn back(self) {
        fs::rename(self.0.dir().join("away"), &self.0.store).unwrap();
    }
}

#[test]
fn status_tells_people_and_programs_how_the_drive_is() {
    let d = TestDrive::with("commit=3600,journal=64M");
    fs::write(d.mnt.join("file"), noise(1, 3_000_000)).unwrap();
    let s = status(&d);
    assert_eq!(s["journal_limit"], 64 << 20);
    assert!(s["dirty_bytes"].as_u64().unwrap() > 3_000_000, "{s}");
    assert!(s["online"] == true && s["online_since"].is_null() && s["read_only"].is_null(), "{s}");
    assert_eq!(s["pid"], d.pid());
    assert!(s["memory_bytes"].as_u64().unwrap() > 1 << 20, "{s}");
    assert_eq!(s["state_dir"].as_str().unwrap(), d.state.canonicalize().unwrap().to_str().unwrap());
    let said = out(&on_mount(&d, &["status"]));
    assert!(said.contains("not stored   2.9 MiB") && said.contains("of 64.0 MiB (4 %)"), "{said}");
    assert!(!said.contains("daemon"), "{said}");
    let said = out(&on_mount(&d, &["status", "-v"]));
    assert!(said.contains(&format!("daemon       process {}", d.pid())), "{said}");

    let away = Away::take(&d);
    assert_eq!(on_mount(&d, &["sync"]).status.code(), Some(4));
    let s = status(&d);
    assert!(s["online"] == false && s["online_since"].is_string() && s["last_error_time"].is_string(), "{s}");
    let said = out(&on_mount(&d, &["status"]));
    assert!(said.contains("(out of reach since ") && said.contains("last error"), "{said}");
    away.back();
    d.sync();
    let s = status(&d);
    assert!(s["online"] == true && s["online_since"].is_string() && s["last_error"].is_null(), "{s}");
    assert_eq!(s["dirty_bytes"], 0);
    assert!(s["store_speed"].as_u64().unwrap() > 0, "{s}");
}

#[test]
fn status_waits_for_no_daemon_and_shows_the_others() {
    let stuck = TestDrive::with("commit=3600");
    let well = TestDrive::with("commit=3600");
    let mut dead = TestDrive::with("commit=3600");
    let pid = stuck.pid();
    signal(pid, libc::SIGSTOP);
    signal(dead.pid(), libc::SIGKILL);
    let begun = Instant::now();
    let all = Command::new(NACREFS).args(["status", "--json"]).output().unwrap();
    let one = on_mount(&stuck, &["status"]);
    let gone = on_mount(&dead, &["status", "--json"]);
    let took = begun.elapsed();
    signal(pid, libc::SIGCONT);
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert_eq!(all.status.code(), Some(1));
    let lines: Vec<Value> = out(&all).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let of = |d: &TestDrive| lines.iter().find(|s| s["mount"] == d.mnt.to_str().unwrap()).unwrap();
    assert_eq!(of(&well)["online"], true);
    assert!(of(&well)["version"].is_u64());
    for (d, word) in [(&stuck, "does not answer"), (&dead, "lost its daemon")] {
        let s = of(d);
        assert!(s["version"].is_null() && s["last_error"].as_str().unwrap().contains(word), "{s}");
        assert!(s["store"].as_str().unwrap().starts_with("file:///"), "{s}");
    }
    assert_eq!(one.status.code(), Some(1));
    assert!(out(&one).contains("answer       none") && err(&one).contains("does not answer"), "{one:?}");
    assert_eq!(gone.status.code(), Some(1));
    dead.kill_is_done();
}

/// The samples of OpenMetrics text, by name and labels; strict about all that the text may not be.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    let mut family: Option<(String, String)> = None;
    let mut families = Vec::new();
    let body = text.strip_suffix("# EOF\n").expect("the end is told");
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (what, name, text) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            match what {
                "TYPE" => {
                    assert!(["counter", "gauge", "info"].contains(&text), "{line}");
                    assert!(!families.contains(&name.to_owned()), "{name} comes twice");
                    families.push(name.to_owned());
                    family = Some((name.to_owned(), text.to_owned()));
                }
                "UNIT" => assert!(name.ends_with(&format!("_{text}")), "{line}"),
                "HELP" => assert!(!text.is_empty(), "{line}"),
                _ => panic!("{line}"),
            }
            assert_eq!(family.as_ref().unwrap().0, name, "{line}");
            continue;
        }
        let (key, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        let name = key.split('{').next().unwrap();
        let (of, kind) = family.as_ref().unwrap();
        let suffix = match kind.as_str() {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        assert_eq!(name, format!("{of}{suffix}"), "{line}");
        assert!(
            key.len() == name.len() || (key.ends_with("\"}") && key.matches('"').count() % 2 == 0),
            "{line}"
        );
        let value: f64 = value.parse().unwrap();
        assert!(value >= 0.0 && value.is_finite(), "{line}");
        assert!(found.insert(key.to_owned(), value).is_none(), "{line} comes twice");
    }
    found
}

fn scrape(mut stream: impl Read + Write) -> BTreeMap<String, f64> {
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    let (head, body) = said.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let kind = "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";
    assert!(head.contains(kind), "{head}");
    samples(body)
}

#[test]
fn metrics_count_what_was_done_and_are_strict_openmetrics() {
    let mut d = TestDrive::unmounted("");
    let socket = d.dir().join("metrics");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap();
    let refused = d.try_mount(&format!("metrics={port}"));
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(err(&refused).contains("cannot serve metrics"), "{refused:?}");
    for options in ["metrics=0.0.0.0:9101", "metrics=unix:relative"] {
        assert_eq!(d.try_mount(options).status.code(), Some(2), "{options}");
    }
    ok(Ok(d.try_mount(&format!("commit=3600,journal=64M,metrics=unix:{}", socket.display()))));
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o077, 0);
    let page = || scrape(UnixStream::connect(&socket).unwrap());
    let before = page();
    fs::write(d.mnt.join("file"), noise(1, 2 << 20)).unwrap();
    fs::File::open(d.mnt.join("file")).unwrap().sync_all().unwrap();
    assert!(fs::metadata(d.mnt.join("none")).is_err());
    assert!(fs::remove_dir(d.mnt.join("file")).is_err());
    assert!(fs::remove_dir(d.mnt.join(".")).is_err());
    fs::create_dir(d.mnt.join("dir")).unwrap();
    fs::write(d.mnt.join("dir/x"), "x").unwrap();
    assert!(fs::remove_dir(d.mnt.join("dir")).is_err());
    let dirty = page();
    let grown = |name: &str, by: f64| {
        let (was, is) = (before.get(name).copied().unwrap_or(0.0), dirty[name]);
        assert!(is - was >= by, "{name}: {was} to {is}");
    };
    grown("nacrefs_written_bytes_total", (2 << 20) as f64);
    grown("nacrefs_operations_total{operation=\"create\"}", 2.0);
    grown("nacrefs_operations_total{operation=\"mkdir\"}", 1.0);
    grown("nacrefs_operation_errors_total{errno=\"ENOTEMPTY\"}", 1.0);
    grown("nacrefs_journal_records_total", 3.0);
    grown("nacrefs_journal_appended_bytes_total", (2 << 20) as f64);
    grown("nacrefs_journal_syncs_total", 1.0);
    grown("nacrefs_dirty_bytes", (2 << 20) as f64);
    assert_eq!(dirty["nacrefs_journal_limit_bytes"], f64::from(64 << 20));
    assert_eq!((dirty["nacrefs_commits_total"], dirty["nacrefs_online"]), (0.0, 1.0));
    d.sync();
    let stored = page();
    assert_eq!((stored["nacrefs_commits_total"], stored["nacrefs_version"]), (1.0, 2.0));
    assert_eq!(stored["nacrefs_dirty_bytes"], 0.0);
    assert!(stored["nacrefs_commit_seconds_total"] > 0.0);
    let put: f64 = ["put", "create"]
        .iter()
        .map(|r| stored[&format!("nacrefs_store_bytes_total{{request=\"{r}\"}}")])
        .sum();
    assert!(put > (2 << 20) as f64, "{put}");
    let age = stored["nacrefs_last_commit_timestamp_seconds"] - before["nacrefs_mount_timestamp_seconds"];
    assert!((0.0..60.0).contains(&age), "{age}");
    assert!(stored.keys().any(|k| k.starts_with("nacrefs_build_info{version=\"")));

    let away = Away::take(&d);
    fs::write(d.mnt.join("more"), "x").unwrap();
    assert_eq!(on_mount(&d, &["sync"]).status.code(), Some(4));
    let gone = page();
    assert_eq!(gone["nacrefs_online"], 0.0);
    assert!(gone["nacrefs_commit_failures_total"] >= 1.0);
    assert!(gone.iter().any(|(k, v)| k.starts_with("nacrefs_store_errors_total") && *v > 0.0));
    away.back();
    d.umount();
    assert!(!socket.exists());

    drop(taken);
    ok(Ok(d.try_mount(&format!("metrics={port}"))));
    assert!(scrape(TcpStream::connect(port).unwrap()).contains_key("nacrefs_inodes{state=\"remembered\"}"));
    d.umount();
}

#[test]
fn the_log_tells_as_much_as_is_asked_for_while_it_runs() {
    let mut d = TestDrive::unmounted("");
    ok(Ok(d.try_mount("commit=3600,log_format=json,log=warn")));
    let level = |args: &[&str]| {
        let mut c = Command::new(NACREFS);
        c.arg("log-level").arg(&d.mnt).args(args).output().unwrap()
    };
    assert_eq!(out(&level(&[])), "warn\n");
    assert_eq!(level(&["loud"]).status.code(), Some(2));
    assert!(!log(&d).contains("mounted on"), "{}", log(&d));
    assert_eq!(out(&level(&["debug"])), "debug\n");
    assert_eq!(out(&level(&[])), "debug\n");
    let before = log(&d).len();
    drop(status(&d));
    wait_until("a request is told at debug", || log(&d)[before..].contains("Status"));
    ok(Ok(level(&["error"])));
    std::thread::sleep(Duration::from_millis(100));
    let before = log(&d).len();
    drop(status(&d));
    assert_eq!(log(&d).len(), before);
    for line in log(&d).lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        assert!(
            line["timestamp"].is_string() && line["level"].is_string() && line["message"].is_string(),
            "{line}"
        );
    }
}

#[test]
fn the_log_does_not_grow_for_ever() {
    let mut d = TestDrive::new();
    d.umount();
    let full = "x".repeat((4 << 20) - 100) + "\n";
    fs::write(d.state.join("log"), &full).unwrap();
    d.mount();
    fs::write(d.mnt.join("file"), "x").unwrap();
    d.umount();
    let old = fs::read_to_string(d.state.join("log.old")).unwrap();
    assert!(old.starts_with("xxx") && old.len() <= 4 << 20, "{} bytes", old.len());
    assert!(log(&d).len() < 10_000 && log(&d).contains("unmounted"), "{}", log(&d));
    assert_eq!(fs::metadata(d.state.join("log")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_store_that_stays_away_is_told_once_and_so_is_its_return() {
    let d = TestDrive::with("commit=1");
    let away = Away::take(&d);
    fs::write(d.mnt.join("file"), "x").unwrap();
    for _ in 0..6 {
        assert_eq!(on_mount(&d, &["sync"]).status.code(), Some(4));
        std::thread::sleep(Duration::from_millis(500));
    }
    let told = log(&d).matches("cannot commit").count();
    assert_eq!(told, 1, "{}", log(&d));
    // Work goes on.
    fs::write(d.mnt.join("more"), "y").unwrap();
    assert_eq!(fs::read_to_string(d.mnt.join("file")).unwrap(), "x");
    away.back();
    wait_until("it goes on by itself", || status(&d)["online"] == true);
    assert_eq!(log(&d).matches("commits succeed again").count(), 1, "{}", log(&d));
}

/// A mount in the foreground, whose exit status can be seen.
fn foreground(d: &TestDrive, options: &str) -> Child {
    let mut c = d.nacrefs(&["mount", "-f"]);
    c.arg(&d.store).arg(&d.mnt).arg("-o").arg(options).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = c.spawn().unwrap();
    wait_until("it is mounted", || is_mounted(d) && d.state.join("control").exists());
    child
}

fn is_mounted(d: &TestDrive) -> bool {
    fs::read_to_string("/proc/self/mountinfo").unwrap().contains(d.mnt.to_str().unwrap())
}

/// How it ended: exit status, standard error, how long that took.
fn end(child: Child) -> (Option<i32>, String, Duration) {
    let begun = Instant::now();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), err(&output), begun.elapsed())
}

#[test]
fn sigterm_and_sigint_commit_and_unmount() {
    for ending in [libc::SIGTERM, libc::SIGINT] {
        let mut d = TestDrive::unmounted("commit=1");
        let child = foreground(&d, "commit=3600,flush=3600");
        fs::write(d.mnt.join("file"), noise(1, 5_000_000)).unwrap();
        signal(child.id() as i32, ending);
        let (exit, said, took) = end(child);
        assert_eq!(exit, Some(0), "{said}");
        assert!(took < Duration::from_secs(20) && !is_mounted(&d), "{took:?}");
        assert_eq!(heads(&d.store), 2);
        // From store and key alone.
        fs::remove_dir_all(&d.state).unwrap();
        d.mount();
        assert!(fs::read(d.mnt.join("file")).unwrap() == noise(1, 5_000_000));
    }
}

#[test]
fn an_end_without_the_store_leaves_the_rest_in_the_journal_and_says_so() {
    for times in [1, 2] {
        let mut d = TestDrive::unmounted("commit=1");
        let child = foreground(&d, "commit=3600,flush=3600");
        fs::write(d.mnt.join("file"), noise(2, 3_000_000)).unwrap();
        let away = Away::take(&d);
        for _ in 0..times {
            signal(child.id() as i32, libc::SIGINT);
            std::thread::sleep(Duration::from_millis(300));
        }
        let (exit, said, took) = end(child);
        assert!(!is_mounted(&d));
        assert!(said.contains("the rest is in the journal"), "{said}");
        match times {
            1 => assert!(exit == Some(4) && took < Duration::from_secs(12), "{exit:?} {took:?} {said}"),
            // The second does not wait.
            _ => assert!(exit == Some(130) && took < Duration::from_secs(8), "{exit:?} {took:?} {said}"),
        }
        away.back();
        assert_eq!(heads(&d.store), 1);
        d.mount();
        assert!(fs::read(d.mnt.join("file")).unwrap() == noise(2, 3_000_000));
    }
}

#[test]
fn sighup_opens_the_log_anew_and_commits_and_sigusr1_tells_the_status() {
    let d = TestDrive::with("commit=3600");
    fs::write(d.mnt.join("file"), "x").unwrap();
    let version = status(&d)["version"].as_u64().unwrap();
    fs::rename(d.state.join("log"), d.state.join("log.1")).unwrap();
    signal(d.pid(), libc::SIGHUP);
    wait_until("it commits", || status(&d)["version"].as_u64() == Some(version + 1));
    assert!(log(&d).contains("hung up"), "{}", log(&d));
    let moved = fs::metadata(d.state.join("log.1")).unwrap().len();
    signal(d.pid(), libc::SIGUSR1);
    wait_until("the status is in the log", || log(&d).contains("\"journal_bytes\""));
    assert_eq!(fs::metadata(d.state.join("log.1")).unwrap().len(), moved);
    // Callers who hang up while they are answered.
    for _ in 0..20 {
        let mut caller = UnixStream::connect(d.state.join("control")).unwrap();
        caller.write_all(b"{\"cat\":{\"path\":\"file\",\"at\":null}}\n").unwrap();
    }
    signal(d.pid(), libc::SIGPIPE);
    assert_eq!(fs::read_to_string(d.mnt.join("file")).unwrap(), "x");
}

/// What the doctor says: exit status, and each finding of the drive (or else of the machine) by its name.
fn doctor(command: &mut Command) -> (i32, BTreeMap<String, (String, String)>) {
    let output = command.arg("--json").stdin(Stdio::null()).output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    let mut found = BTreeMap::new();
    for finding in said["parts"].as_array().unwrap().iter().flat_map(|p| p["findings"].as_array().unwrap()) {
        let (state, todo) = (finding["state"].as_str().unwrap(), finding["do"].as_str().unwrap_or_default());
        assert_eq!(!todo.is_empty(), ["warn", "fail"].contains(&state), "{finding}");
        let text = format!("{} | {todo}", finding["what"].as_str().unwrap());
        found.insert(finding["check"].as_str().unwrap().to_owned(), (state.to_owned(), text));
    }
    let fails = found.values().filter(|(state, _)| state == "fail").count();
    assert_eq!(said["ok"], fails == 0);
    assert_eq!(output.status.code(), Some(if fails == 0 { 0 } else { 1 }), "{output:?}");
    (output.status.code().unwrap(), found)
}

#[track_caller]
fn finds(found: &BTreeMap<String, (String, String)>, check: &str, state: &str, word: &str) {
    let (is, text) = found.get(check).unwrap_or_else(|| panic!("no {check} in {found:?}"));
    assert!(is == state && text.contains(word), "{check}: {is}: {text}");
}

#[test]
fn the_doctor_finds_a_drive_well_and_says_so_in_lines() {
    let mut d = TestDrive::new();
    let (_, found) = doctor(d.nacrefs(&["doctor"]).arg(&d.mnt));
    for check in
        ["fuse", "allow_other", "mount", "online", "journal", "writers", "commits", "last error", "version"]
    {
        finds(&found, check, "ok", "");
    }
    for check in ["state", "lock", "control", "reach", "store", "store write", "key", "clock"] {
        finds(&found, check, "ok", "");
    }
    assert!(found.len() >= 22, "{}", found.len());
    let text = out(&d.nacrefs(&["doctor"]).arg(&d.mnt).output().unwrap());
    assert!(text.lines().any(|l| l.starts_with("ok    store ")), "{text}");
    // Where the key is, the daemon says. Without a secret what is sealed is not looked at, and nobody is asked.
    let bare = |d: &TestDrive| {
        let mut c = Command::new(NACREFS);
        doctor(c.arg("doctor").arg(&d.store).env("NACREFS_STATE_DIR", &d.state)).1
    };
    finds(&bare(&d), "key", "ok", "opens the drive");
    d.umount();
    finds(&bare(&d), "key", "skip", "--key-file");
}

#[test]
fn the_doctor_finds_what_is_wrong_with_key_and_store() {
    let mut d = TestDrive::new();
    let wrong = d.dir().join("wrong");
    fs::write(&wrong, "f".repeat(64) + "\n").unwrap();
    fs::set_permissions(&wrong, fs::Permissions::from_mode(0o644)).unwrap();
    let mut c = Command::new(NACREFS);
    c.arg("doctor").arg(&d.mnt).arg("--key-file").arg(&wrong);
    let (exit, found) = doctor(&mut c);
    assert_eq!(exit, 1);
    finds(&found, "key", "fail", "right passphrase or key file");
    finds(&found, "key file", "fail", "chmod 600");

    let away = Away::take(&d);
    fs::write(d.mnt.join("file"), "x").unwrap();
    assert_eq!(on_mount(&d, &["sync"]).status.code(), Some(4));
    let (exit, found) = doctor(d.nacrefs(&["doctor"]).arg(&d.mnt));
    assert_eq!(exit, 1);
    finds(&found, "online", "fail", "wait in the journal");
    finds(&found, "last error", "fail", "gone");
    finds(&found, "reach", "fail", "out of reach");
    away.back();
    d.umount();
    let plain = d.dir().join("plain");
    fs::create_dir(&plain).unwrap();
    let (exit, found) = doctor(d.nacrefs(&["doctor"]).arg(&plain));
    assert_eq!(exit, 1);
    finds(&found, "store", "fail", "nacrefs init");
    // Another drive, with this one's state directory.
    let mut other = TestDrive::unmounted("commit=3600");
    other.state = d.state.clone();
    let (exit, found) = doctor(other.nacrefs(&["doctor"]).arg(&other.store));
    assert_eq!(exit, 1);
    finds(&found, "state", "fail", "--state-dir");
    // A drive of a later version.
    let at = d.store.join("nacre.json");
    let text = fs::read_to_string(&at).unwrap();
    let later = text.replacen("\"format\":1", "\"format\":99", 1);
    assert_ne!(text, later, "{text}");
    fs::write(&at, later).unwrap();
    finds(&doctor(d.nacrefs(&["doctor"]).arg(&d.store)).1, "store", "fail", "");
    fs::write(&at, text).unwrap();
    finds(&doctor(d.nacrefs(&["doctor"]).arg(&d.store)).1, "key", "ok", "opens the drive");
}

#[test]
fn the_doctor_finds_dead_mounts_and_held_state() {
    let mut d = TestDrive::with("commit=3600");
    signal(d.pid(), libc::SIGKILL);
    wait_until("the daemon is gone", || fs::metadata(&d.mnt).is_err());
    let (exit, found) = doctor(d.nacrefs(&["doctor"]).arg(&d.mnt));
    assert_eq!(exit, 1);
    finds(&found, "mount", "fail", "lost its daemon");
    finds(&found, "lock", "warn", "nobody holds");
    finds(&found, "control", "ok", "a dead daemon has left its socket");
    d.kill_is_done();

    let lock = fs::File::options().write(true).open(d.state.join("lock")).unwrap();
    lock.lock().unwrap();
    let (_, found) = doctor(d.nacrefs(&["doctor"]).arg(&d.store));
    finds(&found, "lock", "warn", &format!("process {}", std::process::id()));
    drop(lock);
    fs::set_permissions(&d.state, fs::Permissions::from_mode(0o755)).unwrap();
    finds(&doctor(d.nacrefs(&["doctor"]).arg(&d.store)).1, "state", "fail", "chmod 700");
}

/// Its advice, followed, unmounted a drive that was well.
#[test]
fn the_doctor_of_a_store_finds_its_mount_and_tells_nobody_to_kill_a_drive_that_is_in_use() {
    let mut d = TestDrive::with("commit=3600");
    let look = |d: &TestDrive| doctor(d.nacrefs(&["doctor"]).arg(&d.store)).1;
    let all = |found: &BTreeMap<String, (String, String)>| format!("{found:?}");
    let found = look(&d);
    finds(&found, "mount", "ok", "answers");
    finds(&found, "lock", "ok", &format!("process {}", d.pid()));
    assert!(!all(&found).contains("kill"), "{found:?}");

    // By a name under which it was not mounted: the one who holds its state says where it is.
    let link = d.dir().join("link");
    fs::rename(&d.store, &link).unwrap();
    let found = doctor(d.nacrefs(&["doctor"]).arg(&link)).1;
    finds(&found, "lock", "ok", &format!("serves {}", d.mnt.display()));
    assert!(!all(&found).contains("kill"), "{found:?}");
    fs::rename(&link, &d.store).unwrap();

    let open = fs::File::create(d.mnt.join("open")).unwrap();
    ok(Command::new(common::NACREFS).args(["umount", "--lazy"]).arg(&d.mnt).output());
    let found = look(&d);
    finds(&found, "lock", "warn", "umount -l");
    finds(&found, "lock", "warn", "leave it alone");
    assert!(!all(&found).contains("kill"), "{found:?}");
    drop(open);
    wait_until("the daemon has ended", || !d.state.join("control").exists());
    d.kill_is_done();
}

#[test]
fn the_doctor_finds_full_disks_memory_for_a_disk_and_a_machine_without_fuse() {
    let mut d = TestDrive::unmounted("commit=1");
    fs::create_dir(&d.state).unwrap();
    fs::set_permissions(&d.state, fs::Permissions::from_mode(0o700)).unwrap();
    ok(Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=32m,mode=700", "tmpfs"])
        .arg(&d.state)
        .output());
    d.mount();
    let (exit, found) = doctor(d.nacrefs(&["doctor"]).arg(&d.mnt));
    assert_eq!(exit, 1);
    finds(&found, "state disk", "fail", "make room");
    finds(&found, "state kind", "fail", "in memory");
    finds(&found, "disks", "ok", "another disk");
    d.umount();
    ok(Command::new("umount").arg(&d.state).output());

    // /dev of a machine that has none of it.
    let mut c = Command::new("unshare");
    c.args(["-m", "sh", "-c", "mount -t tmpfs none /dev && exec \"$0\" doctor \"$@\"", NACREFS])
        .arg(&d.store);
    finds(&doctor(&mut c).1, "fuse", "fail", "modprobe fuse");
    let mut c = Command::new("unshare");
    c.args([
        "-m",
        "sh",
        "-c",
        "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && exec \"$0\" doctor \"$@\"",
    ]);
    c.arg(NACREFS).arg(&d.store);
    finds(&doctor(&mut c).1, "store write", "fail", "read-only");
    let mut c = Command::new("prlimit");
    c.args(["--nofile=256", NACREFS, "doctor"]).arg(&d.store);
    finds(&doctor(&mut c).1, "open files", "warn", "256");
}

/// The doctor looked at the drive around it, and found a key wrong that was right.
#[test]
fn the_doctor_of_a_store_inside_another_drive_looks_at_that_one() {
    let d = TestDrive::new();
    let (store, key) = (d.mnt.join("store"), d.dir().join("inner-key"));
    let inner = |line: &[&str]| {
        let mut c = Command::new(NACREFS);
        c.args(line).arg(&store).arg("--key-file").arg(&key).stdin(Stdio::null());
        ok(c.env("NACREFS_STATE_DIR", d.dir().join("inner-state")).output())
    };
    inner(&["init"]);
    let out = inner(&["doctor"]);
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(said.contains(&format!("file://{}", store.display())), "{said}");
    let out = ok(d.nacrefs(&["doctor"]).arg(&d.mnt).output());
    assert!(String::from_utf8_lossy(&out.stdout).contains(d.mnt.to_str().unwrap()));
}
