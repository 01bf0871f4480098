//! A secret that is needed again after hours or months, by the supervisor of `restart=on`.

use super::files::{read_key, read_passphrase, read_recovery};
use super::{Found, Given};
use crate::crypt::protect::{Locked, overwrite_stack};
use crate::error::{Context, Error, Kind, Result};
use crate::types::Key;
use std::fmt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// A file that holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretFile {
    Passphrase(PathBuf),
    Key(PathBuf),
    /// A recovery code.
    Recovery(PathBuf),
}

impl SecretFile {
    pub fn read(&self) -> Result<Given> {
        Ok(match self {
            SecretFile::Passphrase(file) => Given::Passphrase(read_passphrase(file)?),
            SecretFile::Key(file) => Given::KeyFile(read_key(file)?),
            SecretFile::Recovery(file) => Given::Recovery(read_recovery(file)?),
        })
    }

    pub fn path(&self) -> &Path {
        match self {
            SecretFile::Passphrase(file) | SecretFile::Key(file) | SecretFile::Recovery(file) => file,
        }
    }

    fn path_mut(&mut self) -> &mut PathBuf {
        match self {
            SecretFile::Passphrase(file) | SecretFile::Key(file) | SecretFile::Recovery(file) => file,
        }
    }

    /// The same from any directory.
    pub fn absolute(mut self) -> Result<SecretFile> {
        let file = self.path_mut();
        *file = std::path::absolute(&*file).context(|| format!("cannot tell where {} is", file.display()))?;
        Ok(self)
    }

    /// `None`: it can be read once only, as a pipe, or `/dev/stdin`.
    pub fn lasting(self) -> Result<Option<SecretFile>> {
        let this = self.absolute()?;
        let file = this.path();
        let lasts = std::fs::metadata(file).is_ok_and(|m| m.is_file());
        Ok((lasts && !["/dev", "/proc"].iter().any(|dir| file.starts_with(dir))).then_some(this))
    }
}

/// How a process comes by a secret again, perhaps one that has changed since.
pub enum Again {
    /// It is read each time, for `key change` may have replaced it, and until then it is not in memory.
    File(SecretFile),
    Kept(Kept),
}

impl Again {
    /// To be called in the process that is to keep it: memory is locked for one process, not for its children.
    pub fn of(found: Found) -> Result<Again> {
        let Found { given, file } = found;
        let again = match file.map(SecretFile::lasting).transpose()?.flatten() {
            Some(file) => Again::File(file),
            None => Again::Kept(Kept::keep(&given)),
        };
        drop(given);
        overwrite_stack();
        Ok(again)
    }

    pub fn give(&self) -> Result<Given> {
        match self {
            Again::File(file) => file.read(),
            Again::Kept(kept) => kept.give(),
        }
    }
}

/// A secret in locked memory. A [`Given`] stands on the heap among other things.
pub struct Kept {
    what: What,
    len: usize,
    pages: Vec<Locked<Zeroizing<[u8; PAGE]>>>,
}

const PAGE: usize = 4096;

enum What {
    Passphrase,
    Key,
    Recovery,
}

impl Kept {
    fn keep(given: &Given) -> Kept {
        let (what, bytes) = match given {
            Given::Passphrase(text) => (What::Passphrase, text.as_bytes()),
            Given::KeyFile(key) => (What::Key, &key.0[..]),
            Given::Recovery(text) => (What::Recovery, text.as_bytes()),
        };
        let page = |part: &[u8]| {
            // Locked first, filled then: so nothing is left where it is moved from.
            let mut page = Locked::new(Zeroizing::new([0; PAGE]));
            page.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
            page
        };
        Kept { what, len: bytes.len(), pages: bytes.chunks(PAGE).map(page).collect() }
    }

    fn give(&self) -> Result<Given> {
        let bytes = || self.pages.iter().flat_map(|page| page.iter().copied()).take(self.len);
        let text = || {
            let mut text = Zeroizing::new(Vec::with_capacity(self.len));
            text.extend(bytes());
            let text = String::from_utf8(std::mem::take(&mut *text));
            // It was text before.
            text.map(Zeroizing::new).map_err(|_| Error::new(Kind::Secret, "a kept secret is no text"))
        };
        Ok(match self.what {
            What::Passphrase => Given::Passphrase(text()?),
            What::Recovery => Given::Recovery(text()?),
            What::Key => {
                let mut key = Box::new(Key([0; 32]));
                key.0.iter_mut().zip(bytes()).for_each(|(to, from)| *to = from);
                Given::KeyFile(key)
            }
        })
    }
}

impl fmt::Debug for Again {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Again::File(file) => file.fmt(f),
            Again::Kept(_) => f.write_str("Kept(…)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(given: Given) -> String {
        match given {
            Given::Passphrase(text) => format!("passphrase {}", *text),
            Given::Recovery(text) => format!("recovery {}", *text),
            Given::KeyFile(key) => format!("key {:?}", key.0),
        }
    }

    #[test]
    fn a_kept_secret_comes_out_as_it_went_in() {
        for len in [1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE] {
            let long = || Zeroizing::new("ü".repeat(len));
            for given in [Given::Passphrase(long()), Given::Recovery(long())] {
                assert_eq!(text(Kept::keep(&given).give().unwrap()), text(given));
            }
        }
        let key = Given::KeyFile(Box::new(Key(std::array::from_fn(|n| n as u8))));
        assert_eq!(text(Kept::keep(&key).give().unwrap()), text(key));
    }

    #[test]
    fn a_file_is_read_each_time_and_what_can_be_read_once_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pass");
        std::fs::write(&file, "old").unwrap();
        let again = Again::of(SecretFile::Passphrase(file.clone()).try_into().unwrap()).unwrap();
        std::fs::write(&file, "new").unwrap();
        assert_eq!(text(again.give().unwrap()), "passphrase new");
        std::fs::remove_file(&file).unwrap();
        assert_eq!(again.give().unwrap_err().kind(), Kind::Secret);
        let given = || Given::Passphrase(Zeroizing::new("once".into()));
        for file in [None, Some(SecretFile::Passphrase("/dev/stdin".into()))] {
            let again = Again::of(Found { given: given(), file }).unwrap();
            assert_eq!(text(again.give().unwrap()), "passphrase once");
        }
    }
}
