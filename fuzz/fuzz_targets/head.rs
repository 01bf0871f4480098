#![no_main]
//! Heads (src/store/head.rs, heads.rs), their payloads behind the seal (src/commit/versions/payload.rs), and finding the
//! newest among whatever objects a store shows.

use bytes::Bytes;
use nacrefs::commit::fuzzing::head_payload;
use nacrefs::error::{Kind, Result};
use nacrefs::store::memory::Memory;
use nacrefs::store::{Head, HeadLink, Heads, Layout, NewHead, Objects};
use nacrefs::types::{DeviceId, DriveId};
use nacrefs::wire::Reader;
use nacrefs_fuzz::forge::{EPOCH, REALM};
use nacrefs_fuzz::{bytes, choice, same, target};
use std::sync::Arc;

const DRIVE: DriveId = DriveId([0x44; 16]);

/// A number that is mostly small, and sometimes at the other end.
fn number(r: &mut Reader) -> Result<u64> {
    match r.u8()? {
        n @ 240.. => Ok(u64::MAX - u64::from(255 - n)),
        n => Ok(n.into()),
    }
}

/// A store with objects at counters: heads that say anything, with links that may be right, or anything at all.
fn store(r: &mut Reader, objects: &Memory) -> Result<Option<HeadLink>> {
    let layout = Layout::new(&REALM);
    let mut heads: Vec<HeadLink> = vec![HeadLink::default()];
    loop {
        let link = |heads: &[HeadLink], n: u8| heads[usize::from(n) % heads.len()];
        match r.u8()? {
            0..=159 => {
                let version = number(r)?;
                let (before, skip) = (link(&heads, r.u8()?), link(&heads, r.u8()?));
                let (device, payload) = (DeviceId([r.u8()?; 16]), Bytes::copy_from_slice(bytes(r)?));
                let signature = [r.u8()?; 64];
                let head = Head {
                    drive: DRIVE,
                    realm: REALM,
                    epoch: EPOCH,
                    device,
                    version,
                    before,
                    skip,
                    payload,
                    signature,
                };
                objects.put(&layout.head(version), head.encode())?;
                heads.push(head.link());
            }
            160..=199 => {
                let version = number(r)?;
                objects.put(&layout.head(version), Bytes::copy_from_slice(bytes(r)?))?;
            }
            200..=219 => objects.put(&layout.latest(), Bytes::copy_from_slice(bytes(r)?))?,
            220..=239 => {
                let name = String::from_utf8_lossy(bytes(r)?).into_owned();
                // Refused where no object may have the name.
                let _ = objects.put(&format!("{}/{name}", layout.heads()), Bytes::new());
            }
            n => return Ok(Some(link(&heads, n))),
        }
    }
}

fn find(data: &[u8]) {
    let objects = Memory::new();
    let known = store(&mut Reader::new(data, "script"), &objects).ok().flatten();
    // The first byte of a signature tells whether it is good, and whether that can be told.
    let heads = Heads::new(Arc::new(objects), DRIVE, REALM, |head, _| match head.signature[0] {
        255 => Err(nacrefs::error::Error::new(Kind::Away, "the store is away")),
        n => Ok(n & 1 == 0),
    });
    for version in heads.versions().expect("a list") {
        let _ = heads.get(version);
    }
    let Ok(newest) = heads.newest(known) else { return };
    if let Some(head) = &newest.head {
        assert!(head.version < newest.next);
        // Older than what this machine has seen only where it is told that that one is lost.
        assert!(known.is_none_or(|k| k.version <= head.version.max(newest.lost.unwrap_or(0))));
    }
    assert_eq!(
        heads.get(newest.next).map_err(|e| e.kind()).err(),
        Some(Kind::NotFound),
        "the next number is free"
    );
    let sign = |_: &[u8]| [2; 64];
    let new = NewHead { epoch: EPOCH, device: DeviceId([1; 16]), payload: Bytes::new(), sign: &sign };
    if let Ok(next) = heads.compose(&newest, new) {
        heads.create(newest.next, &next).expect("a free number");
        assert_eq!(heads.get(newest.next).expect("the head that was made").version, newest.next);
    }
}

target!(4, |data| {
    let (what, rest) = choice(data);
    match what % 3 {
        0 => same(Head::decode(rest).map(|head| head.encode().to_vec()), rest),
        1 => same(head_payload(rest), rest),
        _ => find(rest),
    }
});
