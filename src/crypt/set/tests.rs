use super::*;
use proptest::prelude::*;
use self_encryption::EncryptedChunk;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;

const PIECE: u32 = 4096;

/// Bytes that do not compress.
pub(crate) fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; size];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// Bytes that compress somewhat.
pub(crate) fn text(size: usize, seed: u64) -> Vec<u8> {
    const WORDS: [&str; 8] = ["let ", "mut ", "chunk", "(&self", ") -> ", "Result", "<Bytes>", " {\n    "];
    let words = noise(size, seed).into_iter().flat_map(|b| WORDS[b as usize % 8].bytes());
    words.take(size).collect()
}

type Secrets = (u32, [[u8; 32]; 3]);

/// A store of members which checks that no key and nonce ever meet two messages.
#[derive(Default)]
struct World {
    stored: RefCell<HashMap<Address, Vec<u8>>>,
    /// Encoded bytes by index and source hashes, which is what key and nonce come from.
    messages: RefCell<HashMap<Secrets, Vec<u8>>>,
    sealed: Cell<usize>,
    opened: Cell<usize>,
}

impl World {
    fn hash(encoded: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&[9; 32], encoded).as_bytes()
    }

    /// Makes a set of `content`, keeping what the old set has of it.
    fn write(&self, old: Option<(&SetMap, &[u8])>, content: &[u8]) -> SetMap {
        let size = content.len() as u32;
        let part = |content: &[u8], i| {
            let range = piece_range(content.len() as u32, PIECE, i);
            content[range.start as usize..range.end as usize].to_vec()
        };
        let pieces = (0..member_count(size, PIECE))
            .map(|i| match old {
                Some((set, was)) if i < set.members.len() && part(was, i) == part(content, i) => Piece::Kept,
                _ => Piece::Encoded(encode_piece(&part(content, i))),
            })
            .collect();
        self.sealed.set(0);
        self.opened.set(0);
        let mut io = Io {
            source_hash: &World::hash,
            stored: &|address| {
                self.opened.set(self.opened.get() + 1);
                Ok(self.stored.borrow()[address].clone().into())
            },
            put: &mut |address, stored| {
                self.sealed.set(self.sealed.get() + 1);
                self.stored.borrow_mut().insert(address, stored);
                Ok(())
            },
        };
        let set = SetMap::write(old.map(|(set, _)| set), size, PIECE, pieces, &mut io).unwrap();
        for (i, member) in set.members.iter().enumerate() {
            let encoded =
                open_encoded(i as u32, &set.hashes(i), &self.stored.borrow()[&member.address]).unwrap();
            assert_eq!(World::hash(&encoded), member.source_hash);
            let mut messages = self.messages.borrow_mut();
            let first = messages.entry((i as u32, set.hashes(i))).or_insert_with(|| encoded.clone());
            assert_eq!(*first, encoded, "one key and nonce met two messages");
        }
        set
    }

    fn check(&self, set: &SetMap, content: &[u8]) {
        let stored = self.stored.borrow();
        let chunks: Vec<_> = set
            .members
            .iter()
            .map(|m| EncryptedChunk { content: stored[&m.address].clone().into() })
            .collect();
        assert_eq!(self_encryption::decrypt(&set.to_data_map(), &chunks).unwrap(), content);
        let ours: Vec<u8> = set
            .chunks()
            .flat_map(|c| match c.opening {
                Opening::Member { index, hashes, size } => {
                    open_member(index, &hashes, size, &stored[&c.address]).unwrap()
                }
                _ => panic!("not a member"),
            })
            .collect();
        assert_eq!(ours, content);
        let mut w = Writer::new();
        set.put(&mut w);
        let mut r = Reader::new(w.as_slice(), "set");
        assert_eq!(SetMap::get(&mut r).unwrap(), *set);
        r.end().unwrap();
    }
}

#[test]
fn the_stock_crate_reads_sets_of_any_size() {
    let world = World::default();
    for size in [1, 100, 4095, 4096, 4097, 8192, 12288, 12289, 70_000] {
        for content in [noise(size, 1), text(size, 1), vec![0; size]] {
            world.check(&world.write(None, &content), &content);
        }
    }
}

#[test]
fn an_edit_of_one_piece_seals_three_members_and_encodes_one() {
    let world = World::default();
    let mut content = text(16 * PIECE as usize, 3);
    let mut set = world.write(None, &content);
    for i in 0..16 {
        let was = content.clone();
        content[i * PIECE as usize + 17] ^= 1;
        set = world.write(Some((&set, &was)), &content);
        assert_eq!((world.sealed.get(), world.opened.get()), (3, 2), "piece {i}");
        world.check(&set, &content);
    }
    assert_eq!(world.write(Some((&set, &content)), &content), set);
    assert_eq!(world.sealed.get(), 0);
}

#[test]
fn no_key_meets_two_messages_over_thousands_of_edits() {
    let world = World::default();
    let mut content = text(8 * PIECE as usize, 5);
    let mut set = world.write(None, &content);
    for (n, byte) in noise(2000, 8).into_iter().enumerate() {
        let was = content.clone();
        // Few distinct edits, so that equal pieces and neighbours come back in many combinations.
        content[(byte as usize % 8) * PIECE as usize + n % 2] = byte >> 6;
        if n % 50 == 0 {
            content.truncate((3 + n % 6) * PIECE as usize - 5);
            content.resize(8 * PIECE as usize, byte);
        }
        set = world.write(Some((&set, &was)), &content);
    }
    world.check(&set, &content);
    assert!(world.messages.borrow().len() > 500);
}

#[test]
fn a_member_opens_only_as_what_it_is() {
    let world = World::default();
    let set = world.write(None, &noise(20_000, 2));
    let stored = world.stored.borrow()[&set.members[1].address].clone();
    let hashes = set.hashes(1);
    assert!(open_member(1, &hashes, PIECE, &stored).is_ok());
    assert!(open_member(2, &hashes, PIECE, &stored).is_err());
    assert!(open_member(1, &set.hashes(2), PIECE, &stored).is_err());
    assert!(open_member(1, &hashes, PIECE - 1, &stored).is_err());
    assert!(open_member(1, &hashes, u32::MAX, &stored).is_err());
    for cut in [0, 15, stored.len() - 1] {
        assert!(open_member(1, &hashes, PIECE, &stored[..cut]).is_err());
    }
}

/// If this changes, either the encoder did, and new chunks no longer equal old ones, or the format did, and
/// drives that exist can no longer be read.
#[test]
fn known_answer() {
    let world = World::default();
    let set = world.write(None, &text(3 * PIECE as usize, 11));
    let mut w = Writer::new();
    set.put(&mut w);
    assert_eq!(
        Address::of(w.as_slice()).to_string(),
        "dbd5aa0419773bc0929d495b1677da8d9cc51ff838e1c22642efed618e766ca3"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_edits_keep_the_set_readable(
        size in 1usize..60_000,
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 1usize..9000, 1usize..60_000), 1..6),
    ) {
        let world = World::default();
        let mut content = noise(size, 4);
        let mut set = world.write(None, &content);
        for (seed, (at, len, size)) in edits.into_iter().enumerate() {
            let was = content.clone();
            content.resize(size, 0);
            let at = at.index(size);
            let end = (at + len).min(size);
            content[at..end].copy_from_slice(&text(end - at, seed as u64));
            set = world.write(Some((&set, &was)), &content);
            world.check(&set, &content);
        }
    }

    #[test]
    fn any_bytes_are_a_map_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400), bits in 10u8..22, size in 0u64..20_000) {
        let mut w = Writer::new();
        w.u8(bits).var(size).raw(&bytes);
        let mut r = Reader::new(w.as_slice(), "set");
        if let Ok(set) = SetMap::get(&mut r) {
            let mut again = Writer::new();
            set.put(&mut again);
            prop_assert_eq!(again.as_slice(), &w.as_slice()[..w.len() - r.rest().len()]);
        }
    }
}
