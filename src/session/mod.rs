//! A drive, opened: its store, its keys and this machine's state directory brought together.

pub mod slots;
pub mod state;
