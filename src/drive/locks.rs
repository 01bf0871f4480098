//! The drive's locks, in the order in which a thread takes them (docs/ARCHITECTURE.md).

use super::inode::Node;
use crate::sys::ranked;

pub const COMMITTING: u8 = ranked::WAITS_FOR_STORE;
pub const RENAMES: u8 = 2;
pub const ADOPTING: u8 = 3;
pub const GATE: u8 = 4;
/// By number.
pub const INODE: u8 = 5;
pub const PLACED: u8 = 6;
/// The table's shards and the list of changed inodes: never two of them.
pub const TABLE: u8 = 7;
/// Held while nothing else is taken, but for [`BYTES`].
pub const FACTS: u8 = 8;
/// The bytes of one write.
pub const BYTES: u8 = 9;

pub type NodeLock = ranked::RwLock<Node, INODE>;
pub type NodeGuard = ranked::ArcWriteGuard<Node, INODE>;
