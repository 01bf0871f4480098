//! Where the secret that opens a drive comes from. Never the command line, which every user can see.

use super::args::SecretArgs;
use crate::error::{Context, Error, Kind, Result};
use crate::sys::{Random, random};
use crate::types::hex;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use zeroize::Zeroizing;

/// A secret that may open a drive.
#[derive(Clone)]
pub enum Given {
    Passphrase(Zeroizing<String>),
    KeyFile(Zeroizing<[u8; 32]>),
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

/// What the environment says about secrets.
#[derive(Default)]
pub struct SecretEnv {
    pub passphrase_file: Option<PathBuf>,
    pub passphrase_command: Option<OsString>,
    pub passphrase: Option<Zeroizing<String>>,
    /// The directory of systemd credentials.
    pub credentials: Option<PathBuf>,
}

impl SecretEnv {
    /// Takes the variables out of the environment, so that no child inherits them, and wipes them where the kernel
    /// put them, so that `/proc/PID/environ` does not show them.
    ///
    /// # Safety
    /// No other thread may exist: it could be reading the environment.
    pub unsafe fn take() -> Result<SecretEnv> {
        let take = |name| {
            let value = std::env::var_os(name);
            // SAFETY: the caller promises that this is the only thread.
            unsafe {
                wipe(name);
                std::env::remove_var(name);
            }
            value.filter(|v| !v.is_empty())
        };
        let passphrase = match take("NACREFS_PASSPHRASE").map(OsString::into_string) {
            None => None,
            Some(Ok(text)) => Some(Zeroizing::new(text)),
            Some(Err(_)) => return Err(Error::new(Kind::Secret, "NACREFS_PASSPHRASE is not UTF-8")),
        };
        Ok(SecretEnv {
            passphrase_file: take("NACREFS_PASSPHRASE_FILE").map(PathBuf::from),
            passphrase_command: take("NACREFS_PASSPHRASE_COMMAND"),
            passphrase,
            credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
        })
    }
}

/// Overwrites the value of a variable in the environment.
///
/// # Safety
/// No other thread may exist.
unsafe fn wipe(name: &str) {
    let Ok(name) = std::ffi::CString::new(name) else { return };
    // SAFETY: the value is a C string in memory of this process that may be written to (the stack that the kernel
    // made, or libc's heap), and nobody else reads it now.
    unsafe {
        let mut at = libc::getenv(name.as_ptr());
        while !at.is_null() && *at != 0 {
            at.write_volatile(0);
            at = at.add(1);
        }
    }
}

/// Asks a question whose answer is not shown. `None`: there is nobody to ask.
pub type Ask<'a> = &'a mut dyn FnMut(&str) -> Result<Option<Zeroizing<String>>>;

/// Asks on the terminal, if there is one.
pub fn ask_terminal(question: &str) -> Result<Option<Zeroizing<String>>> {
    if !std::io::stdin().is_terminal() {
        return Ok(None);
    }
    let answer = rpassword::prompt_password(question).context(|| "cannot ask on the terminal")?;
    Ok(Some(Zeroizing::new(answer)))
}

/// The secret for opening a drive: the first that is found of the flags, the key file of the default drive (if
/// it is that drive, and the file is there), the environment, the systemd credential, the terminal.
pub fn find(flags: &SecretArgs, default_key: Option<&Path>, env: &SecretEnv, ask: Ask) -> Result<Given> {
    find_or_new(flags, default_key, env, false, ask)
}

/// The same for a drive that is about to be made: what is typed is asked for twice.
pub fn find_new(flags: &SecretArgs, env: &SecretEnv, ask: Ask) -> Result<Given> {
    if flags.recovery {
        return Err(Error::new(Kind::Usage, "--recovery opens a drive; a new one is given a recovery code"));
    }
    find_or_new(flags, None, env, true, ask)
}

fn find_or_new(
    flags: &SecretArgs,
    default_key: Option<&Path>,
    env: &SecretEnv,
    new: bool,
    ask: Ask,
) -> Result<Given> {
    if flags.recovery {
        return match &flags.passphrase_file {
            Some(file) => read_passphrase(file).map(Given::Recovery),
            None => typed("Recovery code: ", false, ask).map(Given::Recovery),
        };
    }
    if let Some(file) = &flags.passphrase_file {
        return read_passphrase(file).map(Given::Passphrase);
    }
    if let Some(file) = flags.key_file.as_deref().or(default_key.filter(|key| key.exists())) {
        return read_key(file).map(Given::KeyFile);
    }
    let passphrase = if let Some(file) = &env.passphrase_file {
        read_passphrase(file)?
    } else if let Some(command) = &env.passphrase_command {
        run(command)?
    } else if let Some(text) = &env.passphrase {
        text.clone()
    } else if let Some(file) =
        env.credentials.as_ref().map(|d| d.join("nacrefs.passphrase")).filter(|f| f.exists())
    {
        read_passphrase(&file)?
    } else {
        typed(if new { "New passphrase: " } else { "Passphrase: " }, new, ask)?
    };
    Ok(Given::Passphrase(passphrase))
}

fn typed(question: &str, twice: bool, ask: Ask) -> Result<Zeroizing<String>> {
    let Some(answer) = ask(question)? else {
        return Err(Error::new(
            Kind::Secret,
            "no passphrase or key, and no terminal to ask on: give --passphrase-file or --key-file, or set \
             NACREFS_PASSPHRASE_COMMAND",
        ));
    };
    if answer.is_empty() {
        return Err(Error::new(Kind::Secret, "nothing was typed"));
    }
    if twice && ask("The same again: ")?.as_ref() != Some(&answer) {
        return Err(Error::new(Kind::Secret, "the two passphrases differ"));
    }
    Ok(answer)
}

/// More than any secret: a wrong file is not read whole.
const LONGEST: u64 = 64 << 10;

/// Reads a passphrase: all of it but one line end.
fn passphrase_of(mut from: impl Read, what: &str) -> Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    from.by_ref()
        .take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::new(Kind::Secret, format!("cannot read {what}")).with_source(e))?;
    let refuse = |why| Err(Error::new(Kind::Secret, format!("{what} {why}")));
    if bytes.len() as u64 > LONGEST {
        return refuse("is too long for a passphrase");
    }
    let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    match std::str::from_utf8(text) {
        Ok("") => refuse("holds no passphrase"),
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => refuse("is not UTF-8"),
    }
}

fn open(file: &Path) -> Result<File> {
    File::open(file)
        .map_err(|e| Error::new(Kind::Secret, format!("cannot open {}", file.display())).with_source(e))
}

fn read_passphrase(file: &Path) -> Result<Zeroizing<String>> {
    passphrase_of(open(file)?, &file.display().to_string())
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

/// Reads a key file: 64 hexadecimal digits and a line end.
pub fn read_key(file: &Path) -> Result<Zeroizing<[u8; 32]>> {
    let text = passphrase_of(open(file)?, &file.display().to_string())?;
    parse_key(text.trim()).ok_or_else(|| {
        Error::new(
            Kind::Secret,
            format!("{} is no key file: it must hold 64 hexadecimal digits", file.display()),
        )
    })
}

fn parse_key(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let mut key = Zeroizing::new([0; 32]);
    if text.len() != 64 {
        return None;
    }
    for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let [high, low] = digits else { return None };
        let (high, low) = (char::from(*high).to_digit(16)?, char::from(*low).to_digit(16)?);
        *byte = (high << 4 | low) as u8;
    }
    Some(key)
}

/// Makes a key file, readable by its owner only, in a directory that is made too; never over another file.
/// It is on disk, whole, when this returns.
pub fn make_key(file: &Path, source: &dyn Random) -> Result<Zeroizing<[u8; 32]>> {
    let dir = file.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = || format!("cannot make the key file {}", file.display());
    DirBuilder::new().recursive(true).mode(0o700).create(dir).context(failed)?;
    let key = Zeroizing::new(random::<32>(source)?);
    let text = Zeroizing::new(hex(&*key) + "\n");
    let part = dir.join(format!(".nacrefs-key-{}", std::process::id()));
    let made = write_key(&part, file, text.as_bytes());
    let removed = fs::remove_file(&part);
    made.context(failed)?;
    removed.context(failed)?;
    File::open(dir).and_then(|d| d.sync_all()).context(failed)?;
    Ok(key)
}

fn write_key(part: &Path, file: &Path, text: &[u8]) -> std::io::Result<()> {
    let mut out = File::options().write(true).create_new(true).mode(0o600).open(part)?;
    out.write_all(text)?;
    out.sync_all()?;
    // Unlike a rename, a link never replaces.
    fs::hard_link(part, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::SystemRandom;
    use std::os::unix::fs::PermissionsExt;

    fn nobody(_: &str) -> Result<Option<Zeroizing<String>>> {
        Ok(None)
    }

    fn says(given: Result<Given>) -> String {
        match given.unwrap() {
            Given::Passphrase(p) => p.to_string(),
            Given::KeyFile(k) => format!("key {}", k[0]),
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
            passphrase: Some(Zeroizing::new("env".into())),
            credentials: Some(dir.path().to_owned()),
        };
        put("nacrefs.passphrase", "credential");
        let mut typed = |_: &str| Ok(Some(Zeroizing::new("typed".to_owned())));
        let mut next =
            |flags: &SecretArgs, env: &SecretEnv, key: Option<&Path>| says(find(flags, key, env, &mut typed));

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
        assert_eq!(next(&flags, &env, None), "env");
        env.passphrase = None;
        assert_eq!(next(&flags, &env, None), "credential");
        env.credentials = None;
        assert_eq!(next(&flags, &env, None), "typed");
        flags.recovery = true;
        assert_eq!(next(&flags, &env, None), "recovery typed");
        flags.recovery = false;
        assert_eq!(find(&flags, None, &env, &mut nobody).unwrap_err().kind(), Kind::Secret);
    }

    #[test]
    fn a_new_passphrase_is_typed_twice() {
        let mut answers = vec!["b", "a"];
        let mut ask = |_: &str| Ok(answers.pop().map(|a| Zeroizing::new(a.to_owned())));
        let (flags, env) = (SecretArgs::default(), SecretEnv::default());
        assert!(find_new(&flags, &env, &mut ask).unwrap_err().to_string().contains("differ"));
        assert_eq!(says(find_new(&flags, &env, &mut |_| Ok(Some(Zeroizing::new("x".into()))))), "x");
    }

    #[test]
    fn bad_secrets_are_refused_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        let table: [(&[u8], &str); 3] =
            [(b"\n", "no passphrase"), (b"\xff\n", "UTF-8"), (&[b'x'; 70_000], "too long")];
        for (bytes, why) in table {
            fs::write(&file, bytes).unwrap();
            let e = read_passphrase(&file).unwrap_err();
            assert!(e.kind() == Kind::Secret && e.to_string().contains(why), "{e}");
        }
        for text in ["12", &"0g".repeat(32), &"é".repeat(32)] {
            fs::write(&file, text).unwrap();
            assert_eq!(read_key(&file).unwrap_err().kind(), Kind::Secret);
        }
        assert_eq!(read_key(Path::new("/no/such")).unwrap_err().kind(), Kind::Secret);
        assert_eq!(run(&"exit 3".into()).unwrap_err().kind(), Kind::Secret);
    }

    #[test]
    fn a_key_file_is_private_and_never_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("etc/key");
        let key = make_key(&file, &SystemRandom).unwrap();
        assert_eq!(*read_key(&file).unwrap(), *key);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&file).unwrap().len(), 65);
        assert!(make_key(&file, &SystemRandom).is_err());
        assert_eq!(*read_key(&file).unwrap(), *key);
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }
}
