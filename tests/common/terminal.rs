//! A person at a terminal, for commands that ask.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};

/// What a command on a terminal did.
#[derive(Debug)]
pub struct Session {
    pub status: ExitStatus,
    /// All that stood on the screen.
    pub screen: String,
}

/// Runs a command on a terminal of its own, and types each answer once its question stands there.
pub fn converse(command: &mut Command, answers: &[(&str, &str)]) -> Session {
    let (mut master, mut slave) = (-1, -1);
    // SAFETY: both are out-parameters; the rest may be null (openpty(3)). The descriptors are new and nobody else's.
    let (master, slave) = unsafe {
        let null = std::ptr::null_mut();
        assert_eq!(libc::openpty(&mut master, &mut slave, null, std::ptr::null(), std::ptr::null()), 0);
        libc::fcntl(master, libc::F_SETFD, libc::FD_CLOEXEC);
        libc::fcntl(slave, libc::F_SETFD, libc::FD_CLOEXEC);
        (File::from_raw_fd(master), File::from_raw_fd(slave))
    };
    let terminal = || slave.try_clone().unwrap();
    command.stdin(terminal()).stdout(terminal()).stderr(terminal());
    // SAFETY: both calls are safe between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::setsid() >= 0 && libc::ioctl(0, libc::TIOCSCTTY, 0) == 0 {
            true => Ok(()),
            false => Err(std::io::Error::last_os_error()),
        });
    }
    let mut child = command.spawn().unwrap();
    // From here on only the command holds the terminal open.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    drop(slave);
    let mut screen = Vec::new();
    let more = |screen: &mut Vec<u8>| {
        let mut bytes = [0; 4096];
        // When the last process on the terminal has ended, reading is an error (EIO).
        let n = (&master).read(&mut bytes).unwrap_or(0);
        screen.extend_from_slice(&bytes[..n]);
        n > 0
    };
    let mut seen = 0;
    for (question, answer) in answers {
        while !String::from_utf8_lossy(&screen[seen..]).contains(question) {
            let said = more(&mut screen);
            assert!(said, "{question:?} is not asked: {}", String::from_utf8_lossy(&screen));
        }
        seen = screen.len();
        (&master).write_all(format!("{answer}\r").as_bytes()).unwrap();
    }
    while more(&mut screen) {}
    Session { status: child.wait().unwrap(), screen: String::from_utf8_lossy(&screen).replace("\r\n", "\n") }
}
