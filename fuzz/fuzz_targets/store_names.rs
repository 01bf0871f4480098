#![no_main]
//! What a store shows before any key is there (src/store/layout.rs): `nacre.json`, and names of objects.

use bytes::Bytes;
use nacrefs::error::Kind;
use nacrefs::store::layout::{DRIVE, read_drive};
use nacrefs::store::memory::Memory;
use nacrefs::store::{Layout, Objects};
use nacrefs_fuzz::forge::REALM;
use nacrefs_fuzz::{choice, target};

target!(1, |data| {
    let (what, rest) = choice(data);
    if what & 1 == 0 {
        let objects = Memory::new();
        objects.put(DRIVE, Bytes::copy_from_slice(rest)).expect("a good name");
        match read_drive(&objects) {
            Ok(drive) => {
                let one = format!("{{\"magic\":\"nacre drive\",\"format\":1,\"drive\":\"{drive}\"}}\n");
                assert_eq!(rest, one.as_bytes(), "it has one form");
            }
            Err(e) => assert!(matches!(e.kind(), Kind::NotADrive | Kind::Damage | Kind::Failed), "{e:?}"),
        }
        return;
    }
    let Ok(name) = str::from_utf8(rest) else { return };
    let layout = Layout::new(&REALM);
    for name in [name.to_owned(), format!("{}/{name}", layout.heads()), format!("{}/{name}", layout.packs())]
    {
        if let Some(version) = layout.version_of(&name) {
            assert_eq!(layout.head(version), name);
        }
        if let Some(pack) = layout.pack_of(&name) {
            assert_eq!(layout.pack(&pack), name);
        }
    }
});
