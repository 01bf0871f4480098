//! Exit statuses: what scripts and units may rely on (`nacrefs help exit-status`).
//!
//! [`crate::error::Error::exit_status`] maps errors to these.

pub const DONE: u8 = 0;
pub const FAILED: u8 = 1;
pub const USAGE: u8 = 2;
pub const SECRET: u8 = 3;
pub const AWAY: u8 = 4;
pub const DAMAGE: u8 = 5;
pub const CONFLICT: u8 = 6;
pub const NOT_A_DRIVE: u8 = 7;
/// Also what a shell shows for a command that Ctrl-C killed.
pub const INTERRUPTED: u8 = 130;
/// The reader of our standard output went away: what a shell shows for a tool that SIGPIPE killed.
pub const BROKEN_PIPE: u8 = 141;

/// The same, for people.
pub const HELP: &str = "Exit status:
    0  done
    1  failed
    2  wrong usage
    3  key or passphrase refused
    4  store out of reach
    5  damage found
    6  conflict, or already in use
    7  not a nacrefs drive or mount
  130  interrupted";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Kind};

    #[test]
    fn errors_exit_with_the_documented_statuses() {
        let table = [
            (Kind::Failed, FAILED),
            (Kind::Usage, USAGE),
            (Kind::Secret, SECRET),
            (Kind::Away, AWAY),
            (Kind::Damage, DAMAGE),
            (Kind::Conflict, CONFLICT),
            (Kind::NotADrive, NOT_A_DRIVE),
            (Kind::Interrupted, INTERRUPTED),
        ];
        for (kind, status) in table {
            assert_eq!(Error::new(kind, "").exit_status(), status, "{kind:?}");
            assert!(HELP.lines().any(|l| l.split_whitespace().next() == Some(&status.to_string())));
        }
    }
}
