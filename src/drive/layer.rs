//! Layers of changes over a committed version: of a file's bytes, of a directory's names.
//!
//! A live inode has up to two: the *top* layer takes the changes of the current generation, the *frozen*
//! one below it holds those of the generation that is being committed.

use super::written::Written;
use crate::commit::change::DirKey;
use crate::commit::inode::FileKind;
use crate::content::{Edit, What};
use crate::types::Ino;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a run of bytes became.
#[derive(Clone)]
pub enum Run {
    Hole,
    /// Bytes of a write, from this offset in it.
    Data(Arc<Written>, usize),
}

#[derive(Clone)]
struct Extent {
    len: u64,
    run: Run,
}

/// Changes of a file's bytes.
#[derive(Clone, Default)]
pub struct FileLayer {
    /// What lies below this layer at and beyond this offset is gone.
    cut: Option<u64>,
    extents: BTreeMap<u64, Extent>,
    /// Bytes of data in `extents`.
    data: u64,
}

/// A piece of a range, as one layer has it.
pub enum Piece {
    Run {
        at: u64,
        len: u64,
        run: Run,
    },
    /// Look in the layer below.
    Below {
        at: u64,
        len: u64,
    },
}

impl FileLayer {
    pub fn is_empty(&self) -> bool {
        self.cut.is_none() && self.extents.is_empty()
    }

    /// Bytes of data that this layer holds.
    pub fn data(&self) -> u64 {
        self.data
    }

    /// Lays a run over `at..at + len`.
    pub fn put(&mut self, at: u64, len: u64, run: Run) {
        if len == 0 {
            return;
        }
        self.clear(at, at + len);
        self.data += if matches!(run, Run::Data(..)) { len } else { 0 };
        self.extents.insert(at, Extent { len, run });
    }

    /// Everything at and beyond `size` is gone.
    pub fn truncate(&mut self, size: u64) {
        self.clear(size, u64::MAX);
        self.cut = Some(self.cut.map_or(size, |c| c.min(size)));
    }

    /// Removes what lies in `from..to`, keeping the parts of extents that stick out.
    fn clear(&mut self, from: u64, to: u64) {
        let first = match self.extents.range(..from).next_back() {
            Some((at, e)) if at + e.len > from => *at,
            _ => from,
        };
        let hit: Vec<u64> = self.extents.range(first..to).map(|(at, _)| *at).collect();
        for at in hit {
            let Some(e) = self.extents.remove(&at) else { continue };
            let end = at + e.len;
            let is_data = matches!(e.run, Run::Data(..));
            let mut kept = 0;
            if at < from {
                kept += from - at;
                self.extents.insert(at, Extent { len: from - at, run: e.run.clone() });
            }
            if end > to {
                kept += end - to;
                let run = match e.run {
                    Run::Hole => Run::Hole,
                    Run::Data(w, skip) => Run::Data(w, skip + (to - at) as usize),
                };
                self.extents.insert(to, Extent { len: end - to, run });
            }
            self.data -= if is_data { e.len - kept } else { 0 };
        }
    }

    /// What this layer says of `from..to`, in order and without gaps.
    pub fn look(&self, from: u64, to: u64) -> Vec<Piece> {
        let mut out = Vec::new();
        let mut at = from;
        let first = match self.extents.range(..=from).next_back() {
            Some((start, e)) if start + e.len > from => *start,
            _ => from,
        };
        for (start, e) in self.extents.range(first..to) {
            self.gap(at, *start, &mut out);
            let (lo, hi) = ((*start).max(from), (start + e.len).min(to));
            let run = match &e.run {
                Run::Hole => Run::Hole,
                Run::Data(w, skip) => Run::Data(w.clone(), skip + (lo - start) as usize),
            };
            out.push(Piece::Run { at: lo, len: hi - lo, run });
            at = hi;
        }
        self.gap(at, to, &mut out);
        out
    }

    fn gap(&self, from: u64, to: u64, out: &mut Vec<Piece>) {
        let cut = self.cut.unwrap_or(u64::MAX).clamp(from, to.max(from));
        if from < cut {
            out.push(Piece::Below { at: from, len: cut - from });
        }
        if cut < to {
            out.push(Piece::Run { at: cut, len: to - cut, run: Run::Hole });
        }
    }

    /// Lays a later layer over this one.
    pub fn lay(&mut self, later: FileLayer) {
        if let Some(cut) = later.cut {
            self.truncate(cut);
        }
        for (at, extent) in later.extents {
            self.put(at, extent.len, extent.run);
        }
    }

    /// Whether this layer, over that one, has a hole where that one has data.
    pub fn punches(&self, below: &FileLayer) -> bool {
        let is_data = |piece: &Piece| matches!(piece, Piece::Run { run: Run::Data(..), .. });
        let mut holes = self.extents.iter().filter(|(_, e)| matches!(e.run, Run::Hole));
        holes.any(|(at, e)| below.look(*at, at + e.len).iter().any(is_data))
    }

    pub fn cut(&self) -> Option<u64> {
        self.cut
    }

    /// The layer as edits for a commit.
    pub fn edits(&self) -> Vec<Edit> {
        let edit = |(at, e): (&u64, &Extent)| Edit {
            at: *at,
            len: e.len,
            what: match &e.run {
                Run::Hole => What::Hole,
                Run::Data(w, skip) => What::Data(w.clone(), *skip as u64),
            },
        };
        self.extents.iter().map(edit).collect()
    }
}

/// Changes of a directory's names: added (or replaced), or removed.
#[derive(Clone, Default)]
pub struct DirLayer {
    pub names: BTreeMap<DirKey, Option<(Ino, FileKind)>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::written::Written;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Op {
        Data(u64, u64),
        Hole(u64, u64),
        Truncate(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0u64..90, 1u64..40).prop_map(|(a, n)| Op::Data(a, n)),
            (0u64..90, 1u64..40).prop_map(|(a, n)| Op::Hole(a, n)),
            (0u64..100).prop_map(Op::Truncate),
        ]
    }

    proptest! {
        /// Each byte of the layer is what the last operation on it said; also where the later ones are a layer of their
        /// own at first.
        #[test]
        fn a_layer_is_what_was_laid(
            ops in proptest::collection::vec(op(), 1..40), split in 0usize..60, from in 0u64..120, len in 1u64..60
        ) {
            // 0: below; 1: hole; else the byte.
            let mut model = vec![0u32; 256];
            let (mut below, mut layer) = (FileLayer::default(), FileLayer::default());
            for (i, op) in ops.iter().enumerate() {
                if i == split {
                    std::mem::swap(&mut below, &mut layer);
                }
                match *op {
                    Op::Data(at, n) => {
                        let bytes: Vec<u8> = (0..n).map(|k| ((i as u64 * 7 + k) % 200 + 2) as u8).collect();
                        for (k, b) in bytes.iter().enumerate() {
                            model[at as usize + k] = u32::from(*b);
                        }
                        layer.put(at, n, Run::Data(Written::in_memory(bytes.into()), 0));
                    }
                    Op::Hole(at, n) => {
                        model[at as usize..(at + n) as usize].fill(1);
                        layer.put(at, n, Run::Hole);
                    }
                    Op::Truncate(size) => {
                        model[size as usize..].fill(1);
                        layer.truncate(size);
                    }
                }
            }
            below.lay(layer);
            let layer = below;
            let data = model.iter().filter(|v| **v > 1).count() as u64;
            prop_assert_eq!(layer.data(), data);
            let mut seen = Vec::new();
            for piece in layer.look(from, from + len) {
                match piece {
                    Piece::Below { at, len } => { prop_assert_eq!(at, from + seen.len() as u64); seen.extend(vec![0; len as usize]) }
                    Piece::Run { at, len, run: Run::Hole } => { prop_assert_eq!(at, from + seen.len() as u64); seen.extend(vec![1; len as usize]) }
                    Piece::Run { at, len, run: Run::Data(w, skip) } => {
                        prop_assert_eq!(at, from + seen.len() as u64);
                        let b = w.bytes(true)?;
                        seen.extend(b[skip..skip + len as usize].iter().map(|b| u32::from(*b)));
                    }
                }
            }
            prop_assert_eq!(&seen[..], &model[from as usize..(from + len) as usize]);
        }
    }
}
