//! `nacrefs key`: what opens a drive. Only key slots are written; the drive's own keys, and so its data, stay.

use super::App;
use super::args::{KeyAdd, KeyChange, KeyList, KeyRemove, NewSecretArgs};
use super::commands::target;
use super::drives::secret_of;
use super::mounts::shown;
use super::output::Spinner;
use super::output::{Screen, warn};
use super::paths::resolve;
use super::secrets::{self, Another, Given};
use super::values::{Moment, escape_message};
use crate::crypt::{KdfParams, Slot, SlotKind};
use crate::error::{Context, Error, Kind, Result};
use crate::session::{Site, slots};
use crate::store::layout;
use crate::sys::{Clock, SystemClock, SystemRandom};
use crate::types::hex;
use serde::Serialize;
use std::fs;

/// What removing a slot does not do.
const STILL_KNOWN: &str = "Whoever opened the drive with the old one, or has a copy of its key slot and knows it, has \
                           the drive's keys all the same. New keys ('nacrefs key rotate') are not in this version.";

/// What is said of a weak key slot.
pub const WEAK: &str = "made with less than today's argon2id: 'nacrefs key change' strengthens it";

/// The id of the key slot that a drive was opened with, where it is a weak one.
pub fn weak_slot(site: &Site) -> Option<String> {
    site.slot.as_ref().filter(|slot| slot.is_weak()).map(|slot| slot.id().to_string())
}

/// A key slot, for people and as JSON. The JSON fields are a contract.
#[derive(Debug, Serialize)]
struct Listed {
    slot: String,
    /// `passphrase`, `key-file` or `recovery-code`.
    kind: &'static str,
    label: String,
    made: Moment,
    /// What stretches a passphrase.
    kdf: Option<Kdf>,
    /// Made with less than what slots are made with today.
    weak: bool,
    /// What the drive was opened with now.
    opened: bool,
}

/// Parameters of Argon2id.
#[derive(Debug, Serialize)]
struct Kdf {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Listed {
    fn of(slot: &Slot, opened: Option<&Slot>) -> Listed {
        let kdf = |KdfParams { memory_kib, passes, lanes }| Kdf { memory_kib, passes, lanes };
        Listed {
            slot: hex(&slot.id().0),
            kind: match slot.kind() {
                SlotKind::Passphrase => "passphrase",
                SlotKind::KeyFile => "key-file",
                SlotKind::Recovery => "recovery-code",
            },
            label: slot.label().to_owned(),
            made: Moment(slot.created()),
            kdf: slot.kdf().map(kdf),
            weak: slot.is_weak(),
            opened: opened.is_some_and(|o| o.id() == slot.id()),
        }
    }
}

/// Lists the key slots, oldest first.
pub fn list(app: &App, args: &KeyList) -> Result<()> {
    let site = app.backend.unlock(&target(app, &args.target)?)?;
    let all = slots::list(&*site.objects)?;
    let mut screen = Screen::new(args.json);
    for slot in &all.slots {
        let listed = Listed::of(slot, site.slot.as_ref());
        if args.json {
            screen.object(&listed)?;
            continue;
        }
        screen.line(&line(slot, &listed))?;
        if listed.weak {
            screen.line(&format!("    {WEAK}"))?;
        }
    }
    for (name, e) in &all.bent {
        warn(&format!("{name} is not a key slot: {}", e.chain()));
    }
    screen.finish()
}

fn line(slot: &Slot, listed: &Listed) -> String {
    let mark = if listed.opened { '*' } else { ' ' };
    let kdf = slot.kdf().map_or(String::new(), |kdf| format!("  ({kdf})"));
    let label = match listed.label.as_str() {
        "" => String::new(),
        label => format!("  {}", escape_message(label)),
    };
    format!("{mark} {} {:<14} {}{label}{kdf}", listed.slot, listed.kind, listed.made.human())
}

/// Adds a key slot.
pub fn add(app: &App, args: &KeyAdd) -> Result<()> {
    Slot::check_label(&args.label)?;
    let site = app.backend.unlock(&target(app, &args.target)?)?;
    let another = another(app, &args.new)?;
    for slot in opened_by(&site, &another.given, None)? {
        warn(&format!("this {} opens the drive already (key slot {})", slot.kind(), slot.id()));
    }
    let slot = put(&site, &another, &args.label)?;
    let mut screen = Screen::new(false);
    tell_added(&mut screen, &slot, &another)?;
    screen.finish()
}

/// Puts another key slot in the place of the one that was opened.
pub fn change(app: &App, args: &KeyChange) -> Result<()> {
    let target = target(app, &args.target)?;
    let site = app.backend.unlock(&target)?;
    let old = site.slot.as_ref().ok_or_else(|| Error::failed("the drive was not opened with a key slot"))?;
    let label = args.label.as_deref().unwrap_or(old.label());
    Slot::check_label(label)?;
    let another = another(app, &args.new)?;
    let slot = put(&site, &another, label)?;
    let mut screen = Screen::new(false);
    tell_added(&mut screen, &slot, &another)?;
    let name = layout::slot(&old.id().0);
    slots::remove(&*site.objects, &name, Some(&slot), &SystemRandom).context(|| {
        format!("the new {} opens the drive, but so does the old {} still", slot.kind(), old.kind())
    })?;
    tell_removed(&mut screen, &old.id().to_string(), Some(old))?;
    for other in opened_by(&site, &target.secret, Some(&slot))? {
        warn(&format!(
            "the old {} opens another key slot: 'nacrefs key remove {}' removes it",
            old.kind(),
            other.id()
        ));
    }
    screen.finish()
}

/// The key slots, but for one, that a secret opens: it may have been added twice.
fn opened_by(site: &Site, given: &Given, but: Option<&Slot>) -> Result<Vec<Slot>> {
    let secret = secret_of(given)?;
    let _spinner = Spinner::start("looking at the other key slots");
    let mut slots = slots::list(&*site.objects)?.slots;
    slots.retain(|s| but.is_none_or(|but| but.id() != s.id()) && s.kind() == secret.kind());
    slots.retain(|s| s.open(&secret).is_ok());
    Ok(slots)
}

/// Removes a key slot.
pub fn remove(app: &App, args: &KeyRemove) -> Result<()> {
    let site = app.backend.unlock(&target(app, &args.target)?)?;
    let all = slots::list(&*site.objects)?;
    let name = all.find(&args.id)?;
    let slot = all.slots.iter().find(|s| layout::slot(&s.id().0) == name);
    // That another slot lies in the store proves nothing: only one that was opened is known to open the drive.
    let is_opened = slot.is_some_and(|s| site.slot.as_ref().is_some_and(|o| o.id() == s.id()));
    if is_opened && !args.force {
        let why = match all.slots.len() {
            1 => "is the only one of the drive: without it nobody can open the drive again; add another first, or say \
                  --force"
                .to_owned(),
            _ => "is the one that the drive was opened with: open it with another one, to show that there is one, or \
                  say --force"
                .to_owned(),
        };
        return Err(Error::new(Kind::Conflict, format!("key slot {} {why}", &args.id)));
    }
    // What was opened may have been removed since.
    let relying = site.slot.as_ref().filter(|_| !args.force);
    slots::remove(&*site.objects, &name, relying, &SystemRandom)?;
    let mut screen = Screen::new(false);
    tell_removed(&mut screen, name.rsplit('/').next().unwrap_or(&name), slot)?;
    if slot.is_some() && all.slots.len() == 1 {
        screen.line("It was the last one: nothing opens the drive any more.")?;
    }
    screen.finish()
}

/// The secret that is to open the drive.
fn another(app: &App, flags: &NewSecretArgs) -> Result<Another> {
    super::daemon::keep_files_private();
    secrets::find_another(flags, &app.env.new, &mut secrets::ask_terminal, &SystemRandom)
}

/// The drive's secrets under another secret.
fn wrap(site: &Site, given: &Given, label: &str) -> Result<Slot> {
    let _spinner = Spinner::start("making the key slot");
    let (now, params) = (SystemClock.now(), KdfParams::default());
    Slot::create(&site.secrets, &secret_of(given)?, params, label, now, &SystemRandom)
}

/// Adds a slot. Where that fails, a key file that was made for it goes again, unless it may open the drive.
fn put(site: &Site, another: &Another, label: &str) -> Result<Slot> {
    let mut name = None;
    let added = wrap(site, &another.given, label).and_then(|slot| {
        name = Some(layout::slot(&slot.id().0));
        slots::add(&*site.objects, &slot).map(|()| slot)
    });
    let (Err(e), Some(file)) = (&added, &another.made) else { return added };
    let absent = |name: &String| site.objects.size(name).is_err_and(|e| e.kind() == Kind::NotFound);
    // A store that was out of reach may have it yet.
    match name.as_ref().is_none_or(|name| e.kind() != Kind::Away && absent(name)) {
        true => {
            fs::remove_file(file)
                .context(|| format!("cannot remove {}, which opens nothing", shown(file)))?;
            added
        }
        false => added.context(|| {
            format!(
                "{} was made, and may open the drive: 'nacrefs key list' tells whether it does",
                shown(file)
            )
        }),
    }
}

fn tell_added(screen: &mut Screen, slot: &Slot, another: &Another) -> Result<()> {
    screen.line(&format!("added key slot {} ({})", slot.id(), slot.kind()))?;
    if let Some(file) = &another.made {
        let file = shown(&resolve(file)?);
        screen.line(&format!("made the key file {file}: back it up, away from this machine"))?;
    }
    if let Given::Recovery(code) = &another.given {
        screen.recovery_code(code)?;
    }
    Ok(())
}

fn tell_removed(screen: &mut Screen, id: &str, slot: Option<&Slot>) -> Result<()> {
    let kind = slot.map_or("damaged".to_owned(), |s| s.kind().to_string());
    screen.line(&format!("removed key slot {} ({kind})", escape_message(id)))?;
    if slot.is_some() {
        screen.line(STILL_KNOWN)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypt::{DriveSecrets, Secret};
    use crate::types::{Key, Time};
    use zeroize::Zeroizing;

    #[test]
    fn json_has_exactly_the_fields_of_the_contract_and_lines_are_harmless() {
        let secrets = DriveSecrets::generate(&SystemRandom).unwrap();
        let now = Time { sec: 1_700_000_000, nsec: 0 };
        let cheap = KdfParams { memory_kib: 64, passes: 1, lanes: 1 };
        let make = |secret: &Secret, label: &str| {
            Slot::create(&secrets, secret, cheap, label, now, &SystemRandom).unwrap()
        };
        let weak = make(&Secret::Passphrase(Zeroizing::new("p".into())), "Anna\n\x1b[2J");
        let file = make(&Secret::KeyFile(Key([7; 32])), "");
        let json = |slot: &Slot| serde_json::to_string(&Listed::of(slot, Some(&weak))).unwrap();
        assert_eq!(
            json(&weak),
            format!(
                r#"{{"slot":"{}","kind":"passphrase","label":"Anna\n\u001b[2J","made":"2023-11-14T22:13:20Z","kdf":{{"memory_kib":64,"passes":1,"lanes":1}},"weak":true,"opened":true}}"#,
                weak.id()
            )
        );
        assert_eq!(
            json(&file),
            format!(
                r#"{{"slot":"{}","kind":"key-file","label":"","made":"2023-11-14T22:13:20Z","kdf":null,"weak":false,"opened":false}}"#,
                file.id()
            )
        );
        let shown = line(&weak, &Listed::of(&weak, Some(&weak)));
        assert!(shown.starts_with("* ") && shown.contains("(argon2id 64 KiB, passes 1, lanes 1)"), "{shown}");
        assert!(!shown.contains(char::is_control), "{shown}");
        assert!(line(&file, &Listed::of(&file, None)).starts_with("  "));
    }
}
