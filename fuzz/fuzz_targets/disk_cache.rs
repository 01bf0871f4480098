#![no_main]
//! The disk cache's files (src/content/disk_cache.rs), of any names and bytes, with records that are well sealed among
//! them: whatever is given is what its address says.

use nacrefs::content::DiskCache;
use nacrefs::content::fuzzing::is_usable;
use nacrefs::crypt::domains::{CACHE_CHUNKS, CACHE_NAMES};
use nacrefs::crypt::{DriveSecrets, LocalKeys, Seal, seal};
use nacrefs::error::Result;
use nacrefs::sys::Random;
use nacrefs::types::Address;
use nacrefs::wire::Reader;
use nacrefs_fuzz::{bytes, target};
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Random bytes that are none.
struct Fixed;

impl Random for Fixed {
    fn fill(&self, out: &mut [u8]) -> Result<()> {
        out.fill(7);
        Ok(())
    }
}

static KEYS: LazyLock<LocalKeys> = LazyLock::new(|| {
    let secrets = DriveSecrets::generate(&Fixed).expect("secrets");
    LocalKeys::generate(&secrets, &Fixed).expect("keys")
});

static DIR: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("nacrefs-fuzz-cache-{}", std::process::id())));

/// The files of a script: each with a name, and made of records and of anything. Returns the chunks that were sealed.
fn build(r: &mut Reader, chunks: &mut Vec<Vec<u8>>) -> Result<()> {
    let names = CACHE_NAMES.derive(&[&KEYS.cache_key().0]);
    let key = CACHE_CHUNKS.derive(&[&KEYS.cache_key().0]);
    loop {
        let id = match r.u8()? {
            255 => String::from_utf8_lossy(bytes(r)?).replace(['/', '\0'], "_"),
            254 => "ffffffffffffffff".into(),
            n => format!("{:016x}", n % 4),
        };
        let mut file = Vec::new();
        for _ in 0..r.u8()? % 8 {
            match r.u8()? {
                // A good record; or one under another's name, or of another length.
                what @ 0..=191 => {
                    let chunk = bytes(r)?.to_vec();
                    let address = Address::of(&chunk);
                    let mut name = [0; 16];
                    blake3::Hasher::new_keyed(&names.0).update(&address.0).finalize_xof().fill(&mut name);
                    if what & 63 == 1 {
                        name[0] ^= 1;
                    }
                    let sealed = seal(Seal::Cache, &key, &KEYS.realm(), &address.0, &chunk)?;
                    let len = if what & 63 == 2 { r.u32()? } else { sealed.len() as u32 };
                    file.extend([&name[..], &len.to_le_bytes(), &sealed].concat());
                    chunks.push(chunk);
                }
                _ => file.extend_from_slice(bytes(r)?),
            }
        }
        fs::write(DIR.join(format!("chunks-{id}")), file)?;
    }
}

target!(16, |data| {
    // The first time there is none.
    let _ = fs::remove_dir_all(&*DIR);
    fs::create_dir(&*DIR).expect("a directory");
    let mut chunks = Vec::new();
    let _ = build(&mut Reader::new(data, "script"), &mut chunks);
    for _ in 0..2 {
        let cache = DiskCache::open(&DIR, &KEYS, 1 << 20).expect("a cache");
        let start = Instant::now();
        while !is_usable(&cache) && start.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_micros(50));
        }
        assert!(is_usable(&cache), "whatever lies there, the cache can be used");
        for chunk in &chunks {
            let address = Address::of(chunk);
            if let Some(found) = cache.get(&address) {
                assert!(found == chunk[..]);
            }
            cache.put(&address, chunk);
            assert!(cache.get(&address).is_some_and(|found| found == chunk[..]), "what was put is there");
        }
    }
});
