//! What the daemon of a mount says, or that it says nothing.

use super::Finding;
use crate::cli::control::Status;
use crate::cli::holders::{At, held_up_by};
use crate::cli::mounts::{self, Mount, shown};
use crate::cli::status::UNGUARDED;
use crate::cli::values::{Moment, human_size, human_span};
use crate::error::{Kind, Result};
use std::fs;
use std::path::Path;

/// From so many percent on writers are slowed, and from so many on they wait (`drive/pressure.rs`).
const SLOW: u64 = 60;
const FULL: u64 = 92;
/// After so many seconds without a commit, changes should have been stored.
const LATE: i64 = 15 * 60;

/// `holder`: looks for the process that holds the state directory, where the mount does not tell who serves it.
pub fn checks(mount: &Mount, status: &Result<Status>, holder: impl FnOnce() -> Option<i32>) -> Vec<Finding> {
    let status = match status {
        Ok(status) => status,
        Err(e) => {
            let point = shown(&mount.point);
            let todo = match e.kind() {
                // It serves files, and can say who it is.
                Kind::NotFound => match mount.daemon_pid() {
                    Some(pid) => format!("`kill {pid}` stores everything and unmounts; then mount again"),
                    None => format!("`nacrefs umount --force {point}`; then mount again"),
                },
                _ if mount.is_dead() => clear(mount, &mounts::ours().unwrap_or_default()),
                _ => hanging(holder(), &point),
            };
            return vec![Finding::fail("mount", e.to_string(), todo)];
        }
    };
    let exe = status.pid.and_then(|pid| fs::read_link(format!("/proc/{pid}/exe")).ok());
    let replaced = exe.is_some_and(|exe| exe.to_string_lossy().ends_with(" (deleted)"));
    let mut found = vec![Finding::ok("mount", format!("{} answers", shown(&mount.point)))];
    found.extend(guarded(status));
    found.extend([
        online(status, Moment::now()),
        journal(status),
        held_back(status),
        commits(status, Moment::now()),
        errors(status),
        writable(status),
        binary(status, replaced),
    ]);
    found
}

/// What helps against a dead mount: where the drive was mounted again elsewhere, this one was a bind mount of it.
fn clear(dead: &Mount, ours: &[Mount]) -> String {
    let (point, store) = (shown(&dead.point), dead.store());
    let is_live =
        |m: &&Mount| m.device != dead.device && m.root == Path::new("/") && m.is_of(&store) && !m.is_dead();
    match ours.iter().find(is_live) {
        Some(live) => {
            let from = live.point.join(dead.root.strip_prefix("/").unwrap_or(Path::new("")));
            let from = shown(from.components().as_path());
            format!(
                "`nacrefs umount {point}` clears it; then `mount --bind {from} {point}`, for the drive is there"
            )
        }
        None => format!("`nacrefs umount {point}` clears it; then mount again"),
    }
}

/// What helps against a daemon that does not answer, which `nacrefs umount` would ask as well.
fn hanging(pid: Option<i32>, point: &str) -> String {
    let Some(pid) = pid else {
        return format!(
            "see what its process waits for (`ps -C nacrefs,mount.nacrefs`); `nacrefs umount --force {point}` unmounts all \
             the same"
        );
    };
    match held_up_by(pid) {
        Some(At::Stopped) => format!("process {pid} is stopped: `kill -CONT {pid}` lets it go on"),
        Some(At::Disk) => format!(
            "process {pid} waits for a disk or a network that does not answer: see to that; `nacrefs umount --force \
             {point}` unmounts, but the process ends, and a new mount can be made, only after that"
        ),
        _ => format!(
            "if it stays so, `kill -9 {pid}`, `nacrefs umount {point}`, and mount again: what was synced is in the \
             journal"
        ),
    }
}

fn guarded(s: &Status) -> Option<Finding> {
    Some(match s.guarded? {
        true => Finding::ok("restart", "a supervisor mounts again if the daemon is killed"),
        false => Finding::warn("restart", UNGUARDED, "unmount and mount again"),
    })
}

fn online(s: &Status, now: Moment) -> Finding {
    match (s.online, s.online_since) {
        (true, _) => Finding::ok("online", "the store could be reached when it was last needed"),
        (false, since) => {
            let since = since.map_or(String::new(), |at| {
                format!(" since {}, for {}", at.human(), human_span(now.0.sec.saturating_sub(at.0.sec)))
            });
            let what = format!(
                "the store is out of reach{since}; {} wait in the journal",
                human_size(s.dirty_bytes)
            );
            Finding::fail("online", what, "bring the store back; the drive goes on by itself")
        }
    }
}

fn journal(s: &Status) -> Finding {
    let percent = s.journal_bytes.saturating_mul(100) / s.journal_limit.max(1);
    let what = format!("{} of {} ({percent} %)", human_size(s.journal_bytes), human_size(s.journal_limit));
    let todo = "see to it that commits succeed, or mount with a larger journal=";
    match percent {
        _ if s.journal_limit == 0 => Finding::skip("journal", "the daemon does not tell its limit"),
        FULL.. => Finding::fail("journal", format!("full: {what}; writers wait"), todo),
        SLOW.. => Finding::warn("journal", format!("nearly full: {what}; writers are slowed"), todo),
        _ => Finding::ok("journal", what),
    }
}

fn held_back(s: &Status) -> Finding {
    match s.waiting {
        0 => Finding::ok("writers", "nobody is held back"),
        n => Finding::warn(
            "writers",
            format!("{n} operations wait for room"),
            "see what keeps commits from succeeding",
        ),
    }
}

fn commits(s: &Status, now: Moment) -> Finding {
    let age = s.last_commit.map(|at| now.0.sec.saturating_sub(at.0.sec));
    match age {
        _ if s.dirty_bytes == 0 => Finding::ok("commits", "everything is in the store"),
        // A drive that was quiet for long has an old version, and new changes.
        Some(age) if age > LATE && s.last_error.is_some() => Finding::fail(
            "commits",
            format!("the last was {} ago, and {} are not stored", human_span(age), human_size(s.dirty_bytes)),
            "see the last error",
        ),
        _ if s.last_error.is_some() => Finding::warn(
            "commits",
            format!("{} are not stored, and something has failed since", human_size(s.dirty_bytes)),
            "see the last error",
        ),
        _ => Finding::ok("commits", format!("{} will be stored by the next", human_size(s.dirty_bytes))),
    }
}

fn errors(s: &Status) -> Finding {
    match &s.last_error {
        None => Finding::ok("last error", "none"),
        Some(e) => Finding::fail(
            "last error",
            e.clone(),
            "it is over once a commit succeeds (`nacrefs sync` tries one); damage, once the store is mended and mounted anew",
        ),
    }
}

fn writable(s: &Status) -> Finding {
    match &s.read_only {
        None => Finding::ok("writing", "the drive can be changed"),
        Some(why) => Finding::ok("writing", format!("nothing can be changed: {why}")),
    }
}

/// Whether the daemon is of the version that this command is of, and its file still there.
fn binary(s: &Status, replaced: bool) -> Finding {
    let mine = env!("CARGO_PKG_VERSION");
    let todo = "unmount and mount again, to run what is installed";
    match &s.build {
        Some(theirs) if theirs != mine => {
            Finding::warn("version", format!("the daemon is nacrefs {theirs}, this is {mine}"), todo)
        }
        None => Finding::warn("version", "the daemon is of an earlier version", todo),
        Some(_) if replaced => {
            Finding::warn("version", "the daemon's binary was replaced since it was started", todo)
        }
        Some(_) => Finding::ok("version", format!("nacrefs {mine}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Fail, Ok, Skip, Warn};
    use super::super::says;
    use super::*;
    use crate::types::Time;

    fn at(sec: i64) -> Moment {
        Moment(Time { sec, nsec: 0 })
    }

    fn well() -> Status {
        Status { online: true, journal_limit: 100, last_commit: Some(at(1000)), ..Status::default() }
    }

    #[test]
    fn each_trouble_of_a_daemon_is_told_and_health_is_too() {
        let s = well();
        says(online(&s, at(1000)), Ok, "reached");
        let away = Status { online: false, online_since: Some(at(940)), ..well() };
        says(online(&away, at(1000)), Fail, "for 1 min 0 s");
        for (bytes, verdict, word) in [(59, Ok, "59 %"), (60, Warn, "slowed"), (92, Fail, "wait")] {
            says(journal(&Status { journal_bytes: bytes, ..well() }), verdict, word);
        }
        says(journal(&Status { journal_limit: 0, ..well() }), Skip, "limit");
        says(held_back(&s), Ok, "nobody");
        says(held_back(&Status { waiting: 3, ..well() }), Warn, "3 operations");
        says(errors(&s), Ok, "none");
        let failing = Status { last_error: Some("disk full".into()), dirty_bytes: 5, ..well() };
        says(errors(&failing), Fail, "disk full");
        says(commits(&s, at(9000)), Ok, "everything");
        says(commits(&failing, at(1000)), Warn, "5 B");
        says(commits(&failing, at(1000 + LATE + 1)), Fail, "15 min");
        says(commits(&Status { last_error: None, ..failing }, at(9000)), Ok, "next");
        assert_eq!(guarded(&s), None);
        says(guarded(&Status { guarded: Some(true), ..well() }).unwrap(), Ok, "supervisor");
        says(guarded(&Status { guarded: Some(false), ..well() }).unwrap(), Warn, "nobody mounts again");
        says(writable(&s), Ok, "can be changed");
        says(writable(&Status { read_only: Some("mounted so".into()), ..well() }), Ok, "mounted so");
    }

    #[test]
    fn a_daemon_of_another_version_is_told() {
        let of = |build: Option<&str>| Status { build: build.map(str::to_owned), ..well() };
        says(binary(&of(Some(env!("CARGO_PKG_VERSION"))), false), Ok, "nacrefs");
        says(binary(&of(Some(env!("CARGO_PKG_VERSION"))), true), Warn, "replaced");
        says(binary(&of(Some("0.0.1")), false), Warn, "0.0.1");
        says(binary(&of(None), false), Warn, "earlier");
    }
}
