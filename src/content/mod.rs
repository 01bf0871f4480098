//! The content of a file: a [`Blob`].
//!
//! Content is zeros, over which data is laid. It is cut at fixed boundaries into **segments** of 1 MiB; a
//! missing segment is a hole. A [`Segment`] has a **base**, a self-encrypted set in the format of the
//! `self_encryption` crate, and over it **extents**: sealed chunks of up to 64 KiB (128 KiB where there is no
//! base). What is short has no base; what is larger is a set, and small changes to it are extents until they
//! are a quarter of a segment. So a change costs what was changed, not what surrounds it.
//!
//! A Blob does not know the file's size: past its data it is zeros, as holes are.

mod blob;
mod cache;
mod disk_cache;
mod draft;
#[cfg(fuzzing)]
pub mod fuzzing;
mod opener;
mod pages;
mod segment;
mod settle;
mod update;

#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;

pub use blob::{Blob, Seek};
pub use cache::{ContentCache, NoWait};
pub use disk_cache::{Cached, DiskCache};
pub use opener::{Fetch, OpenSealed, Opener, open_chunk};
pub use segment::{Segment, is_given_up};

use crate::chunk::{Chunks, Sealer};
use crate::error::{Error, Result};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of content in a segment.
pub const SEGMENT: u32 = 1 << 20;
/// The grain of holes, in bytes.
pub const PAGE: u32 = 4096;
/// Content of at most so many bytes stands in the Blob itself.
pub const INLINE: u32 = 256;
/// A segment whose data ends within so many bytes has no base; what is dense in it is one extent.
pub const SHORT: u32 = 128 << 10;
/// The most bytes of an extent that is laid over a base.
pub const EXTENT: u32 = 64 << 10;
/// A Blob of a single segment, the first, has its entry in itself where that takes at most so many bytes.
pub const EMBED: usize = 320;

/// Bytes that are to be written: in memory, or read back from where they wait.
pub trait Datum: Send + Sync {
    /// The bytes of this range. Only ranges inside the datum are asked for, of at most one segment.
    fn read(&self, range: Range<u64>) -> Result<Bytes>;
}

impl Datum for Bytes {
    fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let usable = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        match usable {
            Some((from, to)) if from <= to && to <= self.len() => Ok(self.slice(from..to)),
            _ => Err(Error::failed(format!("a datum of {} bytes has no range {range:?}", self.len()))),
        }
    }
}

/// What an [`Edit`] puts into its place.
#[derive(Clone)]
pub enum What {
    /// Nothing: reads as zeros, and takes no space where whole pages are covered.
    Hole,
    /// The datum's bytes, from this offset within it on.
    Data(Arc<dyn Datum>, u64),
}

/// A change of `len` bytes of content at offset `at`.
#[derive(Clone)]
pub struct Edit {
    pub at: u64,
    pub len: u64,
    pub what: What,
}

impl Edit {
    pub fn hole(at: u64, len: u64) -> Edit {
        Edit { at, len, what: What::Hole }
    }

    pub fn data(at: u64, bytes: impl Into<Bytes>) -> Edit {
        let bytes = bytes.into();
        Edit { at, len: bytes.len() as u64, what: What::Data(Arc::new(bytes), 0) }
    }
}

/// What an update of content works with.
#[derive(Clone, Copy)]
pub struct Ctx<'a> {
    pub sealer: &'a dyn Sealer,
    /// Opened chunks: what an edit leaves of a piece.
    pub chunks: &'a dyn Chunks,
    /// Stored chunks: members that are sealed again because a neighbour changed.
    pub fetch: &'a dyn Fetch,
    /// Whether the file is written or read at random: new sets then have pieces of 16 KiB, not 64.
    pub random: bool,
}

impl Ctx<'_> {
    fn piece_size(&self) -> u32 {
        if self.random { 16 << 10 } else { 64 << 10 }
    }
}
