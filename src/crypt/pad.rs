//! Zero padding inside a seal, which blurs sizes.
//!
//! PADMÉ (Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs",
//! PoPETs 2019): a length keeps only as many significant bits as its magnitude needs bits to write, so
//! that an observer learns O(log log n) bits of it; costs at most 12 %, less for large ones.

/// The length that `len` is padded to.
pub fn padme(len: usize) -> usize {
    let magnitude = len.checked_ilog2().unwrap_or(0);
    let kept = magnitude.checked_ilog2().map_or(0, |m| m + 1);
    let mask = (1usize << (magnitude - kept)) - 1;
    len.saturating_add(mask) & !mask
}

/// Pads with zeros to the PADMÉ length.
pub fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(padme(bytes.len()), 0);
}

/// Whether `padding` is exactly what [`pad`] puts after `used` bytes.
pub fn is_padding(used: usize, padding: &[u8]) -> bool {
    used + padding.len() == padme(used) && padding.iter().all(|b| *b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_lengths() {
        for (len, padded) in [
            (0, 0),
            (1, 1),
            (7, 7),
            (8, 8),
            (9, 10),
            (15, 16),
            (17, 18),
            (100, 104),
            (1000, 1024),
            (1025, 1088),
            (4300, 4352),
        ] {
            assert_eq!(padme(len), padded, "{len}");
        }
    }

    /// TRUST 5: sizes are blurred, for at most 12 %.
    #[test]
    fn padding_is_bounded_stable_and_blurs() {
        let mut lengths = 0;
        for len in 1..100_000 {
            let padded = padme(len);
            assert!(padded >= len && (padded - len) * 100 <= len * 12, "{len}");
            assert_eq!(padme(padded), padded);
            lengths += usize::from(padded == len);
        }
        assert!(lengths < 300, "{lengths} lengths are told apart");
    }

    #[test]
    fn only_exact_zero_padding_passes() {
        assert!(is_padding(100, &[0; 4]));
        assert!(!is_padding(100, &[0; 3]));
        assert!(!is_padding(100, &[0; 5]));
        assert!(!is_padding(100, &[0, 0, 0, 1]));
    }
}
