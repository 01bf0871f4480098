//! The operations as the journal has them (docs/FORMAT.md, "Journal records").
//!
//! A record says what was done, with every value that could come out differently a second time (numbers,
//! times, resolved offsets) written down, so that applying it again gives the same drive.

use super::bytes::MAX_SIZE;
use super::table::Place;
use crate::commit::check_name;
use crate::commit::entry::NAME_MAX;
use crate::commit::inode::{FileKind, TARGET_MAX};
use crate::error::Result;
use crate::types::{Ino, Time};
use crate::wire::{Reader, Writer};

/// What a name is taken away from, or given to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At<'a> {
    pub dir: Ino,
    pub name: &'a [u8],
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    Create {
        at: At<'a>,
        ino: Ino,
        kind: FileKind,
        perm: u16,
        uid: u32,
        gid: u32,
        rdev: u32,
        target: &'a [u8],
        /// Inherited ACLs: name and value.
        xattrs: Vec<(&'a [u8], &'a [u8])>,
    },
    Link {
        ino: Ino,
        at: At<'a>,
    },
    Remove {
        at: At<'a>,
        ino: Ino,
    },
    /// `replaced`: the inode that had the new name. `exchange`: it gets the old one.
    Rename {
        from: At<'a>,
        to: At<'a>,
        ino: Ino,
        replaced: Option<Ino>,
        exchange: bool,
        /// The whiteout left behind: its inode number.
        whiteout: Option<(Ino, u32, u32)>,
    },
    Write {
        ino: Ino,
        at: u64,
        kill_suid: bool,
        data: &'a [u8],
    },
    /// Deallocates, or makes zero; `size`: the size afterwards.
    Hole {
        ino: Ino,
        at: u64,
        len: u64,
        size: u64,
        kill_suid: bool,
    },
    SetAttr {
        ino: Ino,
        perm: Option<u16>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<Time>,
        mtime: Option<Time>,
    },
    SetXattr {
        ino: Ino,
        name: &'a [u8],
        value: &'a [u8],
        /// Who sets an access list may lose the right to keep sgid with it.
        drop_sgid: bool,
    },
    RemoveXattr {
        ino: Ino,
        name: &'a [u8],
    },
}

/// An operation, when it was done, and where the inodes stood that no earlier record of its generation names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub places: Vec<(Ino, Place)>,
    pub time: Time,
    pub op: Op<'a>,
}

/// A byte that says yes or no.
fn get_bool(r: &mut Reader) -> Result<bool> {
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(r.bad("a flag that is neither 0 nor 1")),
    }
}

/// An inode number that an inode at rest can have.
fn get_ino(r: &mut Reader) -> Result<Ino> {
    match r.var()? {
        ino if ino != 0 && ino >> 63 == 0 => Ok(ino),
        _ => Err(r.bad("inode number out of range")),
    }
}

/// A file's size, or an offset in one.
fn get_size(r: &mut Reader) -> Result<u64> {
    match r.var()? {
        size if size <= MAX_SIZE => Ok(size),
        _ => Err(r.bad("beyond the end of any file")),
    }
}

/// The name of an extended attribute: 1 to 255 bytes without NUL.
fn get_xattr<'a>(r: &mut Reader<'a>) -> Result<&'a [u8]> {
    match r.bytes()? {
        name if (1..=NAME_MAX).contains(&name.len()) && !name.contains(&0) => Ok(name),
        _ => Err(r.bad("a name of an extended attribute that cannot be one")),
    }
}

/// Flags, of which those above `known` are not defined.
fn get_flags(r: &mut Reader, known: u8) -> Result<u8> {
    match r.u8()? {
        flags if flags & !known == 0 => Ok(flags),
        _ => Err(r.bad("unknown flags")),
    }
}

fn get_perm(r: &mut Reader) -> Result<u16> {
    match r.var()? {
        perm @ 0..=0o7777 => Ok(perm as u16),
        _ => Err(r.bad("permission bits out of range")),
    }
}

impl<'a> Op<'a> {
    /// The inodes that the operation is about, and not the directories that their names are in.
    pub fn subjects(&self) -> Vec<Ino> {
        match *self {
            Op::Rename { ino, replaced, whiteout, .. } => {
                [Some(ino), replaced, whiteout.map(|(ino, ..)| ino)].into_iter().flatten().collect()
            }
            Op::Create { ino, .. }
            | Op::Link { ino, .. }
            | Op::Remove { ino, .. }
            | Op::Write { ino, .. }
            | Op::Hole { ino, .. }
            | Op::SetAttr { ino, .. }
            | Op::SetXattr { ino, .. }
            | Op::RemoveXattr { ino, .. } => vec![ino],
        }
    }

    /// The names that it gives or takes away.
    pub fn names(&self) -> Vec<At<'a>> {
        match *self {
            Op::Create { at, .. } | Op::Link { at, .. } | Op::Remove { at, .. } => vec![at],
            Op::Rename { from, to, .. } => vec![from, to],
            _ => Vec::new(),
        }
    }

    /// The inodes that the operation changes, except those it makes.
    pub fn inodes(&self) -> Vec<Ino> {
        match self {
            Op::Create { at, .. } => vec![at.dir],
            Op::Link { ino, at } | Op::Remove { at, ino } => vec![at.dir, *ino],
            Op::Rename { from, to, ino, replaced, .. } => {
                let mut all = vec![from.dir, to.dir, *ino];
                all.extend(replaced);
                all
            }
            Op::Write { ino, .. }
            | Op::Hole { ino, .. }
            | Op::SetAttr { ino, .. }
            | Op::SetXattr { ino, .. }
            | Op::RemoveXattr { ino, .. } => vec![*ino],
        }
    }
}

fn put_at(w: &mut Writer, at: &At) {
    w.var(at.dir).bytes(at.name);
}

fn get_at<'a>(r: &mut Reader<'a>) -> Result<At<'a>> {
    let at = At { dir: get_ino(r)?, name: r.bytes()? };
    check_name(at.name)?;
    Ok(at)
}

/// A set of optional values: a byte of flags first, then those that are there.
fn flag<T>(v: &Option<T>, bit: u8) -> u8 {
    if v.is_some() { 1 << bit } else { 0 }
}

impl<'a> Record<'a> {
    /// The record's bytes up to the data of a write, which follow.
    pub fn head(&self) -> Writer {
        let mut w = Writer::with_capacity(96);
        w.var(self.places.len() as u64);
        for (ino, place) in &self.places {
            w.var(*ino).var(place.parent).u64(place.hash);
        }
        self.time.put(&mut w);
        match &self.op {
            Op::Create { at, ino, kind, perm, uid, gid, rdev, target, xattrs } => {
                w.u8(1);
                put_at(&mut w, at);
                w.var(*ino)
                    .u8(*kind as u8)
                    .var((*perm).into())
                    .var((*uid).into())
                    .var((*gid).into())
                    .var((*rdev).into());
                w.bytes(target).var(xattrs.len() as u64);
                for (name, value) in xattrs {
                    w.bytes(name).bytes(value);
                }
            }
            Op::Link { ino, at } => {
                w.u8(2).var(*ino);
                put_at(&mut w, at);
            }
            Op::Remove { at, ino } => {
                w.u8(3);
                put_at(&mut w, at);
                w.var(*ino);
            }
            Op::Rename { from, to, ino, replaced, exchange, whiteout } => {
                w.u8(4);
                put_at(&mut w, from);
                put_at(&mut w, to);
                w.var(*ino).u8(flag(replaced, 0) | u8::from(*exchange) << 1 | flag(whiteout, 2));
                if let Some(r) = replaced {
                    w.var(*r);
                }
                if let Some((ino, uid, gid)) = whiteout {
                    w.var(*ino).var((*uid).into()).var((*gid).into());
                }
            }
            Op::Write { ino, at, kill_suid, data: _ } => {
                w.u8(5).var(*ino).var(*at).u8((*kill_suid).into());
            }
            Op::Hole { ino, at, len, size, kill_suid } => {
                w.u8(6).var(*ino).var(*at).var(*len).var(*size).u8((*kill_suid).into());
            }
            Op::SetAttr { ino, perm, uid, gid, size, atime, mtime } => {
                let flags = flag(perm, 0)
                    | flag(uid, 1)
                    | flag(gid, 2)
                    | flag(size, 3)
                    | flag(atime, 4)
                    | flag(mtime, 5);
                w.u8(7).var(*ino).u8(flags);
                for v in
                    [perm.map(u64::from), uid.map(u64::from), gid.map(u64::from), *size].into_iter().flatten()
                {
                    w.var(v);
                }
                for t in [atime, mtime].into_iter().flatten() {
                    t.put(&mut w);
                }
            }
            Op::SetXattr { ino, name, value, drop_sgid } => {
                w.u8(8).var(*ino).bytes(name).bytes(value).u8((*drop_sgid).into());
            }
            Op::RemoveXattr { ino, name } => {
                w.u8(9).var(*ino).bytes(name);
            }
        }
        w
    }

    /// The bytes of a write's data, which stand behind the head.
    pub fn data(&self) -> &'a [u8] {
        if let Op::Write { data, .. } = self.op { data } else { &[] }
    }

    pub fn decode(bytes: &'a [u8]) -> Result<Record<'a>> {
        let mut r = Reader::new(bytes, "journal record");
        let n = r.count(10)?;
        let mut places = Vec::with_capacity(n);
        for _ in 0..n {
            places.push((r.var()?, Place { parent: r.var()?, hash: r.u64()? }));
        }
        let time = Time::get(&mut r)?;
        let op = match r.u8()? {
            1 => Op::Create {
                at: get_at(&mut r)?,
                ino: get_ino(&mut r)?,
                kind: FileKind::from_u8(r.u8()?).ok_or_else(|| r.bad("unknown file type"))?,
                perm: get_perm(&mut r)?,
                uid: r.var32()?,
                gid: r.var32()?,
                rdev: r.var32()?,
                target: r.bytes()?,
                xattrs: {
                    let n = r.count(2)?;
                    (0..n).map(|_| Ok((get_xattr(&mut r)?, r.bytes()?))).collect::<Result<_>>()?
                },
            },
            2 => Op::Link { ino: get_ino(&mut r)?, at: get_at(&mut r)? },
            3 => Op::Remove { at: get_at(&mut r)?, ino: get_ino(&mut r)? },
            4 => {
                let (from, to, ino) = (get_at(&mut r)?, get_at(&mut r)?, get_ino(&mut r)?);
                let flags = get_flags(&mut r, 7)?;
                let replaced = if flags & 1 != 0 { Some(get_ino(&mut r)?) } else { None };
                let whiteout =
                    if flags & 4 != 0 { Some((get_ino(&mut r)?, r.var32()?, r.var32()?)) } else { None };
                Op::Rename { from, to, ino, replaced, exchange: flags & 2 != 0, whiteout }
            }
            5 => {
                let (ino, at, kill_suid) = (get_ino(&mut r)?, get_size(&mut r)?, get_bool(&mut r)?);
                let data = r.raw(r.rest().len())?;
                Op::Write { ino, at, kill_suid, data }
            }
            6 => Op::Hole {
                ino: get_ino(&mut r)?,
                at: get_size(&mut r)?,
                len: get_size(&mut r)?,
                size: get_size(&mut r)?,
                kill_suid: get_bool(&mut r)?,
            },
            7 => {
                let (ino, flags) = (get_ino(&mut r)?, get_flags(&mut r, 63)?);
                let on = |bit: u8| flags & 1 << bit != 0;
                Op::SetAttr {
                    ino,
                    perm: if on(0) { Some(get_perm(&mut r)?) } else { None },
                    uid: if on(1) { Some(r.var32()?) } else { None },
                    gid: if on(2) { Some(r.var32()?) } else { None },
                    size: if on(3) { Some(get_size(&mut r)?) } else { None },
                    atime: if on(4) { Some(Time::get(&mut r)?) } else { None },
                    mtime: if on(5) { Some(Time::get(&mut r)?) } else { None },
                }
            }
            8 => Op::SetXattr {
                ino: get_ino(&mut r)?,
                name: get_xattr(&mut r)?,
                value: r.bytes()?,
                drop_sgid: get_bool(&mut r)?,
            },
            9 => Op::RemoveXattr { ino: get_ino(&mut r)?, name: get_xattr(&mut r)? },
            _ => return Err(r.bad("unknown operation")),
        };
        let bad = match &op {
            Op::Create { kind: FileKind::Symlink, target, .. } => {
                target.is_empty() || target.len() > TARGET_MAX || target.contains(&0)
            }
            Op::Create { target, .. } => !target.is_empty(),
            // Neither sum overflows: see get_size.
            Op::Write { at, data, .. } => at + data.len() as u64 > MAX_SIZE,
            Op::Hole { at, len, .. } => at + len > MAX_SIZE,
            _ => false,
        };
        if bad {
            return Err(r.bad("a target, or a range of bytes, that cannot be one"));
        }
        r.end()?;
        Ok(Record { places, time, op })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What no operation writes: to apply it overflowed, or made what no version can hold.
    #[test]
    fn records_of_what_cannot_be_are_refused() {
        let at = At { dir: 1, name: b"a" };
        let create = |kind, target| Op::Create {
            at,
            ino: 9,
            kind,
            perm: 0o644,
            uid: 0,
            gid: 0,
            rdev: 0,
            target,
            xattrs: vec![],
        };
        let hole = |at, len, size| Op::Hole { ino: 3, at, len, size, kill_suid: false };
        let bad = [
            Op::Write { ino: 3, at: MAX_SIZE - 4, kill_suid: false, data: b"bytes" },
            Op::Write { ino: 3, at: u64::MAX, kill_suid: false, data: b"" },
            Op::Write { ino: 0, at: 0, kill_suid: false, data: b"" },
            hole(MAX_SIZE, 1, 0),
            hole(0, u64::MAX, 0),
            hole(0, 0, MAX_SIZE + 1),
            Op::Link { ino: 1 << 63, at },
            Op::Link { ino: 3, at: At { dir: u64::MAX, ..at } },
            Op::Remove { ino: 3, at: At { name: b"a/b", ..at } },
            Op::Rename { from: at, to: at, ino: 3, replaced: Some(0), exchange: false, whiteout: None },
            Op::Rename {
                from: at,
                to: at,
                ino: 3,
                replaced: None,
                exchange: false,
                whiteout: Some((u64::MAX, 0, 0)),
            },
            Op::RemoveXattr { ino: 3, name: b"" },
            Op::SetXattr { ino: 3, name: b"a\0b", value: b"", drop_sgid: false },
            create(FileKind::Symlink, b""),
            create(FileKind::Symlink, b"a\0b"),
            create(FileKind::File, b"target"),
        ];
        for op in bad {
            let record = Record { places: vec![], time: Time::default(), op };
            let bytes = [record.head().as_slice(), record.data()].concat();
            assert!(Record::decode(&bytes).is_err(), "{:?}", record.op);
        }
    }

    #[test]
    fn records_come_back_as_they_went() {
        let at = At { dir: 1, name: b"a" };
        let to = At { dir: 7, name: b"\xff\n" };
        let t = Time { sec: -5, nsec: 999 };
        let ops = [
            Op::Create {
                at,
                ino: 9,
                kind: FileKind::CharDevice,
                perm: 0o4755,
                uid: 1,
                gid: u32::MAX,
                rdev: 0x103,
                target: b"",
                xattrs: vec![(b"n", b"v")],
            },
            Op::Link { ino: 3, at },
            Op::Remove { at, ino: 4 },
            Op::Rename { from: at, to, ino: 3, replaced: Some(5), exchange: true, whiteout: None },
            Op::Rename {
                from: at,
                to,
                ino: 3,
                replaced: None,
                exchange: false,
                whiteout: Some((8, 0, 1000)),
            },
            Op::Write { ino: 3, at: MAX_SIZE - 5, kill_suid: true, data: b"bytes" },
            Op::Hole { ino: 3, at: 4096, len: 1, size: 77, kill_suid: false },
            Op::SetAttr {
                ino: 3,
                perm: Some(0o600),
                uid: None,
                gid: Some(4),
                size: Some(1 << 40),
                atime: None,
                mtime: Some(t),
            },
            Op::SetXattr { ino: 3, name: b"user.x", value: b"", drop_sgid: true },
            Op::RemoveXattr { ino: 3, name: b"user.x" },
        ];
        for op in ops {
            let record =
                Record { places: vec![(3, Place { parent: 1, hash: 77 }), (9, Place::SHELLS)], time: t, op };
            let mut bytes = record.head().into_vec();
            bytes.extend_from_slice(record.data());
            assert_eq!(Record::decode(&bytes).unwrap(), record);
            for n in 0..bytes.len() {
                let _ = Record::decode(&bytes[..n]); // never panics
                for bit in 0..8 {
                    let mut bent = bytes.clone();
                    bent[n] ^= 1 << bit;
                    if let Ok(record) = Record::decode(&bent) {
                        let mut again = record.head().into_vec();
                        again.extend_from_slice(record.data());
                        assert_eq!(again, bent, "one encoding");
                    }
                }
            }
        }
    }
}
