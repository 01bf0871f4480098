//! What people type: the one place where commands and options are defined. Help, man pages and completions
//! come from here.

mod keys;

pub use keys::{Accept, KeyAdd, KeyChange, KeyCommand, KeyList, KeyRemove, NewSecretArgs, TargetArgs};

use super::values::escape_message;
use super::{exit, options};
use crate::error::{Error, Kind};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use std::ffi::OsString;
use std::path::PathBuf;

const EXAMPLES: &str = "Examples:
  nacrefs mount ~/drive             your default drive, made on first use
  nacrefs init /srv/store
  nacrefs mount /srv/store /mnt
  nacrefs umount /mnt";

const MOUNT_EXAMPLES: &str = "Examples:
  nacrefs mount ~/drive
  nacrefs mount /srv/store /mnt -o allow_other,memory=1G
  nacrefs mount /srv/store /mnt --passphrase-file /run/secrets/drive";

/// A drive whose bytes are encrypted, versioned chunks in a store that need not be trusted
///
/// A STORE is a path or a URL (file:///srv/store; in this version no other). A PATH inside a mounted drive finds its
/// drive from the mount; without a mount, give --store STORE and a path from the drive's root.
#[derive(Debug, Parser)]
#[command(
    name = "nacrefs",
    version,
    arg_required_else_help = true,
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{}", exit::HELP)
)]
pub struct Cli {
    /// Say everything that is known about an error
    #[arg(short, long, global = true)]
    pub verbose: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make an empty drive
    ///
    /// Refuses a store that already holds one. With --key-file, a key file that does not exist is made.
    #[command(
        after_help = "Examples:\n  nacrefs init /srv/store\n  nacrefs init /srv/store --key-file ~/key"
    )]
    Init(Init),
    /// Mount a drive, and return once it is usable
    ///
    /// Without STORE: your default drive, made on first use, with a key file.
    ///
    /// SIGTERM and SIGINT commit and unmount; where the store cannot be reached the rest stays in the journal, and the
    /// daemon's exit status is 4. A second one does not wait. SIGHUP opens the log anew and commits; SIGUSR1 writes the
    /// status into the log.
    #[command(
        allow_missing_positional = true,
        after_help = MOUNT_EXAMPLES,
        after_long_help = format!("{MOUNT_EXAMPLES}\n\n{}", options::HELP)
    )]
    Mount(Mount),
    /// Commit, wait until everything is in the store, and unmount
    #[command(
        visible_alias = "unmount",
        after_help = "Examples:\n  nacrefs umount ~/drive\n  nacrefs umount ~/drive --local    the store is away: keep the rest here"
    )]
    Umount(Umount),
    /// Return when everything written before is in the store; print the version
    #[command(after_help = "Examples:\n  nacrefs sync\n  nacrefs sync ~/drive")]
    Sync(Sync),
    /// Show mounted drives, or one drive
    ///
    /// A drive whose daemon has died, or does not answer within a few seconds, is shown as such, and the exit status
    /// is 1. With -v: also what is of use to few.
    #[command(
        after_help = "Examples:\n  nacrefs status\n  nacrefs status ~/drive --json\n  nacrefs status --store /srv/store"
    )]
    Status(Status),
    /// Find what is wrong with the machine, the mount, the key or the store, and say what to do
    ///
    /// Changes nothing, and asks for no passphrase: without one (see --passphrase-file) what is sealed is not looked
    /// at. Exit status 0: all is well, though there may be warnings; 1: something is wrong.
    #[command(
        after_help = "Examples:\n  nacrefs doctor                 this machine, and every drive it has or would mount\n  nacrefs doctor ~/drive\n  nacrefs doctor /srv/store --key-file ~/key"
    )]
    Doctor(Doctor),
    /// Show or change how much the log of a mounted drive tells, while it runs
    #[command(
        after_help = "Examples:\n  nacrefs log-level ~/drive\n  nacrefs log-level ~/drive debug\n  nacrefs log-level ~/drive info,nacrefs::store=trace"
    )]
    LogLevel(LogLevel),
    /// List the versions of a drive, or of one file or directory, newest first
    #[command(
        after_help = "Examples:\n  nacrefs log\n  nacrefs log ~/drive/report.txt\n  nacrefs log --store /srv/store report.txt --json"
    )]
    Log(Log),
    /// Write a file to standard output, as it is or as it was
    #[command(after_help = "Examples:\n  nacrefs cat ~/drive/report.txt --at 2026-11-17\n  \
                            nacrefs cat --store /srv/store report.txt --at '3 days ago' >old.txt")]
    Cat(Cat),
    /// Verify what is in a store
    #[command(
        after_help = "Examples:\n  nacrefs check /srv/store\n  nacrefs check /srv/store --read-data --subset 1/7"
    )]
    Check(Check),
    /// Manage what opens a drive
    #[command(subcommand)]
    Key(KeyCommand),
    /// After a rollback, a fork or a conflict was reported: compare, and go on from what the store shows
    ///
    /// Shows the version that this machine has seen and the one that the store shows; or what both this machine and
    /// another have changed. What this machine had not stored yet is not deleted: it is moved aside, into a state
    /// directory of its own. Where a mount would succeed nothing is done.
    #[command(
        after_help = "Examples:\n  nacrefs accept /srv/store\n  nacrefs accept --json /srv/store    only compare\n  nacrefs accept --yes /srv/store"
    )]
    Accept(Accept),
    /// Print completions for a shell
    ///
    /// For bash, zsh and fish they complete mount points and versions too.
    #[command(
        after_help = "Examples:\n  nacrefs completions bash >~/.local/share/bash-completion/completions/nacrefs\n  \
                      mkdir -p /usr/local/share/zsh/site-functions\n  \
                      nacrefs completions zsh >/usr/local/share/zsh/site-functions/_nacrefs\n  \
                      nacrefs completions fish >~/.config/fish/completions/nacrefs.fish"
    )]
    Completions { shell: Shell },
    /// Print a manual page, or write all of them
    #[command(
        after_help = "Examples:\n  nacrefs man mount | man -l -\n  nacrefs man --dir /usr/local/share/man"
    )]
    Man(Man),
    /// Answer the scripts that `completions` prints
    #[command(hide = true)]
    Complete {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// Show what exit statuses mean
    #[command(hide = true, after_help = exit::HELP)]
    ExitStatus,
}

/// Where the passphrase or key comes from ([`super::secrets`] has the order).
#[derive(Args, Clone, Debug, Default)]
pub struct SecretArgs {
    /// Read the passphrase from a file: its first line
    ///
    /// Without this and without a key file, the first of these counts: NACREFS_PASSPHRASE_FILE,
    /// NACREFS_PASSPHRASE_COMMAND, NACREFS_PASSPHRASE, a systemd credential named nacrefs.passphrase or nacrefs.key,
    /// and at last a question on the terminal.
    #[arg(long, value_name = "F", conflicts_with = "key_file")]
    pub passphrase_file: Option<PathBuf>,
    /// Open the drive with a key file
    #[arg(long, value_name = "F")]
    pub key_file: Option<PathBuf>,
    /// Open the drive with its recovery code: from --passphrase-file, or asked for
    #[arg(long, conflicts_with = "key_file")]
    pub recovery: bool,
}

/// A drive that need not be mounted.
#[derive(Args, Clone, Debug, Default)]
pub struct ClosedArgs {
    /// The store of a drive that is not mounted here
    #[arg(long, value_name = "STORE")]
    pub store: Option<PathBuf>,
    #[command(flatten)]
    pub secrets: SecretArgs,
    #[command(flatten)]
    pub state: StateArgs,
}

#[derive(Args, Clone, Debug, Default)]
pub struct StateArgs {
    /// Where journal, cache and index are [NACREFS_STATE_DIR; else a directory for each drive]
    #[arg(long, value_name = "D")]
    pub state_dir: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct Init {
    /// Where the drive will live: a URL or a path
    pub store: PathBuf,
    #[command(flatten)]
    pub secrets: SecretArgs,
}

#[derive(Args, Debug)]
pub struct Mount {
    /// The drive's store: a URL or a path [default: your default drive]
    pub store: Option<PathBuf>,
    /// The directory to mount on; made where the default drive is mounted and it is missing
    pub dir: PathBuf,
    /// Mount options, separated by commas
    #[arg(short = 'o', value_name = "OPT,…")]
    pub options: Vec<String>,
    /// Stay in the foreground, and log to standard error
    #[arg(short, long)]
    pub foreground: bool,
    #[command(flatten)]
    pub secrets: SecretArgs,
    #[command(flatten)]
    pub state: StateArgs,
    /// Called by mount(8): silent where all is well, and no more choosy about the directory than others
    #[arg(skip)]
    pub as_helper: bool,
}

#[derive(Args, Debug, Default)]
pub struct Umount {
    /// The mounted directory
    pub dir: PathBuf,
    /// Do not wait for the store: what is not there yet stays in the journal
    #[arg(long, conflicts_with = "lazy")]
    pub local: bool,
    /// Take it out of sight at once; it ends when the last open file is closed, and stores what is left then
    #[arg(short, long)]
    pub lazy: bool,
    /// Wait neither for the store nor for who has files open: they are cut off; the rest stays in the journal
    #[arg(short, long)]
    pub force: bool,
    /// Where it is in use, make it read-only instead
    #[arg(short, long)]
    pub read_only: bool,
    /// Only clear the mount of a daemon that has died; leave any other alone
    #[arg(long, conflicts_with_all = ["local", "lazy", "force", "read_only"])]
    pub dead: bool,
    /// With --dead: only if it is a mount of this store
    #[arg(long, value_name = "STORE", requires = "dead")]
    pub store: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct Sync {
    /// A mounted directory, or anything in it [default: the drive you are in, or the only one]
    pub dir: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct Status {
    /// A mounted directory, or anything in it [default: all that you may see]
    #[arg(conflicts_with = "store")]
    pub dir: Option<PathBuf>,
    /// Print one JSON object for each drive
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub closed: ClosedArgs,
}

#[derive(Args, Debug)]
pub struct Doctor {
    /// A mounted directory, or a store [default: this machine, and every drive that is mounted, or that fstab or a unit
    /// would mount]
    #[arg(value_name = "DIR|STORE")]
    pub target: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub secrets: SecretArgs,
    #[command(flatten)]
    pub state: StateArgs,
}

#[derive(Args, Debug)]
pub struct LogLevel {
    /// A mounted directory, or anything in it
    pub dir: PathBuf,
    /// off, error, warn, info, debug or trace; also MODULE=LEVEL, several between commas [default: only show it]
    pub level: Option<String>,
}

#[derive(Args, Debug)]
pub struct Log {
    /// A file or directory, by its present name [default: the whole drive]
    pub path: Option<PathBuf>,
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub closed: ClosedArgs,
}

#[derive(Args, Debug)]
pub struct Cat {
    /// The file, by the name that it had then
    pub path: PathBuf,
    /// A version number or a time: 17, 2026-11-17, '2026-11-17 14:30', '3 days ago', yesterday [default: now]
    #[arg(long, value_name = "WHEN")]
    pub at: Option<String>,
    #[command(flatten)]
    pub closed: ClosedArgs,
}

#[derive(Args, Debug)]
pub struct Check {
    /// A URL or a path [default: your default drive]
    pub store: Option<PathBuf>,
    /// Read and verify every byte, not only what describes them
    #[arg(long)]
    pub read_data: bool,
    /// Read only part N of T of the data
    #[arg(long, value_name = "N/T", requires = "read_data", value_parser = parse_subset)]
    pub subset: Option<(u32, u32)>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub secrets: SecretArgs,
    #[command(flatten)]
    pub state: StateArgs,
}

#[derive(Args, Debug)]
pub struct Man {
    /// The command whose page to print [default: nacrefs itself]
    #[arg(conflicts_with = "dir")]
    pub command: Vec<String>,
    /// Write all pages below this directory, into man1 and man8 (made where they are missing)
    #[arg(long, value_name = "D")]
    pub dir: Option<PathBuf>,
}

fn parse_subset(text: &str) -> Result<(u32, u32), String> {
    let parsed = text.split_once('/').and_then(|(n, t)| Some((n.parse().ok()?, t.parse().ok()?)));
    match parsed {
        Some((n, t)) if (1..=t).contains(&n) => Ok((n, t)),
        _ => Err("write it as N/T, such as 1/7, with N from 1 to T".into()),
    }
}

/// What came of reading the command line.
pub enum Parsed {
    Run(Cli),
    /// Text that was asked for: help or the version.
    Print(String),
    /// No command at all: help, as an error.
    Bare(String),
}

/// Reads a command line. Errors are one line, of [`Kind::Usage`].
pub fn parse(line: impl IntoIterator<Item = OsString>) -> crate::error::Result<Parsed> {
    let error = match Cli::try_parse_from(line) {
        Ok(cli) => return Ok(Parsed::Run(cli)),
        Err(error) => error,
    };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(Parsed::Print(error.render().to_string())),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Ok(Parsed::Bare(error.render().to_string())),
        _ => Err(Error::new(Kind::Usage, one_line(&error.render().to_string()))),
    }
}

/// Clap tells an error in paragraphs: what is wrong, tips, the usage. Here: what is wrong, the tip, where to look.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    let mut help = "nacrefs --help".to_owned();
    for (i, paragraph) in text.split("\n\n").enumerate() {
        let words = paragraph.split_whitespace().collect::<Vec<_>>();
        match words.as_slice() {
            ["Usage:", command @ ..] => {
                let names = command.iter().take_while(|w| w.starts_with(|c: char| c.is_ascii_lowercase()));
                help = names.copied().chain(["--help"]).collect::<Vec<_>>().join(" ");
            }
            ["error:", rest @ ..] if i == 0 => line.push_str(&rest.join(" ")),
            ["tip:", rest @ ..] => {
                line.push_str("; ");
                line.push_str(&rest.join(" "));
            }
            _ => {}
        }
    }
    escape_message(&format!("{line} (see {help})"))
}

/// The definition of the command line, for man pages and completions.
pub fn definition() -> clap::Command {
    let mut command = Cli::command();
    command.build();
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &[&str]) -> Command {
        let line = ["nacrefs"].iter().chain(line).map(OsString::from);
        match parse(line).unwrap() {
            Parsed::Run(cli) => cli.command,
            _ => panic!("help"),
        }
    }

    #[test]
    fn the_definition_holds() {
        Cli::command().debug_assert();
    }

    #[test]
    fn mount_takes_one_place_or_two() {
        let Command::Mount(m) = run(&["mount", "/mnt"]) else { panic!() };
        assert_eq!((m.store, m.dir), (None, "/mnt".into()));
        let Command::Mount(m) = run(&["mount", "s3://b/p", "/mnt", "-o", "ro", "-o", "at=3,uid=1", "-f"])
        else {
            panic!()
        };
        assert_eq!((m.store, m.dir), (Some("s3://b/p".into()), "/mnt".into()));
        assert_eq!((m.options, m.foreground), (vec!["ro".into(), "at=3,uid=1".into()], true));
    }

    #[test]
    fn every_command_has_help_with_examples() {
        fn walk(command: &clap::Command, seen: &mut usize) {
            for c in command.get_subcommands().filter(|c| c.get_name() != "help" && !c.is_hide_set()) {
                walk(c, seen);
                if c.get_subcommands().next().is_none() {
                    *seen += 1;
                    let help = c.clone().render_long_help().to_string();
                    assert!(help.contains("Examples:\n"), "{}", c.get_name());
                }
            }
        }
        let mut seen = 0;
        walk(&definition(), &mut seen);
        assert_eq!(seen, 17);
    }

    #[test]
    fn usage_errors_are_one_line_with_the_place_to_look() {
        for (line, word) in [
            (&["frobnicate"][..], "frobnicate"),
            (&["mount"], "<DIR>"),
            (&["mount", "a", "b", "c"], "'c'"),
            (&["status", "--jsno"], "--json"),
            (&["check", "s", "--subset", "1/2"], "--read-data"),
            (&["check", "s", "--read-data", "--subset", "3/2"], "N/T"),
            (&["umount", "a", "b\nc\x1b[2J"], "'b c'"),
            (&["mount", "d", "--key-file", "a", "--passphrase-file", "b"], "cannot be used with"),
        ] {
            let e = parse(["nacrefs"].iter().chain(line).map(OsString::from)).err().unwrap();
            assert_eq!(e.kind(), Kind::Usage);
            let text = e.to_string();
            assert!(
                text.contains(word) && !text.contains(char::is_control) && text.contains("--help)"),
                "{text}"
            );
        }
    }
}
