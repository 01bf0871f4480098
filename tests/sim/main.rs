//! The drive without a kernel, a disk or a store: operations, commits, crashes and failures under a seed.
//! With NACREFS_TEST_FULL set, more seeds and longer runs.

mod commits;
mod crashes;
#[path = "../common/dice.rs"]
mod dice;
mod extremes;
mod failures;
mod golden;
mod hangs;
mod kernel;
mod model;
// The witness is in no release build.
#[cfg(debug_assertions)]
mod nonces;
mod spill;
mod stress;
mod world;

use kernel::{Kernel, differ, look};
use world::{World, tight};

/// How much of something: more, where everything is to be tested.
pub fn times(few: u64, many: u64) -> u64 {
    if std::env::var_os("NACREFS_TEST_FULL").is_some_and(|v| !v.is_empty()) { many } else { few }
}

/// The store alone, to a machine that has never seen it, is as the model says.
pub fn assert_stored(world: &World, kernel: &Kernel) {
    let elsewhere = world.elsewhere();
    let drive = elsewhere.open().unwrap();
    if let Some(difference) = differ(&look(&drive, drive.root()).unwrap(), &kernel.model.seen()) {
        panic!("from the store alone: {difference}");
    }
}

/// Every answer of the drive is the model's, and so is what is in the store at the end.
#[test]
fn random_operations_do_what_the_model_does() {
    for seed in 0..times(12, 200) {
        let mut settings = tight();
        if seed % 2 == 1 {
            settings = nacrefs::drive::Settings { workers: 1, ..nacrefs::drive::Settings::within(64 << 20) };
            settings.journal = tight().journal;
        }
        let world = World::new(seed, settings);
        let mut kernel = Kernel::fresh(world.open().unwrap(), world.clock.clone(), seed);
        for _ in 0..400 {
            kernel.step(true);
        }
        kernel.compare();
        kernel.commit();
        kernel.compare();
        kernel.forget_all();
        kernel.compare();
        world.check();
        assert_stored(&world, &kernel);
    }
}

/// Promise 3: to set an access list and to lose sgid with it are one operation. They used to be two records: a crash
/// between them left the list with sgid kept.
#[test]
fn an_access_list_and_the_loss_of_sgid_are_one_record() {
    use nacrefs::drive::types::{Caller, New, Wait};
    let world = World::new(3, tight());
    let drive = world.open().unwrap();
    let maker = Caller { uid: 1000, gid: 1000, umask: 0 };
    let new = New { kind: nacrefs::commit::FileKind::File, perm: 0o2755, rdev: 0, target: b"" };
    let ino = drive.make(Wait::yes(), &maker, drive.root(), b"f", &new).unwrap().ino;
    let records = drive.journal().last();
    // Version 2; owner rwx, group r-x, others none.
    let mut list = 2u32.to_le_bytes().to_vec();
    for (tag, bits) in [(0x01u16, 7u16), (0x04, 5), (0x20, 0)] {
        list.extend([tag.to_le_bytes(), bits.to_le_bytes()].concat());
        list.extend(u32::MAX.to_le_bytes());
    }
    let stranger = Caller { uid: 1000, gid: 2000, umask: 0 };
    drive.set_xattr(Wait::yes(), &stranger, ino, b"system.posix_acl_access", &list, 0).unwrap();
    assert_eq!(drive.journal().last(), records + 1);
    assert_eq!(drive.stat(Wait::yes(), ino).unwrap().attr.perm, 0o750);
    drive.sync().unwrap_or_else(|e| panic!("{}", e.chain()));
    drop(drive);
    let drive = world.open().unwrap();
    let found = drive.lookup(Wait::yes(), drive.root(), b"f").unwrap().unwrap();
    assert_eq!(found.attr.perm, 0o750, "after a replay");
}
