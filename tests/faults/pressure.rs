//! A full journal whose store is away: who waits, who is refused, and that nothing acknowledged is lost.

use crate::common::{NACREFS, TestDrive};
use crate::lab::*;
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{Error, Result};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const LIMIT: u64 = 16 << 20;
const TIMEOUT: Duration = Duration::from_secs(2);
/// How many files there are beforehand.
const FILES: usize = 40;

fn file(d: &TestDrive, n: usize) -> PathBuf {
    d.mnt.join(format!("file-{n:02}"))
}

fn journal_bytes(d: &TestDrive) -> u64 {
    status(d)["journal_bytes"].as_u64().unwrap()
}

/// A drive with files, whose store is gone (it is at the path that is returned) and whose journal has room for a few
/// small records.
fn full_journal() -> (TestDrive, PathBuf) {
    let d = TestDrive::with(&format!("commit=3600,timeout={},journal=16M", TIMEOUT.as_secs()));
    for n in 0..FILES {
        fs::write(file(&d, n), noise(n as u64, 3000)).unwrap();
        set_xattr(&file(&d, n), "user.before").unwrap();
    }
    d.sync();
    let away = d.dir().join("away");
    fs::rename(&d.store, &away).unwrap();
    let big = File::create(d.mnt.join("big")).unwrap();
    let mut at = 0;
    for step in [256 << 10, 16 << 10] {
        while big.write_all_at(&noise(at, step), at).is_ok() {
            at += step as u64;
            assert!(at < 2 * LIMIT, "the journal has no end");
        }
    }
    (d, away)
}

fn path_of(path: &Path) -> std::ffi::CString {
    std::ffi::CString::new(path.to_str().unwrap()).unwrap()
}

fn set_xattr(path: &Path, name: &str) -> Result<()> {
    let (path, name) = (path_of(path), std::ffi::CString::new(name).unwrap());
    let done = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), b"value".as_ptr().cast(), 5, 0) };
    if done == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

fn make_fifo(path: &Path) -> Result<()> {
    let done = unsafe { libc::mkfifo(path_of(path).as_ptr(), 0o600) };
    if done == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

/// What is to be seen without the store: the names, and of each the mode, the size and the number of links.
fn shape(dir: &Path) -> BTreeMap<PathBuf, (u32, u64, u64)> {
    let look = |e: std::io::Result<fs::DirEntry>| {
        let (path, meta) = e.and_then(|e| Ok((e.path(), e.metadata()?))).unwrap();
        (path, (meta.mode(), meta.len(), meta.nlink()))
    };
    fs::read_dir(dir).unwrap().map(look).collect()
}

/// Does it until it is refused; how often it was done, and how long the refusal took.
fn until_refused(what: &str, mut run: impl FnMut(usize) -> Result<()>) -> (usize, Duration) {
    for n in 0..2_000_000 {
        let begun = Instant::now();
        if let Err(e) = run(n) {
            assert_eq!(e.raw_os_error(), Some(libc::ENOSPC), "{what} {n}");
            return (n, begun.elapsed());
        }
    }
    panic!("{what} is never refused");
}

#[test]
fn at_a_full_journal_every_change_waits_and_is_refused_in_time_but_removes_go_on_and_nothing_is_lost() {
    let (mut d, away) = full_journal();
    // Each thread hammers one kind of change, on a file of its own.
    type Run<'a> = Box<dyn FnMut(usize) -> Result<()> + Send + 'a>;
    let at = |name: String| d.mnt.join(name);
    let kinds: Vec<(&str, Run)> = vec![
        (
            "chmod",
            Box::new(|n| fs::set_permissions(file(&d, 0), Permissions::from_mode(0o600 | (n as u32 % 64)))),
        ),
        ("utimes", Box::new(|_| File::open(file(&d, 1))?.set_modified(std::time::SystemTime::now()))),
        ("setxattr", Box::new(|n| set_xattr(&file(&d, 2), &format!("user.{n}")))),
        ("link", Box::new(|n| fs::hard_link(file(&d, 3), at(format!("link-{n}"))))),
        ("mkfifo", Box::new(|n| make_fifo(&at(format!("fifo-{n}"))))),
        ("mkdir", Box::new(|n| fs::create_dir(at(format!("dir-{n}"))))),
        ("symlink", Box::new(|n| std::os::unix::fs::symlink("x", at(format!("symlink-{n}"))))),
        ("truncate", Box::new(|n| File::options().write(true).open(file(&d, 4))?.set_len(4000 + n as u64))),
    ];
    let done: Vec<(&str, usize)> = std::thread::scope(|scope| {
        let threads: Vec<_> = kinds
            .into_iter()
            .map(|(what, mut run)| scope.spawn(move || (what, until_refused(what, &mut *run))))
            .collect();
        threads
            .into_iter()
            .map(|t| {
                let (what, (done, waited)) = t.join().unwrap();
                println!("{what}: {done} done, then refused after {waited:?}");
                // Those who make names in one directory wait for each other, in the kernel.
                assert!(waited >= TIMEOUT && waited < 10 * TIMEOUT, "{what}: {waited:?}");
                (what, done)
            })
            .collect()
    });
    let at = |name: String| d.mnt.join(name);
    let done = |what: &str| done.iter().find(|(w, _)| *w == what).unwrap().1;
    let full = journal_bytes(&d);
    assert!(full <= LIMIT * 3 / 4, "those that free nothing leave the reserve: {full}");

    // While others wait for room, removes pass them.
    let waiting: Vec<_> = (0..12)
        .map(|_| {
            let path = file(&d, 0);
            std::thread::spawn(move || fs::set_permissions(path, Permissions::from_mode(0o777)))
        })
        .collect();
    std::thread::sleep(Duration::from_millis(200));
    let begun = Instant::now();
    (20..30).for_each(|n| fs::remove_file(file(&d, n)).unwrap());
    (0..done("mkfifo")).for_each(|n| fs::remove_file(at(format!("fifo-{n}"))).unwrap());
    File::options().write(true).open(file(&d, 5)).unwrap().set_len(1000).unwrap();
    assert!(begun.elapsed() < TIMEOUT / 2, "removes wait: {:?}", begun.elapsed());
    for t in waiting {
        assert_eq!(t.join().unwrap().unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    }

    // The reserve has an end too, and it is not overrun.
    let long = |c: &str| d.mnt.join(c.repeat(250));
    fs::rename(file(&d, 10), long("a")).unwrap();
    let names = [long("a"), long("b")];
    let (renamed, waited) = until_refused("rename", |n| fs::rename(&names[n % 2], &names[(n + 1) % 2]));
    println!("rename: {renamed} done, then refused after {waited:?}; {} bytes", journal_bytes(&d));
    assert!(waited >= TIMEOUT && waited < 10 * TIMEOUT, "{waited:?}");
    let bytes = journal_bytes(&d);
    assert!(bytes > full && bytes <= LIMIT, "{bytes}");

    File::open(&d.mnt).unwrap().sync_all().unwrap();
    let before = shape(&d.mnt);
    d.kill();
    fs::rename(&away, &d.store).unwrap();
    d.mount();
    assert_eq!(shape(&d.mnt), before, "what was acknowledged and synced is there after a crash");
    let mode = fs::metadata(file(&d, 0)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode, done("chmod").checked_sub(1).map_or(0o644, |n| 0o600 | (n as u32 % 64)));
    assert_eq!(fs::metadata(file(&d, 3)).unwrap().permissions().mode() & 0o7777, 0o644);
    for n in 30..FILES {
        assert!(fs::read(file(&d, n)).unwrap() == noise(n as u64, 3000), "file {n}");
    }
    assert!(!file(&d, 20).exists() && names[renamed % 2].exists() && !names[(renamed + 1) % 2].exists());
    assert_eq!(fs::metadata(file(&d, 5)).unwrap().len(), 1000);
    d.sync();
    fs::write(d.mnt.join("room again"), noise(1, 100_000)).unwrap();
    d.move_to_a_new_machine();
    assert!(fs::read(d.mnt.join("room again")).unwrap() == noise(1, 100_000));
}

#[test]
fn cat_tells_what_is_not_committed_while_the_store_is_away() {
    let d = TestDrive::with("commit=3600");
    fs::write(d.mnt.join("f"), noise(1, 100_000)).unwrap();
    d.sync();
    fs::write(d.mnt.join("f"), noise(2, 200_000)).unwrap();
    let away = d.dir().join("away");
    fs::rename(&d.store, &away).unwrap();
    let out = Command::new(NACREFS).arg("cat").arg(d.mnt.join("f")).output().unwrap();
    assert!(
        out.status.success() && out.stdout == noise(2, 200_000),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let missing = run(Command::new(NACREFS).arg("cat").arg(d.mnt.join("none")));
    let _ = missing.expect(1, &["there is no such file"]);
    // What only the store knows is refused at once.
    let begun = Instant::now();
    let said = run(Command::new(NACREFS).args(["cat", "--at", "1"]).arg(d.mnt.join("f")));
    assert_eq!(said.exit, 4, "{said:?}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    fs::rename(&away, &d.store).unwrap();
    let out = Command::new(NACREFS).args(["cat", "--at", "2"]).arg(d.mnt.join("f")).output().unwrap();
    assert!(out.stdout == noise(1, 100_000), "nothing was committed for the asking");
}

/// However many wait, none waits for longer than it was told: not for the others' time either.
#[test]
fn many_writers_at_a_full_journal_are_refused_together() {
    let (d, away) = full_journal();
    let waits: Vec<Duration> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..FILES)
            .map(|n| {
                let d = &d;
                scope.spawn(move || {
                    let f = File::options().write(true).open(file(d, n)).unwrap();
                    let begun = Instant::now();
                    let refused = f.write_all_at(&noise(n as u64, 200_000), 0).unwrap_err();
                    assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC));
                    begun.elapsed()
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let longest = waits.iter().max().unwrap();
    assert!(*longest < TIMEOUT * 2, "{longest:?} of {TIMEOUT:?}");
    fs::rename(away, &d.store).unwrap();
}
