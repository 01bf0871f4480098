//! Where the secret that opens a drive comes from. Never the command line, which every user can see.
//!
//! Secrets stand in buffers of their full size on the heap, each wiped when it is dropped: what moves or grows leaves
//! copies behind.

mod again;
pub(super) mod files;
pub use again::{Again, SecretFile};
use files::{passphrase_of, read_key};

use super::args::{NewSecretArgs, SecretArgs};
use super::prompt;
use crate::crypt::RecoveryCode;
use crate::error::{Context, Error, Kind, Result};
use crate::sys::Random;
use crate::sys::dirs::{make_dir, sync_dir};
use crate::types::Key;
use std::cell::Cell;
use std::ffi::{CStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use zeroize::Zeroizing;

/// A secret that may open a drive.
#[derive(Clone)]
pub enum Given {
    Passphrase(Zeroizing<String>),
    KeyFile(Box<Key>),
    /// A recovery code, as typed.
    Recovery(Zeroizing<String>),
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Given::Passphrase(_) => "Passphrase(…)",
            Given::KeyFile(_) => "KeyFile(…)",
            Given::Recovery(_) => "Recovery(…)",
        })
    }
}

/// A secret, and the file that it stands in, if it was read from one.
#[derive(Debug)]
pub struct Found {
    pub given: Given,
    pub file: Option<SecretFile>,
}

impl Found {
    fn only(given: Given) -> Found {
        Found { given, file: None }
    }
}

impl TryFrom<SecretFile> for Found {
    type Error = Error;

    fn try_from(file: SecretFile) -> Result<Found> {
        // Absolute at once: whoever reads it again is in another directory by then.
        Ok(Found { given: file.read()?, file: Some(file.absolute()?) })
    }
}

/// What the environment says about one secret.
#[derive(Default)]
pub struct SecretEnv {
    pub passphrase_file: Option<PathBuf>,
    pub passphrase_command: Option<OsString>,
    /// Taken by whoever needs it, so that nothing keeps it.
    pub passphrase: Cell<Option<Zeroizing<String>>>,
    /// The directory of systemd credentials.
    pub credentials: Option<PathBuf>,
}

/// What the environment says about secrets.
#[derive(Default)]
pub struct Environment {
    /// What opens the drive: `NACREFS_PASSPHRASE…`.
    pub open: SecretEnv,
    /// What is to open it from now on: `NACREFS_NEW_PASSPHRASE…`.
    pub new: SecretEnv,
}

impl Environment {
    /// Takes the variables out of the environment, so that no child inherits them, and wipes them where the kernel
    /// put them, so that `/proc/PID/environ` does not show them.
    ///
    /// # Safety
    /// No other thread may exist: it could be reading the environment.
    pub unsafe fn take() -> Result<Environment> {
        // SAFETY: the caller promises the same.
        unsafe {
            Ok(Environment {
                open: SecretEnv::take("NACREFS_PASSPHRASE")?,
                new: SecretEnv::take("NACREFS_NEW_PASSPHRASE")?,
            })
        }
    }

    /// Wipes what was not needed: for a process that goes on.
    pub fn forget(&self) {
        for env in [&self.open, &self.new] {
            env.passphrase.take();
        }
    }
}

impl SecretEnv {
    /// # Safety
    /// No other thread may exist.
    unsafe fn take(name: &str) -> Result<SecretEnv> {
        let take = |name: &str| {
            let value = std::env::var_os(name);
            // SAFETY: the caller promises that this is the only thread.
            unsafe {
                wipe(name);
                std::env::remove_var(name);
            }
            value.filter(|v| !v.is_empty())
        };
        let passphrase = match take(name).map(OsString::into_string) {
            None => None,
            Some(Ok(text)) => Some(Zeroizing::new(text)),
            Some(Err(bytes)) => {
                drop(Zeroizing::new(bytes.into_encoded_bytes()));
                return Err(Error::new(Kind::Secret, format!("{name} is not UTF-8")));
            }
        };
        Ok(SecretEnv {
            passphrase_file: take(&format!("{name}_FILE")).map(PathBuf::from),
            passphrase_command: take(&format!("{name}_COMMAND")),
            passphrase: Cell::new(passphrase),
            credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
        })
    }
}

/// Overwrites the values of a variable in the environment; it may stand there more than once.
///
/// # Safety
/// No other thread may exist.
unsafe fn wipe(name: &str) {
    unsafe extern "C" {
        static environ: *const *mut libc::c_char;
    }
    // SAFETY: `environ` is null, or a list of C strings in memory of this process that may be written to (the stack
    // that the kernel made, or libc's heap) that ends with null; nobody else reads them now.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            let text = CStr::from_ptr(*entry).to_bytes();
            if text.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b"=")) {
                let (start, end) = (name.len() + 1, text.len());
                for at in start..end {
                    (*entry).add(at).write_volatile(0);
                }
            }
            entry = entry.add(1);
        }
    }
}

/// Asks a question whose answer is not shown. `None`: there is nobody to ask.
pub type Ask<'a> = &'a mut dyn FnMut(&str) -> Result<Option<Zeroizing<String>>>;

/// Asks on the terminal, if there is one.
pub fn ask_terminal(question: &str) -> Result<Option<Zeroizing<String>>> {
    prompt::ask_secret(question)
}

/// What a secret is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Open,
    /// For a drive that is about to be made.
    Init,
    /// For a drive that is open.
    Add,
}

/// The secret for opening a drive: the first that is found of the flags, the key file of the default drive (if
/// it is that drive, and the file is there), the environment, the systemd credentials, the terminal.
pub fn find(flags: &SecretArgs, default_key: Option<&Path>, env: &SecretEnv, ask: Ask) -> Result<Found> {
    find_for(Purpose::Open, flags, default_key, env, ask)
}

/// The same for a drive that is about to be made: what is typed is asked for twice.
pub fn find_new(flags: &SecretArgs, env: &SecretEnv, ask: Ask) -> Result<Found> {
    if flags.recovery {
        return Err(Error::new(Kind::Usage, "--recovery opens a drive; a new one is given a recovery code"));
    }
    find_for(Purpose::Init, flags, None, env, ask)
}

/// A secret that is to open a drive from now on.
pub struct Another {
    pub given: Given,
    /// The key file that was made for it.
    pub made: Option<PathBuf>,
}

/// The secret that a drive is to be opened with from now on: as for [`find_new`], or made here.
pub fn find_another(
    flags: &NewSecretArgs,
    env: &SecretEnv,
    ask: Ask,
    source: &dyn Random,
) -> Result<Another> {
    let have = |given| Ok(Another { given, made: None });
    if flags.new_recovery {
        return have(Given::Recovery(RecoveryCode::generate(source)?.to_text()));
    }
    match &flags.new_key_file {
        Some(file) if !file.exists() => {
            Ok(Another { given: Given::KeyFile(make_key(file, source)?), made: Some(file.clone()) })
        }
        Some(file) => have(Given::KeyFile(read_key(file)?)),
        None => {
            let passphrase_file = flags.new_passphrase_file.clone();
            let flags = SecretArgs { passphrase_file, ..SecretArgs::default() };
            have(find_for(Purpose::Add, &flags, None, env, ask)?.given)
        }
    }
}

fn find_for(
    purpose: Purpose,
    flags: &SecretArgs,
    default_key: Option<&Path>,
    env: &SecretEnv,
    ask: Ask,
) -> Result<Found> {
    let in_env = env.passphrase.take();
    if flags.recovery {
        return match &flags.passphrase_file {
            Some(file) => SecretFile::Recovery(file.clone()).try_into(),
            None => typed("Recovery code: ", purpose, ask).map(Given::Recovery).map(Found::only),
        };
    }
    if let Some(file) = &flags.passphrase_file {
        return SecretFile::Passphrase(file.clone()).try_into();
    }
    if let Some(file) = flags.key_file.as_deref().or(default_key.filter(|key| key.exists())) {
        return SecretFile::Key(file.to_owned()).try_into();
    }
    let (new, question) = match purpose {
        Purpose::Add => ("new-", "New passphrase: "),
        Purpose::Init => ("", "New passphrase: "),
        Purpose::Open => ("", "Passphrase: "),
    };
    let credential = |what| {
        let file = env.credentials.as_ref()?.join(format!("nacrefs.{new}{what}"));
        file.exists().then_some(file)
    };
    if let Some(file) = &env.passphrase_file {
        SecretFile::Passphrase(file.clone()).try_into()
    } else if let Some(command) = &env.passphrase_command {
        run(command).map(Given::Passphrase).map(Found::only)
    } else if let Some(text) = in_env {
        Ok(Found::only(Given::Passphrase(text)))
    } else if let Some(file) = credential("passphrase") {
        SecretFile::Passphrase(file).try_into()
    } else if let Some(file) = credential("key") {
        SecretFile::Key(file).try_into()
    } else {
        typed(question, purpose, ask).map(Given::Passphrase).map(Found::only)
    }
}

fn typed(question: &str, purpose: Purpose, ask: Ask) -> Result<Zeroizing<String>> {
    let Some(answer) = ask(question)? else {
        return Err(Error::new(
            Kind::Secret,
            match purpose {
                Purpose::Add => {
                    "no new passphrase or key, and no terminal to ask on: give --new-passphrase-file, --new-key-file \
                     or --new-recovery, or set NACREFS_NEW_PASSPHRASE_COMMAND"
                }
                _ => {
                    "no passphrase or key, and no terminal to ask on: give --passphrase-file or --key-file, or set \
                     NACREFS_PASSPHRASE_COMMAND"
                }
            },
        ));
    };
    if answer.is_empty() {
        return Err(Error::new(Kind::Secret, "nothing was typed"));
    }
    if purpose != Purpose::Open && ask("The same again: ")?.as_ref() != Some(&answer) {
        return Err(Error::new(Kind::Secret, "the two passphrases differ"));
    }
    Ok(answer)
}

fn run(command: &OsString) -> Result<Zeroizing<String>> {
    let what = "what NACREFS_PASSPHRASE_COMMAND printed";
    let failed = |e| Error::new(Kind::Secret, "cannot run NACREFS_PASSPHRASE_COMMAND").with_source(e);
    let mut child =
        Command::new("sh").arg("-c").arg(command).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let read = match child.stdout.take() {
        Some(out) => passphrase_of(out, what),
        None => Err(Error::failed("the passphrase command has no output")),
    };
    let status = child.wait().map_err(failed)?;
    if !status.success() {
        return Err(Error::new(Kind::Secret, format!("NACREFS_PASSPHRASE_COMMAND failed ({status})")));
    }
    read
}

/// The text of a key file.
fn key_text(key: &Key) -> Zeroizing<String> {
    let digit = |half: u8| char::from_digit(half.into(), 16).unwrap_or('0');
    let mut text = Zeroizing::new(String::with_capacity(65));
    for byte in &key.0 {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
    }
    text.push('\n');
    text
}

/// The key of a drive that is being made: it stands beside its place until the drive is made, so that a key in its
/// place always has a drive. One that an interrupted making has left is used again.
pub fn begin_key(file: &Path, source: &dyn Random) -> Result<Box<Key>> {
    let begun = begun_key(file);
    if begun.exists() { read_key(&begun) } else { make_key(&begun, source) }
}

/// Where a key stands until its drive is made.
pub fn begun_key(file: &Path) -> PathBuf {
    let mut begun = file.as_os_str().to_owned();
    begun.push(".new");
    begun.into()
}

/// Puts a key in its place, never over another.
pub fn finish_key(file: &Path) -> Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let (begun, failed) =
        (begun_key(file), || format!("cannot put the key in its place, {}", file.display()));
    let moved = match renameat_with(CWD, &begun, CWD, file, RenameFlags::NOREPLACE) {
        // Not every file system knows it.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            fs::hard_link(&begun, file).and_then(|()| fs::remove_file(&begun))
        }
        moved => moved.map_err(Into::into),
    };
    moved.context(failed)?;
    sync_dir(file.parent().unwrap_or(Path::new("/"))).context(failed)
}

/// Makes a key file, readable by its owner only, in a directory that is made too; never over another file.
/// It is on disk, whole, when this returns.
pub fn make_key(file: &Path, source: &dyn Random) -> Result<Box<Key>> {
    let dir = file.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = || format!("cannot make the key file {}", file.display());
    make_dir(dir).context(failed)?;
    let mut key = Box::new(Key([0; 32]));
    source.fill(&mut key.0)?;
    write_key(dir, file, key_text(&key).as_bytes()).context(failed)?;
    sync_dir(dir).context(failed)?;
    Ok(key)
}

/// Writes a file that is whole when it gets its name. Unlike a rename, a link never replaces.
fn write_key(dir: &Path, file: &Path, text: &[u8]) -> std::io::Result<()> {
    match write_nameless(dir, file, text) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            let part = dir.join(format!(".nacrefs-key-{}", std::process::id()));
            let mut out = File::options().write(true).create_new(true).mode(0o600).open(&part)?;
            let whole = out.write_all(text).and_then(|()| out.sync_all());
            let linked = whole.and_then(|()| fs::hard_link(&part, file));
            linked.and(fs::remove_file(&part))
        }
        done => done,
    }
}

/// Who is killed meanwhile leaves nothing behind. Not every file system knows such files, and not everywhere is /proc.
fn write_nameless(dir: &Path, file: &Path, text: &[u8]) -> std::io::Result<()> {
    use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut out = File::from(open(dir, flags, Mode::RUSR | Mode::WUSR)?);
    out.write_all(text)?;
    out.sync_all()?;
    let by_number = format!("/proc/self/fd/{}", out.as_raw_fd());
    Ok(linkat(CWD, by_number, CWD, file, AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::SystemRandom;
    use crate::sys::dirs::witness::is_durable;
    use std::os::unix::fs::PermissionsExt;

    fn nobody(_: &str) -> Result<Option<Zeroizing<String>>> {
        Ok(None)
    }

    fn given(found: Result<Found>) -> Result<Given> {
        Ok(found?.given)
    }

    fn says(given: Result<Given>) -> String {
        match given.unwrap() {
            Given::Passphrase(p) => p.to_string(),
            Given::KeyFile(k) => format!("key {}", k.0[0]),
            Given::Recovery(r) => format!("recovery {}", *r),
        }
    }

    #[test]
    fn the_first_that_is_found_wins() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name)
        };
        let key = put("key", &format!("{}\n", "07".repeat(32)));
        let mut flags = SecretArgs { passphrase_file: Some(put("p", "flag\n")), ..SecretArgs::default() };
        let mut env = SecretEnv {
            passphrase_file: Some(put("e", "env file\r\n")),
            passphrase_command: Some("echo command".into()),
            passphrase: Cell::new(Some(Zeroizing::new("env".into()))),
            credentials: Some(dir.path().to_owned()),
        };
        put("nacrefs.passphrase", "credential");
        let mut typed = |_: &str| Ok(Some(Zeroizing::new("typed".to_owned())));
        let mut next = |flags: &SecretArgs, env: &SecretEnv, key: Option<&Path>| {
            says(given(find(flags, key, env, &mut typed)))
        };

        assert_eq!(next(&flags, &env, Some(&key)), "flag");
        flags.passphrase_file = None;
        flags.key_file = Some(key.clone());
        assert_eq!(next(&flags, &env, None), "key 7");
        flags.key_file = None;
        assert_eq!(next(&flags, &env, Some(&key)), "key 7");
        assert_eq!(next(&flags, &env, Some(Path::new("/no/such/key"))), "env file");
        env.passphrase_file = None;
        assert_eq!(next(&flags, &env, None), "command");
        env.passphrase_command = None;
        // Whoever looks for a secret takes it, needed or not.
        assert_eq!(next(&flags, &env, None), "credential");
        env.passphrase.set(Some(Zeroizing::new("env".into())));
        assert_eq!(next(&flags, &env, None), "env");
        put("nacrefs.key", &format!("{}\n", "09".repeat(32)));
        assert_eq!(next(&flags, &env, None), "credential");
        fs::remove_file(dir.path().join("nacrefs.passphrase")).unwrap();
        assert_eq!(next(&flags, &env, None), "key 9");
        env.credentials = None;
        assert_eq!(next(&flags, &env, None), "typed");
        flags.recovery = true;
        assert_eq!(next(&flags, &env, None), "recovery typed");
        flags.recovery = false;
        assert_eq!(find(&flags, None, &env, &mut nobody).unwrap_err().kind(), Kind::Secret);
    }

    #[test]
    fn what_is_to_open_a_drive_from_now_on_has_ways_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("p"), "flag\n").unwrap();
        fs::write(at("nacrefs.new-passphrase"), "credential").unwrap();
        fs::write(at("nacrefs.passphrase"), "the old one").unwrap();
        let env = SecretEnv { credentials: Some(dir.path().to_owned()), ..SecretEnv::default() };
        let mut flags = NewSecretArgs { new_passphrase_file: Some(at("p")), ..NewSecretArgs::default() };
        let find = |flags: &NewSecretArgs, env: &SecretEnv| {
            let found = find_another(flags, env, &mut nobody, &SystemRandom)?;
            Ok((found.made, says(Ok(found.given))))
        };
        let text = |found: Result<(Option<PathBuf>, String)>| found.unwrap().1;
        assert_eq!(text(find(&flags, &env)), "flag");
        flags.new_passphrase_file = None;
        env.passphrase.set(Some(Zeroizing::new("env".into())));
        assert_eq!(text(find(&flags, &env)), "env");
        assert_eq!(text(find(&flags, &env)), "credential");
        flags.new_key_file = Some(at("key"));
        let (made, key) = find(&flags, &env).unwrap();
        assert_eq!(made, Some(at("key")));
        assert_eq!(find(&flags, &env).unwrap(), (None, key));
        flags.new_recovery = true;
        assert!(text(find(&flags, &env)).starts_with("recovery "));
        let e = find(&NewSecretArgs::default(), &SecretEnv::default()).unwrap_err();
        assert!(e.kind() == Kind::Secret && e.to_string().contains("--new-key-file"), "{e}");
    }

    #[test]
    fn a_new_passphrase_is_typed_twice() {
        let mut answers = vec!["b", "a"];
        let mut ask = |_: &str| Ok(answers.pop().map(|a| Zeroizing::new(a.to_owned())));
        let (flags, env) = (SecretArgs::default(), SecretEnv::default());
        assert!(find_new(&flags, &env, &mut ask).unwrap_err().to_string().contains("differ"));
        let typed = find_new(&flags, &env, &mut |_| Ok(Some(Zeroizing::new("x".into()))));
        assert_eq!(says(given(typed)), "x");
    }

    #[test]
    fn a_passphrase_command_that_fails_is_refused() {
        assert_eq!(run(&"exit 3".into()).unwrap_err().kind(), Kind::Secret);
    }

    #[test]
    fn a_key_file_is_private_and_never_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().canonicalize().unwrap().join("etc/key");
        let key = make_key(&file, &SystemRandom).unwrap();
        // A power cut must not take the only key of a store that is durable.
        assert!(is_durable(&file) && is_durable(file.parent().unwrap()));
        assert!(read_key(&file).unwrap() == key);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&file).unwrap().len(), 65);
        assert!(make_key(&file, &SystemRandom).is_err());
        assert!(read_key(&file).unwrap() == key);
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }
}
