//! Short words for scripts.

use super::Kernel;
use crate::model::{How, Id, Op};
use nacrefs::commit::FileKind;

impl Kernel {
    pub fn id(&self, path: &str) -> Id {
        self.model.find(path).unwrap_or_else(|| panic!("no {path}"))
    }

    fn split(&self, path: &str) -> (Id, Vec<u8>) {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        (self.id(dir), name.as_bytes().to_vec())
    }

    pub fn mkdir(&mut self, path: &str) {
        let (dir, name) = self.split(path);
        self.run(&Op::Make { dir, name, kind: FileKind::Directory, perm: 0o755, target: vec![], rdev: 0 });
    }

    pub fn put(&mut self, path: &str, fill: u8, len: usize) {
        if self.model.find(path).is_none() {
            let (dir, name) = self.split(path);
            self.run(&Op::Make { dir, name, kind: FileKind::File, perm: 0o644, target: vec![], rdev: 0 });
        }
        let node = self.id(path);
        self.run(&Op::Write { node, at: 0, len, fill, append: false, kill: false });
    }

    pub fn link(&mut self, path: &str, new: &str) {
        let (node, (dir, name)) = (self.id(path), self.split(new));
        self.run(&Op::Link { node, dir, name });
    }

    pub fn unlink(&mut self, path: &str) {
        let (dir, name) = self.split(path);
        self.run(&Op::Unlink { dir, name });
    }

    pub fn rmdir(&mut self, path: &str) {
        let (dir, name) = self.split(path);
        self.run(&Op::Rmdir { dir, name });
    }

    pub fn rename(&mut self, path: &str, new: &str, how: How) {
        let ((dir, name), (to, to_name)) = (self.split(path), self.split(new));
        self.run(&Op::Rename { dir, name, to, to_name, how });
    }
}
