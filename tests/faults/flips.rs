//! Bits flipped in objects of the store, objects cut short, objects missing.

use crate::common::TestDrive;
use crate::lab::*;
use std::path::Path;

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
