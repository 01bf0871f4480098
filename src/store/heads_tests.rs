//! Heads in stores that lie, forget and fail.

use super::faulty::{Fault, Faulty, Op};
use super::heads::{Head, HeadLink, Heads, NewHead, Newest, SIGNATURE};
use super::layout::Layout;
use super::memory::Memory;
use super::objects::{Objects, Race};
use crate::error::{Kind, Result};
use crate::types::{DeviceId, DriveId, RealmId, Version};
use bytes::Bytes;
use proptest::prelude::*;
use std::sync::Arc;

const DRIVE: DriveId = DriveId([1; 16]);
const REALM: RealmId = RealmId([2; 16]);

/// Stands in for ed25519: a keyed hash under the device's id.
fn sign(device: DeviceId, bytes: &[u8]) -> [u8; SIGNATURE] {
    let mut signature = [0; SIGNATURE];
    blake3::Hasher::new().update(&device.0).update(bytes).finalize_xof().fill(&mut signature);
    signature
}

fn heads(objects: Arc<dyn Objects>) -> Heads {
    Heads::new(objects, DRIVE, REALM, |head, signed| Ok(sign(head.device, signed) == head.signature))
}

/// Commits one more version as a device.
fn commit(objects: &Arc<Memory>, device: u8) -> Result<HeadLink> {
    let heads = heads(objects.clone());
    let newest = heads.newest(None)?;
    let device = DeviceId([device; 16]);
    let payload = Bytes::from(format!("version {}", newest.next));
    let new = NewHead { epoch: 0, device, payload, sign: &|b| sign(device, b) };
    let bytes = heads.compose(&newest, new)?;
    assert_eq!(heads.create(newest.next, &bytes)?, Race::Won);
    Ok(heads.get(newest.next)?.link())
}

fn commits(objects: &Arc<Memory>, device: u8, count: usize) -> Vec<HeadLink> {
    (0..count).map(|_| commit(objects, device).unwrap()).collect()
}

fn newest(objects: &Arc<Memory>, known: Option<HeadLink>) -> Result<Option<Version>> {
    let heads = heads(objects.clone());
    let Newest { head, broken, .. } = heads.newest(known)?;
    match (&head, known, broken) {
        (Some(head), Some(known), Some(broken)) => Err(heads.unproven(head, known, broken)),
        _ => Ok(head.map(|h| h.version)),
    }
}

fn layout() -> Layout {
    Layout::new(&REALM)
}

#[test]
fn versions_follow_each_other() {
    let store = Arc::new(Memory::new());
    assert_eq!(newest(&store, None).unwrap(), None);
    let links = commits(&store, 1, 70);
    assert_eq!(newest(&store, None).unwrap(), Some(70));
    for known in &links {
        assert_eq!(newest(&store, Some(*known)).unwrap(), Some(70), "{known:?}");
        let head = heads(store.clone()).get(known.version).unwrap();
        let to = known.version & (known.version - 1);
        let expected = links.get((to as usize).wrapping_sub(1)).copied().unwrap_or_default();
        assert_eq!(head.skip, expected, "{known:?}");
    }
    assert_eq!(heads(store.clone()).get(71).unwrap_err().kind(), Kind::NotFound);
}

/// A machine with an old memory stopped at the first number without a head, and wrote its version there.
#[test]
fn heads_that_are_gone_hide_none_above_them() {
    for (gone, hint, known, is) in [
        (&[8][..], None, 4, (9, None)),
        (&[8], Some(7), 4, (9, None)),
        (&[6], Some(4), 2, (9, None)),
        (&[5, 6], Some(4), 2, (9, None)),
        (&[6], Some(5), 2, (9, None)),
        (&[4, 5, 6, 7, 8], Some(3), 2, (9, None)),
        (&[4, 9], Some(9), 2, (8, Some(9))),
        (&[7, 9], Some(9), 6, (8, Some(9))),
    ] {
        let store = Arc::new(Memory::new());
        let links = commits(&store, 1, 9);
        gone.iter().for_each(|version| store.delete(&layout().head(*version)).unwrap());
        let heads = heads(store.clone());
        match hint {
            Some(version) => store.put(&layout().latest(), heads.hint_bytes(version)).unwrap(),
            None => store.delete(&layout().latest()).unwrap(),
        }
        let found = heads.newest(Some(links[known - 1])).unwrap();
        let head = found.head.as_ref().map(|h| h.version).unwrap();
        assert_eq!((head, found.lost), is, "{gone:?} gone, hint {hint:?}, {known} seen");
        assert_eq!(found.next, if head == 9 { 10 } else { 9 });
    }
}

#[test]
fn descent_is_shown_in_few_steps() {
    let store = Arc::new(Memory::new());
    let first = commit(&store, 1).unwrap();
    commits(&store, 1, 199);
    let counted = Arc::new(Faulty::new(store, |_| Fault::Pass));
    heads(counted.clone()).newest(Some(first)).unwrap();
    assert!(counted.calls() < 100, "{}", counted.calls());
}

#[test]
fn a_hint_that_lies_is_not_believed() {
    let store = Arc::new(Memory::new());
    let links = commits(&store, 1, 40);
    let known = Some(links[4]);
    for hint in [
        "",
        "x",
        "00000000000000000003\n",
        "00000000000000009999\n",
        "18446744073709551615\n",
        "99999999999999999999\n",
    ] {
        store.put(&layout().latest(), hint.to_owned().into()).unwrap();
        assert_eq!(newest(&store, known).unwrap(), Some(40), "{hint:?}");
        assert_eq!(newest(&store, None).unwrap(), Some(40), "{hint:?}");
    }
    store.delete(&layout().latest()).unwrap();
    assert_eq!(newest(&store, known).unwrap(), Some(40));
}

/// A "2" that became a "6" made a new machine refuse the drive: nobody had vouched for the hint.
#[test]
fn a_bit_that_flips_in_the_hint_stops_nobody() {
    let store = Arc::new(Memory::new());
    commits(&store, 1, 2);
    let good = store.get(&layout().latest()).unwrap();
    assert_eq!(heads(store.clone()).hint().unwrap(), Some(2));
    for bit in 0..good.len() * 8 {
        let mut bent = good.to_vec();
        bent[bit / 8] ^= 1 << (bit % 8);
        store.put(&layout().latest(), bent.into()).unwrap();
        let found = heads(store.clone()).newest(None).unwrap();
        assert_eq!((found.head.map(|h| h.version), found.next, found.lost), (Some(2), 3, None), "bit {bit}");
    }
}

#[test]
fn garbage_takes_a_number_and_nothing_else() {
    let store = Arc::new(Memory::new());
    let first = commit(&store, 1).unwrap();
    let second = commit(&store, 1).unwrap();
    let name = layout().head(2);
    let mut forged = store.get(&name).unwrap().to_vec();
    forged[100] ^= 1;
    store.put(&layout().head(3), forged.into()).unwrap();
    // A true head at another's number.
    store.put(&layout().head(4), store.get(&name).unwrap()).unwrap();
    store.put(&layout().head(5), Bytes::new()).unwrap();
    store.put(&layout().head(u64::MAX), Bytes::from_static(b"x")).unwrap();
    for known in [None, Some(first), Some(second)] {
        let found = heads(store.clone()).newest(known).unwrap();
        assert_eq!((found.head.map(|h| h.version), found.next), (Some(2), 6), "{known:?}");
    }
    assert_eq!(heads(store.clone()).get(3).unwrap_err().kind(), Kind::Damage);
    let after = commit(&store, 2).unwrap();
    assert_eq!(after.version, 6);
    let head = heads(store.clone()).get(6).unwrap();
    assert_eq!((head.before, head.skip), (second, second));
    assert_eq!(newest(&store, Some(first)).unwrap(), Some(6));
    // What was garbage is gone: a machine without a memory still finds the end.
    (3..6).for_each(|v| store.delete(&layout().head(v)).unwrap());
    assert_eq!(newest(&store, None).unwrap(), Some(6));
    assert_eq!(newest(&store, Some(after)).unwrap(), Some(6));
}

#[test]
fn only_garbage_is_no_version() {
    let store = Arc::new(Memory::new());
    store.put(&layout().head(1), Bytes::from_static(b"x")).unwrap();
    let found = heads(store.clone()).newest(None).unwrap();
    assert_eq!((found.head, found.next), (None, 2));
    let link = commit(&store, 1).unwrap();
    assert_eq!(link.version, 2);
    assert_eq!(heads(store).get(2).unwrap().before, HeadLink::default());
}

#[test]
fn rollback_is_seen() {
    let store = Arc::new(Memory::new());
    let links = commits(&store, 1, 9);
    (7..10).for_each(|v| store.delete(&layout().head(v)).unwrap());
    // As the hint tells, the heads are gone from a store that is not older than what was seen.
    for known in [None, Some(links[4]), Some(links[5]), Some(links[6]), Some(links[8])] {
        let found = heads(store.clone()).newest(known).unwrap();
        assert_eq!((found.head.map(|h| h.version), found.lost), (Some(6), Some(9)), "{known:?}");
    }
    store.put(&layout().latest(), heads(store.clone()).hint_bytes(6)).unwrap();
    let e = newest(&store, Some(links[8])).unwrap_err();
    assert_eq!(e.kind(), Kind::Conflict);
    assert!(e.to_string().contains("version 6") && e.to_string().contains("version 9"), "{e}");
    (1..7).for_each(|v| store.delete(&layout().head(v)).unwrap());
    assert_eq!(newest(&store, Some(links[8])).unwrap_err().kind(), Kind::Conflict);
}

#[test]
fn forks_are_seen() {
    let ours = Arc::new(Memory::new());
    commits(&ours, 1, 5);
    // The store shows another machine a copy of its own from here on.
    let theirs = Arc::new(Memory::new());
    for name in ours.list("").unwrap() {
        theirs.put(&name, ours.get(&name).unwrap()).unwrap();
    }
    let known = commits(&ours, 1, 3);
    commits(&theirs, 2, 12);
    for known in known {
        let e = newest(&theirs, Some(known)).unwrap_err();
        assert_eq!(e.kind(), Kind::Conflict);
        assert!(e.to_string().contains("does not descend"), "{e}");
        assert!(e.to_string().contains(&DeviceId([2; 16]).to_string()), "{e}");
    }
}

#[test]
fn old_heads_may_go() {
    let store = Arc::new(Memory::new());
    let links = commits(&store, 1, 20);
    (1..=10).for_each(|v| store.delete(&layout().head(v)).unwrap());
    assert_eq!(newest(&store, Some(links[11])).unwrap(), Some(20));
    // What the oldest that is left links to is still vouched for; what is before that is not.
    assert_eq!(newest(&store, Some(links[9])).unwrap(), Some(20));
    assert_eq!(newest(&store, Some(links[4])).unwrap_err().kind(), Kind::Conflict);
    commits(&store, 1, 20);
    assert_eq!(newest(&store, Some(links[15])).unwrap(), Some(40));
}

/// A damaged head between what was seen and the newest was taken for a fork.
#[test]
fn a_damaged_head_on_the_way_back_is_damage_and_another_ones_is_a_fork() {
    let store = Arc::new(Memory::new());
    let links = commits(&store, 1, 5);
    let name = layout().head(4);
    let bytes = store.get(&name).unwrap();
    store.put(&name, bytes.slice(..100)).unwrap();
    let e = newest(&store, Some(links[2])).unwrap_err();
    assert!(e.kind() == Kind::Damage && e.to_string().contains("version 4 between them is damaged"), "{e}");
    store.delete(&name).unwrap();
    assert_eq!(newest(&store, Some(links[2])).unwrap_err().kind(), Kind::Conflict);
    // A valid one, of another history.
    let other = Arc::new(Memory::new());
    commits(&other, 2, 4);
    store.put(&name, other.get(&name).unwrap()).unwrap();
    assert_eq!(newest(&store, Some(links[2])).unwrap_err().kind(), Kind::Conflict);
    store.put(&name, bytes).unwrap();
    assert_eq!(newest(&store, Some(links[2])).unwrap(), Some(5));
}

#[test]
fn of_two_heads_at_once_one_wins_even_if_replies_are_lost() {
    let inner = Arc::new(Memory::new());
    let faulty = Arc::new(Faulty::new(inner, |call| match call.op {
        Op::Create => Fault::FailAfter(Kind::Away),
        _ => Fault::Pass,
    }));
    let heads = heads(faulty);
    let none = heads.newest(None).unwrap();
    let made = |device: u8| {
        let device = DeviceId([device; 16]);
        let sign = |b: &[u8]| sign(device, b);
        heads.compose(&none, NewHead { epoch: 0, device, payload: Bytes::new(), sign: &sign }).unwrap()
    };
    assert_eq!(heads.create(1, &made(1)).unwrap(), Race::Won);
    assert_eq!(heads.create(1, &made(2)).unwrap(), Race::Lost);
    assert_eq!(heads.create(1, &made(1)).unwrap(), Race::Won);
    assert_eq!(heads.newest(None).unwrap().head.unwrap().device, DeviceId([1; 16]));
}

#[test]
fn a_store_that_is_away_is_not_rolled_back() {
    let store = Arc::new(Memory::new());
    let known = commit(&store, 1).unwrap();
    let away: Arc<dyn Objects> = Arc::new(Faulty::new(store, |_| Fault::FailBefore(Kind::Away)));
    for known in [None, Some(known)] {
        assert_eq!(heads(away.clone()).newest(known).unwrap_err().kind(), Kind::Away);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_bit_flipped_in_any_object_never_makes_another_version(
        count in 1u64..12, known in 0u64..12, which: prop::sample::Index, at: prop::sample::Index, bit in 0u8..8,
    ) {
        let store = Arc::new(Memory::new());
        let mut all: Vec<Head> = Vec::new();
        for _ in 0..count {
            let link = commit(&store, 1)?;
            all.push(heads(store.clone()).get(link.version)?);
        }
        let names = store.list("")?;
        let name = which.get(&names);
        let mut bytes = store.get(name)?.to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        store.put(name, bytes.into())?;
        let known = all.get(known as usize).map(|h| h.link());
        match heads(store.clone()).newest(known) {
            Ok(found) => {
                let head = found.head.filter(|h| h.version < count);
                if let Some(head) = head {
                    prop_assert!(name == &layout().head(count));
                    prop_assert_eq!(&head, &all[head.version as usize - 1]);
                }
            }
            // A rollback or a fork; or the newest head that we know of, bent.
            Err(e) => prop_assert!(matches!(e.kind(), Kind::Conflict | Kind::Damage), "{e:?}"),
        }
    }
}
