//! What a store is to us: named immutable bytes, created only if absent, and nothing more.
//!
//! Every backend answers through [`Objects`], synchronously. A name is a relative path of ASCII letters,
//! digits, `.`, `-` and `_`, with `/` between its parts.

use crate::error::{Error, Kind, Result};
use crate::sys::{Random, random};
use crate::types::hex;
use bytes::Bytes;

/// The largest object that is ever read whole (1 GiB): a bound on what a hostile store can make us hold.
pub const MAX_OBJECT: u64 = 1 << 30;

/// What became of a create-if-absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    Created,
    /// The store says that the name is taken. **This never proves that somebody else took it**: a client
    /// that sends again after a lost reply meets its own object. Use [`create_verified`].
    Exists,
}

/// A store of objects.
///
/// Errors have one of these kinds: `NotFound`, `Away` (worth trying again), `NoSpace`, `Damage` (the object
/// is not as long as it must be), `Failed`. After an error of `put` or `create` it is unknown whether the
/// object is there, or will be.
///
/// When `put` or `create` return success the object survives a power cut of the store.
pub trait Objects: Send + Sync {
    /// The whole object, which may not be longer than [`MAX_OBJECT`].
    fn get(&self, name: &str) -> Result<Bytes>;
    /// Exactly `len` bytes from `start`; `Damage` where the object ends before.
    fn get_range(&self, name: &str, start: u64, len: usize) -> Result<Bytes>;
    /// Puts an object, over whatever had the name.
    fn put(&self, name: &str, bytes: Bytes) -> Result<()>;
    /// Puts an object where nothing has the name. Of many creators at once, one succeeds.
    fn create(&self, name: &str, bytes: Bytes) -> Result<Created>;
    /// The names of all objects below a directory (`""`: of all), in any order.
    fn list(&self, dir: &str) -> Result<Vec<String>>;
    /// The names in a directory of objects, none of which is a directory, that come after `name` as bytes sort; in any
    /// order, perhaps with some of what is no object.
    fn list_after(&self, dir: &str, name: &str) -> Result<Vec<String>> {
        let mut names = self.list(dir)?;
        names.retain(|n| n.as_str() > name);
        Ok(names)
    }
    /// Deletes an object. That there is none is no error.
    fn delete(&self, name: &str) -> Result<()>;
    /// The object's size in bytes.
    fn size(&self, name: &str) -> Result<u64>;
    /// Whether an object has its name in the store still, and is the one that reads of it give: a store may go on reading
    /// what it has open, or has kept.
    fn is_there(&self, name: &str) -> Result<bool> {
        match self.size(name) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == Kind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }
    /// Makes durable what is true of a name now: that an object is there, found after `create` or `put` had failed,
    /// or that it is deleted.
    fn settle(&self, _name: &str) -> Result<()> {
        Ok(())
    }
}

/// Who took a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Race {
    Won,
    Lost,
}

/// Create-if-absent, with the doubt taken out: whatever the store answers, the object is read back and
/// compared. The bytes must be such that nobody else writes the same.
///
/// After an error it is unknown whether the object will come to be: try again with the same bytes.
pub fn create_verified(objects: &dyn Objects, name: &str, bytes: &Bytes) -> Result<Race> {
    // "Exists" with nothing there is how some stores answer two creates at once: then ask again.
    for _ in 0..3 {
        let doubt = match objects.create(name, bytes.clone()) {
            Ok(Created::Created) => return Ok(Race::Won),
            Ok(Created::Exists) => None,
            Err(e) => Some(e),
        };
        match (objects.get(name), doubt) {
            (Ok(there), _) if there == *bytes => {
                objects.settle(name)?;
                return Ok(Race::Won);
            }
            (Ok(_), _) => return Ok(Race::Lost),
            (Err(e), None) if e.kind() == Kind::NotFound => {}
            (Err(_), Some(doubt)) => return Err(doubt),
            (Err(e), None) => return Err(e),
        }
    }
    Err(Error::new(Kind::Away, format!("the store says that {name} exists, but does not have it")))
}

/// Refuses what is not a name.
pub fn check_name(name: &str) -> Result<()> {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
    let part = |p: &str| !p.is_empty() && p != "." && p != ".." && p.bytes().all(plain);
    if name.split('/').all(part) {
        Ok(())
    } else {
        Err(Error::failed(format!("{name:?} is not the name of an object")))
    }
}

/// Whether the store can be trusted with heads: creates one name twice, then races for another.
/// To be called when a store is first used.
pub fn probe(objects: &dyn Objects, source: &dyn Random) -> Result<()> {
    const RACERS: u8 = 8;
    let dir = format!("{}{}", super::layout::PROBE, hex(&random::<8>(source)?));
    let twice = format!("{dir}/twice");
    let race = format!("{dir}/race");
    let unfit = |what: &str| {
        Error::failed(format!(
            "this store cannot hold a drive: {what}; two machines could overwrite each other's versions"
        ))
    };
    let probed = (|| {
        let first = Bytes::from_static(b"first");
        if objects.create(&twice, first.clone())? != Created::Created {
            return Err(unfit("a new name is said to be taken"));
        }
        if objects.create(&twice, Bytes::from_static(b"second"))? != Created::Exists
            || objects.get(&twice)? != first
        {
            return Err(unfit("create-if-absent overwrites what is there"));
        }
        let winners = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..RACERS)
                .map(|n| {
                    let race = &race;
                    scope.spawn(move || create_verified(objects, race, &Bytes::from(vec![n; 64])))
                })
                .collect();
            racers
                .into_iter()
                .map(|r| r.join().unwrap_or_else(|_| Err(Error::failed("the probe of the store died"))))
                .collect::<Result<Vec<_>>>()
        })?;
        match winners.iter().filter(|w| **w == Race::Won).count() {
            1 => Ok(()),
            n => Err(unfit(&format!("of {RACERS} creators of one name at once, {n} were told they had won"))),
        }
    })();
    for name in [twice, race] {
        // Leftovers of a probe harm nobody.
        if let Err(e) = objects.delete(&name) {
            tracing::debug!("cannot delete {name} after probing the store: {}", e.chain());
        }
    }
    probed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside_the_store() {
        for good in ["nacre.json", "realms/0a/heads/00000000000000000001", "a/b-c_d.e"] {
            check_name(good).unwrap();
        }
        for bad in ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a b", "a\0", "é", "a#1", "a\\b"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
