//! Recovery codes: 256 random bits as text that people write down and type.
//!
//! 14 groups of 4 characters in Crockford's base 32 (no I, L, O, U): the 32 bytes and 3 bytes of checksum,
//! which a typing error passes once in 16 million times.

use crate::crypt::domains::RECOVERY_CHECKSUM;
use crate::error::{Error, Kind, Result};
use crate::sys::{Random, random};
use crate::types::Key;
use std::fmt;
use zeroize::Zeroizing;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const CHARACTERS: usize = 56;
const GROUP: usize = 4;
const BYTES: usize = 35;

/// A recovery code.
pub struct RecoveryCode(Key);

impl RecoveryCode {
    pub fn generate(source: &dyn Random) -> Result<RecoveryCode> {
        Ok(RecoveryCode(Key(random(source)?)))
    }

    /// The code for the recovery sheet: `XXXX-XXXX-…`.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(CHARACTERS + CHARACTERS / GROUP));
        let (mut bits, mut held, mut written) = (0u32, 0, 0);
        for byte in self.0.0.into_iter().chain(checksum(&self.0)) {
            (bits, held) = (bits << 8 | u32::from(byte), held + 8);
            while held >= 5 {
                held -= 5;
                if written > 0 && written % GROUP == 0 {
                    text.push('-');
                }
                text.push(char::from(ALPHABET[(bits >> held & 31) as usize]));
                written += 1;
            }
        }
        text
    }

    /// Reads a code as typed: upper or lower case, with any spaces and dashes, O for 0, I or L for 1.
    /// Fails with `Kind::Secret` and says where to look.
    pub fn parse(text: &str) -> Result<RecoveryCode> {
        let wrong = |why: String| Err(Error::new(Kind::Secret, why));
        let mut bytes = Zeroizing::new([0u8; BYTES]);
        let (mut bits, mut held, mut read, mut filled) = (0u32, 0, 0, 0);
        for c in text.chars().filter(|c| !c.is_whitespace() && !is_dash(*c)) {
            let Some(value) = value(c) else {
                let group = read / GROUP + 1;
                return wrong(format!("group {group} of the recovery code has a character that no code has"));
            };
            (bits, held, read) = (bits << 5 | value, held + 5, read + 1);
            if held >= 8 {
                held -= 8;
                if let Some(byte) = bytes.get_mut(filled) {
                    *byte = (bits >> held) as u8;
                }
                filled += 1;
            }
        }
        if read != CHARACTERS {
            return wrong(format!(
                "a recovery code has {CHARACTERS} letters and digits: this one has {read}"
            ));
        }
        let mut code = RecoveryCode(Key([0; 32]));
        let (key, check) = bytes.split_at(32);
        code.0.0.copy_from_slice(key);
        if checksum(&code.0) != *check {
            return wrong(
                "the recovery code has a typing error: compare it with the sheet, group by group".into(),
            );
        }
        Ok(code)
    }

    pub(super) fn key(&self) -> &Key {
        &self.0
    }
}

impl fmt::Debug for RecoveryCode {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("RecoveryCode(…)")
    }
}

fn checksum(key: &Key) -> [u8; 3] {
    let [a, b, c, ..] = RECOVERY_CHECKSUM.derive(&[&key.0]).0;
    [a, b, c]
}

/// The hyphen, and what word processors and phones make of it.
fn is_dash(c: char) -> bool {
    matches!(c, '-' | '\u{2010}'..='\u{2015}' | '\u{2212}')
}

fn value(c: char) -> Option<u32> {
    let c = match c.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        c => c,
    };
    ALPHABET.iter().position(|a| char::from(*a) == c).map(|at| at as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn codes_come_back(key: [u8; 32]) {
            let text = RecoveryCode(Key(key)).to_text();
            prop_assert_eq!(text.len(), 69);
            prop_assert_eq!(RecoveryCode::parse(&text)?.0.0, key);
            let sloppy = text.to_lowercase().replace('-', " ").replace('0', "o").replace('1', "l");
            prop_assert_eq!(RecoveryCode::parse(&sloppy)?.0.0, key);
            let dense = format!(" {}\n", text.replace('-', "").replace('1', "I"));
            prop_assert_eq!(RecoveryCode::parse(&dense)?.0.0, key);
            prop_assert_eq!(RecoveryCode::parse(&text.replace('-', " – "))?.0.0, key);
        }

        #[test]
        fn any_text_is_read_without_harm(text in ".{0,80}") {
            prop_assert!(RecoveryCode::parse(&text).is_err());
        }
    }

    #[test]
    fn typing_errors_are_caught() {
        let text = RecoveryCode(Key(*blake3::hash(b"code").as_bytes())).to_text();
        let characters: Vec<char> = text.chars().collect();
        let refused = |typed: &[char], why: &str| {
            let e = RecoveryCode::parse(&typed.iter().collect::<String>()).unwrap_err();
            assert_eq!(e.kind(), Kind::Secret);
            assert!(e.to_string().contains(why), "{e}");
        };
        for at in (0..characters.len()).filter(|at| characters[*at] != '-') {
            let mut typed = characters.clone();
            for other in ALPHABET.map(char::from).into_iter().filter(|c| *c != characters[at]) {
                typed[at] = other;
                refused(&typed, "typing error");
            }
            let mut swapped = characters.clone();
            let next = (at + 1..characters.len()).find(|n| characters[*n] != '-');
            if let Some(next) = next.filter(|n| characters[*n] != characters[at]) {
                swapped.swap(at, next);
                refused(&swapped, "typing error");
            }
        }
        refused(&characters[1..], "this one has 55");
        refused(&[&characters[..], &['0']].concat(), "this one has 57");
        let mut foreign = characters.clone();
        foreign[6] = 'U';
        refused(&foreign, "group 2");
        refused(&[], "this one has 0");
    }

    #[test]
    fn debugging_shows_no_secret() {
        assert_eq!(format!("{:?}", RecoveryCode(Key([1; 32]))), "RecoveryCode(…)");
    }
}
