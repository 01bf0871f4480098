//! How a passphrase becomes a key: Argon2id (RFC 9106), with parameters that a slot may not overdo.

use crate::error::{Error, Result};
use crate::types::Key;
use argon2::{Algorithm, Argon2, Block, Params, Version};
use std::fmt;
use std::hint::black_box;

const MAX_MEMORY_KIB: u32 = 1 << 20;
const MAX_PASSES: u32 = 10;
const MAX_LANES: u32 = 64;

/// The parameters of Argon2id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KdfParams {
    /// Memory in KiB: 8 for each lane at least, 1 GiB at most.
    pub memory_kib: u32,
    /// Passes over the memory: 1 to 10.
    pub passes: u32,
    /// Lanes: 1 to 64.
    pub lanes: u32,
}

impl fmt::Display for KdfParams {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let KdfParams { memory_kib, passes, lanes } = self;
        match memory_kib % 1024 {
            0 => write!(f, "argon2id {} MiB", memory_kib / 1024)?,
            _ => write!(f, "argon2id {memory_kib} KiB")?,
        }
        write!(f, ", passes {passes}, lanes {lanes}")
    }
}

impl Default for KdfParams {
    /// What new slots are made with: 256 MiB, 3 passes, 4 lanes. To be raised as machines grow; slots that were
    /// made with less still open.
    fn default() -> KdfParams {
        KdfParams { memory_kib: 256 << 10, passes: 3, lanes: 4 }
    }
}

impl KdfParams {
    /// Whether a guess costs less memory, or less memory times passes, than under `other`.
    pub fn is_weaker_than(&self, other: &KdfParams) -> bool {
        let work = |p: &KdfParams| u64::from(p.memory_kib) * u64::from(p.passes);
        self.memory_kib < other.memory_kib || work(self) < work(other)
    }

    /// Says what is out of range, if anything is.
    pub(super) fn check(&self) -> Result<(), String> {
        let KdfParams { memory_kib, passes, lanes } = *self;
        if memory_kib > MAX_MEMORY_KIB {
            return Err(format!("asks for {} MiB of memory: 1024 at most", memory_kib >> 10));
        }
        if !(1..=MAX_PASSES).contains(&passes) {
            return Err(format!("asks for {passes} passes of argon2id: 1 to {MAX_PASSES}"));
        }
        if !(1..=MAX_LANES).contains(&lanes) || memory_kib < 8 * lanes {
            return Err(format!("asks for {lanes} lanes of argon2id in {memory_kib} KiB of memory"));
        }
        Ok(())
    }

    /// 32 bytes from a passphrase. Reserves and uses the memory asked for; wipes it.
    pub(super) fn stretch(&self, passphrase: &[u8], salt: &[u8; 32]) -> Result<Key> {
        self.check().map_err(Error::damage)?;
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(32)).map_err(failed)?;
        let mut memory: Vec<Block> = Vec::new();
        memory.try_reserve_exact(params.block_count()).map_err(|e| {
            Error::failed(format!("no {} MiB of memory to check a passphrase with", self.memory_kib >> 10))
                .with_source(e)
        })?;
        memory.resize(params.block_count(), Block::new());
        let mut out = Key([0; 32]);
        let done = Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into_with_memory(
            passphrase,
            salt,
            &mut out.0,
            &mut memory,
        );
        // Whoever finds the last blocks has the key.
        memory.fill(Block::new());
        black_box(&memory);
        done.map_err(failed)?;
        Ok(out)
    }
}

fn failed(e: argon2::Error) -> Error {
    Error::failed(format!("argon2id failed: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::hex;

    /// TRUST 2: a slot that asks for too much is refused before any memory is reserved.
    #[test]
    fn parameters_have_limits() {
        let ok = |memory_kib, passes, lanes| KdfParams { memory_kib, passes, lanes }.check().is_ok();
        assert!(KdfParams::default().check().is_ok());
        assert_eq!(KdfParams::default(), KdfParams { memory_kib: 262_144, passes: 3, lanes: 4 });
        assert!(ok(8, 1, 1) && ok(1 << 20, 10, 64));
        assert!(!ok((1 << 20) + 1, 1, 1) && !ok(u32::MAX, 1, 1));
        assert!(!ok(1024, 0, 1) && !ok(1024, 11, 1) && !ok(1024, u32::MAX, 1));
        assert!(!ok(1024, 1, 0) && !ok(1024, 1, 65) && !ok(1024, 1, u32::MAX));
        assert!(!ok(0, 1, 1) && !ok(31, 1, 4));
        let greedy = KdfParams { memory_kib: u32::MAX, passes: u32::MAX, lanes: u32::MAX };
        assert!(greedy.stretch(b"p", &[0; 32]).is_err());
    }

    #[test]
    fn weaker_is_less_memory_or_less_work() {
        let of = |mib: u32, passes, lanes| KdfParams { memory_kib: mib << 10, passes, lanes };
        let today = of(256, 3, 4);
        for weaker in [of(255, 10, 4), of(256, 2, 4), of(300, 2, 4), of(1, 1, 1)] {
            assert!(weaker.is_weaker_than(&today), "{weaker}");
        }
        for not in [today, of(256, 3, 1), of(256, 4, 4), of(384, 2, 4), of(1024, 10, 4)] {
            assert!(!not.is_weaker_than(&today), "{not}");
        }
        assert_eq!(today.to_string(), "argon2id 256 MiB, passes 3, lanes 4");
    }

    #[test]
    fn every_input_counts() {
        let params = KdfParams { memory_kib: 16, passes: 1, lanes: 1 };
        let key = params.stretch(b"passphrase", &[1; 32]).unwrap();
        assert_eq!(key, params.stretch(b"passphrase", &[1; 32]).unwrap());
        assert_ne!(key, params.stretch(b"Passphrase", &[1; 32]).unwrap());
        assert_ne!(key, params.stretch(b"passphrase", &[2; 32]).unwrap());
        for other in [
            KdfParams { memory_kib: 32, ..params },
            KdfParams { passes: 2, ..params },
            KdfParams { lanes: 2, ..params },
        ] {
            assert_ne!(key, other.stretch(b"passphrase", &[1; 32]).unwrap());
        }
    }

    /// As the reference implementation in C has it.
    #[test]
    fn known_answer() {
        let key = KdfParams { memory_kib: 64, passes: 3, lanes: 4 }.stretch(b"passphrase", &[1; 32]).unwrap();
        assert_eq!(hex(&key.0), "0aa1511e7d1927f7ac5515f4279eab5914779339c5d4dd64a316c1b088af6d30");
    }
}
