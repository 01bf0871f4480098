//! What differs between two Maps.

use super::Map;
use super::cursor::{Cursor, Frame};
use crate::chunk::Chunks;
use crate::error::Result;
use bytes::Bytes;
use std::cmp::Ordering;

/// A key whose value is not the same in two Maps; one of the values may be absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: Bytes,
    pub old: Option<Bytes>,
    pub new: Option<Bytes>,
}

/// The changes from one Map to another, in the order of keys. Ends after an error.
///
/// Two cursors go forward together, each standing at a subtree or an entry, with all before it done. The one
/// at the larger subtree enters it; at the same level, equal subtrees are stepped over, others entered. Both
/// trees are cut by the same rule, so that after a difference the cursors meet again at the end of some node.
pub struct Diff<'a> {
    place: Place<'a>,
}

enum Place<'a> {
    Before { old: Map, new: Map, chunks: &'a dyn Chunks },
    At { old: Cursor<'a>, new: Cursor<'a> },
    End,
}

impl<'a> Diff<'a> {
    pub(super) fn new(old: &Map, new: &Map, chunks: &'a dyn Chunks) -> Diff<'a> {
        if old == new {
            return Diff { place: Place::End };
        }
        Diff { place: Place::Before { old: old.clone(), new: new.clone(), chunks } }
    }

    fn advance(&mut self) -> Result<Option<Change>> {
        let (mut old, mut new) = match std::mem::replace(&mut self.place, Place::End) {
            Place::Before { old, new, chunks } => {
                (Cursor::at_root(chunks, old.root.as_ref())?, Cursor::at_root(chunks, new.root.as_ref())?)
            }
            Place::At { old, new } => (old, new),
            Place::End => return Ok(None),
        };
        let change = next_change(&mut old, &mut new)?;
        if change.is_some() {
            self.place = Place::At { old, new };
        }
        Ok(change)
    }
}

impl Iterator for Diff<'_> {
    type Item = Result<Change>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

fn next_change(old: &mut Cursor, new: &mut Cursor) -> Result<Option<Change>> {
    loop {
        let (a, b) = (old.top(), new.top());
        let level = |top: Option<&Frame>| top.map(|top| top.node.level());
        let (x, y) = (level(a), level(b));
        if x.max(y) > Some(0) {
            let pointer = |top: Option<&Frame>| match top.map(|top| top.node.child(top.at)) {
                Some(Ok(child)) if child.shown.is_all() => Some(child),
                _ => None,
            };
            if x == y && pointer(a).is_some() && pointer(a) == pointer(b) {
                old.step();
                new.step();
                continue;
            }
            // the larger subtree, or both; none is at the end of its map
            if x >= y {
                old.descend()?;
            }
            if y >= x {
                new.descend()?;
            }
            continue;
        }
        let order = match (a, b) {
            (None, None) => return Ok(None),
            (Some(a), Some(b)) => a.node.key(a.at).cmp(b.node.key(b.at)),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
        };
        let entry = |top: Option<&Frame>| top.map(|top| top.node.entry(top.at));
        let (from, to) = match order {
            Ordering::Less => (entry(a), None),
            Ordering::Greater => (None, entry(b)),
            Ordering::Equal => (entry(a), entry(b)),
        };
        if order.is_le() {
            old.step();
        }
        if order.is_ge() {
            new.step();
        }
        let change = match (from, to) {
            (Some((_, old)), Some((_, new))) if old == new => continue,
            (Some((key, old)), new) => Change { key, old: Some(old), new: new.map(|(_, new)| new) },
            (None, Some((key, new))) => Change { key, old: None, new: Some(new) },
            (None, None) => continue,
        };
        return Ok(Some(change));
    }
}
