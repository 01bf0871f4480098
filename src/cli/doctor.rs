//! `nacrefs doctor`: the likeliest troubles, each looked for by a small function that says what it found and what to do.
//!
//! ```text
//! machine    FUSE, the kernel, swap, limits, the clock
//! local      the state directory, its lock, its disk; the key file
//! mounted    what the daemon says, or that it says nothing
//! standing   the line of fstab or the unit that mounts it
//! stored     whether the store can be reached, written to and opened
//! ```
//!
//! It changes nothing and waits for nobody: no prompt, and no store or mount that does not answer.

mod local;
mod machine;
mod mounted;
mod patient;
mod standing;
mod stored;

use super::App;
use super::args::{self, SecretArgs};
use super::fstab::Line;
use super::mounts::{self, shown};
use super::output::Screen;
use super::paths::{file_url, resolve};
use super::probe;
use super::runtime;
use super::utab;
use super::values::escape_message;
use crate::error::{Error, Result};
use crate::session::StateDir;
use patient::{Patient, patients};
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Ok,
    /// Works, but not as it should, or not for long.
    Warn,
    /// Does not work, or loses something.
    Fail,
    /// Was not looked at.
    Skip,
}

/// What one check found. The JSON fields are a contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub check: Cow<'static, str>,
    #[serde(rename = "state")]
    pub verdict: Verdict,
    pub what: String,
    /// What to do about it.
    #[serde(rename = "do")]
    pub todo: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, what: impl Into<String>) -> Finding {
        Finding { check: check.into(), verdict: Verdict::Ok, what: what.into(), todo: None }
    }

    fn skip(check: &'static str, why: impl Into<String>) -> Finding {
        Finding { check: check.into(), verdict: Verdict::Skip, what: why.into(), todo: None }
    }

    fn warn(check: &'static str, what: impl Into<String>, todo: impl Into<String>) -> Finding {
        Finding { check: check.into(), verdict: Verdict::Warn, what: what.into(), todo: Some(todo.into()) }
    }

    fn fail(check: &'static str, what: impl Into<String>, todo: impl Into<String>) -> Finding {
        Finding { check: check.into(), verdict: Verdict::Fail, what: what.into(), todo: Some(todo.into()) }
    }

    fn line(&self) -> String {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
            Verdict::Skip => "-",
        };
        let todo = self.todo.as_deref().map_or(String::new(), |todo| format!(": {todo}"));
        format!("{verdict:<5} {:<12} {}", self.check, escape_message(&format!("{}{todo}", self.what)))
    }
}

/// What was found about one drive, or about the machine.
#[derive(Serialize)]
struct Part {
    /// The mount or the store; null for the machine.
    #[serde(serialize_with = "null_if_empty")]
    drive: String,
    findings: Vec<Finding>,
}

fn null_if_empty<S: Serializer>(text: &str, s: S) -> Result<S::Ok, S::Error> {
    if text.is_empty() { s.serialize_none() } else { s.serialize_str(text) }
}

pub fn run(app: &App, args: &args::Doctor) -> Result<()> {
    let patients = patients(app, args.target.as_deref())?;
    let mut screen = Screen::new(args.json);
    let mut parts = vec![Part { drive: String::new(), findings: Vec::new() }];
    for finding in machine::checks(&patients) {
        note(&mut screen, args.json, &mut parts, finding)?;
    }
    for patient in &patients {
        parts.push(Part { drive: patient.name(), findings: Vec::new() });
        if !args.json {
            screen.line(&escape_message(&patient.name()))?;
            screen.flush()?;
        }
        examine(app, args, patient, &mut |finding| note(&mut screen, args.json, &mut parts, finding))?;
    }
    let all = || parts.iter().flat_map(|p| &p.findings);
    let wrong = all().filter(|f| f.verdict == Verdict::Fail).count();
    if args.json {
        screen.object(&serde_json::json!({ "ok": wrong == 0, "parts": parts }))?;
    }
    screen.finish()?;
    match wrong {
        0 => Ok(()),
        1 => Err(Error::failed("1 check failed")),
        n => Err(Error::failed(format!("{n} checks failed"))),
    }
}

/// Takes up a finding, and prints it at once: the next one may take its time. JSON is printed at the end.
fn note(screen: &mut Screen, json: bool, parts: &mut [Part], finding: Finding) -> Result<()> {
    if !json {
        screen.line(&finding.line())?;
        screen.flush()?;
    }
    if let Some(part) = parts.last_mut() {
        part.findings.push(finding);
    }
    Ok(())
}

fn another_users(user: u32) -> String {
    format!("the drive is another user's: run this as user {user} to look into it")
}

/// How long a check may take: of a store, of a disk that may be out of reach, of a passphrase.
const PATIENCE: Duration = Duration::from_secs(15);

fn examine(
    app: &App,
    args: &args::Doctor,
    patient: &Patient,
    note: &mut dyn FnMut(Finding) -> Result<()>,
) -> Result<()> {
    if let Some(user) = patient.of_another_user()
        && !rustix::process::geteuid().is_root()
    {
        // What cannot be looked at is not wrong.
        return note(Finding::skip("drive", another_users(user)));
    }
    if let (Some(mount), Some(status)) = (&patient.mount, patient.status()) {
        let holder = || holder(app, args, patient);
        mounted::checks(mount, status, holder).into_iter().try_for_each(&mut *note)?;
    }
    // A network file system that is gone may hold whoever looks for ever.
    if probe::look(PATIENCE, |tell| look(app, args, patient, tell), &mut *note)? {
        return Ok(());
    }
    note(Finding::fail(
        "answers",
        format!(
            "{} does not answer within {} s, or the disk of its state directory: nothing more can be told",
            patient.store,
            PATIENCE.as_secs()
        ),
        "see to the disk or the network that they are on",
    ))
}

/// The process that holds the state directory of a mount that does not answer.
fn holder(app: &App, args: &args::Doctor, patient: &Patient) -> Option<i32> {
    let mut found = None;
    let ask = |tell: &mut dyn FnMut(i32)| {
        let known = state_dir(app, args, patient, None);
        let dir = known.or_else(|| {
            let (drive, _) = stored::drive_id(app, patient).ok()?;
            state_dir(app, args, patient, Some(drive))
        });
        dir.and_then(|dir| StateDir::holder(&dir)).into_iter().for_each(tell);
    };
    // Without it the other findings are told all the same.
    let asked = probe::look(probe::PATIENCE, ask, |pid| {
        found = Some(pid);
        Ok(())
    });
    asked.ok().and(found)
}

/// All that looks at disks.
fn look(app: &App, args: &args::Doctor, patient: &Patient, tell: &mut dyn FnMut(Finding)) {
    let secrets = named(args, patient);
    let key = key_file(app, &secrets, &patient.store);
    if let Some(line) = &patient.line {
        let default_key = key_file(app, &SecretArgs::default(), &patient.store);
        standing::checks(line, default_key.is_some()).into_iter().for_each(&mut *tell);
    }
    let here = |state_dir: Option<&Path>, tell: &mut dyn FnMut(Finding)| {
        local::checks(patient, state_dir).into_iter().for_each(&mut *tell);
        if let Some(key) = &key {
            tell(local::key_file(key, state_dir));
        } else if let Some(open) = patient.told().and_then(|status| status.unprotected.as_deref()) {
            // Which key opened it, only the daemon knows.
            tell(local::unprotected(open));
        }
    };
    // Without the store, if that can be.
    let mut dir = state_dir(app, args, patient, None);
    let known = dir.is_some();
    if known {
        here(dir.as_deref(), tell);
    }
    let reach = stored::reach(patient.store_dir().as_deref());
    let reached = reach.verdict != Verdict::Fail;
    tell(reach);
    let id = reached.then(|| stored::drive_id(app, patient));
    if !known {
        let drive = id.as_ref().and_then(|id| id.as_ref().ok()).map(|(drive, _)| *drive);
        dir = state_dir(app, args, patient, drive);
        here(dir.as_deref(), tell);
    }
    if let Some(user) = patient.of_another_user() {
        return tell(Finding::skip("store", another_users(user)));
    }
    match id {
        None => {}
        Some(Err(finding)) => tell(finding),
        Some(Ok((drive, finding))) => {
            tell(stored::is_mounted(patient.told(), drive).unwrap_or(finding));
            dir.as_deref()
                .and_then(|dir| local::of_another_drive(dir, drive))
                .into_iter()
                .for_each(&mut *tell);
            stored::checks(app, &secrets, patient, key.as_deref(), dir.as_deref(), tell);
        }
    }
}

/// Where the drive's state is on this machine: said, told by the daemon, noted by it before it died, or where it would
/// be. None where that would be a guess: the daemon does not answer, and its socket is not there.
fn state_dir(
    app: &App,
    args: &args::Doctor,
    patient: &Patient,
    drive: Option<crate::types::DriveId>,
) -> Option<PathBuf> {
    // Whoever serves the drive knows better than who asks.
    if let Some(mount) = patient.mount.as_ref().filter(|_| patient.told().is_some())
        && let Ok(socket) = mounts::control_socket(mount)
    {
        return runtime::state_dir(&socket);
    }
    if let Some(dir) = args.state.state_dir.as_ref() {
        return resolve(dir).ok();
    }
    let point = patient.mount.as_ref().map(|mount| mount.point.as_path());
    if let Some(dir) = point.and_then(utab::state_dir) {
        return Some(dir);
    }
    if let Some(dir) = &app.state_dir_env {
        return resolve(dir).ok();
    }
    if let Some(dir) = patient.line.as_ref().and_then(|line| line.value("state_dir")) {
        return Some(dir.into());
    }
    let dir = app.places().ok()?.state_dir(drive?);
    (point.is_none() || runtime::control(&dir).exists()).then_some(dir)
}

/// What opens the drive: as it is said, or else as the machine's own mount of it says, or the daemon.
fn named(args: &args::Doctor, patient: &Patient) -> SecretArgs {
    let said = &args.secrets;
    if said.passphrase_file.is_some() || said.key_file.is_some() || said.recovery {
        return said.clone();
    }
    let line = patient.line.as_ref();
    let (mut key_file, mut passphrase_file) =
        (line.and_then(Line::key_file), line.and_then(Line::passphrase_file));
    if key_file.is_none() && passphrase_file.is_none() {
        // A name that had to be made safe to print leads nowhere.
        let told = |name: &Option<String>| name.clone().filter(|n| !n.contains('\\')).map(PathBuf::from);
        key_file = patient.told().and_then(|status| told(&status.key_file));
        passphrase_file = patient.told().and_then(|status| told(&status.passphrase_file));
    }
    let key_file = key_file.filter(|_| passphrase_file.is_none());
    SecretArgs { passphrase_file, key_file, recovery: false }
}

/// The key file that would open the drive, if one is named or is the default drive's.
fn key_file(app: &App, secrets: &SecretArgs, store: &str) -> Option<PathBuf> {
    if secrets.passphrase_file.is_some() {
        return None;
    }
    if let Some(key) = &secrets.key_file {
        return resolve(key).ok();
    }
    let places = app.places().ok().filter(|p| file_url(&p.store) == store && p.key.exists());
    places.map(|p| p.key)
}

/// Why what is on this machine is open to whoever steals its disk: the key is there as well, or swap in the clear.
pub fn unprotected(key: Option<&Path>, state_dir: &Path) -> Option<String> {
    let key = key.filter(|key| local::is_stolen_with(key, state_dir)).map(|key| local::stolen(&shown(key)));
    key.or_else(|| {
        let swaps = std::fs::read_to_string("/proc/swaps").ok()?;
        let found = machine::swap(&swaps, machine::is_encrypted_file);
        (found.verdict == Verdict::Warn).then(|| format!("{STOLEN}: {}", found.what))
    })
}

/// How every word on that begins.
const STOLEN: &str = "not protected if this disk is stolen";

/// Checks what a finding is and says; what to do is told of what is wrong, and of nothing else.
#[cfg(test)]
#[track_caller]
fn says(finding: Finding, verdict: Verdict, word: &str) {
    assert_eq!(finding.verdict, verdict, "{finding:?}");
    assert!(finding.line().contains(word), "{finding:?}");
    assert_eq!(finding.todo.is_some(), matches!(verdict, Verdict::Warn | Verdict::Fail), "{finding:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_that_is_harmless_on_the_screen() {
        let finding = Finding::fail("store", "gone\n\x1b[2J", "bring it back");
        let line = finding.line();
        assert!(line.starts_with("FAIL  store ") && line.ends_with(": bring it back"), "{line}");
        assert!(!line.chars().any(char::is_control));
        let json = serde_json::to_value(&finding).unwrap();
        assert_eq!((&json["state"], &json["do"]), (&"fail".into(), &"bring it back".into()));
    }
}
