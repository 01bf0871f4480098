//! What mount(8) and umount(8) run for our type: this program, under the names `mount.nacrefs`,
//! `mount.fuse.nacrefs`, `umount.nacrefs` and `umount.fuse.nacrefs` (mount-helper/README.md).
//!
//! ```text
//! mount.TYPE SPEC DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE.SUBTYPE]
//! umount.TYPE DIR [-flnrv] [-N NAMESPACE] [-t TYPE.SUBTYPE]
//! ```
//!
//! Where no helper is installed, mount.fuse3 of libfuse runs `nacrefs SPEC DIR -o OPTIONS` for the type
//! `fuse.nacrefs`.

use super::args::{self, Cli, Command};
use crate::error::{Context, Error, Kind, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What a helper was asked to do.
#[derive(Debug)]
pub struct Call {
    pub cli: Cli,
    /// The mount namespace to do it in.
    pub namespace: Option<PathBuf>,
    /// Check the call, and do nothing.
    pub fake: bool,
}

/// Reads a helper's command line; `None` where this is none.
pub fn call(line: &[OsString]) -> Result<Option<Call>> {
    let Some((name, rest)) = line.split_first() else { return Ok(None) };
    let name = Path::new(name).file_name().unwrap_or_default();
    match name.as_bytes() {
        b"mount.nacrefs" | b"mount.fuse.nacrefs" => mount(name, rest).map(Some),
        b"umount.nacrefs" | b"umount.fuse.nacrefs" => umount(name, rest).map(Some),
        _ if is_of_mount_fuse(rest) => mount(name, rest).map(Some),
        _ => Ok(None),
    }
}

/// `SPEC DIR -o OPTIONS`, which no command of ours looks like.
fn is_of_mount_fuse(rest: &[OsString]) -> bool {
    let [spec, _, flag, _] = rest else { return false };
    let is_command = spec.to_str().is_some_and(|name| args::definition().find_subcommand(name).is_some());
    flag == "-o" && !is_command && !spec.as_bytes().starts_with(b"-")
}

fn mount(name: &OsStr, rest: &[OsString]) -> Result<Call> {
    let words = Words::read(name, rest, "sfnv", "oNt")?;
    let [store, dir] = words.places.as_slice() else {
        return Err(words.usage("SPEC DIR [-sfnv] [-o OPTIONS]"));
    };
    let mut options = words.values('o')?;
    if words.has('s') {
        options.push("sloppy".into());
    }
    let mount = args::Mount {
        store: Some(store.into()),
        dir: dir.into(),
        options,
        foreground: false,
        secrets: args::SecretArgs::default(),
        state: args::StateArgs::default(),
        as_helper: true,
    };
    Ok(words.call(Command::Mount(mount), words.has('f')))
}

fn umount(name: &OsStr, rest: &[OsString]) -> Result<Call> {
    let words = Words::read(name, rest, "flnrv", "Nt")?;
    let [dir] = words.places.as_slice() else { return Err(words.usage("DIR [-flnrv]")) };
    let umount = args::Umount {
        dir: dir.into(),
        local: false,
        lazy: words.has('l'),
        force: words.has('f'),
        read_only: words.has('r'),
        dead: false,
        store: None,
    };
    Ok(words.call(Command::Umount(umount), false))
}

/// A command line in the manner of getopt(3), with options after and between the places.
struct Words<'a> {
    name: &'a OsStr,
    places: Vec<&'a OsStr>,
    flags: Vec<char>,
    values: Vec<(char, &'a OsStr)>,
}

impl<'a> Words<'a> {
    fn read(name: &'a OsStr, line: &'a [OsString], flags: &str, valued: &str) -> Result<Words<'a>> {
        let mut words = Words { name, places: Vec::new(), flags: Vec::new(), values: Vec::new() };
        let mut line = line.iter();
        let refuse = |what: String| Error::new(Kind::Usage, format!("{}: {what}", name.display()));
        while let Some(word) = line.next() {
            let mut letters = match word.as_bytes() {
                b"--" => {
                    words.places.extend(line.by_ref().map(OsString::as_os_str));
                    break;
                }
                [b'-', letters @ ..] if !letters.is_empty() => letters,
                _ => {
                    words.places.push(word);
                    continue;
                }
            };
            while let Some((letter, rest)) = letters.split_first() {
                let letter = char::from(*letter);
                letters = rest;
                if flags.contains(letter) {
                    words.flags.push(letter);
                } else if valued.contains(letter) {
                    let value = match std::mem::take(&mut letters) {
                        [] => line.next().map(OsString::as_os_str),
                        rest => Some(OsStr::from_bytes(rest)),
                    };
                    words
                        .values
                        .push((letter, value.ok_or_else(|| refuse(format!("-{letter} needs a value")))?));
                } else {
                    return Err(refuse(format!("unknown option -{}", letter.escape_default())));
                }
            }
        }
        Ok(words)
    }

    fn has(&self, flag: char) -> bool {
        self.flags.contains(&flag)
    }

    /// The values of an option, as text.
    fn values(&self, option: char) -> Result<Vec<String>> {
        let of_it = self.values.iter().filter(|(o, _)| *o == option);
        let text = |value: &OsStr| {
            let refused =
                || Error::new(Kind::Usage, format!("{}: -{option} is not UTF-8", self.name.display()));
            value.to_str().map(str::to_owned).ok_or_else(refused)
        };
        of_it.map(|(_, value)| text(value)).collect()
    }

    fn usage(&self, places: &str) -> Error {
        Error::new(Kind::Usage, format!("usage: {} {places}", self.name.display()))
    }

    fn call(&self, command: Command, fake: bool) -> Call {
        let namespace = self.values.iter().rev().find(|(o, _)| *o == 'N').map(|(_, path)| path.into());
        Call { cli: Cli { verbose: self.has('v'), command }, namespace, fake }
    }
}

/// Goes over into another mount namespace: a process id, or the path of a namespace.
pub fn enter(namespace: &Path) -> Result<()> {
    let is_pid = namespace.to_str().is_some_and(|n| n.parse::<u32>().is_ok());
    let path = if is_pid { Path::new("/proc").join(namespace).join("ns/mnt") } else { namespace.to_owned() };
    let failed = || format!("cannot enter the mount namespace {}", path.display());
    let file = File::open(&path).context(failed)?;
    let entered = move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Mount));
    entered.map_err(std::io::Error::from).context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &[&str]) -> Result<Option<Call>> {
        call(&line.iter().map(OsString::from).collect::<Vec<_>>())
    }

    fn mounts(line: &[&str]) -> (args::Mount, Call) {
        let mut call = read(line).unwrap().unwrap();
        let Command::Mount(m) = std::mem::replace(&mut call.cli.command, Command::ExitStatus) else {
            panic!()
        };
        (m, call)
    }

    #[test]
    fn what_mount_8_runs_is_read() {
        let (m, call) = mounts(&["/sbin/mount.nacrefs", "/srv/a b", "/mnt", "-n", "-v", "-o", "rw,_netdev"]);
        assert_eq!(
            (m.store, m.dir, m.options),
            (Some("/srv/a b".into()), "/mnt".into(), vec!["rw,_netdev".into()])
        );
        assert!(m.as_helper && call.cli.verbose && !call.fake && call.namespace.is_none());
        let (m, call) = mounts(&["mount.fuse.nacrefs", "s3://b/p", "/mnt", "-sf", "-N", "/proc/7/ns/mnt"]);
        assert_eq!((m.options, call.namespace), (vec!["sloppy".to_owned()], Some("/proc/7/ns/mnt".into())));
        assert!(call.fake);
        let (m, _) =
            mounts(&["mount.nacrefs", "-oro", "-t", "fuse.nacrefs", "-o", "noexec", "--", "-s", "-d"]);
        assert_eq!((m.options, m.dir), (vec!["ro".into(), "noexec".into()], "-d".into()));
    }

    #[test]
    fn what_umount_8_runs_is_read() {
        for (flags, lazy, force, ro) in [
            (&[][..], false, false, false),
            (&["-n", "-l"], true, false, false),
            (&["-f", "-v", "-r"], false, true, true),
        ] {
            let line = [&["/sbin/umount.fuse.nacrefs", "/mnt"][..], flags].concat();
            let Command::Umount(u) = read(&line).unwrap().unwrap().cli.command else { panic!() };
            assert_eq!((u.lazy, u.force, u.read_only, u.local), (lazy, force, ro, false));
        }
    }

    #[test]
    fn what_mount_fuse3_runs_is_read_and_no_command_is_mistaken_for_it() {
        let (m, _) = mounts(&["nacrefs", "/srv/store", "/mnt", "-o", "rw,dev,suid"]);
        assert_eq!((m.store, m.as_helper), (Some("/srv/store".into()), true));
        for line in [
            &["nacrefs", "mount", "/mnt", "-o", "ro"][..],
            &["nacrefs", "-v", "mount", "-o", "ro"],
            &["nacrefs", "unmount", "/mnt"],
            &["nacrefs"],
            &[],
        ] {
            assert!(read(line).unwrap().is_none(), "{line:?}");
        }
    }

    #[test]
    fn a_wrong_call_is_told_in_one_line() {
        for (line, word) in [
            (&["mount.nacrefs", "/srv/store"][..], "SPEC DIR"),
            (&["mount.nacrefs", "a", "b", "c"], "SPEC DIR"),
            (&["mount.nacrefs", "a", "b", "-o"], "-o needs a value"),
            (&["mount.nacrefs", "a", "b", "-x"], "-x"),
            (&["umount.nacrefs"], "DIR"),
            (&["umount.fuse.nacrefs", "a", "-s"], "-s"),
        ] {
            let e = read(line).unwrap_err();
            assert!(e.kind() == Kind::Usage && e.to_string().contains(word), "{e}");
        }
        assert!(enter(Path::new("/no/such/ns")).unwrap_err().to_string().contains("/no/such/ns"));
    }
}
