//! The keys of a realm in one epoch: what they seal, open and hash (docs/FORMAT.md, Keys).
//!
//! Most objects have a key of their own, the keyed hash of their bytes, which only their pointers carry:
//! holding these keys does not open an object, and holding a pointer needs none of these keys.

use super::Seal;
use super::domains::{self, Domain};
use super::object;
use super::protect::Locked;
use super::seal::SealKey;
use crate::chunk::{ChunkRef, Sealer};
use crate::error::{Error, Result};
use crate::types::{Epoch, Key, RealmId, Version};
use std::fmt;

/// The keys of a realm in one key epoch.
pub struct RealmKeys {
    realm: RealmId,
    epoch: Epoch,
    keys: Locked<Keys>,
}

struct Keys {
    content: Key,
    node: Key,
    commit: Key,
    source: Key,
    head: SealKey,
    index: Key,
    boundary: Key,
    hint: Key,
    name_hash: Key,
}

impl RealmKeys {
    /// Derives the keys from the realm's secret of the epoch and, for what stays the same for the life of
    /// the realm, from its first secret.
    pub fn new(realm: RealmId, epoch: Epoch, secret: &Key, first: &Key) -> RealmKeys {
        let now = |domain: Domain| domain.derive(&[&secret.0, &realm.0, &epoch.to_le_bytes()]);
        let ever = |domain: Domain| domain.derive(&[&first.0, &realm.0]);
        let content = now(domains::REALM_CONTENT);
        let keys = Locked::new(Keys {
            source: domains::REALM_SOURCE.derive(&[&content.0]),
            content,
            node: now(domains::REALM_NODE),
            commit: now(domains::REALM_COMMIT),
            head: SealKey::new(&now(domains::REALM_HEAD)),
            index: now(domains::REALM_INDEX),
            boundary: ever(domains::REALM_BOUNDARY),
            hint: ever(domains::REALM_HINT),
            name_hash: ever(domains::REALM_NAME_HASH),
        });
        RealmKeys { realm, epoch, keys }
    }

    pub fn realm(&self) -> RealmId {
        self.realm
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What vouches for the hint to the newest head, for the life of the realm.
    pub fn hint_key(&self) -> &[u8; 32] {
        &self.keys.hint.0
    }

    /// Opens a content or node chunk with the key that its pointer carries. The chunk may be of any epoch.
    ///
    /// Fails with `Kind::Damage` for anything but what [`Sealer::seal`] writes for that kind. (Of a
    /// compressed object no single encoding can be demanded; it is bounded by the size that it declares,
    /// at most [`crate::types::MAX_CHUNK`], and all of it must be used.)
    pub fn open_sealed(&self, kind: Seal, key: &Key, stored: &[u8]) -> Result<Vec<u8>> {
        self.kind_key(kind)?;
        object::open(kind, key, &self.realm, b"", stored)
    }

    fn kind_key(&self, kind: Seal) -> Result<&Key> {
        match kind {
            Seal::Content => Ok(&self.keys.content),
            Seal::Node => Ok(&self.keys.node),
            _ => Err(Error::failed(format!("{kind:?} is not sealed as content or as a node"))),
        }
    }

    /// Seals a commit as one chunk, bound to its number.
    pub fn seal_commit(&self, version: Version, content: &[u8]) -> Result<(ChunkRef, Vec<u8>)> {
        object::seal(Seal::Commit, &self.keys.commit, &self.realm, &version.to_le_bytes(), content)
    }

    /// Opens the commit of that number, of any epoch, with the key that its head or its child carries.
    pub fn open_commit(&self, version: Version, key: &Key, stored: &[u8]) -> Result<Vec<u8>> {
        object::open(Seal::Commit, key, &self.realm, &version.to_le_bytes(), stored)
            .map_err(|e| e.context(format!("commit {version} cannot be read")))
    }

    /// Seals a head's payload, bound to the epoch, to the head's counter and to `header`: every field that
    /// the head shows in the clear, in the encoding that its signature covers.
    pub fn seal_head(&self, counter: Version, header: &[u8], payload: &[u8]) -> Result<Vec<u8>> {
        self.keys.head.seal(Seal::Head, &self.realm, &self.head_ad(counter, header), payload)
    }

    /// Opens a head's payload, sealed in this epoch under the same counter and header.
    pub fn open_head(&self, counter: Version, header: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
        self.keys
            .head
            .open(Seal::Head, &self.realm, &self.head_ad(counter, header), sealed)
            .map_err(|e| e.context(format!("head {counter} cannot be opened")))
    }

    fn head_ad(&self, counter: Version, header: &[u8]) -> Vec<u8> {
        [&self.epoch.to_le_bytes(), counter.to_le_bytes().as_slice(), header].concat()
    }

    /// The key of index runs and pack footers, for the store.
    pub fn index_key(&self) -> &Key {
        &self.keys.index
    }

    /// Where a name stands in its directory: 63 bits of its keyed hash, the same for the realm's life. It is 3 at
    /// least: the positions below are those of the start, `.` and `..` in a listing.
    pub fn name_hash(&self, name: &[u8]) -> u64 {
        let hash = blake3::keyed_hash(&self.keys.name_hash.0, name);
        hash.as_bytes().first_chunk().map_or(0, |first| u64::from_le_bytes(*first) & (u64::MAX >> 1)).max(3)
    }
}

impl Sealer for RealmKeys {
    /// Seals content or a node. A commit has a number: [`RealmKeys::seal_commit`].
    fn seal(&self, kind: Seal, content: &[u8]) -> Result<(ChunkRef, Vec<u8>)> {
        object::seal(kind, self.kind_key(kind)?, &self.realm, b"", content)
    }

    fn source_hash(&self, encoded: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.keys.source.0, encoded).as_bytes()
    }

    fn boundary_key(&self) -> &[u8; 32] {
        &self.keys.boundary.0
    }
}

impl fmt::Debug for RealmKeys {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "RealmKeys({} epoch {})", self.realm, self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::Opening;
    use crate::error::Kind;
    use crate::types::Address;

    const REALM: RealmId = RealmId([1; 16]);

    fn epoch(n: Epoch, secret: u8) -> RealmKeys {
        RealmKeys::new(REALM, n, &Key([secret; 32]), &Key([2; 32]))
    }

    fn key_of(chunk: &ChunkRef) -> &Key {
        match &chunk.opening {
            Opening::Sealed { key, .. } => key,
            other => panic!("{other:?}"),
        }
    }

    /// TRUST 1.5: nodes and chunks are bound to no version: equal ones are shared.
    #[test]
    fn equal_objects_give_equal_chunks() {
        let (keys, again) = (epoch(1, 2), epoch(1, 2));
        assert_eq!(keys.seal(Seal::Node, b"node").unwrap(), again.seal(Seal::Node, b"node").unwrap());
        let (node, stored) = keys.seal(Seal::Node, b"node").unwrap();
        assert_eq!(node.address, Address::of(&stored));
        assert_ne!(node, keys.seal(Seal::Node, b"edon").unwrap().0);
        let (content, _) = keys.seal(Seal::Content, b"node").unwrap();
        assert_ne!((node.address, key_of(&node)), (content.address, key_of(&content)));
    }

    /// TRUST 1.5: nothing stands in for another kind, nor for a thing of another realm.
    #[test]
    fn a_chunk_opens_only_as_what_it_is() {
        let keys = epoch(1, 2);
        let (chunk, stored) = keys.seal(Seal::Content, b"content").unwrap();
        let key = key_of(&chunk);
        assert_eq!(keys.open_sealed(Seal::Content, key, &stored).unwrap(), b"content");
        assert_eq!(keys.open_sealed(Seal::Node, key, &stored).unwrap_err().kind(), Kind::Damage);
        let other = RealmKeys::new(RealmId([9; 16]), 1, &Key([2; 32]), &Key([2; 32]));
        assert!(other.open_sealed(Seal::Content, key, &stored).is_err());
        for at in 0..stored.len() {
            let mut bent = stored.clone();
            bent[at] ^= 1;
            let e = keys.open_sealed(Seal::Content, key, &bent).unwrap_err();
            assert!(e.chain().contains(&Address::of(&bent).to_string()), "{e}");
        }
    }

    /// TRUST 2: key rotation changes what follows; what is for life stays; older chunks still open.
    #[test]
    fn epochs_share_what_is_for_life_and_nothing_else() {
        let (old, new) = (epoch(1, 2), epoch(2, 3));
        assert_eq!(old.boundary_key(), new.boundary_key());
        assert_eq!(old.name_hash(b"a"), new.name_hash(b"a"));
        assert_ne!(old.source_hash(b"a"), new.source_hash(b"a"));
        let (chunk, stored) = old.seal(Seal::Node, b"x").unwrap();
        assert_ne!(chunk, new.seal(Seal::Node, b"x").unwrap().0);
        assert_eq!(new.open_sealed(Seal::Node, key_of(&chunk), &stored).unwrap(), b"x");
        let head = old.seal_head(1, b"", b"payload").unwrap();
        assert!(new.open_head(1, b"", &head).is_err());
        assert_ne!(old.index_key(), new.index_key());
        // The epoch counts even where the secret is the same.
        assert_ne!(epoch(1, 2).source_hash(b"a"), epoch(2, 2).source_hash(b"a"));
    }

    /// TRUST 1.5, 3: heads and commits are bound to their number, heads to their header and epoch too.
    #[test]
    fn heads_and_commits_are_bound_to_their_number() {
        let keys = epoch(1, 2);
        let head = keys.seal_head(7, b"header", b"payload").unwrap();
        assert_eq!(keys.open_head(7, b"header", &head).unwrap(), b"payload");
        assert!(keys.open_head(8, b"header", &head).is_err());
        assert!(keys.open_head(7, b"Header", &head).is_err());
        assert_ne!(epoch(1, 2).head_ad(7, b"h"), epoch(2, 2).head_ad(7, b"h"));

        let (commit, stored) = keys.seal_commit(7, b"commit").unwrap();
        assert_eq!(keys.open_commit(7, key_of(&commit), &stored).unwrap(), b"commit");
        assert!(keys.open_commit(8, key_of(&commit), &stored).is_err());
        assert!(keys.seal(Seal::Commit, b"commit").is_err());
    }

    /// TRUST 1.1: the source hash is keyed, and of the encoded bytes as they are.
    #[test]
    fn source_hashes_are_keyed() {
        let keys = epoch(1, 2);
        assert_ne!(keys.source_hash(b"stream"), *blake3::hash(b"stream").as_bytes());
        assert_ne!(
            keys.source_hash(b"stream"),
            *blake3::keyed_hash(&keys.keys.content.0, b"stream").as_bytes()
        );
        assert_ne!(keys.source_hash(b"stream"), keys.source_hash(b"Stream"));
    }

    /// TRUST 1.8: which names stand where hangs on a key; the top bit is free.
    #[test]
    fn name_hashes_are_keyed_and_of_63_bits() {
        let keys = epoch(1, 2);
        let other = RealmKeys::new(REALM, 1, &Key([2; 32]), &Key([3; 32]));
        assert_ne!(keys.name_hash(b"a"), other.name_hash(b"a"));
        assert_ne!(keys.boundary_key(), other.boundary_key());
        assert!((0..200u32).all(|i| keys.name_hash(&i.to_le_bytes()) < 1 << 63));
        assert!((0..200u32).any(|i| keys.name_hash(&i.to_le_bytes()) >= 1 << 62));
    }

    /// TRUST 2: never logged.
    #[test]
    fn debugging_shows_no_secret() {
        assert_eq!(format!("{:?}", epoch(4, 2)), format!("RealmKeys({REALM} epoch 4)"));
        assert!(!format!("{:?}", epoch(4, 2).seal(Seal::Node, b"x").unwrap().0.opening).contains('['));
    }
}
