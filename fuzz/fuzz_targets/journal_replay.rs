#![no_main]
//! Records of any bytes, well sealed in the journal of a real drive, replayed as a mount does (src/drive/apply.rs); then
//! the drive is used, and committed, and opened once more.

use nacrefs::wire::Reader;
use nacrefs_fuzz::drive::{base, exercise, replayed};
use nacrefs_fuzz::{bytes, target};

target!(64, |data| {
    let mut r = Reader::new(data, "script");
    let mut records = Vec::new();
    while let Ok(record) = bytes(&mut r) {
        records.push(record);
    }
    let world = base();
    let Ok(drive) = replayed(&world, records.into_iter()) else { return };
    let _ = exercise(&drive);
    drop(drive);
    // A record that no operation wrote may have made what no version should hold: then it is refused here.
    if let Ok(drive) = world.open() {
        let _ = exercise(&drive);
    }
});
