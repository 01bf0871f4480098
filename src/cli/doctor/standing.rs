//! How the machine mounts a drive by itself, a line of fstab or the file of a unit: whether that can be done.

use super::Finding;
use crate::cli::fstab::{Line, Origin, UnitSecret};
use crate::cli::mounts::{self, shown};
use crate::cli::options::MountOptions;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Where mount(8) looks for helpers, as Debian builds it.
const HELPERS: [&str; 3] = ["/sbin", "/sbin/fs.d", "/sbin/fs"];
/// Where systemd looks for the credentials that the template unit names (systemd.exec(5)).
const CREDENTIALS: [&str; 6] = [
    "/etc/credstore.encrypted",
    "/run/credstore.encrypted",
    "/usr/lib/credstore.encrypted",
    "/etc/credstore",
    "/run/credstore",
    "/usr/lib/credstore",
];

/// `key`: there is a key file that would be found without being named.
pub fn checks(line: &Line, key: bool) -> Vec<Finding> {
    let sbin = HELPERS.map(PathBuf::from);
    // Whoever looks into an automount waits for it to be mounted.
    let is_covered = mounts::list().is_ok_and(|all| all.iter().any(|mount| mount.point == line.point));
    let found = [
        options(line),
        helper(line, &sbin),
        (!is_covered).then(|| point(line, Path::new("/run/systemd/system").exists())).flatten(),
        (!key).then(|| secret(line, &CREDENTIALS.map(PathBuf::from))).flatten(),
    ];
    let found: Vec<_> = found.into_iter().flatten().collect();
    match found.is_empty() {
        true => vec![Finding::ok(check(line), format!("{} mounts it on {}", name(line), shown(&line.point)))],
        false => found,
    }
}

fn check(line: &Line) -> &'static str {
    match line.origin {
        Origin::Fstab(_) => "fstab",
        Origin::Unit { .. } => "unit",
    }
}

fn name(line: &Line) -> String {
    match &line.origin {
        Origin::Fstab(_) => format!("the line of {} in /etc/fstab", shown(&line.point)),
        Origin::Unit { file, .. } => shown(file),
    }
}

fn options(line: &Line) -> Option<Finding> {
    let parsed = MountOptions::parse(&[&line.options]);
    let twice = || (line.value("key_file").and(line.value("passphrase_file"))).is_some();
    let wrong = match parsed {
        Err(e) => e.chain(),
        Ok(_) if twice() => "mount options key_file= and passphrase_file=: one of them".to_owned(),
        Ok(_) => return None,
    };
    let todo = match line.origin {
        Origin::Fstab(_) => "mend the line, and `systemctl daemon-reload` where there is systemd",
        Origin::Unit { .. } => "mend OPTIONS= in it",
    };
    Some(Finding::fail(check(line), format!("{}: {wrong}", name(line)), todo))
}

/// What mount(8) runs for the line's type; for `fuse.nacrefs` libfuse's own does, too.
fn helper(line: &Line, sbin: &[PathBuf]) -> Option<Finding> {
    let Origin::Fstab(fs_type) = &line.origin else { return None };
    let mut names = vec![format!("mount.{fs_type}")];
    names.extend(fs_type.starts_with("fuse.").then(|| "mount.fuse".to_owned()));
    let is_there = |name: &String| sbin.iter().any(|dir| dir.join(name).exists());
    (!names.iter().any(is_there)).then(|| {
        let what = format!("mount(8) finds no helper for the type {fs_type}: {} is missing", {
            shown(&Path::new("/sbin").join(&names[0]))
        });
        let todo = "install nacrefs' package, or run mount-helper/install of the sources, as root";
        Finding::fail(check(line), what, todo)
    })
}

/// The mount point. systemd makes it at boot, and for units; mount(8) does not, unless it is told to.
fn point(line: &Line, systemd: bool) -> Option<Finding> {
    let makes = |option: &str| {
        ["x-mount.mkdir", "X-mount.mkdir"].iter().any(|o| option.strip_prefix(o).is_some_and(is_end))
    };
    let made = matches!(line.origin, Origin::Unit { .. }) || line.options.split(',').any(makes);
    let at = shown(&line.point);
    match fs::metadata(&line.point) {
        Ok(meta) if meta.is_dir() => None,
        Ok(_) => {
            Some(Finding::fail(check(line), format!("{at} is not a directory"), "move away what is there"))
        }
        Err(e) if e.kind() == ErrorKind::NotFound && made => None,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let todo = format!("`mkdir -p {at}`");
            Some(match systemd {
                true => Finding::warn(
                    check(line),
                    format!("{at} is missing: systemd makes it at boot, mount(8) does not"),
                    todo,
                ),
                false => {
                    Finding::fail(check(line), format!("{at}, where it is to be mounted, is missing"), todo)
                }
            })
        }
        // A dead mount is told by what looks at mounts.
        Err(_) => None,
    }
}

fn is_end(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('=')
}

/// A secret must be named, for nobody is asked at boot.
fn secret(line: &Line, credentials: &[PathBuf]) -> Option<Finding> {
    if line.key_file().or(line.passphrase_file()).is_some() {
        return None;
    }
    match &line.origin {
        // Whoever mounts it is at a terminal.
        Origin::Fstab(_) if line.has(&["noauto"]) => None,
        Origin::Fstab(_) => Some(Finding::warn(
            check(line),
            format!("{} names no key, and nobody can be asked at boot", name(line)),
            "add key_file= or passphrase_file= to it, or noauto",
        )),
        Origin::Unit { secret: UnitSecret::Other | UnitSecret::File(_), .. } => None,
        Origin::Unit { file, .. } => {
            let unit = file.file_stem().unwrap_or_default().to_string_lossy();
            let credential = format!("nacrefs.{unit}.passphrase");
            let is_there = credentials.iter().any(|dir| dir.join(&credential).exists());
            (!is_there).then(|| {
                let what = format!(
                    "{} names no key, and there is no credential {credential}: unless a drop-in of the unit has one, \
                     it cannot open the drive",
                    name(line)
                );
                Finding::warn(check(line), what, "add key_file= to OPTIONS, or make the credential")
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Fail, Warn};
    use super::super::says;
    use super::*;
    use crate::cli::fstab;

    fn line(text: &str) -> Line {
        fstab::parse(text).pop().unwrap()
    }

    #[test]
    fn options_that_mount_refuses_are_told() {
        assert_eq!(
            options(&line("/s /m nacrefs rw,user,nofail,x-systemd.automount,_netdev,key_file=/k")),
            None
        );
        says(options(&line("/s /m nacrefs nosuch=1")).unwrap(), Fail, "nosuch");
        says(options(&line("/s /m nacrefs key_file=/k,passphrase_file=/p")).unwrap(), Fail, "one of them");
    }

    #[test]
    fn a_helper_that_is_missing_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let sbin = [dir.path().join("none"), dir.path().to_owned()];
        let (native, fuse) = (line("/s /m nacrefs"), line("/s /m fuse.nacrefs"));
        says(helper(&native, &sbin).unwrap(), Fail, "/sbin/mount.nacrefs is missing");
        says(helper(&fuse, &sbin).unwrap(), Fail, "/sbin/mount.fuse.nacrefs is missing");
        fs::write(dir.path().join("mount.fuse"), "").unwrap();
        assert!(helper(&fuse, &sbin).is_none() && helper(&native, &sbin).is_some());
        std::os::unix::fs::symlink("/none", dir.path().join("mount.nacrefs")).unwrap();
        assert!(helper(&native, &sbin).is_some(), "a link to nothing");
        fs::write(dir.path().join("none"), "").unwrap();
        fs::remove_file(dir.path().join("mount.nacrefs")).unwrap();
        fs::write(dir.path().join("mount.nacrefs"), "").unwrap();
        assert_eq!(helper(&native, &sbin), None);
    }

    #[test]
    fn a_place_that_is_missing_is_told_unless_it_will_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str, options: &str| {
            line(&format!("/s {} nacrefs {options}", dir.path().join(name).display()))
        };
        assert_eq!(point(&at("", "rw"), false), None);
        says(point(&at("gone", "rw"), false).unwrap(), Fail, "mkdir -p");
        says(point(&at("gone", "rw"), true).unwrap(), Warn, "systemd makes it at boot");
        for made in ["x-mount.mkdir", "rw,X-mount.mkdir=0700"] {
            assert_eq!(point(&at("gone", made), false), None);
        }
        fs::write(dir.path().join("file"), "").unwrap();
        says(point(&at("file", "rw"), true).unwrap(), Fail, "not a directory");
    }

    #[test]
    fn a_line_that_names_no_key_is_told_for_nobody_is_asked_at_boot() {
        let dir = tempfile::tempdir().unwrap();
        let none = [dir.path().to_owned()];
        says(secret(&line("/s /m nacrefs rw"), &none).unwrap(), Warn, "names no key");
        for well in ["noauto,user", "key_file=/k", "passphrase_file=/p"] {
            assert_eq!(secret(&line(&format!("/s /m nacrefs {well}")), &none), None);
        }
        let unit = |secret| Line {
            origin: Origin::Unit { file: "/etc/nacrefs/drives/p.conf".into(), secret },
            ..line("/s /m nacrefs rw")
        };
        says(secret(&unit(UnitSecret::None), &none).unwrap(), Warn, "no credential nacrefs.p.passphrase");
        assert_eq!(secret(&unit(UnitSecret::Other), &none), None);
        assert_eq!(secret(&unit(UnitSecret::File("/p".into())), &none), None);
        fs::write(dir.path().join("nacrefs.p.passphrase"), "").unwrap();
        assert_eq!(secret(&unit(UnitSecret::None), &none), None);
    }
}
