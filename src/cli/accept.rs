//! `nacrefs accept`: after a rollback or a fork, or where another machine has changed what the journal changes, going on
//! from what the store shows.

use super::App;
use super::args::Accept;
use super::commands::target;
use super::daemon;
use super::mounts::shown;
use super::output::{Screen, names_of};
use super::prompt;
use super::runtime;
use super::values::{Moment, escape_message};
use crate::error::{Error, Kind, Result};
use crate::session::{Accepted, Dispute, Fate, StateDir, Unstored};
use crate::sys::SystemClock;
use crate::types::Version;
use serde::Serialize;
use std::path::Path;

/// Both sides, and what became of them. The JSON fields are a contract.
#[derive(Serialize)]
struct Told {
    accepted: bool,
    /// Why the drive cannot be mounted as it is; null where there is nothing to accept.
    refusal: Option<String>,
    /// What this machine has seen last: null for nothing.
    seen_version: Option<Version>,
    seen_time: Option<Moment>,
    device: Option<String>,
    store_version: Version,
    store_time: Moment,
    store_device: String,
    /// How many changes only the journal has; null where that cannot be told.
    not_stored: Option<u64>,
    /// What is not stored yet goes with the store's version: the next mount does it again.
    replayed: bool,
    /// The state directory in which the journal was put aside.
    aside: Option<String>,
}

impl Told {
    fn of(dispute: &Dispute) -> Told {
        Told {
            accepted: false,
            refusal: Some(why(dispute)),
            seen_version: dispute.remembered.map(|head| head.version),
            seen_time: dispute.seen.map(Moment),
            device: dispute.device.map(|device| device.to_string()),
            store_version: dispute.shown.version(),
            store_time: Moment(dispute.shown.commit.time),
            store_device: dispute.shown.commit.device.to_string(),
            not_stored: match dispute.journal {
                Unstored::Nothing => Some(0),
                Unstored::Changes(n) => Some(n),
                Unstored::Unknown => None,
            },
            replayed: matches!(dispute.fate, Fate::Replayed { .. }),
            aside: None,
        }
    }
}

/// Shows both sides, asks, and accepts what the store shows. With `--json` nobody is asked.
pub fn run(app: &App, args: &Accept) -> Result<()> {
    daemon::keep_files_private();
    let drive = target(app, &args.target)?;
    let dir = shown(&drive.state_dir);
    if drive.state_dir.exists() && runtime::is_read_only(&drive.state_dir) {
        return Err(Error::failed(format!(
            "the state directory {dir} is on a read-only file system, and accept writes to it: make it writable first \
             (until then -o ro shows what there is); nothing was changed"
        )));
    }
    // Before the secrets are opened, so that a drive in use is known at once.
    let known = drive.state_dir.exists().then(|| StateDir::open(&drive.state_dir)).transpose()?;
    let site = app.backend.unlock(&drive)?;
    let state = match known {
        Some(state) => state,
        None if !site.newest(None)?.is_short() => {
            return nothing(args, &format!("this machine has no state directory of this drive ({dir})"));
        }
        None => StateDir::open(&drive.state_dir)?,
    };
    let resumed = state.resumed.clone();
    let Some(dispute) = Dispute::find(site, state)? else {
        let finished = resumed.map(|aside| {
            format!(" (an accept that was interrupted is finished now: {})", kept(&aside, None))
        });
        return nothing(
            args,
            &format!(
                "the store goes on from what this machine has seen and done{}",
                finished.unwrap_or_default()
            ),
        );
    };
    let mut told = Told::of(&dispute);
    if !args.json {
        let mut screen = Screen::new(false);
        lines(&dispute).iter().try_for_each(|line| screen.line(line))?;
        screen.finish()?;
    }
    let version = dispute.shown.version();
    let answer = match args {
        Accept { yes: true, .. } => Some(true),
        Accept { json: true, .. } => None,
        _ => prompt::confirm(&format!("Go on from version {version}?"))?,
    };
    match answer {
        Some(true) => {}
        Some(false) => return Err(Error::failed("not accepted: nothing was changed")),
        None => {
            if args.json {
                print(&told)?;
            }
            return Err(nobody());
        }
    }
    let (fate, how) = (dispute.fate, Look::of(&dispute));
    let Accepted { version, aside } = dispute.accept(&SystemClock)?;
    if args.json {
        (told.accepted, told.aside) = (true, aside.as_deref().map(shown));
        return print(&told);
    }
    let mut screen = Screen::new(false);
    let version = version.version();
    screen.line(&match version == told.store_version {
        true => format!("accepted: this machine goes on from version {version}"),
        false => format!(
            "accepted: this machine goes on from version {}, as version {version} for all machines",
            told.store_version
        ),
    })?;
    if let Fate::Replayed { changes, .. } = fate {
        screen.line(&format!("its journal goes with it: the next mount has the {changes} changes in it"))?;
    }
    if let Some(aside) = aside {
        screen.line(&kept(&aside, Some(how)))?;
    }
    screen.finish()
}

/// How what was put aside can be looked at.
#[derive(Clone, Copy)]
enum Look {
    WithThisStore,
    WithACopy,
    /// Not without the file that says whose it is.
    NotAtAll,
}

impl Look {
    fn of(dispute: &Dispute) -> Look {
        match dispute.fate {
            _ if dispute.device.is_none() => Look::NotAtAll,
            _ if dispute.descends => Look::WithThisStore,
            Fate::Aside { .. } => Look::WithThisStore,
            _ => Look::WithACopy,
        }
    }
}

fn kept(aside: &Path, how: Option<Look>) -> String {
    let aside = shown(aside);
    let how = match how {
        None => return format!("the journal is in {aside}, a state directory by itself"),
        Some(Look::WithThisStore) => {
            format!("to see what is in it, mount the store with -o ro and --state-dir {aside}")
        }
        Some(Look::WithACopy) => format!(
            "to see what is in it, mount a copy of the store that has the other versions with --state-dir {aside}"
        ),
        Some(Look::NotAtAll) => "it can be read once its file 'device' is back".to_owned(),
    };
    format!("its journal is in {aside}, a state directory by itself: {how}; delete it when it is not needed")
}

fn nothing(args: &Accept, why: &str) -> Result<()> {
    let mut screen = Screen::new(args.json);
    match args.json {
        true => screen.object(&serde_json::json!({ "accepted": false, "refusal": null }))?,
        false => screen.line(&format!("nothing to accept: {why}"))?,
    }
    screen.finish()
}

fn print(told: &Told) -> Result<()> {
    let mut screen = Screen::new(true);
    screen.object(told)?;
    screen.finish()
}

/// Why the drive cannot be mounted as it is.
fn why(dispute: &Dispute) -> String {
    names_of(&dispute.refusal).unwrap_or_else(|| dispute.refusal.chain())
}

fn nobody() -> Error {
    Error::new(Kind::Conflict, "not accepted: there is nobody to ask; --yes accepts, without asking")
}

/// What this machine remembers and what the store shows.
fn lines(dispute: &Dispute) -> Vec<String> {
    let Dispute { remembered, seen, device, shown, journal, descends, .. } = dispute;
    let is = device.map_or("new".to_owned(), |d| format!("device {d}"));
    let seen = seen.map_or(String::new(), |at| format!(", seen {}", Moment(at).human()));
    vec![
        escape_message(&why(dispute)),
        match remembered {
            Some(head) => format!("  this machine    version {}{seen} (it is {is})", head.version),
            None if device.is_some() => {
                "  this machine    has lost what it has seen: whether the store was rolled back cannot be told".to_owned()
            }
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
                Unstored::Unknown => "perhaps changes in the journal: it cannot be told".to_owned(),
            }
        ),
        match (descends, &dispute.fate) {
            (true, _) => {
                "Going on from the store's version leaves out what is not stored yet, all of it; it is kept aside."
            }
            (_, Fate::Replayed { .. }) => {
                "The journal goes back to that version: going on from it loses nothing that this machine has done."
            }
            _ => {
                "Going on from the store's version gives up what only this machine's version has. If the store can be \
                 brought back (from a backup, or from whoever restored it), do that instead."
            }
        }
        .to_owned(),
    ]
}
