//! Known answers: what these keys and bytes gave when the format was written down, found by another
//! implementation of docs/FORMAT.md, in another language. If one changes, old drives no longer open.

use super::*;
use crate::chunk::{ChunkRef, Opening, Sealer};
use crate::error::Result;
use crate::sys::Random;
use crate::types::{DeviceId, Incarnation, Key, Time, hex};
use std::sync::atomic::{AtomicU8, Ordering};
use zeroize::Zeroizing;

/// Counts up from 128 instead of being random.
struct Counting(AtomicU8);

impl Random for Counting {
    fn fill(&self, out: &mut [u8]) -> Result<()> {
        out.fill_with(|| self.0.fetch_add(1, Ordering::Relaxed));
        Ok(())
    }
}

fn counting() -> Counting {
    Counting(AtomicU8::new(128))
}

/// Drive id 00 01 …, realm id 10 11 …, admin's seed 20 21 …, first secret 40 41 …, second 60 61 ….
fn secrets() -> DriveSecrets {
    let bytes = |from: u8, len: u8| (from..from + len).collect::<Vec<u8>>();
    let parts = [bytes(0, 32), vec![2, 0, 0, 0], bytes(96, 32), bytes(64, 32), bytes(32, 32), vec![0; 12]];
    DriveSecrets::decode(&parts.concat()).unwrap()
}

fn short(bytes: &[u8]) -> String {
    hex(&blake3::hash(bytes).as_bytes()[..16])
}

#[test]
fn keys_of_a_realm() {
    let keys = secrets().realm_keys();
    assert_eq!(hex(keys.boundary_key()), "a46b52044ee9071740ce41cc7fa300c16a52389f3e06871e0888359e9ecd140d");
    assert_eq!(keys.name_hash(b"name"), 0x615b_e9f6_4cb8_40f9);
    assert_eq!(
        hex(&keys.source_hash(b"stream")),
        "a4a60fe5b476bb44eb483483764a9d1833d3e6f1c8f51ea1f2692bbca6f9c006"
    );
}

#[test]
fn sealed_objects() {
    let keys = secrets().realm_keys();
    let (ChunkRef { opening, .. }, stored) = keys.seal(Seal::Content, b"hello").unwrap();
    let Opening::Sealed { key, .. } = opening else { panic!() };
    assert_eq!(hex(&key.0), "c8cdc1d12039bcbf2253178a3af5870268cc2ec673a111f5ffd0ae7fe8d7bba5");
    assert_eq!(
        hex(&stored),
        "be4c728224fc5015fbab3fa1d7fe684221004f93cfc60c80a640ab07f969cc0c145cd21ec8aa4ef8f7a1a6521cab8a"
    );
    let (_, node) = keys.seal(Seal::Node, b"node").unwrap();
    assert_eq!(short(&node), "527d3f6a28e8ab6c24b6c60a0b58defd");
    let (commit, _) = keys.seal_commit(7, b"commit").unwrap();
    assert_eq!(hex(&commit.address.0[..16]), "055677b36dc4a0a245ed04fafec93ad2");
    assert_eq!(short(&keys.seal_head(7, b"header", b"payload").unwrap()), "942b648a60ff95eb32d0b44cef0f02ce");
    let run = seal(Seal::Index, keys.index_key(), &keys.realm(), b"place", b"run").unwrap();
    assert_eq!(short(&run), "fe8e2e5965a9ab487f9275ee9de44d30");
}

const FOREIGN: &str = "c5cde47c2f6b2053ea7cb8d21f30f651d25c6fb1d6f220a4ebe93e3dc6e1a844f9c28b44165c4e9f3034a8d4\
    49f88a601320a003dfe505f1349f20f07c8914a65708cdda72b4684c9bfcd673";

/// Compressed by another encoder, at its hardest.
#[test]
fn an_object_of_another_encoder() {
    let stored: Vec<u8> = FOREIGN
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    let opened = secrets().realm_keys().open_sealed(Seal::Content, &Key([9; 32]), &stored).unwrap();
    assert_eq!(opened, b"mother of pearl, ".repeat(40));
}

#[test]
fn key_slots() {
    let cheap = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
    let code = "0W3G-E1R7-0W3G-E1R7-0W3G-E1R7-0W3G-E1R7-0W3G-E1R7-0W3G-E1R7-0W3R-1M6A";
    for (secret, expected) in [
        (Secret::Passphrase(Zeroizing::new("correct horse".into())), "c940daa8fe0386fbfe2d1c804b3a46d1"),
        (Secret::from_key_file(&[7; 32]).unwrap(), "4782541b604dd90564246a6227fb904e"),
        (Secret::Recovery(RecoveryCode::parse(code).unwrap()), "b077d37862480772cabce7a5b39ac7d7"),
    ] {
        let now = Time { sec: 1_800_000_000, nsec: 5 };
        let slot = Slot::create(&secrets(), &secret, cheap, "label", now, &counting()).unwrap();
        assert_eq!(short(&slot.encode()), expected, "{secret:?}");
    }
    assert_eq!(RecoveryCode::parse(code).unwrap().to_text().as_str(), code);
}

#[test]
fn state_directory() {
    let keys = LocalKeys::generate(&secrets(), &counting()).unwrap();
    assert_eq!(short(&keys.wrap(&secrets()).unwrap()), "0a27ad02b56c26a613497ae4bb7b4930");
    let device = DeviceRecord {
        device: DeviceId([1; 16]),
        signing: SigningKey::from_bytes(&Key([2; 32])),
        number: 9,
        incarnation: Incarnation([3; 16]),
    };
    assert_eq!(short(&device.seal(&keys).unwrap()), "ebe68d14dd53c66ab93425dd25faaa2a");
    let memory = Memory { version: 77, head: [8; 32], base: (76, [7; 32]) };
    assert_eq!(short(&memory.seal(&keys).unwrap()), "e514d3c4513d649da7a104c06b391a47");
    assert_eq!(hex(&keys.cache_key().0[..16]), "7c84deec327a7124aaa68bdd8f8f3de4");
    assert_eq!(hex(&keys.index_key().0[..16]), "ca1a00dce20822dee6d8cd333acbd73b");
}

#[test]
fn signatures() {
    let signature = secrets().admin.sign(Signed::Device, b"message");
    assert_eq!(short(&signature), "893e90609cddde020194f251c428985f");
}
