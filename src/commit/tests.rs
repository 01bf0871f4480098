//! Versions made, and read back, against a model.

mod blur;
mod hostile;
mod published;

use super::build::build;
use super::change::{Ancestors, BodyChange, Change};
use super::history::What;
use super::inode::{Content, FileKind, InodeRecord, Name, ROOT};
use super::object::Commit;
use super::testing::Mini;
use super::view::View;
use crate::error::{Error, Kind, Result};
use crate::types::Ino;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

fn noise(n: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; n];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

/// A tree with one of everything.
fn everything(mini: &mut Mini) -> Ino {
    let dir = mini.make(ROOT, b"dir", FileKind::Directory);
    let file = mini.file(dir, b"file", b"hello");
    mini.file(dir, b"large", &noise(3_000_000, 1));
    mini.make(dir, b"link", FileKind::Symlink);
    mini.make(ROOT, b"fifo", FileKind::Fifo);
    mini.make(ROOT, b"device", FileKind::CharDevice);
    mini.make(dir, "naïve \u{1f980}".as_bytes(), FileKind::Directory);
    mini.edit(file).xattrs.insert(b"user.small".to_vec(), b"value".to_vec());
    mini.edit(dir).xattrs.insert(b"user.large".to_vec(), noise(5000, 2));
    dir
}

#[test]
fn a_drive_from_nothing_and_what_follows() {
    let (mut mini, world) = Mini::in_memory();
    let dir = everything(&mut mini);
    let first = mini.commit(&world);
    assert_eq!((first.version, first.counts.files, first.counts.directories), (1, 5, 3));
    mini.verify();

    // Content, attributes, names, places; a directory that did not change keeps its large xattrs.
    let file = mini.names(dir)[&b"file"[..]];
    mini.write(file, 3, b"p me");
    mini.commit(&world);
    mini.verify();
    mini.edit(file).attr.perm = 0o4755;
    mini.rename(dir, b"file", ROOT, b"moved");
    mini.rename(ROOT, b"dir", ROOT, b"other");
    mini.truncate(file, 1);
    mini.commit(&world);
    mini.verify();
    mini.unlink(ROOT, b"moved");
    mini.unlink(ROOT, b"fifo");
    let third = mini.commit(&world);
    mini.verify();
    assert_eq!(third.counts.files, 3);

    let view = mini.view();
    let whats = |ino| view.versions_of(ino).map(|e| e.map(|(v, e)| (v, e.what))).collect::<Result<Vec<_>>>();
    let removed = [(4, What::Removed), (3, What::Renamed), (2, What::Changed), (1, What::Created)];
    assert_eq!(whats(file).unwrap(), removed);
    assert_eq!(whats(dir).unwrap(), [(3, What::Renamed), (1, What::Created)]);
    let (_, then) = view.versions_of(file).nth(2).unwrap().unwrap();
    let Some(Content::File(blob)) = then.content else { panic!() };
    let mut out = [0; 7];
    blob.read(&world, 0, &mut out).unwrap();
    assert_eq!((&out, &then.name[..], then.size), (b"help me", &b"file"[..], 7));
}

#[test]
fn a_file_becomes_a_shell_with_its_second_name_and_stays_one() {
    let (mut mini, world) = Mini::in_memory();
    let (a, b) = (mini.make(ROOT, b"a", FileKind::Directory), mini.make(ROOT, b"b", FileKind::Directory));
    let file = mini.file(a, b"one", b"content");
    mini.commit(&world);
    assert!(mini.commit.as_ref().unwrap().shells.is_empty());

    mini.link(file, b, b"two");
    mini.link(file, b, b"three");
    mini.commit(&world);
    mini.verify();
    assert_eq!(mini.view().resolve(b"/b/../a/./one").unwrap().attr.nlink, 3);

    // A change of the shell itself touches no directory.
    let root = mini.commit.as_ref().unwrap().root.clone();
    mini.write(file, 0, b"CONTENT");
    mini.edit(file).xattrs.insert(b"user.large".to_vec(), noise(3000, 5));
    mini.commit(&world);
    mini.verify();
    assert_eq!(bytes_of(&root), bytes_of(&mini.commit.as_ref().unwrap().root));

    mini.unlink(a, b"one");
    mini.unlink(b, b"two");
    mini.commit(&world);
    mini.verify();
    assert_eq!(mini.view().names(file).unwrap(), [Name { parent: b, name: b"three".as_slice().into() }]);
    mini.rename(b, b"three", ROOT, b"four");
    mini.commit(&world);
    mini.verify();
    mini.unlink(ROOT, b"four");
    mini.commit(&world);
    mini.verify();
    assert!(mini.commit.as_ref().unwrap().shells.is_empty());
}

fn bytes_of(inode: &super::StoredInode) -> Vec<u8> {
    let mut w = crate::wire::Writer::new();
    inode.put(&mut w);
    w.into_vec()
}

/// One flipped bit in a node that a commit reads used to keep back every commit from then on.
#[test]
fn no_damaged_node_keeps_a_version_back_and_what_was_changed_is_in_it() {
    let (mut mini, world) = Mini::in_memory();
    let dir = mini.make(ROOT, b"dir", FileKind::Directory);
    let sub = mini.make(dir, b"sub", FileKind::Directory);
    mini.edit(sub).xattrs.insert(b"user.large".to_vec(), noise(3000, 7));
    let deep = mini.file(sub, b"deep", b"deep");
    let name = |n: usize| format!("file {n}").into_bytes();
    let files: Vec<_> = (0..500).map(|n| mini.file(dir, &name(n), b"x")).collect();
    for (n, file) in files.iter().enumerate().take(120) {
        mini.link(*file, sub, &name(n));
    }
    let large = mini.file(ROOT, b"large", &noise(12 << 20, 1));
    let first = mini.commit(&world);
    mini.verify();

    let view = mini.view();
    let mut nodes = std::collections::BTreeSet::new();
    let mut add = |map: &crate::tree::Map| nodes.extend(map.nodes(&world).map(|n| n.unwrap().address.0));
    [&first.shells, &first.history].into_iter().for_each(&mut add);
    for path in ["", "dir", "dir/sub", "large"] {
        match view.resolve(path.as_bytes()).unwrap().content {
            Content::Directory(map) => add(&map),
            Content::File(crate::content::Blob::Segments { map, .. }) => add(&map),
            _ => panic!("{path}"),
        }
    }
    assert!(nodes.len() > 15, "{}", nodes.len());

    for (n, file) in files.iter().enumerate() {
        match n % 5 {
            0 => mini.edit(*file).attr.perm = 0o600,
            1 if n % 3 == 0 => mini.unlink(dir, &name(n)),
            2 if n % 3 == 0 => drop(mini.file(dir, format!("new {n}").as_bytes(), b"new")),
            3 if n % 9 == 0 => mini.rename(dir, &name(n), ROOT, &name(n)),
            _ => {}
        }
    }
    mini.write(deep, 0, b"DEEP");
    for at in 0..12 {
        mini.write(large, at << 20, b"written");
    }
    for node in nodes {
        let address = crate::types::Address(node);
        world.bend(&address);
        let (commit, _) = mini
            .try_build(&mini.making(), &mut world.clone())
            .unwrap_or_else(|e| panic!("{address}: {}", e.chain()));
        let commit = Arc::new(Commit::from_bytes(&commit.to_bytes().unwrap()).unwrap());
        let view = View::new(commit, mini.keys.clone(), Arc::new(world.clone()));
        let names = |path: &str, ino| {
            let Content::Directory(map) = view.resolve(path.as_bytes())?.content else { panic!("{path}") };
            let list =
                view.list(&map, None).map(|entry| entry.map(|(key, entry)| (key.name.to_vec(), entry.ino())));
            let found = list.collect::<Result<BTreeMap<_, _>>>()?;
            assert_eq!(&found, mini.names(ino), "{path}");
            Ok(())
        };
        // While it is damaged what is seen is right; once it is back, all is there.
        for healed in [false, true] {
            if healed {
                world.bend(&address);
            }
            for (path, ino) in [("", ROOT), ("dir", dir), ("dir/sub", sub)] {
                let seen: Result<()> = names(path, ino);
                assert!(seen.is_ok() || !healed, "{address}: {path}: {seen:?}");
            }
            for n in (0..500).step_by(5) {
                let found = view.resolve(&[b"dir/", &name(n)[..]].concat());
                let right = |inode: &InodeRecord| inode.attr.perm == 0o600;
                assert!(found.as_ref().map_or(!healed, right), "{address}: file {n}: {found:?}");
            }
            let mut out = [0; 7];
            let large = view.resolve(b"large").unwrap();
            for at in 0..12 {
                view.read(&large, at << 20, &mut out).unwrap();
                assert_eq!(&out, b"written", "{address}: segment {at}");
            }
        }
        let deep = view.resolve(b"dir/sub/deep").unwrap();
        assert_eq!(view.read(&deep, 0, &mut [0; 4]).unwrap(), 4);
        assert_eq!(view.resolve(b"dir/sub").unwrap().xattrs.map(|x| x.len()), Some(1));
    }
}

#[test]
fn paths_lead_where_open_would() {
    let (mut mini, world) = Mini::in_memory();
    let dir = everything(&mut mini);
    mini.commit(&world);
    let view = mini.view();
    let found = |path: &[u8]| view.resolve(path).map(|i| i.ino).map_err(|e| e.errno());
    assert_eq!(found(b""), Ok(ROOT));
    assert_eq!(found(b"/.."), Ok(ROOT));
    assert_eq!(found(b"//dir/."), Ok(dir));
    assert_eq!(found(b"dir/missing"), Err(libc::ENOENT));
    assert_eq!(found(b"dir/file/"), Err(libc::ENOTDIR));
    assert_eq!(found(b"dir/link/x"), Err(libc::ENOTDIR), "links are not followed");
    let large = view.resolve(b"dir/large").unwrap();
    let mut out = vec![0; 1000];
    assert_eq!(view.read(&large, 2_999_900, &mut out).unwrap(), 100);
    assert_eq!(view.read(&large, 9_000_000, &mut out).unwrap(), 0);
    assert!(view.read(&view.root().unwrap(), 0, &mut out).is_err());
}

#[test]
fn the_cost_of_a_version_is_that_of_the_change() {
    let (mut mini, world) = Mini::in_memory();
    let dir = mini.make(ROOT, b"wide", FileKind::Directory);
    let mut at = dir;
    for n in 0..20_000u32 {
        mini.file(dir, format!("file {n}").as_bytes(), &n.to_le_bytes());
    }
    for n in 0..10u32 {
        at = mini.make(at, format!("down {n}").as_bytes(), FileKind::Directory);
    }
    let deep = mini.file(at, b"deep", b"x");
    mini.commit(&world);
    world.added();
    world.fetched();

    let one = mini.names(dir)[&b"file 7777"[..]];
    mini.write(one, 0, b"changed");
    mini.commit(&world);
    let (chunks, bytes) = world.added();
    // A leaf of some 8 KiB and a path of nodes above it, for the directory and for the history.
    assert!(chunks < 16 && bytes < 80 << 10, "one file of 20,000: {chunks} chunks of {bytes} bytes");
    assert!(world.fetched() < 40);

    mini.write(deep, 0, b"y");
    mini.commit(&world);
    let (chunks, bytes) = world.added();
    assert!(
        chunks < 30 && bytes < 100 << 10,
        "a file ten directories deep: {chunks} chunks of {bytes} bytes"
    );
}

#[test]
fn a_deep_tree() {
    let (mut mini, world) = Mini::in_memory();
    let mut at = ROOT;
    for _ in 0..600 {
        at = mini.make(at, b"d", FileKind::Directory);
    }
    let file = mini.file(at, b"bottom", b"1");
    mini.commit(&world);
    mini.write(file, 0, b"2");
    mini.commit(&world);
    mini.verify();
    let path = [b"d/".repeat(600), b"bottom".to_vec()].concat();
    assert_eq!(mini.view().resolve(&path).unwrap().ino, file);
}

#[test]
fn equal_trees_are_equal_whatever_their_history() {
    let script = |commits: bool| {
        let (mut mini, world) = Mini::in_memory();
        let a = mini.make(ROOT, b"a", FileKind::Directory);
        for n in 0..300u32 {
            mini.file(a, format!("{n}").as_bytes(), &n.to_le_bytes());
            if commits && n % 50 == 0 {
                mini.commit(&world);
            }
        }
        for n in 100..200u32 {
            mini.unlink(a, format!("{n}").as_bytes());
        }
        let linked = mini.names(a)[&b"5"[..]];
        mini.link(linked, ROOT, b"five");
        if commits {
            mini.commit(&world);
        }
        mini.rename(a, b"7", ROOT, b"seven");
        mini.commit(&world)
    };
    let (one, many) = (script(false), script(true));
    assert_eq!(bytes_of(&one.root), bytes_of(&many.root));
    assert_eq!((one.counts, &one.shells), (many.counts, &many.shells));
    assert_ne!(one.history, many.history);
}

struct Nowhere;
impl Ancestors for Nowhere {
    fn place(&self, dir: Ino) -> Result<(Ino, u64)> {
        Err(Error::failed(format!("no directory {dir}")))
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let (mut mini, world) = Mini::in_memory();
    let dir = everything(&mut mini);
    mini.commit(&world);
    let file = mini.names(dir)[&b"file"[..]];
    mini.write(file, 0, b"J");
    mini.unlink(ROOT, b"fifo");
    let refused = |why: &str, spoil: &dyn Fn(&mut Vec<Change>)| {
        let mut changes = mini.changes();
        spoil(&mut changes);
        let tools =
            super::Tools { keys: &mini.keys, directories: &*mini.keys, chunks: &world, fetch: &world };
        let e = build(mini.commit.as_deref(), changes, &Nowhere, &mini.making(), tools, &mut world.clone())
            .err()
            .unwrap_or_else(|| panic!("{why}"));
        assert_eq!(e.kind(), Kind::Failed);
        assert!(e.chain().contains(why), "{e:?}, not {why}");
    };
    let of = |changes: &mut Vec<Change>, ino| changes.iter().position(|c| c.ino == ino).unwrap();
    refused("no directory", &|_| {});
    refused("two changes", &|c| {
        let again = mini.changes().remove(of(c, file));
        c.push(again);
    });
    refused("several names", &|c| {
        let at = of(c, file);
        c[at].names.push(Name { parent: ROOT, name: b"x".as_slice().into() });
    });
    refused("was a shell", &|c| {
        let at = of(c, file);
        c[at].was_shell = true;
    });
    refused("cannot have the name", &|c| {
        let at = of(c, file);
        c[at].names[0].name = b"..".as_slice().into();
    });
    refused("is no directory", &|c| {
        let at = of(c, file);
        c[at].names[0].parent = file;
    });
    refused("such name", &|c| {
        let at = of(c, file);
        c[at].names[0].parent = ROOT;
        let at = of(c, ROOT);
        let BodyChange::Directory { names, .. } = &mut c[at].body else { panic!() };
        let key = names.first_key_value().unwrap().0.clone();
        names.insert(key, Some((file, FileKind::File)));
    });
    refused("is removed, and has names in it", &|c| {
        let at = of(c, file);
        c[at].names[0].parent = ROOT + 1000;
        let mut gone = mini.changes().remove(of(c, ROOT));
        (gone.ino, gone.names) = (ROOT + 1000, Vec::new());
        c.push(gone);
    });
    refused("cannot be what it is", &|c| {
        let at = of(c, file);
        c[at].names[0].parent = ROOT;
        c[at].attr.perm = 0o10000;
    });
}

/// One random operation, by numbers that pick from what there is.
fn act(mini: &mut Mini, op: u8, pick: [u16; 3], data: &[u8]) {
    let alive = |mini: &Mini, kind: fn(FileKind) -> bool| -> Vec<Ino> {
        let live = mini.nodes.iter().filter(|(_, n)| !n.names.is_empty() && kind(n.attr.kind));
        live.map(|(ino, _)| *ino).collect()
    };
    let one = |list: &[Ino], pick: u16| list.get(usize::from(pick) % list.len().max(1)).copied();
    let dirs = alive(mini, |k| k == FileKind::Directory);
    let files = alive(mini, |k| k == FileKind::File);
    let Some(dir) = one(&dirs, pick[0]) else { return };
    let name = [b'a' + (pick[1] % 12) as u8];
    let taken = mini.names(dir).get(&name[..]).copied();
    match (op % 10, taken) {
        (0 | 1, None) => {
            mini.file(dir, &name, data);
        }
        (2, None) => {
            mini.make(dir, &name, FileKind::Directory);
        }
        (3, None) => {
            mini.make(
                dir,
                &name,
                if pick[2].is_multiple_of(2) { FileKind::Symlink } else { FileKind::Socket },
            );
        }
        (4, None) => {
            if let Some(file) = one(&files, pick[2]) {
                mini.link(file, dir, &name);
            }
        }
        (5, Some(ino)) => {
            let empty = mini.nodes[&ino].attr.kind != FileKind::Directory || mini.names(ino).is_empty();
            if empty {
                mini.unlink(dir, &name);
            }
        }
        (6, Some(ino)) => {
            let Some(to) = one(&dirs, pick[2]) else { return };
            let new = [b'a' + (pick[2] % 12) as u8];
            let is_dir = mini.nodes[&ino].attr.kind == FileKind::Directory;
            let fits = match mini.names(to).get(&new[..]) {
                Some(&other) if other == ino => false,
                Some(&other) => {
                    let other_is_dir = mini.nodes[&other].attr.kind == FileKind::Directory;
                    is_dir == other_is_dir && (!is_dir || mini.names(other).is_empty() && other != dir)
                }
                None => true,
            };
            if fits && !(is_dir && mini.is_above(ino, to)) {
                mini.rename(dir, &name, to, &new);
            }
        }
        (7, _) => {
            if let Some(file) = one(&files, pick[1]) {
                mini.write(file, u64::from(pick[2] % 5000), data);
            }
        }
        (8, _) => {
            if let Some(file) = one(&files, pick[1]) {
                mini.truncate(file, u64::from(pick[2] % 5000));
            }
        }
        (9, _) => {
            let all = alive(mini, |_| true);
            if let Some(ino) = one(&all, pick[2]) {
                mini.edit(ino).xattrs.insert(vec![b'u', name[0]], data.repeat(40));
            }
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
    #[test]
    fn any_tree_comes_back(
        steps in proptest::collection::vec(
            (any::<u8>(), any::<[u16; 3]>(), proptest::collection::vec(any::<u8>(), 1..60), 0u8..14),
            1..120,
        ),
    ) {
        let (mut mini, world) = Mini::in_memory();
        for (op, pick, data, commit) in steps {
            act(&mut mini, op, pick, &data);
            if commit == 0 {
                mini.commit(&world);
                mini.verify();
            }
        }
        mini.commit(&world);
        mini.verify();
    }
}

/// A version's commit is small, and names all that it must.
#[test]
fn a_commit_marks_its_device() {
    let (mut mini, world) = Mini::in_memory();
    let first = mini.commit(&world);
    let device = first.device(&super::testing::DEVICE).unwrap();
    assert_eq!((device.number, device.seen, device.next_ino), (1, None, 1));
    mini.file(ROOT, b"a", b"b");
    let second = mini.commit(&world);
    let device = second.device(&super::testing::DEVICE).unwrap();
    assert_eq!((device.number, device.seen.map(|s| s.version), device.next_ino), (1, Some(1), 2));
    assert!(second.to_bytes().unwrap().len() < 1000);
    assert_eq!(second.next_device_number(), 2);
}
