//! What the fuzz targets share: a limit on memory, seals of known keys, and scripts.
//!
//! A **script** is an input that tells what to build before a reader is let loose on it: records of a few fixed fields,
//! read with [`nacrefs::wire::Reader`] until they end. So an input can be mutated anywhere and still means something,
//! and [`seeds`](../seeds.rs) can write one from a real drive.

pub mod chunks;
#[path = "../../tests/common/dice.rs"]
pub mod dice;
pub mod drive;
pub mod forge;
mod memory;
#[path = "../../tests/sim/world.rs"]
pub mod world;

pub use libfuzzer_sys::fuzz_target;
pub use memory::within;

use nacrefs::error::Result;
use nacrefs::wire::{Reader, Writer};

/// Defines the fuzz target: the body is run on each input, and may keep so many MiB of memory at its peak (besides 64
/// bytes for each byte of input).
#[macro_export]
macro_rules! target {
    ($mib:expr, |$data:ident| $body:expr) => {
        $crate::fuzz_target!(|$data: &[u8]| {
            $crate::within(($mib << 20) + 64 * $data.len(), || $body);
        });
    };
}

/// Demands the one encoding: what was read, when written anew, is what was there.
#[track_caller]
pub fn same(again: Result<Vec<u8>>, bytes: &[u8]) {
    if let Ok(again) = again {
        assert!(again == bytes, "read, but written anew it is {again:02x?}");
    }
}

/// The first byte, which chooses what the rest is.
pub fn choice(data: &[u8]) -> (u8, &[u8]) {
    data.split_first().map_or((0, &[]), |(first, rest)| (*first, rest))
}

/// The next bytes of a script, after their length (u16); fewer where it ends before.
pub fn bytes<'a>(r: &mut Reader<'a>) -> Result<&'a [u8]> {
    let n = usize::from(r.u16()?);
    r.raw(n.min(r.rest().len()))
}

/// What [`bytes`] reads.
pub fn put_bytes(w: &mut Writer, bytes: &[u8]) {
    w.u16(u16::try_from(bytes.len()).unwrap_or(u16::MAX)).raw(&bytes[..bytes.len().min(u16::MAX.into())]);
}
