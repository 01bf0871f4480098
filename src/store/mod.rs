//! The store: chunks in packs, an index of where they are, heads by counter, over any object store.
//!
//! Everything here is named by its hash, or by a counter and created only if absent. Nothing that the store
//! answers is believed before it was checked (docs/FORMAT.md has the bytes).

pub mod chunks;
#[cfg(test)]
mod contract;
mod counted;
pub mod faulty;
mod head;
pub mod heads;
#[cfg(test)]
mod heads_tests;
pub mod index;
mod keys;
pub mod layout;
pub mod local;
pub mod local_index;
pub mod memory;
pub mod objects;
mod open;
pub mod pack;
mod part;
mod rebuild;
#[cfg(test)]
mod rebuild_tests;
pub mod remote;
pub mod runs;
mod scratch;
#[cfg(test)]
mod tests;
mod widen;
#[cfg(test)]
mod widen_tests;

pub use chunks::{Batch, ChunkStore, Settings, Written};
pub use counted::{Counted, Counts, Request};
pub use heads::{Head, HeadLink, Heads, NewHead, Newest};
pub use index::{Entry, Index, PartId, Place};
pub use keys::IndexKeys;
pub use layout::Layout;
pub use local_index::LocalPlace;
pub use objects::{Created, Objects, Race, create_verified, probe};
pub use open::{OpenOptions, open};
pub use pack::{PackId, PackInfo};
pub use runs::RunSet;
