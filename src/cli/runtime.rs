//! Where a mount has its log, its lock and its control socket: in the state directory; or, where that is on a read-only
//! file system (a disk that dies, a snapshot), in a directory of its own that lasts until the machine is started anew.

use super::control::SOCKET;
use super::daemon::{check_private, make_private_dir};
use super::logging::LOG;
use super::mounts::shown;
use crate::error::{Context, Error, Result};
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// A link in such a directory, to the state directory.
const STATE: &str = "state";

/// Whether the file system is read-only that a path is on, or would be made on. It is asked for a file without a name:
/// one that takes nothing more after an error need not call itself read-only (ext4's `emergency_ro`).
pub fn is_read_only(path: &Path) -> bool {
    let missing = |path: &&Path| matches!(path.metadata(), Err(e) if e.kind() == ErrorKind::NotFound);
    let there = path.ancestors().find(|path| !missing(path));
    let make = |dir| File::options().write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(dir);
    there.is_some_and(|there| make(there).is_err_and(|e| e.kind() == ErrorKind::ReadOnlyFilesystem))
}

/// An error where a mount that writes could not.
pub fn check_writable(state_dir: &Path) -> Result<()> {
    match is_read_only(state_dir) {
        false => Ok(()),
        true => Err(Error::failed(format!(
            "the state directory {} is on a read-only file system: mount with -o ro, which shows what is not stored yet, \
             too; or make it writable; or give another with --state-dir",
            shown(state_dir)
        ))),
    }
}

/// Makes what a mount needs, durably and for the caller only; what is there must be so. Returns the directory for log,
/// lock and socket: the state directory, unless that is on a read-only file system, as only a read-only mount has it.
pub fn make(state_dir: &Path, ro: bool) -> Result<PathBuf> {
    if !is_read_only(state_dir) {
        make_private_dir(state_dir, "state directory")?;
        return Ok(state_dir.to_owned());
    }
    if !ro {
        check_writable(state_dir)?;
    }
    if state_dir.exists() {
        check_private(state_dir, "state directory")?;
    }
    let all = base()?;
    let failed = || format!("cannot make {} (the state directory is read-only)", all.display());
    match DirBuilder::new().create(&all) {
        // Units have their directories there, too, and may run as other users.
        Ok(()) => fs::set_permissions(&all, Permissions::from_mode(0o755)).context(failed)?,
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
        Err(e) => return Err(e).context(failed),
    }
    let found = fs::symlink_metadata(&all).context(failed)?;
    // Who can write there could put a link in the place of the next one.
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o022 != 0 {
        return Err(Error::failed(format!("{} is not a directory of yours alone", all.display())));
    }
    let dir = name_in(&all, state_dir);
    make_private_dir(&dir, "run-time directory")?;
    match symlink(state_dir, dir.join(STATE)) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(dir),
        made => made.map(|()| dir).context(failed),
    }
}

/// What is to be said of a state directory that is not written to.
pub fn note(state_dir: &Path, run_dir: &Path) -> Option<String> {
    let (state, log) = (shown(state_dir), shown(&run_dir.join(LOG)));
    match (run_dir == state_dir, state_dir.exists()) {
        (true, _) => None,
        (false, true) => Some(format!(
            "the state directory {state} is on a read-only file system, and is only read; the log is {log}"
        )),
        (false, false) => Some(format!(
            "there is no state directory {state}, and its file system is read-only: this is what the store has; the log \
             is {log}"
        )),
    }
}

/// Where the control socket of a mount with this state directory is, or would be.
pub fn control(state_dir: &Path) -> PathBuf {
    let run_dir = is_read_only(state_dir).then(base).and_then(Result::ok);
    run_dir.map_or_else(|| state_dir.to_owned(), |all| name_in(&all, state_dir)).join(SOCKET)
}

/// The state directory of the mount that has this control socket.
pub fn state_dir(control: &Path) -> Option<PathBuf> {
    let dir = control.parent()?;
    Some(fs::read_link(dir.join(STATE)).unwrap_or_else(|_| dir.to_owned()))
}

/// The caller's run-time directory (XDG base directories), or the machine's.
fn base() -> Result<PathBuf> {
    base_of(rustix::process::geteuid().as_raw(), std::env::var_os("XDG_RUNTIME_DIR"))
}

fn base_of(uid: u32, named: Option<OsString>) -> Result<PathBuf> {
    if uid == 0 {
        return Ok("/run/nacrefs".into());
    }
    let named = named.map(PathBuf::from).filter(|dir| dir.is_absolute());
    let dir = named.unwrap_or_else(|| format!("/run/user/{uid}").into());
    match dir.is_dir() {
        true => Ok(dir.join("nacrefs")),
        false => Err(Error::failed(format!(
            "the state directory is on a read-only file system, and there is no {} for log and control socket: set \
             XDG_RUNTIME_DIR to a directory of yours, or give another --state-dir",
            dir.display()
        ))),
    }
}

/// Always the same for a state directory, so that two mounts of one meet.
fn name_in(all: &Path, state_dir: &Path) -> PathBuf {
    let hash = blake3::hash(state_dir.as_os_str().as_bytes()).to_hex();
    all.join(format!("state-{}", hash.get(..16).unwrap_or(&hash)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_and_each_state_directory_has_a_run_time_directory_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let named = Some(dir.path().as_os_str().to_owned());
        assert_eq!(base_of(0, named.clone()).unwrap(), Path::new("/run/nacrefs"));
        assert_eq!(base_of(7, named).unwrap(), dir.path().join("nacrefs"));
        for unusable in [None, Some("relative".into()), Some(dir.path().join("none").into())] {
            let e = base_of(u32::MAX - 1, unusable).unwrap_err().to_string();
            assert!(e.contains("XDG_RUNTIME_DIR") && e.contains("--state-dir"), "{e}");
        }
        let name = |state: &str| name_in(Path::new("/run/nacrefs"), Path::new(state));
        assert!(name("/a") == name("/a") && name("/a") != name("/b"));
    }

    #[test]
    fn a_socket_tells_its_state_directory_wherever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let control = dir.path().join(SOCKET);
        assert_eq!(state_dir(&control).as_deref(), Some(dir.path()));
        symlink("/var/state", dir.path().join(STATE)).unwrap();
        assert_eq!(state_dir(&control).as_deref(), Some(Path::new("/var/state")));
    }
}
