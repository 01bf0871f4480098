//! The commands that ask, print and are done.

use super::App;
use super::args::{self, ClosedArgs, SecretArgs, StateArgs, TargetArgs};
use super::backend::{CheckOptions, Closed, InitOptions};
use super::complete;
use super::control::{At, Reply, Request};
use super::daemon;
use super::logging;
use super::mounts::{self, Mount, shown};
use super::output::Screen;
use super::paths::{file_url, resolve, store_url, url_path};
use super::runtime;
use super::secrets::{self, Given};
use super::status::Told;
use super::values::DrivePath;
use crate::commit::When;
use crate::error::{Error, Kind, Result};
use crate::store::layout;
use crate::sys::SystemRandom;
use std::path::Path;

/// Makes a drive, and says once what opens it if the passphrase or key is lost.
pub fn init(app: &App, args: &args::Init) -> Result<()> {
    daemon::keep_files_private();
    let store = store_url(&args.store)?;
    let mut made_key = None;
    let secret = match &args.secrets.key_file {
        Some(file) if !file.exists() => {
            made_key = Some(resolve(file)?);
            Given::KeyFile(secrets::make_key(file, &SystemRandom)?)
        }
        _ => secrets::find_new(&args.secrets, &app.env.open, &mut secrets::ask_terminal)?.given,
    };
    let created = app.backend.init(&store, &secret, &InitOptions { recovery_code: true });
    let created = created.map_err(|e| match &made_key {
        Some(key) => unmake_key(key, &store, e),
        None => e,
    })?;
    let mut screen = Screen::new(false);
    screen.line(&format!("made drive {} in {store}", created.drive))?;
    if let Some(key) = made_key {
        let key = shown(&key);
        screen.line(&format!("made the key file {key}: back it up, away from this machine"))?;
    }
    if let Some(code) = created.recovery_code {
        screen.recovery_code(&code)?;
    }
    screen.finish()
}

/// Takes a key file away whose drive could not be made: it would be backed up for nothing. What had begun can be gone
/// on with, with the same key.
fn unmake_key(key: &Path, store: &str, e: Error) -> Error {
    let has_begun = || match url_path(store) {
        Some(dir) => dir.join(layout::SLOTS).exists(),
        // A store that could not be opened has nothing of it.
        None => e.kind() != Kind::Usage,
    };
    if e.kind() != Kind::Conflict && has_begun() {
        return e.context(format!("{} is kept, to begin again with", shown(key)));
    }
    match std::fs::remove_file(key) {
        Ok(()) => e,
        Err(_) => e.context(format!("cannot remove {}, which opens nothing", shown(key))),
    }
}

/// Asks the daemon of a mount.
fn ask(mount: &Mount, request: &Request, screen: &mut Screen) -> Result<()> {
    mounts::daemon(mount)?.ask(request, screen)
}

pub fn sync(args: &args::Sync) -> Result<()> {
    let mount = match &args.dir {
        Some(dir) => mounts::locate(dir)?.0,
        None => mounts::implied()?,
    };
    let mut screen = Screen::new(false);
    ask(&mount, &Request::Sync {}, &mut screen)?;
    screen.finish()
}

/// Shows or changes how much a daemon's log tells.
pub fn log_level(args: &args::LogLevel) -> Result<()> {
    if let Some(level) = &args.level {
        logging::parse_level(level)?;
    }
    let mut screen = Screen::new(false);
    let request = Request::LogLevel { level: args.level.clone() };
    ask(&mounts::locate(&args.dir)?.0, &request, &mut screen)?;
    screen.finish()
}

pub fn log(app: &App, args: &args::Log) -> Result<()> {
    let mut screen = Screen::new(args.json);
    if args.closed.store.is_some() {
        let path = DrivePath::new(args.path.as_deref().unwrap_or(Path::new("")))?;
        let drive = closed(app, args.closed.store.as_deref(), &args.closed.secrets, &args.closed.state)?;
        app.backend.answer(&drive, Request::Log { path }, &mut screen)?;
    } else {
        let (mount, path) = match &args.path {
            Some(path) => mounts::locate(path)?,
            None => (mounts::implied()?, DrivePath::default()),
        };
        ask(&mount, &Request::Log { path }, &mut screen)?;
    }
    screen.finish()
}

pub fn cat(app: &App, args: &args::Cat) -> Result<()> {
    let at = args.at.as_deref().map(When::read).transpose()?.map(At::from);
    let mut screen = Screen::new(false);
    if args.closed.store.is_some() {
        let path = DrivePath::new(&args.path)?;
        let ClosedArgs { store, secrets, state } = &args.closed;
        let drive = closed(app, store.as_deref(), secrets, state)?;
        app.backend.answer(&drive, Request::Cat { path, at }, &mut screen)?;
    } else {
        let (mount, path) = mounts::locate(&args.path)?;
        ask(&mount, &Request::Cat { path, at }, &mut screen)?;
    }
    screen.finish()
}

pub fn check(app: &App, args: &args::Check) -> Result<()> {
    let drive = closed(app, args.store.as_deref(), &args.secrets, &args.state)?;
    let options = CheckOptions { read_data: args.read_data, subset: args.subset };
    let mut screen = Screen::new(args.json);
    let report = { app.backend.check(&drive, &options, &mut |progress| screen.progress(progress))? };
    screen.check(&report)?;
    screen.finish()?;
    match report.problems.len() {
        0 => Ok(()),
        n => Err(Error::damage(format!("{}: {n} damaged objects", drive.store))),
    }
}

/// A drive to be opened without a mount; its existence is checked before a secret is asked for.
pub(super) fn closed(
    app: &App,
    store: Option<&Path>,
    flags: &SecretArgs,
    state: &StateArgs,
) -> Result<Closed> {
    let url = app.store(store)?;
    let places = app.places();
    let key = places.as_ref().ok().filter(|p| file_url(&p.store) == url).map(|p| p.key.as_path());
    if store.is_none() && url_path(&url).is_some_and(|path| !path.exists()) {
        return Err(Error::new(
            Kind::NotADrive,
            format!("no STORE is given, and there is no default drive in {url}"),
        ));
    }
    let drive = app.backend.drive_id(&url)?;
    let state_dir = match state.state_dir.as_ref().or(app.state_dir_env.as_ref()) {
        Some(dir) => resolve(dir)?,
        None => app.places()?.state_dir(drive),
    };
    let secret = secrets::find(flags, key, &app.env.open, &mut secrets::ask_terminal)?.given;
    Ok(Closed { store: url, secret, state_dir })
}

/// The same for a drive that may be named by its mount.
pub fn target(app: &App, target: &TargetArgs) -> Result<Closed> {
    let TargetArgs { target, closed: ClosedArgs { store, secrets, state } } = target;
    let Some(mount) = target.as_deref().map(mount_of).transpose()?.flatten() else {
        return closed(app, store.as_deref().or(target.as_deref()), secrets, state);
    };
    let control = mounts::control_socket(&mount)?;
    let mut told = Told::default();
    mounts::daemon(&mount)?.ask(&Request::Status {}, &mut told)?;
    let status = told.status("the drive's daemon")?;
    let state = StateArgs { state_dir: runtime::state_dir(&control) };
    closed(app, Some(Path::new(&status.store)), secrets, &state)
}

/// The mount that a path lies in, unless it is a store.
fn mount_of(path: &Path) -> Result<Option<Mount>> {
    let is_url = path.to_str().is_some_and(|text| text.contains("://"));
    if is_url || mounts::at(path)?.is_none() && path.join("nacre.json").exists() {
        return Ok(None);
    }
    match mounts::locate(path) {
        Ok((mount, _)) => Ok(Some(mount)),
        Err(e) if e.kind() == Kind::NotADrive => Ok(None),
        Err(e) => Err(e),
    }
}

/// Prints completions for a shell.
pub fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut screen = Screen::new(false);
    screen.write(&complete::script(shell, &mut args::definition()))?;
    screen.finish()
}
