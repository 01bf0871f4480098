//! Makes a version of the drive from the one before and what changed since.
//!
//! The cost is proportional to the change: contents of changed files, the nodes of changed directories and of
//! those above them that hold a changed entry, and the nodes of the two Maps of the commit, shells and
//! history, that changed inodes fall into.

mod contents;
mod directories;
mod ledger;

use self::ledger::Entered;
use super::change::{Ancestors, Change, Committed};
use super::entry::Entry;
use super::inode::{Content, FileKind, InodeRecord, ROOT, StoredInode};
use super::object::{Commit, Parent};
use super::params::Parameters;
use crate::chunk::{ChunkSink, Chunks, Sealer};
use crate::content::Fetch;
use crate::crypt::RealmKeys;
use crate::error::{Error, Result};
use crate::store::RunSet;
use crate::tree::Map;
use crate::types::{DeviceId, Incarnation, Ino, Lsn, Time, Version};
use std::collections::HashMap;

/// Who makes a version, when, and from what.
#[derive(Clone, Debug)]
pub struct Making {
    pub version: Version,
    /// The versions that this one goes on from, with the hashes of their heads; none for the first.
    pub parents: Vec<Parent>,
    pub time: Time,
    pub device: DeviceId,
    /// This start of the mount.
    pub incarnation: Incarnation,
    /// The last journal record of this device whose effects the version contains.
    pub lsn: Lsn,
    /// The next counter of the inode numbers of this device (see [`super::object::make_ino`]).
    pub next_ino: u64,
    /// Of the first version; later ones keep those of their base.
    pub parameters: Parameters,
    /// How many threads encode contents.
    pub workers: usize,
}

/// What a version is read and made with.
#[derive(Clone, Copy)]
pub struct Tools<'a> {
    pub keys: &'a RealmKeys,
    /// What seals the nodes of directories: the keys, or the keys and something that takes note of what they sealed.
    pub directories: &'a dyn Sealer,
    /// Opened chunks. It must wait for what it does not have.
    pub chunks: &'a dyn Chunks,
    /// Stored chunks.
    pub fetch: &'a dyn Fetch,
}

/// Makes the next version. The changes may come in any order, each inode once; the first version (no `base`)
/// has the root among them.
///
/// The commit that is returned has the packs and the index of its base: what `sink` stored is entered by
/// [`Versions::prepare`](super::Versions::prepare).
pub fn build(
    base: Option<&Commit>,
    changes: Vec<Change>,
    ancestors: &dyn Ancestors,
    making: &Making,
    tools: Tools,
    sink: &mut (dyn ChunkSink + Send),
) -> Result<(Commit, Committed)> {
    if let Some(base) = base {
        base.parameters.check_writable()?;
        if base.version >= making.version {
            return Err(bug(format!("version {} cannot follow version {}", making.version, base.version)));
        }
    }
    let mut by_ino = HashMap::with_capacity(changes.len());
    for (at, change) in changes.iter().enumerate() {
        check(change)?;
        if by_ino.insert(change.ino, at).is_some() {
            return Err(bug(format!("inode {} has two changes", change.ino)));
        }
    }
    let contents = contents::encode(&changes, tools, sink, making.workers)?;
    let mut made: Vec<Option<InodeRecord>> = changes.iter().zip(contents).map(record).collect();

    let above = directories::update(base, &changes, &by_ino, &mut made, ancestors, tools, sink)?;
    let changed_root = by_ino.get(&ROOT).and_then(|at| made.get(*at)).and_then(Option::as_ref);
    let root = match (changed_root, above.iter().find(|i| i.ino == ROOT), base) {
        (Some(root), _, _) => root.store(tools.keys, sink)?,
        (None, Some(root), _) => root.clone(),
        // Where only shells changed, no directory did.
        (None, None, Some(base)) => base.root.clone(),
        (None, None, None) => return Err(bug("the first version has no root")),
    };

    let shells = base.map_or_else(Map::default, |b| b.shells.clone());
    let shells = ledger::shells(&shells, &changes, &made, tools, sink)?;
    let Entered { history, counts, estimated } = ledger::history(base, &changes, &made, making, tools, sink)?;
    let mut parameters = base.map_or(&making.parameters, |b| &b.parameters).clone();
    if estimated {
        parameters.estimate_counts();
    }

    let mut commit = Commit {
        version: making.version,
        parents: making.parents.clone(),
        time: making.time,
        device: making.device,
        incarnation: making.incarnation,
        parameters,
        devices: base.map_or_else(Vec::new, |b| b.devices.clone()),
        counts,
        root,
        shells,
        history,
        packs: base.map_or_else(Map::default, |b| b.packs.clone()),
        fresh: Vec::new(),
        runs: base.map_or_else(RunSet::default, |b| b.runs.clone()),
    };
    commit.mark(making.device, making.lsn, making.next_ino)?;
    let above =
        above.into_iter().map(|i| InodeRecord { ino: i.ino, attr: i.attr, xattrs: None, content: i.content });
    let inodes = made.into_iter().flatten().chain(above).collect();
    Ok((commit, Committed { inodes }))
}

/// A build was asked for what cannot be: the fault is in the drive, not in what is at rest.
fn bug(what: impl std::fmt::Display) -> Error {
    Error::failed(format!("cannot make a version: {what} (this is a bug in nacrefs)"))
}

fn is_removed(change: &Change) -> bool {
    change.names.is_empty()
}

/// What can be seen to be wrong with a change by itself.
fn check(change: &Change) -> Result<()> {
    let ino = change.ino;
    if change.was_shell && !change.shell && !is_removed(change) {
        return Err(bug(format!("inode {ino} was a shell and is none now")));
    }
    if change.names.len() > 1 && !change.shell {
        return Err(bug(format!("inode {ino} has several names and is no shell")));
    }
    if change.shell && change.attr.kind == FileKind::Directory {
        return Err(bug(format!("directory {ino} is a shell")));
    }
    for name in &change.names {
        let is_root = ino == ROOT && name.parent == ROOT && name.name.is_empty();
        if !is_root && (ino == ROOT || super::entry::check_name(&name.name).is_err()) {
            return Err(bug(format!("inode {ino} cannot have the name '{}'", name.name.escape_ascii())));
        }
    }
    if ino == ROOT && is_removed(change) {
        return Err(bug("the root is removed"));
    }
    if !super::entry::is_stored(ino) {
        return Err(bug(format!("inode number {ino} is out of range")));
    }
    Ok(())
}

/// The inode as the new version has it; none of one that was removed, nor yet of a directory.
fn record((change, content): (&Change, Option<Content>)) -> Option<InodeRecord> {
    let content = content?;
    let mut attr = change.attr.clone();
    match &content {
        Content::File(blob) => attr.allocated = blob.allocated(),
        Content::Directory(map) => attr.size = map.len(),
        Content::Symlink(target) => attr.size = target.len() as u64,
        Content::Special => {}
    }
    Some(InodeRecord { ino: change.ino, attr, xattrs: change.xattrs.clone(), content })
}

/// The bytes of an entry that can be read again: better no version than one that nobody can read.
fn entry_bytes(inode: StoredInode) -> Result<Vec<u8>> {
    let ino = inode.ino;
    let bytes = Entry::Inode(inode).to_bytes();
    match Entry::from_bytes(&bytes) {
        Ok(_) => Ok(bytes),
        Err(e) => Err(bug(format!("inode {ino} cannot be what it is")).with_source(e)),
    }
}

/// The position of an inode's change.
type ByIno = HashMap<Ino, usize>;
