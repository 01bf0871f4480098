//! Where a drive may differ from ext4: one rule for each, with the words of docs/SEMANTICS.md ("Exceptions") that
//! it stands for. There are no others: whatever these do not excuse is a difference.

use crate::calls::{Call, EVE, ROOT, Step, USERS};
use crate::look::{Facts, Look, Time, first_byte};
use crate::outcome::{Got, Outcome};
use libc::*;
use std::fs::File;

/// "size of a directory": the number of its names.
pub fn size_of_directories(mode: u32, size: u64) -> u64 {
    if mode & S_IFMT == S_IFDIR { 0 } else { size }
}

/// "statfs": what must agree is the greatest length of a name, and what the mount allows.
pub fn file_system(s: &statvfs64) -> String {
    format!("names {}, flags {:#x}", s.f_namemax, s.f_flag & (ST_RDONLY | ST_NOSUID | ST_NODEV | ST_NOEXEC))
}

/// "O_DIRECT": ext4 wants lengths and places in whole blocks, a drive takes any.
pub fn direct_io_is_aligned(flags: c_int, len: usize, at: i64) -> (usize, i64) {
    if flags & O_DIRECT == 0 { (len, at) } else { (len.div_ceil(4096) * 4096, at / 4096 * 4096) }
}

/// The same for what is not aligned by anybody: the end of a file that is appended to.
pub fn open_flags(flags: c_int) -> c_int {
    if flags & O_DIRECT != 0 { flags & !O_APPEND } else { flags }
}

/// The same for copies by the kernel.
pub const DIRECT: &str = "left out for O_DIRECT";

/// Calls that are left out, for what they do is an exception and would stay visible.
pub fn left_out(Step(who, call): &Step, ext4: &Look) -> bool {
    let user = &USERS[*who];
    // "sgid of a file that its group may not execute": stays when somebody who is not of that group changes the
    // bytes or the owner.
    let changes = match call {
        Call::Write { .. } | Call::Pwrite { .. } | Call::Writev { .. } | Call::Pwritev2 { .. } => true,
        Call::Truncate { .. } | Call::Ftruncate { .. } | Call::Chown { .. } | Call::Sendfile { .. } => true,
        Call::Fallocate { .. } | Call::CopyRange { .. } => true,
        Call::Open { flags, .. } => flags.0 & O_TRUNC != 0,
        _ => false,
    };
    let foreign = |f: &Facts| {
        f.mode & (S_IFMT | 0o2010) == S_IFREG | 0o2000 && f.gid != user.gid && !user.groups.contains(&f.gid)
    };
    if changes && *who != ROOT && ext4.values().any(foreign) {
        return true;
    }
    // "sgid of a file whose group may not execute, at …": goes if that group is not the caller's own but another one
    // of theirs.
    let besides = match call {
        Call::Fallocate { .. } | Call::CopyRange { .. } | Call::Chown { .. } => Some(0o2000),
        Call::Write { .. } | Call::Pwrite { .. } | Call::Writev { .. } => Some(0o6000),
        Call::Pwritev2 { .. } | Call::Sendfile { .. } => Some(0o6000),
        _ => None,
    };
    let of_another_group = |f: &Facts, bits: u32| {
        f.mode & (S_IFMT | bits | 0o010) == S_IFREG | bits
            && f.gid != user.gid
            && user.groups.contains(&f.gid)
    };
    if besides.is_some_and(|bits| *who != ROOT && ext4.values().any(|f| of_another_group(f, bits))) {
        return true;
    }
    // "a file with capabilities that is suid or sgid, too": what takes the capabilities cannot be told from chown(-1, -1).
    let both = |f: &Facts| {
        f.mode & 0o6000 != 0 && f.inside.as_ref().is_none_or(|i| i.xattrs.contains_key("security.capability"))
    };
    if changes && *who == ROOT && ext4.values().any(both) {
        return true;
    }
    let open = |slot: u8| ext4.get(&format!("{}:{slot}", USERS[*who].name));
    match call {
        // "chown(-1, -1) of another user's file that is suid or sgid": the request is the one before a write.
        Call::Chown { uid: -1, gid: -1, .. } => {
            let others = |f: &Facts| f.uid != user.uid && f.mode & S_IFMT != S_IFDIR && f.mode & 0o6000 != 0;
            *who != ROOT && ext4.values().any(others)
        }
        // "times of a fifo that is written to": the kernel does not tell.
        Call::Write { slot, .. }
        | Call::Writev { slot, .. }
        | Call::Pwritev2 { slot, at: -1, .. }
        | Call::Sendfile { to: slot, .. } => open(*slot).is_some_and(|f| f.mode & S_IFMT == S_IFIFO),
        // "fallocate and copy_file_range on a suid file": clear suid and sgid for everybody, root too.
        Call::Fallocate { slot: to, .. } | Call::CopyRange { to, .. } => {
            *who == ROOT && open(*to).is_some_and(|f| f.mode & 0o6000 != 0)
        }
        // "places in a directory": each file system's own; only the beginning is the same.
        Call::Lseek { slot, at, whence } => {
            open(*slot).is_some_and(|f| f.mode & S_IFMT == S_IFDIR) && (*at != 0 || whence % 3 != 0)
        }
        // "sgid when an ACL is set by an owner whose own group is not the file's": goes, even if the file's group
        // is another one of the owner's. Only Eve has others.
        Call::SetAcl { default: false, .. } => {
            *who == EVE && ext4.values().any(|f| f.mode & 0o2000 != 0 && USERS[EVE].groups.contains(&f.gid))
        }
        _ => false,
    }
}

/// "SEEK_DATA, SEEK_HOLE": where holes begin and end is each file system's own; what must be is that nothing but
/// zeros is passed over as a hole, and that a hole found is one. `file`: ext4's, the contents of both being equal.
pub fn seeks(call: &Call, outcome: &Outcome, file: Option<&File>) -> Result<(), String> {
    let (Call::SeekData { at, .. } | Call::SeekHole { at, .. }) = *call else { return Ok(()) };
    // Other errors are compared like those of any call.
    if outcome.as_ref().is_err_and(|e| e.0 != ENXIO) {
        return Ok(());
    }
    let Some(file) = file.filter(|f| f.metadata().is_ok_and(|m| m.is_file())) else { return Ok(()) };
    let say = |e: std::io::Error| format!("ext4's file cannot be read: {e}");
    let size = file.metadata().map_err(say)?.len();
    if at < 0 || at as u64 >= size {
        return if outcome.is_err() { Ok(()) } else { Err(format!("{outcome:?} beyond the end ({size})")) };
    }
    let at = at as u64;
    let data = first_byte(file, at).map_err(say)?;
    let fits = match (call, outcome) {
        (Call::SeekData { .. }, Ok(Got::Place(x))) => {
            let x = *x as u64;
            x >= at && x < size && data.is_none_or(|data| x <= data)
        }
        (Call::SeekData { .. }, Err(e)) => e.0 == ENXIO && data.is_none(),
        (_, Ok(Got::Place(x))) => {
            let x = *x as u64;
            // The end of the file is a hole too.
            x == size
                || x >= at
                    && x < size
                    && first_byte(file, x).map_err(say)?.is_none_or(|d| d / 4096 > x / 4096)
        }
        _ => false,
    };
    if fits { Ok(()) } else { Err(format!("{outcome:?}, where bytes begin at {data:?} of {size}")) }
}

/// Two answers that are alike: equal, or places that `seeks` has looked at.
pub fn alike(call: &Call, ext4: &Outcome, drive: &Outcome) -> bool {
    match call {
        Call::SeekData { .. } | Call::SeekHole { .. } => match (ext4, drive) {
            // Data that is all zero may be a hole to one of them.
            (Err(e), Ok(_)) | (Ok(_), Err(e)) => e.0 == ENXIO,
            (Ok(_), Ok(_)) => true,
            _ => ext4 == drive,
        },
        _ => ext4 == drive,
    }
}

/// "st_blocks of a file with changes that no commit holds": never under the truth nor over the size.
pub fn blocks(f: &Facts) -> Result<(), String> {
    let Some((_, bytes)) = f.inside.as_ref().and_then(|i| i.content) else { return Ok(()) };
    let shown = f.blocks * 512;
    match shown < bytes || shown > f.size.next_multiple_of(4096) {
        false => Ok(()),
        true => Err(format!("{} blocks for {bytes} bytes that are not zero, of {}", f.blocks, f.size)),
    }
}

/// "atime": reads that the kernel answers itself are not seen, nor are those of directories and links; what was not
/// written with another change is lost at an unmount. So a drive's may be older than ext4's, but never newer, and
/// what was set is what is seen.
pub fn access_time(ext4: Time, drive: Time, of_this_run: impl Fn(Time) -> bool) -> bool {
    ext4 == drive || of_this_run(ext4)
}
