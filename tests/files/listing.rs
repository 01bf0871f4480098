//! Listing directories while they change.

use crate::common::TestDrive;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A directory stream of the C library.
struct Listing(*mut libc::DIR);

impl Listing {
    fn open(path: &Path) -> Listing {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: a path ended by NUL.
        let dir = unsafe { libc::opendir(path.as_ptr()) };
        assert!(!dir.is_null());
        Listing(dir)
    }

    /// The next name but `.` and `..`.
    fn next(&mut self) -> Option<String> {
        loop {
            // SAFETY: the stream is open, and the entry is copied before the next call.
            let name = unsafe {
                let entry = libc::readdir64(self.0);
                if entry.is_null() {
                    return None;
                }
                CStr::from_ptr((*entry).d_name.as_ptr()).to_str().unwrap().to_string()
            };
            if name != "." && name != ".." {
                return Some(name);
            }
        }
    }

    fn tell(&self) -> libc::c_long {
        // SAFETY: the stream is open.
        unsafe { libc::telldir(self.0) }
    }

    fn seek(&mut self, at: libc::c_long) {
        // SAFETY: a position that telldir gave.
        unsafe { libc::seekdir(self.0, at) }
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        // SAFETY: the stream is open.
        unsafe { libc::closedir(self.0) };
    }
}

fn count(names: impl Iterator<Item = String>) -> BTreeMap<String, u32> {
    let mut seen = BTreeMap::new();
    for n in names {
        *seen.entry(n).or_insert(0) += 1;
    }
    seen
}

/// Lists 5,000 names while names come and go: each that stays is there exactly once, none is there twice.
#[test]
fn a_listing_is_stable_while_the_directory_changes() {
    let mut d = TestDrive::new();
    let dir = d.mnt.join("dir");
    fs::create_dir(&dir).unwrap();
    for i in 0..5000 {
        fs::write(dir.join(format!("stays{i}")), "").unwrap();
        if i % 10 == 0 {
            fs::write(dir.join(format!("goes{i}")), "").unwrap();
        }
    }
    for round in 0..3 {
        match round {
            1 => d.sync(),
            2 => d.remount(),
            _ => {}
        }
        // Sometimes with a listing in the kernel's cache.
        if round == 1 {
            assert_eq!(fs::read_dir(&dir).unwrap().count(), 5500);
        }
        let mut list = Listing::open(&dir);
        let mut seen = Vec::new();
        while let Some(n) = list.next() {
            let k = seen.len();
            seen.push(n);
            if k % 10 == 5 && k < 5000 {
                fs::write(dir.join(format!("comes{round}.{k}")), "").unwrap();
                fs::remove_file(dir.join(format!("goes{}", k - 5))).unwrap();
                fs::rename(dir.join(format!("comes{round}.{k}")), dir.join(format!("goes{}", k - 5)))
                    .unwrap();
                fs::write(dir.join(format!("passes{round}")), "").unwrap();
                fs::remove_file(dir.join(format!("passes{round}"))).unwrap();
            }
            if k % 1500 == 1499 {
                d.sync();
            }
        }
        let seen = count(seen.into_iter());
        for i in 0..5000 {
            assert_eq!(seen.get(&format!("stays{i}")), Some(&1), "round {round}: stays{i}");
        }
        // A name that was removed and made again may have been seen in both of its lives.
        for (name, n) in &seen {
            assert!(*n == 1 || name.starts_with("goes") && *n == 2, "round {round}: {name} {n} times");
        }
    }
}

#[test]
fn positions_in_a_listing_stay_true() {
    let mut d = TestDrive::new();
    let dir = d.mnt.join("dir");
    fs::create_dir(&dir).unwrap();
    for i in 0..3000 {
        fs::write(dir.join(format!("n{i}")), "").unwrap();
    }
    d.remount();
    let mut list = Listing::open(&dir);
    let mut all = Vec::new();
    let mut marks = Vec::new();
    loop {
        marks.push(list.tell());
        let Some(n) = list.next() else { break };
        all.push(n);
    }
    assert_eq!(all.len(), 3000);
    // Each position leads to the name that stood there; also from another stream, and after changes.
    for k in (0..3000).step_by(171).chain([2999, 0, 1500]) {
        list.seek(marks[k]);
        assert_eq!(list.next().as_ref(), Some(&all[k]), "position {k}");
    }
    fs::remove_file(dir.join(&all[1499])).unwrap();
    fs::write(dir.join("new"), "").unwrap();
    d.sync();
    let mut other = Listing::open(&dir);
    other.seek(marks[1500]);
    let rest: Vec<_> = std::iter::from_fn(|| other.next()).filter(|n| n != "new").collect();
    assert!(rest == all[1500..]);
    // The end stays the end.
    list.seek(marks[3000]);
    assert_eq!(list.next(), None);
    // Emptied while it is listed (rm -r does this).
    let mut list = Listing::open(&dir);
    let mut n = 0;
    while let Some(name) = list.next() {
        fs::remove_file(dir.join(name)).unwrap();
        n += 1;
    }
    assert_eq!(n, 3000);
    fs::remove_dir(&dir).unwrap();
}
