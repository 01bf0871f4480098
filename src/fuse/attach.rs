//! Mounting proper: root asks the kernel, others ask fusermount3.
//!
//! fuser could do this, but fuser 0.18 unmounts whatever stands at the mount point when a session ends, also
//! where it was unmounted from outside and somebody else has mounted there since; and it lets nobody in but the
//! owner where `allow_other` is not given, which locks out the kernel's own write-back.

use super::beneath;
use crate::error::{Context, Error, Kind, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use std::ffi::{CString, OsStr};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The type of a mounted drive, as mount(8) shows it, is `fuse.` and this.
pub const SUBTYPE: &str = "nacrefs";

const DEVICE: &str = "/dev/fuse";
const HELPER: &str = "fusermount3";

/// Where fusermount3 is: first as `PATH` says, which may be empty at boot, then in the system's own places.
pub fn fusermount() -> PathBuf {
    fusermount_in(std::env::var_os("PATH").unwrap_or_default().as_os_str())
}

fn fusermount_in(path: &OsStr) -> PathBuf {
    let system = ["/usr/bin", "/bin", "/usr/local/bin"].map(PathBuf::from);
    // An empty part would mean the current directory.
    let given = std::env::split_paths(path).filter(|d| d.is_absolute());
    let found = given.chain(system).map(|d| d.join(HELPER)).find(|f| f.is_file());
    found.unwrap_or_else(|| HELPER.into())
}

/// What the kernel is told at the mount.
#[derive(Clone, Debug)]
pub(super) struct Attach {
    pub(super) source: String,
    pub(super) read_only: bool,
    pub(super) allow_other: bool,
    pub(super) suid: bool,
    pub(super) dev: bool,
    pub(super) exec: bool,
    pub(super) symfollow: bool,
    pub(super) noatime: bool,
    pub(super) nodiratime: bool,
    /// The kernel syncs a file after each write to it.
    pub(super) sync: bool,
}

impl Attach {
    /// Mounts at `dir` (absolute, without links), in the place of the dead mount there with the device `dead`, and
    /// returns the session's descriptor.
    pub(super) fn attach(&self, dir: &Path, dead: Option<&str>) -> Result<OwnedFd> {
        let result = match (rustix::process::geteuid().is_root(), dead) {
            (true, Some(dead)) => self.beneath(dir, dead),
            (true, None) => self.by_the_kernel(dir),
            // The helper mounts where it can look only, so the dead mount must go first.
            (false, Some(dead)) => {
                beneath::take_away(dir, dead).and_then(|()| self.by_helper(&fusermount(), dir))
            }
            (false, None) => self.by_helper(&fusermount(), dir),
        };
        result.context(|| format!("cannot mount at {}", dir.display()))
    }

    fn beneath(&self, dir: &Path, dead: &str) -> Result<OwnedFd> {
        let device = device()?;
        match beneath::make(self, &device) {
            Ok(mount) => beneath::put(&mount, dir, dead).map(|()| device),
            Err(e) => {
                tracing::debug!("mounts as older kernels do: {e}");
                // A descriptor serves one mount, and that one has perhaps been made.
                drop(device);
                beneath::take_away(dir, dead)?;
                self.by_the_kernel(dir)
            }
        }
    }

    fn by_the_kernel(&self, dir: &Path) -> Result<OwnedFd> {
        let device = device()?;
        let options: Vec<String> = self
            .kernel_options(device.as_raw_fd())
            .into_iter()
            .map(|(key, value)| value.map_or_else(|| key.to_owned(), |value| format!("{key}={value}")))
            .collect();
        let options =
            CString::new(options.join(",")).map_err(|_| Error::failed("a mount option holds a NUL"))?;
        let fs_type = format!("fuse.{SUBTYPE}");
        match rustix::mount::mount(&*self.source, dir, &*fs_type, self.kernel_flags(), &*options) {
            Ok(()) => Ok(device),
            Err(e) => {
                let message = match e {
                    Errno::PERM => "the kernel does not let this root mount: a container needs CAP_SYS_ADMIN",
                    Errno::NODEV => "the kernel has no FUSE: load its module (`modprobe fuse`)",
                    _ => "the kernel refuses",
                };
                Err(Error::failed(message).with_source(io::Error::from(e)))
            }
        }
    }

    /// `default_permissions` is no choice: the kernel checks every access by mode, owner and ACL.
    pub(super) fn kernel_options(&self, device: i32) -> Vec<(&'static str, Option<String>)> {
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let mut options = vec![
            ("fd", Some(device.to_string())),
            ("rootmode", Some(format!("{:o}", libc::S_IFDIR))),
            ("user_id", Some(uid.to_string())),
            ("group_id", Some(gid.to_string())),
            ("default_permissions", None),
        ];
        options.extend(self.allow_other.then_some(("allow_other", None)));
        options
    }

    fn kernel_flags(&self) -> MountFlags {
        let mut flags = MountFlags::empty();
        flags.set(MountFlags::RDONLY, self.read_only);
        flags.set(MountFlags::NOSUID, !self.suid);
        flags.set(MountFlags::NODEV, !self.dev);
        flags.set(MountFlags::NOEXEC, !self.exec);
        flags.set(MountFlags::NOSYMFOLLOW, !self.symfollow);
        flags.set(MountFlags::NOATIME, self.noatime);
        flags.set(MountFlags::NODIRATIME, self.nodiratime);
        flags.set(MountFlags::SYNCHRONOUS, self.sync);
        flags
    }

    /// fusermount3 is suid root; it mounts nosuid and nodev, and sends the descriptor back over a socket, here
    /// its standard input.
    fn by_helper(&self, helper: &Path, dir: &Path) -> Result<OwnedFd> {
        let (ours, theirs) = UnixStream::pair().context(|| "cannot make a socket for fusermount3")?;
        let mut command = Command::new(helper);
        command.env("_FUSE_COMMFD", "0").stdin(OwnedFd::from(theirs)).stderr(Stdio::piped());
        command.arg("-o").arg(self.helper_options()).arg("--").arg(dir);
        let child = command.spawn().map_err(no_helper)?;
        // Its end of the socket, which would otherwise stay open here.
        drop(command);
        let device = receive(&ours);
        let output = child.wait_with_output().context(|| "cannot wait for fusermount3")?;
        device?.filter(|_| output.status.success()).ok_or_else(|| refused(&output))
    }

    fn helper_options(&self) -> String {
        // The helper splits at commas and takes what follows a backslash as it is.
        let source = self.source.replace('\\', "\\\\").replace(',', "\\,");
        let mut options = format!("default_permissions,nosuid,nodev,fsname={source},subtype={SUBTYPE}");
        for (on, option) in [
            (self.read_only, ",ro"),
            (!self.exec, ",noexec"),
            (self.noatime, ",noatime"),
            (self.sync, ",sync"),
            (self.allow_other, ",allow_other"),
        ] {
            if on {
                options.push_str(option);
            }
        }
        options
    }
}

/// A descriptor that one mount can be served by.
fn device() -> Result<OwnedFd> {
    rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|e| {
        let message = match e {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => no_device(),
            _ => format!("cannot open {DEVICE}: a container needs leave for this device"),
        };
        Error::failed(message).with_source(io::Error::from(e))
    })
}

/// Unmounts by way of fusermount3, for those who are not root.
pub(super) fn detach_by_helper(dir: &Path, lazy: bool) -> Result<()> {
    let mut command = Command::new(fusermount());
    command.stdin(Stdio::null()).arg("-u").args(lazy.then_some("-z")).arg("--").arg(dir);
    let output = command.output().map_err(no_helper)?;
    if output.status.success() { Ok(()) } else { Err(refused(&output)) }
}

/// The descriptor that the helper sends; None where it ends without sending one.
fn receive(socket: &UnixStream) -> Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0u8];
    loop {
        let mut io = [IoSliceMut::new(&mut byte)];
        match rustix::net::recvmsg(socket, &mut io, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => continue,
            result => {
                result.map_err(io::Error::from).context(|| "cannot receive from fusermount3")?;
                break;
            }
        }
    }
    let mut received = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            received = received.or_else(|| descriptors.next());
        }
    }
    Ok(received)
}

fn no_device() -> String {
    format!(
        "{DEVICE} is not there: load the kernel's module (`modprobe fuse`), or give the device to the container"
    )
}

fn no_helper(e: io::Error) -> Error {
    let hint = if e.kind() == io::ErrorKind::NotFound { ": install the package fuse3" } else { "" };
    Error::failed(format!("cannot run {HELPER}{hint}")).with_source(e)
}

/// What fusermount3 said, and what to do about it.
fn refused(output: &Output) -> Error {
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim();
    if said.contains("busy") {
        return Error::new(Kind::Conflict, said.to_owned());
    }
    let message = if said.contains("user_allow_other") {
        "-o allow_other is for root, unless /etc/fuse.conf says `user_allow_other`: add that line, or leave the option out".to_owned()
    } else if said.contains("modprobe fuse") {
        no_device()
    } else if said.contains("/dev/fuse: Permission denied") {
        format!("this user may not open {DEVICE}: its mode should be 0666, as udev sets it")
    } else if said.is_empty() {
        format!("{HELPER} failed without a word ({})", output.status)
    } else {
        return Error::failed(said.to_owned());
    };
    Error::failed(message).with_source(said)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    const PLAIN: Attach = Attach {
        source: String::new(),
        read_only: false,
        allow_other: false,
        suid: true,
        dev: true,
        exec: true,
        symfollow: true,
        noatime: false,
        nodiratime: false,
        sync: false,
    };

    #[test]
    fn the_kernel_always_checks_permissions() {
        for attach in [PLAIN, Attach { allow_other: true, read_only: true, ..PLAIN }] {
            let (kernel, helper) = (attach.kernel_options(7), attach.helper_options());
            assert_eq!(kernel[..2], [("fd", Some("7".into())), ("rootmode", Some("40000".into()))]);
            let keys: Vec<&str> = kernel.iter().map(|(key, _)| *key).collect();
            for options in [keys, helper.split(',').collect()] {
                assert!(options.contains(&"default_permissions"), "{options:?}");
                assert_eq!(options.contains(&"allow_other"), attach.allow_other, "{options:?}");
            }
            assert_eq!(attach.kernel_flags().contains(MountFlags::RDONLY), attach.read_only);
        }
    }

    #[test]
    fn flags_follow_the_options() {
        assert!(PLAIN.kernel_flags().is_empty());
        let attach = Attach { suid: false, dev: false, exec: false, ..PLAIN };
        assert_eq!(attach.kernel_flags(), MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC);
        assert!(attach.helper_options().ends_with(",noexec"));
        let attach = Attach { noatime: true, nodiratime: true, sync: true, symfollow: false, ..PLAIN };
        let flags =
            MountFlags::NOATIME | MountFlags::NODIRATIME | MountFlags::SYNCHRONOUS | MountFlags::NOSYMFOLLOW;
        assert_eq!(attach.kernel_flags(), flags);
        assert!(attach.helper_options().ends_with(",noatime,sync"));
    }

    #[test]
    fn a_source_cannot_smuggle_in_options() {
        let attach = Attach { source: "s3://b/x,allow_other\\".into(), ..PLAIN };
        assert!(attach.helper_options().contains(",fsname=s3://b/x\\,allow_other\\\\,subtype="));
    }

    /// At boot, and under mount(8), `PATH` may be empty or missing.
    #[test]
    fn fusermount3_is_found_without_a_path() {
        let tmp = tempfile::tempdir().unwrap();
        let mine = tmp.path().join(HELPER);
        std::fs::write(&mine, "").unwrap();
        assert_eq!(fusermount_in(tmp.path().as_os_str()), mine);
        for path in ["", ":", "/no/such"] {
            let found = fusermount_in(path.as_ref());
            assert!(found.is_absolute() || found == Path::new(HELPER), "{found:?}");
            assert_ne!(found, mine);
        }
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let said = |text: &str| {
            let (status, stderr) = (ExitStatus::from_raw(256), text.as_bytes().to_vec());
            refused(&Output { status, stdout: Vec::new(), stderr })
        };
        let e = said(
            "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf",
        );
        assert!(e.to_string().contains("add that line"), "{e}");
        assert!(
            said("fusermount3: fuse device not found, try 'modprobe fuse' first")
                .to_string()
                .contains("not there")
        );
        assert!(
            said("fusermount3: failed to open /dev/fuse: Permission denied").to_string().contains("0666")
        );
        assert_eq!(said("fusermount3: failed to unmount /m: Device or resource busy").kind(), Kind::Conflict);
        assert!(said("").to_string().contains("without a word"));
        assert_eq!(said("fusermount3: something else\n").to_string(), "fusermount3: something else");
        assert!(no_helper(io::ErrorKind::NotFound.into()).to_string().contains("install the package fuse3"));
    }

    /// Scripts stand in for the helper: what it says must come through, and nothing may hang.
    #[test]
    fn a_helper_that_sends_no_descriptor_is_an_error() {
        let tmp = tempfile::tempdir().unwrap();
        let run = |script: &str| {
            let helper = tmp.path().join("helper");
            std::fs::write(&helper, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::process::Command::new("chmod").arg("755").arg(&helper).status().unwrap();
            PLAIN.by_helper(&helper, tmp.path()).unwrap_err().to_string()
        };
        assert_eq!(run("echo no such luck >&2; exit 1"), "no such luck");
        assert!(run("exit 0").contains("without a word"));
        assert!(run("printf x >&0").contains("without a word"));
        let e = PLAIN.by_helper(&tmp.path().join("none"), tmp.path()).unwrap_err();
        assert!(e.to_string().contains("install the package fuse3"));
    }
}
