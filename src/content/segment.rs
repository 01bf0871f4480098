//! One segment of content, as its entry in a Blob says it (docs/FORMAT.md, "Segments").

use super::pages::Pages;
use super::{PAGE, SEGMENT, SHORT};
use crate::chunk::{ChunkRef, Chunks, Opening};
use crate::crypt::Seal;
use crate::crypt::set::SetMap;
use crate::error::{Error, Result};
use crate::types::{Address, Key};
use crate::wire::{Reader, Writer};
use std::ops::Range;

/// Up to 1 MiB of content: parts laid over a base, over zeros. Offsets count from the segment's start.
///
/// `S` is where the bytes of a part come from: as it is at rest, all are slices of sealed chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment<S = Slice> {
    pub(super) base: Option<Base>,
    /// Ascending, without overlap.
    pub(super) parts: Vec<Part<S>>,
}

impl<S> Default for Segment<S> {
    fn default() -> Self {
        Segment { base: None, parts: Vec::new() }
    }
}

/// Whether this stands for what [`Segment::lost`] gave up, and is no chunk.
pub fn is_given_up(address: &Address) -> bool {
    *address == Address::of(b"")
}

impl Segment {
    /// A segment of which nothing can be told: all of it lies in a chunk that cannot be, that of no bytes.
    pub(super) fn lost() -> Segment {
        let source = Slice { front: 0, back: 0, address: Address::of(b""), key: Key([0; 32]) };
        let part = |at| Part { at, len: SHORT, source: source.clone() };
        Segment { base: None, parts: (0..SEGMENT).step_by(SHORT as usize).map(part).collect() }
    }
}

/// A self-encrypted set from offset 0 on, as far as it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base {
    pub set: SetMap,
    /// Only so many of the set's bytes are content: the rest was cut off. Never 0.
    pub shown: u32,
    /// Pages of the base that are holes. Never the last page that is shown.
    pub hidden: Pages,
    /// Bytes of the set that are hidden or cut off and may be other than zero.
    pub stale: u32,
}

/// `len` bytes of content at offset `at`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part<S> {
    pub at: u32,
    pub len: u32,
    pub source: S,
}

/// Where the bytes of a part come from.
pub trait Source: Clone {
    /// Reads the bytes from offset `from` of a part of `len` bytes.
    fn read(&self, chunks: &dyn Chunks, len: u32, from: u32, out: &mut [u8]) -> Result<()>;
    /// The source of what is left of a part without so many bytes at its front and back.
    fn trim(&self, front: u32, back: u32) -> Self;
}

/// All of a sealed chunk's content, but for so many bytes at its front and back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    pub(super) front: u32,
    pub(super) back: u32,
    pub(super) address: Address,
    pub(super) key: Key,
}

impl Slice {
    pub(super) fn chunk(&self) -> ChunkRef {
        let opening = Opening::Sealed { seal: Seal::Content, key: self.key.clone() };
        ChunkRef { address: self.address, opening }
    }
}

impl Source for Slice {
    fn read(&self, chunks: &dyn Chunks, len: u32, from: u32, out: &mut [u8]) -> Result<()> {
        let content = chunks.get(&self.chunk())?;
        let whole = [self.front, len, self.back].iter().map(|&n| n as usize).sum::<usize>();
        let start = self.front as usize + from as usize;
        match content.get(start..start + out.len()) {
            Some(bytes) if content.len() == whole => out.copy_from_slice(bytes),
            _ => return Err(wrong_size(&self.address, content.len(), whole)),
        }
        Ok(())
    }

    fn trim(&self, front: u32, back: u32) -> Slice {
        Slice { front: self.front + front, back: self.back + back, ..self.clone() }
    }
}

fn wrong_size(address: &Address, is: usize, should: usize) -> Error {
    Error::damage(format!("chunk {address} has {is} bytes of content, where the file says {should}"))
}

impl Base {
    /// Whether this byte of the base is content.
    fn shows(&self, at: u32) -> bool {
        at < self.shown && !self.hidden.contains(at / PAGE)
    }

    /// Bytes of this page that are content.
    fn shown_in(&self, page: u32) -> u32 {
        if self.hidden.contains(page) { 0 } else { self.shown.saturating_sub(page * PAGE).min(PAGE) }
    }

    /// Turns a page into a hole.
    pub fn hide(&mut self, page: u32) {
        self.stale += self.shown_in(page);
        self.hidden.set(page, true);
    }

    /// Cuts off all bytes from this offset on.
    pub fn cut(&mut self, at: u32) {
        for page in at / PAGE..self.shown.div_ceil(PAGE) {
            let kept = at.saturating_sub(page * PAGE);
            self.stale += self.shown_in(page).saturating_sub(kept);
        }
        self.shown = self.shown.min(at);
    }

    /// The base without holes at its end; none if it shows nothing.
    pub fn tidy(mut self) -> Option<Base> {
        while self.shown > 0 && !self.shows(self.shown - 1) {
            let page = (self.shown - 1) / PAGE;
            self.shown = page * PAGE;
            self.hidden.set(page, false);
        }
        // Bits beyond the end say nothing, and must not: an entry has one encoding.
        for page in self.shown.div_ceil(PAGE)..SEGMENT / PAGE {
            self.hidden.set(page, false);
        }
        (self.shown > 0).then_some(self)
    }

    fn pages(&self) -> Pages {
        let mut pages = Pages::default();
        pages.touch(0..self.shown);
        self.hidden.runs().flatten().for_each(|page| pages.set(page, false));
        pages
    }

    fn read(&self, chunks: &dyn Chunks, at: u32, out: &mut [u8]) -> Result<()> {
        let (mut at, mut out) = (at, out);
        while !out.is_empty() {
            let end = at + out.len() as u32;
            let shows = self.shows(at);
            let upto = match (shows, at < self.shown) {
                (true, _) => (self.hidden.next(at / PAGE, true) * PAGE).min(self.shown),
                (false, true) => (self.hidden.next(at / PAGE, false) * PAGE).min(self.shown),
                (false, false) => end,
            };
            let (head, rest) = out.split_at_mut((upto.min(end) - at) as usize);
            if shows {
                self.read_set(chunks, at, head)?
            } else {
                head.fill(0)
            }
            at += head.len() as u32;
            out = rest;
        }
        Ok(())
    }

    fn read_set(&self, chunks: &dyn Chunks, at: u32, out: &mut [u8]) -> Result<()> {
        let (mut at, mut out) = (at, out);
        while !out.is_empty() {
            let index = (at / self.set.piece_size()) as usize;
            let range = self.set.piece_range(index);
            let chunk = self.set.chunk(index).ok_or_else(|| Error::damage("a set ends before its size"))?;
            let content = chunks.get(&chunk)?;
            if content.len() != range.len() {
                return Err(wrong_size(&chunk.address, content.len(), range.len()));
            }
            let head = &content[(at - range.start) as usize..];
            let n = head.len().min(out.len());
            out[..n].copy_from_slice(&head[..n]);
            at += n as u32;
            out = &mut out[n..];
        }
        Ok(())
    }
}

impl<S> Part<S> {
    pub fn end(&self) -> u32 {
        self.at + self.len
    }
}

impl<S: Source> Part<S> {
    /// The bytes of this range of the segment, which must be inside the part.
    pub fn slice(&self, range: Range<u32>) -> Part<S> {
        let source = self.source.trim(range.start - self.at, self.end() - range.end);
        Part { at: range.start, len: range.end - range.start, source }
    }
}

impl<S> Segment<S> {
    /// Where the data ends.
    pub fn end(&self) -> u32 {
        let base = self.base.as_ref().map_or(0, |base| base.shown);
        self.parts.last().map_or(0, Part::end).max(base)
    }

    /// The pages that hold data.
    pub fn pages(&self) -> Pages {
        let mut pages = self.base.as_ref().map(Base::pages).unwrap_or_default();
        self.parts.iter().for_each(|part| pages.touch(part.at..part.end()));
        pages
    }
}

impl<S: Source> Segment<S> {
    /// Reads the content at an offset: zeros where there is no data.
    pub(super) fn read(&self, chunks: &dyn Chunks, at: u32, out: &mut [u8]) -> Result<()> {
        let (mut at, mut out) = (at, out);
        let first = self.parts.partition_point(|part| part.end() <= at);
        for part in &self.parts[first..] {
            if out.is_empty() {
                break;
            }
            let gap = part.at.saturating_sub(at).min(out.len() as u32);
            let (head, rest) = out.split_at_mut(gap as usize);
            self.read_base(chunks, at, head)?;
            at += gap;
            let n = rest.len().min((part.end() - at) as usize);
            let (head, rest) = rest.split_at_mut(n);
            if !head.is_empty() {
                part.source.read(chunks, part.len, at - part.at, head)?;
            }
            at += n as u32;
            out = rest;
        }
        self.read_base(chunks, at, out)
    }

    fn read_base(&self, chunks: &dyn Chunks, at: u32, out: &mut [u8]) -> Result<()> {
        match &self.base {
            Some(base) => base.read(chunks, at, out),
            None => {
                out.fill(0);
                Ok(())
            }
        }
    }
}

const HAS_BASE: u8 = 1;
const HAS_HIDDEN: u8 = 2;

impl Segment {
    /// Every chunk that the segment uses, some of them perhaps more than once.
    pub fn chunks(&self) -> impl Iterator<Item = ChunkRef> + '_ {
        let members = self.base.iter().flat_map(|base| base.set.chunks());
        members.chain(self.parts.iter().map(|part| part.source.chunk()))
    }

    pub fn put(&self, w: &mut Writer) {
        let hidden = self.base.as_ref().map(|base| base.hidden).filter(|hidden| !hidden.is_empty());
        let flags = self.base.as_ref().map_or(0, |_| HAS_BASE) | hidden.map_or(0, |_| HAS_HIDDEN);
        w.u8(flags);
        if let Some(base) = &self.base {
            base.set.put(w);
            w.var(base.shown.into()).var(base.stale.into());
        }
        if let Some(hidden) = hidden {
            hidden.put(w);
        }
        w.var(self.parts.len() as u64);
        let mut end = 0;
        for Part { at, len, source } in &self.parts {
            w.var(u64::from(at - end)).var(u64::from(*len));
            w.var(source.front.into()).var(source.back.into());
            w.raw(&source.address.0).raw(&source.key.0);
            end = at + len;
        }
    }

    pub fn get(r: &mut Reader) -> Result<Segment> {
        let flags = r.u8()?;
        let base = match flags {
            0 => None,
            HAS_BASE => Some(get_base(r, false)?),
            f if f == HAS_BASE | HAS_HIDDEN => Some(get_base(r, true)?),
            _ => return Err(r.bad("unknown flags of a segment")),
        };
        let count = r.count(68)?;
        let mut parts = Vec::with_capacity(count);
        let mut end = 0u64;
        for _ in 0..count {
            let (gap, len, front, back) = (r.var32()?, r.var32()?, r.var32()?, r.var32()?);
            let at = end + u64::from(gap);
            end = at + u64::from(len);
            let whole = u64::from(front) + u64::from(len) + u64::from(back);
            if len == 0 || end > SEGMENT.into() || whole > SHORT.into() {
                return Err(r.bad("an extent is empty, too long, or out of its segment"));
            }
            let source = Slice { front, back, address: Address(r.array()?), key: Key(r.array()?) };
            parts.push(Part { at: at as u32, len, source });
        }
        if base.is_none() && parts.is_empty() {
            return Err(r.bad("a segment has no data"));
        }
        Ok(Segment { base, parts })
    }

    /// The segment that an entry of a Blob's Map says.
    pub fn decode(bytes: &[u8]) -> Result<Segment> {
        let mut r = Reader::new(bytes, "segment of a file");
        let segment = Segment::get(&mut r)?;
        r.end()?;
        Ok(segment)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        self.put(&mut w);
        w.into_vec()
    }
}

fn get_base(r: &mut Reader, has_hidden: bool) -> Result<Base> {
    let set = SetMap::get(r)?;
    let (shown, stale) = (r.var32()?, r.var32()?);
    // Of smaller pieces, an entry would not fit into a Map.
    if !(16 << 10..=256 << 10).contains(&set.piece_size()) {
        return Err(r.bad("the base of a segment has pieces out of range"));
    }
    if set.size() > SEGMENT || shown == 0 || shown > set.size() || stale > SEGMENT {
        return Err(r.bad("the base of a segment has sizes out of range"));
    }
    let hidden = if has_hidden { Pages::get(r)? } else { Pages::default() };
    let beyond = hidden.next((shown - 1) / PAGE, true);
    if has_hidden && hidden.is_empty() || beyond < SEGMENT / PAGE {
        return Err(r.bad("the holes of a segment are not as they must be"));
    }
    Ok(Base { set, shown, hidden, stale })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/FORMAT.md, "Segments".
    #[test]
    fn the_bytes_of_an_entry() {
        let set = [&[16, 0x81, 0x80, 0x08][..], &[7; 3 * 64]].concat();
        let holes = [&2u64.to_le_bytes()[..], &[0; 24]].concat();
        let extent = [&[5, 0x80, 0x20, 0, 1][..], &[1; 32], &[2; 32]].concat();
        let entry = [&[3][..], &set, &[0x81, 0x80, 0x04, 9], &holes, &[1], &extent].concat();
        let segment = Segment::decode(&entry).unwrap();
        assert_eq!(segment.encode(), entry);
        let base = segment.base.as_ref().unwrap();
        assert_eq!((base.set.size(), base.shown, base.stale), (0x20001, 0x10001, 9));
        assert_eq!(base.hidden.runs().flatten().collect::<Vec<_>>(), [1]);
        let part = &segment.parts[0];
        assert_eq!((part.at, part.len, part.source.front, part.source.back), (5, 4096, 0, 1));
        // Nothing at all, unknown flags, a hole at the end, a length that is not minimal.
        let with = |at: usize, byte: u8| [&entry[..at], &[byte], &entry[at + 1..]].concat();
        let hole = 1 + set.len() + 4 + 2;
        for bad in [vec![0, 0], with(0, 4), with(hole, 1), with(entry.len() - 67, 0)] {
            assert_eq!(Segment::decode(&bad).unwrap_err().kind(), crate::error::Kind::Damage);
        }
    }
}
