//! What a far store is asked for when chunks are read, and what that costs.

use super::chunks::{ChunkStore, Settings};
use super::memory::Memory;
use super::objects::{Created, Objects};
use super::runs::RunSet;
use super::tests::keys;
use super::widen::{AGE, GRAIN, KEPT, Widened};
use crate::chunk::ChunkSink;
use crate::error::Result;
use crate::types::Address;
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;

/// A store whose reads of parts are widened, and that takes note of what it is asked for of packs: start and length.
struct Far {
    memory: Memory,
    widened: Option<Widened>,
    asked: Mutex<Vec<(u64, u64)>>,
}

impl Far {
    fn ask(&self, name: &str, range: std::ops::Range<u64>) -> Result<Bytes> {
        let end = range.end.min(self.memory.size(name)?);
        if name.contains("/packs/") {
            self.asked.lock().push((range.start, end - range.start));
        }
        self.memory.get_range(name, range.start, (end - range.start) as usize)
    }
}

impl Objects for Far {
    fn get(&self, name: &str) -> Result<Bytes> {
        self.memory.get(name)
    }
    fn get_range(&self, name: &str, start: u64, len: usize) -> Result<Bytes> {
        match &self.widened {
            Some(widened) => widened.get(name, start, len, |range| self.ask(name, range)),
            None => self.ask(name, start..start + len as u64),
        }
    }
    fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.memory.put(name, bytes)
    }
    fn create(&self, name: &str, bytes: Bytes) -> Result<Created> {
        self.memory.create(name, bytes)
    }
    fn list(&self, dir: &str) -> Result<Vec<String>> {
        self.memory.list(dir)
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.memory.delete(name)
    }
    fn size(&self, name: &str) -> Result<u64> {
        self.memory.size(name)
    }
}

type Chunk = (Address, Vec<u8>);

/// Bytes that do not compress.
fn chunk(n: u32, len: usize) -> Chunk {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut bytes);
    (Address::of(&bytes), bytes)
}

/// The segments of a file of 24 MiB; and 1,500 small objects, as nodes and small files are.
fn drive() -> (Memory, RunSet, Vec<Vec<Chunk>>, Vec<Chunk>) {
    let segments: Vec<Vec<Chunk>> =
        (0..24).map(|s| (0..16).map(|c| chunk(s * 16 + c, (64 << 10) + 21)).collect()).collect();
    let small: Vec<Chunk> = (0..1500).map(|n| chunk(1 << 20 | n, 200 + (n as usize * 997) % 8000)).collect();
    let memory = Arc::new(Memory::new());
    let store = ChunkStore::open(memory.clone(), keys(), RunSet::default(), Settings::default(), None);
    let mut batch = store.begin([5; 32]);
    segments.iter().for_each(|s| batch.put_together(s.clone()).unwrap());
    small.iter().for_each(|(address, bytes)| batch.put(*address, bytes.clone()).unwrap());
    let runs = batch.finish().unwrap().runs;
    (memory.copy(), runs, segments, small)
}

/// What reading these one after the other asks the packs for.
fn asked<'a>(
    memory: &Memory,
    runs: &RunSet,
    grain: Option<u64>,
    chunks: impl Iterator<Item = &'a Chunk>,
) -> Vec<(u64, u64)> {
    let widened = grain.map(|grain| Widened::new(grain, KEPT, AGE));
    let far = Arc::new(Far { memory: memory.copy(), widened, asked: Mutex::default() });
    let store = ChunkStore::open(far.clone(), keys(), runs.clone(), Settings::default(), None);
    for (address, bytes) in chunks {
        assert_eq!(store.fetch(address).unwrap(), bytes);
    }
    let asked = far.asked.lock();
    asked.clone()
}

/// TRUST 5: range reads are widened, which a reader does not pay for: what stands together is read together. With
/// `--nocapture` it prints what other grains would cost.
#[test]
fn a_far_store_is_asked_for_grains_and_not_for_chunks() {
    let (memory, runs, segments, small) = drive();
    let packs: Vec<u64> = memory.list("").unwrap().iter().map(|n| memory.size(n).unwrap()).collect();
    // Every seventh chunk is far from the one before.
    let random: Vec<&Chunk> = segments.iter().flatten().cycle().step_by(71).take(100).collect();
    let requests_and_bytes = |grain| {
        let measure = |asked: Vec<(u64, u64)>| {
            if let Some(grain) = grain {
                for (start, len) in &asked {
                    let ends = len % grain == 0 || packs.contains(&(start + len));
                    assert!(start % grain == 0 && ends, "{len} bytes at {start}");
                }
            }
            (asked.len(), asked.iter().map(|(_, len)| len).sum::<u64>() >> 10)
        };
        [
            measure(asked(&memory, &runs, grain, segments.iter().flatten())),
            measure(asked(&memory, &runs, grain, small.iter())),
            measure(asked(&memory, &runs, grain, random.iter().copied())),
        ]
    };
    let exact = requests_and_bytes(None);
    println!("requests and KiB: file, small objects, random chunks\nexact: {exact:?}");
    for grain in [64 << 10, 128 << 10, 512 << 10, 1 << 20] {
        println!("{} KiB: {:?}", grain >> 10, requests_and_bytes(Some(grain)));
    }
    let [file, few, random] = requests_and_bytes(Some(GRAIN));
    println!("{} KiB: {:?}", GRAIN >> 10, [file, few, random]);
    assert_eq!((exact[0].0, exact[1].0), (24 * 16, 1500));
    assert!(file.0 * 3 < exact[0].0 && file.1 < exact[0].1 * 5 / 4, "{file:?} for {:?}", exact[0]);
    assert!(few.0 * 20 < exact[1].0 && few.1 < exact[1].1 * 4, "{few:?} for {:?}", exact[1]);
    assert!(random.0 <= 100 && random.1 < 100 * 2 * (GRAIN >> 10), "{random:?} for {:?}", exact[2]);
}
