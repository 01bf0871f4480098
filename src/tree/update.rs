//! Edits of a Map: level by level, from the leaves up.
//!
//! Every level is a sorted run of entries cut into nodes; what changes in the nodes of one level is a list of
//! edits of the level above. A pass over a level goes from edit to edit: it enters the node that an edit falls
//! into, where a scan would begin anew, feeds that node's entries with the edits merged in to the cutter, and
//! goes on into the next nodes until the new cuts meet an old one. What lies between is neither read nor
//! written. Since the rule of cutting looks at nothing else, the result is what a build from nothing gives.
//!
//! A node that cannot be read stays as it is: before it a cut is made, and edits that fall into it are brought in
//! beside it (`around.rs`).

use super::around::{self, Around, Unread};
use super::boundary::MAX_LEVEL;
use super::cursor::{Cursor, Leading};
use super::node::{Built, Child, Cutter, Node, check_entry};
use super::{Map, Root};
use crate::chunk::{ChunkSink, Chunks, Sealer};
use crate::error::{Error, Kind, Result};

/// A key with its new value, or none to delete it.
pub type Edit = (Vec<u8>, Option<Vec<u8>>);

/// The pointers of nodes of one level, by last key: entries of the level above.
type Pointers = Vec<(Vec<u8>, Vec<u8>)>;

pub(super) fn update(
    map: &Map,
    sealer: &dyn Sealer,
    chunks: &dyn Chunks,
    sink: &mut dyn ChunkSink,
    edits: &[Edit],
) -> Result<Map> {
    check_edits(edits)?;
    if edits.is_empty() {
        return Ok(map.clone());
    }
    let mut around = Around::new();
    let mut first = 0;
    let mut cursor = match (Cursor::at_root(chunks, map.root.as_ref()), &map.root) {
        (Err(e), Some(root)) if e.kind() == Kind::Damage => {
            let unread = Unread::root(root.node.clone(), root.level)?;
            first = unread.level;
            unread.take(edits, sealer, sink, around.entry(first).or_default())?;
            Cursor::new(chunks)
        }
        (cursor, _) => cursor?,
    };
    let edits = if first == 0 { edits } else { &[] };
    levels(map, sealer, sink, &mut cursor, first, edits, around)
}

/// The Map without the keys from `from` on that are below `to`, if there is one.
pub(super) fn without(
    map: &Map,
    sealer: &dyn Sealer,
    chunks: &dyn Chunks,
    sink: &mut dyn ChunkSink,
    from: &[u8],
    to: Option<&[u8]>,
) -> Result<Map> {
    let (gone, around) = around::clear(map, chunks, from, to)?;
    let first = around.keys().next().copied().filter(|first| *first >= map.height());
    let mut cursor = match first {
        Some(_) => Cursor::new(chunks),
        None => Cursor::at_root(chunks, map.root.as_ref())?,
    };
    levels(map, sealer, sink, &mut cursor, first.unwrap_or(0), &gone, around)
}

/// Makes these edits of the level `first` (0 is that of the entries), and what follows from them above, with those that
/// go around nodes.
fn levels(
    map: &Map,
    sealer: &dyn Sealer,
    sink: &mut dyn ChunkSink,
    cursor: &mut Cursor,
    first: u8,
    edits: &[Edit],
    mut around: Around,
) -> Result<Map> {
    let mut above: Vec<Edit>;
    let mut edits: &[Edit] = edits;
    for level in first..=MAX_LEVEL {
        if let Some(beside) = around.remove(&level) {
            above = edits.iter().cloned().chain(beside).collect();
            above.sort_by(|(a, _), (b, _)| a.cmp(b));
            edits = &above;
        }
        let mut pass = Pass {
            map,
            level,
            sealer,
            sink: &mut *sink,
            cutter: Cutter::new(level, *sealer.boundary_key()),
            pending: None,
            seen: 0,
            removed: Vec::new(),
            added: Vec::new(),
            around: &mut around,
        };
        let existed = level < map.height();
        if existed {
            pass.edit(cursor, edits)?;
        } else {
            pass.build(edits)?;
        }
        // whether these are all nodes of the level, not only those around some edits
        let whole = !existed || pass.seen == map.len();
        if whole && let Some(child) = pass.only_child()? {
            return lower_root(child, level, cursor.chunks());
        }
        pass.flush()?;
        let Pass { removed, added, .. } = pass;
        if removed == added && around.is_empty() {
            return Ok(map.clone());
        }
        if whole && added.len() <= 1 {
            return added.first().map_or(Ok(Map::default()), |(_, pointer)| Map::rooted(level, pointer));
        }
        above = if level + 1 < map.height() {
            differences(removed, added)
        } else {
            added.into_iter().map(|(key, pointer)| (key, Some(pointer))).collect()
        };
        edits = &above;
    }
    Err(Error::failed("a map cannot have more than 64 levels"))
}

fn check_edits(edits: &[Edit]) -> Result<()> {
    if !edits.is_sorted_by(|(a, _), (b, _)| a < b) {
        return Err(Error::failed("edits of a map must be sorted by key, each key once"));
    }
    edits.iter().try_for_each(|(key, value)| check_entry(key, value.as_deref().unwrap_or_default()))
}

/// The root of a Map whose level has one node with one child: the first node below that has more, or a leaf.
fn lower_root(mut child: Child, mut level: u8, chunks: &dyn Chunks) -> Result<Map> {
    loop {
        level = level.checked_sub(1).ok_or_else(|| Error::failed("a leaf has no child"))?;
        let node = match child.open(chunks, level) {
            Err(e) if e.kind() == Kind::Damage => None,
            node => Some(node?).filter(|node| level > 0 && node.len() == 1),
        };
        let only = node.map(|node| node.child(0)).transpose()?;
        match only.filter(|only| only.shown.is_all()) {
            Some(only) => child = only,
            None => return Ok(Map { root: Some(Root { node: child, level }) }),
        }
    }
}

/// The edits that turn one run of pointers into the other; both sorted.
fn differences(removed: Pointers, added: Pointers) -> Vec<Edit> {
    let mut edits = Vec::with_capacity(added.len());
    let mut added = added.into_iter().peekable();
    for (key, pointer) in removed {
        while let Some((new, pointer)) = added.next_if(|(new, _)| *new < key) {
            edits.push((new, Some(pointer)));
        }
        match added.next_if(|(new, _)| *new == key) {
            Some((_, same)) if same == pointer => {}
            Some((_, other)) => edits.push((key, Some(other))),
            None => edits.push((key, None)),
        }
    }
    edits.extend(added.map(|(key, pointer)| (key, Some(pointer))));
    edits
}

/// One level being edited.
struct Pass<'a> {
    map: &'a Map,
    level: u8,
    sealer: &'a dyn Sealer,
    sink: &'a mut dyn ChunkSink,
    cutter: Cutter,
    /// The newest node, held back until it is known not to be the only one of its level with one child.
    pending: Option<Built>,
    /// Entries below the old nodes that were read.
    seen: u64,
    /// Old nodes that were read.
    removed: Pointers,
    /// The nodes that stand in their place; some may be the same.
    added: Pointers,
    /// What is to be done above for edits that fall into nodes that cannot be read.
    around: &'a mut Around,
}

impl Pass<'_> {
    /// Makes the nodes of a level that did not exist.
    fn build(&mut self, edits: &[Edit]) -> Result<()> {
        for (key, value) in edits {
            if let Some(value) = value {
                self.push(key, value, None)?;
            }
        }
        self.end(None)
    }

    /// Makes the nodes that edits change.
    fn edit(&mut self, cursor: &mut Cursor, mut edits: &[Edit]) -> Result<()> {
        while let Some((key, _)) = edits.first() {
            match cursor.seek(key, self.level) {
                // Only edits of entries can be brought in beside a node.
                Err(e) if e.kind() == Kind::Damage && self.level == 0 => {
                    edits = self.go_around(cursor, edits, e)?;
                    continue;
                }
                found => found?,
            }
            loop {
                let Some(node) = cursor.top().map(|top| top.node.clone()) else { break };
                let Some(Leading { upto, entry, weight, alone }) = cursor.leading(self.map)? else { break };
                if alone {
                    self.end(None)?;
                }
                self.seen += weight;
                let rightmost = cursor.is_rightmost();
                let here =
                    if rightmost { edits.len() } else { edits.partition_point(|(key, _)| *key <= upto) };
                self.removed.extend(entry);
                let (now, later) = edits.split_at(here);
                self.merge(&node, now)?;
                edits = later;
                // Keys at its end then belong into the next node, which is looked at for that.
                let recedes =
                    node.is_part() || now.last().is_some_and(|(key, value)| *key == upto && value.is_none());
                let done = self.cutter.at_boundary();
                if done && !recedes {
                    break;
                }
                if rightmost || alone {
                    self.end(Some(&node))?;
                    break;
                }
                match cursor.next_node() {
                    // The rule would go on in there. A cut in another place does no harm.
                    Err(e) if e.kind() == Kind::Damage => {
                        tracing::debug!("a map is cut before a node that cannot be read: {}", e.chain());
                        if recedes {
                            self.keep_out(cursor, edits)?;
                        }
                        self.end(Some(&node))?;
                        break;
                    }
                    next => next?,
                };
                if done {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Brings in the edits that fall into the node that could not be entered; returns those behind it.
    fn go_around<'e>(&mut self, cursor: &Cursor, edits: &'e [Edit], e: Error) -> Result<&'e [Edit]> {
        let Some(unread) = Unread::below(cursor)? else { return Err(e) };
        let here = match unread.rightmost {
            true => edits.len(),
            false => edits.partition_point(|(key, _)| **key <= *cursor.upper(cursor.depth())),
        };
        let (now, later) = edits.split_at(here);
        if now.is_empty() {
            return Err(e);
        }
        unread.take(now, self.sealer, self.sink, self.around.entry(unread.level).or_default())?;
        Ok(later)
    }

    /// Where keys that stood before the node that could not be entered go, they must not look as if they may be in it.
    fn keep_out(&mut self, cursor: &Cursor, edits: &[Edit]) -> Result<()> {
        let Some(unread) = Unread::below(cursor)?.filter(|_| self.level == 0) else { return Ok(()) };
        // Edits in there will see to it, or have.
        let seen_to = edits.first().is_some_and(|(key, _)| *key <= unread.upto)
            || self.around.get(&unread.level).is_some_and(|a| a.iter().any(|(key, _)| *key == unread.upto));
        if !seen_to {
            self.around.entry(unread.level).or_default().push(unread.behind());
        }
        Ok(())
    }

    /// Feeds the cutter with the entries of an old node and the edits that fall into it.
    fn merge(&mut self, node: &Node, edits: &[Edit]) -> Result<()> {
        let mut edits = edits.iter().peekable();
        for i in 0..node.len() {
            let key = node.key(i);
            while let Some((new, value)) = edits.next_if(|(new, _)| new.as_slice() < key) {
                if let Some(value) = value {
                    self.push(new, value, Some(node))?;
                }
            }
            match edits.next_if(|(new, _)| new.as_slice() == key) {
                Some((_, Some(value))) => self.push(key, value, Some(node))?,
                Some((_, None)) => {}
                // A part's first and last children may hold more than it shows.
                None if node.is_part() && node.level() > 0 => {
                    self.push(key, &node.child(i)?.to_vec(), Some(node))?;
                }
                None => self.push(key, node.value(i), Some(node))?,
            }
        }
        for (new, value) in edits {
            if let Some(value) = value {
                self.push(new, value, Some(node))?;
            }
        }
        Ok(())
    }

    fn push(&mut self, key: &[u8], value: &[u8], old: Option<&Node>) -> Result<()> {
        match self.cutter.push(key, value)? {
            Some(built) => self.built(built, old),
            None => Ok(()),
        }
    }

    /// Ends the level's last node.
    fn end(&mut self, old: Option<&Node>) -> Result<()> {
        match self.cutter.finish() {
            Some(built) => self.built(built, old),
            None => Ok(()),
        }
    }

    /// Takes a new node; one that came out equal to the old node that was read last is not sealed again. (A part's
    /// pointer does not lead to all of the node.)
    fn built(&mut self, built: Built, old: Option<&Node>) -> Result<()> {
        self.flush()?;
        match (old, self.removed.last()) {
            (Some(old), Some(pointer)) if *old.bytes() == built.bytes && !old.is_part() => {
                self.added.push(pointer.clone())
            }
            _ => self.pending = Some(built),
        }
        Ok(())
    }

    /// Seals the node that was held back.
    fn flush(&mut self) -> Result<()> {
        let Some(built) = self.pending.take() else { return Ok(()) };
        let last_key = built.last_key.clone();
        self.added.push((last_key, around::seal(built, self.sealer, self.sink)?.to_vec()));
        Ok(())
    }

    /// If all new nodes are one inner node with one child: that child, which makes the node superfluous.
    /// (The child is an old node: had it been made now, it would have been found to be the only one.)
    fn only_child(&self) -> Result<Option<Child>> {
        match &self.pending {
            Some(built) if self.level > 0 && built.len == 1 && self.added.is_empty() => {
                let child = Child::from_value(&built.last_value)?;
                Ok(Some(child).filter(|child| child.shown.is_all()))
            }
            _ => Ok(None),
        }
    }
}
