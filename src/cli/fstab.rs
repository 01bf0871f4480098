//! How this machine mounts drives by itself: the lines of /etc/fstab (fstab(5)) that are ours, and the files of our
//! units, `drives/NAME.conf` (nacrefs@.service(8)).

use super::mounts::unescape;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// A line of our type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The store, as a path or a URL.
    pub store: PathBuf,
    pub point: PathBuf,
    /// Between commas.
    pub options: String,
}

impl Line {
    /// The value of the last option of this name.
    pub fn value<'a>(&'a self, name: &str) -> Option<&'a str> {
        let value = |option: &'a str| option.strip_prefix(name)?.strip_prefix('=').filter(|v| !v.is_empty());
        self.options.split(',').rev().find_map(value)
    }
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
    ours.then(|| Line { store: path(store), point: path(point), options })
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
        parse_unit(&text, &base.join(unit))
    };
    files.filter_map(read).collect()
}

/// An environment file (systemd.exec(5)) with STORE, and may be DIR and OPTIONS; `point` is where it mounts without DIR.
fn parse_unit(text: &str, point: &Path) -> Option<Line> {
    let value = |name: &str| {
        let line = text.lines().rev().find_map(|l| l.trim().strip_prefix(name)?.strip_prefix('='))?;
        let bare = ['"', '\''].iter().find_map(|q| line.strip_prefix(*q)?.strip_suffix(*q));
        Some(bare.unwrap_or(line).to_owned())
    };
    let point = value("DIR").map_or_else(|| point.to_owned(), PathBuf::from);
    Some(Line { store: value("STORE")?.into(), point, options: value("OPTIONS").unwrap_or_default() })
}

/// The line that mounts at this place.
pub fn at(lines: &[Line], point: &Path) -> Option<Line> {
    lines.iter().find(|l| l.point == point).cloned()
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
        assert_eq!(at(&lines, Path::new("/b")), Some(lines[1].clone()));
        assert_eq!(at(&lines, Path::new("/mnt")), None);
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
        assert_eq!(units(Path::new("/no/such"), Path::new("/mnt")), []);
        let mut found = units(dir.path(), Path::new("/mnt"));
        found.sort_by(|a, b| a.store.cmp(&b.store));
        let [two, one] = &found[..] else { panic!("{found:?}") };
        assert_eq!(
            (one.store.as_path(), one.point.as_path()),
            (Path::new("/srv/one"), Path::new("/mnt/one"))
        );
        assert_eq!((two.store.as_path(), two.point.as_path()), (Path::new("/srv/my store"), Path::new("/d")));
        assert_eq!((one.value("key_file"), two.value("key_file")), (None, Some("/k")));
    }
}
