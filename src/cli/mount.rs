//! `nacrefs mount`: from what was typed to a served mount.

use super::App;
use super::args;
use super::backend::{InitOptions, MountRequest};
use super::control::{SOCKET, Server};
use super::daemon::{self, Report, Side, Started};
use super::doctor;
use super::logging;
use super::metrics::{self, Listener, Place};
use super::mounts::{self, shown};
use super::notify::ServiceManager;
use super::options::MountOptions;
use super::output::with_names;
use super::paths::{file_url, resolve, url_path};
use super::pulse::Pulse;
use super::remount;
use super::runtime;
use super::secrets::{self, Again, Found, Given, SecretFile};
use super::signals::Signals;
use super::supervise::{self, Before, supervise};
use super::utab;
use super::values::{escape, escape_message};
use crate::error::{Context, Error, Kind, Result};
use crate::fuse::fusermount;
use crate::store::layout;
use crate::sys::SystemRandom;
use std::io::{ErrorKind, IsTerminal};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// What is known before the daemon is started.
struct Plan {
    store: String,
    /// The store as it was given.
    source: String,
    dir: PathBuf,
    secret: Secret,
    /// The key file that the secret comes from.
    key_file: Option<PathBuf>,
    /// The default drive, of which there is nothing yet.
    make: bool,
    state_dir: Option<PathBuf>,
    options: MountOptions,
    /// What this mount takes the place of.
    before: Option<Before>,
    /// The process that mounts again if this one is killed.
    supervisor: Option<rustix::process::Pid>,
    /// Somebody reads the errors: they may name files, which what goes to a log may not.
    names: bool,
}

impl Plan {
    fn told(&self) -> fn(Error) -> Error {
        if self.names { with_names } else { |e| e }
    }
}

enum Secret {
    Found(Found),
    /// What a supervisor has of it.
    Again(Again),
    /// A key file that is to be made.
    NewKey(PathBuf),
}

impl Secret {
    fn lasting(self) -> Result<Secret> {
        match self {
            Secret::Found(found) => Again::of(found).map(Secret::Again),
            other => Ok(other),
        }
    }

    /// The file that it stands in, for as long as the next mount finds it there.
    fn file(&self) -> Option<SecretFile> {
        match self {
            Secret::Found(found) => found.file.clone()?.lasting().ok()?,
            Secret::Again(Again::File(file)) => Some(file.clone()),
            Secret::Again(Again::Kept(_)) => None,
            Secret::NewKey(file) => Some(SecretFile::Key(file.clone())),
        }
    }

    fn give(self, again: bool) -> Result<Given> {
        match self {
            Secret::Found(found) => Ok(found.given),
            // It may be a file on a disk that comes back, or in the middle of a change.
            Secret::Again(secret) if again => {
                secret.give().map_err(|e| Error::failed("the drive's secret is not at hand").with_source(e))
            }
            Secret::Again(secret) => secret.give(),
            Secret::NewKey(file) => Ok(Given::KeyFile(secrets::begin_key(&file, &SystemRandom)?)),
        }
    }
}

impl Plan {
    /// For a daemon that takes the place of one that was killed: nothing is made, and the flags of the mount are what
    /// they were last.
    fn follow(&mut self, before: Before) {
        self.make = false;
        if let Secret::NewKey(file) = &self.secret {
            self.secret = Secret::Again(Again::File(SecretFile::Key(file.clone())));
        }
        self.state_dir = Some(before.state_dir.clone());
        remount::keep(&mut self.options, &before.dead.flags);
        self.before = Some(before);
    }
}

/// Mounts, in the background or not. In the background it returns twice: in the command once the mount can be
/// used, and in the daemon once it has ended.
pub fn run(app: &App, args: &args::Mount) -> Result<()> {
    let options = MountOptions::parse(&args.options)?;
    for option in MountOptions::without_effect(&args.options) {
        eprintln!("nacrefs: mount option {option:?} has no effect on a drive");
    }
    if options.nosymfollow && !rustix::process::geteuid().is_root() {
        eprintln!("nacrefs: symbolic links are followed all the same: nosymfollow is for root to ask");
    }
    if options.remount {
        return remount::run(&args.dir, &options, &args.options);
    }
    let plan = plan(app, args, options)?;
    app.env.forget();
    let dir = plan.dir.clone();
    if plan.options.foreground {
        let told = plan.told();
        return serve(app, plan, &mut Report::foreground()).map_err(told);
    }
    match daemon::fork()? {
        Side::Command(daemon) => {
            let lines = daemon.wait()?.lines;
            let mut text = lines.iter().map(|l| format!("{l}\n")).collect::<String>();
            if args.as_helper {
                // mount(8) says nothing where all is well; what must be said goes where its errors go.
                text = text.replace(&format!("{}\n", mounted_on(&dir)), "");
                eprint!("{text}");
                return Ok(());
            }
            super::output::print(&text)
        }
        Side::Daemon(report) if plan.options.restart => supervised(app, plan, report),
        Side::Daemon(report) => in_background(app, plan, report),
    }
}

fn supervised(app: &App, mut plan: Plan, report: Report) -> Result<()> {
    plan.secret = plan.secret.lasting()?;
    plan.supervisor = Some(rustix::process::getpid());
    match supervise(report, &plan.dir, &plan.options.log)? {
        supervise::Side::Over => Ok(()),
        supervise::Side::Daemon(report, before) => {
            if let Some(before) = before {
                plan.follow(*before);
            }
            in_background(app, plan, report)
        }
    }
}

fn in_background(app: &App, plan: Plan, mut report: Report) -> Result<()> {
    // A later daemon's errors are for the supervisor's log.
    let told = if plan.before.is_none() { plan.told() } else { |e| e };
    serve(app, plan, &mut report).or_else(|e| report.failed(told(e)))
}

/// Checks everything that can be checked without opening the drive, and asks for what must be asked for while
/// there is a terminal.
fn plan(app: &App, args: &args::Mount, mut options: MountOptions) -> Result<Plan> {
    options.foreground |= args.foreground;
    let mut flags = args.secrets.clone();
    if flags.key_file.is_none() && flags.passphrase_file.is_none() && !flags.recovery {
        flags.key_file = options.key_file.clone();
        flags.passphrase_file = options.passphrase_file.clone();
        if flags.key_file.is_some() && flags.passphrase_file.is_some() {
            return Err(Error::new(Kind::Usage, "mount options key_file= and passphrase_file=: one of them"));
        }
    }
    let store = app.store(args.store.as_deref())?;
    let source = source_of(args.store.as_deref(), &store);
    fuse_usable(Path::new("/dev/fuse"), rustix::process::geteuid().is_root(), &fusermount())?;
    if args.store.is_none() {
        make_mount_point(&args.dir)?;
    }
    let dir = mount_point(&args.dir, &store, &source, options.nonempty, args.as_helper)?;
    if let Some(path) = url_path(&store) {
        apart(&dir, "the store", &path)?;
    }
    if let Some(Place::Unix(path)) = &options.metrics {
        apart(&dir, "the socket for metrics", path)?;
    }
    let places = app.places();
    let is_default = places.as_ref().is_ok_and(|p| file_url(&p.store) == store);
    let at = url_path(&store).filter(|_| args.store.is_none());
    let nothing = at.as_deref().is_some_and(is_missing_or_empty);
    let make = nothing || at.as_deref().is_some_and(is_unfinished);
    let flagged = flags.key_file.is_some() || flags.passphrase_file.is_some() || flags.recovery;
    let key = places.as_ref().ok().map(|p| p.key.clone()).filter(|_| is_default);
    let env = &app.env.open;
    let ask = &mut secrets::ask_terminal;
    // Whoever reads it says what is wrong with it.
    let key_file = flags.key_file.as_ref().map(|file| resolve(file).unwrap_or_else(|_| file.clone()));
    if let Some(key) = key.as_deref().filter(|key| nothing && key.exists()) {
        let (key, at) = (shown(key), at.as_deref().map(shown).unwrap_or_default());
        return Err(Error::new(
            Kind::NotADrive,
            format!(
                "there is a key, {key}, and no drive in {at}: mount the disk that has it, or bring it back from a backup; \
                 to make a new drive there: nacrefs init {at} --key-file {key}"
            ),
        ));
    }
    // A key that waits for its drive to be made.
    let begun = key.as_ref().is_some_and(|key| secrets::begun_key(key).exists());
    let key_file = key_file.or(key.clone().filter(|k| !flagged && (make || begun || k.exists())));
    let secret = match key {
        Some(key) if (make || begun) && !flagged && !key.exists() => Secret::NewKey(key),
        Some(_) if make && flagged => Secret::Found(secrets::find_new(&flags, env, ask)?),
        key => {
            let lost = key.as_deref().filter(|key| !flagged && !key.exists()).map(shown);
            Secret::Found(secrets::find(&flags, key.as_deref(), env, ask).map_err(|e| match lost {
                Some(lost) => e.context(format!(
                    "the drive's key file, {lost}, is not there: bring it back from a backup, or give another secret"
                )),
                None => e,
            })?)
        }
    };
    let given = args.state.state_dir.as_ref().or(options.state_dir.as_ref()).or(app.state_dir_env.as_ref());
    // Here, because the daemon is in another directory.
    let state_dir = given.map(|d| resolve(d)).transpose()?;
    // What a service manager starts, or mount(8) at boot, writes into a log.
    let names = std::io::stderr().is_terminal() || !(options.foreground || args.as_helper);
    Ok(Plan {
        store,
        source,
        dir,
        secret,
        key_file,
        make,
        state_dir,
        options,
        before: None,
        supervisor: None,
        names,
    })
}

/// The life of a mount, from opening the drive to its end.
fn serve(app: &App, plan: Plan, report: &mut Report) -> Result<()> {
    daemon::keep_files_private();
    if let Some(before) = &plan.before {
        logging::log_to(&before.log_dir)?;
        logging::start("info", &plan.options.log)?;
    }
    let before = plan.before.clone();
    mounted(app, plan, report).inspect_err(|e| {
        // Whoever mounted first is gone, so this is told by the log; not at each try.
        if before.is_some_and(|b| b.failed.is_none_or(|last| last != e.chain())) {
            tracing::error!("cannot mount again: {}", e.chain());
        }
    })
}

fn mounted(app: &App, plan: Plan, report: &mut Report) -> Result<()> {
    let signals = Signals::watch(report.is_foreground() && std::io::stderr().is_terminal())?;
    let new_key = match &plan.secret {
        Secret::NewKey(file) => Some(file.clone()),
        _ => None,
    };
    // Before anything is made that needs it.
    if plan.make && !plan.options.ro {
        let state = plan.state_dir.clone().map_or_else(|| app.places().map(|p| p.state), Ok)?;
        runtime::check_writable(&state)?;
    }
    // A credential is there for this service only.
    let credentials = app.env.open.credentials.as_deref();
    let secret_file =
        plan.secret.file().filter(|file| credentials.is_none_or(|dir| !file.path().starts_with(dir)));
    let secret = plan.secret.give(plan.before.is_some())?;
    let mut pulse = None;
    if report.is_foreground() {
        logging::start("info", &plan.options.log)?;
        let manager = ServiceManager::of_this_process().unwrap_or_else(|e| {
            tracing::warn!("{}", e.chain());
            None
        });
        pulse = manager.map(|m| Pulse::start(m, &plan.store, plan.dir.clone())).transpose()?;
    }
    let made = match plan.make {
        true => Some(app.backend.init(&plan.store, &secret, &InitOptions { recovery_code: false })?.drive),
        false => None,
    };
    new_key.as_deref().map_or(Ok(()), secrets::finish_key)?;
    let state_dir = match (plan.state_dir, made) {
        (Some(dir), _) => dir,
        (None, Some(drive)) => app.places()?.state_dir(drive),
        (None, None) => app.places()?.state_dir(app.backend.drive_id(&plan.store)?),
    };
    apart(&plan.dir, "the state directory", &state_dir)?;
    outside(&plan.store, &state_dir)?;
    let run_dir = runtime::make(&state_dir, plan.options.ro)?;
    if !report.is_foreground() && plan.before.is_none() {
        logging::log_to(&run_dir)?;
        logging::start("info", &plan.options.log)?;
    }
    if let Some(before) = &plan.before {
        tracing::warn!("mounting again: {}", before.why);
    }
    let mut lines = Vec::new();
    if made.is_some() {
        lines = first_lines(&plan.store, plan.key_file.as_deref(), &state_dir);
    }
    let first = lines.clone();
    let unprotected = doctor::unprotected(plan.key_file.as_deref(), &state_dir);
    lines.extend(unprotected.clone());
    lines.extend(runtime::note(&state_dir, &run_dir));
    // Before the drive is mounted: a place that is taken must not leave half a mount.
    let listener = plan.options.metrics.as_ref().map(Listener::bind).transpose()?;
    let control = run_dir.join(SOCKET);
    let log_dir = plan.before.as_ref().map_or(&run_dir, |before| &before.log_dir).clone().into_os_string();
    let request = MountRequest {
        store: plan.store,
        source: plan.source,
        secret,
        dir: plan.dir.clone(),
        state_dir: state_dir.clone(),
        run_dir,
        control: control.clone(),
        unprotected,
        secret_file,
        dead: plan.before.map(|before| before.dead),
        supervisor: plan.supervisor,
        options: plan.options,
    };
    let running = app.backend.mount(request).map_err(|e| made_all_the_same(e, &first))?;
    let _found_by_umount = utab::Entries::keep(&plan.dir, &state_dir);
    signals.stop_on_signal(running.clone());
    let owner = rustix::process::geteuid().as_raw();
    let ready = Server::start(&control, owner, running.handler()).and_then(|server| {
        let metrics = match listener {
            Some(listener) => Some(metrics::Server::start(listener, running.clone())?),
            None => None,
        };
        // What is shown may not be all, or not the newest (`-o ro`).
        lines.extend(running.trouble().map(|what| escape_message(&what)));
        lines.push(mounted_on(&plan.dir));
        let state_dir = state_dir.into_os_string();
        report.ready(Started { lines: std::mem::take(&mut lines), state_dir, log_dir })?;
        pulse.iter().for_each(|p| p.ready(running.clone()));
        Ok((server, metrics))
    });
    let servers = match ready {
        Ok(servers) => servers,
        Err(e) => {
            running.stop();
            running.wait()?;
            return Err(e);
        }
    };
    tracing::info!("mounted on {}", shown(&plan.dir));
    let outcome = running.wait();
    drop(pulse);
    // While the drive still holds its lock: the next daemon's socket has the same name.
    drop(servers);
    match &outcome {
        Ok(()) => tracing::info!("unmounted"),
        Err(e) => tracing::error!("{}", e.chain()),
    }
    outcome
}

/// What to say when the default drive was made.
fn first_lines(store: &str, key: Option<&Path>, state_dir: &Path) -> Vec<String> {
    let mut lines = vec!["made your drive:".to_owned()];
    lines.push(format!("  store  {}", url_path(store).map_or(store.to_owned(), |p| shown(&p))));
    lines.extend(key.map(|key| format!("  key    {}", shown(key))));
    lines.push(format!("  state  {}", shown(state_dir)));
    lines.push(match key {
        Some(_) => {
            "back up the key, away from this machine, and the store: without the key the store is lost".into()
        }
        None => "back up the store, and keep the passphrase: without it the store is lost".into(),
    });
    lines
}

/// An error after the default drive was made: the next mount makes nothing, so what there is to back up must be
/// said now.
fn made_all_the_same(e: Error, first_lines: &[String]) -> Error {
    if first_lines.is_empty() {
        return e;
    }
    let words: Vec<&str> = first_lines.iter().flat_map(|l| [l.trim(), ";"]).collect();
    let said = words.join(" ").replace(" ;", ";").replace(":;", ":");
    e.context(format!("{said} but it cannot be mounted"))
}

fn mounted_on(dir: &Path) -> String {
    format!("mounted on {}", shown(dir))
}

/// What the mount shows as its source. `mount -a`, and whoever else wants to know whether a line of fstab is mounted,
/// compares it with the line, after following the links of a path.
fn source_of(given: Option<&Path>, url: &str) -> String {
    let is_url = |s: &Path| s.to_str().is_some_and(|s| s.contains("://"));
    let source = match given {
        Some(given) if is_url(given) => Some(given.to_owned()),
        _ => url_path(url),
    };
    source.and_then(|s| s.into_os_string().into_string().ok()).unwrap_or_else(|| url.to_owned())
}

/// A first `nacrefs mount ~/nacre` makes all that it needs: the directory too, in one that is there.
fn make_mount_point(dir: &Path) -> Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        // What cannot be mounted on is told by who looks at it next.
        Err(e) if !matches!(e.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => {
            Err(e).context(|| format!("cannot make {}", shown(dir)))
        }
        _ => Ok(()),
    }
}

/// The directory to mount on, made absolute; what a dead daemon left there is cleared later.
///
/// What other file systems do and `nacrefs mount` refuses, to be kind (mounting over another mount, or over files),
/// mount(8) may do (`as_helper`): a boot does not fail for a file that was left in the directory.
fn mount_point(dir: &Path, store: &str, source: &str, nonempty: bool, as_helper: bool) -> Result<PathBuf> {
    let usage = |why: &str| Err(Error::new(Kind::Usage, format!("{}: {why}", shown(dir))));
    if let Some(mount) = mounts::at(dir)? {
        // Cleared by the daemon, at the last moment.
        if mount.is_ours() && mount.is_dead() {
            return if mount.is_of(store) { Ok(mount.point) } else { Err(mount.dead_of_another()) };
        }
        if mount.is_ours() && mount.source == source {
            let said = format!("{} is mounted on {} already", escape(source.as_bytes()), shown(dir));
            return Err(Error::new(Kind::Conflict, said));
        }
        // An automount waits to be covered, and to be left alone: whoever looks into it waits for this very mount.
        if mount.fs_type == "autofs" {
            return Ok(mount.point);
        }
        if !as_helper || mount.is_ours() {
            let said = format!("{} is already a mount ({})", shown(dir), mount.fs_type);
            return Err(Error::new(Kind::Conflict, said));
        }
    }
    let dir = &resolve(dir)?;
    match std::fs::metadata(dir) {
        Ok(m) if m.is_dir() => {}
        Ok(_) => return usage("is not a directory"),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return usage(&format!("no such directory: make it first (mkdir -p {})", shown(dir)));
        }
        Err(e) => return Err(e).context(|| format!("cannot look at {}", shown(dir))),
    }
    if !nonempty && !as_helper {
        let mut entries = std::fs::read_dir(dir).context(|| format!("cannot list {}", shown(dir)))?;
        if entries.next().is_some() {
            return usage(
                "the directory is not empty: -o nonempty hides what is in it while the drive is mounted",
            );
        }
    }
    Ok(dir.clone())
}

/// Refuses what the mount would hide from its own daemon.
fn apart(dir: &Path, what: &str, path: &Path) -> Result<()> {
    if !resolve(path)?.starts_with(dir) {
        return Ok(());
    }
    let said = format!(
        "{what} {} is inside {}, and would be hidden by the mount: mount on another directory",
        shown(path),
        shown(dir)
    );
    Err(Error::new(Kind::Usage, said))
}

/// A state directory in the store would be rolled back together with it, so that no rollback could be seen (docs/SECURITY.md);
/// and with the store its journal and key would be away.
fn outside(store: &str, state_dir: &Path) -> Result<()> {
    let Some(store) = url_path(store).and_then(|path| resolve(&path).ok()) else { return Ok(()) };
    if !resolve(state_dir)?.starts_with(&store) {
        return Ok(());
    }
    let said = format!("the state directory {} is inside the store: give another one", shown(state_dir));
    Err(Error::new(Kind::Usage, said))
}

/// Says what is missing for FUSE to work.
fn fuse_usable(device: &Path, root: bool, fusermount: &Path) -> Result<()> {
    if !device.exists() {
        return Err(Error::failed(format!(
            "{} is missing: load the kernel's module with `modprobe fuse`",
            device.display()
        )));
    }
    if !root && !fusermount.is_file() {
        return Err(Error::failed(
            "fusermount3 is missing, without which only root can mount: install fuse3",
        ));
    }
    Ok(())
}

fn is_missing_or_empty(dir: &Path) -> bool {
    match std::fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(e) => e.kind() == ErrorKind::NotFound,
    }
}

/// Whether somebody has begun to make a drive in a directory, and no more.
fn is_unfinished(dir: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(dir) else { return false };
    let mut names = entries.map(|e| e.ok().and_then(|e| e.file_name().into_string().ok()));
    let mut any = false;
    let begun = names.all(|name| {
        any = true;
        name.is_some_and(|n| n.contains('#') || n != layout::DRIVE && layout::is_of_a_drive(&n))
    });
    any && begun
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The default drive is made once: a first mount that fails used to take the word on backups with it.
    #[test]
    fn what_to_back_up_is_said_even_if_the_first_mount_fails() {
        let lines = first_lines("file:///s/store", Some(Path::new("/s/key")), Path::new("/s/state"));
        let e = made_all_the_same(Error::failed("no fuse"), &lines);
        let said = e.chain();
        for part in ["made your drive:", "store  /s/store;", "key    /s/key;", "back up the key", "no fuse"] {
            assert!(said.contains(part), "{said}");
        }
        assert_eq!(said.lines().count(), 1);
        assert_eq!(made_all_the_same(Error::failed("no fuse"), &[]).chain(), "no fuse");
    }

    #[test]
    fn mount_points_are_checked_before_anything_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("full/x")).unwrap();
        std::fs::create_dir(at("empty")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        let check = |path: &Path, nonempty| mount_point(path, "file:///s", "/s", nonempty, false);
        for (path, exit, word) in [
            (at("gone"), 2, "mkdir -p"),
            (at("file"), 2, "not a directory"),
            (at("full"), 2, "nonempty"),
            ("/proc".into(), 6, "already a mount"),
        ] {
            let e = check(&path, false).unwrap_err();
            assert!(e.exit_status() == exit && e.to_string().contains(word), "{e}");
        }
        let real = dir.path().canonicalize().unwrap();
        assert_eq!(check(&at("empty"), false).unwrap(), real.join("empty"));
        assert_eq!(check(&at("full"), true).unwrap(), real.join("full"));
        // As other file systems do it, at boot.
        assert_eq!(mount_point(&at("full"), "file:///s", "/s", false, true).unwrap(), real.join("full"));
        assert_eq!(
            mount_point(Path::new("/proc"), "file:///s", "/s", false, true).unwrap(),
            Path::new("/proc")
        );
        std::os::unix::fs::symlink(at("empty"), at("link")).unwrap();
        assert_eq!(check(&at("link"), false).unwrap(), real.join("empty"));
    }

    #[test]
    fn the_source_is_what_fstab_says() {
        for (given, url, source) in [
            (Some("/srv/a b"), "file:///srv/a%20b", "/srv/a b"),
            (Some("file:///srv/a%20b/"), "file:///srv/a%20b", "file:///srv/a%20b/"),
            (Some("s3://b/p/"), "s3://b/p", "s3://b/p/"),
            (Some("relative"), "file:///srv/relative", "/srv/relative"),
            (None, "file:///home/u/store", "/home/u/store"),
            (None, "file:///%FF", "file:///%FF"),
        ] {
            assert_eq!(source_of(given.map(Path::new), url), source);
        }
    }

    #[test]
    fn what_fuse_needs_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let helper = dir.path().join("fusermount3");
        let says =
            |device: &str, root| fuse_usable(Path::new(device), root, &helper).unwrap_err().to_string();
        assert!(says("/no/fuse", true).contains("modprobe fuse"));
        assert!(says("/dev/null", false).contains("install fuse3"));
        std::fs::write(&helper, "").unwrap();
        fuse_usable(Path::new("/dev/null"), false, &helper).unwrap();
        fuse_usable(Path::new("/dev/null"), true, Path::new("fusermount3")).unwrap();
    }
}
