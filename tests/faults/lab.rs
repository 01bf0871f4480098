//! What the cases share: commands and what they said, a drive with a bit of everything, and looking at all of it.

pub use crate::common::full;
pub use crate::common::noise;
pub use crate::common::wait_until;
use crate::common::{TestDrive, ok};
use nacrefs::crypt::{DriveSecrets, Secret};
use nacrefs::session::{Site, slots};
use nacrefs::store::{Layout, Objects};
use nacrefs::types::Key;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

/// What a command said: exit status, standard output, standard error.
#[derive(Debug)]
pub struct Said {
    pub exit: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Said {
    fn from(o: Output) -> Said {
        Said {
            exit: o.status.code().unwrap_or(-1),
            out: String::from_utf8(o.stdout).unwrap(),
            err: String::from_utf8(o.stderr).unwrap(),
        }
    }
}

pub fn run(command: &mut Command) -> Said {
    command.output().unwrap().into()
}

impl Said {
    /// Demands an exit status and one line on standard error with each of the words.
    #[track_caller]
    pub fn expect(self, exit: i32, words: &[&str]) -> Said {
        assert_eq!(self.exit, exit, "{self:?}");
        self.one_line(words)
    }

    #[track_caller]
    pub fn one_line(self, words: &[&str]) -> Said {
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        assert!(self.err.starts_with("nacrefs: "), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in {self:?}");
        }
        self
    }
}

/// Words that stand in the names of files, and must stand in no log.
pub const MARK: &str = "oyster-4711";

/// What is to be found at a path.
#[derive(Debug, PartialEq, Eq)]
pub enum Node {
    Dir(Vec<String>),
    File(Vec<u8>),
    Link(PathBuf),
}

pub type Tree = BTreeMap<PathBuf, Node>;

/// Reads a whole tree that must be readable.
pub fn tree(root: &Path) -> Tree {
    fn walk(root: &Path, at: &Path, out: &mut Tree) {
        let here = root.join(at);
        let meta = fs::symlink_metadata(&here).unwrap();
        let node = if meta.is_dir() {
            let names = names_of(&here).unwrap();
            names.iter().for_each(|n| walk(root, &at.join(n), out));
            Node::Dir(names)
        } else if meta.is_symlink() {
            Node::Link(fs::read_link(&here).unwrap())
        } else {
            Node::File(fs::read(&here).unwrap())
        };
        out.insert(at.to_owned(), node);
    }
    let mut out = Tree::new();
    walk(root, Path::new(""), &mut out);
    out
}

fn names_of(dir: &Path) -> std::io::Result<Vec<String>> {
    let mut names = fs::read_dir(dir)?
        .map(|e| Ok(e?.file_name().into_string().unwrap()))
        .collect::<Result<Vec<_>, std::io::Error>>()?;
    names.sort();
    Ok(names)
}

/// Reads everything that the tree says, and demands that each answer is right, or EIO. Returns the paths with EIO,
/// and how many bytes were read.
pub fn right_or_eio(root: &Path, want: &Tree, what: &str) -> (Vec<PathBuf>, usize) {
    let (mut bad, mut read) = (Vec::new(), 0);
    for (path, node) in want {
        let here = root.join(path);
        let mut look = || -> std::io::Result<()> {
            let meta = fs::symlink_metadata(&here)?;
            match node {
                Node::Dir(names) => assert_eq!(&names_of(&here)?, names, "{what}: {}", path.display()),
                Node::Link(target) => {
                    assert_eq!(&fs::read_link(&here)?, target, "{what}: {}", path.display())
                }
                Node::File(bytes) => {
                    assert_eq!(meta.len(), bytes.len() as u64, "{what}: {}", path.display());
                    let file = fs::File::open(&here)?;
                    let mut buffer = vec![0; 64 << 10];
                    let mut failed = None;
                    for at in (0..bytes.len()).step_by(buffer.len()) {
                        let n = buffer.len().min(bytes.len() - at);
                        match file.read_exact_at(&mut buffer[..n], at as u64) {
                            Ok(()) => {
                                read += n;
                                assert!(
                                    buffer[..n] == bytes[at..at + n],
                                    "{what}: wrong data in {} at {at}",
                                    path.display()
                                );
                            }
                            Err(e) => failed = Some(e),
                        }
                    }
                    failed.map_or(Ok(()), Err)?;
                }
            }
            Ok(())
        };
        if let Err(e) = look() {
            assert_eq!(e.raw_os_error(), Some(libc::EIO), "{what}: {}: {e}", path.display());
            bad.push(path.clone());
        }
    }
    (bad, read)
}

/// A drive with files of every kind, in several versions; not mounted any more.
pub fn furnished() -> (TestDrive, Tree) {
    let mut d = TestDrive::with("commit=3600");
    let at = |name: &str| d.mnt.join(format!("{MARK}-{name}"));
    fs::write(at("inline"), "a few bytes").unwrap();
    fs::write(at("small"), noise(1, 20_000)).unwrap();
    fs::write(at("words"), "all the same words again and again ".repeat(40_000)).unwrap();
    fs::write(at("old"), noise(2, 300_000)).unwrap();
    d.sync();
    fs::write(at("large"), noise(3, 2_700_000)).unwrap();
    fs::create_dir(at("dir")).unwrap();
    for n in 0..300 {
        fs::write(
            at("dir").join(format!("{MARK}-with-a-long-name-to-fill-nodes-{n:03}")),
            format!("file {n}"),
        )
        .unwrap();
    }
    std::os::unix::fs::symlink("to/nowhere", at("link")).unwrap();
    fs::hard_link(at("small"), at("hard")).unwrap();
    d.sync();
    let sparse = fs::File::create(at("sparse")).unwrap();
    sparse.write_all_at(&noise(4, 70_000), 3_000_000).unwrap();
    drop(sparse);
    let edited = fs::File::options().write(true).open(at("old")).unwrap();
    edited.write_all_at(b"an edit in the middle", 150_000).unwrap();
    drop(edited);
    d.sh(&format!("setfattr -n user.big -v {} {MARK}-small", "x".repeat(900)));
    d.sync();
    let tree = tree(&d.mnt);
    d.umount();
    (d, tree)
}

/// All objects of the store, by name.
pub fn objects(store: &Path) -> Vec<String> {
    fn walk(root: &Path, dir: &Path, out: &mut Vec<String>) {
        for e in fs::read_dir(dir).unwrap().flatten() {
            if e.file_type().unwrap().is_dir() {
                walk(root, &e.path(), out);
            } else {
                out.push(e.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut out = Vec::new();
    walk(store, store, &mut out);
    out.sort();
    out
}

/// What the drive's key opens, in this store or in a copy.
pub fn unlock(d: &TestDrive, objects: &dyn Objects) -> Arc<DriveSecrets> {
    let hex = fs::read_to_string(&d.key).unwrap();
    let byte = |n: usize| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap();
    let secret = Secret::KeyFile(Key(std::array::from_fn(byte)));
    Arc::new(slots::unlock(objects, &secret).unwrap().0)
}

/// The objects of the index that the newest version names.
pub fn index_runs(d: &TestDrive) -> Vec<String> {
    let objects = nacrefs::store::open(d.store.to_str().unwrap(), Default::default()).unwrap();
    let secrets = unlock(d, &*objects);
    let layout = Layout::new(&secrets.realm);
    let newest = Site::new(objects, secrets).unwrap().newest(None).unwrap().opened.unwrap();
    newest.commit.runs.parts().map(|part| layout.part(&part.id)).collect()
}

/// An object that is not as it was, until this is dropped.
pub struct Bent {
    path: PathBuf,
    was: Vec<u8>,
}

impl Bent {
    /// Keeps the object's bytes, to put them back.
    pub fn keep(store: &Path, name: &str) -> Bent {
        let path = store.join(name);
        Bent { was: fs::read(&path).unwrap(), path }
    }

    pub fn len(&self) -> usize {
        self.was.len()
    }

    pub fn flip(&self, at: usize, bit: u8) {
        let mut bytes = self.was.clone();
        bytes[at] ^= 1 << bit;
        fs::write(&self.path, bytes).unwrap();
    }

    pub fn cut(&self, len: usize) {
        fs::write(&self.path, &self.was[..len]).unwrap();
    }

    pub fn remove(&self) {
        fs::remove_file(&self.path).unwrap();
    }
}

impl Drop for Bent {
    fn drop(&mut self) {
        fs::write(&self.path, &self.was).unwrap();
    }
}

/// What the daemons of a drive have logged since this was made.
pub struct LogTail {
    path: PathBuf,
    from: u64,
}

impl LogTail {
    pub fn of(d: &TestDrive) -> LogTail {
        let path = d.state.join("log");
        LogTail { from: fs::metadata(&path).map_or(0, |m| m.len()), path }
    }

    pub fn text(&self) -> String {
        let all = fs::read(&self.path).unwrap_or_default();
        String::from_utf8_lossy(&all[(self.from as usize).min(all.len())..]).into_owned()
    }
}

pub fn status(d: &TestDrive) -> serde_json::Value {
    let out = ok(Command::new(crate::common::NACREFS).arg("status").arg(&d.mnt).arg("--json").output());
    serde_json::from_slice(&out.stdout).unwrap()
}

/// `nacrefs COMMAND… MOUNTPOINT`.
pub fn on_mount(d: &TestDrive, line: &[&str]) -> Said {
    run(Command::new(crate::common::NACREFS).args(line).arg(&d.mnt))
}

pub fn copy(from: &Path, to: &Path) {
    ok(Command::new("cp").arg("-a").arg(from).arg(to).output());
}
