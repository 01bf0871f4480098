//! Finding what the files hold: which frames count, where a torn tail begins, and what is damage.

use super::files::{Files, LOG, Listing, LogFile, refused};
use super::format::{BLOCK, Body, FRAME_HEADER, FrameHead};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::DiskFile;
use crate::types::{Lsn, MAX_LSN};
use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How much is read at once, in bytes.
const WINDOW: u64 = 1 << 18;

/// Where a frame is.
#[derive(Clone)]
pub struct Place {
    pub first: Lsn,
    /// The last record that counts.
    pub last: Lsn,
    pub file: Arc<LogFile>,
    pub at: u64,
    pub space: u64,
}

impl Place {
    /// Reads and opens the frame.
    pub fn load(&self) -> Result<Body> {
        let mut bytes = vec![0; self.space as usize];
        let place = || format!("journal file {}, offset {}", self.file.name, self.at);
        self.file.file.read_at(&mut bytes, self.at).context(place)?;
        let (head, body) = self.file.cipher.open(&bytes).context(place)?;
        match head.first == self.first && head.last() >= self.last {
            true => Ok(body),
            false => Err(Error::damage(format!("{}: not the frame that was there", place()))),
        }
    }
}

/// What the files hold.
pub struct Scan {
    /// By ascending id.
    pub files: Vec<Arc<LogFile>>,
    /// The frames that count, in order and without a gap above the floor.
    pub frames: Vec<Place>,
    /// The last record that counts, or the floor.
    pub last: Lsn,
    /// What `frames` ends before.
    pub damage: Option<Error>,
    /// The first record that is there, where it is whole from that on, and that is not the one after the floor.
    pub begins: Option<Lsn>,
    /// Names of spare files.
    pub spares: Vec<String>,
    /// Names of spares that show that no journal file was lost.
    pub idle: Vec<String>,
    /// Not used by any file.
    pub next_id: u64,
}

/// Reads all files. Damage is an error, or with `lenient` is told in the result. Writes nothing.
pub fn scan(files: &Files, floor: Lsn, lenient: bool) -> Result<Scan> {
    if floor > MAX_LSN {
        return Err(Error::damage(format!(
            "the newest version is said to hold this journal's records up to {floor}, which no journal comes to"
        )));
    }
    let Listing { logs: ids, spares, idle } = files.list()?;
    let next_id = ids.iter().filter(|id| **id <= MAX_LSN).max().map_or(1, |id| id + 1);
    let (mut damage, mut damages) = (None, 0);
    let mut found_damage = |e: Error| match lenient {
        true => {
            damages += 1;
            damage.get_or_insert(e);
            Ok(())
        }
        false => Err(e),
    };
    let noted = files.disk.noted()?;
    let newest = ids.last().copied().unwrap_or(0);
    if ids.is_empty() && idle.is_empty() && noted.is_some() {
        found_damage(refused("the journal's files are gone, and with them what was not stored"))?;
    } else if let Some(noted) = noted.filter(|noted| *noted > newest) {
        let what = format!("journal file {LOG}{noted:016x} is gone, and with it what was not stored");
        found_damage(refused(&what))?;
    }
    let mut logs = Vec::new();
    for id in ids {
        match files.open(id) {
            Ok(log) => {
                if log.size < log.header.size || !log.size.is_multiple_of(BLOCK) {
                    found_damage(cut_off(&log, log.size))?;
                }
                logs.push(Arc::new(log));
            }
            Err(e) if e.kind() == Kind::Damage => found_damage(e)?,
            Err(e) => return Err(e),
        }
    }
    let mut known = logs.iter().map(|log| log.header.durable).max().unwrap_or(0);
    let mut found: Vec<(usize, Place)> = Vec::new();
    let mut over = None;
    let mut shut: Vec<(Lsn, usize, u64)> = Vec::new();
    // From the newest file down: records from `void` on count only in newer files than the one at hand.
    let mut void = Lsn::MAX;
    for (index, log) in logs.iter().enumerate().rev() {
        for (at, head, opens) in frames_of(log, lenient)? {
            if !opens {
                // Frames are placed within their file: no write that a power cut tore looks like this.
                if head.space() > log.size - at {
                    over = Some((head.first, cut_off(log, at)));
                }
                shut.push((head.first, index, at));
                continue;
            }
            known = known.max(head.durable);
            if head.first < void {
                let (first, last) = (head.first, head.last().min(void - 1));
                found.push((index, Place { first, last, file: log.clone(), at, space: head.space() }));
            }
        }
        if log.header.supersedes {
            void = void.min(log.header.durable.saturating_add(1));
        }
    }
    found.sort_by_key(|(index, place)| (place.first, Reverse(*index)));
    let mut frames: Vec<Place> = Vec::new();
    let mut last = floor;
    for (_, place) in &found {
        if place.first > last + 1 {
            break;
        }
        if place.last > last {
            last = place.last;
            place.file.live.fetch_add(1, Ordering::Relaxed);
            frames.push(place.clone());
        }
    }
    let begins = found.first().map(|(_, place)| place.first).filter(|first| *first > floor + 1);
    if known > last {
        let lost = last + 1;
        let (name, at) = match shut.iter().find(|s| s.0 == lost) {
            Some(&(_, index, at)) => (&logs[index].name[..], at),
            None => gap(&logs, frames.last(), found.iter().find(|f| f.1.first > lost)),
        };
        let e = refused(&format!(
            "journal file {name}, offset {at}: record {lost} is missing or damaged, and records up to {known} were durable"
        ));
        found_damage(e)?;
    }
    // What a commit holds is not missed.
    if let Some((_, e)) = over.filter(|(first, _)| *first > last) {
        found_damage(e)?;
    }
    let begins = begins.filter(|_| damages == 1 && shut.is_empty() && is_whole(&found, known));
    Ok(Scan { files: logs, frames, last, damage, begins, spares, idle, next_id })
}

/// Whether no record is missing from the first that was found to the last that was durable.
fn is_whole(found: &[(usize, Place)], durable: Lsn) -> bool {
    let mut end = found.first().map_or(0, |(_, place)| place.first.saturating_sub(1));
    for (_, place) in found {
        if place.first > end + 1 {
            return false;
        }
        end = end.max(place.last);
    }
    end >= durable
}

/// A file that is shorter than it was made.
fn cut_off(log: &LogFile, at: u64) -> Error {
    refused(&format!("journal file {}, offset {at}: the file was cut off", log.name))
}

/// Where a frame must have been that left no trace: between two others, given with the file's index.
fn gap<'a>(
    logs: &'a [Arc<LogFile>],
    before: Option<&'a Place>,
    after: Option<&(usize, Place)>,
) -> (&'a str, u64) {
    let end = before.map(|b| (&b.file.name[..], b.at + b.space));
    let next = before.map_or(0, |b| logs.partition_point(|log| log.header.id <= b.file.header.id));
    let start = match after {
        // At the beginning of a file, or in one that lies between.
        Some((index, place)) if next < *index || next == *index && place.at > BLOCK => logs.get(next),
        Some(_) => None,
        None => logs.first().filter(|_| before.is_none()),
    };
    start.map(|log| (&log.name[..], BLOCK)).or(end).unwrap_or(("(none)", 0))
}

/// Every frame that claims to be of the file's present life: its offset, its header, whether it opens.
fn frames_of(log: &LogFile, lenient: bool) -> Result<Vec<(u64, FrameHead, bool)>> {
    let mut window = Window { file: &*log.file, size: log.size, at: 0, bytes: Vec::new() };
    let mut frames = Vec::new();
    let mut at = BLOCK;
    while at + BLOCK <= log.size {
        let mut seen = None;
        let mut look = || -> Result<bool> {
            seen = log.cipher.peek(window.get(at, FRAME_HEADER as u64)?);
            match seen {
                Some(head) if head.space() <= log.size - at => {
                    Ok(log.cipher.open(window.get(at, head.space())?).is_ok())
                }
                _ => Ok(false),
            }
        };
        let opens = match look() {
            Err(_) if lenient => false,
            other => other.context(|| format!("journal file {}, offset {at}", log.name))?,
        };
        frames.extend(seen.map(|head| (at, head, opens)));
        // Behind a frame that does not open the next one may begin at any block.
        at += seen.filter(|_| opens).map_or(BLOCK, |head| head.space());
    }
    Ok(frames)
}

/// Reads a file in large pieces.
struct Window<'a> {
    file: &'a dyn DiskFile,
    size: u64,
    at: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// The bytes from `at` on; the caller stays within the file.
    fn get(&mut self, at: u64, len: u64) -> Result<&[u8]> {
        let inside = at >= self.at && at + len <= self.at + self.bytes.len() as u64;
        if !inside {
            let much = len.max(WINDOW).min(self.size - at);
            // A sector that cannot be read must not hide its readable neighbours.
            self.load(at, much).or_else(|_| self.load(at, len))?;
        }
        let from = (at - self.at) as usize;
        Ok(&self.bytes[from..from + len as usize])
    }

    fn load(&mut self, at: u64, len: u64) -> Result<()> {
        self.bytes.resize(len as usize, 0);
        self.at = at;
        self.file.read_at(&mut self.bytes, at).inspect_err(|_| self.bytes.clear())
    }
}

/// The records to replay, in order: those above the floor.
pub struct Replay {
    pub(super) frames: Vec<Place>,
    pub(super) floor: Lsn,
    pub(super) damage: Option<Error>,
    pub(super) begins: Option<Lsn>,
}

impl Replay {
    /// How many records.
    pub fn count(&self) -> u64 {
        self.frames.last().map_or(0, |f| f.last - self.floor)
    }

    /// What the replay ends before; only where `Options::before_damage` was set.
    pub fn damage(&self) -> Option<&Error> {
        self.damage.as_ref()
    }

    /// The first record of a journal that goes on from a later one than was asked for, and is whole from that on: what
    /// lies between was trimmed, or is lost. [`Replay::damage`] then tells of that alone.
    pub fn begins(&self) -> Option<Lsn> {
        self.begins
    }

    pub fn into_damage(self) -> Option<Error> {
        self.damage
    }

    /// Calls `visit` with the number and the bytes of each record, in order, and stops at its first error.
    /// Holds one frame in memory. Call it before anything is trimmed.
    pub fn for_each(self, visit: &mut dyn FnMut(Lsn, &[u8]) -> Result<()>) -> Result<()> {
        let mut next = self.floor + 1;
        for place in self.frames {
            let body = place.load()?;
            while next <= place.last {
                let record = body.record((next - place.first) as usize);
                visit(next, record.ok_or_else(|| Error::damage(format!("no record {next} in its frame")))?)?;
                next += 1;
            }
        }
        Ok(())
    }
}
