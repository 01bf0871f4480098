//! The key slots of a store: each opens the drive's secrets for one passphrase, key file or recovery code.
//!
//! Adding, changing and removing slots only wraps the same secrets anew: nothing else in the store is touched, and
//! whoever had the secrets before keeps them.

mod removal;
pub use removal::remove;

use crate::crypt::DriveSecrets;
use crate::crypt::slot::{Secret, Slot};
use crate::error::{Context, Error, Kind, Result};
use crate::store::layout;
use crate::store::objects::{Objects, Race, create_verified};

/// The largest slot that is looked at, in bytes.
const MAX_SLOT: u64 = 64 << 10;
/// The least number of digits that a slot is named by.
const MIN_PREFIX: usize = 4;

/// Puts a new slot in the store. It is there, durably and as it must be, when this returns.
pub fn add(objects: &dyn Objects, slot: &Slot) -> Result<()> {
    let (name, bytes) = (layout::slot(&slot.id().0), slot.encode());
    match create_verified(objects, &name, &bytes.clone().into())? {
        Race::Lost => Err(Error::new(Kind::Conflict, format!("there is a key slot {} already", slot.id()))),
        // Another slot may be removed for this one's sake.
        Race::Won if objects.get(&name)? == bytes => Ok(()),
        Race::Won => Err(Error::damage(format!("the store does not give {name} back as it was written"))),
    }
}

/// The key slots of a store, and the objects in their place that are none.
pub struct Slots {
    pub slots: Vec<Slot>,
    /// Names of objects, and what is wrong with them.
    pub bent: Vec<(String, Error)>,
}

impl Slots {
    /// Whether an object has the name of a slot; any other in their place is somebody else's file.
    pub fn is_ours(name: &str) -> bool {
        let id = name.strip_prefix(layout::SLOTS).and_then(|rest| rest.strip_prefix('/'));
        id.is_some_and(|id| id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
    }

    /// The object of the one slot whose id begins with these digits; it may be a damaged one.
    pub fn find(&self, id: &str) -> Result<String> {
        let usage = |why: String| Err(Error::new(Kind::Usage, why));
        let id = id.to_ascii_lowercase();
        if id.len() < MIN_PREFIX || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return usage(format!(
                "{id:?} is not the id of a key slot: it is {MIN_PREFIX} or more of the digits that 'nacrefs key list' \
                 shows"
            ));
        }
        let sound = self.slots.iter().map(|s| layout::slot(&s.id().0));
        let all = sound.chain(self.bent.iter().map(|(name, _)| name.clone()));
        let prefix = format!("{}/{id}", layout::SLOTS);
        let mut found = all.filter(|name| name.starts_with(&prefix));
        match (found.next(), found.next()) {
            (Some(name), None) => Ok(name),
            (Some(_), Some(_)) => usage(format!("several key slots begin with {id}: give more digits")),
            (None, _) => usage(format!("there is no key slot {id}: see 'nacrefs key list'")),
        }
    }
}

/// All slots. What is no slot is told in the log and passed over, so that one bent slot does not lock out the
/// holders of the others.
pub fn list(objects: &dyn Objects) -> Result<Slots> {
    let (mut slots, mut bent) = (Vec::new(), Vec::new());
    for name in objects.list(layout::SLOTS).context(|| "cannot list the key slots")? {
        let read = || {
            if objects.size(&name)? > MAX_SLOT {
                return Err(Error::damage("too large to be a key slot"));
            }
            let slot = Slot::decode(&objects.get(&name)?)?;
            if layout::slot(&slot.id().0) != name {
                return Err(Error::damage("its name is another slot's"));
            }
            Ok(slot)
        };
        match read() {
            Ok(slot) => slots.push(slot),
            // Somebody has removed it since it was listed.
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) if e.kind() == Kind::Away => return Err(e),
            Err(e) => {
                tracing::warn!("{name} is not a key slot: {}", e.chain());
                bent.push((name, e));
            }
        }
    }
    slots.sort_by_key(|s| (s.created(), s.id()));
    Ok(Slots { slots, bent })
}

/// The drive's secrets, and the first slot that the secret opens.
pub fn unlock(objects: &dyn Objects, secret: &Secret) -> Result<(DriveSecrets, Slot)> {
    let Slots { slots, bent } = list(objects)?;
    let mut refused = None;
    let mut kinds: Vec<String> = slots.iter().map(|s| format!("a {}", s.kind())).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for slot in slots.into_iter().filter(|s| s.kind() == secret.kind()) {
        match slot.open(secret) {
            Ok(secrets) => return Ok((secrets, slot)),
            Err(e) if e.kind() == Kind::Secret => refused = Some(slot.id()),
            Err(e) => return Err(e),
        }
    }
    let what = secret.kind();
    if let Some((name, e)) = bent.into_iter().next() {
        return Err(Error::damage(format!(
            "the {what} opens none of the drive's key slots, and {name} is damaged: restore it from a backup, or use \
             another passphrase, key file or recovery code: {e}"
        )));
    }
    Err(match refused {
        // What is sealed in a slot, when damaged, cannot be told from a wrong secret.
        Some(slot) => Error::new(
            Kind::Secret,
            format!(
                "the {what} is wrong, or its slot is damaged: it opens none of the drive's key slots (tried: slots/{slot})"
            ),
        ),
        None if kinds.is_empty() => {
            Error::damage("the drive has no key slot left: restore slots/ from a backup")
        }
        None => Error::new(
            Kind::Secret,
            format!("the drive has no key slot for a {what}: it is opened by {}", kinds.join(" or ")),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypt::KdfParams;
    use crate::store::memory::Memory;
    use crate::store::objects::Created;
    use crate::sys::SystemRandom;
    use crate::types::{Key, Time};
    use bytes::Bytes;

    pub(super) fn slot(secrets: &DriveSecrets, key: u8) -> Slot {
        let secret = Secret::KeyFile(Key([key; 32]));
        let now = Time { sec: key.into(), nsec: 0 };
        Slot::create(secrets, &secret, KdfParams::default(), "", now, &SystemRandom).unwrap()
    }

    /// A store in which somebody removes a slot just after it was listed.
    struct Removing(Memory);

    impl Objects for Removing {
        fn get(&self, name: &str) -> Result<Bytes> {
            self.0.get(name)
        }
        fn get_range(&self, name: &str, start: u64, len: usize) -> Result<Bytes> {
            self.0.get_range(name, start, len)
        }
        fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
            self.0.put(name, bytes)
        }
        fn create(&self, name: &str, bytes: Bytes) -> Result<Created> {
            self.0.create(name, bytes)
        }
        fn list(&self, dir: &str) -> Result<Vec<String>> {
            let gone = layout::slot(&[7; 16]);
            self.0.list(dir).map(|names| names.into_iter().chain([gone]).collect())
        }
        fn delete(&self, name: &str) -> Result<()> {
            self.0.delete(name)
        }
        fn size(&self, name: &str) -> Result<u64> {
            self.0.size(name)
        }
    }

    #[test]
    fn a_slot_that_is_removed_while_it_is_looked_for_is_no_damage() {
        let store = Removing(Memory::new());
        let secrets = DriveSecrets::generate(&SystemRandom).unwrap();
        add(&store, &slot(&secrets, 1)).unwrap();
        let all = list(&store).unwrap();
        assert_eq!((all.slots.len(), all.bent.len()), (1, 0));
        let refused = unlock(&store, &Secret::KeyFile(Key([9; 32]))).err().unwrap();
        assert_eq!(refused.kind(), Kind::Secret);
    }

    #[test]
    fn a_slot_is_found_by_its_first_digits_and_can_be_removed_even_if_damaged() {
        let store = Memory::new();
        let secrets = DriveSecrets::generate(&SystemRandom).unwrap();
        let (one, two) = (slot(&secrets, 1), slot(&secrets, 2));
        add(&store, &one).unwrap();
        add(&store, &two).unwrap();
        assert_eq!(add(&store, &one).map_err(|e| e.kind()), Ok(()));
        assert!(Slots::is_ours(&layout::slot(&one.id().0)) && !Slots::is_ours("slots/ffff0000bent"));
        store.put("slots/ffff0000bent", "x".into()).unwrap();
        store.put("slots/ffff0001bent", "x".into()).unwrap();
        let all = list(&store).unwrap();
        assert_eq!((all.slots.len(), all.bent.len()), (2, 2));
        let id = two.id().to_string();
        assert_eq!(all.find(&id).unwrap(), layout::slot(&two.id().0));
        assert_eq!(all.find(&id[..12].to_uppercase()).unwrap(), layout::slot(&two.id().0));
        assert_eq!(all.find("ffff0001").unwrap(), "slots/ffff0001bent");
        for (bad, why) in [
            ("ffff000", "several"),
            ("abc", "not the id"),
            ("../x", "not the id"),
            ("0123456789abcdef0", "no key slot"),
        ] {
            let e = all.find(bad).unwrap_err();
            assert!(e.kind() == Kind::Usage && e.to_string().contains(why), "{e}");
        }
        remove(&store, &all.find("ffff0001").unwrap(), Some(&one), &SystemRandom).unwrap();
        remove(&store, &all.find(&id).unwrap(), Some(&one), &SystemRandom).unwrap();
        let left = list(&store).unwrap();
        assert_eq!((left.slots.len(), left.bent.len()), (1, 1));
        let opened = unlock(&store, &Secret::KeyFile(Key([1; 32]))).unwrap();
        assert_eq!((opened.0.drive, opened.1.id()), (secrets.drive, one.id()));
    }
}
