//! From many calls that show a difference to a few that show the same.

use crate::arena::{Arena, Failure};
use crate::calls::{ROOT, Step, USERS};
use std::cell::Cell;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// How often all is looked at while calls are random.
pub const DEEP: usize = 8;

/// The longest that one failure is worth.
const PATIENCE: Duration = Duration::from_secs(60);

/// Drops calls, then makes those left simpler, as long as the difference stays of its kind.
pub fn shrink(arena: &mut Arena, steps: &[Step], failure: &Failure) -> (Vec<Step>, Failure) {
    let mut best = (steps[..=failure.at].to_vec(), failure.clone());
    let until = Instant::now() + PATIENCE;
    // What is looked at inside is read, and so in the kernel's cache: to look at all after each call shows a
    // difference where it begins, but may hide it.
    let often = Cell::new(1);
    let mut attempt = |best: &mut (Vec<Step>, Failure), steps: Vec<Step>| match arena.run(&steps, often.get())
    {
        Err(found) if found.difference.kind == failure.difference.kind => {
            *best = (steps[..=found.at].to_vec(), found);
            true
        }
        _ => false,
    };
    let whole = best.0.clone();
    if !attempt(&mut best, whole.clone()) {
        often.set(DEEP);
        if !attempt(&mut best, whole) {
            // It does not come back: what there is, is the whole.
            return best;
        }
    }
    // Halves, quarters, …, single calls; then once more what simpler calls have made superfluous.
    loop {
        let before = best.0.clone();
        let mut piece = best.0.len().div_ceil(2);
        loop {
            let mut at = 0;
            while at < best.0.len() {
                let mut fewer = best.0.clone();
                fewer.drain(at..(at + piece).min(fewer.len()));
                if fewer.is_empty() || Instant::now() > until || !attempt(&mut best, fewer) {
                    at += piece;
                }
            }
            if piece <= 1 {
                break;
            }
            piece = piece.div_ceil(2);
        }
        for at in 0..best.0.len() {
            let Some(Step(who, call)) = best.0.get(at).copied() else { break };
            let other = call.simpler().into_iter().map(|c| Step(who, c));
            let others = if who == ROOT { vec![] } else { vec![Step(ROOT, call)] };
            for step in others.into_iter().chain(other) {
                if Instant::now() > until {
                    break;
                }
                let mut simpler = best.0.clone();
                simpler[at] = step;
                if attempt(&mut best, simpler) {
                    break;
                }
            }
        }
        if best.0 == before || Instant::now() > until {
            return best;
        }
    }
}

/// A failure as the code of a regression test.
pub fn code(seed: u64, steps: &[Step], failure: &Failure) -> String {
    let mut out =
        format!("    // Seed {seed:#x}: {}\n    &[\n", failure.difference.says.replace('\n', "\n    // "));
    for Step(who, call) in steps {
        let _ = writeln!(out, "        Step({}, {call:?}),", USERS[*who].name);
    }
    out + "    ],\n"
}
