//! Seals of known keys: what the store, the disk or another device of the drive could hand us behind a seal.

use nacrefs::crypt::{RealmKeys, Seal, seal};
use nacrefs::store::IndexKeys;
use nacrefs::types::{Key, RealmId};
use std::sync::LazyLock;

pub const REALM: RealmId = RealmId([0x52; 16]);
pub const KEY: Key = Key([0x4b; 32]);
/// Of what is sealed under keys by epochs.
pub const EPOCH: u32 = 1;

/// The keys of the realm, which only trees and content need.
pub fn realm_keys() -> &'static RealmKeys {
    static KEYS: LazyLock<RealmKeys> = LazyLock::new(|| RealmKeys::new(REALM, EPOCH, &KEY, &KEY));
    &KEYS
}

/// What index runs and packs are sealed under.
pub fn index_keys() -> IndexKeys {
    IndexKeys::new(REALM, EPOCH, KEY)
}

/// Seals a message under [`KEY`].
pub fn sealed(kind: Seal, ad: &[u8], message: &[u8]) -> Vec<u8> {
    seal(kind, &KEY, &REALM, ad, message).expect("a short message can be sealed")
}
