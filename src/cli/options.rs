//! Mount options: what `-o` says, on the command line or in fstab.

use super::logging::{self, LogOptions};
use super::metrics::Place;
use super::values::parse_size;
use crate::commit::When;
use crate::error::{Error, Kind, Result};
use std::path::PathBuf;
use std::time::Duration;

/// How the local cache of a remote store is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheMode {
    /// Encrypted under the local key.
    Sealed,
    /// As it is, for speed.
    Plain,
}

/// When the access time of a file moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Atime {
    /// relatime and strictatime: when the file has changed since, or after a day.
    Relative,
    Never,
}

/// What an operation makes durable by itself, before it returns: each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Synchronous {
    Nothing,
    /// `dirsync`: all but what is written to files.
    Names,
    /// `sync`: every change.
    All,
}

/// Mount options, with their defaults. `default_permissions` is not here: it is always on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// Read only. `at` implies it.
    pub ro: bool,
    pub allow_other: bool,
    pub nosuid: bool,
    pub nodev: bool,
    pub noexec: bool,
    /// Symbolic links are not followed.
    pub nosymfollow: bool,
    /// When the time of the last access to a file is kept.
    pub atime: Atime,
    /// Whether directories leave their access time as it is, whatever `atime` says.
    pub nodiratime: bool,
    /// What is durable before the call that changed it returns.
    pub sync: Synchronous,
    /// Change the flags of a mount that there is.
    pub remount: bool,
    /// Show every file as owned by this user.
    pub uid: Option<u32>,
    /// Show every file as owned by this group.
    pub gid: Option<u32>,
    /// How often a changed drive is committed; see [`MountOptions::commit_interval`].
    pub commit: Option<Duration>,
    /// `sync=store`: an fsync returns once the change is in the store.
    pub sync_store: bool,
    /// After how long what was not synced is made durable anyway.
    pub flush: Duration,
    /// The longest that an operation waits for the store or for room in the journal.
    pub timeout: Duration,
    /// Let the kernel keep dirty pages.
    pub writeback: bool,
    pub dedup: bool,
    /// The budget of memory, in bytes.
    pub memory: u64,
    /// The limit of the disk cache, in bytes; 0 for none.
    pub cache: u64,
    pub cache_mode: CacheMode,
    /// The limit of the journal, in bytes.
    pub journal: u64,
    /// Mount the drive as it was.
    pub at: Option<When>,
    pub state_dir: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub passphrase_file: Option<PathBuf>,
    pub foreground: bool,
    /// Mount over a directory that is not empty.
    pub nonempty: bool,
    /// Where metrics are served, if anywhere.
    pub metrics: Option<Place>,
    pub log: LogOptions,
    /// Mount again when the daemon is killed.
    pub restart: bool,
}

impl Default for MountOptions {
    fn default() -> MountOptions {
        MountOptions {
            ro: false,
            allow_other: false,
            nosuid: false,
            nodev: false,
            noexec: false,
            nosymfollow: false,
            atime: Atime::Relative,
            nodiratime: false,
            sync: Synchronous::Nothing,
            remount: false,
            uid: None,
            gid: None,
            commit: None,
            sync_store: false,
            flush: Duration::from_secs(1),
            timeout: Duration::from_secs(120),
            writeback: false,
            dedup: true,
            memory: 256 << 20,
            cache: 4 << 30,
            cache_mode: CacheMode::Sealed,
            journal: 2 << 30,
            at: None,
            state_dir: None,
            key_file: None,
            passphrase_file: None,
            foreground: false,
            nonempty: false,
            metrics: None,
            log: LogOptions::default(),
            restart: false,
        }
    }
}

/// The least budget of memory and the least journal that a mount can work with.
const LEAST: u64 = 16 << 20;
const MOST: u64 = 1 << 50;

impl MountOptions {
    /// Reads the values of all `-o`, each a list separated by commas; a value with a comma in it stands in double
    /// quotes. Of two that disagree the later counts. With `sloppy` among them, unknown ones are ignored.
    pub fn parse<S: AsRef<str>>(lists: &[S]) -> Result<MountOptions> {
        let mut options = MountOptions::default();
        let all = lists.iter().flat_map(|l| split(l.as_ref()));
        let words: Vec<String> = all.map(|o| o.replace('"', "")).filter(|o| !o.is_empty()).collect();
        let sloppy = words.iter().any(|o| o == "sloppy");
        for option in &words {
            if !options.set(option)? && !sloppy {
                let why = "unknown; `nacrefs help mount` lists them";
                return Err(Error::new(Kind::Usage, format!("mount option {option:?}: {why}")));
            }
        }
        options.ro |= options.at.is_some();
        Ok(options)
    }

    /// Those of a list that have no effect here although whoever gave them may count on one.
    pub fn without_effect<S: AsRef<str>>(lists: &[S]) -> Vec<String> {
        const LABELS: &[&str] = &["context=", "fscontext=", "defcontext=", "rootcontext="];
        let words = lists.iter().flat_map(|l| split(l.as_ref()));
        words.filter(|o| LABELS.iter().any(|l| o.starts_with(l)) || *o == "mand").map(str::to_owned).collect()
    }

    /// Those of a remount's options that ask for another daemon than the one that was started with these: the kernel
    /// changes what it has flags for, and no more.
    pub fn unchangeable<S: AsRef<str>>(&self, lists: &[S]) -> Vec<String> {
        let words = lists.iter().flat_map(|l| split(l.as_ref())).map(|o| o.replace('"', ""));
        let is_new = |word: &String| {
            let mut asked = self.clone();
            asked.set(word).is_ok_and(|known| known) && asked.of_daemon() != self.clone().of_daemon()
        };
        words.filter(is_new).collect()
    }

    /// Without what the kernel has flags for, and what only matters to the mount command.
    fn of_daemon(self) -> MountOptions {
        let MountOptions { ro, nosuid, nodev, noexec, nosymfollow, atime, nodiratime, remount, .. } =
            MountOptions::default();
        let (state_dir, key_file, passphrase_file) = (None, None, None);
        let (foreground, nonempty) = (false, false);
        MountOptions {
            ro,
            nosuid,
            nodev,
            noexec,
            nosymfollow,
            atime,
            nodiratime,
            remount,
            state_dir,
            key_file,
            passphrase_file,
            foreground,
            nonempty,
            ..self
        }
    }

    /// How often a changed drive is committed: `commit=`, or 5 s to a store on this machine and 30 s elsewhere.
    pub fn commit_interval(&self, store: &str) -> Duration {
        let near = store.starts_with("file:") || store.starts_with("memory:");
        self.commit.unwrap_or(Duration::from_secs(if near { 5 } else { 30 }))
    }

    /// Whether the option is known.
    fn set(&mut self, option: &str) -> Result<bool> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        let refuse = |why: &str| Err(Error::new(Kind::Usage, format!("mount option {option:?}: {why}")));
        let value = |want: &str| match value {
            Some(v) if !v.is_empty() => Ok(v),
            _ => Err(Error::new(Kind::Usage, format!("mount option {option:?}: needs {want}"))),
        };
        let number = |want| match value(want)?.parse::<u32>() {
            Ok(n) => Ok(n),
            Err(_) => Err(Error::new(Kind::Usage, format!("mount option {option:?}: needs {want}"))),
        };
        let seconds = || match number("whole seconds, from 1 to 86400")? {
            n @ 1..=86400 => Ok(Duration::from_secs(n.into())),
            _ => Err(Error::new(Kind::Usage, format!("mount option {option:?}: seconds go from 1 to 86400"))),
        };
        let size = |least: u64| match parse_size(value("a size, such as 256M or 2G")?) {
            Some(n) if n > MOST => {
                Err(Error::new(Kind::Usage, format!("mount option {option:?}: at most 1024T")))
            }
            Some(n) if n >= least => Ok(n),
            Some(_) => Err(Error::new(Kind::Usage, format!("mount option {option:?}: at least 16M"))),
            None => {
                Err(Error::new(Kind::Usage, format!("mount option {option:?}: needs a size, such as 256M")))
            }
        };
        // -1 is nobody to the kernel, not even root.
        let id = |want| match number(want)? {
            u32::MAX => Err(Error::new(Kind::Usage, format!("mount option {option:?}: needs {want}"))),
            n => Ok(Some(n)),
        };
        let file = || value("a path").map(|v| Some(PathBuf::from(v)));
        match name {
            "commit" => self.commit = Some(seconds()?),
            "flush" => self.flush = seconds()?,
            "timeout" => self.timeout = seconds()?,
            "uid" => self.uid = id("a user's number")?,
            "gid" => self.gid = id("a group's number")?,
            "memory" => self.memory = size(LEAST)?,
            "journal" => self.journal = size(LEAST)?,
            "cache" => self.cache = size(0)?,
            "at" => self.at = Some(When::read(value("a version or a time")?)?),
            "state_dir" => self.state_dir = file()?,
            "key_file" => self.key_file = file()?,
            "passphrase_file" => self.passphrase_file = file()?,
            "metrics" => {
                let place = value("unix:PATH or 127.0.0.1:PORT")?;
                self.metrics = Some(
                    Place::parse(place)
                        .map_err(|e| Error::new(Kind::Usage, format!("mount option {option:?}: {e}")))?,
                );
            }
            "log" => {
                let level = value("a level, such as debug")?;
                if logging::parse_level(level).is_err() {
                    return refuse("is off, error, warn, info, debug or trace, also as MODULE=LEVEL");
                }
                self.log.level = Some(level.to_owned());
            }
            _ => match option {
                "ro" => self.ro = true,
                "rw" => self.ro = false,
                "allow_other" => self.allow_other = true,
                "default_permissions" => {}
                "nosuid" => self.nosuid = true,
                "suid" => self.nosuid = false,
                "nodev" => self.nodev = true,
                "dev" => self.nodev = false,
                "noexec" => self.noexec = true,
                "exec" => self.noexec = false,
                "nosymfollow" => self.nosymfollow = true,
                "symfollow" => self.nosymfollow = false,
                "noatime" => self.atime = Atime::Never,
                "atime" | "relatime" | "strictatime" => self.atime = Atime::Relative,
                "nodiratime" => self.nodiratime = true,
                "diratime" => self.nodiratime = false,
                "sync" => self.sync = Synchronous::All,
                "dirsync" => self.sync = self.sync.max(Synchronous::Names),
                "async" => self.sync = Synchronous::Nothing,
                "remount" => self.remount = true,
                "sync=store" => self.sync_store = true,
                "writeback" => self.writeback = true,
                "dedup=on" => self.dedup = true,
                "dedup=off" => self.dedup = false,
                "cache_mode=sealed" => self.cache_mode = CacheMode::Sealed,
                "cache_mode=plain" => self.cache_mode = CacheMode::Plain,
                "foreground" => self.foreground = true,
                "nonempty" => self.nonempty = true,
                "log_format=text" => self.log.json = false,
                "log_format=json" => self.log.json = true,
                "restart=on" => self.restart = true,
                "restart=off" => self.restart = false,
                _ if passes_along(name, option) => {}
                _ if name == "dedup" || name == "restart" => return refuse("is `on` or `off`"),
                _ if name == "cache_mode" => return refuse("is `sealed` or `plain`"),
                _ if name == "log_format" => return refuse("is `text` or `json`"),
                _ if name == "sync" => return refuse("the only choice is `sync=store`"),
                _ => return Ok(false),
            },
        }
        Ok(true)
    }
}

/// A list of options, parted at the commas that do not stand in double quotes.
fn split(list: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    list.split(move |c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
}

/// What mount(8), fstab(5) and systemd.mount(5) pass along and is not for us.
fn passes_along(name: &str, option: &str) -> bool {
    #[rustfmt::skip]
    const FLAGS: &[&str] = &[
        "auto", "noauto", "user", "nouser", "users", "nousers", "owner", "noowner", "group", "nogroup", "nofail", "_netdev", "defaults", "sloppy",
        "norelatime", "nostrictatime", "lazytime", "nolazytime", "iversion", "noiversion", "mand", "nomand",
        "silent", "loud", "sub", "nosub",
        // Habits from other file systems: what they ask for is so, or has no meaning here.
        "acl", "user_xattr", "discard", "nodiscard", "barrier", "noquota",
    ];
    // The last ones are what the kernel shows of a mount: they come back at a remount.
    #[rustfmt::skip]
    const VALUED: &[&str] = &[
        "user", "comment", "fsname", "subtype", "helper", "uhelper", "context", "fscontext", "defcontext",
        "rootcontext", "errors", "pri", "offset", "sizelimit", "fd", "rootmode", "user_id", "group_id", "max_read", "blksize",
    ];
    FLAGS.contains(&option)
        || (option.contains('=') && VALUED.contains(&name))
        || name.starts_with("x-")
        || name.starts_with("X-")
}

/// The options, for `nacrefs help mount`.
pub const HELP: &str = "Mount options (-o, also in fstab):
  ro                     read only; so may be the file system of the state directory
  allow_other            let other users in, as modes allow
  uid=N, gid=N           show every file as owned by this user, this group (always nosuid)
  commit=SECONDS         how often changes go to the store [5 on this machine, else 30]
  sync=store             fsync waits for the store
  flush=SECONDS          what is not synced is made durable after [1]
  timeout=SECONDS        the longest wait of a file operation [120]
  writeback              the kernel keeps changed pages (one writer only)
  memory=SIZE            the budget of memory [256M]
  journal=SIZE           the limit of the journal [2G]
  state_dir=D, key_file=F, passphrase_file=F, foreground  as the options of the same name
  nonempty               mount over a directory that is not empty
  nosuid, nodev, noexec  as everywhere
  nosymfollow            symbolic links are not followed (root)
  noatime, nodiratime    do not keep when files, or directories, were last read
  sync                   each change is durable before the call returns
  dirsync                the same for all but what is written to files
  remount                change ro or rw, nosuid, nodev, noexec, nosymfollow, noatime of a mount (root)
  sloppy                 ignore options that are not known
  log=LEVEL              how much the log tells: off, error, warn, info, debug, trace [info]
  log_format=json        one JSON object a line
  metrics=unix:PATH|127.0.0.1:PORT   serves metrics (OpenMetrics over HTTP, /metrics) on a socket of the
                         user's own or a loopback port, which every user of the machine may read
  restart=on|off         mount again when the daemon is killed [off]
Not in this version: at=WHEN and dedup=off are refused; cache=SIZE and cache_mode=sealed|plain are for
remote stores, and do nothing yet.
Permissions are always checked (default_permissions), and what mount(8) and systemd pass along is accepted.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let o = MountOptions::parse::<&str>(&[]).unwrap();
        assert_eq!((o.memory, o.journal), (256 << 20, 2 << 30));
        assert_eq!((o.flush.as_secs(), o.timeout.as_secs(), o.dedup), (1, 120, true));
        assert_eq!(o.commit_interval("file:///s").as_secs(), 5);
        assert_eq!(o.commit_interval("memory://").as_secs(), 5);
        assert_eq!(o.commit_interval("s3://b/p").as_secs(), 30);
    }

    #[test]
    fn every_documented_option_is_read() {
        let o = MountOptions::parse(&[
            "allow_other,default_permissions,uid=7,gid=8,commit=9,sync=store,flush=2,timeout=3,writeback,dedup=off",
            "memory=64M,cache=0,cache_mode=plain,journal=1G,metrics=127.0.0.1:9,log=debug,log_format=json,at=12,state_dir=/s,key_file=/k,passphrase_file=/p,foreground,restart=on",
        ])
        .unwrap();
        let want = MountOptions {
            ro: true,
            allow_other: true,
            uid: Some(7),
            gid: Some(8),
            commit: Some(Duration::from_secs(9)),
            sync_store: true,
            flush: Duration::from_secs(2),
            timeout: Duration::from_secs(3),
            writeback: true,
            dedup: false,
            memory: 64 << 20,
            cache: 0,
            cache_mode: CacheMode::Plain,
            journal: 1 << 30,
            at: Some(When::Version(12)),
            state_dir: Some("/s".into()),
            key_file: Some("/k".into()),
            passphrase_file: Some("/p".into()),
            foreground: true,
            metrics: Some(Place::parse("127.0.0.1:9").unwrap()),
            log: LogOptions { level: Some("debug".into()), json: true },
            restart: true,
            ..MountOptions::default()
        };
        assert_eq!(o, want);
        assert_eq!(o.commit_interval("s3://b").as_secs(), 9);
    }

    #[test]
    fn what_mount_and_systemd_pass_along_is_accepted() {
        let o = MountOptions::parse(&[
            "rw,auto,noauto,user,users,nofail,_netdev,x-systemd.automount,x-gvfs-show,suid,dev,exec,relatime,,user=joe",
        ])
        .unwrap();
        assert_eq!(o, MountOptions::default());
        let list =
            "defaults,async,diratime,nouser,nolazytime,lazytime,iversion,mand,silent,loud,comment=x,pri=5";
        let o = MountOptions::parse(&[list, "context=\"a:b:c0,c1\",rootcontext=x,X-mount.mkdir,symfollow"])
            .unwrap();
        assert_eq!(o, MountOptions::default());
        // What mount(8) adds from mountinfo at a remount.
        MountOptions::parse(&["ro,relatime,remount,user_id=0,group_id=0,default_permissions,max_read=1"])
            .unwrap();
        let o = MountOptions::parse(&["nosuid,nodev,noexec", "exec"]).unwrap();
        assert_eq!((o.nosuid, o.nodev, o.noexec), (true, true, false));
    }

    #[test]
    fn what_has_a_meaning_is_honoured_and_the_later_word_counts() {
        let parse = |list: &str| MountOptions::parse(&[list]).unwrap();
        assert_eq!(parse("relatime,noatime").atime, Atime::Never);
        assert_eq!(parse("noatime,strictatime").atime, Atime::Relative);
        assert!(parse("nodiratime").nodiratime && parse("remount,ro").remount);
        assert_eq!(parse("sync,dirsync").sync, Synchronous::All);
        assert_eq!(parse("dirsync").sync, Synchronous::Names);
        assert_eq!(parse("sync,async").sync, Synchronous::Nothing);
        // mount(8) says by flags what they bring along, and leaves out what fstab takes back (`user,exec`).
        assert!(!parse("noexec,exec,user,users,owner,group").noexec);
        assert!(parse("nosymfollow").nosymfollow && !parse("nosymfollow,symfollow").nosymfollow);
    }

    #[test]
    fn what_a_remount_cannot_change_is_known() {
        let o = MountOptions::parse(&["commit=7,allow_other,key_file=/k,nosuid"]).unwrap();
        let asked = "remount,ro,noexec,noatime,commit=7,allow_other,key_file=/other,user_id=0,nofail";
        assert!(o.unchangeable(&[asked]).is_empty());
        let asked = ["remount,commit=8", "sync=store,restart=on,ro"];
        assert_eq!(o.unchangeable(&asked), ["commit=8", "sync=store", "restart=on"]);
    }

    #[test]
    fn a_comma_in_quotes_parts_nothing() {
        let o = MountOptions::parse(&["key_file=\"/a,b\",ro"]).unwrap();
        assert_eq!((o.key_file, o.ro), (Some("/a,b".into()), true));
        let noted = MountOptions::without_effect(&["ro,context=\"a,b\",mand,noatime"]);
        assert_eq!(noted, ["context=\"a,b\"", "mand"]);
    }

    #[test]
    fn sloppy_takes_what_it_does_not_know_and_nothing_else() {
        MountOptions::parse(&["colour,sloppy,ro=1"]).unwrap();
        assert!(MountOptions::parse(&["sloppy,commit=0"]).is_err());
    }

    #[test]
    fn bad_options_are_named() {
        for bad in [
            "colour",
            "ro=1",
            "memory",
            "memory=",
            "memory=1M",
            "memory=lots",
            "journal=0",
            "commit=0",
            "commit=-1",
            "commit=1.5",
            "commit=100000",
            "uid=root",
            "uid=4294967295",
            "gid=4294967295",
            "memory=2000T",
            "memory=18446744073709551615",
            "dedup=maybe",
            "restart=always",
            "cache_mode=x",
            "sync=disk",
            "at=",
            "key_file=",
            "log=",
            "log=loud",
            "log_format=xml",
            "metrics=",
            "metrics=0.0.0.0:9100",
        ] {
            let e = MountOptions::parse(&[format!("rw,{bad}")]).unwrap_err();
            assert_eq!(e.kind(), Kind::Usage, "{bad}");
            assert!(e.to_string().contains(&format!("{bad:?}")), "{e}");
        }
    }
}
