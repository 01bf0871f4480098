//! Every purpose that a key is derived for: one constant context each, and no other way to derive a key.
//!
//! A context may never change or be reused: what is at rest hangs on it. docs/FORMAT.md lists them.

use crate::types::Key;

/// A purpose of derived keys: a context of BLAKE3's key derivation mode.
pub struct Domain(&'static str);

impl Domain {
    /// The key for this purpose from `material`, which is hashed as one string: each domain fixes the
    /// length of all of its parts, so that no two lists of parts run together.
    pub fn derive(&self, material: &[&[u8]]) -> Key {
        let mut hasher = blake3::Hasher::new_derive_key(self.0);
        for part in material {
            hasher.update(part);
        }
        Key(*hasher.finalize().as_bytes())
    }
}

macro_rules! domains {
    ($($(#[$doc:meta])* $name:ident = $context:literal;)*) => {
        $($(#[$doc])* pub const $name: Domain = Domain($context);)*

        #[cfg(test)]
        const ALL: &[&str] = &[$($context),*];
    };
}

domains! {
    /// From a seal's key: the cipher's key.
    SEAL_CIPHER = "nacre 2026 seal: cipher key";
    /// From a seal's key: the key of the hash that gives the nonce.
    SEAL_NONCE = "nacre 2026 seal: nonce key";

    /// From a realm's secret of an epoch, its id and the epoch (u32): the kind key of contents.
    REALM_CONTENT = "nacre 2026 realm: content kind key";
    /// From the same: the kind key of nodes.
    REALM_NODE = "nacre 2026 realm: node kind key";
    /// From the same: the kind key of commits.
    REALM_COMMIT = "nacre 2026 realm: commit kind key";
    /// From the same: the key that seals payloads of heads.
    REALM_HEAD = "nacre 2026 realm: head key";
    /// From the same: the key that seals index runs and pack footers.
    REALM_INDEX = "nacre 2026 realm: index key";
    /// From the content kind key: the key of source hashes.
    REALM_SOURCE = "nacre 2026 realm: source hash key";
    /// From a realm's first secret and its id: the key that decides node boundaries.
    REALM_BOUNDARY = "nacre 2026 realm: boundary key";
    /// From the same: the key that orders names in directories.
    REALM_NAME_HASH = "nacre 2026 realm: name-hash key";
    /// From the same: the key that vouches for the hint to the newest head.
    REALM_HINT = "nacre 2026 realm: hint key";

    /// From what argon2id gives (32 bytes): the key of a passphrase's slot.
    SLOT_PASSPHRASE = "nacre 2026 slot: passphrase";
    /// From a key file's 32 bytes and the slot's salt: the key of its slot.
    SLOT_KEY_FILE = "nacre 2026 slot: key file";
    /// From a recovery code's 32 bytes and the slot's salt: the key of its slot.
    SLOT_RECOVERY = "nacre 2026 slot: recovery code";
    /// From a recovery code's 32 bytes: its checksum, the first 3 bytes.
    RECOVERY_CHECKSUM = "nacre 2026 recovery code: checksum";

    /// From the drive secret of an epoch, the drive's id, its realm's id and the epoch (u32): the key
    /// that wraps a state directory's local key.
    STATE_WRAP = "nacre 2026 state: wrapping key";
    /// From the local key: the key that seals the state directory's records.
    STATE_RECORDS = "nacre 2026 state: record key";
    /// From the local key: the key that journal files' keys come from.
    STATE_JOURNAL = "nacre 2026 state: journal key";
    /// From the journal key: the key that seals the headers of its files.
    JOURNAL_HEADERS = "nacre 2026 journal: file headers";
    /// From the journal key: the key that the files' keys are hashed with.
    JOURNAL_FILES = "nacre 2026 journal: file keys";
    /// From the local key: the key of the disk cache.
    STATE_CACHE = "nacre 2026 state: cache key";
    /// From the disk cache's key: the key that hashes addresses to names.
    CACHE_NAMES = "nacre 2026 disk cache: names";
    /// From the disk cache's key: the key that seals chunks.
    CACHE_CHUNKS = "nacre 2026 disk cache: chunks";
    /// From the local key: the key of the local index.
    STATE_INDEX = "nacre 2026 state: index key";
    /// From the local index's key: the key that hashes addresses to names.
    LOCAL_INDEX_NAMES = "nacre 2026 local index: names";
    /// From the local index's key: the key that seals its values.
    LOCAL_INDEX_VALUES = "nacre 2026 local index: values";

    /// From the index key: the key of the padding between a pack's chunks and its footer.
    PACK_PADDING = "nacre 2026 pack: padding";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::fs;
    use std::path::Path;

    #[test]
    fn contexts_are_distinct_and_bear_our_name() {
        assert_eq!(ALL.iter().collect::<HashSet<_>>().len(), ALL.len());
        assert!(ALL.iter().all(|c| c.starts_with("nacre 2026 ")));
    }

    #[test]
    fn derivation_is_blake3s_own_over_the_joined_parts() {
        assert_eq!(SEAL_NONCE.derive(&[b"ab", b"c"]).0, blake3::derive_key(SEAL_NONCE.0, b"abc"));
        assert_ne!(SEAL_NONCE.derive(&[b"abc"]), SEAL_CIPHER.derive(&[b"abc"]));
    }

    /// TRUST 1.5: every context is in this one file.
    #[test]
    fn no_other_file_has_a_context_of_its_own() {
        fn visit(dir: &Path) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    visit(&path);
                } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("domains.rs") {
                    let text = fs::read_to_string(&path).unwrap();
                    assert!(!text.contains("\"nacre 2026"), "{} has a context of its own", path.display());
                }
            }
        }
        visit(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    }
}
