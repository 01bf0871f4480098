#![no_main]
//! A node of a Map, behind its seal (src/tree/node.rs).

use nacrefs::tree::fuzzing::entries;
use nacrefs::wire::Writer;
use nacrefs_fuzz::{same, target};

target!(1, |data| {
    let again = entries(data).map(|(level, entries)| {
        let mut w = Writer::new();
        w.u8(1).u8(level).u16(entries.len() as u16);
        let mut end = 0;
        for (key, value) in &entries {
            w.u16((end + key.len()) as u16).u16((end + key.len() + value.len()) as u16);
            end += key.len() + value.len();
        }
        for (key, value) in &entries {
            w.raw(key).raw(value);
        }
        w.into_vec()
    });
    same(again, data)
});
