//! What those see who keep a daemon going: a service manager, and the supervisor of `-o restart=on`. How this
//! works out under a real systemd, tests/boot shows.

mod common;

use common::{TestDrive, ok};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn within(time: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + time;
    while !holds() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The processes of a mount: the daemon has threads, its supervisor has one.
fn processes(d: &TestDrive) -> (Option<Pid>, Option<Pid>) {
    let mut found = (None, None);
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let (Some(pid), Ok(line)) = (
            entry.file_name().to_str().and_then(|s| s.parse().ok()),
            fs::read_to_string(entry.path().join("cmdline")),
        ) else {
            continue;
        };
        let tasks = fs::read_dir(entry.path().join("task")).map_or(0, Iterator::count);
        if line.split('\0').any(|a| a == "mount") && line.contains(d.mnt.to_str().unwrap()) {
            match tasks {
                0 => {}
                1 => found.1 = Pid::from_raw(pid),
                _ => found.0 = Pid::from_raw(pid),
            }
        }
    }
    found
}

#[test]
fn a_supervised_daemon_that_is_killed_is_mounted_again_with_what_was_fsynced() {
    let mut d = TestDrive::unmounted("commit=600");
    ok(Ok(d.try_mount("commit=600,restart=on")));
    for round in 0..2 {
        d.sh(&format!("echo {round} >f{round}; sync f{round}"));
        let (daemon, supervisor) = processes(&d);
        let daemon = daemon.unwrap();
        assert!(supervisor.is_some());
        kill_process(daemon, Signal::KILL).unwrap();
        within(Duration::from_secs(10), "mounted again", || {
            fs::read_to_string(d.mnt.join(format!("f{round}"))).is_ok_and(|t| t == format!("{round}\n"))
        });
        assert_ne!(processes(&d).0, Some(daemon));
    }
    assert!(
        fs::read_to_string(d.state.join("log")).unwrap().contains("mounting again: the daemon before this")
    );
    d.umount();
    within(Duration::from_secs(5), "nobody is left", || processes(&d) == (None, None));
    assert_eq!(fs::read_dir(&d.mnt).unwrap().count(), 0, "it is not mounted again");
}

#[test]
fn a_supervised_daemon_that_is_told_to_end_or_cannot_start_is_let_go() {
    let mut d = TestDrive::unmounted("");
    ok(Ok(d.try_mount("restart=on")));
    kill_process(processes(&d).0.unwrap(), Signal::TERM).unwrap();
    within(Duration::from_secs(10), "nobody is left", || processes(&d) == (None, None));
    assert_eq!(fs::read_dir(&d.mnt).unwrap().count(), 0);
    d.kill_is_done();

    fs::write(&d.key, "f".repeat(64) + "\n").unwrap();
    let refused = d.try_mount("restart=on");
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    within(Duration::from_secs(5), "nobody is left", || processes(&d) == (None, None));
}

/// The mount used to be taken for alive for as long as the kernel kept its root's attributes: an hour.
#[test]
fn a_dead_mount_is_known_as_dead_while_the_kernel_still_has_its_attributes() {
    let mut d = TestDrive::new();
    fs::metadata(&d.mnt).unwrap();
    kill_process(Pid::from_raw(d.pid()).unwrap(), Signal::KILL).unwrap();
    within(Duration::from_secs(5), "dead", || {
        rustix::fs::statfs(&d.mnt).is_err_and(|e| e == rustix::io::Errno::NOTCONN)
    });
    assert!(fs::metadata(&d.mnt).is_ok(), "the kernel answers from its cache");
    d.mount();
    d.sh("echo alive >f");
}

#[test]
fn a_service_manager_hears_when_the_drive_is_usable_and_when_it_ends() {
    let d = TestDrive::unmounted("commit=600");
    let path = d.dir().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let hear = || {
        let mut buf = [0; 4096];
        let n = manager.recv(&mut buf).expect("the daemon says nothing");
        String::from_utf8(buf[..n].to_vec()).unwrap()
    };
    let mut daemon = d.mount_command();
    daemon.arg("-f").env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "3000000").env_remove("WATCHDOG_PID");
    let mut daemon = daemon.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert!(hear().starts_with("STATUS=opening file://"));
    let mut said = String::new();
    while said != "READY=1" {
        said = hear();
    }
    // Usable at once: by root-owned bytes on a drive, not on the directory below.
    assert_eq!(rustix::fs::statfs(&d.mnt).unwrap().f_type, 0x65735546);
    fs::write(d.mnt.join("f"), vec![7; 1 << 20]).unwrap();
    let mut heard = Vec::new();
    while !(heard.iter().any(|l: &String| l.contains("not yet stored"))
        && heard.contains(&"WATCHDOG=1".into()))
    {
        heard.extend(hear().lines().map(str::to_owned));
    }
    ok(Command::new(common::NACREFS).arg("umount").arg(&d.mnt).output());
    assert!(daemon.wait().unwrap().success());
}
