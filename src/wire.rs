//! How values become bytes at rest (docs/FORMAT.md): little-endian, hand-specified, canonical.
//!
//! A value has exactly one encoding: variable-length integers (LEB128) must be minimal, and a decoder
//! must end exactly at the end of its input. Decoders are for hostile input: they never panic, and
//! never reserve memory for more than the bytes that follow can hold.

use crate::error::{Error, Result};

/// Writes values one after another.
#[derive(Default)]
pub struct Writer {
    buf: Vec<u8>,
}

impl Writer {
    pub fn new() -> Writer {
        Writer::default()
    }

    pub fn with_capacity(bytes: usize) -> Writer {
        Writer { buf: Vec::with_capacity(bytes) }
    }

    pub fn u8(&mut self, v: u8) -> &mut Self {
        self.buf.push(v);
        self
    }

    pub fn u16(&mut self, v: u16) -> &mut Self {
        self.raw(&v.to_le_bytes())
    }

    pub fn u32(&mut self, v: u32) -> &mut Self {
        self.raw(&v.to_le_bytes())
    }

    pub fn u64(&mut self, v: u64) -> &mut Self {
        self.raw(&v.to_le_bytes())
    }

    /// An unsigned LEB128 integer, in as few bytes as it needs (1 to 10).
    pub fn var(&mut self, mut v: u64) -> &mut Self {
        while v >= 0x80 {
            self.buf.push(v as u8 | 0x80);
            v >>= 7;
        }
        self.buf.push(v as u8);
        self
    }

    /// A signed integer: zigzag, then LEB128.
    pub fn ivar(&mut self, v: i64) -> &mut Self {
        self.var((v << 1 ^ v >> 63) as u64)
    }

    /// Bytes as they are; the reader must know how many.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.buf.extend_from_slice(bytes);
        self
    }

    /// The length as LEB128, then the bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.var(bytes.len() as u64).raw(bytes)
    }

    pub fn len(&self) -> usize {
        self.buf.len()
    }

    pub fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.buf
    }

    pub fn into_vec(self) -> Vec<u8> {
        self.buf
    }
}

/// Reads what [`Writer`] wrote; `what` names the thing in errors.
pub struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8], what: &'static str) -> Reader<'a> {
        Reader { rest: bytes, what }
    }

    /// An error that names the thing being read.
    pub fn bad(&self, why: &str) -> Error {
        Error::damage(format!("{}: {why}", self.what))
    }

    pub fn raw(&mut self, n: usize) -> Result<&'a [u8]> {
        match self.rest.split_at_checked(n) {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(head)
            }
            None => Err(self.bad("ends too early")),
        }
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        match self.rest.split_first_chunk() {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(*head)
            }
            None => Err(self.bad("ends too early")),
        }
    }

    pub fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn var(&mut self) -> Result<u64> {
        let mut v = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let low = u64::from(byte & 0x7f);
            if shift == 63 && low > 1 {
                break;
            }
            v |= low << shift;
            if byte & 0x80 == 0 {
                return if byte == 0 && shift > 0 { Err(self.bad("integer is not minimal")) } else { Ok(v) };
            }
        }
        Err(self.bad("integer is over 64 bits"))
    }

    pub fn var32(&mut self) -> Result<u32> {
        u32::try_from(self.var()?).map_err(|_| self.bad("integer is over 32 bits"))
    }

    pub fn ivar(&mut self) -> Result<i64> {
        let v = self.var()?;
        Ok((v >> 1) as i64 ^ -((v & 1) as i64))
    }

    /// A count of things that take at least `least` bytes each: refused when they cannot follow.
    pub fn count(&mut self, least: usize) -> Result<usize> {
        let n = self.var()?;
        if n > (self.rest.len() / least.max(1)) as u64 {
            return Err(self.bad("counts more than the bytes that follow"));
        }
        Ok(n as usize)
    }

    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        let n = self.count(1)?;
        self.raw(n)
    }

    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Demands that everything was read.
    pub fn end(self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.bad("has bytes left over")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn integers_come_back(a: u64, b: i64, c in 0u64..300) {
            let mut w = Writer::new();
            w.var(a).ivar(b).var(c).u64(a);
            let mut r = Reader::new(w.as_slice(), "t");
            prop_assert_eq!((r.var()?, r.ivar()?, r.var()?, r.u64()?), (a, b, c, a));
            r.end()?;
        }

        #[test]
        fn an_integer_that_is_read_is_the_only_encoding(bytes in proptest::collection::vec(any::<u8>(), 1..12)) {
            let mut r = Reader::new(&bytes, "t");
            if let Ok(v) = r.var() {
                let mut w = Writer::new();
                w.var(v);
                prop_assert_eq!(w.as_slice(), &bytes[..bytes.len() - r.rest().len()]);
            }
        }
    }

    #[test]
    fn counts_that_cannot_follow_are_refused() {
        let mut w = Writer::new();
        w.var(u64::MAX).raw(&[0; 8]);
        assert!(Reader::new(w.as_slice(), "t").count(1).is_err());
        assert!(Reader::new(w.as_slice(), "t").bytes().is_err());
    }
}
