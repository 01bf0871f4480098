//! A live drive from its parts, wherever these come from: a state directory, or a simulated machine.

use super::site::{Site, unfinished};
use crate::commit::{Newest, Signer};
use crate::content::DiskCache;
use crate::crypt::SigningKey;
use crate::drive::types::Space;
use crate::drive::{Drive, Parts, Replayed, Settings};
use crate::error::{Context, Result};
use crate::store::LocalPlace;
use crate::sys::{Clock, Disk, Random};
use crate::types::{DeviceId, Incarnation, Key, Version};
use std::sync::Arc;

/// What a machine brings to a drive.
pub struct Machine {
    /// The version to begin with, from [`Site::newest`].
    pub newest: Newest,
    /// The version that the journal's changes were made on, where other machines have written since.
    pub over: Option<Version>,
    pub device: DeviceId,
    pub signing: SigningKey,
    pub incarnation: Incarnation,
    pub journal_disk: Arc<dyn Disk>,
    pub journal_key: Key,
    /// Where the local index may be kept.
    pub index: Option<LocalPlace>,
    /// Stored chunks on the local disk, where the store is far away.
    pub disk_cache: Option<Arc<DiskCache>>,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
    /// Remembers the newest head durably.
    pub remember: Box<dyn Fn(Version, [u8; 32]) -> Result<()> + Send>,
    /// How much room there is.
    pub space: Box<dyn Fn() -> Space + Send + Sync>,
}

/// Opens the drive on its newest version, and replays the machine's journal. Starts no threads of its own but the
/// local index's.
pub fn assemble(site: &Site, machine: Machine, settings: Settings) -> Result<(Arc<Drive>, Replayed)> {
    let opened = machine.newest.opened.as_ref().ok_or_else(unfinished)?;
    let store = match &machine.newest.store {
        Some(store) => store.clone(),
        None => site.chunk_store(opened.commit.runs.clone(), None),
    };
    if let Some(at) = machine.index {
        store.keep_local(at);
    }
    let parts = Parts {
        versions: site.versions.clone(),
        store,
        signer: Signer::new(&site.secrets, machine.device, machine.signing),
        newest: machine.newest,
        over: machine.over,
        keys: site.keys.clone(),
        device: machine.device,
        incarnation: machine.incarnation,
        journal_disk: machine.journal_disk,
        journal_key: machine.journal_key,
        clock: machine.clock,
        random: machine.random,
        remember: machine.remember,
        disk_cache: machine.disk_cache,
        space: machine.space,
    };
    Drive::start(parts, settings).context(|| "cannot open the drive")
}
