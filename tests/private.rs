//! Promise 4: neither the store nor the state directory holds contents or names, in any form.

mod common;
use common::TestDrive;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const MARK: &str = "nacre-oyster-PEARL-4711-lustre";

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for e in fs::read_dir(dir).into_iter().flatten().flatten() {
        match e.file_type() {
            Ok(t) if t.is_dir() => out.extend(files(&e.path())),
            Ok(t) if t.is_file() => out.push(e.path()),
            _ => {}
        }
    }
    out
}

fn base64(bytes: &[u8]) -> String {
    const ABC: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for c in bytes.chunks_exact(3) {
        let n = u32::from(c[0]) << 16 | u32::from(c[1]) << 8 | u32::from(c[2]);
        for shift in [18, 12, 6, 0] {
            out.push(char::from(ABC[(n >> shift & 63) as usize]));
        }
    }
    out
}

/// Each form that a mark could be found in.
fn forms(mark: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let hex: String = mark.iter().map(|b| format!("{b:02x}")).collect();
    let utf16: Vec<u16> = mark.iter().map(|b| u16::from(*b)).collect();
    let mut out = vec![
        ("raw", mark.to_vec()),
        ("hex", hex.clone().into_bytes()),
        ("HEX", hex.to_uppercase().into_bytes()),
        ("utf-16le", utf16.iter().flat_map(|c| c.to_le_bytes()).collect()),
        ("utf-16be", utf16.iter().flat_map(|c| c.to_be_bytes()).collect()),
        ("reversed", mark.iter().rev().copied().collect()),
    ];
    for skip in 0..3 {
        out.push(("base64", base64(&mark[skip..]).into_bytes()));
    }
    out
}

fn contains(hay: &[u8], needle: &[u8]) -> bool {
    let first = needle[0];
    let mut at = 0;
    while let Some(i) = hay[at..].iter().position(|b| *b == first) {
        if hay[at + i..].starts_with(needle) {
            return true;
        }
        at += i + 1;
    }
    false
}

/// Compressed forms of a file's content: a stretch from the middle of each stream.
fn compressed(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut out = Vec::new();
    for quality in [0, 1, 2, 5, 6, 9, 11] {
        let mut stream = Vec::new();
        let params = brotli::enc::BrotliEncoderParams { quality, lgwin: 16, ..Default::default() };
        brotli::BrotliCompress(&mut &bytes[..], &mut stream, &params).unwrap();
        if stream.len() >= 64 {
            out.push(("brotli", stream[stream.len() / 2..stream.len() / 2 + 24].to_vec()));
        }
    }
    out
}

fn search(d: &TestDrive, needles: &[(&str, Vec<u8>)], when: &str) {
    let mut searched = 0;
    for dir in [&d.store, &d.state] {
        for path in files(dir) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            assert!(!name.contains(MARK), "{when}: {}", path.display());
            let bytes = fs::read(&path).unwrap();
            searched += bytes.len();
            for (form, needle) in needles {
                assert!(!contains(&bytes, needle), "{when}: {} holds the mark ({form})", path.display());
            }
        }
    }
    assert!(searched > 100_000, "{when}: there was something to search");
}

fn words(seed: u32, n: usize) -> String {
    let mut x = seed;
    let mut out = String::new();
    while out.len() < n {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        out.push_str(&format!("{MARK} word{} ", x >> 20));
    }
    out
}

#[test]
fn neither_store_nor_state_holds_contents_or_names() {
    let mut d = TestDrive::new();
    let (small, middle, large) = (words(1, 100), words(2, 20_000), words(3, 3_000_000));
    for (name, text) in [("small", &small), ("middle", &middle), ("large", &large)] {
        fs::write(d.mnt.join(format!("{MARK}-{name}")), text).unwrap();
    }
    d.sh(&format!("mkdir {MARK}-dir && ln -s /{MARK}/target link && setfattr -n user.{MARK} -v {MARK} {MARK}-dir; ln {MARK}-small {MARK}-dir/{MARK}-hard"));
    let mut needles = forms(MARK.as_bytes());
    needles.extend(compressed(middle.as_bytes()));
    search(&d, &needles, "while mounted");
    d.sync();
    d.sh(&format!("echo {MARK} again > {MARK}-late; sync {MARK}-late"));
    d.kill();
    search(&d, &needles, "after a kill");
    d.mount();
    assert_eq!(fs::read_to_string(d.mnt.join(format!("{MARK}-large"))).unwrap(), large);
    d.umount();
    search(&d, &needles, "after unmounting");
}

#[test]
fn two_drives_with_the_same_file_share_no_object_and_no_run_of_bytes() {
    let text = words(9, 400_000);
    let mut blocks: Vec<BTreeSet<Vec<u8>>> = Vec::new();
    let mut names: Vec<BTreeSet<String>> = Vec::new();
    for _ in 0..2 {
        let mut d = TestDrive::new();
        fs::write(d.mnt.join("same"), &text).unwrap();
        d.umount();
        let packs: Vec<PathBuf> =
            files(&d.store).into_iter().filter(|p| p.to_string_lossy().contains("/packs/")).collect();
        assert!(!packs.is_empty());
        names.push(packs.iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect());
        // Every 16 bytes at any offset of the second would be found at an aligned offset of the first.
        blocks.push(
            packs
                .iter()
                .flat_map(|p| {
                    fs::read(p).unwrap().windows(16).map(<[u8]>::to_vec).step_by(1).collect::<Vec<_>>()
                })
                .filter(|w| w.iter().any(|b| *b != 0))
                .take(600_000)
                .collect(),
        );
    }
    assert!(names[0].is_disjoint(&names[1]));
    let shared: Vec<_> = blocks[0].intersection(&blocks[1]).collect();
    assert!(shared.len() < 64, "{} runs of 16 bytes stand in both stores", shared.len());
}
