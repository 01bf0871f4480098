//! What every backend must do, run over each of them.

use super::faulty::{Fault, Faulty};
use super::local::Local;
use super::memory::Memory;
use super::objects::{Created, Objects, Race, create_verified, probe};
use super::remote::Remote;
use crate::error::{Kind, Result};
use crate::sys::SystemRandom;
use bytes::Bytes;
use std::sync::Arc;

/// Each backend, with what must live as long.
fn backends() -> Vec<(&'static str, Arc<dyn Objects>, Option<tempfile::TempDir>)> {
    let dir = tempfile::tempdir().unwrap();
    let local = Local::open(&dir.path().join("new/store"), true, false).unwrap();
    vec![
        ("file", Arc::new(local), Some(dir)),
        ("memory", Arc::new(Remote::memory().unwrap()), None),
        ("simulated", Arc::new(Memory::new()), None),
        ("faultless", Arc::new(Faulty::new(Arc::new(Memory::new()), |_| Fault::Pass)), None),
    ]
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn kind<T>(result: Result<T>) -> Kind {
    result.err().map(|e| e.kind()).expect("an error")
}

#[test]
fn objects_are_put_read_listed_and_deleted() {
    for (name, store, _dir) in backends() {
        let s = &*store;
        assert_eq!(kind(s.get("a/b")), Kind::NotFound, "{name}");
        assert_eq!(kind(s.get_range("a/b", 0, 1)), Kind::NotFound, "{name}");
        assert_eq!(kind(s.size("a/b")), Kind::NotFound, "{name}");
        assert!(s.list("").unwrap().is_empty() && s.list("a").unwrap().is_empty(), "{name}");
        s.delete("a/b").unwrap();
        s.put("a/b", bytes("hello")).unwrap();
        s.put("a/b", bytes("hello, world")).unwrap();
        s.put("a/c/d", bytes("")).unwrap();
        s.put("ab", bytes("x")).unwrap();
        assert_eq!(s.get("a/b").unwrap(), "hello, world", "{name}");
        assert_eq!(s.get("a/c/d").unwrap(), "", "{name}");
        assert_eq!(s.size("a/b").unwrap(), 12, "{name}");
        assert_eq!(s.get_range("a/b", 7, 5).unwrap(), "world", "{name}");
        assert_eq!(s.get_range("a/b", 12, 0).unwrap(), "", "{name}");
        for (start, len) in [(7, 6), (12, 1), (100, 1), (u64::MAX, 1)] {
            let short = s.get_range("a/b", start, len);
            assert!(matches!(kind(short), Kind::Damage | Kind::Failed), "{name} {start} {len}");
        }
        let mut all = s.list("").unwrap();
        all.sort();
        assert_eq!(all, ["a/b", "a/c/d", "ab"], "{name}");
        let mut below = s.list("a").unwrap();
        below.sort();
        assert_eq!(below, ["a/b", "a/c/d"], "{name}");
        s.settle("a/b").unwrap();
        s.delete("a/b").unwrap();
        assert_eq!(kind(s.get("a/b")), Kind::NotFound, "{name}");
        assert_eq!(kind(s.get_range("a/b", 0, 1)), Kind::NotFound, "{name}");
        assert!(s.put("../x", bytes("")).is_err() && s.create("a#1", bytes("")).is_err(), "{name}");
    }
}

#[test]
fn a_name_is_created_once() {
    for (name, store, _dir) in backends() {
        assert_eq!(store.create("h/1", bytes("one")).unwrap(), Created::Created, "{name}");
        assert_eq!(store.create("h/1", bytes("two")).unwrap(), Created::Exists, "{name}");
        assert_eq!(store.get("h/1").unwrap(), "one", "{name}");
        assert_eq!(create_verified(&*store, "h/1", &bytes("one")).unwrap(), Race::Won, "{name}");
        assert_eq!(create_verified(&*store, "h/1", &bytes("two")).unwrap(), Race::Lost, "{name}");
        store.put("h/1", bytes("three")).unwrap();
        assert_eq!(store.get("h/1").unwrap(), "three", "{name}");
    }
}

#[test]
fn of_32_creators_at_once_one_wins() {
    for (name, store, _dir) in backends() {
        for round in 0..5 {
            let object = format!("race/{round}");
            let winners: Vec<u8> = std::thread::scope(|scope| {
                let racers: Vec<_> = (0..32u8)
                    .map(|n| {
                        let (store, object) = (&store, &object);
                        scope.spawn(move || {
                            let mine = Bytes::from(vec![n; 1000]);
                            (n, create_verified(&**store, object, &mine).unwrap())
                        })
                    })
                    .collect();
                let ended = racers.into_iter().map(|r| r.join().unwrap());
                ended.filter(|(_, race)| *race == Race::Won).map(|(n, _)| n).collect()
            });
            assert_eq!(winners.len(), 1, "{name}");
            assert_eq!(store.get(&object).unwrap(), vec![winners[0]; 1000], "{name}");
        }
    }
}

#[test]
fn a_store_is_probed_and_left_clean() {
    for (name, store, _dir) in backends() {
        probe(&*store, &SystemRandom).unwrap();
        assert!(store.list("").unwrap().is_empty(), "{name}");
    }
}

/// A store whose create-if-absent is check, then set: it passes in turn and fails the race.
struct CheckThenSet(Memory);

impl Objects for CheckThenSet {
    fn get(&self, name: &str) -> Result<Bytes> {
        self.0.get(name)
    }
    fn get_range(&self, name: &str, start: u64, len: usize) -> Result<Bytes> {
        self.0.get_range(name, start, len)
    }
    fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.0.put(name, bytes)
    }
    fn create(&self, name: &str, bytes: Bytes) -> Result<Created> {
        if self.0.get(name).is_ok() {
            return Ok(Created::Exists);
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        self.0.put(name, bytes).map(|()| Created::Created)
    }
    fn list(&self, dir: &str) -> Result<Vec<String>> {
        self.0.list(dir)
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.0.delete(name)
    }
    fn size(&self, name: &str) -> Result<u64> {
        self.0.size(name)
    }
}

#[test]
fn a_store_that_only_seems_to_create_if_absent_is_found_out() {
    let e = probe(&CheckThenSet(Memory::new()), &SystemRandom).unwrap_err();
    assert!(e.to_string().contains("at once"), "{e}");
    // One that says "created" and keeps what was there, and one that is full.
    let hide = Faulty::new(Arc::new(Memory::new()), |call| match call.nth {
        1 => Fault::Hide,
        _ => Fault::Pass,
    });
    assert!(probe(&hide, &SystemRandom).unwrap_err().to_string().contains("overwrites"));
    let full = Faulty::new(Arc::new(Memory::new()), |_| Fault::FailBefore(Kind::NoSpace));
    assert_eq!(kind(probe(&full, &SystemRandom)), Kind::NoSpace);
}

#[test]
fn a_lost_reply_is_no_lost_race() {
    let create = |fault: fn(u64) -> Fault, before: Option<&'static str>| {
        let inner = Arc::new(Memory::new());
        if let Some(text) = before {
            inner.put("h", bytes(text)).unwrap();
        }
        create_verified(&Faulty::new(inner, move |c| fault(c.nth)), "h", &bytes("mine"))
    };
    fn lost(n: u64) -> Fault {
        if n == 0 { Fault::FailAfter(Kind::Away) } else { Fault::Pass }
    }
    fn refused(n: u64) -> Fault {
        if n == 0 { Fault::FailBefore(Kind::NoSpace) } else { Fault::Pass }
    }
    fn torn(n: u64) -> Fault {
        if n == 0 { Fault::Tear(2) } else { Fault::Pass }
    }
    fn silent(_: u64) -> Fault {
        Fault::FailAfter(Kind::Away)
    }
    assert_eq!(create(lost, None).unwrap(), Race::Won);
    assert_eq!(create(lost, Some("theirs")).unwrap(), Race::Lost);
    assert_eq!(create(lost, Some("mine")).unwrap(), Race::Won);
    assert_eq!(kind(create(refused, None)), Kind::NoSpace);
    assert_eq!(create(refused, Some("theirs")).unwrap(), Race::Lost);
    assert_eq!(create(torn, Some("theirs")).unwrap(), Race::Lost);
    assert_eq!(kind(create(silent, None)), Kind::Away);
    assert_eq!(kind(create(silent, Some("theirs"))), Kind::Away);
}

#[test]
fn exists_without_an_object_is_no_lost_race() {
    // "Exists" is answered because another's object is there for the creator, hidden from the reader.
    let inner = Arc::new(Memory::new());
    inner.put("h", bytes("x")).unwrap();
    let store = Faulty::new(inner, |call| match call.op {
        super::faulty::Op::Get => Fault::Hide,
        _ => Fault::Pass,
    });
    assert_eq!(kind(create_verified(&store, "h", &bytes("mine"))), Kind::Away);
}
