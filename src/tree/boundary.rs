//! Where a level of a Map is cut into nodes, and every bound on the size of a node: the one place for both.
//!
//! A level is scanned from left to right. After each entry it is decided whether the node ends there, from
//! that entry's key and size and the size of the node so far, and from nothing else: what comes later, what
//! the level below looks like and in what order entries were put in make no difference. The state of the
//! scan is the size of the node, which starts afresh after each cut, so that two scans that once cut at the
//! same entry agree from there on.
//!
//! The chance of a cut grows with the square of the size, so that sizes gather around the aim (a Weibull
//! distribution of shape 3; the idea of letting the chance grow with size is Dolt's prolly trees'). A larger
//! shape gathers them more closely, but lets two scans take longer to meet after an edit. Measured by
//! simulation, mean bytes of leaves written for one insertion or deletion, entries of 180 and of 500 to
//! 1,500 bytes: shape 1: 12,000 and 11,200; 2: 10,900 and 11,400; 3: 10,100 and 12,700; 4: 10,300 and 15,500.
//! The least size hardly matters then; it keeps entries of one byte from making nodes of nothing.

/// The longest key, in bytes.
pub const MAX_KEY: usize = 1 << 10;
/// The longest value, in bytes.
pub const MAX_VALUE: usize = 16 << 10;
/// The highest level of a node; leaves are level 0.
pub const MAX_LEVEL: u8 = 63;

/// What the sizes of nodes gather around, in bytes before sealing.
pub const AIM: usize = 8 << 10;
/// No node is cut below this size; only the last one of a level may be smaller.
pub const LEAST: usize = 2 << 10;
/// No node is larger than this.
pub const MOST: usize = 32 << 10;

/// Bytes of a node before its table of entries.
pub(super) const HEADER: usize = 4;
/// Bytes that an entry takes in the table.
pub(super) const PER_ENTRY: usize = 4;

/// A node that has grown to this is cut, since the next entry might take it past [`MOST`]. (To look at that
/// entry instead would let an edit of one node move the end of the one before it.)
const FULL: usize = MOST - (PER_ENTRY + MAX_KEY + MAX_VALUE);
/// The scale of the distribution: the aim over Γ(4/3), which makes the aim its mean.
const SCALE: u64 = (AIM as u64 * 112) / 100;

// An inner node that was cut has two children at least, so that a tree ends within 64 levels.
const _: () = assert!(HEADER + PER_ENTRY + MAX_KEY + super::node::MAX_CHILD < LEAST);
const _: () = assert!(LEAST < AIM && AIM < FULL && MOST <= u16::MAX as usize);

/// Whether a node of this level ends after the entry with this key, which made it grow from `before` to
/// `after` bytes.
pub(super) fn ends_after(
    boundary_key: &[u8; 32],
    level: u8,
    key: &[u8],
    before: usize,
    after: usize,
) -> bool {
    if after < LEAST {
        return false;
    }
    if after >= FULL {
        return true;
    }
    let mut hasher = blake3::Hasher::new_keyed(boundary_key);
    hasher.update(&[level]).update(key);
    let mut draw = [0; 8];
    hasher.finalize_xof().fill(&mut draw);
    // draw / 2^64 < (after^3 - before^3) / SCALE^3, in integers, so that all machines agree
    let cube = |n: usize| (n as u128).pow(3);
    u128::from(u64::from_le_bytes(draw)) * u128::from(SCALE).pow(3) < (cube(after) - cube(before)) << 64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes of the nodes that entries of these sizes make.
    fn sizes(level: u8, entries: impl Iterator<Item = usize>) -> Vec<usize> {
        sizes_under(&[7; 32], level, entries)
    }

    fn sizes_under(key: &[u8; 32], level: u8, entries: impl Iterator<Item = usize>) -> Vec<usize> {
        let mut out = Vec::new();
        let mut size = HEADER;
        for (i, entry) in entries.enumerate() {
            let after = size + PER_ENTRY + entry;
            let ends = ends_after(key, level, &(i as u32).to_le_bytes(), size, after);
            size = if ends { HEADER } else { after };
            if ends {
                out.push(after);
            }
        }
        out
    }

    #[test]
    fn sizes_gather_around_the_aim_and_keep_their_bounds() {
        for entry in [20, 180, 1000] {
            let sizes = sizes(0, std::iter::repeat_n(entry, 20_000_000 / (entry + 1000)));
            let mean = sizes.iter().sum::<usize>() / sizes.len();
            assert!((AIM * 9 / 10..AIM * 11 / 10).contains(&mean), "entries of {entry}: mean {mean}");
            assert!(sizes.iter().all(|s| (LEAST..=FULL + PER_ENTRY + entry).contains(s)));
            let near = sizes.iter().filter(|s| (AIM / 2..AIM * 3 / 2).contains(*s)).count();
            assert!(near * 100 > sizes.len() * 80, "entries of {entry}: {near} of {}", sizes.len());
        }
    }

    #[test]
    fn the_largest_entries_fit() {
        let largest = MAX_KEY + MAX_VALUE;
        let sizes = sizes(0, (0..2000).map(|i| if i % 9 == 8 { largest } else { 1600 }));
        assert!(sizes.iter().all(|s| *s <= MOST));
        assert!(sizes.iter().any(|s| *s > MOST * 3 / 4));
    }

    #[test]
    fn cuts_stay_where_they_are() {
        // what is at rest was cut by this rule; a new rule would store every map anew
        assert_eq!(sizes(0, std::iter::repeat_n(100, 500)), [7180, 10612, 6452, 6036, 9780, 5308]);
        assert_eq!(sizes(1, std::iter::repeat_n(100, 500)), [13628, 11652, 6972, 9468, 8220]);
    }

    /// TRUST 1.8: nobody recognises a directory by its nodes, nor makes names that are cut badly.
    #[test]
    fn another_realm_cuts_elsewhere() {
        let under = |key| sizes_under(&[key; 32], 0, std::iter::repeat_n(100, 2000));
        assert_ne!(under(7), under(8));
    }

    #[test]
    fn levels_are_cut_at_different_keys() {
        let at = |level| sizes(level, std::iter::repeat_n(100, 2000));
        assert_ne!(at(0), at(1));
    }
}
