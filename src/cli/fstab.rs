//! The lines of /etc/fstab (fstab(5)) that are ours.

use super::mounts::unescape;
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
}
