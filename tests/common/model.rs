//! A reference model of a small tree, random operations on it, and the same operations on a real directory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

#[path = "dice.rs"]
mod dice;
pub use dice::Dice;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The number of the file: names of one number are hard links.
    File(usize),
    Dir,
    Link(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileState {
    pub bytes: Vec<u8>,
    pub mode: u32,
    pub xattr: Option<Vec<u8>>,
}

/// The whole tree: paths (relative, `/`-separated) to what stands there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    pub names: BTreeMap<String, Kind>,
    pub files: Vec<FileState>,
}

#[derive(Clone, Debug)]
pub enum Op {
    Create(String),
    Mkdir(String),
    Symlink(String, String),
    Write { path: String, at: u64, len: usize, fill: u8 },
    Append { path: String, len: usize, fill: u8 },
    Truncate(String, u64),
    Punch { path: String, at: u64, len: u64 },
    Rename(String, String),
    Exchange(String, String),
    Link(String, String),
    Remove(String),
    Chmod(String, u32),
    Xattr(String, Vec<u8>),
    Fsync(String),
}

pub fn pattern(fill: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| fill.wrapping_add((i / 7) as u8)).collect()
}

impl Model {
    fn paths(&self, want: impl Fn(&Kind) -> bool) -> Vec<&String> {
        self.names.iter().filter(|(_, k)| want(k)).map(|(p, _)| p).collect()
    }

    /// A random operation that succeeds on this tree.
    pub fn choose(&self, dice: &mut Dice) -> Op {
        let files = self.paths(|k| matches!(k, Kind::File(_)));
        let dirs = self.paths(|k| *k == Kind::Dir);
        let mut pick =
            |from: &[&String]| from.get(dice.below(from.len() as u64) as usize).map(|s| s.to_string());
        let (file, other) = (pick(&files), pick(&files));
        let dir = pick(&dirs);
        let fresh = {
            let parent = if dice.below(3) == 0 {
                String::new()
            } else {
                dir.clone().map_or(String::new(), |d| d + "/")
            };
            let name = format!("{parent}n{}", dice.below(40));
            (!self.names.contains_key(&name)).then_some(name)
        };
        let fill = dice.roll() as u8;
        match (dice.below(20), file, fresh) {
            (0..=2, _, Some(n)) if files.len() < 60 => Op::Create(n),
            (3, _, Some(n)) if dirs.len() < 12 && n.matches('/').count() < 5 => Op::Mkdir(n),
            (4, _, Some(n)) => Op::Symlink(format!("to-{fill}"), n),
            (5..=8, Some(f), _) => {
                let most = if dice.below(4) == 0 { 100_000 } else { 6_000 };
                let len = 1 + dice.below(most) as usize;
                Op::Write { path: f, at: dice.below(60_000), len, fill }
            }
            (9, Some(f), _) => Op::Append { path: f, len: 1 + dice.below(5_000) as usize, fill },
            (10, Some(f), _) => Op::Truncate(f, dice.below(90_000)),
            (11, Some(f), _) => Op::Punch { path: f, at: dice.below(60_000), len: 1 + dice.below(20_000) },
            (12, Some(f), Some(n)) => Op::Rename(f, n),
            (13, Some(f), _) => match other.filter(|o| *o != f && self.names.get(o) != self.names.get(&f)) {
                Some(o) if dice.below(2) == 0 => Op::Rename(f, o),
                Some(o) => Op::Exchange(f, o),
                None => Op::Fsync(f),
            },
            (14, Some(f), Some(n)) => match dir {
                // A directory moves, but not below itself.
                Some(d) if dice.below(2) == 0 && !n.starts_with(&(d.clone() + "/")) => Op::Rename(d, n),
                _ => Op::Link(f, n),
            },
            (15, Some(f), _) => Op::Remove(f),
            (16, Some(f), _) => {
                match dir.filter(|d| !self.names.keys().any(|p| p.starts_with(&format!("{d}/")))) {
                    Some(d) => Op::Remove(d),
                    None => Op::Chmod(f, 0o400 | dice.below(0o400) as u32),
                }
            }
            (17, Some(f), _) => Op::Xattr(f, pattern(fill, dice.below(300) as usize)),
            (_, Some(f), _) => Op::Fsync(f),
            (_, None, Some(n)) => Op::Create(n),
            (_, None, None) => Op::Mkdir(format!("d{}", dice.roll())),
        }
    }

    fn file(&mut self, path: &str) -> &mut FileState {
        match self.names.get(path) {
            Some(Kind::File(n)) => &mut self.files[*n],
            other => panic!("{path} is {other:?}"),
        }
    }

    fn move_tree(&mut self, from: &str, to: &str) {
        let below = format!("{from}/");
        let moved: Vec<String> =
            self.names.keys().filter(|p| *p == from || p.starts_with(&below)).cloned().collect();
        for path in moved {
            let kind = self.names.remove(&path).unwrap();
            self.names.insert(format!("{to}{}", &path[from.len()..]), kind);
        }
    }

    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Create(p) => {
                self.files.push(FileState { mode: 0o644, ..FileState::default() });
                self.names.insert(p.clone(), Kind::File(self.files.len() - 1));
            }
            Op::Mkdir(p) => {
                self.names.insert(p.clone(), Kind::Dir);
            }
            Op::Symlink(t, p) => {
                self.names.insert(p.clone(), Kind::Link(t.clone()));
            }
            Op::Write { path, at, len, fill } => {
                write(&mut self.file(path).bytes, *at as usize, &pattern(*fill, *len))
            }
            Op::Append { path, len, fill } => {
                let f = self.file(path);
                let at = f.bytes.len();
                write(&mut f.bytes, at, &pattern(*fill, *len));
            }
            Op::Truncate(p, size) => self.file(p).bytes.resize(*size as usize, 0),
            Op::Punch { path, at, len } => {
                let b = &mut self.file(path).bytes;
                let (lo, hi) = ((*at as usize).min(b.len()), ((at + len) as usize).min(b.len()));
                b[lo..hi].fill(0);
            }
            Op::Rename(a, b) => {
                self.names.remove(b);
                self.move_tree(a, b);
            }
            Op::Exchange(a, b) => {
                let (x, y) = (self.names[a].clone(), self.names[b].clone());
                self.names.insert(a.clone(), y);
                self.names.insert(b.clone(), x);
            }
            Op::Link(a, b) => {
                let k = self.names[a].clone();
                self.names.insert(b.clone(), k);
            }
            Op::Remove(p) => {
                self.names.remove(p);
            }
            Op::Chmod(p, mode) => self.file(p).mode = *mode,
            Op::Xattr(p, v) => self.file(p).xattr = Some(v.clone()),
            Op::Fsync(_) => {}
        }
    }

    /// What must be seen, in the form of [`look`].
    pub fn seen(&self) -> Seen {
        let mut first: BTreeMap<usize, String> = BTreeMap::new();
        self.names
            .iter()
            .map(|(p, k)| {
                let what = match k {
                    Kind::Dir => "dir".into(),
                    Kind::Link(t) => format!("link {t}"),
                    Kind::File(n) => {
                        let f = &self.files[*n];
                        let same = first.entry(*n).or_insert_with(|| p.clone()).clone();
                        describe(&f.bytes, f.mode, f.xattr.as_deref(), &same)
                    }
                };
                (p.clone(), what)
            })
            .collect()
    }
}

fn write(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
    bytes[at..at + data.len()].copy_from_slice(data);
}

/// A tree as it looks: each path with all that the model knows of it.
pub type Seen = BTreeMap<String, String>;

fn describe(bytes: &[u8], mode: u32, xattr: Option<&[u8]>, same: &str) -> String {
    let x = xattr.map_or("-".into(), |x| format!("{}:{}", x.len(), blake3::hash(x).to_hex()));
    format!("file {} {} {mode:o} {x} ={same}", bytes.len(), blake3::hash(bytes).to_hex())
}

impl Op {
    /// What may be there of a write that was not durable: the kernel hands a write to a FUSE file system in parts, cut
    /// at pages that it has not cached (fuse_fill_write_pages), and each part is an operation.
    fn beginnings(&self, before: &Model) -> Vec<Op> {
        let (path, at, len, fill) = match self {
            Op::Write { path, at, len, fill } => (path, *at, *len, *fill),
            Op::Append { path, len, fill } => match before.names.get(path) {
                Some(Kind::File(n)) => (path, before.files[*n].bytes.len() as u64, *len, *fill),
                _ => return Vec::new(),
            },
            _ => return Vec::new(),
        };
        let first = 4096 - at as usize % 4096;
        let cuts = (first..len).step_by(4096);
        cuts.map(|len| Op::Write { path: path.clone(), at, len, fill }).collect()
    }
}

/// Finds the shortest prefix of operations, of at least so many, that makes a tree look so.
pub fn prefix(before: &Model, ops: &[Op], least: usize, seen: &Seen) -> Result<(usize, Model), String> {
    let mut m = before.clone();
    let mut nearest = (usize::MAX, String::new());
    for k in 0..=ops.len() {
        if k > 0 {
            if k > least {
                for part in ops[k - 1].beginnings(&m) {
                    let mut m = m.clone();
                    m.apply(&part);
                    if m.seen() == *seen {
                        return Ok((k, m));
                    }
                }
            }
            m.apply(&ops[k - 1]);
        }
        if k < least {
            continue;
        }
        let want = m.seen();
        if want == *seen {
            return Ok((k, m));
        }
        let differ: Vec<String> = want
            .iter()
            .filter(|(p, w)| seen.get(*p) != Some(w))
            .map(|(p, w)| format!("{p}: want {w}, is {:?}", seen.get(p)))
            .chain(seen.keys().filter(|p| !want.contains_key(*p)).map(|p| format!("{p}: is there")))
            .collect();
        if differ.len() < nearest.0 {
            nearest = (differ.len(), format!("{k}: {}", differ.join("\n  ")));
        }
    }
    Err(format!(
        "the tree is no prefix of the {} operations that has the {least} durable ones; nearest is prefix {}\nlast ops: {:?}",
        ops.len(),
        nearest.1,
        &ops[ops.len().saturating_sub(12)..]
    ))
}

/// Does an operation for real.
pub fn perform(root: &Path, op: &Op) -> std::io::Result<()> {
    let at = |p: &str| root.join(p);
    let open = |p: &str| File::options().write(true).open(at(p));
    match op {
        Op::Create(p) => {
            use std::os::unix::fs::OpenOptionsExt;
            File::options().write(true).create_new(true).mode(0o644).open(at(p)).map(drop)
        }
        Op::Mkdir(p) => fs::create_dir(at(p)),
        Op::Symlink(t, p) => symlink(t, at(p)),
        Op::Write { path, at, len, fill } => open(path)?.write_all_at(&pattern(*fill, *len), *at),
        Op::Append { path, len, fill } => {
            use std::io::Write;
            File::options().append(true).open(at(path))?.write_all(&pattern(*fill, *len))
        }
        Op::Truncate(p, size) => open(p)?.set_len(*size),
        Op::Punch { path, at, len } => {
            use std::os::fd::AsRawFd;
            let f = open(path)?;
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            match unsafe { libc::fallocate(f.as_raw_fd(), mode, *at as i64, *len as i64) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        }
        Op::Rename(a, b) => fs::rename(at(a), at(b)),
        Op::Exchange(a, b) => {
            let (a, b) = (cstr(&at(a)), cstr(&at(b)));
            let flags = libc::RENAME_EXCHANGE;
            match unsafe { libc::renameat2(libc::AT_FDCWD, a.as_ptr(), libc::AT_FDCWD, b.as_ptr(), flags) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        }
        Op::Link(a, b) => fs::hard_link(at(a), at(b)),
        Op::Remove(p) if at(p).symlink_metadata()?.is_dir() => fs::remove_dir(at(p)),
        Op::Remove(p) => fs::remove_file(at(p)),
        Op::Chmod(p, mode) => fs::set_permissions(at(p), fs::Permissions::from_mode(*mode)),
        Op::Xattr(p, v) => {
            let name = c"user.model";
            let p = cstr(&at(p));
            match unsafe { libc::setxattr(p.as_ptr(), name.as_ptr(), v.as_ptr().cast(), v.len(), 0) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        }
        Op::Fsync(p) => File::open(at(p))?.sync_all(),
    }
}

fn cstr(p: &Path) -> std::ffi::CString {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::CString::new(p.as_os_str().as_bytes()).unwrap()
}

fn xattr(p: &Path) -> Option<Vec<u8>> {
    let mut buf = vec![0u8; 1 << 16];
    let p = cstr(p);
    let n = unsafe { libc::getxattr(p.as_ptr(), c"user.model".as_ptr(), buf.as_mut_ptr().cast(), buf.len()) };
    (n >= 0).then(|| buf[..n as usize].to_vec())
}

/// Looks at a real tree.
pub fn look(root: &Path) -> Seen {
    let mut out = Seen::new();
    let mut first: BTreeMap<u64, String> = BTreeMap::new();
    let mut todo: Vec<PathBuf> = vec![root.into()];
    let mut all = Vec::new();
    while let Some(dir) = todo.pop() {
        for e in fs::read_dir(&dir).unwrap() {
            let path = e.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                todo.push(path.clone());
            }
            all.push(path);
        }
    }
    let mut named: Vec<(String, PathBuf)> =
        all.into_iter().map(|p| (p.strip_prefix(root).unwrap().to_str().unwrap().to_owned(), p)).collect();
    named.sort();
    for (rel, path) in named {
        let m = path.symlink_metadata().unwrap();
        let what = if m.is_dir() {
            "dir".into()
        } else if m.is_symlink() {
            format!("link {}", fs::read_link(&path).unwrap().display())
        } else {
            let bytes = fs::read(&path).unwrap();
            assert_eq!(bytes.len() as u64, m.len(), "{rel}");
            let same = first.entry(m.ino()).or_insert_with(|| rel.clone()).clone();
            describe(&bytes, m.mode() & 0o7777, xattr(&path).as_deref(), &same)
        };
        out.insert(rel, what);
    }
    out
}
