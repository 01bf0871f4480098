//! The drive's parameters, and the features that its format uses (docs/FORMAT.md, "The commit object"). They stand
//! in signed commits only: nothing that is not authenticated steers.

use crate::error::{Error, Result};
use crate::wire::{Reader, Writer};
use std::collections::BTreeMap;

/// A compatible feature: the counts are estimates, for a version was made while some of the history could not be read.
const ESTIMATED_COUNTS: u64 = 1;

/// Features that this build can read, and can write. None are defined yet.
const KNOWN_READ_COMPATIBLE: u64 = 0;
const KNOWN_INCOMPATIBLE: u64 = 0;

/// What the drive was made with. Parameters that this build does not know are kept as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// Features that a build which does not know them may ignore.
    pub compatible: u64,
    /// Features that a build which does not know them may read past, but must not write to.
    pub read_compatible: u64,
    /// Features that a build must know to read the drive at all.
    pub incompatible: u64,
    values: BTreeMap<u64, u64>,
}

/// Parameters by number; each is one integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Parameter {
    /// Bytes of a file's segments.
    SegmentSize = 1,
}

impl Parameters {
    pub fn get(&self, parameter: Parameter) -> Option<u64> {
        self.values.get(&(parameter as u64)).copied()
    }

    pub fn set(&mut self, parameter: Parameter, value: u64) {
        self.values.insert(parameter as u64, value);
    }

    /// Whether the counts of the drive are estimates.
    pub fn has_estimated_counts(&self) -> bool {
        self.compatible & ESTIMATED_COUNTS != 0
    }

    /// From here on, the counts of the drive are estimates.
    pub fn estimate_counts(&mut self) {
        self.compatible |= ESTIMATED_COUNTS;
    }

    /// Refuses a drive that only a newer version may write to.
    pub fn check_writable(&self) -> Result<()> {
        match self.read_compatible & !KNOWN_READ_COMPATIBLE {
            0 => Ok(()),
            unknown => Err(Error::failed(format!(
                "this drive uses features (read-compatible {unknown:#x}) of a newer version of nacrefs: it can be \
                 read but not changed; mount it with -o ro, or upgrade nacrefs"
            ))),
        }
    }

    pub(super) fn put(&self, w: &mut Writer) {
        w.var(self.compatible).var(self.read_compatible).var(self.incompatible);
        w.var(self.values.len() as u64);
        for (id, value) in &self.values {
            w.var(*id).var(*value);
        }
    }

    /// Refuses a drive that only a newer version can read, before anything else of it is looked at.
    pub(super) fn get_from(r: &mut Reader) -> Result<Parameters> {
        let (compatible, read_compatible, incompatible) = (r.var()?, r.var()?, r.var()?);
        let unknown = incompatible & !KNOWN_INCOMPATIBLE;
        if unknown != 0 {
            return Err(Error::failed(format!(
                "this drive uses features (incompatible {unknown:#x}) of a newer version of nacrefs: upgrade nacrefs"
            )));
        }
        let mut values = BTreeMap::new();
        for _ in 0..r.count(2)? {
            let (id, value) = (r.var()?, r.var()?);
            if values.last_key_value().is_some_and(|(last, _)| *last >= id) {
                return Err(r.bad("parameters are not in order"));
            }
            values.insert(id, value);
        }
        Ok(Parameters { compatible, read_compatible, incompatible, values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn bytes(p: &Parameters) -> Vec<u8> {
        let mut w = Writer::new();
        p.put(&mut w);
        w.into_vec()
    }

    #[test]
    fn parameters_come_back_with_those_that_are_not_known() {
        let mut p = Parameters { compatible: 1 << 40, ..Parameters::default() };
        p.set(Parameter::SegmentSize, 1 << 20);
        p.values.insert(900, 7);
        let bytes = bytes(&p);
        let mut r = Reader::new(&bytes, "t");
        let back = Parameters::get_from(&mut r).unwrap();
        r.end().unwrap();
        assert_eq!(back, p);
        assert_eq!(back.get(Parameter::SegmentSize), Some(1 << 20));
        back.check_writable().unwrap();
    }

    #[test]
    fn features_of_a_newer_version_are_refused_by_name() {
        let p = Parameters { incompatible: 4, ..Parameters::default() };
        let e = Parameters::get_from(&mut Reader::new(&bytes(&p), "t")).unwrap_err();
        assert_eq!(e.kind(), Kind::Failed);
        assert!(e.to_string().contains("0x4") && e.to_string().contains("upgrade"), "{e}");

        let p = Parameters { read_compatible: 2, ..Parameters::default() };
        let back = Parameters::get_from(&mut Reader::new(&bytes(&p), "t")).unwrap();
        assert!(back.check_writable().unwrap_err().to_string().contains("-o ro"));
    }

    #[test]
    fn parameters_out_of_order_are_refused() {
        for bad in [&[0, 0, 0, 2, 2, 0, 1, 0][..], &[0, 0, 0, 2, 1, 0, 1, 0], &[0, 0, 0, 9, 1, 0]] {
            assert!(Parameters::get_from(&mut Reader::new(bad, "t")).is_err());
        }
    }
}
