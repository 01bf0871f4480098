//! A person at a terminal, for commands that ask.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};

/// What a command on a terminal did.
#[derive(Debug)]
pub struct Session {
    pub status: ExitStatus,
    /// All that stood on the screen.
    pub screen: String,
}

/// Runs a command on a terminal of its own, ends it by a signal at its question, and tells whether the terminal then
/// shows what is typed.
pub fn end_at(command: &mut Command, question: &str, signal: i32) -> bool {
    let (master, slave) = terminal();
    let mut child = start_on(command, &slave);
    let mut screen = Vec::new();
    while !String::from_utf8_lossy(&screen).contains(question) {
        let mut bytes = [0; 4096];
        let n = (&master).read(&mut bytes).unwrap();
        screen.extend_from_slice(&bytes[..n]);
    }
    let shows = || {
        let modes = rustix::termios::tcgetattr(&slave).unwrap().local_modes;
        modes.contains(rustix::termios::LocalModes::ECHO)
    };
    assert!(!shows(), "a secret would be seen");
    // SAFETY: the child is ours, and was not waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(signal));
    shows()
}

/// Both ends of a new terminal: the keyboard and screen, and what programs have open.
fn terminal() -> (File, File) {
    let (mut master, mut slave) = (-1, -1);
    // SAFETY: both are out-parameters; the rest may be null (openpty(3)). The descriptors are new and nobody else's.
    unsafe {
        let null = std::ptr::null_mut();
        assert_eq!(libc::openpty(&mut master, &mut slave, null, std::ptr::null(), std::ptr::null()), 0);
        libc::fcntl(master, libc::F_SETFD, libc::FD_CLOEXEC);
        libc::fcntl(slave, libc::F_SETFD, libc::FD_CLOEXEC);
        (File::from_raw_fd(master), File::from_raw_fd(slave))
    }
}

fn start_on(command: &mut Command, slave: &File) -> Child {
    let terminal = || slave.try_clone().unwrap();
    command.stdin(terminal()).stdout(terminal()).stderr(terminal());
    // SAFETY: all three calls are safe between fork and exec.
    unsafe {
        command.pre_exec(|| {
            // Under nohup(1), or in the background of a shell, some are ignored, and children inherit that.
            for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
                libc::signal(signal, libc::SIG_DFL);
            }
            match libc::setsid() >= 0 && libc::ioctl(0, libc::TIOCSCTTY, 0) == 0 {
                true => Ok(()),
                false => Err(std::io::Error::last_os_error()),
            }
        });
    }
    let child = command.spawn().unwrap();
    // From here on only the command holds the terminal open.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    child
}

/// Runs a command on a terminal of its own, and types each answer once its question stands there.
pub fn converse(command: &mut Command, answers: &[(&str, &str)]) -> Session {
    let (master, slave) = terminal();
    let mut child = start_on(command, &slave);
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
