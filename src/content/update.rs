//! Edits of a Blob: which segments they touch, and the form of what comes out.

use super::blob::{Blob, numbered, segment_key};
use super::draft::{Draft, Fresh, Local};
use super::segment::Segment;
use super::{Ctx, EMBED, Edit, INLINE, SEGMENT, What};
use crate::chunk::ChunkSink;
use crate::error::{Error, Kind, Result};
use crate::tree::Map;
use std::collections::BTreeMap;
use std::ops::{Bound, Range};

impl Blob {
    /// The Blob after a cut, then edits: content from `cut` on is dropped (that an extension follows is no
    /// matter: it reads as zeros), then the edits are made, which are sorted by offset and do not overlap.
    ///
    /// New chunks go to the sink, nodes of the Map included; data is read segment by segment. Besides, memory
    /// holds about 1 KiB for each segment that changes (4 KiB for one in pieces of 16 KiB). Segments that
    /// lie over damaged chunks can be changed where the damage need not be read.
    pub fn update(
        &self,
        ctx: &Ctx,
        sink: &mut dyn ChunkSink,
        cut: Option<u64>,
        edits: &[Edit],
    ) -> Result<Blob> {
        let sorted =
            edits.windows(2).all(|w| w[0].at.checked_add(w[0].len).is_some_and(|end| end <= w[1].at));
        if !sorted || edits.last().is_some_and(|e| e.at.checked_add(e.len).is_none()) {
            return Err(Error::failed("edits of content are not sorted, or go past the last offset"));
        }
        let (map, pages) = match self {
            Blob::Segments { map, pages } => (map.clone(), *pages),
            _ => (Map::default(), self.allocated() / u64::from(super::PAGE)),
        };
        let mut pass = Pass {
            ctx,
            sink,
            blob: self,
            map,
            cleared: false,
            pages,
            cut,
            cut_pending: cut.is_some_and(|at| at % u64::from(SEGMENT) != 0),
            first: None,
            emptied: false,
            changes: BTreeMap::new(),
        };
        pass.cut_segments()?;
        pass.edit(edits)?;
        pass.finish()
    }
}

/// A segment 0 that is written last, when it is known whether it is the only one.
struct First {
    draft: Draft,
    was_full: bool,
    pages_before: Option<u32>,
}

struct Pass<'a> {
    ctx: &'a Ctx<'a>,
    sink: &'a mut dyn ChunkSink,
    blob: &'a Blob,
    map: Map,
    /// Some of the old Map is not in `map` any more.
    cleared: bool,
    /// Pages of data in all segments.
    pages: u64,
    cut: Option<u64>,
    /// Whether the segment that the cut goes through is still to be cut.
    cut_pending: bool,
    first: Option<First>,
    /// All that there was is gone.
    emptied: bool,
    /// New entries of the Map; none for old ones that go.
    changes: BTreeMap<u64, Option<Vec<u8>>>,
}

impl Pass<'_> {
    /// The segment as it was, and its number of pages, where there is one; 0 for one that cannot be read, so that what a
    /// file takes is never said to be less than it is.
    fn load(&self, number: u64) -> Result<(Draft, Option<u32>)> {
        let segment = match self.blob {
            Blob::Inline(bytes) if number == 0 => return Ok((Draft::inline(bytes), Some(1))),
            Blob::One(segment) if number == 0 => segment.clone(),
            Blob::Segments { .. } => match self.map.get(self.ctx.chunks, &segment_key(number)) {
                Ok(Some(entry)) => Segment::decode(&entry)?,
                Ok(None) => return Ok((Draft::default(), None)),
                // What is written over it is kept, and all else of it stays unreadable.
                Err(e) if e.kind() == Kind::Damage => {
                    tracing::warn!("segment {number} of a file cannot be read: {}", e.chain());
                    return Ok((Segment::lost().into(), Some(0)));
                }
                Err(e) => return Err(e),
            },
            _ => return Ok((Draft::default(), None)),
        };
        let pages = segment.pages().count();
        Ok((segment.into(), Some(pages)))
    }

    /// Drops the segments that lie beyond the cut as a whole.
    fn cut_segments(&mut self) -> Result<()> {
        match self.cut {
            Some(at) => self.drop_segments(at.div_ceil(SEGMENT.into())..u64::MAX),
            None => Ok(()),
        }
    }

    fn drop_segments(&mut self, numbers: Range<u64>) -> Result<()> {
        if numbers == (0..u64::MAX) {
            // Nothing is left, and nothing of it need be read.
            (self.map, self.pages, self.emptied) = (Map::default(), 0, true);
            self.first = Some(First { draft: Draft::default(), was_full: false, pages_before: None });
            return Ok(());
        }
        if numbers.start == 0 {
            let (_, pages_before) = self.load(0)?;
            self.first = Some(First { draft: Draft::default(), was_full: false, pages_before });
        }
        let from = segment_key(numbers.start.max(1));
        for entry in self.map.range(self.ctx.chunks, Bound::Included(&from)) {
            let (number, segment) = match entry {
                Err(e) if e.kind() == Kind::Damage => return self.clear_segments(numbers),
                entry => numbered(entry?)?,
            };
            if number >= numbers.end {
                break;
            }
            if self.changes.insert(number, None).is_none() {
                self.pages = self.pages.saturating_sub(segment.pages().count().into());
            }
        }
        Ok(())
    }

    /// Takes these segments, but the first, out of the Map, although nobody can tell which of them there are: those that
    /// cannot be read go on being counted in `pages`.
    fn clear_segments(&mut self, numbers: Range<u64>) -> Result<()> {
        let from = numbers.start.max(1);
        tracing::warn!("segments from number {from} on go from a file without being read");
        self.changes.retain(|number, _| *number < from || *number >= numbers.end);
        let to = segment_key(numbers.end);
        let to = (numbers.end < u64::MAX).then_some(&to[..]);
        let Ctx { sealer, chunks, .. } = *self.ctx;
        self.map = self.map.without(sealer, chunks, self.sink, &segment_key(from), to)?;
        self.cleared = true;
        Ok(())
    }

    fn edit(&mut self, edits: &[Edit]) -> Result<()> {
        const SIZE: u64 = SEGMENT as u64;
        let mut rest = edits;
        // Everything before this offset is done.
        let mut done = 0;
        while let Some(edit) = rest.first() {
            let at = edit.at.max(done);
            let end = edit.at + edit.len;
            if at >= end {
                rest = &rest[1..];
                continue;
            }
            let number = at / SIZE;
            if matches!(edit.what, What::Hole) && at % SIZE == 0 && end / SIZE > number {
                self.drop_segments(number..end / SIZE)?;
                done = end / SIZE * SIZE;
                continue;
            }
            let start = number * SIZE;
            let inside = |at: u64| (at - start).min(SIZE) as u32;
            let mut locals = Vec::new();
            for edit in rest.iter().take_while(|edit| edit.at < start.saturating_add(SIZE)) {
                let (from, to) = (inside(edit.at.max(done).max(start)), inside(edit.at + edit.len));
                let what = match &edit.what {
                    What::Hole => None,
                    What::Data(datum, skip) => {
                        let skip = skip.checked_add(start + u64::from(from) - edit.at);
                        let skip = skip.ok_or_else(|| Error::failed("a datum has no such offset"))?;
                        Some(Fresh::Datum(datum.clone(), skip))
                    }
                };
                if from < to {
                    locals.push(Local { at: from, len: to - from, what });
                }
            }
            self.change(number, locals)?;
            done = start.saturating_add(SIZE);
            let passed = rest.iter().take_while(|edit| edit.at + edit.len <= done).count();
            rest = &rest[passed..];
        }
        Ok(())
    }

    /// Changes one segment; the first is written in the end.
    fn change(&mut self, number: u64, locals: Vec<Local>) -> Result<()> {
        let (mut draft, pages_before) = match self.first.take_if(|_| number == 0) {
            Some(first) => (first.draft, first.pages_before),
            // Dropped and counted already.
            None if self.emptied || self.changes.contains_key(&number) => (Draft::default(), None),
            None => self.load(number)?,
        };
        if let Some(cut) = self.cut {
            let start = number.saturating_mul(SEGMENT.into());
            if cut < start.saturating_add(SEGMENT.into()) {
                draft.cut(cut.saturating_sub(start) as u32);
                self.cut_pending &= cut < start;
            }
        }
        let was_full = draft.end() == SEGMENT;
        draft.apply(locals);
        if number == 0 {
            self.first = Some(First { draft, was_full, pages_before });
            return Ok(());
        }
        let segment = draft.settle(self.ctx, self.sink, was_full)?;
        self.count(pages_before, segment.as_ref());
        match segment {
            Some(segment) => drop(self.changes.insert(number, Some(segment.encode()))),
            None if pages_before.is_some() => drop(self.changes.insert(number, None)),
            None => {}
        }
        Ok(())
    }

    fn count(&mut self, pages_before: Option<u32>, segment: Option<&Segment>) {
        let after = segment.map_or(0, |segment| segment.pages().count());
        self.pages = self.pages.saturating_sub(pages_before.unwrap_or(0).into()).saturating_add(after.into());
    }

    fn finish(mut self) -> Result<Blob> {
        if let Some(cut) = self.cut.filter(|_| self.cut_pending) {
            self.change(cut / u64::from(SEGMENT), Vec::new())?;
        }
        let in_map = |number| self.map.get(self.ctx.chunks, &segment_key(number));
        let first_in_map = match in_map(0) {
            Err(e) if e.kind() == Kind::Damage => true,
            entry => entry?.is_some(),
        };
        let new = self.changes.values().any(|change| change.is_some());
        let gone = self.changes.values().filter(|change| change.is_none()).count() as u64;
        let others = new || self.map.len() > gone + u64::from(first_in_map);

        let is_map = matches!(self.blob, Blob::Segments { .. });
        let as_it_was = self.changes.is_empty() && !self.cleared;
        if self.first.is_none() && (others && is_map || as_it_was) {
            return self.map_updated();
        }
        let First { draft, was_full, pages_before } = match self.first.take() {
            Some(first) => first,
            None => {
                let (draft, pages_before) = self.load(0)?;
                First { was_full: draft.end() == SEGMENT, draft, pages_before }
            }
        };
        let end = draft.end();
        if !others && end <= INLINE {
            match draft.content(self.ctx, 0..end) {
                Ok(_) if end == 0 => return Ok(Blob::Empty),
                Ok(content) => return Ok(Blob::Inline(content.into())),
                // It stays where it is, as it is.
                Err(e) if matches!(e.kind(), Kind::Damage | Kind::NotFound) => {}
                Err(e) => return Err(e),
            }
        }
        let segment = draft.settle(self.ctx, self.sink, was_full)?;
        self.count(pages_before, segment.as_ref());
        let entry = segment.as_ref().map(Segment::encode);
        match segment {
            Some(segment) if !others && entry.as_ref().is_some_and(|e| e.len() <= EMBED) => {
                return Ok(Blob::One(segment));
            }
            None if !first_in_map => {}
            _ => drop(self.changes.insert(0, entry)),
        }
        self.map_updated()
    }

    fn map_updated(self) -> Result<Blob> {
        if self.changes.is_empty() && !self.cleared {
            return Ok(self.blob.clone());
        }
        let edits: Vec<_> =
            self.changes.into_iter().map(|(number, entry)| (segment_key(number).to_vec(), entry)).collect();
        let map = self.map.update(self.ctx.sealer, self.ctx.chunks, self.sink, &edits)?;
        Ok(if map.is_empty() { Blob::Empty } else { Blob::Segments { map, pages: self.pages } })
    }
}
