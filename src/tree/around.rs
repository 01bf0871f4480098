//! Edits that fall into a node that cannot be read.
//!
//! Such a node keeps its pointer: it may come back, and until then whatever may be in it must not look as if it were
//! not there. So the entry that leads to it is taken apart around the edited keys: what is put stands in nodes of its
//! own, and beside the edited keys entries show the parts of the old node that nothing is known of. To read there is an
//! error as before; what was edited reads right. Once the node can be read again the parts show what they held, and
//! edits put it back into whole nodes.
//!
//! To take a range of keys out of a Map ([`clear`]), what is in it need not be known: nodes that cannot be read go, or
//! show only what is before and behind the range.

use super::boundary::{MAX_KEY, MAX_LEVEL};
use super::cursor::Cursor;
use super::node::{Built, Child, Cutter, Shown};
use super::{Edit, Map};
use crate::chunk::{ChunkSink, Chunks, Opening, Sealer};
use crate::crypt::Seal;
use crate::error::{Error, Kind, Result};
use std::collections::BTreeMap;

/// What becomes of entries that lead to nodes that cannot be read, by level.
pub(super) type Around = BTreeMap<u8, Vec<Edit>>;

/// An entry that leads to such a node.
pub(super) struct Unread {
    pub child: Child,
    /// The level that the entry is of.
    pub level: u8,
    /// The key of the entry; and one that all keys of the node are above.
    pub upto: Vec<u8>,
    pub after: Option<Vec<u8>>,
    /// Nothing is to the right of it, and it has no key above its own.
    pub rightmost: bool,
}

impl Unread {
    /// Where a cursor could not go on: its last node stands at the entry.
    pub fn below(cursor: &Cursor) -> Result<Option<Unread>> {
        let Some(top) = cursor.top() else { return Ok(None) };
        if top.node.level() == 0 || top.at >= top.node.len() {
            return Ok(None);
        }
        let child = top.node.child(top.at)?;
        let before = cursor.bound().map(<[u8]>::to_vec);
        let after = match &child.shown {
            Shown::Above(after) => after.clone().max(before),
            Shown::All => before,
        };
        Ok(Some(Unread {
            level: top.node.level(),
            upto: top.node.key(top.at).to_vec(),
            after,
            rightmost: cursor.is_rightmost() && top.at + 1 == top.node.len(),
            child,
        }))
    }

    /// The root, whose last key nobody knows: a level above it is made.
    pub fn root(child: Child, level: u8) -> Result<Unread> {
        if level >= MAX_LEVEL {
            return Err(Error::failed("a map cannot have more than 64 levels"));
        }
        Ok(Unread { child, level: level + 1, upto: vec![0xff; MAX_KEY], after: None, rightmost: false })
    }

    /// The entry, showing only what is behind all that is read before it.
    pub fn behind(&self) -> Edit {
        (self.upto.clone(), Some(self.part(self.after.clone())))
    }

    fn part(&self, after: Option<Vec<u8>>) -> Vec<u8> {
        Child { shown: Shown::Above(after), ..self.child.clone() }.to_vec()
    }

    /// The edits of the entry's level that bring these edits in.
    pub fn take(
        &self,
        edits: &[Edit],
        sealer: &dyn Sealer,
        sink: &mut dyn ChunkSink,
        out: &mut Vec<Edit>,
    ) -> Result<()> {
        tracing::warn!(
            "map node {} cannot be read: {} entries that belong into it are put beside it",
            self.child.address,
            edits.len()
        );
        let inside = edits.partition_point(|(key, _)| key <= &self.upto);
        let (inside, beyond) = edits.split_at(inside);
        let mut after = self.after.clone();
        for (key, value) in inside {
            if let Some(before) = key_before(key).filter(|b| after.as_ref().is_none_or(|after| after < b)) {
                out.push((before, Some(self.part(after.clone()))));
            }
            match value {
                Some(value) => out.extend(self.beside(&[(key, value)], sealer, sink)?),
                None if *key == self.upto => out.push((key.clone(), None)),
                None => {}
            }
            after = after.max(Some(key.clone()));
        }
        if !inside.is_empty() && after.as_ref() != Some(&self.upto) {
            out.push((self.upto.clone(), Some(self.part(after))));
        }
        let beyond: Vec<_> = beyond.iter().filter_map(|(key, v)| Some((key, v.as_ref()?))).collect();
        out.extend(self.beside(&beyond, sealer, sink)?);
        Ok(())
    }

    /// The edits of the entry's level that take away all keys from `from` on that are below `to`, if there is one.
    fn hide(&self, from: &[u8], to: Option<&[u8]>) -> Vec<Edit> {
        let mut out = Vec::new();
        // The last of all is where greater keys would be.
        if *from > *self.upto {
            return out;
        }
        if let Some(before) = key_before(from).filter(|b| self.after.as_ref().is_none_or(|after| after < b)) {
            out.push((before, Some(self.part(self.after.clone()))));
        }
        let last = to.and_then(key_before).filter(|last| *last < self.upto);
        out.push((self.upto.clone(), last.map(|last| self.part(self.after.clone().max(Some(last))))));
        out
    }

    /// New leaves of these entries, each with as many nodes above it as the unread node's level asks for.
    fn beside(
        &self,
        entries: &[(&Vec<u8>, &Vec<u8>)],
        sealer: &dyn Sealer,
        sink: &mut dyn ChunkSink,
    ) -> Result<Vec<Edit>> {
        let mut cutter = Cutter::new(0, *sealer.boundary_key());
        let mut leaves = Vec::new();
        for (key, value) in entries {
            leaves.extend(cutter.push(key, value)?);
        }
        leaves.extend(cutter.finish());
        let mut out = Vec::with_capacity(leaves.len());
        for leaf in leaves {
            let key = leaf.last_key.clone();
            let mut child = seal(leaf, sealer, sink)?;
            for level in 1..self.level {
                let mut cutter = Cutter::new(level, *sealer.boundary_key());
                let node = match cutter.push(&key, &child.to_vec())? {
                    Some(node) => Some(node),
                    None => cutter.finish(),
                };
                child = seal(node.ok_or_else(|| Error::failed("a map node is lost"))?, sealer, sink)?;
            }
            out.push((key, Some(child.to_vec())));
        }
        Ok(out)
    }
}

/// The edits of leaves, and of levels above, that take all keys from `from` on that are below `to` (if there is one) out
/// of a Map.
pub(super) fn clear(
    map: &Map,
    chunks: &dyn Chunks,
    from: &[u8],
    to: Option<&[u8]>,
) -> Result<(Vec<Edit>, Around)> {
    let (mut gone, mut around) = (Vec::new(), Around::new());
    let mut hide = |unread: Unread| match unread.hide(from, to) {
        edits if edits.is_empty() => {}
        edits => around.entry(unread.level).or_default().extend(edits),
    };
    let mut cursor = match (Cursor::at_root(chunks, map.root.as_ref()), &map.root) {
        (Err(e), Some(root)) if e.kind() == Kind::Damage => {
            hide(Unread::root(root.node.clone(), root.level)?);
            return Ok((gone, around));
        }
        (cursor, _) => cursor?,
    };
    match cursor.seek(from, 0) {
        Ok(()) => cursor.leave_ended(),
        // It is met again below.
        Err(e) if e.kind() == Kind::Damage => {}
        Err(e) => return Err(e),
    }
    while let Some(top) = cursor.top() {
        if top.node.level() == 0 {
            let key = top.node.key(top.at);
            if to.is_some_and(|to| to <= key) {
                break;
            }
            gone.push((key.to_vec(), None));
            cursor.step();
            continue;
        }
        match cursor.descend() {
            Err(e) if e.kind() == Kind::Damage => {
                let Some(unread) = Unread::below(&cursor)? else { return Err(e) };
                // One that lies behind the range must not look as if it had what is taken out before it.
                let ends = to.is_some_and(|to| *to <= *unread.upto);
                hide(unread);
                if ends {
                    break;
                }
                cursor.step();
            }
            descended => descended?,
        }
    }
    Ok((gone, around))
}

/// The greatest key below this one, of all that there can be; none below the empty one.
fn key_before(key: &[u8]) -> Option<Vec<u8>> {
    let (last, rest) = key.split_last()?;
    let mut before = rest.to_vec();
    if let Some(lower) = last.checked_sub(1) {
        before.push(lower);
        before.resize(MAX_KEY, 0xff);
    }
    Some(before)
}

/// Seals and puts a node.
pub(super) fn seal(built: Built, sealer: &dyn Sealer, sink: &mut dyn ChunkSink) -> Result<Child> {
    let (chunk, stored) = sealer.seal(Seal::Node, &built.bytes)?;
    let Opening::Sealed { key, .. } = chunk.opening else {
        return Err(Error::failed("a map node was not sealed as one chunk"));
    };
    sink.put(chunk.address, stored)?;
    Ok(Child { address: chunk.address, key, count: built.total, shown: Shown::All })
}
