//! What the fuzz targets (fuzz/) see of this layer, besides what is public.

use super::node::Node;
use crate::error::Result;
use bytes::Bytes;

/// The level of a node, and its keys and values.
#[allow(clippy::type_complexity)]
pub fn entries(bytes: &[u8]) -> Result<(u8, Vec<(Bytes, Bytes)>)> {
    let node = Node::open(Bytes::copy_from_slice(bytes))?;
    Ok((node.level(), (0..node.len()).map(|i| node.entry(i)).collect()))
}
