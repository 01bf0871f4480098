#![no_main]
//! What opens a drive (src/crypt/slot, src/cli/secrets.rs): key slots as the store shows them and behind their seal, key
//! files, recovery codes, passphrase files, and the sealed files of a state directory (src/crypt/local.rs).

use bytes::Bytes;
use nacrefs::cli::fuzzing::{parse_key, passphrase_of};
use nacrefs::crypt::domains::SLOT_KEY_FILE;
use nacrefs::crypt::{DeviceRecord, DriveSecrets, LocalKeys, Memory, RecoveryCode, Seal, Secret, Slot};
use nacrefs::crypt::{fuzzing, seal};
use nacrefs::error::{Kind, Result};
use nacrefs::session::slots;
use nacrefs::store::Objects;
use nacrefs::store::memory;
use nacrefs::sys::Random;
use nacrefs::types::{Key, RealmId};
use nacrefs::wire::Writer;
use nacrefs_fuzz::forge::KEY;
use nacrefs_fuzz::{choice, same, target};
use std::sync::LazyLock;

/// Random bytes that are none.
struct Fixed;

impl Random for Fixed {
    fn fill(&self, out: &mut [u8]) -> Result<()> {
        out.fill(7);
        Ok(())
    }
}

static DRIVE: LazyLock<(DriveSecrets, LocalKeys)> = LazyLock::new(|| {
    let secrets = DriveSecrets::generate(&Fixed).expect("secrets");
    let keys = LocalKeys::generate(&secrets, &Fixed).expect("keys");
    (secrets, keys)
});

/// A slot for a key file, whose message is anything.
fn slot(message: &[u8]) -> Vec<u8> {
    let (id, drive, salt) = ([1; 16], [2; 16], [3; 32]);
    let mut w = Writer::new();
    w.raw(b"nacre slot").u16(1).u8(1).raw(&id).raw(&drive).u8(2).raw(&salt).bytes(b"label").ivar(0).var(0);
    let key = SLOT_KEY_FILE.derive(&[&KEY.0, &salt]);
    let sealed = seal(Seal::Slot, &key, &RealmId(drive), w.as_slice(), message).expect("short enough");
    w.bytes(&sealed);
    w.into_vec()
}

/// Opens a drive whose only slot is this.
fn unlock(bytes: &[u8]) -> Result<DriveSecrets> {
    let objects = memory::Memory::new();
    objects.put(&format!("slots/{}", "01".repeat(16)), Bytes::copy_from_slice(bytes))?;
    slots::unlock(&objects, &Secret::KeyFile(Key(KEY.0))).map(|(secrets, _)| secrets)
}

// A slot's words of secrets are locked in memory, a page or more for each epoch.
target!(32, |data| {
    let (what, rest) = choice(data);
    match what % 7 {
        0 => {
            same(Slot::decode(rest).map(|slot| slot.encode()), rest);
            let _ = unlock(rest);
        }
        1 => {
            let read = fuzzing::secrets(rest);
            if let Ok(secrets) = unlock(&slot(rest)) {
                assert_eq!(secrets.epoch(), read.as_ref().expect("the same message").0.epoch());
            }
            same(read.map(|(_, again)| again), rest);
        }
        2 => {
            if let Err(e) = Secret::from_key_file(rest) {
                assert_eq!(e.kind(), Kind::Secret);
            }
            if let Ok(text) = str::from_utf8(rest) {
                parse_key(text);
            }
        }
        3 => {
            let Ok(text) = str::from_utf8(rest) else { return };
            if let Ok(code) = RecoveryCode::parse(text) {
                assert_eq!(
                    RecoveryCode::parse(&code.to_text()).expect("a code's own form").to_text(),
                    code.to_text()
                );
            }
        }
        4 => {
            if let Ok(text) = passphrase_of(rest, "stdin") {
                assert!(!text.is_empty() && rest.starts_with(text.as_bytes()));
            }
        }
        5 => {
            let (secrets, keys) = &*DRIVE;
            let [device, memory] = fuzzing::state_files(keys, rest).expect("short enough");
            let again = DeviceRecord::open(keys, &device).and_then(|record| record.seal(keys));
            same(again, &device);
            same(Memory::open(keys, &memory).and_then(|m| m.seal(keys)), &memory);
            assert!(LocalKeys::unwrap(secrets, rest).is_err());
        }
        _ => {
            let (secrets, keys) = &*DRIVE;
            assert!(LocalKeys::unwrap(secrets, rest).is_err() || keys.wrap(secrets).is_ok_and(|w| w == rest));
            assert!(DeviceRecord::open(keys, rest).is_err() && Memory::open(keys, rest).is_err());
        }
    }
});
