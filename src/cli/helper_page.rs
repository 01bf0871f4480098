//! The manual page of the mount helpers: mount.nacrefs(8), which umount.nacrefs(8) leads to as well.

use super::options;
use crate::error::{Context, Result};
use std::path::Path;

/// The names under which mount(8) and umount(8) look for a helper of our type, and their pages.
const NAMES: [&str; 4] = ["mount.nacrefs", "mount.fuse.nacrefs", "umount.nacrefs", "umount.fuse.nacrefs"];

/// Writes the pages into a directory.
pub fn write(dir: &Path) -> Result<()> {
    for name in NAMES {
        let path = dir.join(format!("{name}.8"));
        // One text, and links to it in the manner of man(1).
        let text = if name == NAMES[0] { text() } else { format!(".so man8/{}.8\n", NAMES[0]) };
        std::fs::write(&path, text).context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The page of a helper.
pub fn page(name: &str) -> Option<String> {
    NAMES.contains(&name).then(text)
}

fn text() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!(".TH mount.nacrefs 8 \"\" \"nacrefs {version}\"\n{HEAD}");
    for line in options::HELP.lines().skip(1) {
        match line.strip_prefix("  ").and_then(|l| l.split_once("  ")) {
            Some((names, what)) => {
                text.push_str(&format!(".TP\n\\fB{}\\fR\n{}\n", roff(names.trim()), roff(what.trim())));
            }
            None => text.push_str(&format!(".PP\n{}\n", roff(line))),
        }
    }
    text.push_str(TAIL);
    text
}

/// A line of text as roff takes it.
fn roff(line: &str) -> String {
    line.replace('\\', "\\e").replace('-', "\\-")
}

const HEAD: &str = r#".SH NAME
mount.nacrefs, umount.nacrefs \- mount and unmount nacrefs drives by mount(8), fstab and systemd
.SH SYNOPSIS
.B mount \-t nacrefs
.I STORE DIR
.RB [ \-o
.IR OPTIONS ]
.br
.B umount
.RB [ \-lfr ]
.I DIR
.PP
In /etc/fstab:
.PP
.nf
.I STORE DIR
.B nacrefs
.I OPTIONS
.B 0 0
.fi
.SH DESCRIPTION
mount(8) and umount(8) run these helpers for the types
.B nacrefs
and
.BR fuse.nacrefs ;
both mean the same. They are the program nacrefs(1) by other names.
.PP
.I STORE
is a path or a URL. A mounted drive shows it as its source, as it was given, so that
.B mount \-a
knows what is mounted. The secret that opens the drive comes from
.B key_file=
or
.BR passphrase_file= ,
else from where nacrefs\-mount(1) says; at boot there is no terminal to ask on.
.PP
mount returns once the drive can be used. A dead mount ("Transport endpoint is not connected") is cleared and mounted again. An ordinary user mounts by a line with
.B user
or
.BR users ,
with a key and a state directory of their own, by way of fusermount3. Whoever mounted it, or root, unmounts it.
.PP
umount returns when everything is in the store. What takes longer than three seconds is told on standard error, with what is left. Where not all can be stored, umount fails and the drive stays mounted. Where the drive is mounted at a second place too (a bind mount), only this one is taken away.
.TP
.B umount \-l
takes the drive out of sight at once. It ends when the last open file is closed, and stores then what is left; what cannot be stored stays in the journal until the next mount.
.TP
.B umount \-f
waits neither for the store nor for who has files open, who are cut off. What is not stored stays in the journal.
.TP
.B umount \-r
makes the drive read\-only where it is in use.
.TP
.B umount \-i
runs no helper: it returns at once, and the daemon stores the rest by itself.
.PP
.B mount \-o remount
changes
.BR ro ,
.BR rw ,
.BR nosuid ,
.BR nodev ,
.B noexec
and the access time options. When
.B remount,ro
has returned, everything that was written is durable. A drive that was mounted
.B ro
stays so until it is unmounted.
.SH MOUNT OPTIONS
"#;

const TAIL: &str = r#".PP
.BR auto ,
.BR noauto ,
.BR nofail ,
.BR _netdev ,
.BR user ,
.BR users ,
.BR owner ,
.BR group ,
.BR comment= ,
.B x\-\fI...\fR
and
.B X\-\fI...\fR
are for mount(8) and systemd.
.BR lazytime ,
.BR iversion ,
.BR strictatime ,
.BR silent ,
.B loud
and their like are taken, and change nothing;
.B mand
and the labels of SELinux
.RB ( context=
\&...) as well, with a word on standard error.
.SH EXIT STATUS
That of nacrefs(1), which mount(8) and umount(8) hand on: 0 done, 1 failed, 2 wrong usage, 3 key or passphrase refused, 4 store out of reach, 5 damage found, 6 conflict or in use, 7 not a nacrefs drive or mount.
.SH EXAMPLES
.nf
/srv/store  /mnt/drive  nacrefs  key_file=/etc/nacrefs/key,nofail  0 0
/srv/store  /mnt/drive  nacrefs  key_file=/etc/nacrefs/key,noauto,x\-systemd.automount  0 0
/home/joe/store  /home/joe/drive  nacrefs  key_file=/home/joe/.config/nacrefs/key,noauto,user  0 0
.fi
.SH FILES
.TP
.I /run/mount/utab
gets a line for each drive that root mounts, by which umount(8) finds the helper.
.SH SEE ALSO
nacrefs(1), nacrefs\-mount(1), nacrefs\-umount(1), mount(8), umount(8), fstab(5), systemd.mount(5), fusermount3(1)
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_on_the_page_and_every_name_has_one() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path()).unwrap();
        let page = std::fs::read_to_string(dir.path().join("mount.nacrefs.8")).unwrap();
        for option in
            ["allow_other", "commit=SECONDS", "noatime", "key_file=F", "dirsync", "nofail", "memory=SIZE"]
        {
            assert!(page.contains(option), "{option}");
        }
        for name in NAMES {
            assert!(dir.path().join(format!("{name}.8")).exists() && super::page(name).is_some());
        }
        assert!(super::page("mount").is_none());
        // A line that begins with a dot or a quote is a request to roff.
        let known = [".TH", ".SH", ".TP", ".PP", ".B", ".BR", ".I", ".RB", ".IR", ".br", ".nf", ".fi"];
        for line in page.lines().filter(|l| l.starts_with(['.', '\''])) {
            let request = line.split(' ').next().unwrap();
            assert!(known.contains(&request), "{line}");
        }
    }
}
