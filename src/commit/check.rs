//! Verifies a drive in its store: heads, commits, packs, and every node and chunk that a version needs.
//!
//! Without `read_data`, directories and all other Maps are read, and chunks of content are looked up: that the
//! index has them, in a pack that is there, as long as it must be. With it, every chunk is read, opened and so
//! compared with its address. What is wrong is listed; only what keeps the check itself from going on (the
//! store is away) is an error.

mod tree;

use super::inode::StoredInode;
use super::object::Commit;
use super::packs;
use super::versions::{Opened, Versions};
use crate::chunk::{ChunkRef, Chunks};
use crate::content::{Blob, is_given_up, open_chunk};
use crate::crypt::RealmKeys;
use crate::error::{Error, Kind, Result};
use crate::store::pack::{is_whole, read_footer};
use crate::store::{ChunkStore, PackId, RunSet};
use crate::tree::Map;
use crate::types::{Address, Version};
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// No more findings than this are kept; the others are counted.
const MAX_FINDINGS: usize = 1000;

/// What to check.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// All versions that there are, not only the newest.
    pub all: bool,
    /// Read and open every chunk.
    pub read_data: bool,
    /// The Nth of T parts of the chunks of content and of the packs, 1 ≤ N ≤ T.
    pub subset: Option<(u32, u32)>,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `head 7`, `pack …`, `chunk …`, `directory`, `file`.
    pub object: String,
    pub what: String,
    /// What a user loses by it, where that is known: a path, with any bytes but NUL.
    pub path: Option<Vec<u8>>,
}

/// What a check found, and how much it looked at.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub findings: Vec<Finding>,
    /// Findings beyond those that are kept.
    pub more: u64,
    pub versions: u64,
    pub packs: u64,
    pub files: u64,
    pub directories: u64,
    /// Chunks that were looked up or read; one that several files share may count several times.
    pub chunks: u64,
    /// Their stored bytes, where all of them were read.
    pub bytes: u64,
}

impl Report {
    /// `Damage` if anything is wrong.
    pub fn verdict(&self) -> Result<()> {
        let Some(first) = self.findings.first() else { return Ok(()) };
        let n = self.findings.len() as u64 + self.more;
        let Finding { object, what, .. } = first;
        Err(Error::damage(format!("the drive is damaged in {n} places; the first: {object}: {what}")))
    }
}

/// How far a check has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// `heads`, `packs`, `files`.
    pub what: &'static str,
    pub done: u64,
    /// Where it is known beforehand.
    pub total: Option<u64>,
}

/// Checks the drive as its newest version has it. The store of chunks must have adopted that version's runs.
pub fn check(
    versions: &Versions,
    store: &Arc<ChunkStore>,
    newest: &Opened,
    options: Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report> {
    if options.subset.is_some_and(|(n, of)| n == 0 || n > of) {
        return Err(Error::new(Kind::Usage, "a subset is N/T with N from 1 to T"));
    }
    let keys = versions.keys()?;
    let mut checker = Checker {
        source: Source { store: store.clone(), keys },
        runs: newest.commit.runs.clone(),
        options,
        packs: HashMap::new(),
        packs_unread: false,
        report: Report::default(),
        seen: HashSet::new(),
        damaged: HashMap::new(),
        older: None,
        progress,
    };
    let history = checker.heads(versions, newest)?;
    checker.packs(versions, newest)?;
    // It finds the chunks of all versions: what only older ones name was merged since, or written anew.
    checker.index(&newest.commit.runs)?;
    checker.version(&newest.commit, true)?;
    for version in history {
        checker.older = Some(version.version);
        checker.version(&version, false)?;
        checker.nodes_not_in("history", None, &version.history, &newest.commit.history)?;
    }
    Ok(checker.report)
}

/// Chunks straight from the store, past all caches of content.
#[derive(Clone)]
pub(super) struct Source {
    pub store: Arc<ChunkStore>,
    pub keys: Arc<RealmKeys>,
}

impl Chunks for Source {
    fn get(&self, chunk: &ChunkRef) -> Result<Bytes> {
        open_chunk(chunk, &self.store.fetch(&chunk.address)?, &*self.keys)
    }
}

struct Checker<'a> {
    source: Source,
    runs: RunSet,
    options: Options,
    /// The packs of the drive; None: missing.
    packs: HashMap<PackId, Option<Looked>>,
    /// Not all of the index of packs could be read.
    packs_unread: bool,
    report: Report,
    /// Hashes of contents that were checked already: directories by inode and root node, files by their Blob.
    seen: HashSet<[u8; 32]>,
    /// Of those files' contents that are damaged, the findings: each file that has them is named.
    damaged: HashMap<[u8; 32], Vec<Finding>>,
    /// The version that is walked, where it is not the newest.
    older: Option<Version>,
    progress: &'a mut dyn FnMut(Progress),
}

/// A pack as it was found.
#[derive(Clone, Copy)]
struct Looked {
    bytes: u64,
    /// Its footer cannot be read: of what the index has in it each chunk is looked at.
    doubtful: bool,
}

/// Whether an error is about what is at rest, and not about getting at it.
fn is_finding(e: &Error) -> bool {
    matches!(e.kind(), Kind::Damage | Kind::NotFound)
}

impl Checker<'_> {
    fn find(&mut self, object: impl Into<String>, what: impl Into<String>, path: Option<&[u8]>) {
        if self.report.findings.len() == MAX_FINDINGS {
            self.report.more += 1;
            return;
        }
        let mut finding =
            Finding { object: object.into(), what: what.into(), path: path.map(<[u8]>::to_vec) };
        // A node that is damaged is met twice: when nodes are looked up, and when entries are read.
        if self.report.findings.contains(&finding) {
            return;
        }
        // Where it is of the newest version, it goes without saying that it is of older ones.
        if let (Some(version), Some(path)) = (self.older, &mut finding.path) {
            path.extend_from_slice(format!(" (version {version})").as_bytes());
        }
        if !self.report.findings.contains(&finding) {
            self.report.findings.push(finding);
        }
    }

    /// Makes damage a finding; gives back what was read, if it was.
    fn note<T>(
        &mut self,
        object: impl Into<String>,
        path: Option<&[u8]>,
        got: Result<T>,
    ) -> Result<Option<T>> {
        match got {
            Ok(value) => Ok(Some(value)),
            Err(e) if is_finding(&e) => {
                self.find(object, e.chain(), path);
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    fn in_subset(&self, name: &[u8; 32]) -> bool {
        let Some((n, of)) = self.options.subset else { return true };
        let Some(head) = name.first_chunk() else { return true };
        u32::from_le_bytes(*head) % of == n - 1
    }

    /// The chain of heads, down to the oldest; returns the older commits if all are to be checked. Behind a head
    /// that is missing or damaged it goes on with the next one that is valid.
    fn heads(&mut self, versions: &Versions, newest: &Opened) -> Result<Vec<Arc<Commit>>> {
        let mut older = Vec::new();
        let mut listed = versions.heads().versions()?;
        self.hint(versions, newest, &listed)?;
        while let Some(above) = listed.pop_if(|v| *v > newest.version()) {
            // Lost, or come meanwhile from another machine.
            let read = versions.open(above).and_then(|opened| versions.readable(&opened));
            self.note(format!("head {above}"), None, read)?;
        }
        let mut from = Some(newest.clone());
        while let Some(start) = from.take() {
            let mut wanted = start.version();
            for opened in versions.iter(&start) {
                let Some(opened) = self.note(format!("head {wanted}"), None, opened)? else { break };
                let here = opened.version();
                let before = opened.head.before.version;
                let over = before + 1..here;
                if listed.iter().any(|v| over.contains(v)) {
                    match versions.open(before) {
                        // An accept gave them up: it has left them where they are.
                        Ok(kept) if opened.commit.has_content_of(&kept.commit) => {
                            listed.retain(|v| !over.contains(v));
                        }
                        _ => self.beside(versions, &mut listed, over)?,
                    }
                }
                listed.pop_if(|v| *v == here);
                wanted = before;
                self.report.versions += 1;
                (self.progress)(Progress { what: "heads", done: self.report.versions, total: None });
                if self.options.all && here != newest.version() {
                    older.push(opened.commit);
                }
            }
            while let Some(next) = listed.pop_if(|_| wanted != 0) {
                if next >= wanted {
                    continue;
                }
                from = self.note(format!("head {next}"), None, versions.open(next))?;
                if from.is_some() {
                    break;
                }
            }
        }
        Ok(older)
    }

    /// Numbers that the chain passes over: what is there is nothing, or a version that parts from ours.
    fn beside(
        &mut self,
        versions: &Versions,
        listed: &mut Vec<Version>,
        over: std::ops::Range<Version>,
    ) -> Result<()> {
        for version in listed.extract_if(.., |v| over.contains(v)) {
            match versions.heads().get(version) {
                Ok(_) => self.find(
                    format!("head {version}"),
                    "it is valid, and the newest version is none of its successors: the history forked",
                    None,
                ),
                Err(e) if matches!(e.kind(), Kind::Damage | Kind::NotFound) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// The hint to the newest head: it may be old, but not of what there is not.
    fn hint(&mut self, versions: &Versions, newest: &Opened, listed: &[Version]) -> Result<()> {
        match versions.heads().hint()? {
            Some(hint) if hint > newest.version() && !listed.contains(&hint) => {
                let what =
                    format!("it is gone, though `latest` tells of it; the newest is {}", newest.version());
                self.find(format!("head {hint}"), what, None);
            }
            Some(_) => {}
            None => match versions.objects().size(&versions.layout().latest()) {
                Err(e) if e.kind() == Kind::NotFound => {}
                there => {
                    there?;
                    self.find(
                        "latest",
                        "it is damaged, which does no harm: the next commit writes it anew",
                        None,
                    );
                }
            },
        }
        Ok(())
    }

    /// The parts of index runs.
    fn index(&mut self, runs: &RunSet) -> Result<()> {
        let store = self.source.store.clone();
        for part in runs.parts() {
            if self.in_subset(&part.id.0) {
                let name = format!("index run {}", crate::types::hex(&part.id.0));
                self.note(name, None, store.index().verify(part))?;
            }
        }
        Ok(())
    }

    /// That each pack is there, as long as it was, with a footer that lists as many chunks as it had; where data is
    /// to be read, that each of its bytes is what its name says.
    fn packs(&mut self, versions: &Versions, newest: &Opened) -> Result<()> {
        let total = newest.commit.packs.len() + newest.fresh_packs().count() as u64;
        let mut listed: Vec<_> = newest.fresh_packs().copied().collect();
        let entered: Vec<_> = packs::list(&newest.commit.packs, &self.source).collect();
        for pack in entered {
            let pack = self.note("index of packs", None, pack)?;
            self.packs_unread |= pack.is_none();
            listed.extend(pack);
        }
        for pack in listed {
            let object = format!("pack {}", pack.id);
            let mut looked = Some(Looked { bytes: pack.bytes, doubtful: false });
            if self.in_subset(&pack.id.0) {
                let name = versions.layout().pack(&pack.id);
                let read = read_footer(versions.objects(), &name, versions.index_keys());
                let read = self.note(&object, None, read)?;
                if let Some((bytes, chunks)) = &read
                    && (*bytes != pack.bytes || chunks.len() != pack.chunks as usize)
                {
                    let what = format!(
                        "it has {bytes} bytes and {} chunks, not {} and {}",
                        chunks.len(),
                        pack.bytes,
                        pack.chunks
                    );
                    self.find(&object, what, None);
                } else if let Some((bytes, _)) = &read
                    && self.options.read_data
                {
                    let whole = is_whole(versions.objects(), &name, &pack.id, *bytes);
                    if self.note(&object, None, whole)? == Some(false) {
                        self.find(&object, "its bytes are not what its name says", None);
                    }
                }
                looked = match read {
                    Some((bytes, _)) => Some(Looked { bytes, doubtful: false }),
                    None => match versions.objects().size(&name) {
                        Err(e) if e.kind() == Kind::NotFound => None,
                        size => Some(Looked { bytes: size?, doubtful: true }),
                    },
                };
            }
            self.packs.insert(pack.id, looked);
            self.report.packs += 1;
            (self.progress)(Progress { what: "packs", done: self.report.packs, total: Some(total) });
        }
        self.nodes("index of packs", None, &newest.commit.packs)
    }

    /// A chunk that something needs.
    fn chunk(&mut self, chunk: &ChunkRef, path: Option<&[u8]>) -> Result<()> {
        if !self.in_subset(&chunk.address.0) {
            return Ok(());
        }
        self.report.chunks += 1;
        let object = || format!("chunk {}", chunk.address);
        let places = self.source.store.index().places(&self.runs, &chunk.address);
        let Some(places) = self.note(object(), path, places)? else { return Ok(()) };
        // The packs' own lists, where they stand in for a damaged index run, tell of packs that no version lists too.
        let known = places.iter().find(|p| self.packs.get(&p.pack).is_some_and(Option::is_some));
        let place = known.or(places.first()).copied();
        let mut doubtful = false;
        let wrong = match place {
            None if is_given_up(&chunk.address) => Some(
                "a part of the file that could not be read was given up, for something in it was changed: write the file \
                 anew, or remove it"
                    .to_owned(),
            ),
            None => Some("it is in no index run".to_owned()),
            Some(place) => {
                self.report.bytes += if self.options.read_data { place.len.into() } else { 0 };
                let end = u64::from(place.offset) + u64::from(place.len);
                match self.packs.get(&place.pack) {
                    // What cannot be read may list it.
                    None if self.packs_unread => None,
                    None => Some(format!("it is in pack {}, which no version lists", place.pack)),
                    Some(None) => Some(format!("it is lost with pack {}", place.pack)),
                    Some(Some(pack)) if end > pack.bytes => {
                        Some(format!("the index has it past the end of pack {}", place.pack))
                    }
                    Some(Some(pack)) => {
                        doubtful = pack.doubtful;
                        None
                    }
                }
            }
        };
        if let Some(what) = wrong {
            self.find(object(), what, path);
        } else if self.options.read_data || doubtful {
            let read = self.source.get(chunk);
            self.note(object(), path, read)?;
        }
        Ok(())
    }

    /// All nodes of a Map; where it is a directory's, with its path.
    fn nodes(&mut self, what: &str, path: Option<&[u8]>, map: &Map) -> Result<()> {
        self.nodes_not_in(what, path, map, &Map::default())
    }

    fn nodes_not_in(&mut self, what: &str, path: Option<&[u8]>, map: &Map, other: &Map) -> Result<()> {
        let source = self.source.clone();
        let nodes: Box<dyn Iterator<Item = Result<ChunkRef>>> = match other.is_empty() {
            true => Box::new(map.nodes(&source)),
            false => Box::new(map.nodes_not_in(other, &source)),
        };
        for node in nodes {
            if let Some(node) = self.note(what, path, node)? {
                self.chunk(&node, path)?;
            }
        }
        Ok(())
    }

    /// Whether this content is new to the check.
    fn is_new(&mut self, address: Address) -> bool {
        self.seen.insert(address.0)
    }

    /// An inode but what a directory holds.
    fn inode(&mut self, inode: &StoredInode, path: &[u8]) -> Result<()> {
        use super::inode::{Content, StoredXattrs};
        if let StoredXattrs::Chunk { .. } = inode.xattrs {
            let loaded = inode.clone().load(&self.source);
            self.note(format!("extended attributes of inode {}", inode.ino), Some(path), loaded)?;
        }
        if let Content::File(blob) = &inode.content {
            self.blob(blob, path)?;
        }
        Ok(())
    }

    fn blob(&mut self, blob: &Blob, path: &[u8]) -> Result<()> {
        let content = content_of(blob);
        if !self.is_new(content) {
            for finding in self.damaged.get(&content.0).cloned().into_iter().flatten() {
                self.find(finding.object, finding.what, Some(path));
            }
            return Ok(());
        }
        let before = self.report.findings.len();
        let source = self.source.clone();
        let visited = blob.chunk_refs(&source, &mut |chunk| self.chunk(&chunk, Some(path)));
        self.note("file", Some(path), visited)?;
        if let Some(found @ [_, ..]) = self.report.findings.get(before..) {
            self.damaged.insert(content.0, found.to_vec());
        }
        Ok(())
    }
}

/// What stands for a file's contents among those that were checked.
fn content_of(blob: &Blob) -> Address {
    let mut w = crate::wire::Writer::new();
    blob.put(&mut w);
    Address::of(w.as_slice())
}
