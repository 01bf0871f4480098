//! Reading the files that secrets stand in: regular ones, named pipes, and what a shell hands over.

use crate::cli::output;
use crate::error::{Error, Kind, Result};
use crate::types::Key;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fstatfs};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long a named pipe may have nobody who writes into it.
const PATIENCE: Duration = Duration::from_secs(3);
/// The kind of file system that pipes without a name are on (PIPEFS_MAGIC in statfs(2)).
const PIPEFS: rustix::fs::FsWord = 0x5049_5045;
/// More than any secret: a wrong file is not read whole.
const LONGEST: u64 = 64 << 10;

/// Reads a passphrase, or the text of a key file: all of it but one line end.
pub(in crate::cli) fn text_of(mut from: impl Read, what: &str, kind: &str) -> Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST as usize + 64));
    from.by_ref()
        .take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::new(Kind::Secret, format!("cannot read {what}")).with_source(e))?;
    let refuse = |why: String| Err(Error::new(Kind::Secret, format!("{what} {why}")));
    if bytes.len() as u64 > LONGEST {
        return refuse(format!("is too long for a {kind}"));
    }
    let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    match std::str::from_utf8(text) {
        Ok("") => refuse(format!("is empty: it holds no {kind}")),
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => refuse("is not UTF-8".to_owned()),
    }
}

/// Reads a passphrase: the first line. What comes after it is a remark, as password managers print it.
pub(super) fn passphrase_of(from: impl Read, what: &str) -> Result<Zeroizing<String>> {
    let text = text_of(from, what, "passphrase")?;
    let first = text.split('\n').next().unwrap_or_default();
    match first.strip_suffix('\r').unwrap_or(first) {
        "" => Err(Error::new(
            Kind::Secret,
            format!("{what} has an empty first line, where the passphrase must be"),
        )),
        first => Ok(Zeroizing::new(first.to_owned())),
    }
}

/// Opens a file that holds a secret.
fn open(file: &Path) -> Result<File> {
    let cannot = |e: std::io::Error| cannot_open(file, e);
    // Without waiting for somebody to write into a named pipe, who may never come.
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(file).map_err(cannot)?;
    let meta = opened.metadata().map_err(cannot)?;
    let refuse = |why: &str| Err(Error::new(Kind::Secret, format!("{} {why}", file.display())));
    if meta.is_dir() {
        return refuse("is a directory: give the file in it");
    }
    if meta.file_type().is_fifo() && !is_written_to(&opened).map_err(cannot)? {
        return refuse("is a named pipe, and nobody writes into it");
    }
    rustix::fs::fcntl_setfl(&opened, OFlags::empty()).map_err(|e| cannot(e.into()))?;
    Ok(opened)
}

/// Says so if others may read a file that holds a secret.
fn warn_of_others(file: &Path, opened: &File) -> Result<()> {
    let meta = opened.metadata().map_err(|e| cannot_open(file, e))?;
    // As ssh has it: what belongs to somebody else, such as root, is that one's business. Systemd's credentials are.
    if meta.is_file() && meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o077 != 0 {
        let mode = meta.mode() & 0o7777;
        let shown = file.display();
        output::warn(&format!(
            "{shown} holds a secret of the drive, and others may use it (mode {mode:04o}): chmod 600 it"
        ));
    }
    Ok(())
}

fn cannot_open(file: &Path, e: std::io::Error) -> Error {
    Error::new(Kind::Secret, format!("cannot open {}", file.display())).with_source(e)
}

/// Whether there is something to read from a pipe. A pipe that has a name may have no writer: it gets [`PATIENCE`]. One
/// that has none (`<(command)` of a shell) was made for this, by whoever writes into it.
fn is_written_to(pipe: &File) -> std::io::Result<bool> {
    if fstatfs(pipe)?.f_type == PIPEFS {
        return Ok(true);
    }
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    Ok(poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&patience))? > 0)
}

pub(super) fn read_passphrase(file: &Path) -> Result<Zeroizing<String>> {
    read_secret(file, |opened, what| passphrase_of(opened, what))
}

/// Reads a recovery code, of as many lines as it was written in.
pub(super) fn read_recovery(file: &Path) -> Result<Zeroizing<String>> {
    read_secret(file, |opened, what| text_of(opened, what, "recovery code"))
}

/// Reads a file that holds a secret, and if it does, says so where others may read it.
fn read_secret<T>(file: &Path, read: impl FnOnce(&File, &str) -> Result<T>) -> Result<T> {
    let opened = open(file)?;
    let secret = read(&opened, &file.display().to_string())?;
    warn_of_others(file, &opened)?;
    Ok(secret)
}

/// Reads a key file: 64 hexadecimal digits and a line end.
pub(super) fn read_key(file: &Path) -> Result<Box<Key>> {
    read_secret(file, |opened, what| {
        parse_key(text_of(opened, what, "key")?.trim()).ok_or_else(|| {
            Error::new(
                Kind::Secret,
                format!("{} is no key file: it must hold 64 hexadecimal digits", file.display()),
            )
        })
    })
}

pub(in crate::cli) fn parse_key(text: &str) -> Option<Box<Key>> {
    let mut key = Box::new(Key([0; 32]));
    if text.len() != 64 {
        return None;
    }
    for (byte, digits) in key.0.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let [high, low] = digits else { return None };
        let (high, low) = (char::from(*high).to_digit(16)?, char::from(*low).to_digit(16)?);
        *byte = (high << 4 | low) as u8;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::path::PathBuf;

    #[test]
    fn bad_secrets_are_refused_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        let table: [(&[u8], &str); 3] =
            [(b"\n", "holds no"), (b"\xff\n", "UTF-8"), (&[b'x'; 70_000], "too long")];
        for (bytes, why) in table {
            fs::write(&file, bytes).unwrap();
            for e in [read_passphrase(&file).unwrap_err(), read_key(&file).unwrap_err()] {
                assert!(e.kind() == Kind::Secret && e.to_string().contains(why), "{e}");
            }
        }
        for (text, is) in
            [("pass phrase", "pass phrase"), ("pass\nurl: x\n", "pass"), ("pass\r\nurl\r\n", "pass")]
        {
            fs::write(&file, text).unwrap();
            assert_eq!(*read_passphrase(&file).unwrap(), is);
        }
        fs::write(&file, "\npass\n").unwrap();
        assert!(read_passphrase(&file).unwrap_err().to_string().contains("empty first line"));
        fs::write(&file, "AAAA-BBBB\nCCCC\n").unwrap();
        assert_eq!(*read_recovery(&file).unwrap(), "AAAA-BBBB\nCCCC");
        for text in ["12", &"0g".repeat(32), &"é".repeat(32)] {
            fs::write(&file, text).unwrap();
            assert_eq!(read_key(&file).unwrap_err().kind(), Kind::Secret);
        }
        assert_eq!(read_key(Path::new("/no/such")).unwrap_err().kind(), Kind::Secret);
    }

    /// Opening a named pipe into which nobody writes used to wait for ever.
    #[test]
    fn a_pipe_is_read_once_somebody_writes_and_not_waited_for_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
            .unwrap();
        let e = read_key(&pipe).unwrap_err();
        assert!(e.kind() == Kind::Secret && e.to_string().contains("nobody writes"), "{e}");
        let to = pipe.clone();
        let writer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            let mut out = File::options().write(true).open(to)?;
            out.write_all(b"a pass")?;
            std::thread::sleep(Duration::from_millis(200));
            out.write_all(b"phrase\n")
        });
        assert_eq!(*read_passphrase(&pipe).unwrap(), "a passphrase");
        writer.join().unwrap().unwrap();
        // As a shell's <(command): it may take its time.
        let (reader, mut writer) = std::io::pipe().unwrap();
        use std::os::fd::AsRawFd;
        let path = PathBuf::from(format!("/proc/self/fd/{}", reader.as_raw_fd()));
        let slow = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            writer.write_all(b"typed late\n")
        });
        assert_eq!(*read_passphrase(&path).unwrap(), "typed late");
        slow.join().unwrap().unwrap();
    }
}
