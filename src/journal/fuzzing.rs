//! What the fuzz targets (fuzz/) see of this layer, besides what is public.

pub use super::format::{BLOCK, FileHeader, Keys};
