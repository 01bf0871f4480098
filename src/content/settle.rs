//! How a changed segment is written: which data becomes extents, and when these are folded into the base.

use super::draft::{Draft, Fresh};
use super::segment::{Base, Part, Segment, Slice};
use super::{Ctx, EXTENT, PAGE, SEGMENT, SHORT};
use crate::chunk::{ChunkSink, Opening};
use crate::crypt::Seal;
use crate::crypt::set::{Io, Piece, SetMap, encode_piece, member_count, piece_range};
use crate::error::{Error, Kind, Result};
use std::ops::Range;

/// More extents over a base, or in a segment without one, are folded.
const MANY: usize = 64;
/// More bytes in extents over a base, or hidden in it, are folded.
const QUARTER: u32 = SEGMENT / 4;
/// More extents in a segment that ends within [`SHORT`] are gathered into one for each run of data.
const FEW: usize = 4;
/// A segment that ends within so many bytes is one extent for each run of data.
const TINY: u32 = 16 << 10;
/// Neighbouring extents of together at most so many bytes become one, if one of them is new.
const CRUMB: u32 = 4 << 10;

/// Bytes that become one extent.
struct Group {
    at: u32,
    end: u32,
    /// The extent that exists already, if it is to stay as it is.
    kept: Option<Slice>,
}

impl Group {
    fn fresh(range: Range<u32>) -> Group {
        Group { at: range.start, end: range.end, kept: None }
    }

    fn len(&self) -> u32 {
        self.end - self.at
    }

    /// Whether two neighbours become one extent. New data takes in an old neighbour of up to twice its
    /// length, so that of n small appends each byte is sealed about log n times, and about log n extents
    /// remain.
    fn is_worth_joining(&self, next: &Group) -> bool {
        let crumbs = self.len() + next.len() <= CRUMB;
        match (&self.kept, &next.kept) {
            (None, None) => true,
            (Some(_), None) => self.len() <= 2 * next.len() || crumbs,
            (None, Some(_)) => next.len() <= 2 * self.len() || crumbs,
            (Some(_), Some(_)) => false,
        }
    }
}

impl Draft {
    /// Writes the segment; none if it has no data. `was_full` tells whether its data ended at its end before.
    pub fn settle(mut self, ctx: &Ctx, sink: &mut dyn ChunkSink, was_full: bool) -> Result<Option<Segment>> {
        if self.end() == 0 {
            return Ok(None);
        }
        if self.parts_cover_base() {
            self.base = None;
        }
        let settled = self.try_settle(ctx, sink, was_full);
        match &settled {
            // What lies below cannot be read: the new data is laid over it all the same.
            Err(e) if matches!(e.kind(), Kind::Damage | Kind::NotFound) => {
                let groups = self.groups(EXTENT, |a, b| a.kept.is_none() && b.kept.is_none(), true);
                self.seal_groups(ctx, sink, groups, true).or(settled).map(Some)
            }
            _ => settled.map(Some),
        }
    }

    fn try_settle(&self, ctx: &Ctx, sink: &mut dyn ChunkSink, was_full: bool) -> Result<Segment> {
        let end = self.end();
        if end <= SHORT {
            let groups = self.groups(SHORT, Group::is_worth_joining, false);
            let most = if end <= TINY { 1 } else { FEW };
            let gather = groups.len() > most || self.base.is_some();
            let groups = if gather { self.runs(SHORT) } else { groups };
            return self.seal_groups(ctx, sink, groups, false);
        }
        let mut groups = self.groups(EXTENT, Group::is_worth_joining, false);
        let laid: u32 = self.parts.iter().map(|part| part.len).sum();
        let fold = match &self.base {
            Some(base) => {
                let filled = end == SEGMENT && !was_full && !self.parts.is_empty();
                groups.len() > MANY || laid.saturating_add(base.stale) > QUARTER || filled
            }
            None => {
                if groups.len() > MANY {
                    groups = self.runs(EXTENT);
                }
                groups.len() > MANY || laid > QUARTER || laid > end / 2
            }
        };
        if fold { self.fold(ctx, sink) } else { self.seal_groups(ctx, sink, groups, true) }
    }

    /// Whether nothing of the base is seen.
    fn parts_cover_base(&self) -> bool {
        let Some(base) = &self.base else { return false };
        let mut seen = 0;
        for part in self.parts.iter().chain([&Part { at: base.shown, len: 0, source: Fresh::Zeros }]) {
            let upto = part.at.min(base.shown);
            if (seen / PAGE..upto.div_ceil(PAGE)).any(|page| seen < upto && !base.hidden.contains(page)) {
                return false;
            }
            seen = seen.max(part.end());
        }
        true
    }

    /// The parts as extents, neighbours joined as `join` says up to `most` bytes. A slice that shows less than
    /// a quarter of its chunk is not worth its keep and counts as new, unless `keep_all`.
    fn groups(&self, most: u32, join: impl Fn(&Group, &Group) -> bool, keep_all: bool) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let mut push = |mut group: Group| {
            let joins = |last: &Group, next: &Group| {
                last.end == next.at && last.len() + next.len() <= most && join(last, next)
            };
            while let Some(last) = groups.pop_if(|last| joins(last, &group)) {
                group = Group::fresh(last.at..group.end);
            }
            groups.push(group);
        };
        for part in &self.parts {
            match &part.source {
                Fresh::Sealed(slice) if keep_all || slice.front + slice.back <= 3 * part.len => {
                    push(Group { at: part.at, end: part.end(), kept: Some(slice.clone()) });
                }
                _ => {
                    for at in (part.at..part.end()).step_by(most as usize) {
                        push(Group::fresh(at..part.end().min(at + most)));
                    }
                }
            }
        }
        groups
    }

    /// Each run of data without a hole in it, as extents of at most `most` bytes. One that is an extent
    /// already stays as it is.
    fn runs(&self, most: u32) -> Vec<Group> {
        let end = self.end();
        let mut groups = Vec::new();
        for run in self.pages().runs() {
            let (mut at, stop) = (run.start * PAGE, (run.end * PAGE).min(end));
            while at < stop {
                let upto = stop.min(at + most);
                let same = self.parts.iter().find(|part| part.at == at && part.end() == upto);
                let kept = match same.map(|part| &part.source) {
                    Some(Fresh::Sealed(slice)) if slice.front + slice.back <= upto - at => {
                        Some(slice.clone())
                    }
                    _ => None,
                };
                groups.push(Group { at, end: upto, kept });
                at = upto;
            }
        }
        groups
    }

    fn seal_groups(
        &self,
        ctx: &Ctx,
        sink: &mut dyn ChunkSink,
        groups: Vec<Group>,
        keep_base: bool,
    ) -> Result<Segment> {
        let mut parts = Vec::with_capacity(groups.len());
        for group in groups {
            let (at, len) = (group.at, group.len());
            let source = match group.kept {
                Some(slice) => slice,
                None => self.seal_extent(ctx, sink, at..group.end)?,
            };
            parts.push(Part { at, len, source });
        }
        Ok(Segment { base: self.base.clone().filter(|_| keep_base), parts })
    }

    fn seal_extent(&self, ctx: &Ctx, sink: &mut dyn ChunkSink, range: Range<u32>) -> Result<Slice> {
        let content = self.content(ctx, range)?;
        let (chunk, stored) = ctx.sealer.seal(Seal::Content, &content)?;
        let Opening::Sealed { key, .. } = chunk.opening else {
            return Err(Error::failed("a sealed chunk has no key of its own"));
        };
        sink.put(chunk.address, stored)?;
        Ok(Slice { front: 0, back: 0, address: chunk.address, key })
    }

    pub fn content(&self, ctx: &Ctx, range: Range<u32>) -> Result<Vec<u8>> {
        let mut content = vec![0; range.len()];
        self.read(ctx.chunks, range.start, &mut content)?;
        Ok(content)
    }

    /// Makes one set of all data, keeping of the old one what did not change.
    fn fold(&self, ctx: &Ctx, sink: &mut dyn ChunkSink) -> Result<Segment> {
        let end = self.end();
        let old = self.base.as_ref();
        let piece_size = old.map_or(ctx.piece_size(), |base| base.set.piece_size());
        let pieces = (0..member_count(end, piece_size))
            .map(|index| {
                let range = piece_range(end, piece_size, index);
                if old.is_some_and(|base| self.keeps_piece(base, index, &range)) {
                    return Ok(Piece::Kept);
                }
                Ok(Piece::Encoded(encode_piece(&self.content(ctx, range)?)))
            })
            .collect::<Result<Vec<_>>>()?;
        let mut members = Vec::with_capacity(pieces.len());
        let mut io = Io {
            source_hash: &|encoded| ctx.sealer.source_hash(encoded),
            stored: &|address| ctx.fetch.fetch(address),
            put: &mut |address, stored| {
                members.push((address, stored));
                Ok(())
            },
        };
        let set = SetMap::write(old.map(|base| &base.set), end, piece_size, pieces, &mut io)?;
        sink.put_together(members)?;
        let (pages, mut hidden) = (self.pages(), super::pages::Pages::default());
        (0..end.div_ceil(PAGE)).for_each(|page| hidden.set(page, !pages.contains(page)));
        let base = Base { set, shown: end, hidden, stale: 0 };
        Ok(Segment { base: base.tidy(), parts: Vec::new() })
    }

    /// Whether the bytes of this piece are those of the old set's member of the same index.
    fn keeps_piece(&self, base: &Base, index: usize, range: &Range<u32>) -> bool {
        let next = self.parts.partition_point(|part| part.end() <= range.start);
        let touched = self.parts.get(next).is_some_and(|part| part.at < range.end);
        // Where nothing is stale, hidden pages are zeros in the set as well.
        let first_hidden = base.hidden.next(range.start / PAGE, true) * PAGE;
        let stale = base.stale > 0 && first_hidden < range.end;
        index < base.set.members().len()
            && base.set.piece_range(index) == *range
            && range.end <= base.shown
            && !touched
            && !stale
    }
}
