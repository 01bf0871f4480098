//! How this machine mounts drives by itself: the lines of /etc/fstab (fstab(5)) that are ours, and the files of our
//! units, `drives/NAME.conf` (nacrefs@.service(8)).

use super::mounts::unescape;
use super::paths::Locations;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// How the machine mounts a drive by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The store, as a path or a URL.
    pub store: PathBuf,
    pub point: PathBuf,
    /// Between commas.
    pub options: String,
    pub origin: Origin,
}

/// Where a [`Line`] stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In /etc/fstab, with this type.
    Fstab(String),
    /// In the file of a unit.
    Unit { file: PathBuf, secret: UnitSecret },
}

/// What a unit's file says of the secret beside the options: the variables `NACREFS_PASSPHRASE…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitSecret {
    None,
    File(PathBuf),
    /// The passphrase itself, or a command that prints it.
    Other,
}

impl Line {
    /// The value of the last option of this name.
    pub fn value<'a>(&'a self, name: &str) -> Option<&'a str> {
        let value = |option: &'a str| option.strip_prefix(name)?.strip_prefix('=').filter(|v| !v.is_empty());
        self.options.split(',').rev().find_map(value)
    }

    /// Whether one of these options is among its own.
    pub fn has(&self, any: &[&str]) -> bool {
        self.options.split(',').any(|option| any.contains(&option))
    }

    pub fn key_file(&self) -> Option<PathBuf> {
        self.value("key_file").map(PathBuf::from)
    }

    pub fn passphrase_file(&self) -> Option<PathBuf> {
        let in_unit = || match &self.origin {
            Origin::Unit { secret: UnitSecret::File(file), .. } => Some(file.clone()),
            _ => None,
        };
        // A key file in the options counts more than the environment.
        self.value("passphrase_file")
            .map(PathBuf::from)
            .or_else(|| in_unit().filter(|_| self.key_file().is_none()))
    }
}

/// Every line of ours: of /etc/fstab, of the units of the machine, and of the caller's.
pub fn all() -> Vec<Line> {
    let mut found = ours();
    found.extend(units(Path::new("/etc/nacrefs"), Path::new("/mnt")));
    if let (Ok(places), Some(home)) = (Locations::of_caller(), std::env::home_dir())
        && let Some(config) = places.key.parent().filter(|config| *config != Path::new("/etc/nacrefs"))
    {
        found.extend(units(config, &home));
    }
    found
}

/// Reads /etc/fstab; one that cannot be read has no lines.
pub fn ours() -> Vec<Line> {
    parse(&std::fs::read_to_string("/etc/fstab").unwrap_or_default())
}

/// Lines of ours in the text of an fstab.
pub fn parse(text: &str) -> Vec<Line> {
    text.lines().filter(|l| !l.trim_start().starts_with('#')).filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Line> {
    let mut fields = line.split_whitespace();
    let (store, point, fs_type) = (fields.next()?, fields.next()?, fields.next()?);
    let path = |field: &str| unescape(field.as_bytes());
    let options = path(fields.next().unwrap_or_default()).to_string_lossy().into_owned();
    let ours = fs_type == "nacrefs" || fs_type == "fuse.nacrefs";
    let origin = Origin::Fstab(fs_type.to_owned());
    ours.then(|| Line { store: path(store), point: path(point), options, origin })
}

/// What the units' files in `drives` of a configuration directory say, as lines of fstab would; without DIR they mount in
/// `base`. What cannot be read says nothing.
pub fn units(config: &Path, base: &Path) -> Vec<Line> {
    let files = std::fs::read_dir(config.join("drives")).into_iter().flatten().flatten();
    let read = |file: std::fs::DirEntry| {
        let name = PathBuf::from(file.file_name());
        let unit = (name.extension()? == "conf").then(|| name.file_stem())??;
        // A pipe in this place would have no end.
        let is_file = file.file_type().is_ok_and(|t| !t.is_fifo());
        let text = is_file.then(|| std::fs::read_to_string(file.path()).ok())??;
        parse_unit(&text, file.path(), &base.join(unit))
    };
    files.filter_map(read).collect()
}

/// An environment file (systemd.exec(5)) with STORE, and may be DIR and OPTIONS; `point` is where it mounts without DIR.
fn parse_unit(text: &str, file: PathBuf, point: &Path) -> Option<Line> {
    let text = text.replace("\\\n", "");
    let value = |name: &str| {
        let line = text.lines().rev().find_map(|l| l.trim().strip_prefix(name)?.strip_prefix('='))?.trim();
        let bare = ['"', '\''].iter().find_map(|q| line.strip_prefix(*q)?.strip_suffix(*q));
        Some(bare.unwrap_or(line).to_owned()).filter(|value| !value.is_empty())
    };
    let point = value("DIR").map_or_else(|| point.to_owned(), PathBuf::from);
    let secret = match value("NACREFS_PASSPHRASE_FILE") {
        Some(file) => UnitSecret::File(file.into()),
        None if value("NACREFS_PASSPHRASE").or(value("NACREFS_PASSPHRASE_COMMAND")).is_some() => {
            UnitSecret::Other
        }
        None => UnitSecret::None,
    };
    Some(Line {
        store: value("STORE")?.into(),
        point,
        options: value("OPTIONS").unwrap_or_default(),
        origin: Origin::Unit { file, secret },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_ours_are_read_with_their_blanks_and_options() {
        let lines = parse(
            "# /srv/s /mnt nacrefs state_dir=/no\n\nUUID=1 / ext4 defaults 0 1\n\
             /srv/my\\040store  /mnt/d nacrefs ro,state_dir=/var/s\\040t,nofail 0 0\nfile:///s /b fuse.nacrefs\n",
        );
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].store.as_path(), lines[1].options.as_str()), (Path::new("/srv/my store"), ""));
        assert_eq!((lines[0].value("state_dir"), lines[0].value("state")), (Some("/var/s t"), None));
        assert_eq!(
            (&lines[1].point, &lines[1].origin),
            (&"/b".into(), &Origin::Fstab("fuse.nacrefs".into()))
        );
    }

    #[test]
    fn the_files_of_units_say_what_a_line_would() {
        let dir = tempfile::tempdir().unwrap();
        let drives = dir.path().join("drives");
        std::fs::create_dir(&drives).unwrap();
        let put = |name: &str, text: &str| std::fs::write(drives.join(name), text).unwrap();
        put("one.conf", "# STORE=/no\nSTORE=/srv/one\n");
        put("two.conf", "STORE=\"/srv/my store\"\n DIR='/d'\nOPTIONS=ro,key_file=/k\n");
        put("none.conf", "DIR=/d\n");
        put("old.conf~", "STORE=/old\n");
        put("env.conf", "STORE= /srv/env \nOPTIONS=ro,\\\nnoatime\nNACREFS_PASSPHRASE_FILE=/pass\n");
        assert_eq!(units(Path::new("/no/such"), Path::new("/mnt")), []);
        let mut found = units(dir.path(), Path::new("/mnt"));
        found.sort_by(|a, b| a.store.cmp(&b.store));
        let [env, two, one] = &found[..] else { panic!("{found:?}") };
        assert_eq!(
            (one.store.as_path(), one.point.as_path()),
            (Path::new("/srv/one"), Path::new("/mnt/one"))
        );
        assert_eq!((two.store.as_path(), two.point.as_path()), (Path::new("/srv/my store"), Path::new("/d")));
        assert_eq!((one.value("key_file"), two.value("key_file")), (None, Some("/k")));
        assert_eq!((env.store.as_path(), env.options.as_str()), (Path::new("/srv/env"), "ro,noatime"));
        assert_eq!((env.passphrase_file(), one.passphrase_file()), (Some("/pass".into()), None));
        assert!(env.has(&["user", "noatime"]) && !env.has(&["atime"]));
    }
}
