//! Watches that no key and nonce ever meets two messages, for tests; no release build has it.
//!
//! Everything that encrypts tells it ([`tell`]) of each key, nonce, associated data and message. It listens while
//! a test holds a [`Watch`], to all threads of the process.

use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};

/// 128 bits of BLAKE3: what was seen is many, and no adversary chooses it.
type Short = [u8; 16];

#[derive(Default)]
struct Seen {
    /// The message of each key and nonce.
    messages: HashMap<Short, Short>,
    /// How many pairs there were of each kind.
    counts: BTreeMap<String, u64>,
    clashes: Vec<String>,
}

static SEEN: Mutex<Option<Seen>> = Mutex::new(None);

/// Listens until it is dropped. There can be one at a time.
pub struct Watch(());

impl Watch {
    pub fn start() -> Watch {
        let before = SEEN.lock().replace(Seen::default());
        assert!(before.is_none(), "the witness listens to somebody else already");
        Watch(())
    }

    /// How many pairs of key and nonce there were of each kind of message. Panics if one met two messages, also where
    /// that panic was caught by somebody.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let seen = SEEN.lock();
        // A watch listens until it is dropped.
        let Some(seen) = seen.as_ref() else { return BTreeMap::new() };
        assert!(seen.clashes.is_empty(), "{:?}", seen.clashes);
        seen.counts.clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        *SEEN.lock() = None;
    }
}

fn short(parts: &[&[u8]]) -> Short {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    let mut short = [0; 16];
    hasher.finalize_xof().fill(&mut short);
    short
}

/// To be called for each encryption, with something that stands for the key as it is or is derived from it alone.
/// Panics if this key and nonce has met another message.
pub(super) fn tell(kind: impl std::fmt::Debug, key: &[u8], nonce: &[u8], ad: &[u8], message: &[u8]) {
    if SEEN.lock().is_none() {
        return;
    }
    let (pair, message) = (short(&[key, nonce]), short(&[ad, message]));
    let mut seen = SEEN.lock();
    let Some(seen) = &mut *seen else { return };
    match seen.messages.insert(pair, message) {
        None => *seen.counts.entry(format!("{kind:?}")).or_default() += 1,
        Some(before) if before == message => {}
        Some(_) => {
            let clash = format!("{kind:?}: a key and nonce met two messages");
            seen.clashes.push(clash.clone());
            panic!("{clash}");
        }
    }
}
