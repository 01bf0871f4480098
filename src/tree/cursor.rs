//! A place in a Map: the path of nodes from the root to it.

use super::node::{Node, Shown};
use super::{Map, Root};
use crate::chunk::Chunks;
use crate::error::{Context, Error, Result};
use bytes::Bytes;
use std::ops::Bound;

/// A node of the path, and which of its entries the path goes through (or, in the last, is at).
pub(super) struct Frame {
    pub node: Node,
    pub at: usize,
}

/// The entry that leads to a node.
pub(super) struct Leading {
    /// What is above this key belongs into other nodes, unless this is the last of its level.
    pub upto: Vec<u8>,
    /// Key and value of the entry; None where there is none. A root's is made up.
    pub entry: Option<(Vec<u8>, Vec<u8>)>,
    /// What the entry counts for in the Map; nothing within a part of a node, where no sum is exact.
    pub weight: u64,
    /// Below a part in which there is nothing: no entry of this level tells of it, so that no edit of the level above
    /// would take it away, and a node must not reach over it.
    pub alone: bool,
}

/// A place in a Map. Each node that it enters is held to what its parent says of it (level, count, last key,
/// no key at or before the subtree to its left), so that whoever walks forward sees keys ascend, and no
/// walk is longer than the counts say.
pub(super) struct Cursor<'a> {
    chunks: &'a dyn Chunks,
    path: Vec<Frame>,
}

impl<'a> Cursor<'a> {
    pub fn new(chunks: &'a dyn Chunks) -> Cursor<'a> {
        Cursor { chunks, path: Vec::new() }
    }

    /// Where it reads nodes.
    pub fn chunks(&self) -> &'a dyn Chunks {
        self.chunks
    }

    /// A cursor at the first entry of the root; nowhere if there is none.
    pub fn at_root(chunks: &'a dyn Chunks, root: Option<&Root>) -> Result<Cursor<'a>> {
        let mut cursor = Cursor::new(chunks);
        if let Some(root) = root {
            cursor.path.push(Frame { node: root.node.open(chunks, root.level)?, at: 0 });
        }
        Ok(cursor)
    }

    /// The last node of the path; none past the end of the Map.
    pub fn top(&self) -> Option<&Frame> {
        self.path.last()
    }

    /// What leads to the last node of the path; None past the end of the Map.
    pub fn leading(&self, map: &Map) -> Result<Option<Leading>> {
        let Some(top) = self.top() else { return Ok(None) };
        if let Some(upto) = top.node.gap_upto() {
            return Ok(Some(Leading { upto: upto.to_vec(), entry: None, weight: 0, alone: false }));
        }
        let mut above = self.path.iter().rev().skip(1);
        let Some(parent) = above.next() else {
            return Ok(map.root.as_ref().map(|root| Leading {
                upto: top.node.last_key().to_vec(),
                entry: Some((top.node.last_key().to_vec(), root.node.to_vec())),
                weight: root.node.count,
                alone: false,
            }));
        };
        let upto = self.upper(self.path.len() - 1).to_vec();
        if parent.node.len() == 0 {
            return Ok(Some(Leading { upto, entry: None, weight: 0, alone: true }));
        }
        let child = parent.node.child(parent.at)?;
        let estimated = parent.node.is_part() || above.any(|f| f.node.is_part());
        let weight = if estimated { 0 } else { child.count };
        let entry = Some((parent.node.key(parent.at).to_vec(), child.to_vec()));
        Ok(Some(Leading { upto, entry, weight, alone: false }))
    }

    /// Up to which key there is nothing to the right of what the first `depth` nodes of the path stand at, but in it.
    /// Where that is the last of a part, this is the part's end, which may be far behind its last key.
    pub fn upper(&self, depth: usize) -> &[u8] {
        let mut upper: &[u8] = &[];
        for (n, frame) in self.path.iter().take(depth).rev().enumerate() {
            if n == 0 && frame.at < frame.node.len() {
                upper = frame.node.key(frame.at);
            }
            match frame.node.upto() {
                Some(upto) if frame.at + 1 >= frame.node.len() => upper = upto,
                _ => break,
            }
        }
        upper
    }

    /// How many nodes the path has.
    pub fn depth(&self) -> usize {
        self.path.len()
    }

    /// The last key before what the last node stands at.
    pub fn bound(&self) -> Option<&[u8]> {
        self.before(self.path.len())
    }

    /// The last key before what the first `depth` nodes of the path stand at; none at the left edge.
    fn before(&self, depth: usize) -> Option<&[u8]> {
        self.path.iter().take(depth).rev().find(|f| f.at > 0).map(|f| f.node.key(f.at - 1))
    }

    /// Enters the child that the last node stands at, at its first entry.
    pub fn enter(&mut self) -> Result<()> {
        let Some(top) = self.path.last() else { return Ok(()) };
        let below = top.node.level().checked_sub(1).ok_or_else(|| Error::failed("a leaf has no child"))?;
        if top.node.len() == 0 {
            let node = top.node.below_nothing();
            self.path.push(Frame { node, at: 0 });
            return Ok(());
        }
        let child = top.node.child(top.at)?;
        let node = child.open(self.chunks, below)?;
        if let Shown::Above(after) = child.shown {
            let upto = Bytes::copy_from_slice(top.node.key(top.at));
            let after = after.as_deref().max(self.before(self.path.len())).map(Bytes::copy_from_slice);
            self.path.push(Frame { node: node.between(after, upto), at: 0 });
            return Ok(());
        }
        let inside = node.last_key() == top.node.key(top.at)
            && self.before(self.path.len()).is_none_or(|before| before < node.key(0));
        if !inside {
            return Err(Error::damage("has keys that its parent does not say"))
                .context(|| format!("map node {}", child.address));
        }
        self.path.push(Frame { node, at: 0 });
        Ok(())
    }

    /// Enters the child, and leaves it again where nothing is in it.
    pub fn descend(&mut self) -> Result<()> {
        self.enter()?;
        self.leave_ended();
        Ok(())
    }

    /// Steps over the entry that the last node stands at, out of nodes that end with it.
    pub fn step(&mut self) {
        if let Some(top) = self.path.last_mut() {
            top.at += 1;
        }
        self.leave_ended();
    }

    /// Leaves nodes that end where it stands.
    pub fn leave_ended(&mut self) {
        while let Some(ended) = self.path.pop_if(|top| top.at >= top.node.len()) {
            // Behind a gap comes what its parent stands at.
            if let Some(parent) = self.path.last_mut()
                && ended.node.gap_upto().is_none()
            {
                parent.at += 1;
            }
        }
    }

    /// Whether nothing of the Map lies to the right of the last node.
    pub fn is_rightmost(&self) -> bool {
        self.top().is_none_or(|top| top.node.gap_upto().is_none())
            && self.path.iter().rev().skip(1).all(|f| f.at + 1 >= f.node.len())
    }

    /// Whether this is where the key is or would be put, as far as the last node is concerned.
    fn covers(&self, key: &[u8]) -> bool {
        self.top().is_some_and(|top| {
            top.node.gap_upto().is_none() && (key <= top.node.last_key() || self.is_rightmost())
        }) && self.before(self.path.len().saturating_sub(1)).is_none_or(|before| before < key)
    }

    /// Goes to the node of this level that has the key or would be given it, at the first entry whose key
    /// is at least that (past the last entry if there is none). Reads nothing that is on its path already.
    /// A level above the root is the root's.
    pub fn seek(&mut self, key: &[u8], level: u8) -> Result<()> {
        while self.path.len() > 1
            && self.top().is_some_and(|top| top.node.level() < level || !self.covers(key))
        {
            self.path.pop();
        }
        while let Some(top) = self.path.last_mut() {
            top.at = top.node.lower_bound(key);
            if top.node.level() <= level {
                break;
            }
            top.at = top.at.min(top.node.len().saturating_sub(1));
            if top.node.len() > 0
                && let Shown::Above(Some(after)) = top.node.child(top.at)?.shown
                && let upto = after.as_slice().min(top.node.key(top.at)).to_vec()
                && *key <= *upto
            {
                self.path.push(Frame { node: Node::gap(level, upto.into()), at: 0 });
                break;
            }
            self.enter()?;
        }
        Ok(())
    }

    /// Goes on to the node that follows the last one on its level; false if there is none.
    pub fn next_node(&mut self) -> Result<bool> {
        let Some(level) = self.top().map(|top| top.node.level()) else { return Ok(false) };
        if self.is_rightmost() {
            return Ok(false);
        }
        if self.path.pop().is_some_and(|top| top.node.gap_upto().is_none()) {
            self.step();
        }
        while self.top().is_some_and(|top| top.node.level() > level) {
            self.enter()?;
        }
        Ok(true)
    }
}

/// The entries of a Map in the order of their keys, from a bound on: read as it goes, one path of nodes in
/// memory. Ends after an error; go on from there with a new range from the last key seen.
pub struct Range<'a> {
    place: Place<'a>,
}

enum Place<'a> {
    Before { map: Map, chunks: &'a dyn Chunks, from: Bound<Vec<u8>> },
    At(Cursor<'a>),
    End,
}

impl<'a> Range<'a> {
    pub(super) fn new(map: Map, chunks: &'a dyn Chunks, from: Bound<&[u8]>) -> Range<'a> {
        Range { place: Place::Before { map, chunks, from: from.map(<[u8]>::to_vec) } }
    }

    fn advance(&mut self) -> Result<Option<(Bytes, Bytes)>> {
        let mut cursor = match std::mem::replace(&mut self.place, Place::End) {
            Place::Before { map, chunks, from } => start(&map, chunks, &from)?,
            Place::At(cursor) => cursor,
            Place::End => return Ok(None),
        };
        while cursor.top().is_some_and(|top| top.node.level() > 0) {
            cursor.descend()?;
        }
        let entry = cursor.top().map(|top| top.node.entry(top.at));
        if entry.is_some() {
            cursor.step();
            self.place = Place::At(cursor);
        }
        Ok(entry)
    }
}

fn start<'a>(map: &Map, chunks: &'a dyn Chunks, from: &Bound<Vec<u8>>) -> Result<Cursor<'a>> {
    let mut cursor = Cursor::at_root(chunks, map.root.as_ref())?;
    if let Bound::Included(key) | Bound::Excluded(key) = from {
        cursor.seek(key, 0)?;
        let found = cursor.top().is_some_and(|top| top.at < top.node.len() && top.node.key(top.at) == key);
        if found && matches!(from, Bound::Excluded(_)) {
            cursor.step();
        } else {
            cursor.leave_ended();
        }
    }
    Ok(cursor)
}

impl Iterator for Range<'_> {
    type Item = Result<(Bytes, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}
