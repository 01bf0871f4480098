//! The Maps of the commit itself: shells, and history; and the counts.

use super::super::change::{BodyChange, Change};
use super::super::history::{self, Event, What};
use super::super::inode::{FileKind, InodeRecord, Name};
use super::super::object::{Commit, Counts, split_ino};
use super::super::shells;
use super::{Making, Tools, bug, is_removed};
use crate::chunk::ChunkSink;
use crate::error::{Kind, Result};
use crate::tree::Map;
use std::collections::BTreeMap;

/// Enters the shells that changed, and drops those whose names are all gone.
pub(super) fn shells(
    base: &Map,
    changes: &[Change],
    made: &[Option<InodeRecord>],
    tools: Tools,
    sink: &mut dyn ChunkSink,
) -> Result<Map> {
    let mut edits = BTreeMap::new();
    for (change, inode) in changes.iter().zip(made) {
        let before = match change.was_shell {
            true => unless_damaged(shells::names(base, change.ino, tools.chunks), "the names of a shell")?,
            false => None,
        };
        let before = before.unwrap_or_default();
        let now: &[Name] = if change.shell { &change.names } else { &[] };
        edits.extend(before.iter().map(|name| (shells::name_key(change.ino, name), None)));
        edits.extend(now.iter().map(|name| (shells::name_key(change.ino, name), Some(Vec::new()))));
        match inode {
            Some(inode) if change.shell => {
                let record = shells::record_bytes(&inode.store(tools.keys, sink)?);
                edits.insert(shells::record_key(change.ino), Some(record));
            }
            None if change.was_shell => {
                edits.insert(shells::record_key(change.ino), None);
            }
            _ => {}
        }
    }
    let edits: Vec<_> = edits.into_iter().collect();
    base.update(tools.keys, tools.chunks, sink, &edits)
}

/// What a version did.
pub(super) struct Entered {
    pub history: Map,
    pub counts: Counts,
    /// What the version before had could not be told of some inode: the counts are estimates from here on.
    pub estimated: bool,
}

/// Enters what the version did to each inode that changed, and counts.
pub(super) fn history(
    base: Option<&Commit>,
    changes: &[Change],
    made: &[Option<InodeRecord>],
    making: &Making,
    tools: Tools,
    sink: &mut dyn ChunkSink,
) -> Result<Entered> {
    let mut estimated = false;
    let mut counts = base.map_or_else(Counts::default, |b| b.counts);
    // What this device numbered since needs no look-up.
    let mark = base.and_then(|b| b.device(&making.device)).copied();
    let is_new =
        |ino| mark.is_some_and(|mark| split_ino(ino).0 == mark.number && split_ino(ino).1 >= mark.next_ino);
    let base = &base.map_or_else(Map::default, |b| b.history.clone());
    let mut edits = Vec::new();
    for (change, inode) in changes.iter().zip(made) {
        let before = match is_new(change.ino) {
            true => Some(None),
            false => {
                unless_damaged(history::living(base, change.ino, tools.chunks), "the history of an inode")?
            }
        };
        // What cannot be told is taken for as large as it is now.
        let unknown = before.is_none();
        estimated |= unknown;
        let before = before.flatten();
        let event = match (inode, &before) {
            (Some(inode), None) if unknown => {
                let event = Event::of(None, inode, name_of(change, None)?, true);
                Event { what: What::Changed, ..event }
            }
            (None, None) if unknown => {
                count(&mut counts, change.attr.kind, change.attr.size, u64::wrapping_sub);
                continue;
            }
            (Some(inode), _) => {
                let names_changed =
                    matches!(&change.body, BodyChange::Directory { names, .. } if !names.is_empty());
                Event::of(before.as_ref(), inode, name_of(change, before.as_ref())?, names_changed)
            }
            (None, Some(before)) => Event::removal(before, making.time),
            // It came and went between two versions.
            (None, None) if is_removed(change) => continue,
            (None, None) => return Err(bug(format!("inode {} was not made", change.ino))),
        };
        if let Some(before) = &before {
            count(&mut counts, before.kind, before.size, u64::wrapping_sub);
        }
        if inode.is_some() && !unknown {
            count(&mut counts, event.kind, event.size, u64::wrapping_add);
        }
        edits.push((history::key(change.ino, making.version), Some(event.to_bytes())));
    }
    edits.sort_unstable();
    Ok(Entered { history: base.update(tools.keys, tools.chunks, sink, &edits)?, counts, estimated })
}

/// What was asked of the version before; None where it cannot be read: a version is not kept back for that.
fn unless_damaged<T>(asked: Result<T>, what: &str) -> Result<Option<T>> {
    match asked {
        Err(e) if e.kind() == Kind::Damage => {
            tracing::warn!("{what} cannot be read, and the commit goes on without: {}", e.chain());
            Ok(None)
        }
        asked => asked.map(Some),
    }
}

/// The name that an event tells: the one that the event before told, while the inode has it.
fn name_of<'a>(change: &'a Change, before: Option<&Event>) -> Result<&'a Name> {
    let kept = before.and_then(|b| change.names.iter().find(|n| n.parent == b.parent && n.name == b.name));
    kept.or_else(|| change.names.iter().min()).ok_or_else(|| bug("an inode has no name"))
}

/// Modulo 2^64: a few sparse files are larger than that together, and when they go the counts are right again.
fn count(counts: &mut Counts, kind: FileKind, size: u64, by: fn(u64, u64) -> u64) {
    match kind {
        FileKind::Directory => counts.directories = by(counts.directories, 1),
        FileKind::File => {
            counts.files = by(counts.files, 1);
            counts.bytes = by(counts.bytes, size);
        }
        _ => counts.files = by(counts.files, 1),
    }
}
