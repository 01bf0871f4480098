//! A file's content, as a directory entry's pointer holds it (docs/FORMAT.md, "Blobs").

use super::pages::Pages;
use super::segment::Segment;
use super::{EMBED, INLINE, PAGE, SEGMENT};
use crate::chunk::{ChunkRef, Chunks};
use crate::error::Result;
use crate::tree::Map;
use crate::wire::{Reader, Writer};
use bytes::Bytes;
use std::ops::Bound;

/// The content of a file. Small, cheap to clone; a value: an update makes another Blob.
///
/// Which form content has follows from the content alone: the least of these that can hold it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Blob {
    /// No data.
    #[default]
    Empty,
    /// 1 to [`INLINE`] bytes from offset 0 on.
    Inline(Bytes),
    /// Data in the first segment only, with an entry of at most [`EMBED`] bytes.
    One(Segment),
    /// The segments by number (u64, big-endian), and how many pages of data they have.
    Segments { map: Map, pages: u64 },
}

/// What to look for: lseek(2), `SEEK_DATA` and `SEEK_HOLE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    Data,
    Hole,
}

const EMPTY: u8 = 0;
const INLINE_BYTES: u8 = 1;
const ONE: u8 = 2;
const SEGMENTS: u8 = 3;

pub(super) fn segment_key(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// The number and the entry of a segment, from a Map's entry.
pub(super) fn numbered((key, value): (Bytes, Bytes)) -> Result<(u64, Segment)> {
    let mut r = Reader::new(&key, "number of a segment");
    let number = u64::from_be_bytes(r.array()?);
    r.end()?;
    Ok((number, Segment::decode(&value)?))
}

impl Blob {
    pub fn put(&self, w: &mut Writer) {
        match self {
            Blob::Empty => {
                w.u8(EMPTY);
            }
            Blob::Inline(bytes) => {
                w.u8(INLINE_BYTES).bytes(bytes);
            }
            Blob::One(segment) => {
                w.u8(ONE);
                segment.put(w);
            }
            Blob::Segments { map, pages } => {
                w.u8(SEGMENTS).var(*pages);
                map.put(w);
            }
        }
    }

    pub fn get(r: &mut Reader) -> Result<Blob> {
        match r.u8()? {
            EMPTY => Ok(Blob::Empty),
            INLINE_BYTES => match r.bytes()? {
                b if b.is_empty() || b.len() > INLINE as usize => {
                    Err(r.bad("inline content is too long, or empty"))
                }
                b => Ok(Blob::Inline(Bytes::copy_from_slice(b))),
            },
            ONE => {
                let before = r.rest().len();
                let segment = Segment::get(r)?;
                match before - r.rest().len() {
                    n if n > EMBED => Err(r.bad("a segment in a pointer is too large")),
                    _ => Ok(Blob::One(segment)),
                }
            }
            SEGMENTS => {
                let pages = r.var()?;
                let map = Map::get_from(r)?;
                if map.is_empty() {
                    return Err(r.bad("content in segments has none"));
                }
                Ok(Blob::Segments { map, pages })
            }
            _ => Err(r.bad("unknown form of content")),
        }
    }

    /// Space that the data takes, in bytes, at the grain of pages: `st_blocks` times 512.
    pub fn allocated(&self) -> u64 {
        let pages = match self {
            Blob::Empty => 0,
            Blob::Inline(_) => 1,
            Blob::One(segment) => segment.pages().count().into(),
            Blob::Segments { pages, .. } => *pages,
        };
        pages.saturating_mul(PAGE.into())
    }

    /// Reads the content at an offset; zeros where there is no data. After an error `out` is undefined, and
    /// a smaller range may still be readable.
    pub fn read(&self, chunks: &dyn Chunks, at: u64, out: &mut [u8]) -> Result<()> {
        let (mut at, mut out) = (at, out);
        while !out.is_empty() {
            let inside = (at % u64::from(SEGMENT)) as u32;
            let n = out.len().min((SEGMENT - inside) as usize);
            let (head, rest) = out.split_at_mut(n);
            match (self, at / u64::from(SEGMENT)) {
                (Blob::Inline(bytes), 0) => {
                    let data = bytes.get(inside as usize..).unwrap_or_default();
                    let (data_head, zeros) = head.split_at_mut(data.len().min(n));
                    data_head.copy_from_slice(&data[..data_head.len()]);
                    zeros.fill(0);
                }
                (Blob::One(segment), 0) => segment.read(chunks, inside, head)?,
                (Blob::Segments { map, .. }, number) => match map.get(chunks, &segment_key(number))? {
                    Some(entry) => Segment::decode(&entry)?.read(chunks, inside, head)?,
                    None => head.fill(0),
                },
                _ => head.fill(0),
            }
            at = at.saturating_add(n as u64);
            out = rest;
        }
        Ok(())
    }

    /// The first offset from `from` on with data, or in a hole, in a file of `size` bytes, whose end is a hole.
    /// None where there is no such data, and beyond the end (`ENXIO`).
    pub fn seek(&self, chunks: &dyn Chunks, what: Seek, from: u64, size: u64) -> Result<Option<u64>> {
        if from >= size {
            return Ok(None);
        }
        let mut at = from;
        for item in self.pages(chunks, from / u64::from(SEGMENT)) {
            let (number, pages) = item?;
            let start = number.saturating_mul(SEGMENT.into());
            if start >= size || what == Seek::Hole && at < start {
                break;
            }
            at = at.max(start);
            let page = pages.next(((at - start) / u64::from(PAGE)) as u32, what == Seek::Data);
            at = at.max(start.saturating_add(u64::from(page) * u64::from(PAGE)));
            if page < SEGMENT / PAGE && what == Seek::Data {
                return Ok(Some(at).filter(|at| *at < size));
            }
            if page < SEGMENT / PAGE {
                break;
            }
        }
        Ok(match what {
            Seek::Data => None,
            Seek::Hole => Some(at.min(size)),
        })
    }

    /// Calls `visit` with every chunk that the content uses, nodes of its Map included; some more than once.
    pub fn chunk_refs(
        &self,
        chunks: &dyn Chunks,
        visit: &mut dyn FnMut(ChunkRef) -> Result<()>,
    ) -> Result<()> {
        match self {
            Blob::Empty | Blob::Inline(_) => Ok(()),
            Blob::One(segment) => segment.chunks().try_for_each(visit),
            Blob::Segments { map, .. } => {
                map.nodes(chunks).try_for_each(|node| visit(node?))?;
                let mut entries = map.range(chunks, Bound::Unbounded);
                entries.try_for_each(|entry| numbered(entry?)?.1.chunks().try_for_each(&mut *visit))
            }
        }
    }

    /// The pages of data of each segment from number `from` on.
    fn pages<'a>(
        &self,
        chunks: &'a dyn Chunks,
        from: u64,
    ) -> Box<dyn Iterator<Item = Result<(u64, Pages)>> + 'a> {
        let first = match self {
            Blob::Segments { map, .. } => {
                let entries = map.range(chunks, Bound::Included(&segment_key(from)));
                return Box::new(entries.map(|entry| numbered(entry?).map(|(n, s)| (n, s.pages()))));
            }
            Blob::One(segment) => segment.pages(),
            Blob::Inline(_) => {
                let mut pages = Pages::default();
                pages.set(0, true);
                pages
            }
            Blob::Empty => Pages::default(),
        };
        Box::new((from == 0).then_some(Ok((0, first))).into_iter())
    }
}
