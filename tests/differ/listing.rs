//! getdents64(2) by itself, so that it stops where it is told and gives the places between names.

use crate::outcome::{Errno, number};
use libc::*;
use std::collections::BTreeMap;

/// Names with their kinds, as they came, and the place after the last.
pub struct Listing {
    pub items: Vec<String>,
    pub place: i64,
}

impl Listing {
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut out = BTreeMap::new();
        for item in &self.items {
            *out.entry(item.clone()).or_default() += 1;
        }
        out
    }
}

/// Reads names from where the directory is until the end, or until so many; then it stands behind the last.
pub fn list(dir: c_int, most: Option<usize>) -> Result<Listing, Errno> {
    let mut out = Listing { items: Vec::new(), place: 0 };
    // Room for few names at a time, so that one listing takes several calls.
    let mut room = [0u8; 1024];
    loop {
        // SAFETY: the buffer comes with its length.
        let n = number(unsafe { syscall(SYS_getdents64, dir, room.as_mut_ptr(), room.len()) })?;
        if n == 0 {
            return Ok(out);
        }
        let mut rest = &room[..n as usize];
        while rest.len() > 19 {
            if most.is_some_and(|most| out.items.len() >= most) {
                // SAFETY: it takes numbers alone.
                number(unsafe { lseek64(dir, out.place, SEEK_SET) })?;
                return Ok(out);
            }
            // linux_dirent64: number, place of the next, length, kind, name.
            let place = i64::from_ne_bytes(rest[8..16].try_into().expect("eight bytes"));
            let len = u16::from_ne_bytes([rest[16], rest[17]]) as usize;
            let name = rest[19..len].split(|b| *b == 0).next().unwrap_or_default();
            out.items.push(format!("{} {}", name.escape_ascii(), rest[18]));
            out.place = place;
            rest = &rest[len..];
        }
    }
}
