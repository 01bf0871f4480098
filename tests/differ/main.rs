//! The same random calls, by several users, on ext4 and on a drive: every answer, errno and attribute is compared,
//! and what differs is shrunk to a few calls. Needs root, /dev/fuse and loop devices.
//!
//! `generate.rs` chooses the calls (`calls.rs`), workers make them on both (`worker.rs`, `seat.rs`, `on_….rs`),
//! `look.rs` looks at what is there afterwards, `compare.rs` compares, with the rules of `rules.rs`, and `shrink.rs`
//! makes a failure small. Each difference that was found stays in `regressions.rs`.
//!
//! By hand: `NACREFS_DIFFER_SEED=0x… cargo test --test differ random` repeats a seed, and
//! `NACREFS_DIFFER_SECONDS=3600` goes on for so long.

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

/// How long to hunt, and whether to look for planted lies: not at all, unless at full size or when it is asked for. Hunts
/// take minutes, and may find what nobody has mended yet.
fn hunt() -> Option<u64> {
    let full = std::env::var("NACREFS_TEST_FULL").is_ok_and(|v| !v.is_empty());
    setting("NACREFS_DIFFER_SECONDS").or(full.then_some(600)).or(setting("NACREFS_DIFFER_SEED").map(|_| 0))
}

#[test]
fn random_calls_do_on_a_drive_what_they_do_on_ext4() {
    let Some(seconds) = hunt() else { return };
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut arena = Arena::new();
    // Short cases meet more beginnings, long ones more of what grows.
    let length = |seed: u64| [60, 150, 150, 400][seed as usize % 4];
    let one = setting("NACREFS_DIFFER_SEED");
    // Each run of the suite has seeds of its own: which, a failure tells.
    let first = one.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        now.as_secs() << 16
    });
    let (mut seed, mut calls) = (first, 0);
    // One failure of each kind.
    let mut failures = BTreeMap::new();
    while seed == first || Instant::now() < until && one.is_none() && failures.len() < 12 {
        let steps = generate::steps(seed, length(seed));
        calls += steps.len();
        if let Err(failure) = arena.run(&steps, shrink::DEEP)
            && !failures.contains_key(&failure.difference.kind)
        {
            let (few, small) = shrink::shrink(&mut arena, &steps, &failure);
            let code = shrink::code(seed, &few, &small);
            eprintln!("{code}");
            failures.insert(failure.difference.kind, code);
        }
        seed += 1;
    }
    eprintln!("{} sequences from seed {first:#x} on, {calls} calls", seed - first);
    let all: String = failures.into_values().collect();
    assert!(all.is_empty(), "a drive is not like ext4:\n{all}");
}
