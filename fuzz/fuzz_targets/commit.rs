#![no_main]
//! The commit object, behind its seal (src/commit/object.rs, params.rs).

use nacrefs::commit::Commit;
use nacrefs_fuzz::{same, target};

target!(1, |data| same(Commit::from_bytes(data).and_then(|commit| commit.to_bytes()), data));
