//! Mounts from the command to the kernel and back, over a drive that is empty and only pretends.
//!
//! The test binary runs itself: [`command_line`] is the `nacrefs` of these tests.

#![allow(clippy::unwrap_used)]

use nacrefs::cli::backend::{
    Backend, CheckOptions, CheckReport, Closed, Created, InitOptions, MountRequest, Phase, Running,
};
use nacrefs::cli::control::{Handler, LogEntry, Progress, Reply, Request, Status};
use nacrefs::cli::secrets::Given;
use nacrefs::cli::values::Moment;
use nacrefs::cli::{CONTROL_XATTR, FS_TYPE, run};
use nacrefs::error::{Error, Kind, Result};
use nacrefs::session::Site;
use nacrefs::types::{DriveId, Time};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::mount::{MountFlags, UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};

struct FakeBackend;

/// Between the words of a command line in an environment variable (US in ASCII).
const SEPARATOR: u8 = 0x1f;

impl Backend for FakeBackend {
    fn init(&self, store: &str, _: &Given, options: &InitOptions) -> Result<Created> {
        let code = options.recovery_code.then(|| "words to keep".to_owned().into());
        fs::create_dir_all(store.trim_start_matches("file://")).unwrap();
        fs::write(Path::new(store.trim_start_matches("file://")).join("nacre.json"), "").unwrap();
        Ok(Created { drive: DriveId([7; 16]), recovery_code: code })
    }

    fn drive_id(&self, _: &str) -> Result<DriveId> {
        Ok(DriveId([7; 16]))
    }

    fn mount(&self, request: MountRequest) -> Result<Arc<dyn Running>> {
        let Given::KeyFile(key) = &request.secret else {
            return Err(Error::new(Kind::Secret, "no slot opens with this passphrase"));
        };
        assert_eq!(key.0, [0x11; 32]);
        if request.store.ends_with("panics") {
            panic!("the drive's own fault");
        }
        let lock = File::create(request.state_dir.join("lock")).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| Error::new(Kind::Conflict, "the state directory is in use"))?;
        let ground = nacrefs::cli::Ground::prepare(&request.dir, &request.store, None)?;
        if ground.dead().is_some() {
            rustix::mount::unmount(&request.dir, rustix::mount::UnmountFlags::DETACH).unwrap();
        }
        let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let options =
            format!("fd={},rootmode=40000,user_id=0,group_id=0,default_permissions", device.as_raw_fd());
        let options = CString::new(options).unwrap();
        rustix::mount::mount(request.source.as_str(), &request.dir, FS_TYPE, MountFlags::empty(), &*options)
            .unwrap();
        let fs = Empty { control: request.control.as_os_str().as_bytes().to_vec() };
        let session = fuser::Session::from_fd(fs, device, fuser::SessionACL::All, fuser::Config::default())?;
        let serving = Mutex::new(Some(std::thread::spawn(move || session.run())));
        let (dir, state_dir) = (request.dir, request.state_dir);
        Ok(Arc::new(FakeDrive { serving, dir, state_dir, _lock: lock }))
    }

    fn answer(&self, _: &Closed, request: Request, out: &mut dyn Reply) -> Result<()> {
        FakeHandler { state_dir: "/none".into() }.handle(request, out)
    }

    fn check(
        &self,
        _: &Closed,
        _: &CheckOptions,
        _: &mut dyn FnMut(&Progress) -> Result<()>,
    ) -> Result<CheckReport> {
        Ok(CheckReport::default())
    }

    fn weak_slots(&self, _: &str) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn unlock(&self, _: &Closed) -> Result<Site> {
        Err(Error::failed("this drive has no store"))
    }
}

struct FakeDrive {
    serving: Mutex<Option<std::thread::JoinHandle<std::io::Result<()>>>>,
    dir: PathBuf,
    state_dir: PathBuf,
    _lock: File,
}

impl Running for FakeDrive {
    fn handler(&self) -> Arc<dyn Handler> {
        Arc::new(FakeHandler { state_dir: self.state_dir.clone() })
    }

    fn wait(&self) -> Result<()> {
        self.serving.lock().unwrap().take().unwrap().join().unwrap()?;
        // A commit at the end takes its time; umount must wait for it.
        std::thread::sleep(Duration::from_millis(200));
        Ok(())
    }

    fn phase(&self) -> Phase {
        Phase::Serving
    }

    fn check_threads(&self) -> Result<()> {
        Ok(())
    }

    fn stop(&self) {
        unmount(&self.dir, UnmountFlags::DETACH).unwrap();
    }
}

struct FakeHandler {
    state_dir: PathBuf,
}

impl Handler for FakeHandler {
    fn handle(&self, request: Request, out: &mut dyn Reply) -> Result<()> {
        match request {
            Request::Status {} => out.status(&Status {
                drive: "07".into(),
                store: "file:///s".into(),
                mount: None,
                version: 5,
                last_commit: None,
                dirty_bytes: std::process::id().into(),
                journal_bytes: 0,
                cache_bytes: 0,
                online: true,
                last_error: None,
                ..Status::default()
            }),
            Request::LogLevel { .. } => out.log_level("info"),
            Request::Sync {} | Request::Commit {} => out.version(5),
            Request::Umount { local } if !local && self.state_dir.join("away").exists() => {
                Err(Error::new(Kind::Away, "no route to host"))
            }
            Request::Umount { .. } => {
                out.progress(&Progress { what: "uploading".into(), done: 1, total: None, counted: false })
            }
            Request::Remount { .. } => Ok(()),
            Request::Log { path } => out.entry(&LogEntry {
                version: 5,
                time: Moment(Time { sec: 0, nsec: 0 }),
                device: "d".into(),
                change: "changed".into(),
                path,
                size: None,
            }),
            Request::Cat { path, at } => out.data(format!("{path} at {at:?}").as_bytes()),
        }
    }
}

/// A file system of one empty directory.
struct Empty {
    control: Vec<u8>,
}

impl fuser::Filesystem for Empty {
    fn getattr(
        &self,
        _: &fuser::Request,
        _: fuser::INodeNo,
        _: Option<fuser::FileHandle>,
        reply: fuser::ReplyAttr,
    ) {
        let attr = fuser::FileAttr {
            ino: fuser::INodeNo::ROOT,
            size: 0,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: fuser::FileType::Directory,
            perm: 0o755,
            nlink: 2,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        reply.attr(&Duration::ZERO, &attr);
    }

    fn lookup(&self, _: &fuser::Request, _: fuser::INodeNo, _: &OsStr, reply: fuser::ReplyEntry) {
        reply.error(fuser::Errno::ENOENT);
    }

    fn getxattr(
        &self,
        _: &fuser::Request,
        _: fuser::INodeNo,
        name: &OsStr,
        _: u32,
        reply: fuser::ReplyXattr,
    ) {
        if name == CONTROL_XATTR { reply.data(&self.control) } else { reply.error(fuser::Errno::NO_XATTR) }
    }
}

/// The `nacrefs` of these tests. On its own it does nothing.
#[test]
fn command_line() {
    let Some(line) = std::env::var_os("NACREFS_TEST_LINE") else { return };
    let line = line.as_bytes().split(|b| *b == SEPARATOR).map(|w| OsStr::from_bytes(w).to_owned());
    // SAFETY: the harness has a thread that only waits for this test. The child has this thread alone, as a
    // process that starts has, which is what `run` wants.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let status = run(&FakeBackend, [OsString::from("nacrefs")].into_iter().chain(line));
        std::process::exit(status.into());
    }
    let mut status = 0;
    // SAFETY: the child is ours, and `status` outlives the call.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    std::process::exit(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 255 });
}

struct World {
    dir: tempfile::TempDir,
}

impl World {
    /// `None` where this machine lets nobody mount.
    fn new() -> Option<World> {
        if !rustix::process::geteuid().is_root()
            || File::options().read(true).write(true).open("/dev/fuse").is_err()
        {
            eprintln!("not tested: mounting needs root and /dev/fuse");
            return None;
        }
        let world = World { dir: tempfile::tempdir().unwrap() };
        world.secret("key", &("11".repeat(32) + "\n"));
        fs::create_dir(world.path("mnt")).unwrap();
        Some(world)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file that only its owner may read: others are warned of.
    fn secret(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["command_line", "--exact", "--nocapture", "--quiet"])
            .env("NACREFS_TEST_LINE", line.join("\x1f"))
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, line: &[&str]) -> Output {
        self.command(line).output().unwrap()
    }

    /// Runs a command that must exit so; returns its standard output or its standard error.
    fn expect(&self, exit: i32, line: &[&str]) -> String {
        let out = self.run(line);
        let (said, failed) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
        assert_eq!(out.status.code(), Some(exit), "{line:?}: {said}{failed}");
        if exit == 0 { said } else { failed }
    }

    fn mount(&self) {
        let said = self.expect(0, &["mount", "store", "mnt", "--state-dir", "state", "--key-file", "key"]);
        assert!(
            said.contains("mounted on ") && said.contains("not protected if this disk is stolen"),
            "{said}"
        );
    }

    fn mounts(&self) -> usize {
        let point = self.path("mnt").canonicalize().unwrap_or(self.path("mnt"));
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
        text.lines().filter(|l| l.contains(" fuse.nacrefs ") && l.contains(point.to_str().unwrap())).count()
    }

    /// The daemon's process, which the fake tells as its dirty bytes.
    fn daemon(&self) -> Pid {
        let said = self.expect(0, &["status", "mnt", "--json"]);
        let json = said.lines().find(|l| l.starts_with('{')).unwrap();
        let status: serde_json::Value = serde_json::from_str(json).unwrap();
        Pid::from_raw(status["dirty_bytes"].as_i64().unwrap() as i32).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.daemon(), signal).unwrap();
    }

    fn lock_is_free(&self) -> bool {
        flock(File::open(self.path("state/lock")).unwrap(), FlockOperation::NonBlockingLockExclusive).is_ok()
    }

    fn wait_until(&self, what: impl Fn() -> bool) {
        let start = Instant::now();
        while !what() {
            assert!(start.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        while self.mounts() > 0 && unmount(self.path("mnt"), UnmountFlags::DETACH).is_ok() {}
    }
}

#[test]
fn a_mount_lives_in_the_background_until_it_is_unmounted() {
    let Some(w) = World::new() else { return };
    w.mount();
    assert_eq!(w.mounts(), 1);
    let mode = |name: &str| fs::metadata(w.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("state"), mode("state/control"), mode("state/log")), (0o700, 0o600, 0o600));
    let daemon = PathBuf::from(format!("/proc/{}", w.daemon().as_raw_nonzero()));
    assert_eq!(fs::read_link(daemon.join("cwd")).unwrap(), Path::new("/"));
    assert_eq!(fs::read_link(daemon.join("fd/1")).unwrap(), Path::new("/dev/null"));
    assert!(fs::read_link(daemon.join("fd/2")).unwrap().ends_with("state/log"));

    assert!(w.expect(6, &["mount", "store", "mnt", "--key-file", "key"]).contains("already"));
    assert!(w.expect(0, &["sync", "mnt"]).lines().any(|l| l == "5"));
    assert!(w.expect(0, &["status", "mnt"]).contains("last commit"));
    assert!(w.expect(0, &["log", "mnt/gone/a\nb", "--json"]).contains(r#""path":"gone/a\nb""#));
    assert!(w.expect(0, &["cat", "mnt/gone", "--at", "3"]).contains("gone at Some(Version(3))"));
    assert!(w.expect(0, &["cat", "--store", "store", "--key-file", "key", "/gone"]).contains("gone at None"));

    let mut inside = Command::new("sleep").arg("60").current_dir(w.path("mnt")).spawn().unwrap();
    assert!(w.expect(6, &["umount", "mnt"]).contains("in use"));
    inside.kill().unwrap();
    inside.wait().unwrap();

    fs::write(w.path("state/away"), "").unwrap();
    let said = w.expect(4, &["umount", "mnt"]);
    assert!(
        said.contains("still mounted") && said.contains("--local") && said.contains("no route"),
        "{said}"
    );
    assert_eq!(w.mounts(), 1);
    w.expect(0, &["umount", "mnt", "--local"]);
    assert_eq!(w.mounts(), 0);
    assert!(w.lock_is_free() && !w.path("state/control").exists());
    assert!(w.expect(7, &["umount", "mnt"]).contains("not a nacrefs mount"));
    w.mount();
    fs::remove_file(w.path("state/away")).unwrap();
    w.expect(0, &["umount", "mnt"]);
    assert!(w.lock_is_free());
}

#[test]
fn a_daemon_that_died_leaves_nothing_that_a_command_cannot_clear() {
    let Some(w) = World::new() else { return };
    for clear_by_mount in [true, false] {
        w.mount();
        w.signal(Signal::KILL);
        w.wait_until(|| fs::metadata(w.path("mnt")).is_err());
        for line in [&["status", "mnt"][..], &["sync", "mnt/some/file"]] {
            let said = w.expect(1, line);
            assert!(said.contains("lost its daemon") && said.contains("nacrefs umount"), "{said}");
        }
        if clear_by_mount {
            w.mount();
            assert_eq!(w.mounts(), 1);
        }
        w.expect(0, &["umount", "mnt"]);
        assert_eq!(w.mounts(), 0);
    }
}

#[test]
fn what_goes_wrong_before_the_mount_is_told_by_the_command() {
    let Some(w) = World::new() else { return };
    w.secret("pass", "wrong");
    let line = ["mount", "store", "mnt", "--state-dir", "state", "--passphrase-file", "pass"];
    let said = w.expect(3, &line);
    assert!(said.contains("nacrefs: no slot opens") && said.lines().count() == 1, "{said}");
    let said = w.expect(1, &["mount", "panics", "mnt", "--state-dir", "state", "--key-file", "key"]);
    assert!(said.contains("died before it was ready") && said.lines().count() == 1, "{said}");
    assert!(fs::read_to_string(w.path("state/log")).unwrap().contains("the drive's own fault"));
    let lock = File::create(w.path("state/lock")).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    w.expect(6, &["mount", "store", "mnt", "--state-dir", "state", "--key-file", "key"]);
    assert_eq!(w.mounts(), 0);
}

#[test]
fn a_service_stop_detaches() {
    let Some(w) = World::new() else { return };
    w.mount();
    let mut inside = Command::new("sleep").arg("60").current_dir(w.path("mnt")).spawn().unwrap();
    w.signal(Signal::TERM);
    w.wait_until(|| w.mounts() == 0);
    inside.kill().unwrap();
    inside.wait().unwrap();
    w.wait_until(|| w.lock_is_free());

    let line = ["mount", "-f", "store", "mnt", "--state-dir", "state", "--key-file", "key"];
    let mut foreground = w.command(&line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    w.wait_until(|| w.mounts() == 1 && w.path("state/control").exists());
    w.signal(Signal::INT);
    assert!(foreground.wait().unwrap().success());
    assert_eq!(w.mounts(), 0);
}
