//! Objects in memory: for the simulator and for tests. No threads, no runtime, nothing survives.

use super::objects::{Created, Objects, check_name};
use crate::error::{Error, Kind, Result};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// A store that lives as long as the value.
#[derive(Default)]
pub struct Memory {
    objects: Mutex<BTreeMap<String, Bytes>>,
}

impl Memory {
    pub fn new() -> Memory {
        Memory::default()
    }

    /// The store as it is now, in a value of its own.
    pub fn copy(&self) -> Memory {
        Memory { objects: Mutex::new(self.objects.lock().clone()) }
    }
}

impl Objects for Memory {
    fn get(&self, name: &str) -> Result<Bytes> {
        let missing = || Error::new(Kind::NotFound, format!("there is no {name} in the store"));
        self.objects.lock().get(name).cloned().ok_or_else(missing)
    }

    fn get_range(&self, name: &str, start: u64, len: usize) -> Result<Bytes> {
        let whole = self.get(name)?;
        match usize::try_from(start).ok().and_then(|s| Some(s..s.checked_add(len)?)) {
            Some(range) if range.end <= whole.len() => Ok(whole.slice(range)),
            _ => Err(too_short(name, start, len)),
        }
    }

    fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        check_name(name)?;
        self.objects.lock().insert(name.to_owned(), bytes);
        Ok(())
    }

    fn create(&self, name: &str, bytes: Bytes) -> Result<Created> {
        check_name(name)?;
        match self.objects.lock().entry(name.to_owned()) {
            Entry::Occupied(_) => Ok(Created::Exists),
            Entry::Vacant(at) => {
                at.insert(bytes);
                Ok(Created::Created)
            }
        }
    }

    fn list(&self, dir: &str) -> Result<Vec<String>> {
        let below = |name: &&String| {
            dir.is_empty() || name.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
        };
        Ok(self.objects.lock().keys().filter(below).cloned().collect())
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.objects.lock().remove(name);
        Ok(())
    }

    fn size(&self, name: &str) -> Result<u64> {
        Ok(self.get(name)?.len() as u64)
    }
}

/// The error of a range that an object does not have.
pub(super) fn too_short(name: &str, start: u64, len: usize) -> Error {
    Error::damage(format!("{name} is shorter than it must be: it has no {len} bytes at {start}"))
}
