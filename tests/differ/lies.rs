//! The machinery finds what is different: here somebody lies about the drive, or changes it behind its back.

use crate::arena::{Arena, Lie};
use crate::calls::*;
use crate::generate;
use crate::outcome::{Errno, Got, Outcome};
use crate::shrink::{DEEP, shrink};
use libc::*;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::path::Path;

/// Within so many calls each lie must be found.
const MOST: usize = 2000;

/// Each lie must be found among few sequences, and be told in no more calls than given.
#[track_caller]
fn is_found(arena: &mut Arena, lie: Lie, kind: &str, most: usize) {
    arena.lie = Some(lie);
    let mut calls = 0;
    for seed in 1.. {
        // Lies are told without mounting anew, which takes longest.
        let steps = generate::steps(seed, 40).into_iter();
        let steps: Vec<Step> =
            steps.filter(|s| !matches!(s.1, Call::Commit {} | Call::Remount {} | Call::Crash {})).collect();
        calls += steps.len();
        assert!(calls <= MOST, "{kind}: not found in {MOST} calls");
        let Err(failure) = arena.run(&steps, DEEP) else { continue };
        // What differs by itself is for another test to tell.
        if !failure.difference.kind.starts_with(kind) {
            continue;
        }
        let (few, small) = shrink(arena, &steps, &failure);
        assert!(few.len() <= most, "{few:#?}\n{small:?}");
        arena.lie = None;
        assert!(arena.run(&few, 1).is_ok(), "without the lie there is no difference");
        return;
    }
}

#[test]
fn a_lie_about_one_errno_is_found_and_told_in_two_calls() {
    fn lie(step: &Step, outcome: &mut Outcome, _: &Path) {
        if let (Call::Mkdir { .. }, Err(e)) = (step.1, outcome)
            && e.0 == EEXIST
        {
            *e = Errno(EPERM);
        }
    }
    is_found(&mut Arena::new(), lie, "Mkdir", 2);
}

#[test]
fn a_byte_that_is_read_wrong_is_found() {
    fn lie(step: &Step, outcome: &mut Outcome, _: &Path) {
        if let (Call::Pread { .. }, Ok(Got::Bytes(bytes))) = (step.1, outcome)
            && let Some(byte) = bytes.get_mut(4096)
        {
            *byte ^= 1;
        }
    }
    is_found(&mut Arena::new(), lie, "Pread", 3);
}

#[test]
fn wrong_modes_owners_times_bytes_and_names_are_found() {
    fn mode(step: &Step, outcome: &mut Outcome, root: &Path) {
        if let (Call::Rename { .. }, Ok(_)) = (step.1, outcome) {
            fs::set_permissions(root, Permissions::from_mode(0o776)).unwrap();
        }
    }
    fn owner(step: &Step, outcome: &mut Outcome, root: &Path) {
        if let (Call::Symlink { .. }, Ok(_)) = (step.1, outcome) {
            chown(root, Some(1), None).unwrap();
        }
    }
    fn time(step: &Step, outcome: &mut Outcome, root: &Path) {
        if let (Call::Unlink { .. }, Ok(_)) = (step.1, outcome) {
            File::open(root).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
        }
    }
    fn bytes(step: &Step, outcome: &mut Outcome, root: &Path) {
        if let (Call::Ftruncate { .. }, Ok(_)) = (step.1, outcome)
            && let Ok(file) = File::options().write(true).open(root.join("a"))
        {
            let times = fs::FileTimes::new().set_modified(file.metadata().unwrap().modified().unwrap());
            file.write_all_at(b"x", 17).and_then(|()| file.set_times(times)).unwrap();
        }
    }
    fn name(step: &Step, outcome: &mut Outcome, root: &Path) {
        if let (Call::Rmdir { .. }, Ok(_)) = (step.1, outcome) {
            fs::write(root.join("left"), "").unwrap();
        }
    }
    let arena = &mut Arena::new();
    is_found(arena, mode, "mode", 3);
    is_found(arena, owner, "owner", 1);
    // Unlink in another directory is not to move this one's times.
    is_found(arena, time, "mtime", 5);
    is_found(arena, bytes, "content", 3);
    is_found(arena, name, "names", 2);
}

#[test]
fn what_a_crash_lost_is_found() {
    // ext4 has what the drive lost; here the drive's side loses it by hand.
    fn lie(step: &Step, outcome: &mut Outcome, root: &Path) {
        if let (Call::Getcwd {}, Ok(_)) = (step.1, outcome) {
            let _ = fs::remove_file(root.join("a"));
        }
    }
    is_found(&mut Arena::new(), lie, "names", 2);
}
