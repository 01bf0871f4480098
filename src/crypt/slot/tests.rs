use super::*;
use crate::chunk::Sealer;
use crate::sys::SystemRandom;
use proptest::prelude::*;

/// Nothing that protects anything.
const CHEAP: KdfParams = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
const NOW: Time = Time { sec: 1_800_000_000, nsec: 5 };

fn passphrase(text: &str) -> Secret {
    Secret::Passphrase(Zeroizing::new(text.into()))
}

fn make(secrets: &DriveSecrets, secret: &Secret) -> Slot {
    Slot::create(secrets, secret, CHEAP, "Anna’s", NOW, &SystemRandom).unwrap()
}

fn refused(slot: &Slot, secret: &Secret) -> Error {
    let e = slot.open(secret).unwrap_err();
    assert_eq!(e.kind(), Kind::Secret, "{e}");
    e
}

#[test]
fn each_kind_of_secret_opens_its_slot_and_no_other_does() {
    let mut secrets = DriveSecrets::generate(&SystemRandom).unwrap();
    secrets.next_epoch(&SystemRandom).unwrap();
    let code = RecoveryCode::generate(&SystemRandom).unwrap();
    let all = [
        (passphrase("correct horse"), passphrase("Correct horse")),
        (Secret::KeyFile(Key([1; 32])), Secret::KeyFile(Key([2; 32]))),
        (Secret::Recovery(code), Secret::Recovery(RecoveryCode::generate(&SystemRandom).unwrap())),
    ];
    for (secret, wrong) in &all {
        let slot = Slot::decode(&make(&secrets, secret).encode()).unwrap();
        assert_eq!((slot.kind(), slot.drive(), slot.created()), (secret.kind(), secrets.drive, NOW));
        assert_eq!(slot.label(), "Anna’s");
        let opened = slot.open(secret).unwrap();
        assert_eq!((opened.drive, opened.realm, opened.epoch()), (secrets.drive, secrets.realm, 2));
        assert_eq!(opened.admin.public(), secrets.admin.public());
        assert_eq!(opened.realm_keys().source_hash(b"x"), secrets.realm_keys().source_hash(b"x"));
        assert!(refused(&slot, wrong).to_string().contains("does not open"));
        for (other, _) in all.iter().filter(|(other, _)| other.kind() != secret.kind()) {
            assert!(refused(&slot, other).to_string().contains("is opened by a"));
        }
    }
}

/// TRUST 2: the same bytes as key file and as recovery code give different keys, and so do two slots.
#[test]
fn no_two_slots_share_a_key() {
    let secrets = DriveSecrets::generate(&SystemRandom).unwrap();
    let file = Secret::KeyFile(Key([7; 32]));
    let slot = make(&secrets, &file);
    let other = make(&secrets, &file);
    assert!(slot.id != other.id && slot.salt != other.salt && slot.sealed != other.sealed);
    assert_ne!(slot.key(&file).unwrap(), other.key(&file).unwrap());
    assert_ne!(
        domains::SLOT_KEY_FILE.derive(&[&[7; 32], &slot.salt]),
        domains::SLOT_RECOVERY.derive(&[&[7; 32], &slot.salt])
    );
}

/// TRUST 1.7: whatever a slot shows in the clear is bound to its seal.
#[test]
fn no_bit_of_a_slot_may_change() {
    let secrets = DriveSecrets::generate(&SystemRandom).unwrap();
    let file = Secret::KeyFile(Key([7; 32]));
    let bytes = make(&secrets, &file).encode();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bent = bytes.clone();
            bent[at] ^= 1 << bit;
            assert!(Slot::decode(&bent).and_then(|slot| slot.open(&file)).is_err(), "byte {at} bit {bit}");
        }
    }
    assert!(Slot::decode(&bytes[..bytes.len() - 1]).is_err());
    assert!(Slot::decode(&[&bytes[..], &[0]].concat()).is_err());
    assert_eq!(Slot::decode(&bytes).unwrap().encode(), bytes);
}

/// TRUST 1.7, 2: nor may the parameters of its key derivation, and greedy ones are never tried.
#[test]
fn parameters_of_a_slot_steer_nothing() {
    let secrets = DriveSecrets::generate(&SystemRandom).unwrap();
    let secret = passphrase("p");
    let slot = make(&secrets, &secret);
    let mut bent = slot.clone();
    bent.lock = Lock::Passphrase(KdfParams { memory_kib: 16, ..CHEAP });
    refused(&bent, &secret);
    // A parameter that argon2 rounds away is bound too.
    bent.lock = Lock::Passphrase(KdfParams { memory_kib: 9, ..CHEAP });
    refused(&bent, &secret);

    for greedy in [
        KdfParams { memory_kib: (1 << 20) + 1, ..CHEAP },
        KdfParams { passes: 11, ..CHEAP },
        KdfParams { memory_kib: u32::MAX, passes: u32::MAX, lanes: u32::MAX },
        KdfParams { lanes: 0, ..CHEAP },
    ] {
        bent.lock = Lock::Passphrase(greedy);
        let e = Slot::decode(&bent.encode()).unwrap_err();
        assert_eq!(e.kind(), Kind::Damage);
        assert!(e.to_string().contains("asks for"), "{e}");
        assert!(bent.open(&secret).is_err());
        let e = Slot::create(&secrets, &secret, greedy, "", NOW, &SystemRandom).unwrap_err();
        assert_eq!(e.kind(), Kind::Usage);
    }
}

#[test]
fn a_slot_that_makes_no_sense_is_not_made() {
    let secrets = DriveSecrets::generate(&SystemRandom).unwrap();
    let create =
        |secret: &Secret, label: &str| Slot::create(&secrets, secret, CHEAP, label, NOW, &SystemRandom);
    assert_eq!(create(&passphrase(""), "").unwrap_err().kind(), Kind::Usage);
    assert_eq!(create(&passphrase("p"), &"x".repeat(256)).unwrap_err().kind(), Kind::Usage);
    let longest = create(&passphrase("p"), &"x".repeat(255)).unwrap();
    assert_eq!(Slot::decode(&longest.encode()).unwrap(), longest);
}

#[test]
fn messages_do_not_tell_secrets() {
    let secrets = DriveSecrets::generate(&SystemRandom).unwrap();
    let slot = make(&secrets, &passphrase("hunter2"));
    let e = refused(&slot, &passphrase("hunter3"));
    assert!(!e.chain().contains("hunter"), "{e}");
}

proptest! {
    #[test]
    fn hostile_bytes_are_refused_or_canonical(tail in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..5) {
        let mut bytes = [MAGIC.as_slice(), &[1, 0, 1], &[0; 32], &[kind]].concat();
        bytes.extend_from_slice(&tail);
        if let Ok(slot) = Slot::decode(&bytes) {
            prop_assert_eq!(slot.encode(), bytes);
        }
    }
}
