//! The drive without a kernel, a disk or a store: operations, commits, crashes and failures under a seed.
//! With NACREFS_TEST_FULL set, more seeds and longer runs.

mod commits;
mod crashes;
#[path = "../common/dice.rs"]
mod dice;
mod failures;
mod golden;
mod hangs;
mod kernel;
mod model;
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
