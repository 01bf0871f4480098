//! `doctor` on drives that cannot be mounted as they are.

use crate::common::TestDrive;
use crate::lab::*;
use std::fs;
use std::path::Path;

/// It looked at the store and at the state directory, and not at whether the two go together: all was well, and the mount
/// was refused.
#[test]
fn the_doctor_finds_what_a_mount_is_refused_for() {
    let mut d = TestDrive::with("commit=3600");
    d.sh("echo a > a");
    d.sync();
    d.sh("echo b > b");
    d.sync();
    d.sh("echo unstored > c");
    d.umount_local();
    let whole = [d.store.clone(), d.state.clone()].map(|dir| {
        let kept = d.dir().join(format!("whole-{}", dir.file_name().unwrap().to_str().unwrap()));
        copy(&dir, &kept);
        (dir, kept)
    });
    let newest = objects(&d.store).into_iter().rfind(|n| n.contains("/heads/")).unwrap();
    let log = objects(&d.state).into_iter().rfind(|n| n.contains("journal/journal-")).unwrap();
    type Spoil<'a> = &'a dyn Fn(&TestDrive);
    let cut = |path: &Path| fs::write(path, "").unwrap();
    let cases: [(&str, Spoil, &str); 8] = [
        ("nothing", &|_| {}, ""),
        ("no newest head", &|d| fs::remove_file(d.store.join(&newest)).unwrap(), "damaged or gone"),
        ("no journal file", &|d| fs::remove_file(d.state.join(&log)).unwrap(), "journal"),
        ("no journal", &|d| fs::remove_dir_all(d.state.join("journal")).unwrap(), "journal"),
        ("an empty memory", &|d| cut(&d.state.join("memory")), "memory"),
        ("no memory", &|d| fs::remove_file(d.state.join("memory")).unwrap(), "memory"),
        ("no device", &|d| fs::remove_file(d.state.join("device")).unwrap(), "device"),
        ("an empty key", &|d| cut(&d.state.join("key")), "key"),
    ];
    for (what, spoil, told) in cases {
        spoil(&d);
        let before = objects(&d.state);
        let doctor = run(d.nacrefs(&["doctor", "--json"]).arg(&d.store));
        assert_eq!(objects(&d.state), before, "{what}: a look changed something");
        let told_all: serde_json::Value = serde_json::from_str(&doctor.out).unwrap();
        let parts = told_all["parts"].as_array().unwrap().iter();
        let mut checks = parts.flat_map(|part| part["findings"].as_array().unwrap());
        let mount = checks.find(|c| c["check"] == "mount");
        let mount = mount.unwrap_or_else(|| panic!("{what}: {told_all}"));
        let well = told.is_empty();
        assert_eq!(mount["state"], if well { "ok" } else { "fail" }, "{what}: {mount}");
        assert!(mount["what"].as_str().unwrap().contains(told), "{what}: {mount}");
        assert_eq!(doctor.exit == 0, well, "{what}: {doctor:?}");
        // It is right.
        assert_eq!(d.try_mount("commit=3600").status.success(), well, "{what}");
        if well {
            d.umount_local();
        }
        for (dir, kept) in &whole {
            fs::remove_dir_all(dir).unwrap();
            copy(kept, dir);
        }
    }
}
