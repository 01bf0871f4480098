#![no_main]
//! A file's content as a directory entry holds it (src/content): Blobs, segments, maps of sets, over chunks of any
//! content. One encoding; what is read is what was there; what is edited reads as the edits say.

use libfuzzer_sys::arbitrary::Unstructured;
use nacrefs::content::{Blob, Ctx, Edit, SEGMENT, Seek};
use nacrefs::error::Result;
use nacrefs::wire::{Reader, Writer};
use nacrefs_fuzz::chunks::{Forged, Sink};
use nacrefs_fuzz::{forge, target};

/// How much is read, from the beginning.
const WINDOW: usize = SEGMENT as usize + (64 << 10);

fn encoded(blob: &Blob) -> Vec<u8> {
    let mut w = Writer::new();
    blob.put(&mut w);
    w.into_vec()
}

fn look(blob: &Blob, chunks: &Forged) -> Result<Vec<u8>> {
    let mut window = vec![0xa5; WINDOW];
    blob.read(chunks, 0, &mut window)?;
    Ok(window)
}

/// A few edits within the window, sorted, without overlap.
fn edits(rest: &[u8]) -> (Option<u64>, Vec<Edit>) {
    let mut u = Unstructured::new(rest);
    let cut = u.arbitrary::<Option<u32>>().ok().flatten().map(|at| u64::from(at) % WINDOW as u64);
    let (mut edits, mut at) = (Vec::new(), 0u64);
    while let Ok((gap, len, byte)) = u.arbitrary::<(u32, u16, Option<u8>)>() {
        at += u64::from(gap % (300 << 10));
        let len = u64::from(len).max(1);
        if u.is_empty() || at + len > WINDOW as u64 {
            break;
        }
        edits.push(match byte {
            Some(byte) => Edit::data(at, vec![byte; len as usize]),
            None => Edit::hole(at, len),
        });
        at += len;
    }
    (cut, edits)
}

fn run(data: &[u8]) -> Result<()> {
    let mut r = Reader::new(data, "blob");
    let blob = Blob::get(&mut r)?;
    let at = data.len() - r.rest().len();
    assert!(encoded(&blob) == data[..at], "a Blob has one encoding");
    let chunks = Forged::read(&mut r).unwrap_or_default();
    blob.allocated();
    let size = 3 * u64::from(SEGMENT);
    for from in [0, 5000, 1 << 20, u64::MAX] {
        for what in [Seek::Data, Seek::Hole] {
            if let Ok(Some(found)) = blob.seek(&chunks, what, from, size) {
                assert!((from..=size).contains(&found));
            }
        }
    }
    let mut last = [0; 100];
    let _ = blob.read(&chunks, u64::MAX - 50, &mut last);
    let mut most = 10_000;
    let _ = blob.chunk_refs(&chunks, &mut |_| {
        most -= 1;
        assert!(most > 0, "too many chunks");
        Ok(())
    });
    let Ok(mut wanted) = look(&blob, &chunks) else { return Ok(()) };
    let (cut, edits) = edits(r.rest());
    let ctx = Ctx { sealer: forge::realm_keys(), chunks: &chunks, fetch: &chunks, random: false };
    let Ok(edited) = blob.update(&ctx, &mut Sink(&chunks), cut, &edits) else { return Ok(()) };
    if let Some(cut) = cut {
        wanted[cut as usize..].fill(0);
    }
    for edit in &edits {
        let range = edit.at as usize..(edit.at + edit.len) as usize;
        match &edit.what {
            nacrefs::content::What::Hole => wanted[range].fill(0),
            nacrefs::content::What::Data(datum, from) => {
                wanted[range].copy_from_slice(&datum.read(*from..*from + edit.len)?);
            }
        }
    }
    let bytes = encoded(&edited);
    let again = Blob::get(&mut Reader::new(&bytes, "blob")).expect("what was written can be read");
    assert_eq!(again, edited);
    assert!(look(&again, &chunks).expect("what was edited can be read") == wanted, "the edits are made");
    Ok(())
}

target!(32, |data| drop(run(data)));
