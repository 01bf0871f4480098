//! The history index: what each version did to each inode (docs/FORMAT.md, "History").
//!
//! A Map from inode number (8 bytes, big-endian) and the complement of the version (8 bytes, big-endian) to
//! an [`Event`]. The complement puts the newest first, so that the state of an inode before a commit is one
//! look-up. Retention may drop events, but never the newest one of an inode that lives: a commit learns from
//! it whether the inode is new, and what it was.

use super::entry::{check_name, get_ino};
use super::inode::{Content, FileKind, InodeRecord, Name, ROOT};
use crate::chunk::Chunks;
use crate::content::Blob;
use crate::error::{Error, Result};
use crate::tree::{Map, Range};
use crate::types::{Ino, Time, Version};
use crate::wire::{Reader, Writer};
use std::ops::Bound;
use std::sync::Arc;

/// What a version did to an inode. Of several things the first here counts; whether the content changed as
/// well shows by comparing it with the event before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum What {
    Created = 1,
    Removed = 2,
    /// It no longer has the name that it was told by.
    Renamed = 3,
    /// Its content changed: bytes of a file, names in a directory.
    Changed = 4,
    /// Only attributes or extended attributes changed, or further names.
    Metadata = 5,
}

impl What {
    fn from_u8(v: u8) -> Option<What> {
        use What::*;
        [Created, Removed, Renamed, Changed, Metadata].into_iter().find(|w| *w as u8 == v)
    }

    /// As `nacrefs log` prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            What::Created => "created",
            What::Removed => "removed",
            What::Renamed => "renamed",
            What::Changed => "changed",
            What::Metadata => "metadata",
        }
    }
}

/// What a version did to one inode.
#[derive(Clone, Debug)]
pub struct Event {
    pub what: What,
    pub kind: FileKind,
    /// Where it stands since, or stood before it was removed. Of several names the one that the event before
    /// told, while it has it; else the first by parent and name.
    pub parent: Ino,
    pub name: Arc<[u8]>,
    /// Its mtime; of a removal, the time of the commit.
    pub time: Time,
    /// As in its attributes; 0 of a removal.
    pub size: u64,
    /// What a file or a symbolic link held then; None for other types, and for a removal.
    pub content: Option<Content>,
}

const REMOVED: u8 = What::Removed as u8;

impl Event {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(160);
        w.u8(self.what as u8).u8(self.kind as u8).var(self.parent).bytes(&self.name);
        self.time.put(&mut w);
        w.var(self.size);
        match &self.content {
            Some(Content::File(blob)) => blob.put(&mut w),
            Some(Content::Symlink(target)) => {
                w.bytes(target);
            }
            Some(Content::Directory(_) | Content::Special) | None => {}
        }
        w.into_vec()
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Event> {
        let mut r = Reader::new(bytes, "history event");
        let what = What::from_u8(r.u8()?).ok_or_else(|| r.bad("unknown change"))?;
        let kind = FileKind::from_u8(r.u8()?).ok_or_else(|| r.bad("unknown file type"))?;
        let (parent, name) = (get_ino(&mut r)?, r.bytes()?);
        if !(name.is_empty() && parent == ROOT) {
            check_name(name)?;
        }
        let (time, size) = (Time::get(&mut r)?, r.var()?);
        let content = match (what as u8, kind) {
            (REMOVED, _) if size != 0 => return Err(r.bad("what was removed has a size")),
            (REMOVED, _) => None,
            (_, FileKind::File) => Some(Content::File(Blob::get(&mut r)?)),
            (_, FileKind::Symlink) => Some(Content::Symlink(super::inode::get_target(&mut r)?)),
            _ => None,
        };
        r.end()?;
        Ok(Event { what, kind, parent, name: name.into(), time, size, content })
    }

    /// The event that takes an inode from `before` (None: it did not exist) to `now`, which is told
    /// by this name of it. `names_changed` tells of a directory whether its names did.
    pub(super) fn of(before: Option<&Event>, now: &InodeRecord, name: &Name, names_changed: bool) -> Event {
        let content = match &now.content {
            Content::File(_) | Content::Symlink(_) => Some(now.content.clone()),
            Content::Directory(_) | Content::Special => None,
        };
        let mut event = Event {
            what: What::Created,
            kind: now.attr.kind,
            parent: name.parent,
            name: name.name.clone(),
            time: now.attr.mtime,
            size: now.attr.size,
            content,
        };
        if let Some(before) = before {
            event.what = match () {
                _ if (before.parent, &before.name) != (event.parent, &event.name) => What::Renamed,
                _ if names_changed || !same_content(&before.content, &event.content) => What::Changed,
                _ => What::Metadata,
            };
        }
        event
    }

    /// The event that removes an inode last seen in `before`.
    pub(super) fn removal(before: &Event, time: Time) -> Event {
        Event { what: What::Removed, time, size: 0, content: None, ..before.clone() }
    }
}

fn same_content(a: &Option<Content>, b: &Option<Content>) -> bool {
    let bytes = |content: &Option<Content>| {
        let mut w = Writer::new();
        match content {
            Some(Content::File(blob)) => blob.put(&mut w),
            Some(Content::Symlink(target)) => {
                w.bytes(target);
            }
            _ => {}
        }
        w.into_vec()
    };
    bytes(a) == bytes(b)
}

/// The key of what a version did to an inode.
pub(super) fn key(ino: Ino, version: Version) -> Vec<u8> {
    [ino.to_be_bytes(), (!version).to_be_bytes()].concat()
}

/// The inode and the version of a key.
pub(super) fn split_key(key: &[u8]) -> Result<(Ino, Version)> {
    let parts = || {
        let (ino, rest) = key.split_first_chunk::<8>()?;
        let version = rest.try_into().ok()?;
        Some((Ino::from_be_bytes(*ino), !Version::from_be_bytes(version)))
    };
    parts()
        .filter(|(ino, _)| super::entry::is_stored(*ino))
        .ok_or_else(|| Error::damage("history: a key that cannot be one"))
}

/// The events of one inode, newest first.
pub struct Events<'a> {
    range: Option<Range<'a>>,
    ino: Ino,
}

impl Iterator for Events<'_> {
    type Item = Result<(Version, Event)>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.range.as_mut()?.next()?;
        let event = entry.and_then(|(key, value)| {
            let (ino, version) = split_key(&key)?;
            if ino != self.ino {
                return Ok(None);
            }
            let named = |e: Error| e.context(format!("history of inode {ino} at version {version}"));
            Ok(Some((version, Event::from_bytes(&value).map_err(named)?)))
        });
        if !matches!(event, Ok(Some(_))) {
            self.range = None;
        }
        event.transpose()
    }
}

/// What the versions did to an inode, newest first. Read as it goes.
pub fn versions_of<'a>(history: &Map, ino: Ino, chunks: &'a dyn Chunks) -> Events<'a> {
    Events { range: Some(history.range(chunks, Bound::Included(&key(ino, Version::MAX)))), ino }
}

/// The newest event of an inode up to a version.
pub(super) fn before(
    history: &Map,
    ino: Ino,
    version: Version,
    chunks: &dyn Chunks,
) -> Result<Option<Event>> {
    let range = Some(history.range(chunks, Bound::Included(&key(ino, version))));
    Ok(Events { range, ino }.next().transpose()?.map(|(_, event)| event))
}

/// What is known of an inode that lives: its newest event, unless that removed it.
pub(super) fn living(history: &Map, ino: Ino, chunks: &dyn Chunks) -> Result<Option<Event>> {
    let newest = versions_of(history, ino, chunks).next().transpose()?;
    Ok(newest.map(|(_, event)| event).filter(|event| event.what != What::Removed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(what: What) -> Event {
        let content = (what != What::Removed).then(|| Content::Symlink(b"target".as_slice().into()));
        let size = content.as_ref().map_or(0, |_| 6);
        let (parent, name) = (ROOT, b"name".as_slice().into());
        Event { what, kind: FileKind::Symlink, parent, name, time: Time { sec: -5, nsec: 7 }, size, content }
    }

    #[test]
    fn events_have_one_encoding() {
        for what in [What::Created, What::Removed, What::Renamed, What::Changed, What::Metadata] {
            let bytes = event(what).to_bytes();
            let back = Event::from_bytes(&bytes).unwrap();
            assert_eq!(back.to_bytes(), bytes);
            assert_eq!(back.what, what);
            for n in 0..bytes.len() {
                assert!(Event::from_bytes(&bytes[..n]).is_err());
            }
            assert!(Event::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
        }
        for bad in [
            Event { name: b"a/b".as_slice().into(), ..event(What::Created) },
            Event { size: 1, ..event(What::Removed) },
        ] {
            assert!(Event::from_bytes(&bad.to_bytes()).is_err());
        }
    }

    #[test]
    fn newer_versions_sort_first() {
        assert!(key(5, 9) < key(5, 8));
        assert!(key(5, 0) < key(6, Version::MAX));
        assert_eq!(split_key(&key(5, 9)).unwrap(), (5, 9));
        assert!(split_key(&key(0, 9)).is_err());
        assert!(split_key(&key(1 << 63, 9)).is_err());
        assert!(split_key(&key(5, 9)[1..]).is_err());
    }

    proptest! {
        #[test]
        fn hostile_events_are_refused_or_canonical(mut bytes in proptest::collection::vec(any::<u8>(), 0..60), what in 1u8..6, kind in 1u8..8) {
            for (byte, v) in bytes.iter_mut().zip([what, kind, 1, 2, b'a', b'b', 0, 0, 0]) {
                *byte = v;
            }
            if let Ok(event) = Event::from_bytes(&bytes) {
                prop_assert_eq!(event.to_bytes(), bytes);
            }
        }
    }
}
