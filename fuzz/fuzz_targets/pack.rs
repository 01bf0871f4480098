#![no_main]
//! Packs (src/store/pack.rs): whole ones of any bytes, and ones whose sealed footer says anything.

use bytes::Bytes;
use nacrefs::crypt::Seal;
use nacrefs::store::memory::Memory;
use nacrefs::store::pack::{self, PackEntry, PackId};
use nacrefs::store::{Layout, Objects};
use nacrefs::types::Address;
use nacrefs::wire::{Reader, Writer};
use nacrefs_fuzz::forge::{EPOCH, REALM, index_keys, sealed};
use nacrefs_fuzz::{bytes, choice, target};

const HEADER: usize = 16;

/// A pack with these chunks' bytes, and a footer with this message under a good seal.
fn forged(body: &[u8], footer: &[u8]) -> Vec<u8> {
    let mut w = Writer::new();
    w.raw(b"nacrepck").u16(1).u8(1).u8(0).u32(EPOCH).raw(body);
    let mut ad = Writer::new();
    ad.raw(&w.as_slice()[..HEADER]).u64(w.len() as u64);
    let footer = sealed(Seal::Footer, ad.as_slice(), footer);
    w.raw(&footer).u32(footer.len() as u32).raw(b"ncre");
    w.into_vec()
}

/// What a footer says, written anew.
fn footer(entries: &[PackEntry]) -> Vec<u8> {
    let mut w = Writer::new();
    w.u32(entries.len() as u32);
    for e in entries {
        w.raw(&e.address.0).u32(e.offset).u32(e.len);
    }
    let mut footer = w.into_vec();
    nacrefs::crypt::pad::pad(&mut footer);
    footer
}

fn check(whole: &[u8], message: Option<&[u8]>) {
    let id = PackId(*blake3::hash(whole).as_bytes());
    let (objects, name) = (Memory::new(), Layout::new(&REALM).pack(&id));
    objects.put(&name, Bytes::copy_from_slice(whole)).expect("a good name");
    let read = pack::read_footer(&objects, &name, &index_keys());
    let verified = pack::verify(&id, whole, &index_keys());
    if let Ok(entries) = &verified {
        assert_eq!(
            read.as_ref().expect("a pack that is whole has a footer"),
            &(whole.len() as u64, entries.clone())
        );
        for e in entries {
            assert_eq!(Address::of(&whole[e.offset as usize..][..e.len as usize]), e.address);
        }
    }
    if let (Ok((_, entries)), Some(message)) = (&read, message) {
        assert!(footer(entries) == message, "a footer has one encoding");
    }
    assert!(pack::is_whole(&objects, &name, &id, whole.len() as u64).expect("it is there"));
}

target!(4, |data| {
    let (what, rest) = choice(data);
    match what % 3 {
        0 => check(rest, None),
        1 => {
            let mut r = Reader::new(rest, "script");
            let Ok(body) = bytes(&mut r) else { return };
            check(&forged(body, r.rest()), Some(r.rest()));
        }
        _ => {
            // Addresses that are right, under offsets and lengths that may be.
            let mut r = Reader::new(rest, "script");
            let Ok(body) = bytes(&mut r) else { return };
            let mut entries = Vec::new();
            while let (Ok(offset), Ok(len)) = (r.u16(), r.u16()) {
                let (from, to) = (usize::from(offset), usize::from(offset) + usize::from(len));
                let address = Address::of(body.get(from..to).unwrap_or_default());
                entries.push(PackEntry {
                    address,
                    offset: HEADER as u32 + u32::from(offset),
                    len: len.into(),
                });
            }
            entries.sort();
            let message = footer(&entries);
            check(&forged(body, &message), Some(&message));
        }
    }
});
