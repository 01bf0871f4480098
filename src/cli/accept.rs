//! `nacrefs accept`: after a rollback or a fork, going on from what the store shows.

use super::App;
use super::args::Accept;
use super::commands::target;
use super::daemon;
use super::mounts::shown;
use super::output::Screen;
use super::prompt;
use super::values::{Moment, escape_message};
use crate::error::{Error, Kind, Result};
use crate::session::{Dispute, StateDir, Unstored};
use crate::sys::SystemClock;

/// Shows both sides, asks, and accepts what the store shows.
pub fn run(app: &App, args: &Accept) -> Result<()> {
    daemon::keep_files_private();
    let drive = target(app, &args.target)?;
    let dir = shown(&drive.state_dir);
    let mut screen = Screen::new(false);
    if !drive.state_dir.exists() {
        screen
            .line(&format!("nothing to accept: this machine has no state directory of this drive ({dir})"))?;
        return screen.finish();
    }
    // Before the secrets are opened, so that a drive in use is known at once.
    let state = StateDir::open(&drive.state_dir)?;
    let site = app.backend.unlock(&drive)?;
    let Some(dispute) = Dispute::find(site, state)? else {
        screen.line("nothing to accept: the store goes on from what this machine has seen")?;
        return screen.finish();
    };
    for line in lines(&dispute) {
        screen.line(&line)?;
    }
    screen.finish()?;
    let version = dispute.shown.version();
    match args.yes || prompt::confirm(&format!("Go on from version {version}?"))?.ok_or_else(nobody)? {
        true => {}
        false => return Err(Error::failed("not accepted: nothing was changed")),
    }
    let aside = dispute.accept(&SystemClock)?;
    let mut screen = Screen::new(false);
    screen.line(&format!("accepted: this machine goes on from version {version}"))?;
    if let Some(aside) = aside {
        screen.line(&format!(
            "its journal is in {0}, a state directory by itself: to see what is in it, mount a copy of the store that has \
             the other versions with --state-dir {0}; delete it when it is not needed",
            shown(&aside)
        ))?;
    }
    screen.finish()
}

fn nobody() -> Error {
    Error::new(Kind::Conflict, "not accepted: there is no terminal to ask on; --yes accepts, without asking")
}

/// What this machine remembers and what the store shows.
fn lines(dispute: &Dispute) -> Vec<String> {
    let Dispute { refusal, remembered, seen, device, shown, journal, .. } = dispute;
    let device = device.map_or("new".to_owned(), |d| format!("device {d}"));
    let seen = seen.map_or(String::new(), |at| format!(", seen {}", Moment(at).human()));
    vec![
        escape_message(&refusal.chain()),
        match remembered {
            Some(head) => format!("  this machine    version {}{seen} (it is {device})", head.version),
            None => "  this machine    has seen no version yet".to_owned(),
        },
        format!(
            "  the store       version {}, made {} by device {}",
            shown.version(),
            Moment(shown.commit.time).human(),
            shown.commit.device
        ),
        format!(
            "  not stored yet  {}",
            match journal {
                Unstored::Nothing => "nothing".to_owned(),
                Unstored::Changes(n) => format!("{n} changes, in the journal"),
                Unstored::Unknown => "perhaps changes in the journal: it cannot be told without that version".to_owned(),
            }
        ),
        "Going on from the store's version gives up what only this machine's version has. If the store can be brought \
         back (from a backup, or from whoever restored it), do that instead."
            .to_owned(),
    ]
}
