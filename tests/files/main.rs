//! The file interface through real system calls, on real mounts; and again after a remount, and from store and
//! key alone. Needs root, and /dev/fuse.

#[path = "../common/mod.rs"]
mod common;

mod acls;
mod bytes;
mod exceptions;
mod kinds;
mod listing;
mod names;
mod ordinary;
mod renames;
mod sparse;
mod sys;
mod times;
mod unlinked;
mod xattrs;
