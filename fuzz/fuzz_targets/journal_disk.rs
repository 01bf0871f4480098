#![no_main]
//! A whole journal as it may lie on a disk: files, headers, frames, all well sealed, in any order and combination, then
//! bent (src/journal). Opened as a mount does, or read-only; and what was replayed is there again after the next opening.

use nacrefs::crypt::{Seal, domains, seal};
use nacrefs::error::{Error, Kind, Result};
use nacrefs::journal::fuzzing::{BLOCK, FileHeader, Keys};
use nacrefs::journal::{Journal, Options};
use nacrefs::sys::{Disk, DiskFile, Random, SimDisk};
use nacrefs::types::{Key, Lsn};
use nacrefs::wire::{Reader, Writer};
use nacrefs_fuzz::forge::{KEY, REALM};
use nacrefs_fuzz::{bytes, target};
use std::sync::Arc;

/// No file of an input is longer.
const LONGEST: u64 = 64 << 10;

/// The same random bytes in every run.
struct Counter(parking_lot::Mutex<u64>);

impl Random for Counter {
    fn fill(&self, out: &mut [u8]) -> Result<()> {
        let mut count = self.0.lock();
        *count += 1;
        blake3::Hasher::new().update(&count.to_le_bytes()).finalize_xof().fill(out);
        Ok(())
    }
}

/// A number that is mostly small, and sometimes at the other end.
fn number(r: &mut Reader) -> Result<u64> {
    match r.u8()? {
        255 => r.u64(),
        n @ 240.. => Ok(u64::MAX - u64::from(254 - n)),
        n => Ok(n.into()),
    }
}

/// Where frames are being written.
struct Open {
    file: Arc<dyn DiskFile>,
    header: FileHeader,
    at: u64,
}

impl Open {
    /// A frame whose head says anything, with a message that is anything, under a good seal.
    fn frame(&mut self, r: &mut Reader) -> Result<()> {
        let (first, count, durable, message) = (number(r)?, number(r)? as u32, number(r)?, bytes(r)?);
        let sealed_len = (message.len() + seal::OVERHEAD) as u32;
        let mut head = Writer::new();
        head.raw(b"nacrefrm").raw(&self.header.salt[..8]).u64(first).u32(count).u32(sealed_len).u64(durable);
        let key = {
            let files = domains::JOURNAL_FILES.derive(&[&KEY.0]);
            let block = Keys::new(&KEY, REALM).encode_header(&self.header);
            Key(*blake3::keyed_hash(&files.0, &block[..80]).as_bytes())
        };
        let ad = [&self.header.id.to_le_bytes(), head.as_slice()].concat();
        head.raw(&seal::seal(Seal::Journal, &key, &REALM, &ad, message)?);
        let len = (head.len() as u64).next_multiple_of(BLOCK);
        if self.at + len <= LONGEST {
            let mut block = head.into_vec();
            block.resize(len as usize, 0);
            self.file.write_at(&block, self.at)?;
            self.at += len;
        }
        Ok(())
    }
}

/// Builds the disk, up to where the script ends.
fn build(r: &mut Reader, disk: &SimDisk) -> Result<()> {
    let mut open: Option<Open> = None;
    loop {
        match (r.u8()?, &mut open) {
            // A file, with a name, a good header of some id, and perhaps a bent byte in it.
            (0..=63, _) => {
                let (name, id, durable, flags) = (number(r)?, number(r)?, number(r)?, r.u8()?);
                let file = disk.open(&format!("journal-{name:016x}"))?;
                let size = u64::from(flags >> 2) * BLOCK;
                let header =
                    FileHeader { id, durable, supersedes: flags & 1 != 0, salt: [id as u8; 32], size };
                let mut block = Keys::new(&KEY, REALM).encode_header(&header);
                if flags & 2 != 0 {
                    block[usize::from(r.u16()?) % BLOCK as usize] ^= r.u8()?;
                }
                file.write_at(&block, 0)?;
                open = Some(Open { file, header, at: BLOCK });
            }
            (64..=191, Some(open)) => open.frame(r)?,
            // Room, as in a file that was filled with zeros.
            (192..=207, Some(open)) => {
                let end = (open.at + u64::from(r.u8()?) * 512).min(LONGEST);
                if end > open.file.len()? {
                    open.file.write_at(&vec![0; (end - open.file.len()?) as usize], open.file.len()?)?;
                }
            }
            // Anything, anywhere.
            (208..=231, Some(open)) => {
                let at = u64::from(r.u16()?);
                open.file.write_at(bytes(r)?, at)?;
            }
            (kind @ 232..=239, _) => {
                let kind = if kind & 1 == 0 { "spare" } else { "idle" };
                disk.open(&format!("{kind}-{:016x}", number(r)?))?;
            }
            (240.., _) => drop(disk.open(&String::from_utf8_lossy(bytes(r)?).replace(['/', '\0'], "_"))?),
            (_, None) => return Err(Error::failed("nothing is open")),
        }
    }
}

/// The numbers of what is replayed: one after the other from the floor on.
fn replay(disk: &SimDisk, floor: Lsn, before_damage: bool) -> Result<Vec<(Lsn, Vec<u8>)>> {
    let options = Options { file_size: 64 << 10, limit: 1 << 20, floor, before_damage, ..Options::default() };
    let random = Arc::new(Counter(parking_lot::Mutex::new(0)));
    let (journal, replay) = Journal::open(Arc::new(disk.clone()), KEY, REALM, random, options)?;
    let count = replay.count();
    let mut records = Vec::new();
    replay.for_each(&mut |lsn, bytes| {
        assert_eq!(lsn, floor + 1 + records.len() as u64);
        records.push((lsn, bytes.to_vec()));
        Ok(())
    })?;
    assert_eq!(records.len() as u64, count);
    assert_eq!(journal.last(), floor + count);
    if !before_damage {
        assert_eq!(journal.durable(), journal.last());
        for (lsn, bytes) in &records {
            assert_eq!(journal.read(*lsn, 0..bytes.len())?, bytes);
        }
    }
    Ok(records)
}

fn run(data: &[u8]) {
    let mut r = Reader::new(data, "script");
    let disk = SimDisk::new();
    let Ok(floor) = number(&mut r) else { return };
    // It ends where the input does.
    let _ = build(&mut r, &disk);
    let lenient = replay(&disk, floor, true);
    match replay(&disk, floor, false) {
        Ok(records) => {
            // Without damage both see the same; and again, after a crash.
            assert!(lenient.is_ok_and(|seen| seen == records));
            assert_eq!(replay(&disk, floor, false).expect("a journal that opened opens again"), records);
        }
        Err(e) => assert!(matches!(e.kind(), Kind::Damage | Kind::Failed), "{e:?}"),
    }
}

target!(16, |data| run(data));
