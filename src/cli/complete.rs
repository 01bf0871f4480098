//! What a shell's completion asks: `nacrefs complete SHELL …`, which the scripts beside this file run at each Tab.
//!
//! The answer is a line with hints, then a candidate a line, for zsh and fish with a tab and a description. Hints:
//! `files` and `dirs`, which the shell completes itself, since it knows best about `~` and quotes; `paths`, where the
//! candidates are such; `nospace`, where the word goes on after the candidate. Nothing here waits for a daemon for
//! longer than [`PATIENCE`].

mod line;
mod walk;

use super::options;
use super::{mounts, output};
use crate::error::{Error, Kind, Result};
use clap::{Arg, Command};
use clap_complete::Shell;
use line::{Typed, home};
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use walk::{Place, walk};

/// How long a drive may take to list versions.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many versions are offered, the newest first.
const VERSIONS: usize = 50;

/// The script for a shell.
pub fn script(shell: Shell, definition: &mut Command) -> Vec<u8> {
    match shell {
        Shell::Bash => include_bytes!("complete/nacrefs.bash").to_vec(),
        Shell::Zsh => include_bytes!("complete/nacrefs.zsh").to_vec(),
        Shell::Fish => include_bytes!("complete/nacrefs.fish").to_vec(),
        other => {
            let mut text = Vec::new();
            clap_complete::generate(other, definition, "nacrefs", &mut text);
            text
        }
    }
}

/// Answers a script: `bash WORD LINE`, or `zsh WORD…` and `fish WORD…`, the last word being completed.
pub fn run(definition: &Command, asked: &[OsString]) -> Result<()> {
    let words: Vec<String> = asked.iter().map(|w| w.to_string_lossy().into_owned()).collect();
    let (typed, cut, describe) = match words.as_slice() {
        [shell, word, line] if shell == "bash" => {
            let typed = Typed::in_line(line);
            let cut = typed.last.strip_suffix(&line::unquoted(word)).map_or(0, str::len);
            (typed, cut, false)
        }
        [shell, words @ ..] if shell == "zsh" || shell == "fish" => (Typed::of(words), 0, true),
        _ => {
            return Err(Error::new(Kind::Usage, "this is for the scripts that `nacrefs completions` prints"));
        }
    };
    let mut answer = answer(definition, &typed);
    answer.candidates.retain(|c| c.value.starts_with(&typed.last));
    output::print(&answer.print(cut, describe))
}

#[derive(Default)]
struct Answer {
    hints: Vec<&'static str>,
    candidates: Vec<Candidate>,
}

/// A whole word, and what it is.
struct Candidate {
    value: String,
    what: String,
}

impl Answer {
    fn add(&mut self, value: impl Into<String>, what: impl Into<String>) {
        self.candidates.push(Candidate { value: value.into(), what: what.into() });
    }

    /// `cut`: how many bytes of each word the shell takes for an earlier word.
    fn print(&self, cut: usize, describe: bool) -> String {
        let mut hints = self.hints.clone();
        if !self.candidates.is_empty() && self.candidates.iter().all(|c| c.value.ends_with(['=', ':'])) {
            hints.push("nospace");
        }
        let mut out = format!(":{}\n", hints.join(","));
        for c in &self.candidates {
            let value = c.value.get(cut..).unwrap_or_default();
            // A line end would make two of one.
            if !value.is_empty() && !value.contains(char::is_control) {
                out.push_str(value);
                if describe && !c.what.is_empty() {
                    out.push_str(&format!("\t{}", c.what.replace(char::is_control, " ")));
                }
                out.push('\n');
            }
        }
        out
    }
}

fn answer(definition: &Command, typed: &Typed) -> Answer {
    let mut answer = Answer::default();
    let Some(found) = walk(definition, typed) else { return answer };
    match found.place {
        Place::Command => {
            for c in found.command.get_subcommands().filter(|c| !c.is_hide_set()) {
                answer.add(c.get_name(), c.get_about().map(ToString::to_string).unwrap_or_default());
            }
        }
        Place::Option => {
            for arg in found.command.get_arguments().filter(|a| !a.is_hide_set()) {
                let what = arg.get_help().map(ToString::to_string).unwrap_or_default();
                match (arg.get_long(), arg.get_short()) {
                    (Some(long), _) => answer.add(format!("--{long}"), what),
                    (None, Some(short)) => answer.add(format!("-{short}"), what),
                    (None, None) => {}
                }
            }
        }
        Place::Value { arg, prefix } => {
            let possible = arg.get_possible_values();
            if possible.is_empty() {
                value(&mut answer, found.command.get_name(), arg, prefix, typed);
            }
            possible.iter().for_each(|v| answer.add(v.get_name(), ""));
            answer.candidates.iter_mut().for_each(|c| c.value.insert_str(0, prefix));
        }
        Place::Nothing => {}
    }
    answer
}

/// What an argument's value can be, by the name that the value has in help.
fn value(answer: &mut Answer, command: &str, arg: &Arg, prefix: &str, typed: &Typed) {
    match kind(command, arg) {
        Values::Files => answer.hints.push("files"),
        Values::Dirs => answer.hints.push("dirs"),
        Values::Mounts => {
            answer.hints.push("paths");
            mount_points(answer, typed);
        }
        Values::MountsAndDirs => {
            answer.hints.push("dirs");
            mount_points(answer, typed);
        }
        Values::Versions => versions(answer, command, typed),
        Values::MountOptions => mount_options(answer, typed.last.get(prefix.len()..).unwrap_or_default()),
        Values::Pages => {
            for (file, _) in super::man::pages() {
                let name = file.rsplit_once('.').map_or(file.as_str(), |(name, _)| name);
                answer.add(name.strip_prefix("nacrefs-").unwrap_or(name), "");
            }
        }
        Values::Free => {}
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Values {
    Files,
    Dirs,
    Mounts,
    MountsAndDirs,
    Versions,
    MountOptions,
    Pages,
    /// Nobody can guess.
    Free,
}

/// `None` for a name of which nothing is known: then nothing is offered, and a test fails.
fn known(command: &str, value: &str) -> Option<Values> {
    Some(match (command, value) {
        ("umount", "DIR") => Values::Mounts,
        ("mount", "DIR") => Values::Dirs,
        (_, "DIR" | "STORE|DIR" | "DIR|STORE") => Values::MountsAndDirs,
        (_, "STORE" | "D") => Values::Dirs,
        (_, "PATH" | "F") => Values::Files,
        (_, "WHEN") => Values::Versions,
        (_, "OPT,…") => Values::MountOptions,
        ("man", "COMMAND") => Values::Pages,
        (_, "N/T" | "TEXT" | "ID" | "LEVEL" | "WORDS") => Values::Free,
        _ => return None,
    })
}

fn kind(command: &str, arg: &Arg) -> Values {
    known(command, &value_name(arg)).unwrap_or(Values::Free)
}

fn value_name(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    names.first().map_or_else(|| arg.get_id().as_str().to_uppercase(), ToString::to_string)
}

/// Where drives are mounted, as far as the kernel knows: no daemon is asked.
fn mount_points(answer: &mut Answer, typed: &Typed) {
    for mount in mounts::ours().unwrap_or_default() {
        let Some(point) = mount.point.to_str() else { continue };
        // As it was begun: from the home directory, or from the root.
        let short = home()
            .and_then(|home| point.strip_prefix(&home)?.strip_prefix('/').map(|rest| format!("~/{rest}")));
        match short.filter(|_| typed.last.starts_with('~')) {
            Some(short) => answer.add(short, ""),
            None => answer.add(point, ""),
        }
    }
}

/// The newest versions, of a mounted drive or of the file that stands on the line before. A drive that would have to
/// be opened is not: that takes its key.
fn versions(answer: &mut Answer, command: &str, typed: &Typed) {
    answer.add("yesterday", "");
    if typed.before.iter().any(|w| w == "--store" || w.starts_with("--store=")) {
        return;
    }
    let path = walk::first_positional(command, typed);
    for (version, what) in ask_versions(path.as_deref()).unwrap_or_default() {
        answer.add(version, what);
    }
}

/// Asks by a child process, which is left behind where it hangs: whoever asks a mount whose daemon is stuck may not
/// come back, and cannot be killed.
fn ask_versions(path: Option<&str>) -> Option<Vec<(String, String)>> {
    let until = Instant::now() + PATIENCE;
    let mut ask = std::process::Command::new(std::env::current_exe().ok()?);
    ask.args(["log", "--json"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    if let Some(path) = path {
        ask.arg("--").arg(line::expanded(path));
    }
    let mut child = ask.spawn().ok()?;
    let out = child.stdout.take()?;
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(|l| l.ok()).take(VERSIONS) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    let mut versions = Vec::new();
    while let Ok(line) = receive.recv_timeout(until.saturating_duration_since(Instant::now())) {
        let entry: serde_json::Value = serde_json::from_str(&line).ok()?;
        let text = |name: &str| entry.get(name).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
        let what = format!("{} {}", text("time"), text("change"));
        versions.push((entry.get("version")?.to_string(), what.trim().to_owned()));
    }
    // It may have ended already.
    child.kill().ok();
    Some(versions)
}

/// The options of a list that is being typed: `a,b,c` is completed at `c`.
fn mount_options(answer: &mut Answer, list: &str) {
    let begun = list.rfind(',').map_or("", |comma| list.get(..=comma).unwrap_or_default());
    for line in options::HELP.lines().filter_map(|l| l.strip_prefix("  ")) {
        let Some((names, what)) = line.split_once("  ").filter(|(names, _)| !names.is_empty()) else {
            continue;
        };
        for name in names.split(", ") {
            let Some((name, value)) = name.split_once('=') else {
                answer.add(format!("{begun}{name}"), what.trim());
                continue;
            };
            for value in value.split('|') {
                // A word in capitals stands for something else.
                let value = value.trim_end_matches(|c: char| c.is_ascii_uppercase());
                answer.add(format!("{begun}{name}={value}"), what.trim());
            }
        }
    }
}

#[cfg(test)]
mod tests;
