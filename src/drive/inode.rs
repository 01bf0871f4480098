//! A live inode: its attributes and names, and the layers of changes over its committed content.

use super::ahead::Reading;
use super::layer::{DirLayer, FileLayer};
use super::locks::NodeLock;
use crate::commit::change::{BodyChange, Change};
use crate::commit::inode::{Attr, Content, FileKind, InodeRecord, Name, ROOT, Xattrs};
use crate::content::Blob;
use crate::sys::ranked::Ranked;
use crate::tree::Map;
use crate::types::Ino;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

const PAGE: u64 = crate::content::PAGE as u64;

/// The number of a generation: what changes between two commits.
pub type Generation = u32;

pub struct Inode {
    pub ino: Ino,
    pub node: Arc<NodeLock>,
    /// How often it is open, and so that it may be mapped for writing.
    pub opens: AtomicU32,
    pub mappable: AtomicU32,
    /// Of what the kernel may have pages that it has read.
    pub seen: Mutex<Seen>,
    pub reading: Reading,
}

/// What an inode is, besides its content.
#[derive(Clone)]
pub struct Meta {
    pub attr: Attr,
    pub xattrs: Option<Arc<Xattrs>>,
    /// None when it was removed.
    pub names: Vec<Name>,
    /// It has, or had, several names: it is kept in the Map of shells.
    pub shell: bool,
    pub weight: Weight,
}

/// The bytes of extended attributes that an inode holds in memory, counted with all others' while they are held.
#[derive(Default)]
pub struct Weight {
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl Clone for Weight {
    fn clone(&self) -> Weight {
        self.all.fetch_add(self.bytes, Relaxed);
        Weight { bytes: self.bytes, all: self.all.clone() }
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Relaxed);
    }
}

impl Meta {
    /// Counts its attributes' bytes among all.
    pub fn weigh(&mut self, all: &Arc<AtomicUsize>) {
        let entries = self.xattrs.iter().flat_map(|x| x.iter());
        let bytes = entries.map(|(name, value)| name.len() + value.len()).sum();
        if bytes != self.weight.bytes {
            all.fetch_add(bytes, Relaxed);
            self.weight = Weight { bytes, all: all.clone() };
        }
    }
}

pub struct Node {
    pub meta: Meta,
    pub body: Body,
    /// The generation that `meta` and the top layer belong to.
    pub generation: Generation,
    /// Changed in `generation`.
    pub dirty: bool,
    /// As it was when an earlier generation was closed, until that is committed.
    frozen: Option<Box<Frozen>>,
    /// Whether the committed version has it as a shell.
    pub was_shell: bool,
}

struct Frozen {
    generation: Generation,
    meta: Meta,
    dirty: bool,
}

pub enum Body {
    File(FileBody),
    Dir(DirBody),
    Symlink(Arc<[u8]>),
    Special,
}

#[derive(Default)]
pub struct FileBody {
    pub base: Blob,
    /// Bytes of data in `base`.
    pub base_allocated: u64,
    pub frozen: Option<Arc<FileLayer>>,
    pub top: FileLayer,
}

#[derive(Default)]
pub struct DirBody {
    pub base: Map,
    pub frozen: Option<Arc<DirLayer>>,
    pub top: DirLayer,
    /// The directory above; of the root, itself.
    pub parent: Ino,
}

impl Inode {
    pub fn new(ino: Ino, node: Node) -> Arc<Inode> {
        Arc::new(Inode {
            ino,
            node: Arc::new(NodeLock::from_raw(Ranked::numbered(ino), node)),
            opens: AtomicU32::new(0),
            mappable: AtomicU32::new(0),
            seen: Mutex::default(),
            reading: Reading::default(),
        })
    }

    /// Where the kernel may keep data of which we do not know, and asks for holes without handing it over: what was written
    /// through a shared mapping. It has read a page before it lets anybody write to it so, and a mapping keeps its file
    /// open, for reading and writing.
    pub fn may_hide_data(&self) -> Option<Seen> {
        (self.mappable.load(Relaxed) > 0).then(|| self.seen.lock().clone())
    }

    /// A clean inode as a committed version has it.
    pub fn load(
        record: InodeRecord,
        names: Vec<Name>,
        shell: bool,
        xattr_bytes: &Arc<AtomicUsize>,
    ) -> Arc<Inode> {
        let parent = names.first().map_or(ROOT, |n| n.parent);
        let body = match record.content {
            Content::File(base) => {
                Body::File(FileBody { base, base_allocated: record.attr.allocated, ..FileBody::default() })
            }
            Content::Directory(base) => Body::Dir(DirBody { base, parent, ..DirBody::default() }),
            Content::Symlink(target) => Body::Symlink(target),
            Content::Special => Body::Special,
        };
        let mut meta =
            Meta { attr: record.attr, xattrs: record.xattrs, names, shell, weight: Weight::default() };
        meta.weigh(xattr_bytes);
        Inode::new(
            record.ino,
            Node { meta, body, generation: 0, dirty: false, frozen: None, was_shell: shell },
        )
    }

    /// A new inode, empty, as a change of this generation.
    pub fn create(ino: Ino, meta: Meta, target: &[u8], parent: Ino, generation: Generation) -> Arc<Inode> {
        let body = match meta.attr.kind {
            FileKind::File => Body::File(FileBody::default()),
            FileKind::Directory => Body::Dir(DirBody { parent, ..DirBody::default() }),
            FileKind::Symlink => Body::Symlink(target.into()),
            _ => Body::Special,
        };
        Inode::new(ino, Node { meta, body, generation, dirty: true, frozen: None, was_shell: false })
    }
}

/// Ranges of a file, apart from each other and in order; where there are too many, with what lies between some of them.
#[derive(Clone, Default)]
pub struct Seen(Vec<(u64, u64)>);

impl Seen {
    const MOST: usize = 32;

    pub fn add(&mut self, from: u64, to: u64) {
        let (from, to) = (from / PAGE * PAGE, to.div_ceil(PAGE).saturating_mul(PAGE));
        // Reading on from where it was read last.
        if let Some(last) = self.0.last_mut()
            && last.0 <= from
            && from <= last.1
        {
            last.1 = last.1.max(to);
            return;
        }
        let first = self.0.partition_point(|r| r.1 < from);
        let end = self.0.partition_point(|r| r.0 <= to);
        let met = self.0.get(first..end).unwrap_or_default();
        let whole = (met.first().map_or(from, |r| r.0.min(from)), met.last().map_or(to, |r| r.1.max(to)));
        self.0.splice(first..end.max(first), [whole]);
        if self.0.len() > Seen::MOST {
            let gaps = self.0.windows(2).map(|two| two[1].0 - two[0].1);
            if let Some((least, _)) = gaps.enumerate().min_by_key(|(_, gap)| *gap) {
                let next = self.0.remove(least + 1);
                self.0[least].1 = next.1;
            }
        }
    }

    /// The first place at or after `at` that is in a range, and where that ends.
    pub fn next(&self, at: u64) -> Option<(u64, u64)> {
        self.0.iter().find(|r| r.1 > at).map(|r| (r.0.max(at), r.1))
    }
}

impl Node {
    pub fn is_dir(&self) -> bool {
        self.meta.attr.kind == FileKind::Directory
    }

    /// Removed: no name is left.
    pub fn is_gone(&self) -> bool {
        self.meta.names.is_empty()
    }

    /// Nothing of it is missing from the committed version.
    pub fn is_stored(&self) -> bool {
        !self.dirty && !self.frozen.as_ref().is_some_and(|f| f.dirty)
    }

    pub fn file(&mut self) -> Option<&mut FileBody> {
        if let Body::File(f) = &mut self.body { Some(f) } else { None }
    }

    pub fn dir(&mut self) -> Option<&mut DirBody> {
        if let Body::Dir(d) = &mut self.body { Some(d) } else { None }
    }

    /// Makes the top layer one of generation `now`. `closed`: the generation being committed, if any.
    pub fn roll(&mut self, now: Generation, closed: Option<Generation>) {
        if self.generation == now {
            return;
        }
        if closed.is_some_and(|c| self.generation <= c) && (self.dirty || self.is_dir()) {
            self.frozen = Some(Box::new(Frozen {
                generation: self.generation,
                meta: self.meta.clone(),
                dirty: self.dirty,
            }));
            if self.dirty {
                match &mut self.body {
                    Body::File(f) => f.frozen = Some(Arc::new(std::mem::take(&mut f.top))),
                    Body::Dir(d) => d.frozen = Some(Arc::new(std::mem::take(&mut d.top))),
                    Body::Symlink(_) | Body::Special => {}
                }
            }
        }
        self.generation = now;
        self.dirty = false;
    }

    /// The inode's first name when `closed` was closed.
    pub fn name_at(&self, closed: Generation) -> Option<&Name> {
        match &self.frozen {
            Some(f) if self.generation > closed && f.generation <= closed => f.meta.names.first(),
            _ => self.meta.names.first(),
        }
    }

    /// What changed up to the closing of `closed`; None where nothing did. The node must be rolled.
    pub fn change(&self, ino: Ino, closed: Generation) -> Option<Change> {
        let frozen = self.frozen.as_ref().filter(|f| f.generation == closed && f.dirty)?;
        let body = match &self.body {
            Body::File(f) => BodyChange::File {
                base: f.base.clone(),
                cut: f.frozen.as_ref().and_then(|l| l.cut()),
                edits: f.frozen.as_ref().map(|l| l.edits()).unwrap_or_default(),
            },
            Body::Dir(d) => BodyChange::Directory {
                base: d.base.clone(),
                names: d.frozen.as_ref().map(|l| l.names.clone()).unwrap_or_default(),
            },
            Body::Symlink(target) => BodyChange::Symlink(target.clone()),
            Body::Special => BodyChange::Special,
        };
        let meta = &frozen.meta;
        Some(Change {
            ino,
            attr: meta.attr.clone(),
            xattrs: meta.xattrs.clone(),
            names: meta.names.clone(),
            shell: meta.shell,
            was_shell: self.was_shell,
            body,
        })
    }

    /// Whether less room is needed for it than when `closed` was closed: it has lost its last name, or is out of reach
    /// without one; it was cut or punched; or attributes were removed.
    pub fn has_shrunk_since(&self, closed: Generation, is_reachable: bool) -> bool {
        let Some(f) = self.frozen.as_ref().filter(|f| f.generation == closed) else { return false };
        let (is_less, held) = match &self.body {
            Body::File(FileBody { top, frozen: Some(below), .. }) => {
                (top.cut().is_some() || top.punches(below), below.data())
            }
            _ => (false, 0),
        };
        let is_lost = self.is_gone() && (!f.meta.names.is_empty() || !is_reachable && held > 0);
        is_less || is_lost || self.meta.weight.bytes < f.meta.weight.bytes
    }

    /// Makes what changed up to the closing of `closed` a part of the changes of `now`, which comes next: it was not
    /// committed. Whether the node was without changes in `now` until then.
    pub fn reopen(&mut self, closed: Generation, now: Generation) -> bool {
        self.roll(now, Some(closed));
        if self.frozen.take_if(|f| f.generation == closed && f.dirty).is_none() {
            return false;
        }
        match &mut self.body {
            Body::File(f) => {
                if let Some(below) = f.frozen.take() {
                    let later = std::mem::replace(&mut f.top, Arc::unwrap_or_clone(below));
                    f.top.lay(later);
                }
            }
            Body::Dir(d) => {
                if let Some(below) = d.frozen.take() {
                    let later = std::mem::replace(&mut d.top, Arc::unwrap_or_clone(below));
                    d.top.names.extend(later.names);
                }
            }
            Body::Symlink(_) | Body::Special => {}
        }
        !std::mem::replace(&mut self.dirty, true)
    }

    /// Takes over the committed content of generation `closed`.
    pub fn adopt(&mut self, closed: Generation, content: Option<Content>, allocated: u64) {
        if let Some(f) = &self.frozen {
            if f.generation == closed {
                self.was_shell = f.meta.shell;
            }
            if f.generation <= closed {
                self.frozen = None;
            }
        }
        match (&mut self.body, content) {
            (Body::File(f), Some(Content::File(base))) => {
                (f.base, f.base_allocated, f.frozen) = (base, allocated, None);
            }
            (Body::Dir(d), Some(Content::Directory(base))) => {
                (d.base, d.frozen) = (base, None);
            }
            _ => {}
        }
    }

    /// Whether the space that [`Node::attr`] tells is exact. Changed bytes are counted beside those that they
    /// hide, which only a commit looks at.
    pub fn is_settled(&self) -> bool {
        let Body::File(f) = &self.body else { return true };
        f.frozen.is_none() && (f.top.is_empty() || f.base_allocated == 0)
    }

    /// The attributes, with what is not yet committed.
    pub fn attr(&self) -> Attr {
        let mut a = self.meta.attr.clone();
        if let Body::File(f) = &self.body {
            let changed = f.top.data().saturating_add(f.frozen.as_ref().map_or(0, |l| l.data()));
            // A device that lies may have made a version with any size.
            let most = a.size.checked_next_multiple_of(4096).unwrap_or(a.size);
            a.allocated = f.base_allocated.saturating_add(changed).min(most);
        }
        a
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Nothing that was added is missing, and what is there too is little: whole pages, and the least gaps.
        #[test]
        fn ranges_hold_all_that_was_added(adds in proptest::collection::vec((0u64..400_000, 0u64..9000), 0..120)) {
            let mut seen = Seen::default();
            for (at, len) in &adds {
                seen.add(*at, at + len);
                prop_assert!(seen.0.len() <= Seen::MOST);
                prop_assert!(seen.0.windows(2).all(|two| two[0].1 < two[1].0) && seen.0.iter().all(|r| r.0 <= r.1));
            }
            for (at, len) in adds.iter().filter(|(_, len)| *len > 0) {
                prop_assert_eq!(seen.next(*at).map(|r| r.0), Some(*at));
                prop_assert_eq!(seen.next(at + len - 1).map(|r| r.0), Some(at + len - 1));
            }
            if adds.len() <= Seen::MOST {
                let pages = |r: &(u64, u64)| (r.0 / PAGE..r.1.div_ceil(PAGE)).collect::<Vec<_>>();
                let added: std::collections::BTreeSet<u64> =
                    adds.iter().flat_map(|(at, len)| pages(&(*at, at + len))).collect();
                let held: std::collections::BTreeSet<u64> = seen.0.iter().flat_map(pages).collect();
                prop_assert_eq!(added, held);
            }
        }
    }
}
