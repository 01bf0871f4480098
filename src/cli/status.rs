//! `nacrefs status`: how drives are. A drive that cannot tell is shown all the same, and never waited for.

use super::App;
use super::args;
use super::commands::closed;
use super::control::{LogEntry, Progress, Reply, Request, Status};
use super::keys::WEAK;
use super::mounts::{self, Mount, shown};
use super::output::{self, Screen};
use super::probe::PATIENCE;
use super::values::{Moment, escape_message, human_size, human_span};
use crate::error::{Error, Result};
use crate::types::Version;

/// What a drive is whose supervisor has ended.
pub const UNGUARDED: &str =
    "restart=on, but the supervisor is gone: if the daemon is killed, nobody mounts again";

pub fn run(app: &App, args: &args::Status, verbose: bool) -> Result<()> {
    let mut screen = Screen::new(args.json);
    if let Some(store) = &args.closed.store {
        let drive = closed(app, Some(store), &args.closed.secrets, &args.closed.state)?;
        let mut told = Told::default();
        app.backend.answer(&drive, Request::Status {}, &mut told)?;
        show(&mut screen, told.status(&drive.store)?, args.json, verbose)?;
        return screen.finish();
    }
    let mounted = match &args.dir {
        Some(dir) => vec![mounts::locate(dir)?.0],
        None => mounts::ours()?.into_iter().filter(may_see).collect(),
    };
    if mounted.is_empty() && !args.json {
        screen.line("no nacrefs drive is mounted")?;
    }
    // One drive in trouble does not hide the others; the last trouble is what the command ends with.
    let mut trouble = None;
    for mount in mounted {
        let e = match of_mount(&mount) {
            Ok(status) => {
                show(&mut screen, status, args.json, verbose)?;
                continue;
            }
            Err(e) => e,
        };
        unanswered(&mut screen, &mount, &e, args.json)?;
        if let Some(earlier) = trouble.replace(e) {
            eprintln!("{}", output::error_line(&earlier, verbose));
        }
    }
    screen.finish()?;
    trouble.map_or(Ok(()), Err)
}

/// Whether a mount is the caller's, who sees all as root.
pub fn may_see(mount: &Mount) -> bool {
    let me = rustix::process::geteuid();
    me.is_root() || mount.owner().is_none_or(|(user, _)| user == me.as_raw())
}

/// Asks the daemon of a mount, for no more than a few seconds.
pub fn of_mount(mount: &Mount) -> Result<Status> {
    let mut told = Told::default();
    mounts::daemon(mount)?.at_once(PATIENCE)?.ask(&Request::Status {}, &mut told)?;
    let mut status = told.status(&shown(&mount.point))?;
    // What mount(8) has changed since, the daemon need not know.
    let told = mounts::list()?.into_iter().filter(|m| m.device == mount.device);
    if !told.into_iter().any(|m| Some(shown(&m.point)) == status.mount) {
        status.mount = Some(shown(&mount.point));
    }
    if mount.read_only && status.read_only.is_none() {
        status.read_only = Some("mounted again with -o remount,ro".into());
    }
    Ok(status)
}

/// Takes the one status that a drive tells.
#[derive(Default)]
pub struct Told(Option<Status>);

impl Told {
    pub fn status(self, of: &str) -> Result<Status> {
        self.0.ok_or_else(|| Error::failed(format!("{of} does not tell its status")))
    }
}

impl Reply for Told {
    fn progress(&mut self, _: &Progress) -> Result<()> {
        Ok(())
    }
    fn status(&mut self, status: &Status) -> Result<()> {
        self.0 = Some(status.clone());
        Ok(())
    }
    fn entry(&mut self, _: &LogEntry) -> Result<()> {
        Ok(())
    }
    fn version(&mut self, _: Version) -> Result<()> {
        Ok(())
    }
    fn data(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
    fn log_level(&mut self, _: &str) -> Result<()> {
        Ok(())
    }
}

fn show(screen: &mut Screen, status: Status, json: bool, verbose: bool) -> Result<()> {
    match json {
        true => screen.object(&status),
        false => screen.write(human(&status, Moment::now(), verbose).as_bytes()),
    }
}

/// A mount that does not tell how it is: in JSON with the fields that are known, and `version` null.
fn unanswered(screen: &mut Screen, mount: &Mount, e: &Error, json: bool) -> Result<()> {
    let point = shown(&mount.point);
    if json {
        return screen.object(&serde_json::json!({
            "drive": null, "store": mount.store(), "mount": point, "version": null, "last_commit": null,
            "dirty_bytes": null, "journal_bytes": null, "cache_bytes": null, "online": false,
            "last_error": e.to_string(),
        }));
    }
    screen.line(&format!("{point}\n  {:<12} {}", "store", escape_message(&mount.store())))?;
    screen.line(&format!("  {:<12} none", "answer"))
}

/// A status for people.
pub fn human(s: &Status, now: Moment, verbose: bool) -> String {
    let mut text = escape_message(s.mount.as_deref().unwrap_or("(not mounted)"));
    let mut field = |name: &str, value: String| {
        text.push_str(&format!("\n  {name:<12} {value}"));
    };
    let ago = |at: Moment| human_span(now.0.sec.saturating_sub(at.0.sec));
    field("drive", escape_message(&s.drive));
    let reach = match (s.online, s.online_since) {
        (true, _) => String::new(),
        (false, Some(at)) => format!(" (out of reach since {}, for {})", at.human(), ago(at)),
        (false, None) => " (out of reach)".into(),
    };
    field("store", format!("{}{reach}", escape_message(&s.store)));
    if let Some(why) = &s.read_only {
        field("read only", escape_message(why));
    }
    field("version", s.version.to_string());
    let commit = |at: Moment| format!("{} ({} ago)", at.human(), ago(at));
    field("last commit", s.last_commit.map_or("never".into(), commit));
    let left = match s.store_speed {
        // While nothing can be stored, nothing tells how long it takes.
        Some(speed) if s.dirty_bytes > 0 && s.online && speed > 0 && s.last_error_time <= s.last_commit => {
            format!(", about {}", human_span((s.dirty_bytes / speed).max(1).try_into().unwrap_or(i64::MAX)))
        }
        _ => String::new(),
    };
    field("not stored", format!("{}{left}", human_size(s.dirty_bytes)));
    let of = |bytes: u64, limit: u64| match limit {
        0 => human_size(bytes),
        limit => {
            let percent = bytes.saturating_mul(100) / limit;
            format!("{} of {} ({percent} %)", human_size(bytes), human_size(limit))
        }
    };
    field("journal", of(s.journal_bytes, s.journal_limit));
    if s.waiting > 0 {
        field("held back", format!("{} operations wait for room", s.waiting));
    }
    field("cache", of(s.cache_bytes, s.cache_limit));
    match s.guarded {
        Some(true) => field("restart", "on".into()),
        Some(false) => field("warning", format!("{UNGUARDED}: unmount and mount again")),
        None => {}
    }
    if let Some(why) = &s.unprotected {
        field("warning", escape_message(why));
    }
    if let Some(slot) = &s.weak_slot {
        field("warning", format!("key slot {} was {WEAK}", escape_message(slot)));
    }
    if let Some(e) = &s.last_error {
        let at = s.last_error_time.map_or(String::new(), |at| format!(" ({} ago)", ago(at)));
        field("last error", format!("{}{at}", escape_message(e)));
    }
    if verbose {
        if let Some(at) = s.mounted_since {
            field("mounted", commit(at));
        }
        if let Some(speed) = s.store_speed {
            field("store speed", format!("{} a second", human_size(speed)));
        }
        if s.memory_bytes > 0 {
            field("memory", human_size(s.memory_bytes));
        }
        if let Some(dir) = &s.state_dir {
            field("state", escape_message(dir));
        }
        if let (Some(pid), Some(build)) = (s.pid, &s.build) {
            field("daemon", format!("process {pid}, nacrefs {}", escape_message(build)));
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::control::tests::status;
    use crate::types::Time;

    fn at(sec: i64) -> Moment {
        Moment(Time { sec, nsec: 0 })
    }

    #[test]
    fn what_a_drive_says_is_harmless_on_the_screen() {
        let mut s = status();
        s.last_error = Some("bad\nworse\x1b".into());
        let text = human(&s, at(1_700_000_090), false);
        assert!(text.contains("1 min 30 s ago") && text.contains("bad\\nworse\\u{1b}"), "{text}");
        assert_eq!(text.lines().count(), 9);
    }

    #[test]
    fn trouble_is_told_with_its_time() {
        let mut s = status();
        (s.online, s.online_since) = (false, Some(at(1_700_000_000)));
        (s.journal_bytes, s.journal_limit, s.waiting) = (3 << 20, 4 << 20, 2);
        s.read_only = Some("mounted so".into());
        s.weak_slot = Some("3f2a".into());
        s.build = Some("1.0".into());
        s.guarded = Some(false);
        s.pid = Some(7);
        let text = human(&s, at(1_700_000_300), true);
        for part in [
            "for 5 min 0 s",
            "3.0 MiB of 4.0 MiB (75 %)",
            "2 operations wait",
            "mounted so",
            "process 7",
            "slot 3f2a was made with less",
            "the supervisor is gone",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        s.online = true;
        (s.dirty_bytes, s.store_speed) = (10 << 20, Some(1 << 20));
        (s.last_commit, s.last_error_time) = (Some(at(1_700_000_000)), Some(at(1_700_000_299)));
        assert!(!human(&s, at(1_700_000_300), false).contains(", about"), "commits fail");
        s.last_error_time = None;
        assert!(human(&s, at(1_700_000_300), false).contains("10.0 MiB, about 10 s"));
    }
}
