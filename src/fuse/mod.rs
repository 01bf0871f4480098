//! The kernel's FUSE protocol, turned into operations of the [drive](crate::drive): no policy, no storage,
//! no state but what the protocol itself asks for. docs/KERNEL.md says which kernel options are used and why.
//!
//! ```text
//! mount      mounting, serving, unmounting
//! attach     mount(2) for root, fusermount3 for others; errors that say what to do
//! beneath    mounting in the place of a dead mount
//! ops        one method for each request of the kernel
//! dispatch   where an operation runs: on the event loop where it need not wait, else on a worker
//! workers    threads that may wait
//! poll       polls the device while requests keep coming, sleeps when they stop
//! reply      the drive's results as the kernel's replies
//! convert    attributes, times, modes and errors between the two
//! counts     how much of what was asked for
//! mountinfo  what is mounted where
//! ```

mod attach;
mod beneath;
mod convert;
mod counts;
mod dispatch;
mod mount;
mod mountinfo;
mod ops;
mod poll;
mod reply;
mod shed;
mod workers;

pub use attach::{SUBTYPE, fusermount};
pub use counts::{Call, Counts};
pub use dispatch::Durable;
pub use mount::{Abandon, Mount, MountConfig, Serving, Unmounter};
pub use mountinfo::topmost;
