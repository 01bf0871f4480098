//! More changes than memory holds: their bytes are read back from the journal, which goes from file to file, under
//! crashes at every call.

use crate::crashes::{survive, watch};
use crate::kernel::{Kernel, Log};
use crate::times;
use crate::world::{World, tight};
use nacrefs::drive::Settings;
use nacrefs::journal::Options;
use nacrefs::sys::simdisk::Op;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The bytes of one write; the memory for written bytes holds a small part of it.
const WRITE: usize = 9_000;

/// Files that hardly hold the largest write of a random step, small frames, and memory for a few hundred bytes.
fn tiny() -> Settings {
    let journal = Options { file_size: 80 << 10, frame_bytes: 4000, ..tight().journal };
    Settings { written: 512, cache: 8 << 10, journal, ..tight() }
}

#[test]
fn changes_larger_than_memory_survive_a_crash_at_any_call_in_many_journal_files() {
    let (mut images, mut read_back) = (0, 0);
    let mut files = BTreeSet::new();
    for seed in 0..times(1, 10) {
        let world = World::new(7000 + seed, tiny());
        let drive = world.open().unwrap();
        let mut kernel = Kernel::fresh(drive, world.clock.clone(), seed);
        let log = Arc::new(Mutex::new(Log { states: vec![kernel.model.clone()], synced: 0 }));
        kernel.log = log.clone();
        let moments = watch(&world, &log, seed);
        for round in 0..times(50, 60) {
            let before = world.disk.count(Op::Read);
            // A name of its own: random steps put other things under the names that they find.
            kernel.put(&format!("spilt-{round}"), round as u8, WRITE);
            kernel.step(false);
            match round % 20 {
                19 => kernel.commit(),
                // What is not synced yet is in memory.
                n if n % 3 == 2 => {
                    kernel.sync();
                    kernel.compare();
                }
                _ => {}
            }
            read_back += world.disk.count(Op::Read) - before;
            let names = world.disk.contents().into_keys().filter(|name| name.starts_with("journal-"));
            files.extend(names.map(|name| (seed, name)));
            let due = std::mem::take(&mut *moments.lock());
            images += due.len();
            for (n, moment) in due.into_iter().enumerate() {
                survive(&world, moment, &log.lock(), seed * 10_000 + round * 50 + n as u64);
            }
        }
        world.quiet();
        kernel.compare();
    }
    let files = files.len();
    eprintln!("{images} images, {files} journal files, {read_back} reads of them");
    // All that is in the disk is the journal, and it is read in no other case while the drive lives.
    assert!(read_back >= 20, "only {read_back} reads of the journal: the changes fit into memory");
    assert!(files >= 5, "only {files} journal files");
    assert!(images >= 300, "only {images} images");
}
