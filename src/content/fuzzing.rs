//! What the fuzz targets (fuzz/) see of this layer, besides what is public.

use super::DiskCache;

/// Whether a cache has looked through its files and is in use. (It never will be, where it was turned off.)
pub fn is_usable(cache: &DiskCache) -> bool {
    cache.usable()
}
