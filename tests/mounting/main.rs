//! Drives under mount(8), umount(8), fstab and their like: each test in a mount namespace of its own, with the
//! helpers installed over /sbin and with an /etc of its own, so that nothing of it is seen from outside or stays.
//! Needs root, and /dev/fuse.

#![allow(clippy::unwrap_used)]

mod busy;
mod dead;
mod fstab;
mod lab;
mod remount;
mod umount;
mod users;
