//! What a call answers.

use std::collections::BTreeMap;
use std::fmt;

pub type Outcome = Result<Got, Errno>;

#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", std::io::Error::from_raw_os_error(self.0))
    }
}

#[derive(Clone, PartialEq)]
pub enum Got {
    Done,
    Number(i64),
    Bytes(Vec<u8>),
    Text(String),
    /// Names, and how often each was listed.
    Names(BTreeMap<String, usize>),
    /// What SEEK_DATA or SEEK_HOLE answered: which places may be answered is for `rules.rs` to say.
    Place(i64),
}

impl fmt::Debug for Got {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Got::Done => write!(f, "done"),
            Got::Number(n) => write!(f, "{n}"),
            Got::Bytes(b) if b.len() <= 64 => write!(f, "{:?}", b.escape_ascii().to_string()),
            Got::Bytes(b) => {
                // Runs of equal bytes, and where they begin.
                write!(f, "{} bytes:", b.len())?;
                let mut at = 0;
                for run in b.chunk_by(|x, y| x == y).take(8) {
                    write!(f, " {at}: {:#x} x {}", run[0], run.len())?;
                    at += run.len();
                }
                Ok(())
            }
            Got::Text(t) => f.write_str(t),
            Got::Names(n) => write!(f, "{n:?}"),
            Got::Place(n) => write!(f, "at {n}"),
        }
    }
}

/// The answer of a call of the C library that sets errno.
pub fn errno() -> Errno {
    Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

/// A number, or where it is negative the errno.
pub fn number(n: impl Into<i64>) -> Result<i64, Errno> {
    let n = n.into();
    if n < 0 { Err(errno()) } else { Ok(n) }
}

pub fn done(n: impl Into<i64>) -> Outcome {
    number(n).map(|_| Got::Done)
}
