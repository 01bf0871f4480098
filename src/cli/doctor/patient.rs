//! Whom to look at: what is mounted, what the machine mounts by itself, or what was asked for.

use crate::cli::App;
use crate::cli::control::Status;
use crate::cli::fstab::{self, Line, Origin};
use crate::cli::mounts::{self, Mount, shown};
use crate::cli::paths::{file_url, resolve, resolve_anyway, store_url, url_path};
use crate::cli::status::{may_see, of_mount};
use crate::error::{Kind, Result};
use crate::store::layout::DRIVE;
use std::path::{Path, PathBuf};

/// A drive that is looked at.
pub struct Patient {
    pub mount: Option<Mount>,
    /// The store's URL.
    pub store: String,
    /// How the machine mounts it by itself, if it does.
    pub line: Option<Line>,
    /// What the daemon says, if there is a mount.
    status: Option<Result<Status>>,
}

impl Patient {
    fn mounted(mount: Mount, lines: &[Line]) -> Patient {
        let line = lines.iter().find(|line| line.point == mount.point).cloned();
        let status = of_mount(&mount);
        Patient { store: mount.store(), mount: Some(mount), line, status: Some(status) }
    }

    /// A drive that is not mounted.
    fn closed(store: String, line: Option<Line>) -> Patient {
        Patient { mount: None, store, line, status: None }
    }

    /// One that the machine would mount.
    fn waiting(line: Line) -> Patient {
        // What is no store is told when it is looked at.
        let store = store_url(&line.store).unwrap_or_else(|_| line.store.to_string_lossy().into_owned());
        Patient::closed(store, Some(line))
    }

    /// Whose mount it is, if it is not the caller's.
    pub fn of_another_user(&self) -> Option<u32> {
        let owner = self.mount.as_ref().and_then(Mount::owner).map(|(user, _)| user);
        owner.filter(|user| *user != rustix::process::geteuid().as_raw())
    }

    pub fn name(&self) -> String {
        self.mount.as_ref().map_or_else(|| self.store.clone(), |m| shown(&m.point))
    }

    /// The store's directory on this machine.
    pub fn store_dir(&self) -> Option<PathBuf> {
        url_path(&self.store)
    }

    pub fn status(&self) -> Option<&Result<Status>> {
        self.status.as_ref()
    }

    pub fn told(&self) -> Option<&Status> {
        self.status.as_ref().and_then(|s| s.as_ref().ok())
    }
}

/// Without a target what is mounted and what the machine would mount by itself; else the default drive, if there is one.
pub fn patients(app: &App, target: Option<&Path>) -> Result<Vec<Patient>> {
    let (mounted, lines) = (mounts::ours()?, fstab::all());
    if let Some(target) = target {
        return Ok(vec![asked_for(target, mounted, &lines)?]);
    }
    let is_mounted = |line: &Line| {
        let is_at = |point: &Path| mounted.iter().any(|mount| mount.point == point);
        is_at(&line.point) || is_at(&resolve_anyway(&line.point))
    };
    let waiting: Vec<_> = lines
        .iter()
        .filter(|line| may_mount(line) && !is_mounted(line))
        .cloned()
        .map(Patient::waiting)
        .collect();
    let seen = mounted.into_iter().filter(may_see).map(|mount| Patient::mounted(mount, &lines));
    let mut found: Vec<_> = seen.chain(waiting).collect();
    if found.is_empty() {
        let places = app.places().ok().filter(|places| places.store.exists());
        found.extend(places.map(|places| Patient::closed(file_url(&places.store), None)));
    }
    Ok(found)
}

/// Whether the caller may mount it: root, or whom the line or the place of the file allows it.
fn may_mount(line: &Line) -> bool {
    let root = rustix::process::geteuid().is_root();
    root || match &line.origin {
        Origin::Fstab(_) => line.has(&["user", "users", "owner", "group"]),
        Origin::Unit { file, .. } => !file.starts_with("/etc"),
    }
}

fn asked_for(target: &Path, mounted: Vec<Mount>, lines: &[Line]) -> Result<Patient> {
    let of_store = |store: String, line: Option<&Line>| {
        let is_its = |mount: &Mount| mount.store() == store && may_see(mount);
        if let Some(mount) = mounted.into_iter().find(is_its) {
            return Patient::mounted(mount, lines);
        }
        let of_it = |line: &&Line| store_url(&line.store).is_ok_and(|of_line| of_line == store);
        let line = line.or_else(|| lines.iter().find(of_it)).cloned();
        Patient::closed(store, line)
    };
    match mounts::locate(target) {
        // A store that another drive holds is not that drive.
        Ok((mount, path))
            if !path.as_bytes().is_empty() && mount.answers() && target.join(DRIVE).is_file() =>
        {
            Ok(of_store(store_url(target)?, None))
        }
        Ok((mount, _)) => Ok(Patient::mounted(mount, lines)),
        Err(e) if e.kind() == Kind::NotADrive => {
            // A place that the machine mounts means the drive that would be there.
            let place = resolve(target).ok();
            let line = lines.iter().find(|line| place.as_ref() == Some(&line.point) || line.point == target);
            Ok(of_store(store_url(line.map_or(target, |line| &line.store))?, line))
        }
        Err(e) => Err(e),
    }
}
