//! What the command line asks of the drive: the seam between them.

use super::control::{Handler, Progress, Reply, Request};
use super::metrics::Page;
use super::mounts::Mount;
use super::options::MountOptions;
use super::secrets::{Given, SecretFile};
use crate::error::Result;
use crate::session::Site;
use crate::types::DriveId;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Makes, opens and mounts drives. A store is always a URL (`file:///srv/store`).
///
/// `mount` is called in the process that will serve the mount, before which no method has been called in it;
/// so threads and runtimes are to be started by these methods, never earlier.
pub trait Backend {
    /// Makes an empty drive. `Kind::Conflict` where the store holds one, or the remains of one.
    fn init(&self, store: &str, secret: &Given, options: &InitOptions) -> Result<Created>;

    /// The id of the drive that a store holds. `Kind::NotADrive` where there is certainly none, `Kind::Away` where
    /// that cannot be told. The id is not authenticated: whoever opens the drive must compare.
    fn drive_id(&self, store: &str) -> Result<DriveId>;

    /// Opens the drive, replays its journal and mounts it. Returns once the mount can be used.
    fn mount(&self, request: MountRequest) -> Result<Arc<dyn Running>>;

    /// Answers `Status`, `Log` or `Cat` for a drive that is not mounted here, as a mounted one would.
    fn answer(&self, drive: &Closed, request: Request, out: &mut dyn Reply) -> Result<()>;

    /// Verifies a store. Damage is reported in the result; an error means that the check could not go on.
    fn check(
        &self,
        drive: &Closed,
        options: &CheckOptions,
        progress: &mut dyn FnMut(&Progress) -> Result<()>,
    ) -> Result<CheckReport>;

    /// The ids of a store's key slots that were made with less than today's parameters; no secret is needed for that.
    fn weak_slots(&self, store: &str) -> Result<Vec<String>>;

    /// Opens a drive's store, to work on its key slots or on what a state directory remembers of it.
    fn unlock(&self, drive: &Closed) -> Result<Site>;
}

/// A drive that is opened without being mounted.
#[derive(Debug)]
pub struct Closed {
    pub store: String,
    pub secret: Given,
    /// The state directory, if this machine has one for the drive; it need not exist.
    pub state_dir: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitOptions {
    /// Make a recovery code too.
    pub recovery_code: bool,
}

/// A drive that was made.
#[derive(Debug)]
pub struct Created {
    pub drive: DriveId,
    pub recovery_code: Option<Zeroizing<String>>,
}

/// All that a mount needs.
#[derive(Debug)]
pub struct MountRequest {
    pub store: String,
    /// What the mount shows as its source: the store as it was given, which fstab compares with.
    pub source: String,
    pub secret: Given,
    /// The directory to mount on: absolute, existing, not a mount; but a dead mount of a drive may stand there, whose
    /// place this one takes ([`Ground`](super::Ground)).
    pub dir: PathBuf,
    /// Exists (0700), unless it is read-only; the drive takes its lock, or fails with `Kind::Conflict`.
    pub state_dir: PathBuf,
    /// The same; another (0700) where nothing can be written to that one: then the drive is locked here, too.
    pub run_dir: PathBuf,
    /// What `getxattr(…, "nacre.control")` must answer on every directory of the mount.
    pub control: PathBuf,
    /// The dead mount of the daemon that was killed before this one. Where it is gone, nothing may be mounted; what is
    /// mounted has its flags.
    pub dead: Option<Mount>,
    /// The process that mounts again if the daemon is killed; it is the daemon's parent for as long as it is there.
    pub supervisor: Option<rustix::process::Pid>,
    /// What `status` is to say of a thief of this machine's disk, if anything.
    pub unprotected: Option<String>,
    /// The file that the secret stands in, if the next mount will find it there.
    pub secret_file: Option<SecretFile>,
    pub options: MountOptions,
}

/// Where in its life a mount is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Serving,
    /// Somebody waits for its last commit, to unmount it then.
    Leaving,
    /// It serves nobody any more.
    Ended,
}

/// A mounted drive.
pub trait Running: Send + Sync {
    /// Who answers control requests.
    fn handler(&self) -> Arc<dyn Handler>;
    /// Waits until it is unmounted, by whomever, and everything acknowledged is in the journal.
    fn wait(&self) -> Result<()>;
    /// Commits for as long as that gets somewhere, then detaches the mount, even one in use; `wait` then returns, with
    /// an error where something is left to the journal.
    fn stop(&self);
    /// Has `stop` wait for nothing any more: the rest stays in the journal.
    fn hurry(&self) {}
    /// What is wrong with the drive, as `status` has it.
    fn trouble(&self) -> Option<String> {
        None
    }
    /// Writes the metrics.
    fn measure(&self, _: &mut Page) {}
    fn phase(&self) -> Phase;
    /// An error where a thread that makes durable or commits has died.
    fn check_threads(&self) -> Result<()>;
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// Verify every byte, not only what describes them.
    pub read_data: bool,
    /// Only part n of t of the data, n from 1.
    pub subset: Option<(u32, u32)>,
}

/// What a check found. The JSON fields are a contract.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    pub drive: String,
    pub store: String,
    /// The newest version.
    pub version: u64,
    pub heads: u64,
    pub packs: u64,
    pub chunks: u64,
    /// Bytes of chunks that were read; 0 where none was but to follow it.
    pub bytes_read: u64,
    pub problems: Vec<Problem>,
}

/// Damage to one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Which object of the store.
    pub object: String,
    /// What is wrong with it.
    pub what: String,
    /// Files that need it, as far as known, made safe to print.
    pub files: Vec<String>,
}
