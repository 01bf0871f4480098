//! What people open a drive with.

use super::{RecoveryCode, SlotKind};
use crate::error::{Error, Kind, Result};
use crate::types::Key;
use std::fmt;
use zeroize::Zeroizing;

/// What opens a slot.
pub enum Secret {
    /// The UTF-8 bytes as typed, without the newline; not normalised.
    Passphrase(Zeroizing<String>),
    /// The 32 bytes of a key file.
    KeyFile(Key),
    Recovery(RecoveryCode),
}

impl Secret {
    /// Reads the contents of a key file: 32 bytes as they are, or 64 hexadecimal digits and perhaps a
    /// newline (`\n` or `\r\n`). Fails with `Kind::Secret` for anything else.
    pub fn from_key_file(contents: &[u8]) -> Result<Secret> {
        if let Ok(raw) = <[u8; 32]>::try_from(contents) {
            return Ok(Secret::KeyFile(Key(raw)));
        }
        let line = contents.strip_suffix(b"\n").unwrap_or(contents);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mut key = Key([0; 32]);
        let (pairs, rest) = line.as_chunks::<2>();
        if pairs.len() != 32 || !rest.is_empty() {
            return Err(Error::new(
                Kind::Secret,
                format!(
                    "a key file holds 32 bytes, or 64 hexadecimal digits: this one has {} bytes",
                    contents.len()
                ),
            ));
        }
        for (byte, [high, low]) in key.0.iter_mut().zip(pairs) {
            let digit = |c: &u8| char::from(*c).to_digit(16);
            let (Some(high), Some(low)) = (digit(high), digit(low)) else {
                return Err(Error::new(
                    Kind::Secret,
                    "a key file of 64 characters must hold hexadecimal digits: this one has others",
                ));
            };
            *byte = (high << 4 | low) as u8;
        }
        Ok(Secret::KeyFile(key))
    }

    pub fn kind(&self) -> SlotKind {
        match self {
            Secret::Passphrase(_) => SlotKind::Passphrase,
            Secret::KeyFile(_) => SlotKind::KeyFile,
            Secret::Recovery(_) => SlotKind::Recovery,
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Secret({})", self.kind())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::hex;

    #[test]
    fn key_files_are_raw_or_hexadecimal() {
        let key = *blake3::hash(b"key").as_bytes();
        let text = hex(&key);
        let forms = [
            key.to_vec(),
            text.clone().into_bytes(),
            text.to_uppercase().into_bytes(),
            format!("{text}\n").into_bytes(),
            format!("{text}\r\n").into_bytes(),
        ];
        for form in forms {
            let Secret::KeyFile(read) = Secret::from_key_file(&form).unwrap() else { panic!() };
            assert_eq!(read.0, key);
        }
    }

    #[test]
    fn other_files_are_refused_without_showing_them() {
        for bad in [b"".as_slice(), &[1; 31], &[1; 33], &[b'a'; 63], &[b'a'; 65], &[b'g'; 64], b"hunter2\n"] {
            let e = Secret::from_key_file(bad).unwrap_err();
            assert_eq!(e.kind(), Kind::Secret);
            assert!(!e.chain().contains("hunter2") && !e.chain().contains("ggg"));
        }
    }

    #[test]
    fn debugging_shows_no_secret() {
        let secret = Secret::Passphrase(Zeroizing::new("hunter2".into()));
        assert_eq!(format!("{secret:?}"), "Secret(passphrase)");
    }
}
