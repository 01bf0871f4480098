//! Light compression of small objects: Brotli (RFC 7932) where it pays, and a bounded way back.

use brotli::enc::StandardAlloc;
use brotli::enc::encode::{BrotliEncoderOperation, BrotliEncoderParameter, BrotliEncoderStateStruct};
use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc as DecoderAlloc};

/// The smallest object worth compressing, in bytes.
pub const LEAST: usize = 256;
const QUALITY: u32 = 1;
const WINDOW_BITS: u32 = 18;

/// Whether compressing `plain` bytes to `packed` is worth it: at least an eighth is saved.
pub fn pays(plain: usize, packed: usize) -> bool {
    plain >= LEAST && packed <= plain - plain.div_ceil(8)
}

/// The Brotli stream of `plain`, if it [`pays`].
pub fn compress(plain: &[u8]) -> Option<Vec<u8>> {
    if plain.len() < LEAST || looks_random(plain) {
        return None;
    }
    let mut encoder = BrotliEncoderStateStruct::new(StandardAlloc::default());
    for (parameter, value) in [
        (BrotliEncoderParameter::BROTLI_PARAM_QUALITY, QUALITY),
        (BrotliEncoderParameter::BROTLI_PARAM_LGWIN, WINDOW_BITS),
        (BrotliEncoderParameter::BROTLI_PARAM_SIZE_HINT, plain.len() as u32),
    ] {
        encoder.set_parameter(parameter, value);
    }
    // Room for what pays and no more: an encoder that runs out of it has not saved enough.
    let mut out = vec![0; plain.len() - plain.len().div_ceil(8)];
    let (mut in_left, mut in_at, mut out_left, mut out_at) = (plain.len(), 0, out.len(), 0);
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
    out.truncate(out_at);
    (done && encoder.is_finished()).then_some(out)
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

/// Whether four probes of 1 KiB have the byte histogram of random bytes: the chance that two of a probe's
/// bytes are equal, times 256, is 1 for random bytes. Costs a few microseconds; may be wrong, either way.
fn looks_random(bytes: &[u8]) -> bool {
    const PROBE: usize = 1024;
    if bytes.len() <= 4 * PROBE {
        return bytes.chunks(PROBE).all(is_flat);
    }
    let step = (bytes.len() - PROBE) / 3;
    (0..4).all(|i| bytes[i * step..].first_chunk::<PROBE>().is_none_or(|probe| is_flat(probe)))
}

fn is_flat(probe: &[u8]) -> bool {
    let mut counts = [0u32; 256];
    for byte in probe {
        counts[usize::from(*byte)] += 1;
    }
    let pairs: u32 = counts.iter().map(|v| v * v.saturating_sub(1)).sum();
    let all = probe.len() * probe.len().saturating_sub(1);
    f64::from(pairs) * 256.0 < 1.22 * all as f64 || all == 0
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

    proptest! {
        #[test]
        fn what_is_compressed_comes_back(word in proptest::collection::vec(any::<u8>(), 1..40), times in 1usize..3000) {
            let plain = word.repeat(times);
            if let Some(packed) = compress(&plain) {
                prop_assert!(pays(plain.len(), packed.len()));
                prop_assert_eq!(decompress(&packed, plain.len()), Some(plain));
            }
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300), size in 0usize..5000) {
            if let Some(out) = decompress(&bytes, size) {
                prop_assert_eq!(out.len(), size);
            }
        }
    }

    proptest! {
        #[test]
        fn bent_streams_are_read_without_harm(at: prop::sample::Index, byte: u8, size in 0usize..40_000) {
            let plain: Vec<u8> = (0..2000).flat_map(|i| format!("entry {i}\n").into_bytes()).collect();
            let mut packed = compress(&plain).unwrap();
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
        assert!(compress(&text).is_some_and(|p| p.len() < text.len() / 2));
        assert!(compress(&text[..LEAST - 1]).is_none());
        for len in [LEAST, 1000, 5000, 100_000] {
            assert!(looks_random(&noise(len)), "{len}");
            assert!(compress(&noise(len)).is_none());
        }
        // Too dense for the probe, too little saved for the encoder.
        let mut mixed = noise(10_000);
        mixed[..1100].fill(0);
        assert!(!looks_random(&mixed));
        assert!(compress(&mixed).is_none());
    }

    #[test]
    fn all_input_and_all_output_are_demanded() {
        let plain = vec![7; 4096];
        let mut packed = compress(&plain).unwrap();
        assert!(decompress(&packed, 4095).is_none());
        assert!(decompress(&packed, 4097).is_none());
        assert!(decompress(&packed[..packed.len() - 1], 4096).is_none());
        packed.push(0);
        assert!(decompress(&packed, 4096).is_none());
    }
}
