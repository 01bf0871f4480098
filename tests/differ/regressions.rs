//! What was different once: each by the name of the failure that it prevents.

use crate::arena::Arena;
use crate::calls::*;

/// Makes the calls of each case on ext4 and on one drive.
fn alike(cases: &[(&str, &[Step])]) {
    let mut arena = Arena::new();
    for (name, steps) in cases {
        if let Err(failure) = arena.run(steps, 1) {
            panic!("{name}: after call {}: {}", failure.at + 1, failure.difference.says);
        }
    }
}
