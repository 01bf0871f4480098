//! Bits flipped in objects of the store, objects cut short, objects missing.

use crate::common::TestDrive;
use crate::lab::*;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What sort of object a name is of.
fn kind_of(name: &str) -> &'static str {
    ["nacre.json", "slots/", "/heads/", "/packs/", "/index/", "/latest"]
        .into_iter()
        .find(|k| name.contains(k))
        .unwrap_or("?")
}

/// The part of an object's name that a report must have.
fn id_of(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap();
    match last.parse::<u64>() {
        Ok(version) => format!("head {version}"),
        Err(_) => last.to_owned(),
    }
}

fn check(d: &TestDrive, data: bool) -> Said {
    let mut c = d.nacrefs(&["check", "--json"]);
    if data {
        c.arg("--read-data");
    }
    run(c.arg(&d.store))
}

/// With one object not as it was: whatever is read is right or EIO, and the check tells of it. `live`: the index runs of the newest version.
fn one_fault(d: &mut TestDrive, want: &Tree, live: &[String], name: &str, what: &str) {
    let kind = kind_of(name);
    let id = id_of(name);
    let log = LogTail::of(d);
    let out = Said::from(d.try_mount("commit=3600"));
    let mut bad = Vec::new();
    if out.exit == 0 {
        bad = right_or_eio(&d.mnt, want, what).0;
        let said = log.text();
        assert!(
            bad.is_empty() || said.contains("ERROR"),
            "{what}: EIO for {bad:?} and no line in the log: {said}"
        );
        d.umount();
    } else {
        assert!([3, 5, 6, 7].contains(&out.exit), "{what}: {out:?}");
        let _ = out.one_line(&[]);
    }
    let said = log.text();
    assert!(!said.contains(MARK) && !said.contains("panicked"), "{what}: {said}");

    for data in [false, true] {
        let found = check(d, data);
        let told = format!("{}{}", found.out, found.err);
        // A hint may be anything; padding and content are only looked at when data is read; what is sealed in a
        // slot only its own secret can tell, and not from a wrong one.
        match (kind, data) {
            ("/latest", _) => assert!([0, 5].contains(&found.exit), "{what}: {found:?}"),
            // What only older versions name, finds nothing any more.
            ("/index/", _) if !live.iter().any(|run| run == name) => {
                assert_eq!(found.exit, 0, "{what}: {found:?}");
            }
            ("/packs/", false) => assert!([0, 5].contains(&found.exit), "{what}: {found:?}"),
            // A machine that has seen the newest version calls its absence a rollback.
            ("/heads/", _) if found.exit == 6 => {
                assert!(what.ends_with("missing") && told.contains("rolled back"), "{what}: {found:?}");
            }
            ("slots/", _) => {
                // Nothing but its absence tells of a slot that is missing.
                let named = found.exit == 0 || told.contains(&id) || told.contains("has no key slot for");
                assert!([0, 3, 5].contains(&found.exit) && named, "{what}: {found:?}");
            }
            _ => {
                assert_eq!(found.exit, 5, "{what}: {found:?}");
                let name = name.rsplit('/').next().unwrap();
                assert!(told.contains(&id) || told.contains(name), "{what}: {id} is not named: {found:?}");
            }
        }
        if data && found.exit == 5 && !found.out.is_empty() {
            for path in &bad {
                let Some(Node::File(_)) = want.get(path) else { continue };
                let name = path.file_name().unwrap().to_str().unwrap();
                let above =
                    path.parent().filter(|p| *p != Path::new("")).map(|p| p.to_str().unwrap().to_owned());
                // Of the names of one file, one is told.
                let twin = name.ends_with("-hard") && told.contains(&format!("{MARK}-small"))
                    || name.ends_with("-small") && told.contains(&format!("{MARK}-hard"));
                let named = told.contains(name)
                    || twin
                    || above.is_some_and(|p| told.contains(&p))
                    || bad.contains(&"".into());
                assert!(
                    named || told.contains("shells"),
                    "{what}: {} cannot be read and is not named: {found:?}",
                    path.display()
                );
            }
        }
    }
}

fn all_is_well(d: &mut TestDrive, want: &Tree) {
    assert_eq!(check(d, true).exit, 0);
    d.mount();
    assert_eq!(right_or_eio(&d.mnt, want, "restored").0.len(), 0);
    d.umount();
}

#[test]
fn a_flipped_bit_anywhere_is_eio_or_harmless_and_found_by_check() {
    let (mut d, want) = furnished();
    let live = index_runs(&d);
    let seed: u64 = std::env::var("NACREFS_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_261_122);
    println!("NACREFS_SEED={seed} replays this");
    let rounds = if full() { 600 } else { 60 };
    let names = objects(&d.store);
    let by_kind = |k: &str| names.iter().filter(|n| kind_of(n) == k).cloned().collect::<Vec<_>>();
    let kinds = ["/packs/", "/packs/", "/packs/", "/heads/", "/index/", "slots/", "nacre.json", "/latest"];
    for round in 0..rounds {
        let dice = |n: u64, of: usize| {
            let b = noise(seed ^ (round as u64 * 8 + n + 1), 8);
            (u64::from_le_bytes(b.try_into().unwrap()) % of as u64) as usize
        };
        let of_kind = by_kind(kinds[round % kinds.len()]);
        assert!(!of_kind.is_empty(), "no object {}", kinds[round % kinds.len()]);
        let name = &of_kind[dice(0, of_kind.len())];
        let bent = Bent::keep(&d.store, name);
        // The beginning, the end (the footer, the padding before it), and anywhere.
        let at = match dice(1, 4) {
            0 => dice(2, bent.len().min(48)),
            1 => bent.len() - 1 - dice(2, bent.len().min(700)),
            _ => dice(2, bent.len()),
        };
        let bit = dice(3, 8) as u8;
        bent.flip(at, bit);
        one_fault(
            &mut d,
            &want,
            &live,
            name,
            &format!("seed {seed} round {round}: {name} byte {at} of {} bit {bit}", bent.len()),
        );
    }
    all_is_well(&mut d, &want);
}

#[test]
fn objects_that_are_missing_or_cut_short_are_named() {
    let (mut d, want) = furnished();
    let live = index_runs(&d);
    let names = objects(&d.store);
    let mut done = std::collections::BTreeMap::<&str, usize>::new();
    for name in &names {
        let kind = kind_of(name);
        let n = done.entry(kind).or_default();
        *n += 1;
        if *n > 2 && !full() {
            continue;
        }
        let bent = Bent::keep(&d.store, name);
        bent.remove();
        one_fault(&mut d, &want, &live, name, &format!("{name} missing"));
        for len in [0, 1, bent.len() / 2, bent.len() - 1] {
            if *n > 1 && len != bent.len() / 2 {
                continue;
            }
            bent.cut(len);
            one_fault(&mut d, &want, &live, name, &format!("{name} cut to {len}"));
        }
    }
    assert!(done.len() >= 6, "{done:?}");
    all_is_well(&mut d, &want);
}

fn damage(path: &Path, roll: &mut impl FnMut(usize) -> usize) {
    let mut bytes = match fs::read(path) {
        Ok(bytes) if !bytes.is_empty() => bytes,
        _ => return,
    };
    match roll(12) {
        0 => return fs::remove_file(path).unwrap(),
        1 => bytes.truncate(roll(bytes.len())),
        _ => {
            let at = roll(bytes.len());
            bytes[at] ^= 1 << roll(8);
        }
    }
    fs::write(path, bytes).unwrap();
}

/// Packs and index runs of the store, and this machine's own index.
#[test]
fn many_damages_at_once_spoil_what_they_hit_and_nothing_else() {
    let (mut d, want) = furnished();
    let kept = ["store", "state"].map(|name| (d.dir().join(name), d.dir().join(format!("{name}-kept"))));
    kept.iter().for_each(|(from, to)| copy(from, to));
    let seed: u64 = std::env::var("NACREFS_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_261_124);
    println!("NACREFS_SEED={seed} replays this");
    let rounds = if full() { 150 } else { 15 };
    let (mut refused, mut met) = (0, 0);
    for round in 0..rounds {
        for (at, from) in &kept {
            fs::remove_dir_all(at).unwrap();
            copy(from, at);
        }
        let bytes = noise(seed ^ (round + 1) << 20, 4096);
        let mut dice = bytes.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().unwrap()) as usize);
        let mut roll = |of: usize| dice.next().unwrap() % of;
        let names: Vec<_> =
            objects(&d.store).into_iter().filter(|n| ["/packs/", "/index/"].contains(&kind_of(n))).collect();
        let mut what = format!("seed {seed} round {round}:");
        for _ in 0..2 + roll(12) {
            let name = &names[roll(names.len())];
            damage(&d.store.join(name), &mut roll);
            what += &format!(" {name}");
        }
        let index = d.state.join("index");
        match &objects(&index)[..] {
            names if !names.is_empty() && roll(2) == 0 => {
                damage(&index.join(&names[roll(names.len())]), &mut roll)
            }
            _ => {}
        }

        let found = check(&d, true);
        let out = Said::from(d.try_mount("commit=3600"));
        if out.exit != 0 {
            let out = out.expect(5, &[]);
            assert!(
                ["damaged or gone", "no version can be read"].iter().any(|t| out.err.contains(t)),
                "{what}: {out:?}"
            );
            assert_eq!(found.exit, 5, "{what}: {found:?}");
            refused += 1;
            continue;
        }
        // What its own index still has, this machine can read; the check is about the store alone.
        right_or_eio(&d.mnt, &want, &what);
        d.umount_local();
        let mut other = d.other_machine();
        let mut bad = right_or_eio(&other.mnt, &want, &what).0;
        let attributed: PathBuf = format!("{MARK}-small").into();
        let xattr =
            Command::new("getfattr").args(["-n", "user.big"]).arg(other.mnt.join(&attributed)).output();
        if !xattr.unwrap().status.success() {
            bad.push(attributed);
        }
        other.umount_local();
        let told: serde_json::Value =
            serde_json::from_str(&found.out).unwrap_or_else(|e| panic!("{what}: {e}: {found:?}"));
        let files = told["problems"].as_array().unwrap().iter().flat_map(|p| p["files"].as_array().unwrap());
        let now = files.map(|f| f.as_str().unwrap()).filter(|f| !f.contains(" (version "));
        // Of the names of one file, one is told.
        let one_name = |path: &str| PathBuf::from(path.trim_start_matches('/').replace("-hard", "-small"));
        let named: BTreeSet<_> = now.map(one_name).collect();
        let bad: BTreeSet<_> = bad.iter().map(|path| one_name(path.to_str().unwrap())).collect();
        for path in &bad {
            let is_named = path.ancestors().any(|p| named.contains(p));
            assert!(is_named, "{what}: {} cannot be read and is not named: {found:?}", path.display());
        }
        for path in &named {
            assert!(bad.contains(path), "{what}: {} is named, but can be read: {found:?}", path.display());
        }
        met += usize::from(!bad.is_empty());

        // What is not hit can be written to, and is stored.
        d.mount();
        let new = noise(seed + round, 300_000);
        fs::write(d.mnt.join("new"), &new).unwrap();
        d.sync();
        d.umount();
        fs::remove_dir_all(&d.state).unwrap();
        d.mount();
        assert!(fs::read(d.mnt.join("new")).unwrap() == new, "{what}");
        fs::remove_file(d.mnt.join("new")).unwrap();
        right_or_eio(&d.mnt, &want, &what);
        d.umount();
    }
    println!("{met} rounds with something out of reach, {refused} without the newest version");
    assert!(met > 0 && refused < rounds);
}
