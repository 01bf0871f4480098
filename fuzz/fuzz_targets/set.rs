#![no_main]
//! Self-encrypted sets (src/crypt/set.rs): their maps, members that do not open, pieces that do. What we take for a
//! stored piece, without a decompressor, is what a Brotli decoder makes of it.

use bytes::Bytes;
use nacrefs::crypt::fuzzing::decompress;
use nacrefs::crypt::set::{SetMap, decode_piece, encode_piece, open_member, seal_member};
use nacrefs::error::Result;
use nacrefs::wire::{Reader, Writer};
use nacrefs_fuzz::{choice, same, target};

fn map(data: &[u8]) -> Result<Vec<u8>> {
    let mut r = Reader::new(data, "set");
    let set = SetMap::get(&mut r)?;
    r.end()?;
    let covered = (0..set.members().len()).map(|i| set.piece_range(i).len() as u64).sum::<u64>();
    assert_eq!(covered, u64::from(set.size()), "the pieces are the content");
    assert_eq!(set.chunks().count(), set.members().len());
    let mut w = Writer::new();
    set.put(&mut w);
    Ok(w.into_vec())
}

fn piece(data: &[u8]) {
    let mut r = Reader::new(data, "script");
    let Ok(size) = r.var() else { return };
    let encoded = Bytes::copy_from_slice(r.rest());
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let Ok(plain) = decode_piece(encoded.clone(), size) else { return };
    assert_eq!(plain.len(), size);
    assert!(decompress(&encoded, size).as_deref() == Some(&plain[..]), "a Brotli decoder says the same");
    let hashes = [[1; 32], [2; 32], [3; 32]];
    let stored = seal_member(7, &hashes, &encoded).expect("short enough");
    assert_eq!(open_member(7, &hashes, size as u32, &stored).expect("its own seal"), plain);
    let anew = encode_piece(&plain);
    assert_eq!(decode_piece(anew.into(), size).expect("our own encoding"), plain);
}

target!(40, |data| {
    let (what, rest) = choice(data);
    match what % 3 {
        0 => same(map(rest), rest),
        1 => piece(rest),
        _ => assert!(open_member(0, &[[0; 32]; 3], 100, rest).is_err(), "nobody can forge a member"),
    }
});
