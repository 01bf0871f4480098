//! The log of this process: where it goes, in which form, and how much it tells, which can be changed while it runs.
//!
//! Everything is written to standard error. A daemon in the background makes that a file in the state directory,
//! which is renamed to `log.old` when it has grown to [`LIMIT`]; under systemd it is the journal, and each line
//! begins with its priority (sd-daemon(3)).

use crate::error::{Context, Error, Kind, Result};
use parking_lot::Mutex;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{Layer, fmt, reload};

/// The name of the log in a state directory, and of the one before it.
pub const LOG: &str = "log";
const OLD: &str = "log.old";
/// A log that is larger is renamed, and another begun. In bytes.
const LIMIT: u64 = 4 << 20;

/// The log file, where there is one.
static FILE: Mutex<Option<LogFile>> = Mutex::new(None);
/// How much is told.
static LEVEL: OnceLock<(Mutex<String>, Change)> = OnceLock::new();

type Change = Box<dyn Fn(Targets) -> Result<()> + Send + Sync>;

/// What somebody asked of the log: a filter, and one JSON object a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub level: Option<String>,
    pub json: bool,
}

/// Reads a filter: a level (`off`, `error`, `warn`, `info`, `debug`, `trace`), or several parts between commas,
/// each a level or `MODULE=LEVEL`. A level alone is of nacrefs; the libraries tell their warnings at most.
pub fn parse_level(text: &str) -> Result<Targets> {
    const LEVELS: [(&str, LevelFilter); 6] = [
        ("off", LevelFilter::OFF),
        ("error", LevelFilter::ERROR),
        ("warn", LevelFilter::WARN),
        ("info", LevelFilter::INFO),
        ("debug", LevelFilter::DEBUG),
        ("trace", LevelFilter::TRACE),
    ];
    text.split(',').try_fold(Targets::new(), |targets, part| {
        let (module, name) = part.split_once('=').map_or((None, part), |(m, l)| (Some(m), l));
        let level = LEVELS.iter().find(|(n, _)| *n == name).map(|(_, level)| *level);
        match (module, level) {
            (Some(module), Some(level)) if !module.is_empty() => Ok(targets.with_target(module, level)),
            (None, Some(level)) => {
                Ok(targets.with_target("nacrefs", level).with_default(level.min(LevelFilter::WARN)))
            }
            _ => {
                let known = LEVELS.map(|(n, _)| n).join(", ");
                let what = format!("{text:?} is no log level: there are {known}, also as MODULE=LEVEL");
                Err(Error::new(Kind::Usage, what))
            }
        }
    })
}

/// Starts logging. `NACREFS_LOG` says how much, then the options, then `default`.
pub fn start(default: &str, options: &LogOptions) -> Result<()> {
    let wanted = std::env::var("NACREFS_LOG").ok().filter(|text| !text.is_empty());
    let level = match (&wanted, &options.level) {
        (Some(text), _) => text,
        (None, Some(text)) => text,
        (None, None) => default,
    };
    let (filter, handle) = reload::Layer::new(parse_level(level)?);
    let out = Out { journal: is_journal() };
    let ansi = io::stderr().is_terminal();
    // `log_internal_errors` would tell them with `eprintln!`, which panics on a full disk.
    let text = || fmt::layer().with_ansi(ansi).log_internal_errors(false);
    let layer = match (options.json, out.journal) {
        (true, _) => text().json().flatten_event(true).with_writer(out).boxed(),
        (false, true) => text().without_time().with_level(false).with_writer(out).boxed(),
        (false, false) => text().with_writer(out).boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(layer)
        .try_init()
        .map_err(|e| Error::failed(format!("cannot start logging: {e}")))?;
    let change = move |filter| {
        handle.reload(filter).map_err(|e| Error::failed(format!("cannot change the log level: {e}")))
    };
    // Only the first call comes so far.
    let _ = LEVEL.set((Mutex::new(level.to_owned()), Box::new(change)));
    Ok(())
}

/// How much the log tells.
pub fn level() -> String {
    LEVEL.get().map_or_else(String::new, |(level, _)| level.lock().clone())
}

/// Changes how much the log tells, from now on.
pub fn set_level(text: &str) -> Result<()> {
    let filter = parse_level(text)?;
    let (level, change) = LEVEL.get().ok_or_else(|| Error::failed("this process has no log"))?;
    let mut level = level.lock();
    change(filter)?;
    *level = text.to_owned();
    Ok(())
}

/// From here on standard error is the log in a directory.
pub fn log_to(dir: &Path) -> Result<()> {
    let mut file = LogFile { path: dir.join(LOG), old: dir.join(OLD), size: 0 };
    if fs::metadata(&file.path).is_ok_and(|m| m.len() > LIMIT) {
        file.rotate()?;
    } else {
        file.open()?;
    }
    *FILE.lock() = Some(file);
    Ok(())
}

/// Opens the log anew, after somebody has renamed it.
pub fn reopen() -> Result<()> {
    match &mut *FILE.lock() {
        Some(file) => file.open(),
        None => Ok(()),
    }
}

/// Makes a standard descriptor mean `file`.
pub fn replace(file: &File, standard: i32) -> Result<()> {
    // SAFETY: both are descriptors of this process; dup2 touches no memory.
    match unsafe { libc::dup2(file.as_raw_fd(), standard) } {
        -1 => Err(io::Error::last_os_error()).context(|| "cannot redirect standard descriptors"),
        _ => Ok(()),
    }
}

/// The file that standard error is.
struct LogFile {
    path: PathBuf,
    old: PathBuf,
    /// Its bytes, about: what comes not by way of this module (a panic) is not counted.
    size: u64,
}

impl LogFile {
    fn open(&mut self) -> Result<()> {
        let failed = || format!("cannot open the log {}", self.path.display());
        let log = File::options().append(true).create(true).mode(0o600).open(&self.path).context(failed)?;
        self.size = log.metadata().context(failed)?.len();
        replace(&log, libc::STDERR_FILENO)
    }

    fn rotate(&mut self) -> Result<()> {
        fs::rename(&self.path, &self.old)
            .context(|| format!("cannot rename the log {}", self.path.display()))?;
        self.open()
    }

    /// Makes room for a line of so many bytes.
    fn admit(&mut self, len: usize) {
        if self.size > 0 && self.size + len as u64 > LIMIT {
            // Where it cannot be renamed (a full disk, somebody who deleted it), the next try comes a limit later.
            self.size = 0;
            let _ = self.rotate();
        }
        self.size += len as u64;
    }
}

/// Whether standard error is systemd's journal: `JOURNAL_STREAM` names its device and inode (systemd.exec(5)).
fn is_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(file) = fs::metadata("/proc/self/fd/2") else { return false };
    named == format!("{}:{}", file.dev(), file.ino())
}

/// Standard error, and how lines begin there.
#[derive(Clone, Copy)]
struct Out {
    journal: bool,
}

struct Line {
    prefix: Option<&'static str>,
}

impl<'a> MakeWriter<'a> for Out {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { prefix: None }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Line {
        // The priorities of syslog(3).
        let prefix = match *event.level() {
            Level::ERROR => "<3>",
            Level::WARN => "<4>",
            Level::INFO => "<6>",
            Level::DEBUG | Level::TRACE => "<7>",
        };
        Line { prefix: self.journal.then_some(prefix) }
    }
}

impl Write for Line {
    /// Takes a whole line: the formatter hands on nothing less.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut file = FILE.lock();
        if let Some(file) = &mut *file {
            file.admit(line.len());
        }
        let mut out = io::stderr().lock();
        if let Some(prefix) = self.prefix {
            out.write_all(prefix.as_bytes())?;
        }
        out.write_all(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_and_mistakes_are_named() {
        for good in ["info", "off", "warn,nacrefs::journal=trace", "nacrefs=debug"] {
            parse_level(good).unwrap();
        }
        for bad in ["", "loud", "INFO ", "nacrefs=", "=debug", "info,,warn", "nacrefs=loud"] {
            let e = parse_level(bad).unwrap_err();
            assert!(e.kind() == Kind::Usage && e.to_string().contains("trace"), "{bad}: {e}");
        }
    }

    /// What the index's library tells at debug used to bury what the drive tells.
    #[test]
    fn a_level_is_of_nacrefs_and_libraries_keep_to_warnings() {
        let shown = |text: &str, target: &str, level| parse_level(text).unwrap().would_enable(target, &level);
        assert!(shown("debug", "nacrefs::drive", Level::DEBUG));
        assert!(!shown("debug", "sled::pagecache", Level::INFO) && shown("debug", "sled", Level::WARN));
        assert!(!shown("error", "sled", Level::WARN) && !shown("off", "nacrefs", Level::ERROR));
        assert!(shown("warn,nacrefs::journal=trace", "nacrefs::journal::write", Level::TRACE));
        assert!(!shown("warn,nacrefs::journal=trace", "nacrefs::store", Level::INFO));
        assert!(shown("sled=debug", "sled::meta", Level::DEBUG));
    }
}
