//! nacrefs: a drive that looks like any directory and keeps its bytes as self-encrypted,
//! content-addressed, versioned chunks in a store that need not be trusted.
//!
//! The layers, each of which uses only the ones below it (docs/ARCHITECTURE.md):
//!
//! ```text
//! cli                          what people type
//! session                      a drive brought together: store, keys, state directory
//! fuse                         the kernel's protocol <-> drive operations
//! drive                        the live drive: inodes, handles, locks, the operations
//! commit                       turning changes into versions
//! journal                      the append-only log: acknowledge, make durable, replay, trim
//! tree, content                Maps and Blobs <-> chunks
//! crypt                        keys, sealing, self-encryption
//! store                        chunks in packs, heads by counter, over any object store
//! error, wire, types, chunk, sys   the words that all use
//! ```

// Outside data never ends the process; tests may.
#![warn(clippy::expect_used, clippy::unwrap_used, clippy::undocumented_unsafe_blocks)]

pub mod chunk;
pub mod cli;
pub mod commit;
pub mod content;
pub mod crypt;
pub mod drive;
pub mod error;
pub mod fuse;
pub mod journal;
pub mod session;
pub mod store;
pub mod sys;
pub mod tree;
pub mod types;
pub mod wire;
