//! The key slots of a store: each opens the drive's secrets for one passphrase, key file or recovery code.

use crate::crypt::DriveSecrets;
use crate::crypt::slot::{Secret, Slot};
use crate::error::{Context, Error, Kind, Result};
use crate::store::layout;
use crate::store::objects::{Objects, Race, create_verified};

/// The largest slot that is looked at, in bytes.
const MAX_SLOT: u64 = 64 << 10;

/// Puts a new slot in the store.
pub fn add(objects: &dyn Objects, slot: &Slot) -> Result<()> {
    match create_verified(objects, &layout::slot(&slot.id().0), &slot.encode().into())? {
        Race::Won => Ok(()),
        Race::Lost => Err(Error::new(Kind::Conflict, format!("there is a key slot {} already", slot.id()))),
    }
}

/// The key slots of a store, and the objects in their place that are none.
pub struct Slots {
    pub slots: Vec<Slot>,
    /// Names of objects, and what is wrong with them.
    pub bent: Vec<(String, Error)>,
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

/// The drive's secrets, by the first slot that the secret opens.
pub fn unlock(objects: &dyn Objects, secret: &Secret) -> Result<DriveSecrets> {
    let Slots { slots, bent } = list(objects)?;
    let mut refused = None;
    for slot in slots.iter().filter(|s| s.kind() == secret.kind()) {
        match slot.open(secret) {
            Ok(secrets) => return Ok(secrets),
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
            format!("the {what} is wrong: it opens none of the drive's key slots (tried: slots/{slot})"),
        ),
        None if slots.is_empty() => {
            Error::damage("the drive has no key slot left: restore slots/ from a backup")
        }
        None => Error::new(
            Kind::Secret,
            format!("the drive has no key slot for a {what}: see 'nacrefs key list'"),
        ),
    })
}
