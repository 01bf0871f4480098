//! Going on as another device from another version, with the journal moved aside: three things of a state directory that
//! must change together.
//!
//! Everything new is written into `accepting.new`, which is then renamed to `accepting`: that is the moment. What is
//! left to do are renames, each of which can be done again; whoever opens the state directory next does what was not
//! done. Before that moment nothing of the old state was touched.
//!
//! ```text
//! accepting/device, memory             take the place of those in the state directory
//! accepting/before-accept-<seconds>/   key, device, memory: the state directory that the journal is moved into
//! ```

use super::StateDir;
use super::state::write_synced;
use crate::error::{Context, Error, Result};
use crate::sys::dirs::sync_dir;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

const NEW: &str = "accepting.new";
pub(super) const DECIDED: &str = "accepting";
const ASIDE: &str = "before-accept-";

/// What a state directory goes on with: the sealed files.
pub struct Switch<'a> {
    pub device: &'a [u8],
    pub memory: &'a [u8],
    /// The journal is kept: what the directory that it is moved into is to remember, instead of what this one does.
    pub aside: Option<Option<&'a [u8]>>,
    /// For the name of that directory, in seconds.
    pub now: i64,
}

impl StateDir {
    /// Puts another device and memory in the place of the present ones, and begins another journal. The old one is
    /// moved into a new state directory inside this one, with what else is needed to mount it (its path is returned); or
    /// it is removed. After an error or a crash all of that was done, or nothing, or the next [`StateDir::open`] does
    /// the rest.
    pub fn switch(&self, to: &Switch) -> Result<Option<PathBuf>> {
        let new = self.stage(to)?;
        let decide = || {
            fs::rename(&new, self.path.join(DECIDED))?;
            sync_dir(&self.path)
        };
        decide().context(|| format!("cannot rename {}: nothing was changed here", new.display()))?;
        self.finish_switch()
    }

    /// Whether a switch to something of the same size can be done: takes the room for it, until it is done or
    /// [`StateDir::unstage`] gives it back.
    pub fn stage(&self, to: &Switch) -> Result<PathBuf> {
        let new = self.path.join(NEW);
        let prepare = || -> io::Result<()> {
            or_none(fs::remove_dir_all(&new))?;
            step()?;
            let mut private = fs::DirBuilder::new();
            private.mode(0o700).create(&new)?;
            write_synced(&new.join("device"), to.device)?;
            write_synced(&new.join("memory"), to.memory)?;
            step()?;
            if let Some(memory) = to.aside {
                let free = |at: &i64| !self.path.join(format!("{ASIDE}{at}")).exists();
                let at = (to.now..).find(free).unwrap_or(to.now);
                let aside = new.join(format!("{ASIDE}{at}"));
                private.create(&aside)?;
                for name in ["key", "device", "memory"] {
                    match (memory, fs::read(self.path.join(name))) {
                        (Some(memory), _) if name == "memory" => write_synced(&aside.join(name), memory)?,
                        (_, Err(e)) if e.kind() == ErrorKind::NotFound => {}
                        (_, bytes) => write_synced(&aside.join(name), &bytes?)?,
                    }
                }
                sync_dir(&aside)?;
            }
            sync_dir(&new)?;
            step()
        };
        match prepare().context(|| format!("cannot write {}: nothing was changed here", new.display())) {
            Ok(()) => Ok(new),
            Err(e) => {
                // What is left of it is in nobody's way.
                let _ = fs::remove_dir_all(&new);
                Err(e)
            }
        }
    }

    /// Removes what [`StateDir::stage`] has written.
    pub fn unstage(&self) -> Result<()> {
        let new = self.path.join(NEW);
        or_none(fs::remove_dir_all(&new)).context(|| format!("cannot remove {}", new.display()))
    }

    /// An error where a switch was decided and is not finished: half of the state is the old one.
    pub(super) fn refuse_unfinished(&self) -> Result<()> {
        match self.path.join(DECIDED).exists() {
            false => Ok(()),
            true => Err(Error::failed(format!(
                "an accept that was interrupted must be finished in {}, on a read-only file system: make that writable, or \
                 mount with another --state-dir, which shows what is in the store",
                self.path.display()
            ))),
        }
    }

    /// Does what is left of a switch that was decided. Returns where the journal went.
    pub(super) fn finish_switch(&self) -> Result<Option<PathBuf>> {
        let decided = self.path.join(DECIDED);
        let names = match fs::read_dir(&decided) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            entries => entries.and_then(|e| e.map(|e| Ok(e?.file_name())).collect::<io::Result<Vec<_>>>()),
        };
        let finish = || -> Result<Option<PathBuf>> {
            let names = names?;
            let aside = names.iter().find(|name| name.as_encoded_bytes().starts_with(ASIDE.as_bytes()));
            match aside {
                Some(name) => {
                    let into = decided.join(name);
                    for name in ["journal", "journal.begun"] {
                        or_none(fs::rename(self.path.join(name), into.join(name)))?;
                    }
                    sync_dir(&into)?;
                    sync_dir(&self.path)?;
                }
                None => self.clear_journal()?,
            }
            for name in ["device", "memory"] {
                step()?;
                or_none(fs::rename(decided.join(name), self.path.join(name)))?;
                sync_dir(&self.path)?;
            }
            step()?;
            let aside = aside.map(|name| (decided.join(name), self.path.join(name)));
            if let Some((made, aside)) = &aside {
                fs::rename(made, aside)?;
                sync_dir(&self.path)?;
            }
            step()?;
            fs::remove_dir(&decided)?;
            sync_dir(&self.path)?;
            Ok(aside.map(|(_, aside)| aside))
        };
        let told = |e: Error| {
            e.context(format!(
                "what was accepted is not finished in {}: the next mount or accept goes on with it",
                self.path.display()
            ))
        };
        finish().map_err(told)
    }
}

/// What was not there need not be moved or removed.
fn or_none(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(not(test))]
fn step() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
use tests::step;

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::path::Path;

    thread_local! {
        /// How many steps are done before everything fails; a process that is killed there does no more either.
        static LEFT: Cell<u32> = const { Cell::new(u32::MAX) };
    }

    pub fn step() -> io::Result<()> {
        LEFT.with(|left| match left.get() {
            0 => Err(io::Error::other("stopped here")),
            n => {
                left.set(n - 1);
                Ok(())
            }
        })
    }

    fn read(path: PathBuf) -> String {
        fs::read_to_string(path).unwrap_or_default()
    }

    /// Everything of a state directory that must change together.
    fn state(path: &Path) -> [String; 4] {
        ["key", "device", "memory", "journal/file"].map(|name| read(path.join(name)))
    }

    /// An accept that failed half way used to leave the old memory with the journal gone: once the store was brought back,
    /// fsynced changes were missing and nothing said so.
    #[test]
    fn an_accept_that_ends_at_any_step_leaves_the_old_state_or_the_new_one() {
        let old = ["key", "old device", "old memory", "old journal"].map(String::from);
        for (aside, remembered) in
            [(None, ""), (Some(None), "old memory"), (Some(Some(&b"kept"[..])), "kept")]
        {
            let mut ended = 0;
            for steps in 0.. {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("state");
                let first = StateDir::open(&path).unwrap();
                fs::create_dir(path.join("journal")).unwrap();
                for (name, text) in ["key", "device", "memory", "journal/file"].iter().zip(&old) {
                    fs::write(path.join(name), text).unwrap();
                }
                let to = Switch { device: b"new device", memory: b"new memory", aside, now: 7 };
                LEFT.set(steps);
                let mut done = first.switch(&to);
                LEFT.set(u32::MAX);
                drop(first);
                let undecided = done.is_err() && !path.join(DECIDED).exists();
                if undecided {
                    assert_eq!(state(&path), old, "{steps}");
                }
                let whole = done.is_ok();
                // Whoever opens it next, also if he is stopped again.
                for again in (0..steps % 3).chain([u32::MAX]) {
                    LEFT.set(again);
                    let opened = StateDir::open(&path);
                    LEFT.set(u32::MAX);
                    if let Ok(opened) = opened {
                        if !whole && !undecided {
                            done = Ok(opened.resumed.clone().or(done.ok().flatten()));
                        } else if undecided && done.is_err() {
                            assert!(opened.resumed.is_none() && state(&path) == old, "{steps}");
                            done = opened.switch(&to);
                            break;
                        }
                    }
                }
                let kept = done.unwrap();
                assert_eq!(state(&path), ["key", "new device", "new memory", ""], "{steps}");
                assert!(!path.join(DECIDED).exists(), "{steps}");
                let there = path.join("before-accept-7");
                if aside.is_some() {
                    assert_eq!(state(&there), ["key", "old device", remembered, "old journal"], "{steps}");
                    assert!(kept.is_none_or(|kept| kept == there));
                } else {
                    assert!(!there.exists() && kept.is_none());
                }
                if whole {
                    break;
                }
                ended += 1;
            }
            assert!(ended >= 6, "{ended}");
        }
    }

    #[test]
    fn what_was_put_aside_before_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        fs::create_dir(dir.path().join("before-accept-7")).unwrap();
        let to = Switch { device: b"d", memory: b"m", aside: Some(None), now: 7 };
        assert_eq!(state.switch(&to).unwrap(), Some(dir.path().join("before-accept-8")));
    }
}
