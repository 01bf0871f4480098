//! Where things are in a store (docs/FORMAT.md), and `nacre.json`.

use super::index::PartId;
use super::objects::{Objects, Race, create_verified};
use super::pack::PackId;
use crate::error::{Error, Kind, Result};
use crate::types::{DriveId, RealmId, Version, hex};
use serde::{Deserialize, Serialize};

/// The object that makes a store a drive.
pub const DRIVE: &str = "nacre.json";
/// The directory of the key slots.
pub const SLOTS: &str = "slots";
/// The directory of the marks of key slots that are being removed.
pub const REMOVING: &str = "removing";
/// The directory of the realms.
pub const REALMS: &str = "realms";
/// Where names are tried out before a store is used.
pub const PROBE: &str = "probe/";

const MAGIC: &str = "nacre drive";
const FORMAT: u64 = 1;
/// `nacre.json` is far smaller than this.
const MAX_DRIVE: u64 = 4096;

/// Whether a name may be one of a drive's.
pub fn is_of_a_drive(name: &str) -> bool {
    let top = name.split('/').next().unwrap_or_default();
    [DRIVE, SLOTS, REMOVING, "probe", REALMS].contains(&top)
}

/// The name of a key slot.
pub fn slot(id: &[u8; 16]) -> String {
    format!("{SLOTS}/{}", hex(id))
}

/// The mark of a key slot that is being removed, of one remover.
pub fn removing(slot: &str, nonce: &str) -> String {
    format!("{REMOVING}/{slot}.{nonce}")
}

/// The names of a realm's objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    realm: String,
}

impl Layout {
    pub fn new(realm: &RealmId) -> Layout {
        Layout { realm: format!("{REALMS}/{realm}") }
    }

    /// The directory of the heads.
    pub fn heads(&self) -> String {
        format!("{}/heads", self.realm)
    }

    /// The head of a version: 20 digits, so that names sort as versions do.
    pub fn head(&self, version: Version) -> String {
        format!("{}/heads/{version:020}", self.realm)
    }

    /// The version whose head has a name; nothing for any other name.
    pub fn version_of(&self, name: &str) -> Option<Version> {
        let version = name.rsplit_once('/')?.1.parse().ok()?;
        (self.head(version) == name).then_some(version)
    }

    /// The hint where to look for the newest head.
    pub fn latest(&self) -> String {
        format!("{}/latest", self.realm)
    }

    /// The directory of the packs.
    pub fn packs(&self) -> String {
        format!("{}/packs", self.realm)
    }

    pub fn pack(&self, id: &PackId) -> String {
        let id = id.to_string();
        format!("{}/packs/{}/{id}", self.realm, &id[..2])
    }

    /// The pack that has a name; nothing for any other name.
    pub fn pack_of(&self, name: &str) -> Option<PackId> {
        let id = PackId(unhex(name.rsplit_once('/')?.1)?);
        (self.pack(&id) == name).then_some(id)
    }

    /// The directory of the index runs.
    pub fn index(&self) -> String {
        format!("{}/index", self.realm)
    }

    /// An object of an index run.
    pub fn part(&self, id: &PartId) -> String {
        format!("{}/index/{}", self.realm, hex(&id.0))
    }
}

/// Bytes from lower-case hexadecimal.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

/// The content of `nacre.json`: unauthenticated, so it says nothing that steers.
#[derive(Serialize, Deserialize)]
struct DriveFile {
    magic: String,
    format: u64,
    /// Absent in what a later format may look like.
    #[serde(default)]
    drive: String,
}

/// Makes a store a drive. A store that is one already is a `Conflict`.
pub fn write_drive(objects: &dyn Objects, drive: DriveId) -> Result<()> {
    match create_verified(objects, DRIVE, &encode(drive)?.into())? {
        Race::Won => Ok(()),
        Race::Lost => Err(Error::new(Kind::Conflict, "there is a drive in this store already")),
    }
}

/// Which drive a store holds. A store without a drive is `NotADrive`; one that has key slots, and no good
/// `nacre.json`, is damaged.
pub fn read_drive(objects: &dyn Objects) -> Result<DriveId> {
    match read_file(objects) {
        Err(e) if e.kind() == Kind::NotADrive && !objects.list(SLOTS)?.is_empty() => {
            Err(Error::damage(format!(
                "nacre.json is missing or damaged: restore it from a backup (or, if 'nacrefs init' was interrupted \
                 here, run it again with the same passphrase or key file): {e}"
            )))
        }
        read => read,
    }
}

fn read_file(objects: &dyn Objects) -> Result<DriveId> {
    let not_a_drive = |why: &str| Error::new(Kind::NotADrive, format!("this store holds no drive: {why}"));
    match objects.size(DRIVE) {
        Ok(size) if size <= MAX_DRIVE => {}
        Ok(_) => return Err(not_a_drive("its nacre.json is too long to be ours")),
        Err(e) if e.kind() == Kind::NotFound => {
            return Err(not_a_drive("there is no nacre.json ('nacrefs init' makes a drive)"));
        }
        Err(e) => return Err(e),
    }
    let json = objects.get(DRIVE)?;
    let file: DriveFile = serde_json::from_slice(&json)
        .map_err(|e| not_a_drive("its nacre.json is not ours").with_source(e))?;
    if file.magic != MAGIC {
        return Err(not_a_drive("its nacre.json is not ours"));
    }
    if file.format != FORMAT {
        return Err(Error::failed(format!(
            "nacre.json: the drive has format {}, and this version of nacrefs knows format {FORMAT}: use a newer \
             one",
            file.format
        )));
    }
    let damaged = |why: &str| Error::damage(format!("nacre.json: {why}; restore it from a backup"));
    let drive = unhex(&file.drive).map(DriveId).ok_or_else(|| damaged("the drive id is not an id"))?;
    if json != encode(drive)? {
        return Err(damaged("it does not say exactly what it must"));
    }
    Ok(drive)
}

fn encode(drive: DriveId) -> Result<Vec<u8>> {
    let file = DriveFile { magic: MAGIC.into(), format: FORMAT, drive: drive.to_string() };
    let mut json =
        serde_json::to_vec(&file).map_err(|e| Error::failed("cannot write nacre.json").with_source(e))?;
    json.push(b'\n');
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::Memory;

    #[test]
    fn names_come_back() {
        let layout = Layout::new(&RealmId([0xab; 16]));
        assert_eq!(layout.head(7), format!("realms/{}/heads/00000000000000000007", "ab".repeat(16)));
        assert_eq!(layout.version_of(&layout.head(u64::MAX)), Some(u64::MAX));
        let pack = PackId([0x1f; 32]);
        assert!(layout.pack(&pack).contains("/packs/1f/1f1f"));
        assert_eq!(layout.pack_of(&layout.pack(&pack)), Some(pack));
        for other in [
            layout.head(7).replace("0007", "7"),
            layout.head(7) + ".x",
            layout.pack(&pack).replace("/1f/", "/1e/"),
            layout.pack(&pack).to_uppercase(),
            "x".into(),
        ] {
            assert_eq!((layout.version_of(&other), layout.pack_of(&other)), (None, None), "{other}");
        }
    }

    #[test]
    fn a_store_says_which_drive_it_holds() {
        let store = Memory::new();
        assert_eq!(read_drive(&store).unwrap_err().kind(), Kind::NotADrive);
        write_drive(&store, DriveId([7; 16])).unwrap();
        assert_eq!(read_drive(&store).unwrap(), DriveId([7; 16]));
        assert_eq!(write_drive(&store, DriveId([8; 16])).unwrap_err().kind(), Kind::Conflict);
        let with = |json: &str| {
            store.put(DRIVE, json.to_owned().into()).unwrap();
            read_drive(&store).unwrap_err()
        };
        let newer = with(r#"{"magic":"nacre drive","format":2,"other":1}"#);
        assert!(newer.to_string().contains("format 2"), "{newer}");
        assert_eq!(with("{}").kind(), Kind::NotADrive);
        assert_eq!(with("\u{1}").kind(), Kind::NotADrive);
        assert_eq!(with(&" ".repeat(5000)).kind(), Kind::NotADrive);
        assert_eq!(with(r#"{"magic":"nacre drive","format":1,"drive":"zz"}"#).kind(), Kind::Damage);
    }
}
