#![no_main]
//! One operation, as the journal keeps it (src/drive/record.rs).

use nacrefs::drive::record::Record;
use nacrefs_fuzz::{same, target};

target!(1, |data| {
    let again = Record::decode(data).map(|record| [record.head().as_slice(), record.data()].concat());
    same(again, data)
});
