//! Versions of the drive: what one is made of, how it is made, found, read and checked.

pub mod build;
pub mod change;
pub mod check;
pub mod entry;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod history;
pub mod inode;
pub mod object;
pub mod packs;
pub mod params;
pub mod shells;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod versions;
pub mod view;
pub mod when;

pub use build::{Making, Tools, build};
pub use change::{Ancestors, BodyChange, Change, Committed, DirKey};
pub use entry::{Entry, check_name};
pub use history::{Event, What};
pub use inode::{Attr, Content, FileKind, InodeRecord, Name, ROOT, StoredInode, Xattrs};
pub use object::{Commit, Counts, Device, Parent, make_ino, split_ino};
pub use params::{Parameter, Parameters};
pub use versions::{Newest, Opened, Prepared, Published, Signer, Versions};
pub use view::View;
pub use when::When;
