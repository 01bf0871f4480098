#![no_main]
//! Small objects inside their seal (src/crypt/object.rs): codec, declared size, Brotli stream, padding. What comes out
//! has the declared size, and memory is bounded by what a chunk may hold, whatever the stream unpacks to.

use nacrefs::crypt::pad::pad;
use nacrefs::crypt::{Seal, seal};
use nacrefs::types::MAX_CHUNK;
use nacrefs::wire::{Reader, Writer};
use nacrefs_fuzz::forge::{KEY, REALM, realm_keys};
use nacrefs_fuzz::{choice, target};

fn open(inner: &[u8]) {
    let stored = seal(Seal::Content, &KEY, &REALM, b"", inner).expect("short enough");
    let Ok(content) = realm_keys().open_sealed(Seal::Content, &KEY, &stored) else { return };
    let mut r = Reader::new(inner, "object");
    let (codec, size) = (r.u8().expect("a codec"), r.var().expect("a size"));
    assert!(size == content.len() as u64 && content.len() <= MAX_CHUNK);
    if codec == 0 {
        let mut again = Writer::new();
        again.u8(0).bytes(&content);
        let mut again = again.into_vec();
        pad(&mut again);
        assert!(again == inner, "a stored object has one encoding");
    }
}

// The window of a stream may have 16 MiB.
target!(40, |data| {
    let (what, rest) = choice(data);
    if what & 1 == 0 {
        return open(rest);
    }
    // A size and a stream, framed and padded as they must be.
    let mut r = Reader::new(rest, "script");
    let Ok(size) = r.var() else { return };
    let mut w = Writer::new();
    w.u8(1).var(size).bytes(r.rest());
    let mut inner = w.into_vec();
    pad(&mut inner);
    open(&inner);
});
