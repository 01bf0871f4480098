//! Many processes at one directory and one file, over commits: every call ends well and soon, and what they wrote is there.

mod common;

use common::{TestDrive, full};
use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};

const PROCESSES: usize = 64;

/// What a call may take where 64 processes share two cores: far below what a lost wake-up or a deadlock takes.
const PATIENCE: f64 = 60.0;

/// Lets the crowd in; gives the slowest call of each, in seconds.
fn crowd(dir: &Path, rounds: usize) -> Vec<f64> {
    std::fs::write(dir.join("log"), "").unwrap();
    std::fs::write(dir.join("shared"), vec![0; 4096]).unwrap();
    std::fs::write(dir.join("saved"), "0 0\n").unwrap();
    let one = |me: usize| {
        Command::new("python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/crowd.py"))
            .arg(dir)
            .args([me.to_string(), rounds.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let children: Vec<_> = (0..PROCESSES).map(one).collect();
    let mut slowest = Vec::new();
    for child in children {
        let output = common::ok(child.wait_with_output());
        let said = String::from_utf8(output.stdout).unwrap();
        slowest.push(said.split(' ').next().unwrap().parse().unwrap());
    }
    slowest
}

/// Everything that the crowd wrote, once.
fn look(dir: &Path, rounds: usize) {
    let shared = std::fs::read(dir.join("shared")).unwrap();
    assert_eq!(shared[..8], ((PROCESSES * rounds) as u64).to_le_bytes(), "the counter under its lock");
    assert_eq!(shared.len(), 4096 + PROCESSES * 3000);
    for (me, place) in shared[4096..].chunks(3000).enumerate() {
        assert!(place.iter().all(|b| usize::from(*b) == me + 1), "the place of {me}");
    }
    let log = std::fs::read_to_string(dir.join("log")).unwrap();
    let mut next = HashMap::<usize, usize>::new();
    for line in log.lines() {
        let (me, n): (usize, usize) = (line[..4].parse().unwrap(), line[5..11].parse().unwrap());
        let letter = b'a' + (me % 26) as u8;
        assert!(line[12..].bytes().all(|b| b == letter), "lines are mixed up: {line}");
        let expected = next.entry(me).or_default();
        assert_eq!(*expected, n, "line of {me}");
        *expected += 1;
    }
    assert!(next.len() == PROCESSES && next.values().all(|n| *n == rounds), "{next:?}");
    let saved = std::fs::read_to_string(dir.join("saved")).unwrap();
    assert!(saved.ends_with(&format!(" {}\n", rounds - 1)), "{saved}");
    assert!(
        !std::fs::read_dir(dir).unwrap().any(|e| e
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with("own-"))
    );
}

#[test]
fn sixty_four_processes_at_one_directory_and_one_file_lose_nothing_and_wait_for_none_long() {
    let rounds = if full() { 1000 } else { 60 };
    let mut drive = TestDrive::with("commit=1");
    let dir = drive.mnt.join("crowd");
    std::fs::create_dir(&dir).unwrap();
    let slowest = crowd(&dir, rounds).into_iter().fold(0.0, f64::max);
    eprintln!("the slowest call of {PROCESSES} processes of {rounds} rounds took {slowest:.1} s");
    assert!(slowest < PATIENCE, "a call took {slowest} s");
    look(&dir, rounds);
    // What was acknowledged is what is stored.
    drive.move_to_a_new_machine();
    look(&drive.mnt.join("crowd"), rounds);
    drive.sh("cd crowd && ls -lR . && cat *");
}
