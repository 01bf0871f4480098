//! The same random calls, by several users, on ext4 and on a drive: every answer, errno and attribute is compared,
//! and what differs is shrunk to a few calls. Needs root, /dev/fuse and loop devices.
//!
//! `generate.rs` chooses the calls (`calls.rs`), workers make them on both (`worker.rs`, `seat.rs`, `on_….rs`),
//! `look.rs` looks at what is there afterwards, `compare.rs` compares, with the rules of `rules.rs`, and `shrink.rs`
//! makes a failure small. Each difference that was found stays in `regressions.rs`.
//!
//! Each run makes the same calls, so that it says the same of the same code. By hand, without an end that is counted
//! in calls: `NACREFS_DIFFER_SECONDS=3600 cargo test --test differ random` hunts for so long with seeds that nobody has
//! tried, and `NACREFS_DIFFER_SEED=0x…` repeats one.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/dice.rs"]
mod dice;

mod arena;
mod calls;
mod compare;
mod generate;
mod lies;
mod listing;
mod look;
mod on_attributes;
mod on_bytes;
mod on_names;
mod on_xattrs;
mod outcome;
mod regressions;
mod rules;
mod seat;
mod shrink;
mod values;
mod worker;

use arena::Arena;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number =
        text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u64::from_str_radix(hex, 16).ok());
    Some(number.unwrap_or_else(|| panic!("{name}={text} is not a number")))
}

/// The seed of the first sequence, where nobody names another.
const FIRST: u64 = 0x6e61_6372_6500_0000;

/// Which sequences are tried, and when it is enough.
struct Hunt {
    first: u64,
    /// Counted in calls, so that each run makes the same.
    calls: usize,
    /// Longer than that, where somebody asks for it.
    until: Instant,
}

impl Hunt {
    fn asked_for() -> Hunt {
        let full = common::full();
        let (seed, seconds) = (setting("NACREFS_DIFFER_SEED"), setting("NACREFS_DIFFER_SECONDS"));
        let fresh = seconds.map(|_| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            now.as_secs() << 16
        });
        let calls = match (seed.is_some() || seconds.is_some(), full) {
            (true, _) => 1,
            (_, true) => 30 * CALLS,
            _ => CALLS,
        };
        let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(0));
        Hunt { first: seed.or(fresh).unwrap_or(FIRST), calls, until }
    }

    fn goes_on(&self, made: usize) -> bool {
        made < self.calls || Instant::now() < self.until
    }
}

/// About twenty seconds of a debug build on two cores.
const CALLS: usize = 6000;

#[test]
fn random_calls_do_on_a_drive_what_they_do_on_ext4() {
    let hunt = Hunt::asked_for();
    let mut arena = Arena::new();
    // Short cases meet more beginnings, long ones more of what grows.
    let length = |seed: u64| [60, 150, 150, 400][seed as usize % 4];
    let (mut seed, mut calls) = (hunt.first, 0);
    // One failure of each kind.
    let mut failures = BTreeMap::new();
    while hunt.goes_on(calls) && failures.len() < 12 {
        let steps = generate::steps(seed, length(seed));
        calls += steps.len();
        if let Err(failure) = arena.run(&steps, shrink::DEEP)
            && !failures.contains_key(&failure.difference.kind)
        {
            // Before it is made small, which takes a while and may be cut off.
            eprintln!(
                "seed {seed:#x}, call {}, {:?}: {}",
                failure.at, steps[failure.at], failure.difference.says
            );
            let (few, small) = shrink::shrink(&mut arena, &steps, &failure);
            let code = shrink::code(seed, &few, &small);
            eprintln!("{code}");
            failures.insert(failure.difference.kind, code);
        }
        seed += 1;
    }
    eprintln!("{} sequences from seed {:#x} on, {calls} calls", seed - hunt.first, hunt.first);
    let all: String = failures.into_values().collect();
    assert!(all.is_empty(), "a drive is not like ext4:\n{all}");
}
