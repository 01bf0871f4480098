//! Removing key slots, so that removers who know nothing of each other never remove the last one.
//!
//! Each remover relies on a slot that it has opened, and removes another. Of two who rely on what the other removes, each
//! would take the other's for the one that stays. So a remover first marks what it removes, then looks whether somebody
//! has marked what it relies on and whether that is still there, and only then deletes. Marks are never taken away from
//! somebody whose slot is there: no clock and no waiting is part of this, and a remover that is killed or hangs between
//! two steps is only one more whose slot may be gone at any time.
//!
//! Why one stays: let no slot be left, and R be who deleted last. What R relies on was there and not marked after R had
//! marked, so it was deleted by one who marked later than R, saw R's mark, and so relies on another slot than R removes.
//! That one is gone too, by one who marked later still, and so on without end. (Lamport's bakery and Dekker's algorithm
//! rest on the same: write, then look.)

use super::layout;
use crate::crypt::slot::Slot;
use crate::error::{Context, Error, Kind, Result};
use crate::store::objects::{Objects, Race, create_verified};
use crate::sys::{Random, random};
use crate::types::hex;

/// Removes the object of a slot, durably, if `relying`, which was opened, stays. Where that cannot be relied on, it is a
/// `Conflict`, and nothing is removed. Without `relying` nothing is looked at.
pub fn remove(objects: &dyn Objects, name: &str, relying: Option<&Slot>, source: &dyn Random) -> Result<()> {
    let nonce = hex(&random::<8>(source)?);
    let mark = layout::removing(leaf(name), &nonce);
    match create_verified(objects, &mark, &nonce.into())? {
        Race::Won => {}
        Race::Lost => return Err(Error::new(Kind::Conflict, format!("{mark} is taken: try again"))),
    }
    if let Some(slot) = relying {
        let stays = stays(objects, slot);
        if stays.is_err() {
            // Nothing is removed, so nobody need know. An error does no harm: what is marked can be changed still.
            if let Err(e) = objects.delete(&mark) {
                tracing::warn!("cannot delete {mark}: {}", e.chain());
            }
        }
        stays?;
    }
    objects.delete(name).and_then(|()| objects.settle(name)).context(|| format!("cannot remove {name}"))?;
    // What is left of marks keeps nobody from anything.
    if let Err(e) = tidy(objects) {
        tracing::warn!("cannot delete what marks the removal of key slots: {}", e.chain());
    }
    Ok(())
}

/// Whether a slot is there, and nobody is removing it.
fn stays(objects: &dyn Objects, slot: &Slot) -> Result<()> {
    let (id, name) = (hex(&slot.id().0), layout::slot(&slot.id().0));
    let marked = objects.list(layout::REMOVING).context(|| "cannot list the key slots being removed")?;
    if marked.iter().any(|mark| marked_by(mark) == Some(&id)) {
        return Err(Error::new(
            Kind::Conflict,
            format!(
                "key slot {id}, which is to stay, is being removed by somebody else, or this was begun and interrupted: \
                 try again; if it stays so, 'nacrefs key change' puts another in its place"
            ),
        ));
    }
    match objects.get(&name) {
        Ok(bytes) if bytes == slot.encode() => Ok(()),
        Err(e) if e.kind() != Kind::NotFound => Err(e),
        _ => Err(Error::new(
            Kind::Conflict,
            format!(
                "key slot {id}, which was to stay, has been removed meanwhile: open the drive with another"
            ),
        )),
    }
}

/// Deletes the marks of slots that are gone: an id is never used twice.
fn tidy(objects: &dyn Objects) -> Result<()> {
    let marks = objects.list(layout::REMOVING)?;
    let slots = objects.list(layout::SLOTS)?;
    let is_there = |id: &str| slots.iter().any(|name| leaf(name) == id);
    for mark in marks.iter().filter(|mark| marked_by(mark).is_some_and(|id| !is_there(id))) {
        objects.delete(mark)?;
    }
    Ok(())
}

/// The last part of an object's name.
fn leaf(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// What a mark says is being removed.
fn marked_by(mark: &str) -> Option<&str> {
    leaf(mark).rsplit_once('.').map(|(id, _)| id)
}

#[cfg(test)]
mod tests {
    use super::super::tests::slot;
    use super::super::{add, list};
    use super::*;
    use crate::crypt::DriveSecrets;
    use crate::store::faulty::{Fault, Faulty};
    use crate::store::memory::Memory;
    use crate::sys::SystemRandom;
    use parking_lot::{Condvar, Mutex};
    use std::sync::Arc;

    /// Whose call comes next, of removers that run at once; who is done or killed is passed over.
    struct Turns {
        order: Mutex<(Vec<usize>, Vec<bool>)>,
        changed: Condvar,
    }

    impl Turns {
        fn wait(&self, me: usize) {
            let mut order = self.order.lock();
            loop {
                while order.0.last().is_some_and(|next| order.1[*next]) {
                    order.0.pop();
                }
                match order.0.last() {
                    Some(next) if *next != me => self.changed.wait(&mut order),
                    _ => break,
                }
            }
            order.0.pop();
            self.changed.notify_all();
        }

        fn over(&self, me: usize) {
            self.order.lock().1[me] = true;
            self.changed.notify_all();
        }
    }

    /// Lets `n` removers go in a ring, each removing what the next one relies on, in that order of their calls; the
    /// first is killed after so many calls. How many slots are left, and how many have been removed as they believe.
    fn ring(n: usize, order: Vec<usize>, killed: u64, slots: &[Slot]) -> (usize, usize) {
        let store = Arc::new(Memory::new());
        for slot in &slots[..n] {
            add(&*store, slot).unwrap();
        }
        let turns = Arc::new(Turns { order: Mutex::new((order, vec![false; n])), changed: Condvar::new() });
        let removed = std::thread::scope(|scope| {
            let removers: Vec<_> = (0..n)
                .map(|me| {
                    let (store, turns) = (store.clone(), turns.clone());
                    scope.spawn(move || {
                        let mine = turns.clone();
                        let objects = Faulty::new(store, move |call| {
                            if me == 0 && call.nth >= killed {
                                return Fault::FailBefore(Kind::Away);
                            }
                            mine.wait(me);
                            Fault::Pass
                        });
                        let name = layout::slot(&slots[(me + 1) % n].id().0);
                        let done = remove(&objects, &name, Some(&slots[me]), &SystemRandom);
                        turns.over(me);
                        done.is_ok()
                    })
                })
                .collect();
            removers.into_iter().map(|r| r.join().unwrap()).filter(|done| *done).count()
        });
        (list(&*store).unwrap().slots.len(), removed)
    }

    /// Each of two relied on what the other removed, and the drive was left without a key.
    #[test]
    fn removers_at_once_never_leave_a_drive_without_a_key_slot() {
        let secrets = DriveSecrets::generate(&SystemRandom).unwrap();
        let slots: Vec<Slot> = (1..=3).map(|key| slot(&secrets, key)).collect();
        let calls = 7;
        let rounds =
            if std::env::var_os("NACREFS_TEST_FULL").is_some_and(|v| !v.is_empty()) { 40_000 } else { 3000 };
        let mut seen = [0; 4];
        for round in 0..rounds {
            let n = 2 + round % 2;
            let mut bytes = random::<32>(&SystemRandom).unwrap();
            let order: Vec<usize> = bytes.iter().map(|b| usize::from(*b) % n).collect();
            bytes.reverse();
            let killed = if round % 3 == 0 { u64::from(bytes[0]) % calls } else { u64::MAX };
            let (left, removed) = ring(n, order.clone(), killed, &slots);
            assert!(left > 0, "{n} removers, the first killed after {killed} calls, in the order {order:?}");
            seen[removed] += 1;
        }
        // Some were refused, and some were not.
        assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
    }

    #[test]
    fn a_removal_that_was_interrupted_keeps_its_slot_from_being_relied_on_and_is_done_again() {
        let secrets = DriveSecrets::generate(&SystemRandom).unwrap();
        let [one, two, three] = [1, 2, 3].map(|key| slot(&secrets, key));
        let store = Memory::new();
        for slot in [&one, &two, &three] {
            add(&store, slot).unwrap();
        }
        let name = |slot: &Slot| layout::slot(&slot.id().0);
        let of = |slot: &Slot| layout::removing(&hex(&slot.id().0), "00");
        store.put(&of(&two), "x".into()).unwrap();
        let e = remove(&store, &name(&one), Some(&two), &SystemRandom).unwrap_err();
        assert!(e.kind() == Kind::Conflict && e.to_string().contains("key change"), "{e}");
        assert_eq!(list(&store).unwrap().slots.len(), 3);
        assert_eq!(store.list(layout::REMOVING).unwrap(), [of(&two)], "its own mark is taken back");
        // Others are not kept from anything; what is marked is, until it is gone.
        remove(&store, &name(&three), Some(&one), &SystemRandom).unwrap();
        assert_eq!(store.list(layout::REMOVING).unwrap(), [of(&two)]);
        remove(&store, &name(&two), Some(&one), &SystemRandom).unwrap();
        assert_eq!(store.list(layout::REMOVING).unwrap(), [] as [String; 0]);
        let e = remove(&store, &name(&one), Some(&two), &SystemRandom).unwrap_err();
        assert!(e.kind() == Kind::Conflict && e.to_string().contains("meanwhile"), "{e}");
        remove(&store, &name(&one), None, &SystemRandom).unwrap();
        assert!(list(&store).unwrap().slots.is_empty());
    }
}
