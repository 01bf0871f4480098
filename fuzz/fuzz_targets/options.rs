#![no_main]
//! What people, fstab and mount(8) type: mount options, moments, sizes, places, command lines (src/cli).

use nacrefs::cli::metrics::Place;
use nacrefs::cli::options::MountOptions;
use nacrefs::cli::paths::{file_url, url_path};
use nacrefs::cli::values::{DrivePath, Moment, escape, escape_message, parse_size};
use nacrefs::cli::{args, fuzzing};
use nacrefs::commit::When;
use nacrefs_fuzz::{choice, target};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

target!(4, |data| {
    let (what, rest) = choice(data);
    let words =
        || -> Vec<OsString> { rest.split(|b| *b == 0).map(|w| OsStr::from_bytes(w).into()).collect() };
    match what % 8 {
        0 => {
            let words = words();
            let lists: Vec<&str> = words.iter().filter_map(|w| w.to_str()).collect();
            let parsed = MountOptions::parse(&lists);
            if parsed.is_err() {
                // Sloppy only makes more of them known.
                let _ = MountOptions::parse(&[&lists[..], &["sloppy"][..]].concat());
            }
            MountOptions::without_effect(&lists);
        }
        1 => {
            let Ok(text) = str::from_utf8(rest) else { return };
            if let Ok(When::Until(time)) = When::read(text) {
                let shown = Moment(time).to_string();
                // A whole second is shown as one, and read as one: up to its end.
                if !shown.starts_with('@') && time.nsec != 0 {
                    assert_eq!(When::read(&shown).ok(), Some(When::Until(time)), "{shown}");
                }
            }
        }
        2 => drop(fuzzing::helper_call(&words())),
        3 => drop(args::parse(words())),
        4 => {
            let Ok(text) = str::from_utf8(rest) else { return };
            parse_size(text);
            let _ = fuzzing::parse_level(text);
            if let Ok(Place::Port(at)) = Place::parse(text) {
                assert!(at.ip().is_loopback());
            }
        }
        5 => {
            if let Ok(path) = DrivePath::new(OsStr::from_bytes(rest)) {
                assert!(path.names().all(|n| !n.is_empty() && n != b"." && n != b".."));
                let json = serde_json::to_vec(&path).expect("a path has a form in JSON");
                assert_eq!(serde_json::from_slice::<DrivePath>(&json).expect("its own form"), path);
            }
        }
        6 => {
            let Ok(text) = str::from_utf8(rest) else { return };
            url_path(text);
            let path = Path::new(OsStr::from_bytes(rest));
            if path.is_absolute() && !rest.contains(&0) {
                assert_eq!(url_path(&file_url(path)).as_deref(), Some(path));
            }
        }
        _ => {
            let safe = |text: &str| !text.chars().any(|c| c.is_control());
            assert!(safe(&escape(rest)) && safe(&escape_message(&String::from_utf8_lossy(rest))));
        }
    }
});
