//! Which mounts an unmounting takes along (mount_namespaces(7); the kernel's `filesystems/sharedsubtree.rst`).
//!
//! What is unmounted from a directory of a shared mount goes from the same directory of every mount that receives its
//! events: its peer group, the slaves of that, their peer groups, and so on. systemd makes `/` shared, so whoever binds
//! `/mnt` to `/alt` has what is mounted below in both places, and unmounts it from both at once.

use super::mounts::Mount;
use std::path::PathBuf;

/// Whether `twin`, another mount of the same drive, surely stays when `mount` is unmounted; `all` are the mounts that
/// can be seen. Where a parent is out of sight, as in a chroot, nothing is sure.
pub fn stays(twin: &Mount, mount: &Mount, all: &[Mount]) -> bool {
    if twin.parent == mount.parent {
        return twin.point != mount.point;
    }
    let parent = |of: &Mount| all.iter().find(|m| m.id == of.parent);
    let (Some(from), Some(to)) = (parent(mount), parent(twin)) else { return false };
    if !receives(to, from, all) {
        return true;
    }
    match (directory(mount, from), directory(twin, to)) {
        (Some(one), Some(other)) => one != other,
        _ => false,
    }
}

/// Whether what happens at `from` happens at `to` as well.
fn receives(to: &Mount, from: &Mount, all: &[Mount]) -> bool {
    let mut groups: Vec<u64> = from.shared.into_iter().collect();
    let is_slave = |m: &Mount, groups: &[u64]| m.masters.iter().any(|g| groups.contains(g));
    loop {
        let slaves = all.iter().filter(|m| is_slave(m, &groups));
        let more = slaves.filter_map(|m| m.shared).find(|g| !groups.contains(g));
        match more {
            Some(group) => groups.push(group),
            None => break,
        }
    }
    to.shared.is_some_and(|group| groups.contains(&group)) || is_slave(to, &groups)
}

/// Where in its parent's file system a mount is.
fn directory(mount: &Mount, parent: &Mount) -> Option<PathBuf> {
    Some(parent.root.join(mount.point.strip_prefix(&parent.point).ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::mounts::parse;
    use super::*;

    const DRIVE: &str = "- fuse.nacrefs /srv/s rw";

    /// Mounts of a drive (the ids from 90 on, with their parents and points) among others.
    fn which_stay(others: &str, drive: &[(u32, u32, &str)]) -> Vec<u64> {
        let lines =
            drive.iter().map(|(id, parent, point)| format!("{id} {parent} 0:50 / {point} rw {DRIVE}\n"));
        let all = parse(format!("{others}{}", lines.collect::<String>()).as_bytes());
        let mount = all.iter().find(|m| m.id == 90).unwrap();
        let twins = all.iter().filter(|m| m.is_ours() && m.id != 90);
        twins.filter(|twin| stays(twin, mount, &all)).map(|m| m.id).collect()
    }

    const ROOT: &str = "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n";

    #[test]
    fn a_bind_mount_of_the_drive_stays() {
        let binds = [(90, 22, "/mnt/g"), (91, 22, "/mnt/h")];
        assert_eq!(which_stay(ROOT, &binds), [91]);
        // Also where the parent is out of sight.
        assert_eq!(which_stay("", &binds), [91]);
        // Over itself.
        assert_eq!(which_stay(ROOT, &[(91, 22, "/mnt/g"), (90, 91, "/mnt/g")]), [91]);
    }

    #[test]
    fn what_is_in_the_same_directory_of_a_peer_or_a_slave_goes_along() {
        let peer = |tags: &str| format!("{ROOT}30 22 8:1 /mnt /alt rw {tags} - ext4 /dev/sda1 rw\n");
        let places = [(90, 22, "/mnt/g"), (91, 30, "/alt/g")];
        for tags in ["shared:1", "master:1", "shared:7 master:1", "master:5 propagate_from:1"] {
            assert_eq!(which_stay(&peer(tags), &places), [] as [u64; 0], "{tags}");
            // In another directory of it.
            assert_eq!(which_stay(&peer(tags), &[(90, 22, "/mnt/h"), (91, 30, "/alt/g")]), [91], "{tags}");
        }
        for tags in ["", "shared:2", "master:2", "unbindable"] {
            assert_eq!(which_stay(&peer(tags).replace("  ", " "), &places), [91], "{tags}");
        }
        // A slave's unmounting is its own.
        let from_slave = [(91, 22, "/mnt/g"), (90, 30, "/alt/g")];
        assert_eq!(which_stay(&peer("master:1"), &from_slave), [91]);
        assert_eq!(which_stay(&peer("shared:1"), &from_slave), [] as [u64; 0]);
        // Slaves of slaves.
        let chain = "40 22 8:1 /mnt /b rw master:9 - ext4 /dev/sda1 rw\n";
        let chain = peer("shared:9 master:1") + chain;
        assert_eq!(which_stay(&chain, &[(90, 22, "/mnt/g"), (91, 40, "/b/g")]), [] as [u64; 0]);
    }

    #[test]
    fn where_nothing_is_sure_nothing_stays() {
        assert_eq!(which_stay(ROOT, &[(90, 22, "/mnt/g"), (91, 77, "/alt/g")]), [] as [u64; 0]);
    }
}
