//! Asking for a secret on the terminal: what is typed is not shown, and is left nowhere but in the answer.

use crate::error::{Context, Error, Kind, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};
use zeroize::{Zeroize, Zeroizing};

/// The longest answer, in bytes.
const LONGEST: usize = 4096;

const CTRL_C: u8 = 0x03;
const CTRL_D: u8 = 0x04;
const BACKSPACE: u8 = 0x08;
const CTRL_U: u8 = 0x15;
const DELETE: u8 = 0x7f;

/// Asks on the terminal, if standard input is one.
pub fn ask_secret(question: &str) -> Result<Option<Zeroizing<String>>> {
    if !std::io::stdin().is_terminal() {
        return Ok(None);
    }
    let failed = || "cannot ask on the terminal";
    let tty = File::options().read(true).write(true).open("/dev/tty").context(failed)?;
    let quiet = Quiet::begin(&tty).context(failed)?;
    (&tty).write_all(question.as_bytes()).context(failed)?;
    let answer = read_line(&quiet);
    drop(quiet);
    (&tty).write_all(b"\n").context(failed)?;
    answer.map(Some)
}

/// Asks a question that is answered by typing `yes`. None: there is nobody to ask.
pub fn confirm(question: &str) -> Result<Option<bool>> {
    if !std::io::stdin().is_terminal() {
        return Ok(None);
    }
    let failed = || "cannot ask on the terminal";
    let mut terminal = std::io::stderr();
    write!(terminal, "{question} Type yes: ").and_then(|()| terminal.flush()).context(failed)?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context(failed)?;
    Ok(Some(answer.trim() == "yes"))
}

/// A terminal that shows nothing and gives every byte as it is typed, until this is dropped. Signals that end the
/// process wait until then, and interrupt [`read_line`].
struct Quiet<'t> {
    tty: &'t File,
    was: Termios,
    ending: Held,
}

impl Quiet<'_> {
    fn begin(tty: &File) -> std::io::Result<Quiet<'_>> {
        let was = tcgetattr(tty)?;
        let ending = Held::begin()?;
        let mut quiet = was.clone();
        quiet.local_modes -= LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG;
        quiet.special_codes[SpecialCodeIndex::VMIN] = 1;
        quiet.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(tty, OptionalActions::Flush, &quiet)?;
        Ok(Quiet { tty, was, ending })
    }
}

impl Read for &Quiet<'_> {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        let mut ready =
            [PollFd::new(self.tty, PollFlags::IN), PollFd::new(&self.ending.pending, PollFlags::IN)];
        poll(&mut ready, None)?;
        match ready[1].revents().is_empty() {
            true => {
                let mut tty = self.tty;
                tty.read(to)
            }
            // It stays pending, and is taken when it is let through again.
            false => Err(std::io::Error::other("told to end")),
        }
    }
}

/// Holds back the signals that end a process at a terminal, until dropped.
struct Held {
    was: libc::sigset_t,
    /// Readable when there is one.
    pending: OwnedFd,
}

impl Held {
    fn begin() -> std::io::Result<Held> {
        let mut set = MaybeUninit::uninit();
        let mut was = MaybeUninit::uninit();
        // SAFETY: `sigemptyset` initialises the set, which the calls that follow use with valid numbers;
        // `pthread_sigmask` initialises the other one where it returns 0; the descriptor is new, and nobody else's.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            let mut set = set.assume_init();
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
                libc::sigaddset(&mut set, signal);
            }
            let pending = match libc::signalfd(-1, &set, libc::SFD_CLOEXEC) {
                -1 => return Err(std::io::Error::last_os_error()),
                fd => OwnedFd::from_raw_fd(fd),
            };
            match libc::pthread_sigmask(libc::SIG_BLOCK, &set, was.as_mut_ptr()) {
                0 => Ok(Held { was: was.assume_init(), pending }),
                e => Err(std::io::Error::from_raw_os_error(e)),
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: `was` is a mask that this thread had. It cannot fail with a valid first argument.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.was, std::ptr::null_mut()) };
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        if let Err(e) = tcsetattr(self.tty, OptionalActions::Now, &self.was) {
            tracing::warn!("cannot put the terminal back as it was: {e} ('stty sane' does)");
        }
    }
}

/// Reads to the end of the line. The bytes are in one buffer that never grows, for growing leaves copies behind.
fn read_line(mut from: impl Read) -> Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(Vec::with_capacity(LONGEST));
    let mut byte = Zeroizing::new([0; 1]);
    loop {
        match from.read(&mut byte[..]) {
            Ok(0) => break,
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(e).context(|| "cannot read from the terminal"),
        }
        match byte[0] {
            b'\n' | b'\r' | CTRL_D => break,
            CTRL_C => return Err(Error::new(Kind::Interrupted, "interrupted")),
            // A character is a byte that begins it and those that go on with it (UTF-8).
            BACKSPACE | DELETE => while line.pop().is_some_and(|b| b & 0xc0 == 0x80) {},
            CTRL_U => line.clear(),
            b if line.len() < LONGEST => line.push(b),
            _ => return Err(Error::new(Kind::Secret, "what was typed is too long")),
        }
    }
    String::from_utf8(std::mem::take(&mut *line)).map(Zeroizing::new).map_err(|e| {
        e.into_bytes().zeroize();
        Error::new(Kind::Secret, "what was typed is not UTF-8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_edited_as_it_is_typed() {
        for (typed, read) in [
            (&b"secret\nmore"[..], "secret"),
            (b"secret", "secret"),
            (b"sex\x7fcret\r", "secret"),
            (b"a\x7f\x7f\x08b\n", "b"),
            (b"wrong\x15right\n", "right"),
            ("ü\u{1f511}\x7f\x7fo\n".as_bytes(), "o"),
            (b"one\x04two\n", "one"),
            (b"\n", ""),
        ] {
            assert_eq!(*read_line(typed).unwrap(), read, "{typed:?}");
        }
        assert_eq!(read_line(&b"se\x03cret\n"[..]).unwrap_err().exit_status(), 130);
        for bad in [vec![0xff, b'\n'], vec![b'x'; LONGEST + 1]] {
            assert_eq!(read_line(&bad[..]).unwrap_err().kind(), Kind::Secret);
        }
    }
}
