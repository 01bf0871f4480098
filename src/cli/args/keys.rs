//! The options of the commands for keys, and of `accept`.

use super::ClosedArgs;
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// List the passphrases, key files and recovery codes that open a drive
    ///
    /// A star marks the one that it was opened with now.
    #[command(after_help = "Examples:\n  nacrefs key list /srv/store\n  nacrefs key list ~/drive --json")]
    List(KeyList),
    /// Add a passphrase, a key file or a recovery code that opens the drive
    ///
    /// Asks for what opens it now, then for the new passphrase, unless options say otherwise. Only a small key slot is
    /// written; no data is.
    #[command(
        after_help = "Examples:\n  nacrefs key add /srv/store --label Anna\n  nacrefs key add /srv/store --new-recovery\n  \
                      nacrefs key add ~/drive --new-key-file /media/stick/drive.key\n  \
                      nacrefs key add /srv/store --recovery    the passphrase is lost: set another"
    )]
    Add(KeyAdd),
    /// Remove a passphrase, a key file or a recovery code
    ///
    /// The drive must be opened with another one, to show that it still can be. Whoever opened the drive with the
    /// removed one, or copied its slot and knows it, has the drive's keys all the same.
    #[command(
        after_help = "Examples:\n  nacrefs key list /srv/store\n  nacrefs key remove 3f2a90 /srv/store"
    )]
    Remove(KeyRemove),
    /// Put a new passphrase, key file or recovery code in the place of the one that the drive is opened with
    ///
    /// The new one is stored first, then the old one removed. Also with the passphrase that it was before: a slot that was
    /// made with weaker parameters gets those of today.
    #[command(
        after_help = "Examples:\n  nacrefs key change /srv/store\n  nacrefs key change ~/drive --new-key-file ~/new-key"
    )]
    Change(KeyChange),
}

/// A drive whose store is worked on, mounted or not.
#[derive(Args, Clone, Debug, Default)]
pub struct TargetArgs {
    /// The drive's store, or where it is mounted [default: your default drive]
    #[arg(value_name = "STORE|DIR", conflicts_with = "store")]
    pub target: Option<PathBuf>,
    #[command(flatten)]
    pub closed: ClosedArgs,
}

/// What is to open the drive from now on ([`crate::cli::secrets`] has the order).
#[derive(Args, Clone, Debug, Default)]
pub struct NewSecretArgs {
    /// Read the new passphrase from a file
    ///
    /// Without this and the next two, the first of these counts: NACREFS_NEW_PASSPHRASE_FILE,
    /// NACREFS_NEW_PASSPHRASE_COMMAND, NACREFS_NEW_PASSPHRASE, a systemd credential named nacrefs.new-passphrase or
    /// nacrefs.new-key, and at last a question on the terminal.
    #[arg(long, value_name = "F", conflicts_with_all = ["new_key_file", "new_recovery"])]
    pub new_passphrase_file: Option<PathBuf>,
    /// Take a key file; one that does not exist is made
    ///
    /// If this is killed half-way, the file may be there and open nothing yet: ask again with the same file.
    #[arg(long, value_name = "F", conflicts_with = "new_recovery")]
    pub new_key_file: Option<PathBuf>,
    /// Make a recovery code, and print it
    #[arg(long)]
    pub new_recovery: bool,
}

#[derive(Args, Debug)]
pub struct KeyList {
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub target: TargetArgs,
}

#[derive(Args, Debug)]
pub struct KeyAdd {
    /// What the list shows beside it: whose it is, or where it lies. Anyone who sees the store can read it
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub label: String,
    #[command(flatten)]
    pub new: NewSecretArgs,
    #[command(flatten)]
    pub target: TargetArgs,
}

#[derive(Args, Debug)]
pub struct KeyRemove {
    /// The first digits of its id, as `key list` shows it
    pub id: String,
    /// Remove even the one that the drive is opened with, even if it is the last: then nothing opens the drive any more
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub target: TargetArgs,
}

#[derive(Args, Debug)]
pub struct KeyChange {
    /// Another label [default: the one that it had]
    #[arg(long, value_name = "TEXT")]
    pub label: Option<String>,
    #[command(flatten)]
    pub new: NewSecretArgs,
    #[command(flatten)]
    pub target: TargetArgs,
}

#[derive(Args, Debug)]
pub struct Accept {
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Print one JSON document, and ask nobody: without --yes nothing is accepted
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub target: TargetArgs,
}
