//! The command line: what people type, and what scripts, units and tests rely on.
//!
//! A command either asks the daemon of a mount ([`control`]) or opens the drive itself ([`backend::Backend`]);
//! `mount` becomes such a daemon.

mod accept;
pub mod args;
pub mod backend;
mod commands;
mod complete;
pub mod control;
mod daemon;
mod doctor;
mod drives;
pub mod exit;
mod fstab;
#[cfg(fuzzing)]
pub mod fuzzing;
mod helper;
mod holders;
mod keys;
mod logging;
mod man;
pub mod metrics;
mod mount;
mod mounts;
mod notify;
pub mod options;
mod output;
pub mod paths;
mod probe;
mod prompt;
mod propagation;
mod pulse;
mod remount;
mod runtime;
pub mod secrets;
mod signals;
mod status;
mod supervise;
mod umount;
mod utab;
pub mod values;

pub use drives::Drives;
pub use mounts::{CONTROL_XATTR, FS_TYPE, Ground, Mount, told_inside};

use crate::crypt::protect::protect_process;
use crate::error::Result;
use args::{Cli, Command, KeyCommand, Parsed};
use backend::Backend;
use paths::Locations;
use secrets::Environment;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What all commands share.
struct App<'b> {
    backend: &'b dyn Backend,
    env: Environment,
    state_dir_env: Option<PathBuf>,
}

impl App<'_> {
    fn places(&self) -> Result<Locations> {
        Locations::of_caller()
    }

    /// The URL of a STORE, or of the default drive's.
    fn store(&self, given: Option<&Path>) -> Result<String> {
        match given {
            Some(store) => paths::store_url(store),
            None => Ok(paths::file_url(&self.places()?.store)),
        }
    }
}

/// Runs a command line and returns its exit status. To be called at the very start of a process, while it has
/// one thread: it changes the environment, and `mount` forks.
pub fn run(backend: &dyn Backend, line: impl IntoIterator<Item = OsString>) -> u8 {
    let mut verbose = false;
    start(backend, line, &mut verbose).unwrap_or_else(|e| {
        eprintln!("{}", output::error_line(&e, verbose));
        e.exit_status()
    })
}

fn start(backend: &dyn Backend, line: impl IntoIterator<Item = OsString>, verbose: &mut bool) -> Result<u8> {
    // SAFETY: this is called before any thread is made (see `run`).
    let env = unsafe { Environment::take() };
    let line: Vec<OsString> = line.into_iter().collect();
    let cli = match helper::call(&line)? {
        Some(call) => {
            if let Some(namespace) = &call.namespace {
                helper::enter(namespace)?;
            }
            if call.fake {
                return Ok(exit::DONE);
            }
            call.cli
        }
        None => match args::parse(line)? {
            Parsed::Run(cli) => cli,
            Parsed::Print(text) => return output::print(&text).map(|()| exit::DONE),
            Parsed::Bare(help) => {
                eprint!("{help}");
                return Ok(exit::USAGE);
            }
        },
    };
    *verbose = cli.verbose;
    protect_process()?;
    let state_dir_env = std::env::var_os("NACREFS_STATE_DIR").filter(|d| !d.is_empty()).map(PathBuf::from);
    let app = App { backend, env: env?, state_dir_env };
    execute(&app, &cli).map(|()| exit::DONE)
}

fn execute(app: &App, cli: &Cli) -> Result<()> {
    // A mount starts its log once it knows where; the others only complain.
    if !matches!(cli.command, Command::Mount(_)) {
        logging::start("error", &logging::LogOptions::default())?;
    }
    match &cli.command {
        Command::Init(args) => commands::init(app, args),
        Command::Mount(args) => mount::run(app, args),
        Command::Umount(args) => umount::run(args),
        Command::Sync(args) => commands::sync(args),
        Command::Status(args) => status::run(app, args, cli.verbose),
        Command::Doctor(args) => doctor::run(app, args),
        Command::LogLevel(args) => commands::log_level(args),
        Command::Log(args) => commands::log(app, args),
        Command::Cat(args) => commands::cat(app, args),
        Command::Check(args) => commands::check(app, args),
        Command::Key(KeyCommand::List(args)) => keys::list(app, args),
        Command::Key(KeyCommand::Add(args)) => keys::add(app, args),
        Command::Key(KeyCommand::Remove(args)) => keys::remove(app, args),
        Command::Key(KeyCommand::Change(args)) => keys::change(app, args),
        Command::Accept(args) => accept::run(app, args),
        Command::Completions { shell } => commands::completions(*shell),
        Command::Complete { words } => complete::run(&args::definition(), words),
        Command::Man(args) => man::run(args),
        Command::ExitStatus => output::print(&format!("{}\n", exit::HELP)),
    }
}
