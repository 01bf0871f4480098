//! The bytes of a node, read and written (docs/FORMAT.md, "Map nodes").
//!
//! ```text
//! u8   format = 1
//! u8   level: 0 is a leaf
//! u16  entries, at least 1
//! u16  end of key 0, end of value 0, end of key 1, end of value 1, …   (offsets into what follows)
//!      key 0, value 0, key 1, value 1, …
//! ```
//! The value of an inner node's entry is a [`Child`]; its key is the last key below that child. Entries that lead to a
//! node that an update could not read show only a part of it (`around.rs`): the keys up to their own, above one that the
//! value tells.

use super::boundary::{HEADER, MAX_KEY, MAX_LEVEL, MAX_VALUE, MOST, PER_ENTRY, ends_after};
use crate::chunk::{ChunkRef, Chunks, Opening};
use crate::crypt::Seal;
use crate::error::{Context, Error, Result};
use crate::types::{Address, Key};
use crate::wire::{Reader, Writer};
use bytes::Bytes;

const FORMAT: u8 = 1;
/// The most bytes of an encoded [`Child`].
pub(super) const MAX_CHILD: usize = 32 + 32 + 10;

/// A pointer to a node: its address, its key, and how many entries are in the leaves below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Child {
    pub address: Address,
    pub key: Key,
    pub count: u64,
    pub shown: Shown,
}

/// What a pointer shows of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    All,
    /// What is above this key, if there is one, and not above the entry's own.
    Above(Option<Vec<u8>>),
}

impl Shown {
    pub fn is_all(&self) -> bool {
        *self == Shown::All
    }
}

impl Child {
    /// Writes a whole child.
    pub fn put(&self, w: &mut Writer) {
        w.raw(&self.address.0).raw(&self.key.0).var(self.count);
    }

    pub fn get_from(r: &mut Reader) -> Result<Child> {
        let (address, key) = (Address(r.array()?), Key(r.array()?));
        Ok(Child { address, key, count: count(r)?, shown: Shown::All })
    }

    /// From the value of an entry of an inner node.
    pub fn from_value(value: &[u8]) -> Result<Child> {
        let mut r = Reader::new(value, "child of a map node");
        let mut child = Child::get_from(&mut r)?;
        if !r.rest().is_empty() {
            child.shown = Shown::Above(match r.u8()? {
                1 => None,
                2 => Some(r.bytes()?.to_vec()),
                _ => return Err(r.bad("shows an unknown part of its child")),
            });
        }
        r.end()?;
        Ok(child)
    }

    pub fn to_vec(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(MAX_CHILD);
        self.put(&mut w);
        match &self.shown {
            Shown::All => {}
            Shown::Above(None) => drop(w.u8(1)),
            Shown::Above(Some(after)) => drop(w.u8(2).bytes(after)),
        }
        w.into_vec()
    }

    pub fn chunk(&self) -> ChunkRef {
        let opening = Opening::Sealed { seal: Seal::Node, key: self.key.clone() };
        ChunkRef { address: self.address, opening }
    }

    /// Opens the node, and holds it to the level and the count that its pointer names.
    pub fn open(&self, chunks: &dyn Chunks, level: u8) -> Result<Node> {
        let bytes = chunks.get(&self.chunk())?;
        let check = |bytes| {
            let node = Node::open(bytes)?;
            match (node.level, node.total) {
                (l, t) if l == level && t == self.count => Ok(node),
                (l, t) => Err(Error::damage(format!(
                    "has level {l} and {t} entries below it, where its parent says {level} and {}",
                    self.count
                ))),
            }
        };
        check(bytes).context(|| format!("map node {}", self.address))
    }
}

fn count(r: &mut Reader) -> Result<u64> {
    match r.var()? {
        0 => Err(r.bad("has an empty child")),
        n => Ok(n),
    }
}

/// What [`check`] finds out about a node.
struct Shape {
    level: u8,
    len: usize,
    total: u64,
}

/// Everything that a node by itself can be held to. Not that it was cut where the rule would cut it: a tree
/// cut elsewhere reads as well, and a later build of nacrefs may cut differently.
fn check(bytes: &[u8]) -> Result<Shape> {
    let mut r = Reader::new(bytes, "map node");
    if bytes.len() > MOST {
        return Err(r.bad("is larger than 32 KiB"));
    }
    if r.u8()? != FORMAT {
        return Err(r.bad("has a format unknown to this version of nacrefs"));
    }
    let level = r.u8()?;
    if level > MAX_LEVEL {
        return Err(r.bad("has a level over 63"));
    }
    let len = usize::from(r.u16()?);
    if len == 0 {
        return Err(r.bad("is empty"));
    }
    let table = r.raw(len * PER_ENTRY)?;
    let (mut start, mut total, mut last) = (0, 0u64, None);
    for &[k0, k1, v0, v1] in table.as_chunks().0 {
        let (middle, end) = (u16::from_le_bytes([k0, k1]).into(), u16::from_le_bytes([v0, v1]).into());
        let pieces = r.rest().get(start..middle).zip(r.rest().get(middle..end));
        let (key, value) = pieces.ok_or_else(|| r.bad("has an offset out of range"))?;
        if key.len() > MAX_KEY || value.len() > MAX_VALUE {
            return Err(r.bad("has an entry that is too large"));
        }
        if last.is_some_and(|last| last >= key) {
            return Err(r.bad("has keys out of order"));
        }
        let below = if level == 0 { 1 } else { below(value)? };
        total = total.checked_add(below).ok_or_else(|| r.bad("counts more than 2^64 entries"))?;
        (start, last) = (end, Some(key));
    }
    r.raw(start)?;
    r.end()?;
    Ok(Shape { level, len, total })
}

/// What an entry of an inner node counts for: a part as much as the whole, so that a count is never too small.
fn below(value: &[u8]) -> Result<u64> {
    Ok(Child::from_value(value)?.count)
}

/// Validates the opened bytes of a node by themselves: format, sizes, offsets, order of keys, children.
/// That level, count and keys agree with the parent's is checked where a parent is descended.
pub fn check_node(bytes: &[u8]) -> Result<()> {
    check(bytes).map(drop)
}

/// A node that was checked: all its offsets are in range, its keys ascend strictly, it has an entry. Or a part of one,
/// which may have none.
#[derive(Clone)]
pub(super) struct Node {
    bytes: Bytes,
    level: u8,
    /// Entries in `bytes`; the first that is shown; how many are.
    all: usize,
    first: usize,
    len: usize,
    total: u64,
    /// Of a part: the key that all are above, if there is one, and the one that none is shown as greater than.
    part: Option<(Option<Bytes>, Bytes)>,
    is_gap: bool,
}

impl Node {
    pub fn open(bytes: Bytes) -> Result<Node> {
        let Shape { level, len, total } = check(&bytes)?;
        Ok(Node { bytes, level, all: len, first: 0, len, total, part: None, is_gap: false })
    }

    /// What is between a part of a node and the entry before: nothing, up to the key that the part is above.
    pub fn gap(level: u8, upto: Bytes) -> Node {
        let part = Some((None, upto));
        Node { bytes: Bytes::new(), level, all: 0, first: 0, len: 0, total: 0, part, is_gap: true }
    }

    /// What is below a part of an inner node in which there is nothing.
    pub fn below_nothing(&self) -> Node {
        Node { level: self.level.saturating_sub(1), is_gap: false, ..self.clone() }
    }

    /// The key that nothing in a part is above.
    pub fn upto(&self) -> Option<&[u8]> {
        self.part.as_ref().map(|(_, upto)| &upto[..])
    }

    /// No key of a gap can be above this one.
    pub fn gap_upto(&self) -> Option<&[u8]> {
        self.part.as_ref().filter(|_| self.is_gap).map(|(_, upto)| &upto[..])
    }

    /// The part with keys above `after` and up to `upto`. Of an inner node the children at both ends may hold others.
    pub fn between(mut self, after: Option<Bytes>, upto: Bytes) -> Node {
        let count = |wanted: &dyn Fn(&[u8]) -> bool| {
            let (mut low, mut high) = (0, self.all);
            while low < high {
                let middle = low.midpoint(high);
                if wanted(self.key(middle)) { low = middle + 1 } else { high = middle }
            }
            low
        };
        let first = after.as_ref().map_or(0, |after| count(&|key| key <= &after[..]));
        let end = match self.level {
            0 => count(&|key| key <= &upto[..]),
            _ => (count(&|key| key < &upto[..]) + 1).min(self.all),
        };
        (self.first, self.len, self.part) = (first, end.saturating_sub(first), Some((after, upto)));
        self
    }

    pub fn is_part(&self) -> bool {
        self.part.is_some()
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub fn level(&self) -> u8 {
        self.level
    }

    /// How many entries the node has; never 0, unless it is a part.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Where the piece is: pieces are key 0, value 0, key 1, …
    fn piece(&self, i: usize) -> std::ops::Range<usize> {
        let base = HEADER + PER_ENTRY * self.all;
        let i = 2 * self.first + i;
        let end = |i: usize| {
            let at = HEADER + 2 * i;
            usize::from(u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]))
        };
        base + if i == 0 { 0 } else { end(i - 1) }..base + end(i)
    }

    pub fn key(&self, i: usize) -> &[u8] {
        let key = &self.bytes[self.piece(2 * i)];
        match &self.part {
            Some((_, upto)) if **upto < *key => upto,
            _ => key,
        }
    }

    pub fn value(&self, i: usize) -> &[u8] {
        &self.bytes[self.piece(2 * i + 1)]
    }

    /// The entry, as slices that keep the node alive.
    pub fn entry(&self, i: usize) -> (Bytes, Bytes) {
        (self.bytes.slice(self.piece(2 * i)), self.bytes.slice(self.piece(2 * i + 1)))
    }

    /// The last key; empty where there is none.
    pub fn last_key(&self) -> &[u8] {
        self.len.checked_sub(1).map_or(&[], |last| self.key(last))
    }

    /// The first entry whose key is at least this; `len` if there is none.
    pub fn lower_bound(&self, key: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = low.midpoint(high);
            if self.key(middle) < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    pub fn find(&self, key: &[u8]) -> Option<usize> {
        Some(self.lower_bound(key)).filter(|&i| i < self.len && self.key(i) == key)
    }

    /// The child of an inner node. Of a part of one, the children at both ends may hold more than it shows. What a part
    /// is said to show begins after the entry before, whatever it says itself.
    pub fn child(&self, i: usize) -> Result<Child> {
        let mut child = Child::from_value(self.value(i))?;
        if !child.shown.is_all() || self.is_part() && (i == 0 || i + 1 == self.len) {
            let before = match i.checked_sub(1) {
                Some(before) => Some(self.key(before)),
                None => self.part.as_ref().and_then(|(after, _)| after.as_deref()),
            };
            let before = before.map(<[u8]>::to_vec);
            child.shown = Shown::Above(match child.shown {
                Shown::Above(own) => own.max(before),
                Shown::All => before,
            });
        }
        Ok(child)
    }
}

/// A node that is ready to be sealed.
pub(super) struct Built {
    pub bytes: Vec<u8>,
    pub last_key: Vec<u8>,
    /// Entries of the node itself.
    pub len: usize,
    /// Entries in the leaves below it (of a leaf: its own).
    pub total: u64,
    /// The value of the last entry of an inner node.
    pub last_value: Vec<u8>,
}

/// Cuts the entries of one level into nodes.
pub(super) struct Cutter {
    level: u8,
    boundary_key: [u8; 32],
    /// Ends of keys and values in `pieces`.
    ends: Vec<u16>,
    pieces: Vec<u8>,
    /// Where the last key and the last value begin in `pieces`.
    last: (usize, usize),
    total: u64,
}

impl Cutter {
    pub fn new(level: u8, boundary_key: [u8; 32]) -> Cutter {
        Cutter { level, boundary_key, ends: Vec::new(), pieces: Vec::new(), last: (0, 0), total: 0 }
    }

    /// Whether the next entry begins a node.
    pub fn at_boundary(&self) -> bool {
        self.ends.is_empty()
    }

    fn size(&self) -> usize {
        HEADER + 2 * self.ends.len() + self.pieces.len()
    }

    /// Takes the next entry of the level; gives the node that ends with it, if one does.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<Option<Built>> {
        debug_assert!(self.at_boundary() || &self.pieces[self.last.0..self.last.1] < key);
        let before = self.size();
        let below = if self.level == 0 { 1 } else { below(value)? };
        self.total =
            self.total.checked_add(below).ok_or_else(|| Error::failed("a map cannot have 2^64 entries"))?;
        let start = self.pieces.len();
        self.last = (start, start + key.len());
        for piece in [key, value] {
            self.pieces.extend_from_slice(piece);
            self.ends.push(u16::try_from(self.pieces.len()).map_err(|_| too_large())?);
        }
        debug_assert!(self.size() <= MOST);
        let ends = ends_after(&self.boundary_key, self.level, key, before, self.size());
        Ok(if ends { self.finish() } else { None })
    }

    /// The node of the entries since the last boundary, if there are any.
    pub fn finish(&mut self) -> Option<Built> {
        if self.at_boundary() {
            return None;
        }
        let len = self.ends.len() / 2;
        let mut w = Writer::with_capacity(self.size());
        w.u8(FORMAT).u8(self.level).u16(len as u16);
        for end in self.ends.drain(..) {
            w.u16(end);
        }
        w.raw(&self.pieces);
        let last_key = self.pieces[self.last.0..self.last.1].to_vec();
        let last_value = if self.level == 0 { Vec::new() } else { self.pieces[self.last.1..].to_vec() };
        self.pieces.clear();
        let total = std::mem::take(&mut self.total);
        Some(Built { bytes: w.into_vec(), last_key, len, total, last_value })
    }
}

fn too_large() -> Error {
    Error::failed("map entry is too large: a key has at most 1 KiB, a value at most 16 KiB")
}

/// Refuses an entry that no node may hold.
pub(super) fn check_entry(key: &[u8], value: &[u8]) -> Result<()> {
    if key.len() > MAX_KEY || value.len() > MAX_VALUE { Err(too_large()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Entries = Vec<(Vec<u8>, Vec<u8>)>;

    /// One node of these entries; none if they make more than one.
    fn node_of(level: u8, entries: &[(Vec<u8>, Vec<u8>)]) -> Result<Option<Vec<u8>>> {
        let mut cutter = Cutter::new(level, [7; 32]);
        for (key, value) in entries {
            if cutter.push(key, value)?.is_some() {
                return Ok(None);
            }
        }
        Ok(cutter.finish().map(|b| b.bytes))
    }

    fn entries_of(node: &Node) -> Entries {
        (0..node.len()).map(|i| (node.key(i).to_vec(), node.value(i).to_vec())).collect()
    }

    fn leaf() -> impl Strategy<Value = Entries> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..12);
        proptest::collection::btree_map(bytes(), bytes(), 1..20).prop_map(|m| m.into_iter().collect())
    }

    fn inner() -> impl Strategy<Value = Entries> {
        let child = (any::<[u8; 32]>(), any::<[u8; 32]>(), 1u64..100_000).prop_map(|(a, k, count)| {
            let shown = match count % 5 {
                0 => Shown::Above(None),
                1 => Shown::Above(Some(count.to_string().into_bytes())),
                _ => Shown::All,
            };
            Child { address: Address(a), key: Key(k), count, shown }.to_vec()
        });
        let keys = proptest::collection::vec(any::<u8>(), 0..12);
        proptest::collection::btree_map(keys, child, 1..10).prop_map(|m| m.into_iter().collect())
    }

    fn either() -> impl Strategy<Value = (u8, Entries)> {
        prop_oneof![(Just(0), leaf()), (1u8..64, inner())]
    }

    proptest! {
        #[test]
        fn a_node_comes_back((level, entries) in either()) {
            let bytes = node_of(level, &entries)?.unwrap();
            let node = Node::open(bytes.into())?;
            prop_assert_eq!(node.level(), level);
            prop_assert_eq!(&entries_of(&node), &entries);
            for (i, (key, _)) in entries.iter().enumerate() {
                prop_assert_eq!(node.find(key), Some(i));
            }
        }

        #[test]
        fn damage_is_refused_or_is_another_node(
            (level, entries) in either(),
            flips in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..4),
            cut in any::<prop::sample::Index>(),
            longer in 1usize..3,
        ) {
            let mut bent = node_of(level, &entries)?.unwrap();
            prop_assert!(check_node(&bent[..cut.index(bent.len())]).is_err());
            prop_assert!(check_node(&[&bent[..], &[0, 0][..longer]].concat()).is_err());
            for (at, bit) in flips {
                let at = at.index(bent.len());
                bent[at] ^= 1 << bit;
            }
            if let Ok(node) = Node::open(bent.clone().into()) {
                prop_assert_eq!(node_of(node.level(), &entries_of(&node))?, Some(bent));
            }
        }

        #[test]
        fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut framed = vec![FORMAT, bytes.first().copied().unwrap_or(0) & 1, 2, 0];
            framed.extend_from_slice(&bytes);
            for bytes in [bytes, framed] {
                if let Ok(node) = Node::open(bytes.clone().into()) {
                    prop_assert_eq!(node_of(node.level(), &entries_of(&node))?, Some(bytes));
                }
            }
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let leaf = node_of(0, &[(b"a".to_vec(), b"xy".to_vec()), (b"bc".to_vec(), vec![])]).unwrap().unwrap();
        assert_eq!(leaf, b"\x01\x00\x02\x00\x01\x00\x03\x00\x05\x00\x05\x00axybc");
        let child = Child { address: Address([1; 32]), key: Key([2; 32]), count: 300, shown: Shown::All };
        let inner = node_of(1, &[(b"bc".to_vec(), child.to_vec())]).unwrap().unwrap();
        let expected = [&b"\x01\x01\x01\x00\x02\x00\x44\x00bc"[..], &[1; 32], &[2; 32], b"\xac\x02"].concat();
        assert_eq!(inner, expected);
    }

    #[test]
    fn each_rule_of_a_node_is_held() {
        let child =
            |count| Child { address: Address([1; 32]), key: Key([2; 32]), count, shown: Shown::All }.to_vec();
        let raw = |level: u8, entries: &[(&[u8], &[u8])]| {
            let mut w = Writer::new();
            w.u8(FORMAT).u8(level).u16(entries.len() as u16);
            let mut end = 0;
            for (key, value) in entries {
                w.u16((end + key.len()) as u16).u16((end + key.len() + value.len()) as u16);
                end += key.len() + value.len();
            }
            entries.iter().for_each(|(key, value)| {
                w.raw(key).raw(value);
            });
            w.into_vec()
        };
        let refused = |bytes: &[u8]| check_node(bytes).unwrap_err().to_string();
        check_node(&raw(0, &[(b"", b""), (b"a", b"x")])).unwrap();
        check_node(&raw(63, &[(b"a", &child(u64::MAX))])).unwrap();
        assert!(refused(&raw(0, &[])).contains("empty"));
        assert!(refused(&raw(0, &[(b"a", b""), (b"a", b"")])).contains("out of order"));
        assert!(refused(&raw(0, &[(b"b", b""), (b"a", b"")])).contains("out of order"));
        assert!(refused(&raw(64, &[(b"a", &child(1))])).contains("level"));
        assert!(refused(&raw(1, &[(b"a", &child(0))])).contains("empty child"));
        assert!(refused(&raw(1, &[(b"a", &child(1)[1..])])).contains("ends too early"));
        assert!(refused(&raw(1, &[(b"a", &child(u64::MAX)), (b"b", &child(1))])).contains("2^64"));
        assert!(refused(&raw(1, &[(b"a", &[&child(1)[..], &[3]].concat())])).contains("unknown part"));
        check_node(&raw(1, &[(b"b", &[&child(1)[..], &[2, 1, 7]].concat())])).unwrap();
        assert!(refused(&raw(0, &[(&[1; MAX_KEY + 1], b"")])).contains("too large"));
        assert!(refused(&raw(0, &[(b"a", &[1; MAX_VALUE + 1])])).contains("too large"));
        assert!(refused(&vec![0; MOST + 1]).contains("32 KiB"));
        let mut long = raw(0, &[(b"a", b"x")]);
        long.push(0);
        assert!(refused(&long).contains("left over"));
        long[0] = 2;
        assert!(refused(&long).contains("format"));
    }
}
