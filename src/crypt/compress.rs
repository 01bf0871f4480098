//! Light compression (Brotli, RFC 7932), for sealed objects and for pieces of sets, and a bounded way back.

use brotli::enc::StandardAlloc;
use brotli::enc::encode::{
    BrotliEncoderDestroyInstance, BrotliEncoderOperation, BrotliEncoderParameter, BrotliEncoderStateStruct,
};
use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc as DecoderAlloc};

/// Measured on source and binaries in pieces of 4 to 64 KiB: 0 is 6 to 20 % faster, 1 is 3 to 7 % smaller.
const QUALITY: u32 = 1;

/// The Brotli stream of `plain`, with a window of so many bits, if it takes at most `most` bytes. The same
/// `plain` always gives the same stream.
pub fn compress(plain: &[u8], window_bits: u32, most: usize) -> Option<Vec<u8>> {
    if looks_random(plain) {
        return None;
    }
    let mut encoder = BrotliEncoderStateStruct::new(StandardAlloc::default());
    encoder.set_parameter(BrotliEncoderParameter::BROTLI_PARAM_QUALITY, QUALITY);
    encoder.set_parameter(BrotliEncoderParameter::BROTLI_PARAM_LGWIN, window_bits);
    // An encoder that runs out of room has not saved enough.
    let mut out = vec![0; most];
    let (mut in_left, mut in_at, mut out_left, mut out_at) = (plain.len(), 0, most, 0);
    // All of it in one call: fed in bits, the fast qualities compress each bit by itself.
    let done = encoder.compress_stream(
        BrotliEncoderOperation::BROTLI_OPERATION_FINISH,
        &mut in_left,
        plain,
        &mut in_at,
        &mut out_left,
        &mut out,
        &mut out_at,
        &mut None,
        &mut |_, _, _, _| (),
    );
    let fits = done && in_left == 0 && encoder.is_finished();
    BrotliEncoderDestroyInstance(&mut encoder);
    out.truncate(out_at);
    out.shrink_to_fit();
    fits.then_some(out)
}

/// What the Brotli stream `packed` unpacks to, if that is exactly `size` bytes and takes all of `packed`.
/// Never writes more than `size` bytes; windows over 16 MiB ("large window") are refused.
pub fn decompress(packed: &[u8], size: usize) -> Option<Vec<u8>> {
    let alloc = DecoderAlloc::default;
    let mut state = BrotliState::new_strict(alloc(), alloc(), alloc());
    let mut out = vec![0; size];
    let (mut in_left, mut in_at, mut out_left, mut out_at, mut total) = (packed.len(), 0, size, 0, 0);
    let result = BrotliDecompressStream(
        &mut in_left,
        &mut in_at,
        packed,
        &mut out_left,
        &mut out_at,
        &mut out,
        &mut total,
        &mut state,
    );
    (matches!(result, BrotliResult::ResultSuccess) && in_left == 0 && out_left == 0).then_some(out)
}

/// Whether compressing is in vain: by the chance that two of its bytes are equal (of four probes of 1 KiB,
/// where it is longer), which is 1/256 for random bytes and hardly more for what is compressed already.
/// Costs a few microseconds; may be wrong, either way.
fn looks_random(plain: &[u8]) -> bool {
    const PROBE: usize = 1024;
    const PROBES: usize = 4;
    let mut counts = [0u64; 256];
    let mut count = |bytes: &[u8]| bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    if plain.len() <= PROBE * PROBES {
        count(plain);
    } else {
        let step = (plain.len() - PROBE) / (PROBES - 1);
        (0..PROBES).for_each(|i| count(&plain[i * step..][..PROBE]));
    }
    let n = plain.len().min(PROBE * PROBES) as u64;
    let pairs: u64 = counts.iter().map(|v| v * v.saturating_sub(1)).sum();
    // 256 · pairs / (n · (n − 1)) < 1.22
    256 * 100 * pairs < 122 * n * n.saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    }

    fn packed(plain: &[u8]) -> Option<Vec<u8>> {
        compress(plain, 18, plain.len() - plain.len().div_ceil(8))
    }

    proptest! {
        #[test]
        fn what_is_compressed_comes_back(word in proptest::collection::vec(any::<u8>(), 1..40), times in 1usize..3000) {
            let plain = word.repeat(times);
            if let Some(packed) = packed(&plain) {
                prop_assert!(packed.len() <= plain.len() - plain.len() / 8);
                prop_assert_eq!(decompress(&packed, plain.len()), Some(plain));
            }
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300), size in 0usize..5000) {
            if let Some(out) = decompress(&bytes, size) {
                prop_assert_eq!(out.len(), size);
            }
        }

        #[test]
        fn bent_streams_are_read_without_harm(at: prop::sample::Index, byte: u8, size in 0usize..40_000) {
            let plain: Vec<u8> = (0..2000).flat_map(|i| format!("entry {i}\n").into_bytes()).collect();
            let mut packed = packed(&plain).unwrap();
            let at = at.index(packed.len());
            packed[at] = byte;
            if let Some(out) = decompress(&packed, size) {
                prop_assert_eq!(out.len(), size);
            }
        }
    }

    #[test]
    fn text_pays_and_noise_does_not() {
        let text: Vec<u8> = (0..2000).flat_map(|i| format!("entry {i}\n").into_bytes()).collect();
        assert!(packed(&text).is_some_and(|p| p.len() < text.len() / 2));
        assert!(!looks_random(&text) && !looks_random(&text[..300]) && !looks_random(b""));
        for len in [1000, 4096, 4097, 100_000] {
            assert!(looks_random(&noise(len)), "{len}");
            assert!(packed(&noise(len)).is_none());
        }
        // Too dense for the probe, too little saved for the encoder.
        let mut mixed = noise(10_000);
        mixed[..1100].fill(0);
        assert!(!looks_random(&mixed));
        assert!(packed(&mixed).is_none());
    }

    #[test]
    fn all_input_and_all_output_are_demanded() {
        let plain = vec![7; 4096];
        let mut packed = packed(&plain).unwrap();
        assert!(decompress(&packed, 4095).is_none());
        assert!(decompress(&packed, 4097).is_none());
        assert!(decompress(&packed[..packed.len() - 1], 4096).is_none());
        packed.push(0);
        assert!(decompress(&packed, 4096).is_none());
    }
}
