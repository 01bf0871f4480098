//! TRUST 1: no key and nonce ever meets two messages, whatever is edited, encoded anew, crashed, or rolled back. All
//! encryption of the process is watched while a machine is restored from the same snapshot again and again, its random
//! numbers too, and lives on differently each time.

use crate::kernel::Kernel;
use crate::model::Op;
use crate::times;
use crate::world::{Dice, SimRandom, Snapshot, World, secret, tight};
use nacrefs::content::DiskCache;
use nacrefs::crypt::set::{Io, Piece, SetMap, encode_piece};
use nacrefs::crypt::witness::Watch;
use nacrefs::crypt::{DeviceRecord, DriveSecrets, KdfParams, LocalKeys, Memory, Slot};
use nacrefs::session::StateDir;
use nacrefs::types::{Address, Incarnation, Time};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

/// Large enough for sets of several members; no write is, for the simulated journal's files are small.
const LARGE: usize = 400_000;

/// Something happens: mostly small edits of a large file, in sets and extents, and what a drive sees else.
fn live(kernel: &mut Kernel, steps: u64) {
    for _ in 0..steps {
        if kernel.model.find("large").is_none() {
            kernel.put("large", 1, 1000);
            let node = kernel.id("large");
            for at in (0..LARGE as u64).step_by(100_000) {
                kernel.run(&Op::Write { node, at, len: 100_000, fill: at as u8, append: false, kill: false });
            }
        }
        let node = kernel.id("large");
        let d = &mut kernel.dice;
        let (at, fill) = (d.below(LARGE as u64), d.roll() as u8);
        let most = if d.below(4) == 0 { 150_000 } else { 3_000 };
        let len = 1 + d.below(most) as usize;
        let (small, size) = (format!("small{}", d.below(30)), 500 + d.below(9_000) as usize);
        match d.below(10) {
            8 | 9 => kernel.put(&small, fill, size),
            0..=2 => kernel.run(&Op::Write { node, at, len, fill, append: false, kill: false }),
            3 => kernel.run(&Op::Truncate { node, size: at }),
            4 => kernel.sync(),
            5 => kernel.step(true),
            _ => kernel.commit(),
        }
    }
}

/// The machine as it stands, with a random part of what was not synced lost: here that is nothing.
fn snapshot(world: &World, seed: u64) -> Snapshot {
    Snapshot { disk: world.disk.crash(seed), store: world.store(), known: world.known() }
}

/// What the simulated machine has not: key slots, the files of a state directory, the disk cache.
fn local_things(rounds: u64) {
    let dir = tempfile::tempdir().unwrap();
    let source = SimRandom::new(5);
    let secrets = DriveSecrets::generate(&source).unwrap();
    let keys = LocalKeys::generate(&secrets, &source).unwrap();
    let cache = DiskCache::open(dir.path(), &keys, 1 << 30).unwrap();
    let mut device = StateDir::new_device(&source).unwrap();
    for n in 0..rounds {
        // The same salts and ids again and again, as after a rollback.
        let again = SimRandom::new(n % 7);
        let now = Time { sec: n as i64, nsec: 0 };
        let slot = Slot::create(&secrets, &secret([3; 32]), KdfParams::default(), "", now, &again).unwrap();
        assert!(slot.open(&secret([3; 32])).is_ok());
        device.incarnation = Incarnation(u128::from(n).to_le_bytes());
        DeviceRecord::open(&keys, &device.seal(&keys).unwrap()).unwrap();
        Memory { version: n, head: [7; 32], base: (n, [7; 32]) }.seal(&keys).unwrap();
        let chunk = n.to_le_bytes().repeat(9);
        // At first it is being opened.
        while cache.get(&Address::of(&chunk)).is_none() {
            cache.put(&Address::of(&chunk), &chunk);
        }
    }
}

/// Sets whose pieces are changed and encoded by several encoders. There are few plaintexts, so that each comes in all
/// encodings, and beside all others.
fn encodings(rounds: u64) {
    const PIECE: u32 = 4096;
    let stored: RefCell<HashMap<Address, Vec<u8>>> = RefCell::default();
    let mut dice = Dice(6);
    let mut set: Option<SetMap> = None;
    for _ in 0..rounds {
        let pieces = (0..6).map(|_| {
            if set.is_some() && dice.below(3) > 0 {
                return Piece::Kept;
            }
            let plain = vec![dice.below(40) as u8; PIECE as usize];
            Piece::Encoded(match dice.below(4) as i32 {
                0 => encode_piece(&plain),
                n => {
                    let how = brotli::enc::BrotliEncoderParams { quality: 3 * n, ..Default::default() };
                    let mut out = Vec::new();
                    brotli::BrotliCompress(&mut &plain[..], &mut out, &how).unwrap();
                    out
                }
            })
        });
        let pieces = pieces.collect();
        let mut io = Io {
            source_hash: &|encoded| *blake3::keyed_hash(&[9; 32], encoded).as_bytes(),
            stored: &|address| Ok(stored.borrow()[address].clone().into()),
            put: &mut |address, bytes| {
                stored.borrow_mut().insert(address, bytes);
                Ok(())
            },
        };
        set = Some(SetMap::write(set.as_ref(), 6 * PIECE, PIECE, pieces, &mut io).unwrap());
    }
}

#[test]
fn no_key_and_nonce_ever_meets_two_messages() {
    let watch = Watch::start();
    for seed in 0..times(4, 40) {
        let world = World::new(400 + seed, tight());
        let mut dice = Dice(seed);
        let mut kernel = Kernel::fresh(world.open().unwrap(), world.clock.clone(), seed);
        live(&mut kernel, 40);
        kernel.sync();
        let (mut world, mut model) = (world, kernel.model.clone());
        drop(kernel);
        for _ in 0..times(40, 100) {
            let restored = dice.roll();
            let mut next = None;
            for _ in 0..4 {
                let again = world.at(snapshot(&world, restored)).with_random(restored);
                let drive = again.open().unwrap();
                let mut kernel = Kernel::new(drive, model.clone(), again.clock.clone(), dice.roll());
                live(&mut kernel, 30);
                kernel.sync();
                kernel.compare();
                next = Some((again, kernel.model.clone()));
            }
            (world, model) = next.unwrap();
        }
        world.check();
    }
    encodings(times(4_000, 40_000));
    local_things(times(4_000, 40_000));
    let counts = watch.counts();
    eprintln!("{counts:?}");
    let many = |kind| (kind, 2_000);
    let mut least =
        BTreeMap::from(["Content", "Node", "Commit", "Head", "Index", "Footer", "Journal"].map(many));
    least.extend(["Cache", "Slot", "State"].map(many));
    least.insert("Member", 10_000);
    for (kind, least) in least {
        let seen = counts.get(kind).copied().unwrap_or(0);
        assert!(seen >= least, "{kind}: only {seen} pairs, not {least}");
    }
}
