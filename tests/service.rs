//! What those see who keep a daemon going: a service manager, and the supervisor of `-o restart=on`. How this
//! works out under a real systemd, tests/boot shows.

mod common;

use common::{TestDrive, ok, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

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
        wait_until("mounted again", || {
            fs::read_to_string(d.mnt.join(format!("f{round}"))).is_ok_and(|t| t == format!("{round}\n"))
        });
        assert_ne!(processes(&d).0, Some(daemon));
    }
    assert!(
        fs::read_to_string(d.state.join("log")).unwrap().contains("mounting again: the daemon before this")
    );
    d.umount();
    wait_until("nobody is left", || processes(&d) == (None, None));
    assert_eq!(fs::read_dir(&d.mnt).unwrap().count(), 0, "it is not mounted again");
}

#[test]
fn a_supervised_daemon_that_is_told_to_end_or_cannot_start_is_let_go() {
    let mut d = TestDrive::unmounted("");
    ok(Ok(d.try_mount("restart=on")));
    kill_process(processes(&d).0.unwrap(), Signal::TERM).unwrap();
    wait_until("nobody is left", || processes(&d) == (None, None));
    assert_eq!(fs::read_dir(&d.mnt).unwrap().count(), 0);
    d.kill_is_done();

    fs::write(&d.key, "f".repeat(64) + "\n").unwrap();
    let refused = d.try_mount("restart=on");
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    wait_until("nobody is left", || processes(&d) == (None, None));
}

#[test]
fn a_supervisor_ignores_a_hangup_and_does_not_go_without_a_word() {
    let mut d = TestDrive::unmounted("");
    ok(Ok(d.try_mount("restart=on")));
    let guarded = |d: &TestDrive| {
        let status = Command::new(common::NACREFS).args(["status", "--json"]).arg(&d.mnt).output().unwrap();
        let text = String::from_utf8(status.stdout).unwrap();
        (text.contains("\"guarded\":true"), text.contains("\"guarded\":false"))
    };
    let supervisor = processes(&d).1.unwrap();
    kill_process(supervisor, Signal::HUP).unwrap();
    kill_process(processes(&d).0.unwrap(), Signal::KILL).unwrap();
    wait_until("mounted again after a hangup", || is_mounted(&d));
    wait_until("guarded", || processes(&d).0.is_some() && guarded(&d) == (true, false));
    assert_eq!(processes(&d).1, Some(supervisor));

    kill_process(supervisor, Signal::TERM).unwrap();
    wait_until("the supervisor has ended", || processes(&d).1.is_none());
    assert!(log(&d).contains("the supervisor was told to end"), "{}", log(&d));
    assert_eq!(guarded(&d), (false, true));
    let found = d.nacrefs(&["doctor"]).arg(&d.mnt).output().unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    assert!(found.contains("warn  restart") && found.contains("supervisor is gone"), "{found}");
    d.umount();
    wait_until("nobody is left", || processes(&d) == (None, None));
}

fn is_mounted(d: &TestDrive) -> bool {
    fs::read_to_string("/proc/self/mountinfo").unwrap().contains(d.mnt.to_str().unwrap())
}

fn log(d: &TestDrive) -> String {
    fs::read_to_string(d.state.join("log")).unwrap_or_default()
}

/// Kills the daemon of a supervised drive whose store is away; returns when it is dead, and tried again.
fn kill_without_store(d: &TestDrive) {
    fs::rename(&d.store, d.dir().join("away")).unwrap();
    kill_process(processes(d).0.unwrap(), Signal::KILL).unwrap();
    wait_until("a failed try", || log(d).contains("cannot mount again"));
    assert!(is_mounted(d), "the dead mount keeps everybody out");
}

/// The supervisor used to mount again what somebody had unmounted.
#[test]
fn a_dead_drive_that_is_unmounted_stays_so() {
    let mut d = TestDrive::unmounted("");
    ok(Ok(d.try_mount("restart=on")));
    kill_without_store(&d);
    d.umount();
    fs::rename(d.dir().join("away"), &d.store).unwrap();
    wait_until("nobody is left", || {
        assert!(!is_mounted(&d));
        processes(&d) == (None, None)
    });
    assert!(log(&d).contains("is not mounted again: it was unmounted"), "{}", log(&d));
}

#[test]
fn a_drive_that_is_mounted_by_hand_while_the_supervisor_sleeps_is_left_alone() {
    let mut d = TestDrive::unmounted("");
    ok(Ok(d.try_mount("restart=on")));
    kill_without_store(&d);
    // So long a sleep that there is time for the rest.
    wait_until("the third try", || processes(&d).0.is_none() && log(&d).lines().count() > 0);
    fs::rename(d.dir().join("away"), &d.store).unwrap();
    // The supervisor may be faster.
    let by_hand = d.try_mount("");
    d.umount();
    wait_until("nobody is left", || {
        assert!(!is_mounted(&d), "{by_hand:?}");
        processes(&d) == (None, None)
    });
}

/// The key that the supervisor had kept opened nothing any more, and nobody was told.
#[test]
fn a_supervised_drive_comes_back_with_a_key_that_was_changed() {
    let mut d = TestDrive::unmounted("");
    ok(Ok(d.try_mount("restart=on")));
    let new = d.dir().join("new");
    let change = |c: &mut Command| ok(c.arg("--new-key-file").arg(&new).arg(&d.store).output());
    change(&mut d.nacrefs(&["key", "change"]));
    fs::rename(&new, &d.key).unwrap();
    d.sh("echo 1 >f; sync f");
    let daemon = processes(&d).0.unwrap();
    kill_process(daemon, Signal::KILL).unwrap();
    wait_until("mounted again", || fs::read_to_string(d.mnt.join("f")).is_ok_and(|t| t == "1\n"));
    // While it is not there, it is waited for; one that opens nothing ends it, and the log says so.
    fs::rename(&d.key, d.dir().join("aside")).unwrap();
    kill_process(processes(&d).0.unwrap(), Signal::KILL).unwrap();
    wait_until("a failed try", || log(&d).contains("the drive's secret is not at hand"));
    common::private_file(&d.key, &("f".repeat(64) + "\n"));
    wait_until("nobody is left", || processes(&d) == (None, None));
    assert!(log(&d).contains("is not mounted again: "), "{}", log(&d));
    fs::rename(d.dir().join("aside"), &d.key).unwrap();
    d.mount();
}

#[test]
fn a_supervised_drive_that_was_remounted_read_only_comes_back_so_and_stores_what_was_written() {
    let mut d = TestDrive::unmounted("");
    ok(Ok(d.try_mount("commit=600,restart=on")));
    d.sh("echo 1 >f");
    let remount = |d: &TestDrive, options: &str| {
        let mut c = d.nacrefs(&["mount", "-o", options]);
        ok(c.arg(&d.store).arg(&d.mnt).output());
    };
    remount(&d, "remount,ro,noexec");
    kill_process(processes(&d).0.unwrap(), Signal::KILL).unwrap();
    wait_until("mounted again", || fs::read_to_string(d.mnt.join("f")).is_ok());
    let info = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = info.lines().find(|l| l.contains(d.mnt.to_str().unwrap())).unwrap();
    assert!(line.contains(" ro,") && line.contains("noexec"), "{line}");
    assert!(fs::write(d.mnt.join("g"), "").is_err_and(|e| e.raw_os_error() == Some(30)));
    remount(&d, "remount,rw");
    d.sh("echo 2 >g");
    d.move_to_a_new_machine();
    assert_eq!(d.sh("cat f g"), "1\n2\n");
}

/// The default drive, which the first mount makes, used to be made again by the next daemon, which failed.
#[test]
fn a_default_drive_that_was_made_by_its_first_mount_is_mounted_again() {
    let d = TestDrive::unmounted("");
    let home = d.dir().join("home");
    fs::create_dir(&home).unwrap();
    let command = |line: &[&str]| {
        let mut c = Command::new(common::NACREFS);
        c.args(line).arg(&d.mnt).env_remove("NACREFS_STATE_DIR").stdin(Stdio::null());
        // Root's own default drive is not a test's to make.
        for name in ["XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "HOME"] {
            c.env(name, &home);
        }
        c
    };
    if rustix::process::geteuid().is_root() {
        use std::os::unix::process::CommandExt;
        ok(Command::new("chown").arg("-R").arg("65534:65534").arg(d.dir()).output());
        ok(command(&["mount", "-o", "restart=on"]).uid(65534).gid(65534).output());
    } else {
        ok(command(&["mount", "-o", "restart=on"]).output());
    }
    let daemon = processes(&d).0.unwrap();
    kill_process(daemon, Signal::KILL).unwrap();
    wait_until("mounted again", || {
        let is_new = processes(&d).0.is_some_and(|pid| pid != daemon);
        is_new && command(&["status"]).output().unwrap().status.success()
    });
    ok(command(&["umount"]).output());
}

/// The mount used to be taken for alive for as long as the kernel kept its root's attributes: an hour.
#[test]
fn a_dead_mount_is_known_as_dead_while_the_kernel_still_has_its_attributes() {
    let mut d = TestDrive::new();
    fs::metadata(&d.mnt).unwrap();
    kill_process(Pid::from_raw(d.pid()).unwrap(), Signal::KILL).unwrap();
    wait_until("dead", || rustix::fs::statfs(&d.mnt).is_err_and(|e| e == rustix::io::Errno::NOTCONN));
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
