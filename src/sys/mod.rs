//! What the drive asks of the machine, behind traits, so that a test can make each fail, stop or lie:
//! the clock, randomness, and the disk that the journal lives on.

mod clock;
mod count;
pub mod dirs;
pub mod disk;
pub mod memory;
pub mod ranked;
pub mod simdisk;

pub use clock::{Clock, SystemClock};
pub use count::{Counter, Timer};
pub use disk::{Disk, DiskFile, HostDisk};
pub use simdisk::SimDisk;

use crate::error::{Error, Result};

/// A source of random bytes that nobody can guess.
pub trait Random: Send + Sync {
    fn fill(&self, out: &mut [u8]) -> Result<()>;
}

/// N random bytes.
pub fn random<const N: usize>(source: &dyn Random) -> Result<[u8; N]> {
    let mut out = [0; N];
    source.fill(&mut out)?;
    Ok(out)
}

/// The kernel's generator.
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, out: &mut [u8]) -> Result<()> {
        getrandom::fill(out).map_err(|e| Error::failed(format!("the kernel gives no random bytes: {e}")))
    }
}
