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
//! store                        chunks in packs, heads by counter, over any object store
//! crypt                        keys, sealing, self-encryption
//! sys                          clock, randomness, disk
//! error, wire, types, chunk    the words that all use
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// From the top down.
    const LAYERS: [&str; 11] =
        ["cli", "session", "fuse", "drive", "commit", "journal", "content", "tree", "store", "crypt", "sys"];

    /// All source below a folder.
    fn source(dir: &Path) -> String {
        let mut all = String::new();
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                all += &source(&path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                all += &fs::read_to_string(&path).unwrap();
            }
        }
        all
    }

    #[test]
    fn no_layer_uses_one_above_it() {
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        for (i, layer) in LAYERS.iter().enumerate() {
            let text = source(&src.join(layer));
            for above in &LAYERS[..i] {
                assert!(!text.contains(&format!("crate::{above}::")), "{layer} uses {above}");
            }
        }
    }
}
