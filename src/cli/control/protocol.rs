//! What is said over the control socket.

use crate::cli::values::{DrivePath, Moment};
use crate::commit::When;
use crate::error::{Error, Kind, Result};
use crate::types::Version;
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;

/// What a command asks of a drive, mounted or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Answered with one [`Status`].
    Status {},
    /// Returns when all that was written before is in the store. Answered with a version.
    Sync {},
    /// Starts a commit without waiting for the store. Answered with the newest version there is.
    Commit {},
    /// Commits and waits, unless `local`; after `done` the client detaches the mount, and the daemon ends.
    Umount { local: bool },
    /// Makes durable what was written, before the client tells the kernel to refuse writes (`ro`), or to take them
    /// again; that is refused where the drive itself was opened read-only. Answered with a note where one of the
    /// `options` asks for what only another mount can change.
    Remount {
        ro: bool,
        #[serde(default)]
        options: Vec<String>,
    },
    /// Answered with one [`LogEntry`] for each version, newest first.
    Log { path: DrivePath },
    /// Answered with the bytes of a file, as it was at a moment, or as it is.
    Cat { path: DrivePath, at: Option<At> },
    /// Changes how much the daemon's log tells, or only asks. Answered with the level as it is then.
    LogLevel { level: Option<String> },
}

/// A moment of the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum At {
    Version(Version),
    /// The newest version that is not after this.
    Time(Moment),
}

impl From<When> for At {
    fn from(when: When) -> At {
        match when {
            When::Version(version) => At::Version(version),
            When::Until(time) => At::Time(Moment(time)),
        }
    }
}

impl From<At> for When {
    fn from(at: At) -> When {
        match at {
            At::Version(version) => When::Version(version),
            At::Time(moment) => When::Until(moment.0),
        }
    }
}

/// The state of a drive. The JSON fields are a contract.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The drive's id, in hexadecimal.
    pub drive: String,
    /// The store's URL.
    pub store: String,
    /// Where it is mounted, made safe to print.
    pub mount: Option<String>,
    pub version: Version,
    pub last_commit: Option<Moment>,
    /// Bytes written and not yet in the store.
    pub dirty_bytes: u64,
    pub journal_bytes: u64,
    pub cache_bytes: u64,
    /// Whether the store could be reached when it was last needed.
    pub online: bool,
    pub last_error: Option<String>,
    // Daemons of earlier versions do not tell what follows.
    #[serde(default)]
    pub last_error_time: Option<Moment>,
    /// Since when `online` is as it is; `None`: since the drive was mounted.
    #[serde(default)]
    pub online_since: Option<Moment>,
    /// Since when it is mounted.
    #[serde(default)]
    pub mounted_since: Option<Moment>,
    /// Why nothing can be changed; `None` where that can be done.
    #[serde(default)]
    pub read_only: Option<String>,
    #[serde(default)]
    pub journal_limit: u64,
    #[serde(default)]
    pub cache_limit: u64,
    /// File operations that wait for room in the journal or in memory now.
    #[serde(default)]
    pub waiting: u64,
    /// Why a thief of this machine's disk could open the drive, or parts of it.
    #[serde(default)]
    pub unprotected: Option<String>,
    /// The file with the key, or with the passphrase, that opened the drive, where the next mount will find it; made safe
    /// to print.
    #[serde(default)]
    pub key_file: Option<String>,
    #[serde(default)]
    pub passphrase_file: Option<String>,
    /// The key slot that the drive was opened with, where it was made with less than today's argon2id.
    #[serde(default)]
    pub weak_slot: Option<String>,
    /// Bytes a second that went to the store, on the average since it was mounted, while something went.
    #[serde(default)]
    pub store_speed: Option<u64>,
    /// What the daemon has in memory.
    #[serde(default)]
    pub memory_bytes: u64,
    #[serde(default)]
    pub state_dir: Option<String>,
    /// The daemon's process and version.
    #[serde(default)]
    pub pid: Option<u32>,
    #[serde(default)]
    pub build: Option<String>,
    /// With `restart=on`, whether the supervisor is there that would mount again; else `None`.
    #[serde(default)]
    pub guarded: Option<bool>,
    /// The user and the group whose all files are shown to be, where that was asked for.
    #[serde(default)]
    pub uid: Option<u32>,
    #[serde(default)]
    pub gid: Option<u32>,
}

/// A version of a drive, a file or a directory. The JSON fields are a contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    pub version: Version,
    pub time: Moment,
    /// The device that made it, in hexadecimal.
    pub device: String,
    /// What happened: `created`, `changed`, `removed`, …, or counts for a whole drive.
    pub change: String,
    /// Its path at that version.
    pub path: DrivePath,
    /// Its size in bytes, where it has one.
    pub size: Option<u64>,
}

/// How far something is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done, in a word or two: `uploading`, `checking packs`.
    pub what: String,
    /// Bytes done, and to do where that is known.
    pub done: u64,
    pub total: Option<u64>,
    /// They are things and not bytes; never so over the socket.
    #[serde(skip)]
    pub counted: bool,
}

/// A line of the server's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Progress(Progress),
    Status(Box<Status>),
    Entry(LogEntry),
    Version(Version),
    /// What a person should know.
    Note(String),
    LogLevel(String),
    /// So many bytes follow the line, at most [`MAX_DATA`].
    Data {
        len: usize,
    },
    Done {},
    Error(Failure),
}

/// The most bytes that follow one [`Answer::Data`].
pub const MAX_DATA: usize = 1 << 20;

/// Takes what a request is answered with. An error means that nobody listens any more: give up.
///
/// A listener may be slow (a pager): never call this while holding a lock.
pub trait Reply {
    fn progress(&mut self, progress: &Progress) -> Result<()>;
    fn status(&mut self, status: &Status) -> Result<()>;
    fn entry(&mut self, entry: &LogEntry) -> Result<()>;
    fn version(&mut self, version: Version) -> Result<()>;
    fn data(&mut self, bytes: &[u8]) -> Result<()>;
    fn log_level(&mut self, level: &str) -> Result<()>;
    /// What a person should know.
    fn note(&mut self, _: &str) -> Result<()> {
        Ok(())
    }
    /// A pidfd of the process that asked, where it is another one and can be known again.
    fn caller(&self) -> Option<OwnedFd> {
        None
    }
}

/// An error on its way to another process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: String,
    /// The exit status that the command should have.
    pub exit: u8,
    pub message: String,
    /// The errors behind it, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
}

/// The names of the kinds that keep their meaning between processes; all others arrive as `failed`.
const KINDS: &[(&str, Kind)] = &[
    ("usage", Kind::Usage),
    ("secret", Kind::Secret),
    ("away", Kind::Away),
    ("damage", Kind::Damage),
    ("conflict", Kind::Conflict),
    ("not_a_drive", Kind::NotADrive),
    ("not_found", Kind::NotFound),
    ("no_space", Kind::NoSpace),
    ("interrupted", Kind::Interrupted),
    ("failed", Kind::Failed),
];

impl Failure {
    pub fn of(error: &Error) -> Failure {
        let kind = KINDS.iter().find(|(_, k)| *k == error.kind()).map_or("failed", |(name, _)| name);
        let first = std::error::Error::source(error);
        let causes = std::iter::successors(first, |e| e.source()).map(ToString::to_string).collect();
        Failure { kind: kind.into(), exit: error.exit_status(), message: error.to_string(), causes }
    }

    pub fn into_error(self) -> Error {
        let kind = KINDS.iter().find(|(name, _)| *name == self.kind).map_or(Kind::Failed, |(_, kind)| *kind);
        let mut causes = self.causes.into_iter().rev();
        match causes.next() {
            None => Error::new(kind, self.message),
            Some(root) => {
                causes.fold(Error::new(kind, root), |e, message| e.context(message)).context(self.message)
            }
        }
    }
}
