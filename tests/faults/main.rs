//! Faults: damaged and missing objects, rolled-back and forked stores, copied state directories, full disks, stores
//! that go away, damaged journals, daemons that die. Nothing acknowledged is lost, nothing wrong is shown, nothing
//! hangs, and each is told with its exit status in one line.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::undocumented_unsafe_blocks)]

mod accept;
#[path = "../common/mod.rs"]
mod common;
mod daemon;
mod disks;
mod doctor;
mod flips;
mod heads;
mod index;
mod journal;
mod lab;
mod losses;
mod nodes;
mod pressure;
mod read_only;
