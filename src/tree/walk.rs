//! The nodes of a Map.

use super::cursor::Cursor;
use super::node::Child;
use super::{Map, Root};
use crate::chunk::{ChunkRef, Chunks};
use crate::error::Result;
use crate::types::Address;

/// The nodes of a Map (or those that another does not have), each before those below it. Leaves are named
/// without being read. A node that cannot be read gives an error in the place of what is below it, and the
/// walk goes on after it: whoever needs every node must stop at the first error.
pub struct Nodes<'a> {
    chunks: &'a dyn Chunks,
    /// The root, until it was given; then until it was opened.
    root: Option<Root>,
    unopened: Option<Root>,
    cursor: Cursor<'a>,
    /// Whether what the cursor stands at was given, but what is below it not yet.
    given: bool,
    /// The last node that was given of which only a part is shown.
    shown: Option<Address>,
    other: Option<Other<'a>>,
}

/// A Map whose nodes are left out.
struct Other<'a> {
    root: Root,
    cursor: Cursor<'a>,
}

impl Other<'_> {
    /// Whether the Map has this node, whose last key this is.
    fn has(&mut self, last_key: &[u8], node: &Child, level: u8) -> Result<bool> {
        if level >= self.root.level {
            return Ok(level == self.root.level && self.root.node == *node);
        }
        self.cursor.seek(last_key, level + 1)?;
        let Some(parent) = self.cursor.top() else { return Ok(false) };
        match parent.node.find(last_key) {
            Some(at) => Ok(parent.node.child(at)? == *node),
            None => Ok(false),
        }
    }
}

impl<'a> Nodes<'a> {
    pub(super) fn new(map: &Map, other: Option<&Map>, chunks: &'a dyn Chunks) -> Nodes<'a> {
        let other = other.and_then(|other| other.root.clone());
        Nodes {
            chunks,
            root: map.root.clone(),
            unopened: None,
            cursor: Cursor::new(chunks),
            given: false,
            shown: None,
            other: other.map(|root| Other { root, cursor: Cursor::new(chunks) }),
        }
    }

    /// The root, unless the other Map has it.
    fn first(&mut self, root: Root) -> Result<Option<ChunkRef>> {
        let node = root.node.chunk();
        let Some(other) = &mut self.other else {
            self.unopened = Some(root);
            return Ok(Some(node));
        };
        if other.root == root {
            return Ok(None);
        }
        self.cursor = Cursor::at_root(self.chunks, Some(&root))?;
        other.cursor = Cursor::at_root(self.chunks, Some(&other.root))?;
        match self.cursor.top() {
            Some(top) if !other.has(top.node.last_key(), &root.node, root.level)? => Ok(Some(node)),
            _ => {
                self.cursor = Cursor::new(self.chunks);
                Ok(None)
            }
        }
    }

    fn advance(&mut self) -> Result<Option<ChunkRef>> {
        if let Some(root) = self.root.take() {
            return self.first(root);
        }
        if let Some(root) = self.unopened.take().filter(|root| root.level > 0) {
            self.cursor = Cursor::at_root(self.chunks, Some(&root))?;
        }
        if std::mem::take(&mut self.given) {
            match self.cursor.top() {
                Some(top) if top.node.level() > 1 => {
                    if let Err(e) = self.cursor.descend() {
                        self.cursor.step();
                        return Err(e);
                    }
                }
                _ => self.cursor.step(),
            }
        }
        while let Some(top) = self.cursor.top() {
            let Some(level) = top.node.level().checked_sub(1) else { return Ok(None) };
            let child = top.node.child(top.at)?;
            // Parts of one leaf, with what was put between them.
            if level == 0 && !child.shown.is_all() && self.shown.as_ref() == Some(&child.address) {
                self.cursor.step();
                continue;
            }
            let shared = match &mut self.other {
                Some(other) => other.has(top.node.key(top.at), &child, level),
                None => Ok(false),
            };
            match shared {
                Ok(false) => {
                    self.given = true;
                    if !child.shown.is_all() {
                        self.shown = Some(child.address);
                    }
                    return Ok(Some(child.chunk()));
                }
                Ok(true) => self.cursor.step(),
                Err(e) => {
                    self.cursor.step();
                    return Err(e);
                }
            }
        }
        Ok(None)
    }
}

impl Iterator for Nodes<'_> {
    type Item = Result<ChunkRef>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}
