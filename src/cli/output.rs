//! What commands print, for people and as JSON.

use super::backend::CheckReport;
use super::control::{LogEntry, Progress, Reply, Status};
use super::exit;
use super::values::{Moment, escape, escape_message, human_size};
use crate::drive::BothChanged;
use crate::error::{Error, Result};
use crate::types::{Ino, Version};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::io::{BufWriter, IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Prints on standard output what a request is answered with, and shows progress on standard error.
pub struct Screen {
    json: bool,
    out: BufWriter<Box<dyn Write>>,
    bar: Bar,
}

impl Screen {
    pub fn new(json: bool) -> Screen {
        Screen::to(json, Box::new(std::io::stdout()), std::io::stderr().is_terminal())
    }

    fn to(json: bool, out: Box<dyn Write>, bar: bool) -> Screen {
        Screen { json, out: BufWriter::new(out), bar: Bar { shown: bar, since: Instant::now(), bar: None } }
    }

    /// A line for people.
    pub fn line(&mut self, line: &str) -> Result<()> {
        self.write(format!("{line}\n").as_bytes())
    }

    /// Bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.bar.clear();
        self.out.write_all(bytes).map_err(lost)
    }

    /// A recovery code, and what to do with it.
    pub fn recovery_code(&mut self, code: &str) -> Result<()> {
        self.line(&format!("recovery code: {code}"))?;
        self.line("Write it down and keep it safe: it opens the drive (--recovery), and is shown only now.")
    }

    /// A JSON object.
    pub fn object(&mut self, value: &impl Serialize) -> Result<()> {
        let text =
            serde_json::to_string(value).map_err(|e| Error::failed("cannot encode JSON").with_source(e))?;
        self.line(&text)
    }

    /// Shows what was printed so far.
    pub fn flush(&mut self) -> Result<()> {
        self.out.flush().map_err(lost)
    }

    /// Ends the output; must be called, or errors of the last writes are lost.
    pub fn finish(mut self) -> Result<()> {
        self.bar.clear();
        self.out.flush().map_err(lost)
    }

    pub fn check(&mut self, report: &CheckReport) -> Result<()> {
        if self.json {
            return self.object(report);
        }
        for problem in &report.problems {
            self.line(&format!(
                "damaged: {}: {}",
                escape_message(&problem.object),
                escape_message(&problem.what)
            ))?;
            for file in &problem.files {
                self.line(&format!("  needed by {}", escape_message(file)))?;
            }
        }
        self.line(&format!(
            "{}: version {}, {} heads, {} packs, {} chunks{}; {}",
            escape_message(&report.store),
            report.version,
            report.heads,
            report.packs,
            report.chunks,
            match report.bytes_read {
                0 => String::new(),
                bytes => format!(" ({} in all) read", human_size(bytes)),
            },
            match report.problems.len() {
                0 => "no damage found".to_owned(),
                n => format!("{n} damaged objects"),
            }
        ))
    }
}

impl Reply for Screen {
    fn progress(&mut self, progress: &Progress) -> Result<()> {
        self.bar.show(progress);
        Ok(())
    }

    fn status(&mut self, status: &Status) -> Result<()> {
        if self.json {
            self.object(status)
        } else {
            self.write(super::status::human(status, Moment::now(), false).as_bytes())
        }
    }

    fn entry(&mut self, entry: &LogEntry) -> Result<()> {
        if self.json { self.object(entry) } else { self.line(&human_entry(entry)) }
    }

    fn version(&mut self, version: Version) -> Result<()> {
        self.line(&version.to_string())
    }

    fn log_level(&mut self, level: &str) -> Result<()> {
        self.line(&escape_message(level))
    }

    fn note(&mut self, text: &str) -> Result<()> {
        eprintln!("nacrefs: {}", escape_message(text));
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.write(bytes)
    }
}

/// An error of standard output. When its reader went away there is nobody to tell: end as tools do that SIGPIPE
/// kills (it is ignored in this process, for the sake of sockets).
fn lost(e: std::io::Error) -> Error {
    if e.kind() == std::io::ErrorKind::BrokenPipe {
        std::process::exit(exit::BROKEN_PIPE.into());
    }
    Error::from(e).context("cannot write to standard output")
}

fn human_entry(e: &LogEntry) -> String {
    let device = escape_message(e.device.get(..8).unwrap_or(&e.device));
    let size = e.size.map_or("-".into(), human_size);
    format!(
        "{:>8}  {}  {device:<8}  {:<10} {size:>9}  {}",
        e.version,
        e.time.human(),
        escape_message(&e.change),
        e.path
    )
}

/// The columns of the terminal that progress is shown on.
fn width() -> u16 {
    rustix::termios::tcgetwinsize(std::io::stderr()).map_or(80, |size| size.ws_col)
}

/// How a bar looks where there is so much room: no line may wrap.
fn template(progress: &Progress, width: u16) -> &'static str {
    match (progress.total, progress.counted) {
        (Some(_), _) if width < 48 => "{percent}% {wide_msg}",
        (None, _) if width < 48 => "{wide_msg}",
        (Some(_), false) => "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {eta}",
        (None, false) => "{msg} {binary_bytes} {elapsed}",
        (Some(_), true) => "{msg} {wide_bar} {human_pos}/{human_len} {eta}",
        (None, true) => "{msg} {human_pos} {elapsed}",
    }
}

/// A progress bar: on a terminal only, and only for what takes over a second.
struct Bar {
    shown: bool,
    since: Instant,
    bar: Option<ProgressBar>,
}

impl Bar {
    fn show(&mut self, progress: &Progress) {
        if !self.shown || self.since.elapsed() < Duration::from_secs(1) {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| ProgressBar::new(0));
        if bar.length() != progress.total || bar.position() == 0 {
            let template = template(progress, width());
            // The templates are constants: where they were wrong, the default style would do.
            bar.set_style(
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            match progress.total {
                Some(total) => bar.set_length(total),
                None => bar.unset_length(),
            }
        }
        bar.set_message(escape(progress.what.as_bytes()));
        bar.set_position(progress.done);
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// Shows that something goes on of which nobody knows how far it is: on a terminal only, after a second, until dropped.
pub struct Spinner {
    // Dropping it ends the thread.
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Spinner {
    /// The process may not fork while there is one: it is a thread.
    pub fn start(what: &'static str) -> Spinner {
        if !std::io::stderr().is_terminal() {
            return Spinner { end: None, thread: None };
        }
        let (end, ended) = channel::<()>();
        let show = move || {
            if ended.recv_timeout(Duration::from_secs(1)) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let bar = ProgressBar::new_spinner().with_message(what);
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
                bar.set_style(style);
            }
            while ended.recv_timeout(Duration::from_millis(100)) == Err(RecvTimeoutError::Timeout) {
                bar.tick();
            }
            bar.finish_and_clear();
        };
        // Where no thread can be made there is no spinner.
        let thread = std::thread::Builder::new().name("spinner".into()).spawn(show).ok();
        Spinner { end: Some(end), thread }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            // It only draws: there is nothing to learn from how it ended.
            let _ = thread.join();
        }
    }
}

/// The one line on standard error that tells of an error: what happened, the reason at the root of it, and what the
/// system refused; with
/// `verbose` all reasons between.
pub fn error_line(error: &Error, verbose: bool) -> String {
    let text = if verbose {
        error.chain()
    } else {
        let first = std::error::Error::source(error);
        let all = std::iter::successors(first, |e| e.source()).map(ToString::to_string).collect::<Vec<_>>();
        // What the system says is nothing without what it says it of.
        let system = all.last().is_some_and(|root| root.contains("(os error "));
        let mut text = error.to_string();
        for reason in all.iter().skip(all.len().saturating_sub(1 + usize::from(system))) {
            if !text.contains(reason) {
                text = format!("{text}: {reason}");
            }
        }
        text
    };
    format!("nacrefs: {}", escape_message(&text))
}

/// The same error, with the files named that both this machine and another have changed: for whoever has asked, never
/// for a log.
pub fn with_names(e: Error) -> Error {
    match names_of(&e) {
        Some(line) => Error::new(e.kind(), e.to_string()).with_source(Error::new(e.kind(), line)),
        None => e,
    }
}

/// What both have changed, if an error tells of that.
pub fn names_of(e: &Error) -> Option<String> {
    let mut causes = std::iter::successors(std::error::Error::source(e), |e| e.source());
    let named = |ino: Ino, path: Option<&[u8]>| match path {
        Some(path) if !path.is_empty() => escape(path),
        _ => format!("inode {ino}"),
    };
    causes.find_map(|cause| cause.downcast_ref::<BothChanged>()).map(|both| both.line(named))
}

/// Says on standard error what does not stop a command, but should be known.
pub fn warn(text: &str) {
    if let Err(e) = writeln!(std::io::stderr(), "nacrefs: warning: {}", escape_message(text)) {
        tracing::debug!("a warning was not heard: {e}");
    }
}

/// Prints lines for people on standard output.
pub fn print(text: &str) -> Result<()> {
    let mut screen = Screen::new(false);
    screen.write(text.as_bytes())?;
    screen.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::backend::Problem;
    use crate::cli::control::tests::{entry, status};
    use crate::cli::values::DrivePath;
    use crate::error::Kind;
    use parking_lot::Mutex;
    use std::sync::Arc;

    #[test]
    fn counts_are_not_shown_as_bytes_and_a_narrow_terminal_gets_a_line_that_fits() {
        for total in [None, Some(9)] {
            for counted in [false, true] {
                let progress = Progress { what: "files".into(), done: 3, total, counted };
                let (wide, narrow) = (template(&progress, 80), template(&progress, 20));
                assert!([wide, narrow].iter().all(|t| ProgressStyle::with_template(t).is_ok()));
                assert_eq!(wide.contains("bytes"), !counted);
                assert!(narrow.ends_with("{wide_msg}"), "it is cut where the line ends");
            }
        }
    }

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn printed(json: bool, print: impl FnOnce(&mut Screen) -> Result<()>) -> String {
        let paper = Paper::default();
        let mut screen = Screen::to(json, Box::new(paper.clone()), false);
        print(&mut screen).unwrap();
        screen.finish().unwrap();
        String::from_utf8(paper.0.lock().clone()).unwrap()
    }

    #[test]
    fn json_has_exactly_the_fields_of_the_contract() {
        assert_eq!(
            printed(true, |s| s.status(&status())),
            r#"{"drive":"ab","store":"file:///s","mount":"/mnt","version":7,"last_commit":"2023-11-14T22:13:20Z","dirty_bytes":1,"journal_bytes":2,"cache_bytes":3,"online":true,"last_error":null,"last_error_time":null,"online_since":null,"mounted_since":null,"read_only":null,"journal_limit":0,"cache_limit":0,"waiting":0,"unprotected":null,"key_file":null,"passphrase_file":null,"weak_slot":null,"store_speed":null,"memory_bytes":0,"state_dir":null,"pid":null,"build":null,"guarded":null,"uid":null,"gid":null}
"#
        );
        assert_eq!(
            printed(true, |s| s.entry(&entry(2))),
            r#"{"version":2,"time":"2023-11-14T22:13:20Z","device":"cd","change":"changed","path":"a/b","size":5}
"#
        );
        let report = CheckReport {
            problems: vec![Problem { object: "o".into(), what: "w".into(), files: vec![] }],
            ..Default::default()
        };
        assert_eq!(
            printed(true, |s| s.check(&report)),
            r#"{"drive":"","store":"","version":0,"heads":0,"packs":0,"chunks":0,"bytes_read":0,"problems":[{"object":"o","what":"w","files":[]}]}
"#
        );
    }

    #[test]
    fn names_are_harmless_on_the_screen() {
        let mut e = entry(1);
        e.path = DrivePath::new("a\x1b]0;x\x07\nb").unwrap();
        e.device = "\x1b[2J".into();
        let text = printed(false, |s| s.entry(&e));
        assert!(text.trim_end_matches('\n').chars().all(|c| !c.is_control()), "{text:?}");
    }

    #[test]
    fn an_error_is_one_line_with_its_root_and_with_more_when_asked() {
        let e =
            Error::new(Kind::Away, "no route").context("cannot list heads").context("cannot open\nthe store");
        assert_eq!(error_line(&e, false), "nacrefs: cannot open\\nthe store: no route");
        assert_eq!(error_line(&e, true), "nacrefs: cannot open\\nthe store: cannot list heads: no route");
    }
}
