#![no_main]
//! Writes the seeds, into the directory that `SEEDS` names: what a real drive leaves in its store, its journal and its
//! state directory, opened, in the forms that the fuzz targets read. No fuzz target, but built as one (README.md).

use nacrefs::chunk::{ChunkRef, Chunks, Opening};
use nacrefs::cli::control::{Answer, At, Failure, LogEntry, Progress, Request, Status};
use nacrefs::cli::values::{DrivePath, Moment};
use nacrefs::commit::{Content, Entry, FileKind};
use nacrefs::content::{Blob, ContentCache, Opener};
use nacrefs::crypt::set::{Io, Piece, SetMap, encode_piece, member_count};
use nacrefs::crypt::{RecoveryCode, Seal, open, pad::pad};
use nacrefs::drive::Keys;
use nacrefs::drive::types::{RenameHow, SetAttr, Wait};
use nacrefs::store::{Objects, pack};
use nacrefs::tree::Map;
use nacrefs::types::{Address, Time};
use nacrefs::wire::Writer;
use nacrefs_fuzz::chunks::Forged;
use nacrefs_fuzz::drive::{CALLER, base, make};
use nacrefs_fuzz::put_bytes;
use std::collections::BTreeSet;
use std::fs;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;

/// The longest seed: larger ones are left out.
const LONGEST: usize = 4096;
/// How many seeds of one sort are enough.
const ENOUGH: usize = 8;

struct Seeds {
    dir: PathBuf,
    seen: BTreeSet<Vec<u8>>,
}

impl Seeds {
    fn put(&mut self, target: &str, name: &str, bytes: &[u8]) {
        let dir = self.dir.join(target);
        fs::create_dir_all(&dir).unwrap();
        if bytes.len() <= LONGEST && self.seen.insert([target.as_bytes(), bytes].concat()) {
            let n = fs::read_dir(&dir).unwrap().filter(|f| {
                f.as_ref().unwrap().file_name().to_string_lossy().starts_with(&format!("{name}-"))
            });
            let n = n.count();
            if n < ENOUGH {
                fs::write(dir.join(format!("{name}-{n}")), bytes).unwrap();
            }
        }
    }

    /// After the byte that chooses what it is.
    fn chosen(&mut self, target: &str, name: &str, choice: u8, bytes: &[u8]) {
        self.put(target, name, &[&[choice], bytes].concat());
    }
}

fn written(put: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut w = Writer::new();
    put(&mut w);
    w.into_vec()
}

fn keyed(key: &[u8], value: &[u8]) -> Vec<u8> {
    written(|w| {
        put_bytes(w, key);
        w.raw(value);
    })
}

nacrefs_fuzz::fuzz_target!(init: write(), |_data: &[u8]| {});

fn write() {
    let dir = std::env::var_os("SEEDS").expect("SEEDS says where the seeds go");
    let mut seeds = Seeds { dir: dir.into(), seen: BTreeSet::new() };
    stored(&mut seeds);
    journal(&mut seeds);
    secrets(&mut seeds);
    control(&mut seeds);
    typed(&mut seeds);
    std::process::exit(0);
}

/// What is in the store.
fn stored(seeds: &mut Seeds) {
    let world = base();
    let (site, store) = (world.site(), world.store());
    let opened = site.newest(None).unwrap().opened.unwrap();
    let chunk_store = site.chunk_store(opened.commit.runs.clone(), None);
    let fetch = chunk_store.clone();
    let fetch = move |a: &Address| fetch.fetch(a);
    let opener = Opener::new(Arc::new(ContentCache::new(1 << 20)), fetch, Keys(site.keys.clone()));

    for name in store.list("").unwrap() {
        let bytes = store.get(&name).unwrap();
        let object = |name: &str, part: &str| name.contains(&format!("/{part}/"));
        if object(&name, "heads") {
            seeds.chosen("head", "head", 0, &bytes);
            let head = nacrefs::store::Head::decode(&bytes).unwrap();
            let shown = nacrefs::store::Head { payload: Default::default(), ..head.clone() }.signed_bytes();
            let payload = site.keys.open_head(head.version, &shown, &head.payload).unwrap();
            seeds.chosen("head", "payload", 1, &payload);
        } else if object(&name, "packs") {
            seeds.chosen("pack", "whole", 0, &bytes);
            let id = pack::PackId(*blake3::hash(&bytes).as_bytes());
            let keys = nacrefs::store::IndexKeys::new(
                site.keys.realm(),
                site.keys.epoch(),
                site.keys.index_key().clone(),
            );
            let mut footer = Writer::new();
            let entries = pack::verify(&id, &bytes, &keys).unwrap();
            footer.u32(entries.len() as u32);
            for e in &entries {
                footer.raw(&e.address.0).u32(e.offset).u32(e.len);
            }
            let mut footer = footer.into_vec();
            pad(&mut footer);
            let end = entries.iter().map(|e| e.offset + e.len).max().unwrap_or(16) as usize;
            seeds.chosen("pack", "footer", 1, &keyed(&bytes[16..end], &footer));
            let places = written(|w| {
                put_bytes(w, &bytes[16..end]);
                for e in &entries {
                    w.u16((e.offset - 16) as u16).u16(e.len as u16);
                }
            });
            seeds.chosen("pack", "places", 2, &places);
        } else if name == "nacre.json" {
            seeds.chosen("store_names", "drive", 0, &bytes);
        } else if name.starts_with("slots/") {
            seeds.chosen("keys", "slot", 0, &bytes);
        }
        seeds.chosen("store_names", "name", 1, name.as_bytes());
    }
    seeds.put("commit", "commit", &opened.commit.to_bytes().unwrap());
    seeds.chosen("index_run", "set", 0, &opened.commit.runs.encode());

    // Trees, and what they hold.
    let Content::Directory(root) = &opened.commit.root.content else { panic!() };
    let mut maps = vec![
        root.clone(),
        opened.commit.shells.clone(),
        opened.commit.history.clone(),
        opened.commit.packs.clone(),
    ];
    seeds.chosen("inode", "inode", 1, &written(|w| opened.commit.root.put(w)));
    let mut directories = vec![root.clone()];
    while let Some(dir) = directories.pop() {
        for item in dir.range(&opener, Bound::Unbounded) {
            let (_, value) = item.unwrap();
            seeds.chosen("inode", "entry", 0, &value);
            let Entry::Inode(inode) = Entry::from_bytes(&value).unwrap() else { continue };
            let name = if inode.attr.size > 0 { "stored" } else { "inode" };
            seeds.chosen("inode", name, 1, &value[1..]);
            if let Some(xattrs) = inode.clone().load(&opener).unwrap().xattrs {
                let xattrs = nacrefs::commit::inode::encode_xattrs(&xattrs);
                seeds.chosen("inode", "xattrs", 3, &keyed(&value[1..], &xattrs));
            }
            match &inode.content {
                Content::Directory(map) => {
                    directories.push(map.clone());
                    maps.push(map.clone());
                }
                Content::File(blob) => content(seeds, blob, &opener),
                _ => {}
            }
        }
    }
    for item in opened.commit.history.range(&opener, Bound::Unbounded) {
        seeds.chosen("inode", "event", 2, &item.unwrap().1);
    }
    for (n, what, map) in [(4, "shell", &opened.commit.shells), (5, "pack", &opened.commit.packs)] {
        for item in map.range(&opener, Bound::Unbounded) {
            let (key, value) = item.unwrap();
            seeds.chosen("inode", what, n, &keyed(&key, &value));
        }
    }
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, bits, id) in
        [(1u16, 6u16, u32::MAX), (2, 4, 1000), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 0, u32::MAX)]
    {
        acl.extend([tag.to_le_bytes(), bits.to_le_bytes()].concat());
        acl.extend(id.to_le_bytes());
    }
    seeds.chosen("inode", "acl", 6, &acl);
    for map in &maps {
        for node in map.nodes(&opener) {
            let node: ChunkRef = node.unwrap();
            seeds.put("map_node", "node", &opener.get(&node).unwrap());
            let Opening::Sealed { key, .. } = &node.opening else { panic!() };
            let stored = chunk_store.fetch(&node.address).unwrap();
            let inner = open(Seal::Node, key, &site.keys.realm(), b"", &stored).unwrap();
            seeds.chosen("sealed_object", "node", 0, &inner);
        }
        seeds.put("map", "leaf", &tree(map, &opener));
    }
    // Higher trees than so small a drive has.
    let chunks = Forged::default();
    let edits: Vec<_> = (0..400u32).map(|n| (n.to_be_bytes().to_vec(), Some(vec![n as u8; 20]))).collect();
    let mut sink = nacrefs_fuzz::chunks::Sink(&chunks);
    let high = Map::default().update(nacrefs_fuzz::forge::realm_keys(), &chunks, &mut sink, &edits).unwrap();
    for node in high.nodes(&chunks) {
        let node = chunks.get(&node.unwrap()).unwrap();
        if node[1] > 0 {
            seeds.put("map_node", "inner", &node);
        }
    }
    small_trees(seeds);
    let text = b"a line of some text\n".repeat(40);
    seeds.chosen(
        "set",
        "stored",
        1,
        &written(|w| {
            w.var(20).raw(&encode_piece(&text[..20]));
        }),
    );
    let piece = encode_piece(&text);
    seeds.chosen(
        "set",
        "packed",
        1,
        &written(|w| {
            w.var(text.len() as u64).raw(&piece);
        }),
    );
    seeds.chosen(
        "sealed_object",
        "stream",
        1,
        &written(|w| {
            w.var(text.len() as u64).raw(&piece);
        }),
    );
    for (size, bits) in [(100, 4096), (20_000, 4096), (200_000, 65_536)] {
        let pieces =
            (0..member_count(size, bits)).map(|n| Piece::Encoded(encode_piece(&[n as u8; 3]))).collect();
        let mut io = Io {
            source_hash: &|b| *blake3::hash(b).as_bytes(),
            stored: &|_| Err(nacrefs::error::Error::failed("none")),
            put: &mut |_, _| Ok(()),
        };
        let set = SetMap::write(None, size, bits, pieces, &mut io).unwrap();
        seeds.chosen("set", "map", 0, &written(|w| set.put(w)));
    }
    // Parts of index runs, by the script: flags, blocks, packs.
    let block: Vec<u8> =
        (1..=3u8).flat_map(|n| [&[n * 16; 32][..], &[0, 0, 0, 0, n, 0, 0, 0, 9, 0, 0, 0]].concat()).collect();
    let later: Vec<u8> = (9..=12u8)
        .flat_map(|n| [&[n * 16; 32][..], &[0, 0, 0, 0, n, 0, 0, 0, 9, 0, 0, 0]].concat())
        .collect();
    let part = |blocks: &[&[u8]]| {
        written(|w| {
            w.u8(0).u8(blocks.len() as u8);
            blocks.iter().for_each(|b| put_bytes(w, b));
            w.u8(1);
        })
    };
    let one = [&[1, 0][..], &part(&[&block, &later]), &[5, 5, 200, 1]].concat();
    let two = [&[2, 0][..], &part(&[&block]), &[0], &part(&[&later]), &[7, 7]].concat();
    seeds.chosen("index_run", "one", 1, &one);
    seeds.chosen("index_run", "two", 1, &two);
    // Heads by the script: version, links, device, payload, signature.
    let head = |version: u8, before: u8, skip: u8, good: u8| {
        written(|w| {
            w.u8(0).u8(version).u8(before).u8(skip).u8(1);
            put_bytes(w, b"payload");
            w.u8(good);
        })
    };
    let chain = [head(1, 0, 0, 2), head(2, 1, 0, 2), head(3, 2, 2, 2), head(4, 3, 0, 1)].concat();
    seeds.chosen("head", "chain", 2, &[&chain[..], &[242]].concat());
    let hint = written(|w| {
        w.u8(200);
        put_bytes(w, b"00000000000000000003\n");
    });
    seeds.chosen("head", "hint", 2, &[&hint[..], &chain, &[241]].concat());
    let cache = written(|w| {
        w.u8(0).u8(2).u8(0);
        put_bytes(w, b"a chunk");
        w.u8(64);
        put_bytes(w, b"another chunk");
        w.u8(1).u8(1).u8(200);
        put_bytes(w, b"noise");
    });
    seeds.put("disk_cache", "files", &cache);
    let tree = written(|w| {
        // A directory with a file; one with that directory and a shell; the shell; what device and counter are.
        w.u8(2).u8(1);
        put_bytes(w, b"file");
        w.u8(0).u8(80).u64(5).u8(1).u8(210);
        w.u8(2);
        put_bytes(w, b"dir");
        w.u8(0).u8(0).u8(211).u8(1).u8(2);
        put_bytes(w, b"shell");
        w.u8(0).u8(120).u8(1).u8(212);
        w.u8(2).u8(212).u8(0).u8(80).u64(0).u8(1).u8(212);
        w.u8(212).u8(128).u8(1);
        put_bytes(w, b"shell");
        w.u8(0).u8(1).u8(0);
    });
    seeds.put("drive_tree", "tree", &tree);
}

/// A Map as a script: it, another, the nodes under addresses of the script's, edits.
fn tree(map: &Map, chunks: &dyn Chunks) -> Vec<u8> {
    let Some(root) = map.root().filter(|_| map.height() == 1) else { return vec![0; LONGEST + 1] };
    let node = chunks.get(&root).unwrap().to_vec();
    written(|w| {
        w.u8(1).raw(&[0; 32]).raw(&[1; 32]).var(map.len());
        w.u8(0);
        Forged::put_nodes(w, &[node]);
        w.u8(0);
        put_bytes(w, b"key");
        put_bytes(w, b"value");
    })
}

/// Two trees of two levels, with leaves in common.
fn small_trees(seeds: &mut Seeds) {
    let node = |level: u8, entries: &[(&[u8], Vec<u8>)]| {
        written(|w| {
            w.u8(1).u8(level).u16(entries.len() as u16);
            let mut end = 0;
            for (key, value) in entries {
                w.u16((end + key.len()) as u16).u16((end + key.len() + value.len()) as u16);
                end += key.len() + value.len();
            }
            for (key, value) in entries {
                w.raw(key).raw(value);
            }
        })
    };
    let child = |n: u8, count: u64| {
        written(|w| {
            w.raw(&[n; 32]).raw(&[7; 32]).var(count);
        })
    };
    let leaf =
        |keys: &[&'static [u8]]| node(0, &keys.iter().map(|k| (*k, b"v".to_vec())).collect::<Vec<_>>());
    let nodes = [
        node(1, &[(b"c", child(2, 3)), (b"f", child(3, 2))]),
        node(1, &[(b"c", child(2, 3)), (b"g", child(4, 1))]),
        leaf(&[b"a", b"b", b"c"]),
        leaf(&[b"e", b"f"]),
        leaf(&[b"g"]),
    ];
    let map = |n: u8, count: u64| {
        written(|w| {
            w.u8(2).raw(&[n; 32]).raw(&[7; 32]).var(count);
        })
    };
    let script = written(|w| {
        w.raw(&map(0, 5)).raw(&map(1, 4));
        Forged::put_nodes(w, &nodes);
        for (flags, key) in [(0, &b"d"[..]), (1, &b"b"[..]), (0, &b"zz"[..])] {
            w.u8(flags);
            put_bytes(w, key);
            put_bytes(w, b"new");
        }
    });
    seeds.put("map", "two", &script);
}

/// A Blob as a script: it, the nodes of its Map under the addresses of the script's, edits.
fn content(seeds: &mut Seeds, blob: &Blob, chunks: &dyn Chunks) {
    let edits = [1u8, 0, 0, 1, 0, 0, 10, 0, 0, 0, 100, 0, 1, 7, 0, 1, 0, 0, 0, 32, 0, 0, 9, 9, 9, 9];
    if let Blob::Segments { map, pages } = blob {
        let node = chunks.get(&map.root().unwrap()).unwrap().to_vec();
        let script = written(|w| {
            w.u8(3).var(*pages).u8(map.height()).raw(&[0; 32]).raw(&[1; 32]).var(map.len());
            Forged::put_nodes(w, &[node]);
            w.raw(&edits);
        });
        seeds.put("content", "segments", &script);
        return;
    }
    let script = written(|w| {
        blob.put(w);
        w.u8(0).raw(&edits);
    });
    seeds.put("content", "blob", &script);
}

/// What is in the journal: each sort of record, alone and together.
fn journal(seeds: &mut Seeds) {
    let world = base();
    let drive = world.open().unwrap();
    let wait = Wait::yes;
    let root = drive.root();
    let look = |dir, name: &[u8]| drive.lookup(wait(), dir, name).unwrap().unwrap().ino;
    let dir = look(root, b"dir");
    let deep = look(dir, b"deep");
    let before = drive.journal().last();
    let file = make(&drive, deep, "new", FileKind::File).unwrap();
    drive.write(wait(), file, 100, b"some bytes", false, true).unwrap();
    let two = look(deep, b"two");
    drive.fallocate(wait(), two, 4096, 9000, nacrefs::drive::types::Allocate::Punch).unwrap();
    let how = SetAttr { perm: Some(0o600), size: Some(50_000), ..SetAttr::default() };
    drive.set_attr(wait(), &CALLER, look(deep, b"set"), &how).unwrap();
    drive.set_xattr(wait(), &CALLER, file, b"user.a", b"value", 0).unwrap();
    drive.remove_xattr(wait(), file, b"user.a").unwrap();
    drive.link(wait(), file, root, b"linked").unwrap();
    drive.unlink(wait(), dir, b"fifo").unwrap();
    let exchange = RenameHow { exchange: true, ..RenameHow::default() };
    drive.rename(wait(), dir, b"link", deep, b"moved", RenameHow::default()).unwrap();
    drive.rename(wait(), deep, b"chunk", root, b"shell", exchange).unwrap();
    let whiteout = RenameHow { whiteout: Some(CALLER), ..RenameHow::default() };
    drive.rename(wait(), dir, b"device", root, b"device", whiteout).unwrap();
    make(&drive, root, "folder", FileKind::Directory).unwrap();
    make(&drive, deep, "symbolic", FileKind::Symlink).unwrap();
    drive.sync().unwrap();
    let journal = drive.journal();
    let (mut all, mut records) = (Writer::new(), Vec::new());
    for lsn in before + 1..=journal.last() {
        // Ends where there is no more: a record is asked for in growing parts.
        let mut record = Vec::new();
        for len in 1.. {
            match journal.read(lsn, 0..len) {
                Ok(bytes) => record = bytes.to_vec(),
                Err(_) => break,
            }
        }
        seeds.put("journal_record", &format!("operation-{:02}", records.len()), &record);
        put_bytes(&mut all, &record);
        seeds.put("journal_replay", "some", all.as_slice());
        records.push(record);
    }
    seeds.put("journal_replay", "all", all.as_slice());
    // Files of frames, by the script.
    let message = |records: &[Vec<u8>]| -> Vec<u8> {
        records.iter().flat_map(|r| [&(r.len() as u32).to_le_bytes()[..], r].concat()).collect()
    };
    let frame = |w: &mut Writer, first: u8, durable: u8, records: &[Vec<u8>]| {
        w.u8(64).u8(first).u8(records.len() as u8).u8(durable);
        put_bytes(w, &message(records));
    };
    let two_files = written(|w| {
        w.u8(0).u8(0).u8(1).u8(1).u8(0).u8(1);
        frame(w, 1, 0, &records[..2]);
        frame(w, 3, 2, &records[2..3]);
        w.u8(192).u8(8);
        w.u8(0).u8(2).u8(2).u8(3).u8(0);
        frame(w, 4, 3, &records[3..6]);
    });
    seeds.put("journal_disk", "two", &two_files);
    let torn = written(|w| {
        w.u8(2).u8(0).u8(1).u8(1).u8(2).u8(0);
        frame(w, 3, 2, &records[..1]);
        w.u8(208).u16(4200);
        put_bytes(w, b"bent");
        frame(w, 5, 2, &records[..1]);
        w.u8(232).u8(9);
        w.u8(0).u8(2).u8(2).u8(3).u8(1);
        frame(w, 4, 3, &records[..1]);
    });
    seeds.put("journal_disk", "torn", &torn);
}

/// What opens a drive.
fn secrets(seeds: &mut Seeds) {
    let mut message = written(|w| {
        w.raw(&[1; 16]).raw(&[2; 16]).u32(2).raw(&[3; 32]).raw(&[4; 32]).raw(&[5; 32]);
    });
    message.resize(nacrefs::crypt::pad::padme(message.len()), 0);
    seeds.chosen("keys", "secrets", 1, &message);
    let hex = "0123456789abcdef".repeat(4);
    seeds.chosen("keys", "file", 2, format!("{hex}\n").as_bytes());
    seeds.chosen("keys", "raw", 2, &[9; 32]);
    let known = "0W3G-E1R7-0W3G-E1R7-0W3G-E1R7-0W3G-E1R7-0W3G-E1R7-0W3G-E1R7-0W3R-1M6A";
    RecoveryCode::parse(known).expect("FORMAT.md has it");
    seeds.chosen("keys", "code", 3, known.as_bytes());
    seeds.chosen("keys", "passphrase", 4, b"correct horse battery staple\r\n");
    seeds.chosen("keys", "device", 5, &[7; 16 + 32 + 2]);
    seeds.chosen("keys", "device", 5, &[&[7; 48][..], &[1, 0, 0, 0], &[6; 16]].concat());
    seeds.chosen("keys", "memory", 5, &[3; 80]);
}

/// What is said over the control socket.
fn control(seeds: &mut Seeds) {
    let moment = Moment(Time { sec: 1_700_000_000, nsec: 5 });
    let path = DrivePath::new("a/b").unwrap();
    let requests = [
        Request::Status {},
        Request::Umount { local: true },
        Request::Remount { ro: false },
        Request::Log { path: path.clone() },
        Request::Cat { path: path.clone(), at: Some(At::Version(3)) },
        Request::Cat { path: path.clone(), at: Some(At::Time(moment)) },
        Request::LogLevel { level: Some("debug".into()) },
    ];
    for request in requests {
        seeds.chosen("control", "request", 0, &[&serde_json::to_vec(&request).unwrap()[..], b"\n"].concat());
    }
    let status = Status { drive: "0".repeat(32), last_commit: Some(moment), ..Status::default() };
    let entry = LogEntry {
        version: 3,
        time: moment,
        device: "1".repeat(32),
        change: "created".into(),
        path,
        size: Some(9),
    };
    let failure = Failure {
        kind: "away".into(),
        exit: 4,
        message: "the store is away".into(),
        causes: vec!["why".into()],
    };
    let answers = [
        Answer::Progress(Progress { what: "uploading".into(), done: 1, total: Some(2) }),
        Answer::Status(Box::new(status)),
        Answer::Entry(entry),
        Answer::Version(7),
        Answer::LogLevel("info".into()),
        Answer::Data { len: 5 },
        Answer::Error(failure),
        Answer::Done {},
    ];
    let mut talk = Vec::new();
    for answer in answers {
        let line = serde_json::to_vec(&answer).unwrap();
        seeds.chosen("control", "answer", 2, &line);
        talk.extend_from_slice(&line);
        talk.push(b'\n');
        if let Answer::Data { .. } = answer {
            talk.extend_from_slice(b"bytes");
        }
        seeds.chosen("control", "talk", 1, &talk);
    }
    seeds.chosen(
        "control",
        "mountinfo",
        3,
        b"36 35 0:98 / /mnt/a\\040b rw,nosuid shared:1 - fuse.nacrefs file:///srv rw,user_id=0,group_id=0\n",
    );
    seeds.chosen(
        "control",
        "fstab",
        3,
        b"/srv/my\\040store /mnt/d nacrefs ro,state_dir=/var/s\\040t,nofail 0 0\n",
    );
    seeds.chosen("control", "metrics", 3, b"GET /metrics?x=1 HTTP/1.1\r\nHost: localhost\r\n\r\n");
}

/// Texts for one of the readers of what people type, chosen by its number.
fn texts(seeds: &mut Seeds, name: &str, reader: u8, texts: &[&str]) {
    for text in texts {
        seeds.chosen("options", name, reader, text.as_bytes());
    }
}

/// What people type.
fn typed(seeds: &mut Seeds) {
    let lists = [
        "ro,allow_other,uid=1,gid=2,commit=5,flush=1,timeout=120,memory=256M,journal=2G,cache=0",
        "at=3,state_dir=/a,key_file=\"/b,c\",passphrase_file=/d,nonempty,foreground,dedup=off,restart=on",
        "metrics=127.0.0.1:9101,log=debug,log_format=json,sync=store,cache_mode=plain,noatime,dirsync,sloppy,x-y=z",
        "metrics=unix:/run/m,log=nacrefs::store=trace,nosuid,nodev,noexec,remount,rw,user_id=0,context=a",
    ];
    texts(seeds, "mount", 0, &lists);
    let moments = [
        "17",
        "2026-11-17",
        "2026-11-17 14:30",
        "2026-11-17T14:30:07.25-01:30",
        "3 days ago",
        "a month ago",
        "2 years ago",
        "yesterday",
        "now",
    ];
    texts(seeds, "when", 1, &moments);
    let lines = [
        "mount.nacrefs\0/srv/store\0/mnt\0-o\0rw,noatime\0-N\0/proc/1/ns/mnt",
        "umount.nacrefs\0/mnt\0-f\0-l",
        "nacrefs\0/srv/store\0/mnt\0-o\0rw",
    ];
    texts(seeds, "helper", 2, &lines);
    let lines = [
        "nacrefs\0mount\0s3://b/p\0/mnt\0-o\0ro\0-f",
        "nacrefs\0check\0/s\0--read-data\0--subset\01/3",
        "nacrefs\0cat\0--at\03\0/mnt/file",
        "nacrefs\0key\0add\0/s\0--new-recovery",
    ];
    texts(seeds, "line", 3, &lines);
    texts(seeds, "value", 4, &["16M", "2GiB", "off", "store=debug,info", "unix:/a", "[::1]:80"]);
    seeds.chosen("options", "path", 5, b"/a/./b");
    seeds.chosen("options", "url", 6, b"file:///srv/a%20b/");
    seeds.chosen("options", "shown", 7, "a\u{202e}b\x1b[2J\\".as_bytes());
}
