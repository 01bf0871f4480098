//! A drive, opened: its store, its keys and this machine's state directory brought together.

mod accept;
mod aside;
mod assemble;
mod begin;
mod site;
pub mod slots;
pub mod state;

pub use accept::{Accepted, Dispute, Fate, Unstored};
pub use assemble::{Machine, assemble};
pub use begin::{Opening, open};
pub use site::{Made, Site, drive_of, init, init_in};
pub use state::StateDir;
