//! Who keeps a mount busy, as far as it can be told at little cost.

use super::mounts::{self, shown};
use super::values::escape;
use std::fs;
use std::path::Path;

/// More than so many are not named.
const MOST: usize = 5;

/// Names, for people, of what is in use below a mount point: processes (`bash[817]`), and other mounts. `None` where
/// none is found, or this user may not look.
pub fn of(point: &Path) -> Option<String> {
    let mut names: Vec<String> =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|p| name_of(&p.path(), point)).collect();
    let mounts = mounts::list().unwrap_or_default();
    let inside = mounts.iter().filter(|m| m.point != point && m.point.starts_with(point));
    names.extend(inside.map(|m| format!("what is mounted on {}", shown(&m.point))));
    let more = names.len().saturating_sub(MOST);
    names.truncate(MOST);
    if more > 0 {
        names.push(format!("{more} more"));
    }
    if names.is_empty() { None } else { Some(names.join(", ")) }
}

/// The name of a process (a directory of /proc) if it has a file below `point` open, mapped, or as its directory.
fn name_of(process: &Path, point: &Path) -> Option<String> {
    process.file_name()?.to_str()?.parse::<u32>().ok()?;
    let leads_there = |link: &Path| fs::read_link(link).is_ok_and(|to| to.starts_with(point));
    let any = |dir: &str| {
        let links = fs::read_dir(process.join(dir)).into_iter().flatten().flatten();
        links.into_iter().any(|link| leads_there(&link.path()))
    };
    let holds =
        ["cwd", "root", "exe"].iter().any(|l| leads_there(&process.join(l))) || any("fd") || any("map_files");
    if holds { named(process) } else { None }
}

/// The command and the number of a process (a directory of /proc).
fn named(process: &Path) -> Option<String> {
    let comm = fs::read(process.join("comm")).unwrap_or_default();
    Some(format!("{}[{}]", escape(comm.trim_ascii_end()), process.file_name()?.to_str()?))
}

/// The name of a process in another mount namespace in which a mount (`major:minor`) still is, if one can be seen: a
/// service or a container that was started after the drive was mounted has a copy of the mount.
pub fn elsewhere(device: &str) -> Option<String> {
    let here = fs::read_link("/proc/self/ns/mnt").ok()?;
    let mut looked_at = vec![here];
    for process in fs::read_dir("/proc").ok()?.flatten().map(|p| p.path()) {
        let Ok(namespace) = fs::read_link(process.join("ns/mnt")) else { continue };
        if looked_at.contains(&namespace) {
            continue;
        }
        looked_at.push(namespace);
        let mounts = fs::read(process.join("mountinfo")).unwrap_or_default();
        let has = |line: &[u8]| line.split(|b| *b == b' ').nth(2) == Some(device.as_bytes());
        if mounts.split(|b| *b == b'\n').any(has) {
            return named(&process);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_file_open_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let point = dir.path().canonicalize().unwrap();
        assert_eq!(of(&point), None);
        let _open = fs::File::create(point.join("file")).unwrap();
        let names = of(&point).unwrap();
        assert!(names.contains(&format!("[{}]", std::process::id())), "{names}");
        assert_eq!(of(&point.join("elsewhere")), None);
    }
}
