//! A segment that is being changed: parts may be data that is not sealed yet.

use super::segment::{Part, Segment, Slice, Source};
use super::{Datum, PAGE, SEGMENT};
use crate::chunk::Chunks;
use crate::error::{Error, Result};
use bytes::Bytes;
use std::sync::Arc;

pub(super) type Draft = Segment<Fresh>;

/// Where the bytes of a part of a draft come from.
#[derive(Clone)]
pub(super) enum Fresh {
    /// A chunk that exists.
    Sealed(Slice),
    Zeros,
    Inline(Bytes),
    /// A datum, from this offset within it on.
    Datum(Arc<dyn Datum>, u64),
}

impl Source for Fresh {
    fn read(&self, chunks: &dyn Chunks, len: u32, from: u32, out: &mut [u8]) -> Result<()> {
        let start = from as usize;
        match self {
            Fresh::Sealed(slice) => return slice.read(chunks, len, from, out),
            Fresh::Zeros => out.fill(0),
            Fresh::Inline(bytes) => match bytes.get(start..start + out.len()) {
                Some(bytes) => out.copy_from_slice(bytes),
                None => return Err(Error::failed("inline content is shorter than its part")),
            },
            Fresh::Datum(datum, at) => {
                let start = at + u64::from(from);
                let bytes = datum.read(start..start + out.len() as u64)?;
                if bytes.len() != out.len() {
                    return Err(Error::failed("a datum gave more or less than was asked for"));
                }
                out.copy_from_slice(&bytes);
            }
        }
        Ok(())
    }

    fn trim(&self, front: u32, back: u32) -> Fresh {
        match self {
            Fresh::Sealed(slice) => Fresh::Sealed(slice.trim(front, back)),
            Fresh::Zeros => Fresh::Zeros,
            Fresh::Inline(bytes) => Fresh::Inline(bytes.slice(front as usize..bytes.len() - back as usize)),
            Fresh::Datum(datum, at) => Fresh::Datum(datum.clone(), at + u64::from(front)),
        }
    }
}

/// An edit within one segment: the source of its bytes, or none to make a hole.
pub(super) struct Local {
    pub at: u32,
    pub len: u32,
    pub what: Option<Fresh>,
}

impl Local {
    fn end(&self) -> u32 {
        self.at + self.len
    }
}

impl From<Segment> for Draft {
    fn from(segment: Segment) -> Draft {
        let sealed = |p: Part<Slice>| Part { at: p.at, len: p.len, source: Fresh::Sealed(p.source) };
        Segment { base: segment.base, parts: segment.parts.into_iter().map(sealed).collect() }
    }
}

impl Draft {
    /// The draft of content that stands inline.
    pub fn inline(bytes: &Bytes) -> Draft {
        let part = Part { at: 0, len: bytes.len() as u32, source: Fresh::Inline(bytes.clone()) };
        Draft { base: None, parts: vec![part] }
    }

    /// Drops all content from this offset on.
    pub fn cut(&mut self, at: u32) {
        let beyond = Local { at, len: SEGMENT - at, what: None };
        self.parts = uncovered(std::mem::take(&mut self.parts), &[beyond]);
        if let Some(base) = &mut self.base {
            base.cut(at);
        }
        self.tidy();
    }

    /// Makes these edits, which are sorted and do not overlap.
    pub fn apply(&mut self, edits: Vec<Local>) {
        let end = self.end();
        self.parts = uncovered(std::mem::take(&mut self.parts), &edits);
        for edit in edits {
            match edit.what {
                Some(source) => self.parts.push(Part { at: edit.at, len: edit.len, source }),
                None => self.punch(&edit, end),
            }
        }
        self.parts.sort_unstable_by_key(|part| part.at);
        self.tidy();
    }

    /// Takes these bytes off the base: whole pages by hiding them, others by zeros laid over them. A page
    /// counts as whole if all of it up to `end`, where the data ended, is taken off.
    fn punch(&mut self, hole: &Local, end: u32) {
        let Some(base) = &mut self.base else { return };
        for page in hole.at / PAGE..hole.end().min(base.shown).div_ceil(PAGE) {
            let (start, stop) = (page * PAGE, ((page + 1) * PAGE).min(base.shown));
            let (from, to) = (hole.at.max(start), hole.end().min(stop));
            if hole.at <= start && hole.end() >= ((page + 1) * PAGE).min(end) {
                base.hide(page);
            } else if from < to && !base.hidden.contains(page) {
                self.parts.push(Part { at: from, len: to - from, source: Fresh::Zeros });
            }
        }
    }

    fn tidy(&mut self) {
        self.base = self.base.take().and_then(|base| base.tidy());
    }
}

/// What the edits leave of these parts.
fn uncovered(parts: Vec<Part<Fresh>>, edits: &[Local]) -> Vec<Part<Fresh>> {
    let mut out = Vec::with_capacity(parts.len() + edits.len());
    for part in parts {
        let mut from = part.at;
        let first = edits.partition_point(|edit| edit.end() <= part.at);
        for edit in edits[first..].iter().take_while(|edit| edit.at < part.end()) {
            if from < edit.at {
                out.push(part.slice(from..edit.at));
            }
            from = edit.end();
        }
        if from < part.end() {
            out.push(part.slice(from..part.end()));
        }
    }
    out
}
