//! The machine: FUSE, the kernel, swap, limits.

use super::Finding;
use super::patient::Patient;
use crate::cli::fstab;
use crate::cli::mounts::shown;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The kernel from which on all that is used of FUSE is there (docs/KERNEL.md), and the oldest that will do.
const KERNEL: (u32, u32) = (5, 11);
const OLDEST: (u32, u32) = (5, 4);
/// The least number of open files that a daemon can live with.
const FILES: u64 = 1024;

pub fn checks(patients: &[Patient]) -> Vec<Finding> {
    let root = rustix::process::geteuid().is_root();
    let wanted = patients
        .iter()
        .filter(|p| p.of_another_user().is_none())
        .filter_map(|p| p.mount.as_ref())
        .any(|m| m.options.contains("allow_other"))
        || fstab::ours().iter().any(wants_others);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let pid = patients.iter().find_map(|p| p.told()?.pid);
    let limits = pid.map_or("/proc/self/limits".into(), |pid| format!("/proc/{pid}/limits"));
    vec![
        device(Path::new("/dev/fuse")),
        helper(root, std::env::var_os("PATH").as_deref()),
        allow_other(root, &fs::read_to_string("/etc/fuse.conf").unwrap_or_default(), wanted),
        kernel(release.trim()),
        swap(&swaps, is_encrypted_file),
        open_files(&fs::read_to_string(limits).unwrap_or_default()),
    ]
}

fn device(path: &Path) -> Finding {
    let name = shown(path);
    match File::options().read(true).write(true).open(path) {
        Ok(_) => Finding::ok("fuse", format!("{name} can be used")),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Finding::fail(
            "fuse",
            format!("{name} is missing"),
            "load the kernel's module with `modprobe fuse`; in a container, hand the device in",
        ),
        Err(e) => Finding::fail(
            "fuse",
            format!("{name} cannot be opened ({e})"),
            format!("`chmod 666 {name}`, as root"),
        ),
    }
}

/// fusermount3, by which ordinary users mount.
fn helper(root: bool, path: Option<&std::ffi::OsStr>) -> Finding {
    let found = path.and_then(|path| {
        std::env::split_paths(path)
            .map(|d| d.join("fusermount3"))
            .find_map(|f| Some((fs::metadata(&f).ok()?, f)))
    });
    match found {
        _ if root => Finding::ok("fusermount3", "not needed by root"),
        None => Finding::fail("fusermount3", "is missing: only root can mount", "install fuse3"),
        Some((meta, _)) if meta.uid() == 0 && meta.mode() & 0o4000 != 0 => {
            Finding::ok("fusermount3", "lets users mount")
        }
        Some((_, file)) => Finding::fail(
            "fusermount3",
            format!("{} is not setuid root: only root can mount", shown(&file)),
            format!("`chown root {0} && chmod u+s {0}`, as root", shown(&file)),
        ),
    }
}

/// Whether a line of fstab lets an ordinary user mount one of ours for others.
fn wants_others(line: &fstab::Line) -> bool {
    line.has(&["allow_other"]) && line.has(&["user", "users", "owner", "group"])
}

fn allow_other(root: bool, conf: &str, wanted: bool) -> Finding {
    let allowed = conf.lines().any(|l| l.split('#').next().is_some_and(|l| l.trim() == "user_allow_other"));
    let todo = "add the line user_allow_other to /etc/fuse.conf, as root";
    match (root || allowed, wanted) {
        (true, _) => Finding::ok("allow_other", "can be used"),
        (false, true) => Finding::fail("allow_other", "is wanted and not allowed to users", todo),
        (false, false) => {
            Finding::ok("allow_other", format!("is not allowed to users, nor wanted (to allow it: {todo})"))
        }
    }
}

fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().ok());
    let (Some(Some(major)), Some(Some(minor))) = (numbers.next(), numbers.next()) else {
        return Finding::skip("kernel", format!("cannot tell what Linux {release:?} is"));
    };
    let (wanted, oldest) = (format!("{}.{}", KERNEL.0, KERNEL.1), format!("{}.{}", OLDEST.0, OLDEST.1));
    match (major, minor) {
        version if version >= KERNEL => Finding::ok("kernel", format!("Linux {release}")),
        version if version >= OLDEST => Finding::warn(
            "kernel",
            format!("Linux {release} makes each write ask for an attribute first, which is slow"),
            format!("use {wanted} or later"),
        ),
        _ => Finding::fail(
            "kernel",
            format!("Linux {release} is too old: nothing before {oldest} was tried"),
            format!("use {wanted} or later"),
        ),
    }
}

/// Swap that keeps what was in memory in the clear. The keys are locked in memory; what files hold is not.
pub fn swap(swaps: &str, encrypted: impl Fn(&str) -> bool) -> Finding {
    let mut plain = Vec::new();
    for line in swaps.lines().skip(1) {
        let Some(device) = line.split_whitespace().next() else { continue };
        if !device.starts_with("/dev/zram") && !encrypted(device) {
            plain.push(device);
        }
    }
    match plain.is_empty() {
        true => Finding::ok("swap", "nothing is swapped to a disk in the clear"),
        false => Finding::warn(
            "swap",
            format!("parts of opened files may be swapped to {} in the clear", plain.join(", ")),
            "encrypt the swap (crypttab(5)), use zram, or none",
        ),
    }
}

/// Whether what is written to a block device's file, or to a file on a disk, is encrypted there.
pub fn is_encrypted_file(path: &str) -> bool {
    use std::os::unix::fs::FileTypeExt;
    let device = |m: fs::Metadata| if m.file_type().is_block_device() { m.rdev() } else { m.dev() };
    fs::metadata(path).is_ok_and(|m| is_encrypted(device(m)))
}

/// Whether a block device, or all that it stands on, is dm-crypt. What cannot be told is not.
pub fn is_encrypted(device: u64) -> bool {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    is_encrypted_at(Path::new(&format!("/sys/dev/block/{major}:{minor}")), 8)
}

fn is_encrypted_at(dir: &Path, depth: u32) -> bool {
    if fs::read_to_string(dir.join("dm/uuid")).is_ok_and(|uuid| uuid.starts_with("CRYPT-")) {
        return true;
    }
    // A partition's directory is in its disk's, which may be a device-mapper's.
    let Ok(below) = fs::read_dir(dir.join("slaves")) else { return false };
    let mut below = below.flatten().peekable();
    depth > 0 && below.peek().is_some() && below.all(|d| is_encrypted_at(&d.path(), depth - 1))
}

/// `limits`: as in `/proc/PID/limits`.
fn open_files(limits: &str) -> Finding {
    let line = limits.lines().find_map(|l| l.strip_prefix("Max open files"));
    let soft = line.and_then(|l| l.split_whitespace().next());
    match soft.map(str::parse::<u64>) {
        None => Finding::skip("open files", "cannot tell the limit"),
        Some(Ok(n)) if n < FILES => Finding::warn(
            "open files",
            format!("the limit is {n}"),
            format!("raise it to {FILES} or more (ulimit -n, LimitNOFILE=)"),
        ),
        Some(Ok(n)) => Finding::ok("open files", format!("the limit is {n}")),
        Some(Err(_)) => Finding::ok("open files", "no limit"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Fail, Ok, Skip, Warn};
    use super::super::says;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_missing_device_and_one_that_is_closed_are_told() {
        says(device(Path::new("/dev/null")), Ok, "can be used");
        says(device(Path::new("/dev/no-fuse")), Fail, "modprobe fuse");
        // A directory cannot be opened for writing, even by root.
        says(device(Path::new("/dev")), Fail, "chmod 666");
    }

    #[test]
    fn users_need_a_setuid_helper() {
        let dir = tempfile::tempdir().unwrap();
        let path = Some(dir.path().as_os_str());
        says(helper(true, None), Ok, "root");
        says(helper(false, path), Fail, "install fuse3");
        let file = dir.path().join("fusermount3");
        fs::write(&file, "").unwrap();
        says(helper(false, path), Fail, "chmod u+s");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o4755)).unwrap();
        if rustix::process::geteuid().is_root() {
            says(helper(false, path), Ok, "lets users mount");
        }
    }

    #[test]
    fn allow_other_counts_only_where_it_is_wanted() {
        says(allow_other(false, "# user_allow_other\n", true), Fail, "/etc/fuse.conf");
        says(allow_other(false, "", false), Ok, "nor wanted");
        says(allow_other(false, "mount_max = 5\n user_allow_other # yes\n", true), Ok, "can be used");
        says(allow_other(true, "", true), Ok, "can be used");
        let wanted = |fstab: &str| fstab::parse(fstab).iter().any(wants_others);
        assert!(wanted("# x\n/srv/s /mnt nacrefs rw,user,allow_other,_netdev 0 0\n"));
        for fstab in [
            "#/srv/s /mnt nacrefs allow_other",
            "/dev/sda / ext4 allow_other",
            "/s /m nacrefs rw,user 0 0",
            "/s /m nacrefs allow_other 0 0",
            "",
        ] {
            assert!(!wanted(fstab), "{fstab}");
        }
    }

    #[test]
    fn old_kernels_are_named() {
        says(kernel("6.18.44-fc-v669"), Ok, "6.18");
        says(kernel("5.11.0"), Ok, "5.11");
        says(kernel("5.10.0-28-amd64"), Warn, "5.11 or later");
        says(kernel("4.19.0"), Fail, "too old");
        says(kernel("strange"), Skip, "strange");
    }

    #[test]
    fn swap_in_the_clear_is_told_and_zram_is_fine() {
        let head = "Filename\tType\tSize\tUsed\tPriority\n";
        let plain = |_: &str| false;
        says(swap(head, plain), Ok, "nothing");
        says(swap(&format!("{head}/dev/zram0 partition 1 0 100\n"), plain), Ok, "nothing");
        says(
            swap(&format!("{head}/dev/zram0 partition 1 0 100\n/dev/sda2 partition 1 0 -2\n"), plain),
            Warn,
            "/dev/sda2",
        );
        says(swap(&format!("{head}/dev/dm-1 partition 1 0 -2\n"), |d| d == "/dev/dm-1"), Ok, "nothing");
    }

    #[test]
    fn encryption_is_seen_through_what_stands_on_it() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("lvm/slaves/crypt/dm")).unwrap();
        fs::write(at("lvm/slaves/crypt/dm/uuid"), "CRYPT-LUKS2-x").unwrap();
        assert!(is_encrypted_at(&at("lvm"), 8));
        fs::create_dir_all(at("lvm/slaves/plain")).unwrap();
        assert!(!is_encrypted_at(&at("lvm"), 8), "half of it is not");
        assert!(!is_encrypted_at(&at("none"), 8));
    }

    #[test]
    fn a_low_limit_of_open_files_is_told() {
        let limits = |n: &str| format!("Limit  Soft  Hard\nMax open files            {n}   524288   files\n");
        says(open_files(&limits("256")), Warn, "256");
        says(open_files(&limits("1024")), Ok, "1024");
        says(open_files(&limits("unlimited")), Ok, "no limit");
        says(open_files(""), Skip, "cannot tell");
    }
}
