//! Promise 4: neither the store nor the state directory holds contents or names, in any form.

mod common;
use common::terminal::converse;
use common::{NACREFS, TestDrive, ok, private_file};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const MARK: &str = "nacre-oyster-PEARL-4711-lustre";

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for e in fs::read_dir(dir).into_iter().flatten().flatten() {
        match e.file_type() {
            Ok(t) if t.is_dir() => out.extend(files(&e.path())),
            Ok(t) if t.is_file() => out.push(e.path()),
            _ => {}
        }
    }
    out
}

fn base64(bytes: &[u8]) -> String {
    const ABC: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for c in bytes.chunks_exact(3) {
        let n = u32::from(c[0]) << 16 | u32::from(c[1]) << 8 | u32::from(c[2]);
        for shift in [18, 12, 6, 0] {
            out.push(char::from(ABC[(n >> shift & 63) as usize]));
        }
    }
    out
}

/// Each form that a mark could be found in.
fn forms(mark: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let hex: String = mark.iter().map(|b| format!("{b:02x}")).collect();
    let utf16: Vec<u16> = mark.iter().map(|b| u16::from(*b)).collect();
    let mut out = vec![
        ("raw", mark.to_vec()),
        ("hex", hex.clone().into_bytes()),
        ("HEX", hex.to_uppercase().into_bytes()),
        ("utf-16le", utf16.iter().flat_map(|c| c.to_le_bytes()).collect()),
        ("utf-16be", utf16.iter().flat_map(|c| c.to_be_bytes()).collect()),
        ("reversed", mark.iter().rev().copied().collect()),
    ];
    for skip in 0..3 {
        out.push(("base64", base64(&mark[skip..]).into_bytes()));
    }
    out
}

fn contains(hay: &[u8], needle: &[u8]) -> bool {
    let first = needle[0];
    let mut at = 0;
    while let Some(i) = hay[at..].iter().position(|b| *b == first) {
        if hay[at + i..].starts_with(needle) {
            return true;
        }
        at += i + 1;
    }
    false
}

/// Compressed forms of a file's content: a stretch from the middle of each stream.
fn compressed(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut out = Vec::new();
    for quality in [0, 1, 2, 5, 6, 9, 11] {
        let mut stream = Vec::new();
        let params = brotli::enc::BrotliEncoderParams { quality, lgwin: 16, ..Default::default() };
        brotli::BrotliCompress(&mut &bytes[..], &mut stream, &params).unwrap();
        if stream.len() >= 64 {
            out.push(("brotli", stream[stream.len() / 2..stream.len() / 2 + 24].to_vec()));
        }
    }
    out
}

fn search(d: &TestDrive, needles: &[(&str, Vec<u8>)], when: &str) {
    let mut searched = 0;
    for dir in [&d.store, &d.state] {
        for path in files(dir) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            assert!(!name.contains(MARK), "{when}: {}", path.display());
            let bytes = fs::read(&path).unwrap();
            searched += bytes.len();
            for (form, needle) in needles {
                assert!(!contains(&bytes, needle), "{when}: {} holds the mark ({form})", path.display());
            }
        }
    }
    assert!(searched > 100_000, "{when}: there was something to search");
}

fn words(seed: u32, n: usize) -> String {
    let mut x = seed;
    let mut out = String::new();
    while out.len() < n {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        out.push_str(&format!("{MARK} word{} ", x >> 20));
    }
    out
}

#[test]
fn neither_store_nor_state_holds_contents_or_names() {
    let mut d = TestDrive::new();
    let (small, middle, large) = (words(1, 100), words(2, 20_000), words(3, 3_000_000));
    for (name, text) in [("small", &small), ("middle", &middle), ("large", &large)] {
        fs::write(d.mnt.join(format!("{MARK}-{name}")), text).unwrap();
    }
    d.sh(&format!("mkdir {MARK}-dir && ln -s /{MARK}/target link && setfattr -n user.{MARK} -v {MARK} {MARK}-dir; ln {MARK}-small {MARK}-dir/{MARK}-hard"));
    let mut needles = forms(MARK.as_bytes());
    needles.extend(compressed(middle.as_bytes()));
    search(&d, &needles, "while mounted");
    d.sync();
    d.sh(&format!("echo {MARK} again > {MARK}-late; sync {MARK}-late"));
    d.kill();
    search(&d, &needles, "after a kill");
    d.mount();
    assert_eq!(fs::read_to_string(d.mnt.join(format!("{MARK}-large"))).unwrap(), large);
    d.umount();
    search(&d, &needles, "after unmounting");
}

#[test]
fn two_drives_with_the_same_file_share_no_object_and_no_run_of_bytes() {
    let text = words(9, 400_000);
    let mut blocks: Vec<BTreeSet<Vec<u8>>> = Vec::new();
    let mut names: Vec<BTreeSet<String>> = Vec::new();
    for _ in 0..2 {
        let mut d = TestDrive::new();
        fs::write(d.mnt.join("same"), &text).unwrap();
        d.umount();
        let packs: Vec<PathBuf> =
            files(&d.store).into_iter().filter(|p| p.to_string_lossy().contains("/packs/")).collect();
        assert!(!packs.is_empty());
        names.push(packs.iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect());
        // Every 16 bytes at any offset of the second would be found at an aligned offset of the first.
        blocks.push(
            packs
                .iter()
                .flat_map(|p| {
                    fs::read(p).unwrap().windows(16).map(<[u8]>::to_vec).step_by(1).collect::<Vec<_>>()
                })
                .filter(|w| w.iter().any(|b| *b != 0))
                .take(600_000)
                .collect(),
        );
    }
    assert!(names[0].is_disjoint(&names[1]));
    let shared: Vec<_> = blocks[0].intersection(&blocks[1]).collect();
    assert!(shared.len() < 64, "{} runs of 16 bytes stand in both stores", shared.len());
}

/// All that a process has in memory of its own: what a core file or a debugger would show.
fn memory_of(pid: i32) -> Vec<(String, Vec<u8>)> {
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut out = Vec::new();
    for line in fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().lines() {
        let (range, rest) = line.split_once(' ').unwrap();
        if !rest.starts_with("rw") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        let mut bytes = vec![0; (end - start) as usize];
        if memory.read_exact_at(&mut bytes, start).is_ok() {
            out.push((line.to_owned(), bytes));
        }
    }
    assert!(
        out.iter().any(|(line, _)| line.ends_with("[heap]"))
            && out.iter().any(|(line, _)| line.ends_with("[stack]"))
    );
    out
}

/// Pieces of a secret: one of them is in every copy of a part that would help anybody.
fn pieces(secret: &[u8]) -> Vec<Vec<u8>> {
    secret.chunks_exact(12).map(<[u8]>::to_vec).collect()
}

/// Everything that anybody could read of a daemon must be without these.
fn search_process(d: &TestDrive, pid: i32, secret: &[u8], when: &str) {
    let proc = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap();
    let mut places = memory_of(pid);
    assert!(places.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() > 1_000_000);
    for name in ["cmdline", "environ", "comm", "status", "limits"] {
        places.push((name.into(), proc(name)));
    }
    places.push(("the log".into(), fs::read(d.state.join("log")).unwrap_or_default()));
    for (place, bytes) in &places {
        for piece in pieces(secret) {
            assert!(!contains(bytes, &piece), "{when}: {place} holds {}", String::from_utf8_lossy(&piece));
        }
    }
}

/// The command without any secret, which a caller adds.
fn bare(d: &TestDrive, line: &[&str]) -> Command {
    let mut c = Command::new(NACREFS);
    c.args(line).current_dir(d.dir()).stdin(Stdio::null()).env("NACREFS_STATE_DIR", &d.state);
    c.env("NACREFS_LOG", "nacrefs=trace");
    for name in ["NACREFS_PASSPHRASE", "NACREFS_PASSPHRASE_FILE", "NACREFS_PASSPHRASE_COMMAND"] {
        c.env_remove(name);
    }
    c
}

const PASSPHRASE: &str = "barnacle quartz 4711 heron / seven tall umbrellas";

#[test]
fn a_daemon_shows_its_secret_to_nobody_however_it_was_given() {
    let d = TestDrive::unmounted("commit=1");
    private_file(&d.dir().join("pass"), &format!("{PASSPHRASE}\n"));
    let credentials = d.dir().join("credentials");
    fs::create_dir(&credentials).unwrap();
    private_file(&credentials.join("nacrefs.passphrase"), PASSPHRASE);
    ok(d.nacrefs(&["key", "add", "store", "--new-passphrase-file", "pass"]).current_dir(d.dir()).output());
    let key = fs::read_to_string(&d.key).unwrap();
    let raw: Vec<u8> = key
        .trim()
        .as_bytes()
        .chunks(2)
        .map(|c| u8::from_str_radix(std::str::from_utf8(c).unwrap(), 16).unwrap())
        .collect();

    let mnt = d.mnt.to_str().unwrap();
    let line = ["mount", "store", mnt];
    let look = |when: &str, secrets: &[&[u8]]| {
        let pid = d.pid();
        for secret in secrets {
            search_process(&d, pid, secret, when);
        }
        assert!(
            fs::read_to_string(d.mnt.join("file")).is_ok_and(|t| t == "x")
                || fs::write(d.mnt.join("file"), "x").is_ok()
        );
        ok(Command::new(NACREFS).arg("umount").arg(&d.mnt).output());
    };
    let passphrase = [PASSPHRASE.as_bytes()];
    let mount = |c: &mut Command, when: &str| {
        ok(c.output());
        look(when, &passphrase);
    };
    mount(bare(&d, &line).args(["--passphrase-file", "pass"]), "from a file");
    mount(bare(&d, &line).env("NACREFS_PASSPHRASE", PASSPHRASE), "from the environment");
    let mut c = bare(&d, &line);
    c.env("NACREFS_PASSPHRASE", PASSPHRASE).env("NACREFS_NEW_PASSPHRASE", PASSPHRASE);
    mount(c.args(["--key-file", "key"]), "in the environment, and not needed");
    mount(bare(&d, &line).env("CREDENTIALS_DIRECTORY", &credentials), "from a credential");
    // The command sees nothing of the others.
    let command = "env >seen; cat pass";
    let mut c = bare(&d, &line);
    mount(
        c.env("NACREFS_PASSPHRASE_COMMAND", command).env("NACREFS_PASSPHRASE", PASSPHRASE),
        "from a command",
    );
    let seen = fs::read_to_string(d.dir().join("seen")).unwrap();
    assert!(seen.contains("NACREFS_STATE_DIR=") && !seen.contains("PASSPHRASE"), "{seen}");
    let said = converse(&mut bare(&d, &line), &[("Passphrase: ", PASSPHRASE)]);
    assert!(said.status.success() && !said.screen.contains("umbrellas"), "{said:?}");
    look("from the terminal", &passphrase);
    ok(bare(&d, &line).args(["--key-file", "key"]).output());
    look("from a key file", &[&raw, key.as_bytes()]);
}

/// The supervisor keeps what it cannot read again, in locked memory and nowhere else.
#[test]
fn a_supervisor_keeps_a_passphrase_locked_and_a_file_not_at_all() {
    let d = TestDrive::unmounted("");
    private_file(&d.dir().join("pass"), PASSPHRASE);
    ok(d.nacrefs(&["key", "add", "store", "--new-passphrase-file", "pass"]).current_dir(d.dir()).output());
    let mnt = d.mnt.to_str().unwrap();
    let line = ["mount", "store", mnt, "-o", "restart=on"];
    for (from_file, kept) in [(false, 1), (true, 0)] {
        let mut c = bare(&d, &line);
        match from_file {
            true => c.args(["--passphrase-file", "pass"]),
            false => c.env("NACREFS_PASSPHRASE", PASSPHRASE),
        };
        ok(c.output());
        let supervisor = supervisor_of(&d);
        let held: usize = memory_of(supervisor)
            .iter()
            .map(|(_, bytes)| bytes.windows(PASSPHRASE.len()).filter(|w| *w == PASSPHRASE.as_bytes()).count())
            .sum();
        assert_eq!(held, kept, "from a file: {from_file}");
        let status = fs::read_to_string(format!("/proc/{supervisor}/status")).unwrap();
        let locked = status.lines().find_map(|l| l.strip_prefix("VmLck:")).unwrap().trim();
        assert_eq!(locked != "0 kB", !from_file, "{locked}");
        ok(Command::new(NACREFS).arg("umount").arg(&d.mnt).output());
    }
}

/// The process with one thread that stands beside the daemon.
fn supervisor_of(d: &TestDrive) -> i32 {
    let daemon = d.pid();
    let parent_of = |pid: i32| -> i32 {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().find_map(|l| l.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
    };
    let threads = |pid: i32| fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
    if threads(daemon) == 1 { daemon } else { parent_of(daemon) }
}

/// Changing the user needs root.
fn as_user(c: &mut Command) -> &mut Command {
    use std::os::unix::process::CommandExt;
    c.uid(NOBODY).gid(NOBODY)
}

const NOBODY: u32 = 65534;

#[test]
fn a_users_own_processes_cannot_read_the_daemons_memory_and_control_it_all_the_same() {
    let d = TestDrive::unmounted("commit=1");
    ok(Command::new("chown").args(["-R", &format!("{NOBODY}:{NOBODY}")]).arg(d.dir()).output());
    let key = ["--key-file", "key"];
    let mount = d.mnt.to_str().unwrap();
    ok(as_user(bare(&d, &["init", "own"]).args(key)).output());
    ok(as_user(bare(&d, &["mount", "own", mount]).args(key)).output());
    let pid = d.pid();
    let user = |line: &[&str]| as_user(Command::new(line[0]).args(&line[1..])).output().unwrap();
    for file in ["mem", "environ", "maps", "fd"] {
        let out = user(&["dd", "count=1", &format!("if=/proc/{pid}/{file}")]);
        assert!(!out.status.success(), "/proc/{pid}/{file} can be read");
    }
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"]);
    // What has no need of the daemon's memory works: fusermount3 has mounted, status and sync are answered.
    assert!(user(&["sh", "-c", &format!("echo x >{mount}/file && sync {mount}/file")]).status.success());
    let status = as_user(&mut bare(&d, &["status", mount, "--json"])).output().unwrap();
    assert!(String::from_utf8(ok(Ok(status)).stdout).unwrap().contains("\"online\":true"));
    ok(as_user(&mut bare(&d, &["umount", mount])).output());
}
