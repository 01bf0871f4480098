//! Looking at a mount whose daemon may be stopped or stuck, or at a disk that is, without being stuck with it.
//!
//! Whoever asks such a mount for anything may wait for ever, and cannot be killed once the daemon has taken the
//! request. So a child process asks, and is left behind where it does not come back in time.

use super::daemon::{Forked, be_mute, fork_with_pipe};
use crate::error::{Context, Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, WaitOptions, kill_process, waitpid};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ffi::CString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

/// How long a daemon may take to answer from memory.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// What a mount answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The value of the attribute.
    Value(Vec<u8>),
    Errno(i32),
    /// Nothing, in [`PATIENCE`].
    Silent,
}

/// getxattr(2) in a child process; where the caller is root, as `owner` (user, group): root itself is not let into the
/// mounts of others.
pub fn getxattr(path: &Path, name: &str, owner: Option<(u32, u32)>) -> Result<Answer> {
    let failed = || format!("cannot look at {}", path.display());
    let (Ok(c_path), Ok(c_name)) = (CString::new(path.as_os_str().as_bytes()), CString::new(name)) else {
        return Ok(Answer::Errno(libc::EINVAL));
    };
    let owner = owner.filter(|(user, _)| *user != 0 && rustix::process::geteuid().is_root());
    let (mut reader, writer) = std::io::pipe().context(failed)?;
    let mut value = [0u8; libc::PATH_MAX as usize];
    let answer = writer.as_raw_fd().unsigned_abs();
    // SAFETY: the child calls nothing but system calls, on memory that was made before, and never returns from here:
    // other threads of the parent may hold any lock.
    let child = match unsafe { libc::fork() } {
        -1 => return Err(std::io::Error::last_os_error()).context(failed),
        // SAFETY: the calls are of the system, with pointers to C strings and a buffer that outlive them; the header
        // goes into the buffer's first 4 bytes, the value behind them.
        0 => unsafe {
            // Who is left behind is to hold nothing: no pipe that somebody reads to its end, no lock.
            libc::syscall(libc::SYS_close_range, 0, answer.saturating_sub(1), 0);
            libc::syscall(libc::SYS_close_range, answer + 1, libc::c_uint::MAX, 0);
            if let Some((user, group)) = owner {
                // The raw calls: glibc's would tell threads that are not there.
                libc::syscall(libc::SYS_setresgid, group, group, group);
                libc::syscall(libc::SYS_setresuid, user, user, user);
            }
            let room = value.len() - 4;
            let n = libc::getxattr(c_path.as_ptr(), c_name.as_ptr(), value.as_mut_ptr().add(4).cast(), room);
            let outcome = if n < 0 { -*libc::__errno_location() } else { n as i32 };
            value.as_mut_ptr().cast::<[u8; 4]>().write(outcome.to_ne_bytes());
            libc::write(answer as i32, value.as_ptr().cast(), 4 + n.max(0) as usize);
            libc::_exit(0)
        },
        pid => pid,
    };
    drop(writer);
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(&reader, PollFlags::IN)], Some(&patience));
    let mut said = Vec::new();
    if ready == Ok(1) {
        reader.read_to_end(&mut said).context(failed)?;
    } else {
        // SAFETY: the child is ours, and was not waited for yet, so the number is still its own.
        unsafe { libc::kill(child, libc::SIGKILL) };
    }
    // One that cannot be killed is left to init.
    let options = if ready == Ok(1) { 0 } else { libc::WNOHANG };
    // SAFETY: as above; no status is asked for.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), options) };
    let Some((head, value)) = said.split_first_chunk::<4>() else { return Ok(Answer::Silent) };
    let outcome = i32::from_ne_bytes(*head);
    Ok(if outcome < 0 { Answer::Errno(-outcome) } else { Answer::Value(value.to_vec()) })
}

/// Has a child process look, and hands on what it finds as it comes. `false`: the child has found nothing more for
/// `patience`, and was left behind. To be called while this process has one thread.
pub fn look<T: Serialize + DeserializeOwned>(
    patience: Duration,
    look: impl FnOnce(&mut dyn FnMut(T)),
    mut found: impl FnMut(T) -> Result<()>,
) -> Result<bool> {
    let (pid, pipe) = match fork_with_pipe()? {
        Forked::Parent(pid, pipe) => (pid, pipe),
        Forked::Child(mut pipe) => {
            let mut tell = |thing: T| {
                let line = serde_json::to_string(&thing).unwrap_or_default();
                // Whoever does not listen any more has given up.
                let _ = writeln!(pipe, "{line}");
            };
            // One that is left behind would hold open what somebody reads to its end. A machine without /dev/null is
            // looked at all the same.
            let _ = be_mute();
            let whole = catch_unwind(AssertUnwindSafe(|| look(&mut tell))).is_ok();
            // SAFETY: ends this process at once: what the parent has not written yet is the parent's to write.
            unsafe { libc::_exit(if whole { 0 } else { 1 }) }
        }
    };
    let failed = || "cannot hear a process that looks";
    let mut pipe = BufReader::new(pipe);
    loop {
        let time = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: 0 };
        if pipe.buffer().is_empty()
            && poll(&mut [PollFd::new(pipe.get_ref(), PollFlags::IN)], Some(&time)) == Ok(0)
        {
            // One that cannot be killed is left to init.
            kill_process(pid, Signal::KILL).map_err(std::io::Error::from).context(failed)?;
            return Ok(false);
        }
        let mut line = String::new();
        if pipe.read_line(&mut line).context(failed)? == 0 {
            break;
        }
        found(serde_json::from_str(&line).map_err(|e| Error::failed(failed()).with_source(e))?)?;
    }
    let ended = waitpid(Some(pid), WaitOptions::empty()).map_err(std::io::Error::from).context(failed)?;
    match ended.is_some_and(|(_, status)| status.exit_status() == Some(0)) {
        true => Ok(true),
        false => Err(Error::failed("a process that looks has died (a bug)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_asks_and_its_answer_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let ask = |path: &Path| getxattr(path, "user.none", None).unwrap();
        assert!(matches!(ask(dir.path()), Answer::Errno(libc::ENODATA | libc::EOPNOTSUPP)));
        assert_eq!(ask(&dir.path().join("gone")), Answer::Errno(libc::ENOENT));
        let set = rustix::fs::setxattr(dir.path(), "user.some", b"value", rustix::fs::XattrFlags::empty());
        if set.is_ok() {
            let found = getxattr(dir.path(), "user.some", None).unwrap();
            assert_eq!(found, Answer::Value(b"value".to_vec()));
        }
    }
}
