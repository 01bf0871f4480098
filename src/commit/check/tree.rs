//! Walks one version: its directories and files, its shells, its history.

use super::super::entry::Entry;
use super::super::history::{Event, split_key};
use super::super::inode::{Content, FileKind, Name, ROOT, StoredInode};
use super::super::object::{Commit, Counts};
use super::super::shells::{self, Item};
use super::super::view::read_entry;
use super::{Checker, Progress, content_of};
use crate::error::Result;
use crate::types::{Address, Ino};
use std::collections::{HashMap, HashSet};
use std::ops::Bound;

/// What is learnt of a version on the way.
#[derive(Default)]
struct Census {
    inodes: HashSet<Ino>,
    counts: Counts,
    /// Entries that lead to shells.
    shell_entries: u64,
    /// The first path that led to each shell.
    shell_paths: HashMap<Ino, Vec<u8>>,
    /// Something could not be read: then nothing follows from what was not found.
    partial: bool,
}

/// A directory to walk, and where it is.
struct Pending {
    path: Vec<u8>,
    inode: StoredInode,
}

impl Checker<'_> {
    /// One version. The first that is checked is counted; of the others, only what is new is walked.
    pub(super) fn version(&mut self, commit: &Commit, counted: bool) -> Result<()> {
        let mut census = Census::default();
        self.directories(commit, &mut census)?;
        self.shells(commit, &mut census, counted)?;
        if counted {
            self.history(commit)?;
            let exact = !census.partial && !commit.parameters.has_estimated_counts();
            if exact && census.counts != commit.counts {
                let told = |c: &Counts| {
                    format!("{} files, {} directories and {} bytes", c.files, c.directories, c.bytes)
                };
                let what = format!("it has {}, and says {}", told(&census.counts), told(&commit.counts));
                self.find(format!("commit {}", commit.version), what, None);
            }
        }
        Ok(())
    }

    fn directories(&mut self, commit: &Commit, census: &mut Census) -> Result<()> {
        let source = self.source.clone();
        let mut stack = vec![Pending { path: b"/".to_vec(), inode: commit.root.clone() }];
        census.inodes.insert(ROOT);
        self.inode(&commit.root, b"/")?;
        while let Some(Pending { path, inode }) = stack.pop() {
            let Content::Directory(map) = &inode.content else { continue };
            census.counts.directories += 1;
            self.report.directories += 1;
            // Not by its address alone: an entry of a shell holds no more than a number, so directories of the same names
            // of the same files are one Map (`cp -al`). Each of them has names of its own for those files.
            if map.root().is_some_and(|root| !self.is_new(of_directory(inode.ino, root.address))) {
                continue;
            }
            self.nodes("directory", Some(&path), map)?;
            let mut subdirectories = 0;
            for entry in map.range(&source, Bound::Unbounded) {
                let entry = entry.and_then(|(key, value)| read_entry(&source.keys, &key, &value));
                let Some((key, entry)) = self.note("directory", Some(&path), entry)? else {
                    census.partial = true;
                    continue;
                };
                let child = join(&path, &key.name);
                if let Entry::Shell { ino, kind } = entry {
                    census.shell_entries += 1;
                    census.shell_paths.entry(ino).or_insert_with(|| child.clone());
                    self.shell_entry(commit, ino, kind, Name { parent: inode.ino, name: key.name }, &child)?;
                    continue;
                }
                let Entry::Inode(found) = entry else { continue };
                if !census.inodes.insert(found.ino) {
                    let what = format!("inode {} is in the drive twice", found.ino);
                    self.find("directory entry", what, Some(&child));
                    continue;
                }
                self.inode(&found, &child)?;
                if found.attr.kind == FileKind::Directory {
                    subdirectories += 1;
                    stack.push(Pending { path: child, inode: found });
                } else {
                    self.count(&found, census);
                }
            }
            if !census.partial && inode.attr.nlink != 2 + subdirectories {
                let what = format!("it has {subdirectories} directories and {} links", inode.attr.nlink);
                self.find("directory", what, Some(&path));
            }
        }
        Ok(())
    }

    /// A file of any type, counted.
    fn count(&mut self, inode: &StoredInode, census: &mut Census) {
        census.counts.files += 1;
        self.report.files += 1;
        if inode.attr.kind == FileKind::File {
            census.counts.bytes = census.counts.bytes.wrapping_add(inode.attr.size);
        }
        (self.progress)(Progress { what: "files", done: self.report.files, total: None });
    }

    /// That a shell knows the name that leads to it.
    fn shell_entry(
        &mut self,
        commit: &Commit,
        ino: Ino,
        kind: FileKind,
        name: Name,
        path: &[u8],
    ) -> Result<()> {
        let named = commit.shells.get(&self.source, &shells::name_key(ino, &name));
        let object = format!("shell {ino}");
        if let Some(None) = self.note(&object, Some(path), named)? {
            self.find(&object, "it does not know this name", Some(path));
        }
        let inode = shells::get(&commit.shells, ino, &self.source);
        match self.note(&object, Some(path), inode)? {
            Some(None) => self.find(&object, "it is not in the map of shells", Some(path)),
            Some(Some(inode)) if inode.attr.kind != kind => {
                self.find(&object, "it is not of the type that its entry says", Some(path));
            }
            _ => {}
        }
        Ok(())
    }

    /// The Map of shells; that each has as many names as links, and names no more than lead to it.
    fn shells(&mut self, commit: &Commit, census: &mut Census, counted: bool) -> Result<()> {
        if commit.shells.root().is_some_and(|root| !self.is_new(root.address)) {
            return Ok(());
        }
        self.nodes("map of shells", None, &commit.shells)?;
        let source = self.source.clone();
        let (mut names, mut of, mut links) = (0, None, 0u64);
        for entry in commit.shells.range(&source, Bound::Unbounded) {
            let item = entry.and_then(|(key, value)| shells::item(&key, &value));
            let Some(item) = self.note("map of shells", None, item)? else {
                census.partial = true;
                continue;
            };
            match item {
                Item::Inode(inode) => {
                    self.links(of, links);
                    (of, links) = (Some((inode.ino, inode.attr.nlink)), 0);
                    let path = census.shell_paths.remove(&inode.ino);
                    let path = path.unwrap_or_else(|| format!("(inode {})", inode.ino).into());
                    self.inode(&inode, &path)?;
                    self.count(&inode, census);
                    if !census.inodes.insert(inode.ino) {
                        self.find(
                            format!("shell {}", inode.ino),
                            "its inode is in a directory as well",
                            None,
                        );
                    }
                }
                Item::Name(ino, _) => {
                    names += 1;
                    links += 1;
                    if of.is_none_or(|(of, _)| of != ino) {
                        self.find(format!("shell {ino}"), "it has a name and no inode", None);
                    }
                }
            }
        }
        self.links(of, links);
        if counted && !census.partial && names != census.shell_entries {
            let what = format!("it has {names} names, and {} entries lead to it", census.shell_entries);
            self.find("map of shells", what, None);
        }
        Ok(())
    }

    fn links(&mut self, shell: Option<(Ino, u32)>, names: u64) {
        if let Some((ino, nlink)) = shell
            && u64::from(nlink) != names
        {
            self.find(format!("shell {ino}"), format!("it has {names} names and {nlink} links"), None);
        }
    }

    /// The history index, and the contents that it leads to.
    fn history(&mut self, commit: &Commit) -> Result<()> {
        let source = self.source.clone();
        self.nodes("history", None, &commit.history)?;
        for entry in commit.history.range(&source, Bound::Unbounded) {
            let event = entry.and_then(|(key, value)| Ok((split_key(&key)?, Event::from_bytes(&value)?)));
            let Some(((ino, version), event)) = self.note("history", None, event)? else { continue };
            if version > commit.version {
                self.find("history", format!("inode {ino} has version {version}, which is to come"), None);
            }
            // What a file has now is named by its path.
            if let Some(Content::File(blob)) = &event.content
                && !self.seen.contains(&content_of(blob).0)
            {
                let path = [event.name.as_ref(), format!(" (version {version})").as_bytes()].concat();
                self.blob(blob, &path)?;
            }
        }
        Ok(())
    }
}

/// A directory in one of its states: which names it gives to what.
fn of_directory(ino: Ino, root: Address) -> Address {
    Address::of(&[&ino.to_le_bytes(), &root.0[..]].concat())
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if dir.ends_with(b"/") { b"" } else { b"/" };
    [dir, slash, name].concat()
}
