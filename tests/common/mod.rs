//! A drive of its own for each test: a store, a state directory, a key file and a mount point in a temporary
//! directory, mounted for real with the built binary.
#![allow(dead_code)]

pub mod terminal;
pub mod tree;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub const NACREFS: &str = env!("CARGO_BIN_EXE_nacrefs");

/// Whether to run at the promised size (`tests/run --full`); else at one that a test run has time for.
pub fn full() -> bool {
    std::env::var_os("NACREFS_TEST_FULL").is_some_and(|v| !v.is_empty())
}

/// Waits until something holds, for far longer than it takes on the slowest machine.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(90), "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub struct TestDrive {
    dir: TempDir,
    pub mnt: PathBuf,
    pub store: PathBuf,
    pub state: PathBuf,
    pub key: PathBuf,
    options: String,
    mounted: bool,
}

impl TestDrive {
    /// A new drive, mounted.
    pub fn new() -> TestDrive {
        TestDrive::with("commit=1")
    }

    /// A new drive, mounted with options.
    pub fn with(options: &str) -> TestDrive {
        let mut d = TestDrive::unmounted(options);
        d.mount();
        d
    }

    /// A new drive, made but not mounted.
    pub fn unmounted(options: &str) -> TestDrive {
        let dir = tempfile::Builder::new().prefix("nacre-test-").tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let d = TestDrive {
            mnt: path("mnt"),
            store: path("store"),
            state: path("state"),
            key: path("key"),
            options: options.into(),
            mounted: false,
            dir,
        };
        std::fs::create_dir(&d.mnt).unwrap();
        private_file(&d.key, &("0123456789abcdef".repeat(4) + "\n"));
        ok(d.nacrefs(&["init"]).arg(&d.store).output());
        d
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The command, with this drive's key and state directory.
    pub fn nacrefs(&self, args: &[&str]) -> Command {
        let mut c = Command::new(NACREFS);
        c.args(args).stdin(Stdio::null());
        c.env("NACREFS_STATE_DIR", &self.state).env_remove("NACREFS_PASSPHRASE").env_remove("NACREFS_LOG");
        c.arg("--key-file").arg(&self.key);
        c
    }

    pub fn mount_command(&self) -> Command {
        let mut c = self.nacrefs(&["mount"]);
        c.arg(&self.store).arg(&self.mnt).arg("-o").arg(&self.options);
        c
    }

    pub fn mount(&mut self) {
        ok(self.mount_command().output());
        self.mounted = true;
    }

    /// Mounts with other options; the mount may be refused.
    pub fn try_mount(&mut self, options: &str) -> Output {
        let mut c = self.nacrefs(&["mount"]);
        let out = c.arg(&self.store).arg(&self.mnt).arg("-o").arg(options).output().unwrap();
        self.mounted |= out.status.success();
        out
    }

    pub fn umount(&mut self) {
        // Another test's child may hold a descriptor of this mount for an instant, between fork and exec.
        let until = Instant::now() + Duration::from_secs(60);
        let busy = |out: &std::io::Result<Output>| out.as_ref().is_ok_and(|o| o.status.code() == Some(6));
        loop {
            let out = Command::new(NACREFS).arg("umount").arg(&self.mnt).output();
            if !busy(&out) || Instant::now() > until {
                ok(out);
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.mounted = false;
    }

    pub fn remount(&mut self) {
        self.umount();
        self.mount();
    }

    /// Unmounts, deletes the state directory, and mounts again: from store and key alone.
    pub fn move_to_a_new_machine(&mut self) {
        self.umount();
        std::fs::remove_dir_all(&self.state).unwrap();
        self.mount();
    }

    /// The same drive on another machine: a state directory and a mount point of its own.
    pub fn other_machine(&self) -> TestDrive {
        let dir = tempfile::Builder::new().prefix("nacre-test-").tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let mut other = TestDrive {
            mnt: path("mnt"),
            store: self.store.clone(),
            state: path("state"),
            key: self.key.clone(),
            options: self.options.clone(),
            mounted: false,
            dir,
        };
        std::fs::create_dir(&other.mnt).unwrap();
        other.mount();
        other
    }

    /// Unmounts, and leaves what is not committed in the journal.
    pub fn umount_local(&mut self) {
        ok(Command::new(NACREFS).args(["umount", "--local"]).arg(&self.mnt).output());
        self.mounted = false;
    }

    /// The process that serves the mount.
    pub fn pid(&self) -> i32 {
        self.find_pid().unwrap_or_else(|| panic!("nobody serves {}", self.mnt.display()))
    }

    fn find_pid(&self) -> Option<i32> {
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|s| s.parse::<i32>().ok()) else { continue };
            let Ok(args) = std::fs::read(entry.path().join("cmdline")) else { continue };
            let has = |what: &Path| {
                use std::os::unix::ffi::OsStrExt;
                args.split(|b| *b == 0).any(|a| a == what.as_os_str().as_bytes())
            };
            if args.split(|b| *b == 0).any(|a| a == b"mount") && has(&self.mnt) {
                return Some(pid);
            }
        }
        None
    }

    /// Kills the daemon outright and clears the dead mount.
    pub fn kill(&mut self) {
        let pid = self.pid();
        unsafe { libc::kill(pid, libc::SIGKILL) };
        self.await_end(pid);
    }

    /// After somebody has killed the daemon: waits for its end, and clears the dead mount.
    pub fn kill_is_done(&mut self) {
        let pid = self.find_pid();
        if let Some(pid) = pid {
            self.await_end(pid);
        } else {
            self.clear();
        }
    }

    fn await_end(&mut self, pid: i32) {
        let until = Instant::now() + Duration::from_secs(60);
        while Path::new(&format!("/proc/{pid}/stat")).exists() && !zombie(pid) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.clear();
    }

    fn clear(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.mnt).stderr(Stdio::null()).status();
        self.mounted = false;
    }

    /// Runs a shell script inside the drive; panics with its output where it fails.
    pub fn sh(&self, script: &str) -> String {
        self.sh_in(&self.mnt, script)
    }

    pub fn sh_in(&self, dir: &Path, script: &str) -> String {
        let mut c = Command::new("bash");
        c.args(["-euo", "pipefail", "-c", script]).current_dir(dir).stdin(Stdio::null());
        c.env("HOME", self.dir.path()).env("T", self.dir.path()).env("MNT", &self.mnt).env("LC_ALL", "C");
        let out = c.output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(
            out.status.success(),
            "script failed ({}):\n{script}\n--- stdout\n{text}\n--- stderr\n{}",
            out.status,
            String::from_utf8_lossy(&out.stderr)
        );
        text
    }

    /// Bytes of all objects in the store.
    pub fn store_bytes(&self) -> u64 {
        self.store_bytes_below(&self.store)
    }

    /// Bytes of all files below a directory.
    pub fn store_bytes_below(&self, dir: &Path) -> u64 {
        fn walk(dir: &Path) -> u64 {
            std::fs::read_dir(dir)
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| match e.metadata() {
                    Ok(m) if m.is_dir() => walk(&e.path()),
                    Ok(m) => m.len(),
                    Err(_) => 0,
                })
                .sum()
        }
        walk(dir)
    }

    /// Waits until everything written so far is in the store.
    pub fn sync(&self) {
        ok(Command::new(NACREFS).arg("sync").arg(&self.mnt).output());
    }
}

impl Drop for TestDrive {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The daemon's own words help most.
            for log in std::fs::read_dir(&self.state).into_iter().flatten().flatten() {
                if log.file_name() == "log" {
                    eprintln!(
                        "--- {}\n{}",
                        log.path().display(),
                        std::fs::read_to_string(log.path()).unwrap_or_default()
                    );
                }
            }
        }
        // Also what a test has mounted by other commands than these.
        let here = self.mnt.to_str().unwrap_or_default();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        if self.mounted || mounts.split(' ').any(|field| field == here) {
            let done = Command::new(NACREFS).arg("umount").arg(&self.mnt).output();
            if !done.is_ok_and(|o| o.status.success()) {
                self.clear();
            }
        }
    }
}

/// Whether nothing is left of a process but its end to be heard of: while one of its threads is still dying, it
/// holds its locks.
fn zombie(pid: i32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, |tasks| tasks.count());
    threads <= 1
        && std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|s| s.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')))
}

/// Writes a file that only its owner may read, as a secret should be.
pub fn private_file(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// The output of a command that must succeed.
pub fn ok(output: std::io::Result<Output>) -> Output {
    let output = output.unwrap();
    assert!(
        output.status.success(),
        "{}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Bytes that nobody can compress.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend_from_slice(&x.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    out.truncate(len);
    out
}
