#![no_main]
//! A version that another device of the drive could sign: directories, shells and inodes that say anything, under good
//! keys and hashes. It is mounted, used, checked, and gone on from.

use nacrefs::chunk::Sealer;
use nacrefs::commit::check::{Options, check};
use nacrefs::commit::inode::ROOT;
use nacrefs::commit::{Attr, Content, Entry, FileKind, Signer, StoredInode};
use nacrefs::content::{ContentCache, Opener};
use nacrefs::crypt::SigningKey;
use nacrefs::drive::Keys;
use nacrefs::error::Result;
use nacrefs::tree::Map;
use nacrefs::types::{Address, DeviceId, Ino, Key};
use nacrefs::wire::Reader;
use nacrefs_fuzz::drive::{base, exercise};
use nacrefs_fuzz::world::World;
use nacrefs_fuzz::{bytes, target};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A number that is mostly that of another inode nearby.
fn number(r: &mut Reader) -> Result<Ino> {
    Ok(match r.u8()? {
        255 => r.u64()?,
        n @ 200.. => (1 << 43) + u64::from(n),
        n => u64::from(n),
    })
}

/// The values of a directory's names, by the script: entries that are right but for what the script says, or anything.
fn entry(r: &mut Reader, of: &Attr, dirs: &[Map]) -> Result<Vec<u8>> {
    let mut attr = of.clone();
    let (xattrs, blob) = (nacrefs::commit::inode::StoredXattrs::None, nacrefs::content::Blob::Empty);
    Ok(match r.u8()? {
        0..=79 => {
            let (ino, map) = (number(r)?, dirs.get(usize::from(r.u8()?)).cloned().unwrap_or_default());
            attr.size = map.len();
            attr.nlink = r.u8()?.into();
            Entry::Inode(StoredInode { ino, attr, xattrs, content: Content::Directory(map) }).to_bytes()
        }
        80..=119 => {
            (attr.kind, attr.size, attr.nlink) = (FileKind::File, r.u64()?, r.u8()?.into());
            Entry::Inode(StoredInode { ino: number(r)?, attr, xattrs, content: Content::File(blob) })
                .to_bytes()
        }
        120..=159 => {
            let kind = FileKind::from_u8(r.u8()?).unwrap_or(FileKind::File);
            Entry::Shell { ino: number(r)?, kind }.to_bytes()
        }
        _ => bytes(r)?.to_vec(),
    })
}

/// Signs the version.
fn publish(world: &World, data: &[u8]) -> Result<()> {
    let mut r = Reader::new(data, "script");
    let site = world.site();
    let newest = site.newest(world.known())?;
    let Some(opened) = &newest.opened else { return Ok(()) };
    let mut commit = nacrefs::commit::Commit::clone(&opened.commit);
    let store = site.chunk_store(commit.runs.clone(), None);
    let fetch = store.clone();
    let fetch = move |a: &Address| fetch.fetch(a);
    let opener = Opener::new(Arc::new(ContentCache::new(1 << 20)), fetch, Keys(site.keys.clone()));
    let mut batch = store.begin([7; 32]);
    let keys: &dyn Sealer = &*site.keys;
    let edits = |entries: BTreeMap<Vec<u8>, Vec<u8>>| -> Vec<_> {
        entries.into_iter().map(|(k, v)| (k, Some(v))).collect()
    };

    let mut attr = commit.root.attr.clone();
    let mut dirs = vec![Map::default()];
    for _ in 0..r.u8()? % 6 {
        let mut entries = BTreeMap::new();
        for _ in 0..r.u8()? % 8 {
            let name = bytes(&mut r)?;
            let name = &name[..name.len().min(300)];
            // Two may have one hash, where a flag says so.
            let hash = if r.u8()? < 250 { site.keys.name_hash(name) } else { r.u8()?.into() };
            entries.insert([&hash.to_be_bytes()[..], name].concat(), entry(&mut r, &attr, &dirs)?);
        }
        dirs.push(Map::default().update(keys, &opener, &mut batch, &edits(entries))?);
    }
    let mut shells = BTreeMap::new();
    for _ in 0..r.u8()? % 6 {
        let (ino, what) = (number(&mut r)?, r.u8()?);
        let mut key = ino.to_be_bytes().to_vec();
        let mut value = Vec::new();
        if what < 128 {
            // An entry less its first byte is an inode.
            value = entry(&mut r, &attr, &dirs)?.into_iter().skip(1).collect();
        } else {
            key.extend(number(&mut r)?.to_be_bytes());
            key.extend_from_slice(bytes(&mut r)?);
        }
        key.truncate(nacrefs::tree::MAX_KEY);
        shells.insert(key, value);
    }
    if !shells.is_empty() {
        commit.shells = Map::default().update(keys, &opener, &mut batch, &edits(shells))?;
    }
    let root = dirs.pop().unwrap_or_default();
    attr.size = root.len();
    commit.root = StoredInode { ino: ROOT, attr, content: Content::Directory(root), ..commit.root };
    commit.version = newest.next;
    commit.parents = vec![opened.as_parent()];
    let device = DeviceId([9; 16]);
    let (lsn, next) = (number(&mut r).unwrap_or(0), number(&mut r).unwrap_or(1));
    if r.u8().is_ok_and(|n| n & 1 == 1) {
        // Also of what this machine has done it may say anything.
        commit.devices.iter_mut().for_each(|d| (d.lsn, d.next_ino) = (lsn, next.min(1 << 43)));
    }
    commit.device = device;
    commit.mark(device, lsn, next.min(1 << 43))?;
    let signer = Signer::new(&site.secrets, device, SigningKey::from_bytes(&Key([8; 32])));
    let prepared = site.versions.prepare(&newest, commit, &mut batch, &opener, &signer)?;
    site.versions.publish(&prepared)?;
    Ok(())
}

target!(64, |data| {
    let world = base();
    if publish(&world, data).is_err() {
        return;
    }
    let site = world.site();
    let Ok(newest) = site.newest(world.known()) else { return };
    let Some(opened) = newest.opened else { return };
    let store = site.chunk_store(opened.commit.runs.clone(), None);
    let all = Options { all: true, read_data: true, subset: None };
    let _ = check(&site.versions, &store, &opened, all, &mut |_| {});
    let Ok(drive) = world.open() else { return };
    let _ = exercise(&drive);
});
