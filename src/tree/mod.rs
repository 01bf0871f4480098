//! Maps: persistent sorted maps from byte keys to byte values, as trees of sealed chunks.
//!
//! A [`Map`] is a prolly tree: nodes are sorted runs of entries, cut at boundaries that keyed hashes of keys
//! and the sizes of entries decide ([`boundary`]), never the order of edits. So, under the keys of one realm
//! and epoch, the same entries always give the same nodes and the same root: an update makes new nodes only
//! where something changed and on the path above, maps share what they have in common, and two of them are
//! compared in time proportional to their difference. (Prolly trees are Noms' and Dolt's; cutting by content goes back to
//! rsync and LBFS.)
//!
//! A node's pointer carries its key, so that whoever holds a Map can read all of it, and nothing else.
//! Values of a Map are values: an update returns a new Map, and the old one goes on being readable.

mod around;
pub mod boundary;
mod cursor;
mod diff;
#[cfg(fuzzing)]
pub mod fuzzing;
mod node;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
mod update;
mod walk;

pub use boundary::{MAX_KEY, MAX_VALUE};
pub use cursor::Range;
pub use diff::{Change, Diff};
pub use node::check_node;
pub use update::Edit;
pub use walk::Nodes;

use crate::chunk::{ChunkRef, ChunkSink, Chunks, Sealer};
use crate::error::Result;
use crate::wire::{Reader, Writer};
use boundary::MAX_LEVEL;
use bytes::Bytes;
use cursor::Cursor;
use node::Child;
use std::ops::Bound;

/// A sorted map, as the pointer to its root. Maps that are equal have the same entries; the other way round
/// holds for maps made under the keys of one realm and epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map {
    root: Option<Root>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Root {
    node: Child,
    level: u8,
}

impl Map {
    fn rooted(level: u8, pointer: &[u8]) -> Result<Map> {
        Ok(Map { root: Some(Root { node: Child::from_value(pointer)?, level }) })
    }

    /// Writes the Map: its height, and unless that is 0 the root's address, key and count. At most 75 bytes.
    pub fn put(&self, w: &mut Writer) {
        match &self.root {
            None => {
                w.u8(0);
            }
            Some(root) => {
                w.u8(root.level + 1);
                root.node.put(w);
            }
        }
    }

    pub fn get_from(r: &mut Reader) -> Result<Map> {
        let root = match r.u8()?.checked_sub(1) {
            None => None,
            Some(level) if level > MAX_LEVEL => return Err(r.bad("map has more than 64 levels")),
            Some(level) => Some(Root { node: Child::get_from(r)?, level }),
        };
        Ok(Map { root })
    }

    /// How many entries there are.
    pub fn len(&self) -> u64 {
        self.root.as_ref().map_or(0, |root| root.node.count)
    }

    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// How many levels of nodes there are; 0 where there are no entries.
    pub fn height(&self) -> u8 {
        self.root.as_ref().map_or(0, |root| root.level + 1)
    }

    /// The root node.
    pub fn root(&self) -> Option<ChunkRef> {
        self.root.as_ref().map(|root| root.node.chunk())
    }

    /// The value of a key, as a slice of its node. Reads one node of each level.
    pub fn get(&self, chunks: &dyn Chunks, key: &[u8]) -> Result<Option<Bytes>> {
        let mut cursor = Cursor::at_root(chunks, self.root.as_ref())?;
        if cursor.top().is_some_and(|root| root.node.last_key() < key) {
            return Ok(None);
        }
        cursor.seek(key, 0)?;
        Ok(cursor.top().and_then(|leaf| Some(leaf.node.entry(leaf.node.find(key)?).1)))
    }

    /// The entries in the order of their keys, from a bound on. Nothing is read before the first is asked for.
    pub fn range<'a>(&self, chunks: &'a dyn Chunks, from: Bound<&[u8]>) -> Range<'a> {
        Range::new(self.clone(), chunks, from)
    }

    /// The Map with these edits, which must be sorted by key, each key once; the old Map stays as it was.
    ///
    /// New nodes go to the sink; those that come out equal to old ones do not. Memory is that of the edits,
    /// of a path of nodes and of a pointer to each new node, whatever the size of the Map. After an error,
    /// nodes that were put already are without use, and harmless.
    ///
    /// Fails with `Kind::Failed` where edits are not sorted, or an entry is larger than [`MAX_KEY`] and
    /// [`MAX_VALUE`] allow (nothing is put then), and as `chunks` and `sink` fail; but not for nodes that are damaged:
    /// these keep their pointers, and what is edited in them is put beside them.
    pub fn update(
        &self,
        sealer: &dyn Sealer,
        chunks: &dyn Chunks,
        sink: &mut dyn ChunkSink,
        edits: &[Edit],
    ) -> Result<Map> {
        update::update(self, sealer, chunks, sink, edits)
    }

    /// The Map without the entries whose keys are `from` or above, and below `to`, if there is one; those that nobody can
    /// read included. Else as [`Map::update`], but that edits stand in memory for entries that go.
    pub fn without(
        &self,
        sealer: &dyn Sealer,
        chunks: &dyn Chunks,
        sink: &mut dyn ChunkSink,
        from: &[u8],
        to: Option<&[u8]>,
    ) -> Result<Map> {
        update::without(self, sealer, chunks, sink, from, to)
    }

    /// What differs from this Map (old) to the other (new), in the order of keys. Subtrees that both have are
    /// not read.
    pub fn diff<'a>(&self, other: &Map, chunks: &'a dyn Chunks) -> Diff<'a> {
        Diff::new(self, other, chunks)
    }

    /// All nodes, each before those below it. Leaves are named without being read.
    pub fn nodes<'a>(&self, chunks: &'a dyn Chunks) -> Nodes<'a> {
        Nodes::new(self, None, chunks)
    }

    /// The nodes that the other Map does not have, exactly. Reads only them (but no leaves) and the inner
    /// nodes of the other that they took the place of.
    pub fn nodes_not_in<'a>(&self, other: &Map, chunks: &'a dyn Chunks) -> Nodes<'a> {
        Nodes::new(self, Some(other), chunks)
    }
}
