//! Calls on extended attributes.

use crate::calls::{Call, Path, acl_bytes};
use crate::outcome::{Errno, Got, Outcome, done, number};
use crate::seat::{Seat, pattern};
use libc::*;
use std::ffi::CString;

/// What a call is about. These calls have no form that begins in an open directory.
enum Target {
    File(c_int),
    Followed(CString),
    Itself(CString),
}

// Of the raw calls here: paths and names end with NUL, and buffers come with their lengths.
impl Seat {
    pub fn perform_on_xattrs(&mut self, call: &Call) -> Option<Outcome> {
        Some(match *call {
            Call::SetXattr { path, name, len, fill, flags, follow } => {
                let value = if name == "security.capability" { capability(len) } else { pattern(fill, len) };
                self.set(path, name, &value, flags.0, follow)
            }
            Call::SetAcl { path, default, acl } => {
                let name = if default { "system.posix_acl_default" } else { "system.posix_acl_access" };
                self.set(path, name, &acl_bytes(acl), 0, true)
            }
            Call::GetXattr { path, name, room, follow } => self.get(path, name, room, follow),
            Call::ListXattr { path, room, follow } => self.names(path, room, follow),
            Call::RemoveXattr { path, name, follow } => self.target(path, follow).and_then(|target| {
                let name = long_name(name);
                // SAFETY: as above.
                done(unsafe {
                    match target {
                        Target::File(fd) => fremovexattr(fd, name.as_ptr()),
                        Target::Followed(path) => removexattr(path.as_ptr(), name.as_ptr()),
                        Target::Itself(path) => lremovexattr(path.as_ptr(), name.as_ptr()),
                    }
                })
            }),
            _ => return None,
        })
    }

    fn target(&self, path: Path, follow: bool) -> Result<Target, Errno> {
        if Seat::open_file(path) {
            return Ok(Target::File(self.place(path).0));
        }
        let path = self.plain(path)?;
        Ok(if follow { Target::Followed(path) } else { Target::Itself(path) })
    }

    fn set(&self, path: Path, name: &str, value: &[u8], flags: c_int, follow: bool) -> Outcome {
        let name = long_name(name);
        let (name, from, len) = (name.as_ptr(), value.as_ptr().cast(), value.len());
        let target = self.target(path, follow)?;
        // SAFETY: as above.
        done(unsafe {
            match target {
                Target::File(fd) => fsetxattr(fd, name, from, len, flags),
                Target::Followed(path) => setxattr(path.as_ptr(), name, from, len, flags),
                Target::Itself(path) => lsetxattr(path.as_ptr(), name, from, len, flags),
            }
        })
    }

    fn get(&self, path: Path, name: &str, room: usize, follow: bool) -> Outcome {
        let (name, mut value) = (long_name(name), vec![0u8; room]);
        let (name, to) = (name.as_ptr(), value.as_mut_ptr().cast());
        let target = self.target(path, follow)?;
        // SAFETY: as above.
        let n = number(unsafe {
            match target {
                Target::File(fd) => fgetxattr(fd, name, to, room),
                Target::Followed(path) => getxattr(path.as_ptr(), name, to, room),
                Target::Itself(path) => lgetxattr(path.as_ptr(), name, to, room),
            }
        } as i64)?;
        Ok(if room == 0 { Got::Number(n) } else { Got::Bytes(value[..n as usize].to_vec()) })
    }

    fn names(&self, path: Path, room: usize, follow: bool) -> Outcome {
        let mut names = vec![0u8; room];
        let to = names.as_mut_ptr().cast();
        let target = self.target(path, follow)?;
        // SAFETY: as above.
        let n = number(unsafe {
            match target {
                Target::File(fd) => flistxattr(fd, to, room),
                Target::Followed(path) => listxattr(path.as_ptr(), to, room),
                Target::Itself(path) => llistxattr(path.as_ptr(), to, room),
            }
        } as i64)?;
        if room == 0 {
            return Ok(Got::Number(n));
        }
        // In which order they come is nowhere said.
        let names = names[..n as usize].split(|b| *b == 0).filter(|n| !n.is_empty());
        Ok(Got::Names(names.map(|n| (n.escape_ascii().to_string(), 1)).collect()))
    }
}

fn long_name(name: &str) -> CString {
    let name = match name {
        "user.L256" => format!("user.{}", "n".repeat(251)),
        name => name.to_owned(),
    };
    CString::new(name).expect("no name has a NUL")
}

/// A file capability (`vfs_cap_data`, revision 2) that permits CAP_CHOWN; of an odd length what is none.
fn capability(len: usize) -> Vec<u8> {
    if len % 2 == 1 {
        return vec![1; len];
    }
    [0x0200_0001u32, 1, 0, 0, 0].iter().flat_map(|n| n.to_le_bytes()).collect()
}
