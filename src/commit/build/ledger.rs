//! The Maps of the commit itself: shells, and history; and the counts.

use super::super::change::{BodyChange, Change};
use super::super::history::{self, Event};
use super::super::inode::{FileKind, InodeRecord, Name};
use super::super::object::Counts;
use super::super::shells;
use super::{Making, Tools, bug, is_removed};
use crate::chunk::ChunkSink;
use crate::error::Result;
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
            true => shells::names(base, change.ino, tools.chunks)?,
            false => Vec::new(),
        };
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

/// Enters what the version did to each inode that changed, and counts.
pub(super) fn history(
    base: &Map,
    mut counts: Counts,
    changes: &[Change],
    made: &[Option<InodeRecord>],
    making: &Making,
    tools: Tools,
    sink: &mut dyn ChunkSink,
) -> Result<(Map, Counts)> {
    let mut edits = Vec::new();
    for (change, inode) in changes.iter().zip(made) {
        let before = history::living(base, change.ino, tools.chunks)?;
        let event = match (inode, &before) {
            (Some(inode), _) => {
                let Some(first) = change.names.first() else { return Err(bug("an inode has no name")) };
                let names_changed =
                    matches!(&change.body, BodyChange::Directory { names, .. } if !names.is_empty());
                Event::of(before.as_ref(), inode, first.parent, first.name.clone(), names_changed)
            }
            (None, Some(before)) => Event::removal(before, making.time),
            // It came and went between two versions.
            (None, None) if is_removed(change) => continue,
            (None, None) => return Err(bug(format!("inode {} was not made", change.ino))),
        };
        if let Some(before) = &before {
            count(&mut counts, before.kind, before.size, u64::saturating_sub);
        }
        if inode.is_some() {
            count(&mut counts, event.kind, event.size, u64::saturating_add);
        }
        edits.push((history::key(change.ino, making.version), Some(event.to_bytes())));
    }
    edits.sort_unstable();
    Ok((base.update(tools.keys, tools.chunks, sink, &edits)?, counts))
}

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
