//! Versions in a store: published, opened, found by time, checked.

use super::super::check::{Options, Report, Source, check};
use super::super::testing::Mini;
use super::super::versions::{Newest, Opened, Published, Signer, Versions};
use super::super::{FileKind, ROOT, View, When};
use super::{everything, noise};
use crate::crypt::{DriveSecrets, RealmKeys, SigningKey};
use crate::error::Kind;
use crate::store::memory::Memory;
use crate::store::{Batch, ChunkStore, IndexKeys, Objects, RunSet, Settings};
use crate::sys::SystemRandom;
use crate::types::{Ino, Key, Time};
use std::sync::Arc;

/// A drive in a store in memory, and one machine that writes to it.
pub(super) struct Rig {
    pub objects: Arc<Memory>,
    pub secrets: Arc<DriveSecrets>,
    keys: Arc<RealmKeys>,
    pub versions: Versions,
    store: Arc<ChunkStore>,
    signer: Signer,
    pub mini: Mini,
    newest: Newest,
    /// What the order in packs is drawn from.
    pub order: [u8; 32],
    /// How many threads encode contents.
    pub workers: usize,
}

pub(super) fn index_keys(secrets: &DriveSecrets) -> IndexKeys {
    IndexKeys::new(secrets.realm, 1, Key([9; 32]))
}

fn signer(secrets: &DriveSecrets) -> Signer {
    Signer::new(secrets, super::super::testing::DEVICE, SigningKey::from_bytes(&Key([6; 32])))
}

impl Rig {
    pub fn new() -> Rig {
        Rig::of(DriveSecrets::generate(&SystemRandom).unwrap())
    }

    pub fn of(secrets: DriveSecrets) -> Rig {
        let objects = Arc::new(Memory::new());
        let secrets = Arc::new(secrets);
        let versions = Versions::new(objects.clone(), secrets.clone(), index_keys(&secrets));
        let keys = versions.keys().unwrap();
        let settings = Settings::default();
        let store =
            ChunkStore::open(objects.clone(), index_keys(&secrets), RunSet::default(), settings, None);
        let source = Arc::new(Source { store: store.clone(), keys: keys.clone() });
        let fetcher = store.clone();
        let fetch = move |address: &crate::types::Address| fetcher.fetch(address);
        let mini = Mini::new(keys.clone(), source, Arc::new(fetch));
        let newest = versions.open_newest(None).unwrap();
        assert!(newest.opened.is_none());
        let signer = signer(&secrets);
        Rig { objects, secrets, keys, versions, store, signer, mini, newest, order: [0; 32], workers: 2 }
    }

    /// Builds the next version, up to the head.
    fn prepare(&mut self) -> (super::super::Prepared, Batch) {
        let mut batch = self.store.begin(self.order);
        let mut making = self.mini.making();
        making.version = self.newest.next;
        making.workers = self.workers;
        making.parents = self.newest.opened.iter().map(Opened::as_parent).collect();
        let commit = self.mini.build(&making, &mut batch).unwrap();
        let source = Source { store: self.store.clone(), keys: self.keys.clone() };
        let prepared =
            self.versions.prepare(&self.newest, commit, &mut batch, &source, &self.signer).unwrap();
        (prepared, batch)
    }

    fn adopt(&mut self, opened: Opened) {
        self.store.adopt(opened.commit.runs.clone());
        self.mini.commit = Some(opened.commit.clone());
        let next = opened.version() + 1;
        self.newest = Newest::after(opened, next);
    }

    pub fn publish(&mut self) -> Opened {
        let (prepared, _batch) = self.prepare();
        let Published::Won(opened) = self.versions.publish(&prepared).unwrap() else { panic!("lost") };
        self.adopt(Opened::clone(&opened));
        *opened
    }

    /// Another machine's eyes: all from the store.
    fn fresh(&self) -> (Versions, Arc<ChunkStore>, Opened) {
        let versions = Versions::new(self.objects.clone(), self.secrets.clone(), index_keys(&self.secrets));
        let opened = versions.open_newest(None).unwrap().opened.unwrap();
        let runs = opened.commit.runs.clone();
        let settings = Settings::default();
        let store = ChunkStore::open(self.objects.clone(), index_keys(&self.secrets), runs, settings, None);
        (versions, store, opened)
    }

    fn view(&self, store: &Arc<ChunkStore>, opened: &Opened) -> View {
        let source = Source { store: store.clone(), keys: self.keys.clone() };
        View::new(opened.commit.clone(), self.keys.clone(), Arc::new(source))
    }

    fn check(&self, options: Options) -> Report {
        let (versions, store, opened) = self.fresh();
        let mut steps = 0;
        let report = check(&versions, &store, &opened, options, &mut |_| steps += 1).unwrap();
        assert!(steps > 0);
        report
    }
}

const DEEP: Options = Options { all: true, read_data: true, subset: None };

fn at(sec: i64) -> When {
    When::Until(Time { sec, nsec: 0 })
}

#[test]
fn what_one_machine_publishes_another_reads() {
    let mut rig = Rig::new();
    let dir = everything(&mut rig.mini);
    let first = rig.publish();
    let file = rig.mini.names(dir)[&b"file"[..]];
    rig.mini.write(file, 0, b"J");
    rig.publish();
    rig.mini.rename(dir, b"file", ROOT, b"file");
    let third = rig.publish();
    rig.mini.verify();

    let (versions, store, opened) = rig.fresh();
    assert_eq!(opened.version(), 3);
    let read = |opened: &Opened, path: &[u8]| {
        let view = rig.view(&store, opened);
        let inode = view.resolve(path)?;
        let mut out = [0; 5];
        view.read(&inode, 0, &mut out).map(|_| out.to_vec())
    };
    assert_eq!(read(&opened, b"file").unwrap(), b"Jello");
    // The past is there, through the index of the present.
    assert_eq!(read(&versions.open(2).unwrap(), b"dir/file").unwrap(), b"Jello");
    assert_eq!(read(&versions.open(1).unwrap(), b"dir/file").unwrap(), b"hello");
    let numbers: Vec<_> = versions.iter(&opened).map(|o| o.unwrap().version()).collect();
    assert_eq!(numbers, [3, 2, 1]);
    // Of the past only what is asked for is believed.
    assert_eq!(versions.open_newest(Some(first.head.link())).unwrap().opened.unwrap().version(), 3);
    let mut forked = third.head.link();
    forked.hash[0] ^= 1;
    assert_eq!(versions.open_newest(Some(forked)).err().unwrap().kind(), Kind::Conflict);
    assert_eq!(versions.open(4).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn moments_lead_to_the_newest_version_before_them() {
    let mut rig = Rig::new();
    let file = rig.mini.file(ROOT, b"f", b"0");
    let mut times = Vec::new();
    for n in 0..40u8 {
        rig.mini.write(file, 0, &[n]);
        times.push(rig.publish().commit.time.sec);
    }
    let (versions, _, newest) = rig.fresh();
    for (n, time) in times.iter().enumerate() {
        let version = n as u64 + 1;
        assert_eq!(versions.at(at(*time), &newest).unwrap().version(), version);
        assert_eq!(versions.at(When::Version(version), &newest).unwrap().version(), version);
        match versions.at(at(time - 1), &newest) {
            Ok(before) => assert_eq!(before.version(), version - 1),
            Err(e) => assert_eq!((e.kind(), version), (Kind::NotFound, 1)),
        }
    }
    assert_eq!(versions.at(at(i64::MAX), &newest).unwrap().version(), 40);
    assert_eq!(versions.at(When::Version(41), &newest).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(versions.at(When::Version(0), &newest).unwrap_err().kind(), Kind::NotFound);
}

/// One version whose clock ran ahead hid those after it, for its skip link leads past them.
#[test]
fn a_clock_that_ran_ahead_hides_no_version() {
    let mut rig = Rig::new();
    let file = rig.mini.file(ROOT, b"f", b"0");
    let mut times = Vec::new();
    for n in 1..=40 {
        let ahead = if [8, 16, 32].contains(&n) { 3600 } else { 0 };
        rig.mini.write(file, 0, &[n]);
        rig.mini.now += ahead;
        times.push((u64::from(n), ahead, rig.publish().commit.time.sec));
        rig.mini.now -= ahead;
    }
    let (versions, _, newest) = rig.fresh();
    for (version, _, time) in times.iter().filter(|(_, ahead, _)| *ahead == 0) {
        assert_eq!(versions.at(at(*time), &newest).unwrap().version(), *version);
    }
}

#[test]
fn one_of_two_that_race_for_a_version_wins() {
    let mut rig = Rig::new();
    rig.publish();
    rig.mini.file(ROOT, b"mine", b"1");
    let (mine, _batch) = rig.prepare();
    // The same drive elsewhere, with another change.
    let commit = rig.mini.commit.clone();
    rig.mini.file(ROOT, b"theirs", b"2");
    rig.mini.commit = commit;
    let (theirs, _batch) = rig.prepare();
    let Published::Won(won) = rig.versions.publish(&theirs).unwrap() else { panic!() };
    assert!(matches!(rig.versions.publish(&mine).unwrap(), Published::Lost));
    // An answer that was lost: the same again is no race.
    assert!(
        matches!(rig.versions.publish(&theirs).unwrap(), Published::Won(again) if again.head == won.head)
    );
    assert_eq!(rig.fresh().2.head, won.head);
}

#[test]
fn a_head_that_the_drives_admin_does_not_vouch_for_counts_as_absent() {
    let mut rig = Rig::new();
    rig.publish();
    rig.mini.file(ROOT, b"a", b"1");
    let mut others = DriveSecrets::generate(&SystemRandom).unwrap();
    (others.drive, others.realm) = (rig.secrets.drive, rig.secrets.realm);
    rig.signer = signer(&others);
    let (prepared, _batch) = rig.prepare();
    assert!(matches!(rig.versions.publish(&prepared).unwrap(), Published::Won(_)));
    let newest = rig.versions.open_newest(None).unwrap();
    assert_eq!((newest.opened.map(|o| o.version()), newest.next), (Some(1), 3));
}

#[test]
fn every_pack_is_listed_once_by_the_version_after() {
    let mut rig = Rig::new();
    everything(&mut rig.mini);
    let first = rig.publish();
    assert!(first.commit.packs.is_empty());
    rig.mini.file(ROOT, b"more", &noise(100_000, 8));
    let second = rig.publish();
    assert_eq!(second.commit.packs.len() as usize, first.fresh_packs().count());
    let in_store = rig.objects.list(rig.versions.layout().packs().as_str()).unwrap().len();
    assert_eq!(in_store, second.commit.packs.len() as usize + second.fresh_packs().count());
}

#[test]
fn a_sound_drive_has_no_findings() {
    let mut rig = Rig::new();
    let dir = everything(&mut rig.mini);
    let linked = rig.mini.file(dir, b"linked", &noise(200_000, 3));
    rig.mini.link(linked, ROOT, b"again");
    rig.publish();
    rig.mini.write(linked, 150_000, b"edited");
    rig.mini.unlink(ROOT, b"fifo");
    rig.publish();
    for options in [Options::default(), DEEP, Options { subset: Some((2, 3)), ..DEEP }] {
        let report = rig.check(options);
        assert_eq!(report.findings, [], "{options:?}");
        report.verdict().unwrap();
        assert_eq!(report.versions, 2);
        assert!(report.chunks > 10 && report.packs >= 4);
        assert_eq!(report.bytes > 0, options.read_data);
    }
    let whole = rig.check(DEEP);
    let parts: u64 = (1..=3).map(|n| rig.check(Options { subset: Some((n, 3)), ..DEEP }).chunks).sum();
    assert_eq!(parts, whole.chunks);
    let (versions, store, opened) = rig.fresh();
    let bad = Options { subset: Some((4, 3)), ..DEEP };
    assert_eq!(check(&versions, &store, &opened, bad, &mut |_| {}).unwrap_err().kind(), Kind::Usage);
}

#[test]
fn damage_is_found_and_named() {
    let mut rig = Rig::new();
    let dir = rig.mini.make(ROOT, b"dir", FileKind::Directory);
    rig.publish();
    rig.mini.file(dir, b"precious", &noise(1 << 20, 4));
    let second = rig.publish();
    rig.mini.file(ROOT, b"later", b"x");
    rig.publish();
    let pack = rig.versions.layout().pack(&second.commit.fresh[0].id);
    let whole = rig.objects.get(&pack).unwrap();

    // A flipped byte in the middle of the content.
    let mut bent = whole.to_vec();
    bent[400_000] ^= 1;
    rig.objects.put(&pack, bent.into()).unwrap();
    assert_eq!(rig.check(Options::default()).findings, []);
    let report = rig.check(DEEP);
    // The pack as a whole, and the chunk in it with the file that needs it.
    assert_eq!(report.findings.len(), 2, "{:?}", report.findings);
    assert!(report.findings[0].object.starts_with("pack "));
    assert_eq!(report.findings[1].path.as_deref(), Some(&b"/dir/precious"[..]));
    assert_eq!(report.verdict().unwrap_err().exit_status(), 5);

    // A pack that lost its end, and one that is gone.
    rig.objects.put(&pack, whole.slice(..whole.len() - 1000)).unwrap();
    assert!(rig.check(Options::default()).findings.iter().any(|f| f.object.starts_with("pack ")));
    rig.objects.delete(&pack).unwrap();
    let findings = rig.check(Options::default()).findings;
    assert!(findings.iter().any(|f| f.object.starts_with("pack ")));
    assert!(
        findings.iter().any(|f| f.path.as_deref().is_some_and(|p| p.starts_with(b"/dir"))),
        "{findings:?}"
    );
    rig.objects.put(&pack, whole).unwrap();
    assert_eq!(rig.check(DEEP).findings, []);

    // A head that is not what the one after it names.
    let head = rig.versions.layout().head(2);
    rig.objects.put(&head, b"junk".as_slice().into()).unwrap();
    let report = rig.check(DEEP);
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
    assert!(report.findings[0].object.contains("head 2"));
}

/// Trees of hard links, as `cp -al` makes them: directories of the same names of the same files are one node.
fn linked_trees(rig: &mut Rig, copies: std::ops::Range<u32>, files: &[Ino]) {
    for n in copies {
        let top = rig.mini.make(ROOT, format!("copy{n}").as_bytes(), FileKind::Directory);
        let sub = rig.mini.make(top, b"sub", FileKind::Directory);
        let leaf = rig.mini.make(sub, b"leaf", FileKind::Directory);
        for dir in [sub, leaf] {
            files.iter().for_each(|f| rig.mini.link(*f, dir, format!("f{f}").as_bytes()));
        }
    }
}

#[test]
fn directories_of_the_same_hard_links_are_each_counted_and_each_named() {
    let mut rig = Rig::new();
    let files: Vec<Ino> = (0..4).map(|n| rig.mini.file(ROOT, format!("{n}").as_bytes(), b"x")).collect();
    linked_trees(&mut rig, 0..2, &files);
    let before = rig.publish();
    assert_eq!(rig.check(DEEP).findings, []);
    linked_trees(&mut rig, 2..3, &files);
    rig.publish();
    for options in [Options::default(), DEEP] {
        assert_eq!(rig.check(options).findings, []);
    }

    // Names that the shells do not know: those of the third copy, and all of them.
    let (versions, store, opened) = rig.fresh();
    let mut bent = opened.clone();
    let commit = Arc::make_mut(&mut bent.commit);
    commit.shells = before.commit.shells.clone();
    let findings = check(&versions, &store, &bent, Options::default(), &mut |_| {}).unwrap().findings;
    for dir in ["/copy2/sub", "/copy2/sub/leaf"] {
        for f in &files {
            let path = format!("{dir}/f{f}").into_bytes();
            let named =
                findings.iter().any(|f| f.path.as_ref() == Some(&path) && f.what.contains("this name"));
            assert!(named, "{findings:?}");
        }
    }
    assert!(findings.iter().any(|f| f.what == "it has 20 names, and 28 entries lead to it"), "{findings:?}");

    // And names of shells that no entry has.
    let mut bent = opened.clone();
    Arc::make_mut(&mut bent.commit).root = before.commit.root.clone();
    let findings = check(&versions, &store, &bent, Options::default(), &mut |_| {}).unwrap().findings;
    assert!(findings.iter().any(|f| f.what == "it has 28 names, and 20 entries lead to it"), "{findings:?}");
}

#[test]
fn each_file_and_directory_that_a_lost_pack_spoils_is_named() {
    let mut rig = Rig::new();
    let files: Vec<Ino> = (0..2).map(|n| rig.mini.file(ROOT, format!("{n}").as_bytes(), b"x")).collect();
    let same = noise(1 << 20, 7);
    rig.mini.file(ROOT, b"one", &same);
    rig.mini.file(ROOT, b"two", &same);
    linked_trees(&mut rig, 0..3, &files);
    let version = rig.publish();
    // The root directory is in another pack.
    rig.mini.file(ROOT, b"later", b"x");
    rig.publish();
    let (versions, store, opened) = rig.fresh();
    for pack in version.fresh_packs() {
        let _ = rig.objects.delete(&rig.versions.layout().pack(&pack.id));
    }
    let findings = check(&versions, &store, &opened, Options::default(), &mut |_| {}).unwrap().findings;
    for path in ["/one", "/two", "/copy0", "/copy1", "/copy2"] {
        let named = findings.iter().any(|f| f.path.as_deref() == Some(path.as_bytes()));
        assert!(named, "{path}: {findings:?}");
    }
}
