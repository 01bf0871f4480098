//! What a change costs in the store, and what a large drive costs in time and memory (DESIGN: cost follows the
//! change; promise 9). `NACREFS_TEST_FULL=1` runs the sizes that the promises name.

mod common;
use common::{TestDrive, full};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A size: the full one, or the short one.
fn sized(full_size: u64, short: u64) -> u64 {
    if full() { full_size } else { short }
}

/// Commits happen when they are asked for, and else not.
const BY_HAND: &str = "commit=3600";

/// xorshift64*: bytes that do not compress, the same in each run.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        let mut out = vec![0; n];
        out.chunks_mut(8).for_each(|c| c.copy_from_slice(&self.next().to_le_bytes()[..c.len()]));
        out
    }
}

/// Writes a file of random bytes.
fn fill(path: &Path, bytes: u64, dice: &mut Dice) {
    let mut f = File::create(path).unwrap();
    for _ in 0..bytes / MIB {
        f.write_all(&dice.bytes(MIB as usize)).unwrap();
    }
}

/// What the store grew by, in bytes, once all that `change` did is in it.
fn growth(d: &TestDrive, change: impl FnOnce()) -> u64 {
    d.sync();
    let before = d.store_bytes();
    change();
    d.sync();
    d.store_bytes() - before
}

fn median(mut all: Vec<u64>) -> u64 {
    all.sort_unstable();
    all[all.len() / 2]
}

/// Makes files `0..n` in a directory, `per` in each subdirectory, 200 bytes in each, on two threads.
fn make_files(dir: &Path, n: u64, per: u64) {
    fs::create_dir_all(dir).unwrap();
    let dirs = n.div_ceil(per);
    std::thread::scope(|s| {
        for half in 0..2 {
            s.spawn(move || {
                for at in (half..dirs).step_by(2) {
                    let sub = if dirs == 1 { dir.to_owned() } else { dir.join(format!("d{at}")) };
                    fs::create_dir_all(&sub).unwrap();
                    for i in at * per..n.min((at + 1) * per) {
                        fs::write(sub.join(format!("file-{i}")), [i as u8; 200]).unwrap();
                    }
                }
            });
        }
    });
}

/// A figure of `/proc/PID/status`, in bytes.
fn status(pid: i32, what: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|l| l.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * KIB
}

/// The most memory that the daemon had resident while `work` ran, in bytes.
fn peak(d: &TestDrive, what: &str, work: impl FnOnce()) -> u64 {
    let pid = d.pid();
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
    let begun = Instant::now();
    work();
    let peak = status(pid, "VmHWM:");
    println!(
        "{what}: at most {} MiB, then {} MiB; {:.1} s",
        peak / MIB,
        status(pid, "VmRSS:") / MIB,
        begun.elapsed().as_secs_f64()
    );
    peak
}

#[test]
fn a_changed_byte_and_random_writes_cost_what_was_written() {
    let d = TestDrive::with(BY_HAND);
    let size = sized(1 << 30, 128 << 20);
    let mut dice = Dice(1);
    let path = d.mnt.join("image");
    fill(&path, size, &mut dice);
    let f = OpenOptions::new().write(true).open(&path).unwrap();
    let byte = growth(&d, || f.write_all_at(b"x", size / 3).unwrap());
    println!("one byte changed in {} MiB: {} KiB", size / MIB, byte / KIB);
    assert!(byte <= 320 * KIB, "one byte changed: {byte} bytes more");

    let writes: Vec<u64> = (0..1000).map(|_| dice.below(size / 4096) * 4096).collect();
    let random = growth(&d, || {
        for at in &writes {
            f.write_all_at(&dice.bytes(4096), *at).unwrap();
        }
    });
    println!("1,000 random writes of 4 KiB in {} MiB: {} KiB", size / MIB, random / KIB);
    assert!(random <= 16 * MIB, "1,000 random writes of 4 KiB: {random} bytes more");
}

#[test]
fn appends_to_a_log_cost_what_is_appended() {
    let d = TestDrive::with(BY_HAND);
    let (size, appends) = (sized(1 << 30, 64 << 20), sized(1000, 100));
    let mut dice = Dice(2);
    let path = d.mnt.join("log");
    fill(&path, size, &mut dice);
    let mut f = OpenOptions::new().append(true).open(&path).unwrap();
    let grown = growth(&d, || {
        for _ in 0..appends {
            f.write_all(&dice.bytes(4096)).unwrap();
            d.sync();
        }
    });
    println!("{appends} appends of 4 KiB to {} MiB, each committed: {} KiB", size / MIB, grown / KIB);
    assert!(grown <= appends * MIB / 10, "{appends} appends: {grown} bytes more");
}

#[test]
fn a_sparse_terabyte_costs_what_is_in_it() {
    let mut d = TestDrive::with(BY_HAND);
    let path = d.mnt.join("sparse");
    let places = [5_000u64, 1 << 39, (1 << 40) - 1];
    let begun = Instant::now();
    let grown = growth(&d, || {
        let f = File::create(&path).unwrap();
        for at in places {
            f.write_all_at(b"!", at).unwrap();
        }
    });
    d.remount();
    let f = File::open(&path).unwrap();
    assert_eq!(f.metadata().unwrap().len(), 1 << 40);
    let mut from = 0;
    for at in places {
        from = rustix::fs::seek(&f, rustix::fs::SeekFrom::Data(from)).unwrap();
        assert!(from <= at && at - from < 4096, "data at {from}, not around {at}");
        let mut around = [7; 64];
        let n = f.read_at(&mut around, at - 32).unwrap();
        let want: Vec<u8> = (0..n).map(|i| if i == 32 { b'!' } else { 0 }).collect();
        assert_eq!(around[..n], want);
        from = rustix::fs::seek(&f, rustix::fs::SeekFrom::Hole(from)).unwrap();
    }
    rustix::fs::seek(&f, rustix::fs::SeekFrom::Data(from)).unwrap_err();
    let took = begun.elapsed();
    println!("three bytes in 1 TiB: {} KiB, {} ms in all", grown / KIB, took.as_millis());
    assert!(grown < MIB, "{grown} bytes");
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[test]
fn a_change_in_a_large_directory_costs_a_few_nodes() {
    let d = TestDrive::with(BY_HAND);
    let (files, changes) = (sized(100_000, 20_000), sized(50, 10));
    let dir = d.mnt.join("large");
    make_files(&dir, files, files);
    let mut dice = Dice(4);
    let costs: Vec<u64> = (0..changes)
        .map(|_| {
            let path = dir.join(format!("file-{}", dice.below(files)));
            growth(&d, || fs::write(&path, dice.bytes(200)).unwrap())
        })
        .collect();
    let most = costs.iter().max().unwrap() / KIB;
    let cost = median(costs);
    println!("one of {files} files changed: {} KiB (median), at most {most} KiB", cost / KIB);
    assert!(cost <= 96 * KIB, "one of {files} files changed: {cost} bytes more");

    let renamed = growth(&d, || fs::rename(&dir, d.mnt.join("renamed")).unwrap());
    println!("a directory of {files} renamed: {} KiB", renamed / KIB);
    assert!(renamed <= 64 * KIB, "a directory of {files} renamed: {renamed} bytes more");
}

/// Batches in both directories by turns, so that whatever else the machine does hits both.
#[test]
fn creating_costs_the_same_in_a_large_directory() {
    let d = TestDrive::with(BY_HAND);
    let files = sized(100_000, 20_000);
    let dirs = [(d.mnt.join("small"), 100), (d.mnt.join("large"), files)];
    for (dir, n) in &dirs {
        make_files(dir, *n, *n);
    }
    d.sync();
    for (dir, n) in &dirs {
        // Both as warm as somebody who works there leaves them.
        assert_eq!(fs::read_dir(dir).unwrap().count() as u64, *n);
    }
    let mut times = [Vec::new(), Vec::new()];
    for batch in 0..30 {
        for ((dir, _), times) in dirs.iter().zip(&mut times) {
            let begun = Instant::now();
            for i in 0..20 {
                File::create(dir.join(format!("new-{batch}-{i}"))).unwrap();
            }
            times.push(begun.elapsed().as_nanos() as u64);
            for i in 0..20 {
                fs::remove_file(dir.join(format!("new-{batch}-{i}"))).unwrap();
            }
        }
    }
    let [small, large] = times.map(median);
    println!("20 files made: {} µs in 100, {} µs in {files}", small / 1000, large / 1000);
    assert!(
        large <= 2 * small,
        "20 files made: {small} ns in a directory of 100, {large} ns in one of {files}"
    );
}

#[test]
fn a_drive_of_many_files_mounts_fast_and_stays_within_its_memory() {
    let memory = sized(256, 64);
    let files = sized(1_000_000, 100_000);
    let mut d = TestDrive::with(&format!("memory={memory}M"));
    let limit = (memory + 64) * MIB;
    let filled = peak(&d, "filling", || {
        make_files(&d.mnt.join("files"), files, 1000);
        d.sync();
    });
    println!("{} bytes in the store for each file", d.store_bytes() / files);
    d.umount();
    let begun = Instant::now();
    d.mount();
    let mounted = begun.elapsed();
    println!("{files} files mounted in {} ms", mounted.as_millis());
    assert!(mounted < Duration::from_secs(5), "mounting {files} files took {mounted:?}");
    let mut found = 0;
    let walked = peak(&d, "walking", || {
        found = d.sh("find . -type f -size -2 | wc -l").trim().parse::<u64>().unwrap();
        d.sh("find . -type f | wc -l");
    });
    assert_eq!(found, files);
    for (what, peak) in [("filled", filled), ("walked", walked)] {
        assert!(peak <= limit, "while it was {what}: {} MiB of {} MiB", peak / MIB, limit / MIB);
    }
}

#[test]
fn a_large_file_is_written_and_read_within_the_memory() {
    let (memory, size) = (sized(256, 64), sized(1 << 30, 256 << 20));
    let d = TestDrive::with(&format!("memory={memory}M"));
    let limit = (memory + 64) * MIB;
    let path = d.mnt.join("large");
    let written = peak(&d, "writing", || {
        fill(&path, size, &mut Dice(7));
        d.sync();
    });
    fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
    let read = peak(&d, "reading", || {
        d.sh("cat large > /dev/null");
    });
    for (what, peak) in [("written", written), ("read", read)] {
        assert!(peak <= limit, "while it was {what}: {} MiB of {} MiB", peak / MIB, limit / MIB);
    }
}

/// Each write costs memory besides its bytes: its place, and where it lies in the journal.
#[test]
fn writes_of_a_few_bytes_stay_within_the_memory() {
    let (memory, writes) = (sized(256, 32), sized(4_000_000, 400_000));
    let d = TestDrive::with(&format!("memory={memory}M,commit=3600"));
    let limit = (memory + 64) * MIB;
    let f = File::create(d.mnt.join("crumbs")).unwrap();
    let most = peak(&d, "writing crumbs", || {
        for i in 0..writes {
            f.write_all_at(b"x", i * 3 % (64 << 20)).unwrap();
        }
    });
    assert!(most <= limit, "{} MiB of {} MiB", most / MIB, limit / MIB);
}

/// Changing attributes makes changes as well, and extended attributes are memory.
#[test]
fn attributes_stay_within_the_memory() {
    let (memory, files, big) = (sized(256, 32), sized(400_000, 60_000), sized(10_000, 1500));
    let mut d = TestDrive::with(&format!("memory={memory}M,commit=3600"));
    let limit = (memory + 64) * MIB;
    make_files(&d.mnt.join("files"), files, 1000);
    d.sync();
    let within =
        |most: u64, what: &str| assert!(most <= limit, "{what}: {} MiB of {} MiB", most / MIB, limit / MIB);
    within(peak(&d, "chown", || drop(d.sh("chown -R 1000:1000 files"))), "chown");
    let values = format!(
        "import os\nfor n in range({big}):\n  f = 'big-%d' % n\n  open(f, 'w')\n  os.setxattr(f, 'user.x', os.urandom(60000))\n"
    );
    within(peak(&d, "large xattrs", || drop(d.sh(&format!("python3 - <<'E'\n{values}E")))), "large xattrs");
    d.remount();
    let read = "python3 -c 'import os; [os.getxattr(f, \"user.x\") for f in os.listdir() if f != \"files\"]'";
    within(peak(&d, "reading large xattrs", || drop(d.sh(read))), "reading large xattrs");
}

/// Removing makes changes as well: a tree is removed faster than it is committed.
#[test]
fn removing_many_files_stays_within_the_memory() {
    let (memory, files) = (sized(256, 32), sized(400_000, 60_000));
    let d = TestDrive::with(&format!("memory={memory}M,commit=3600"));
    let limit = (memory + 64) * MIB;
    make_files(&d.mnt.join("files"), files, 1000);
    d.sync();
    let most = peak(&d, "removing", || fs::remove_dir_all(d.mnt.join("files")).unwrap());
    assert!(most <= limit, "{} MiB of {} MiB", most / MIB, limit / MIB);
    assert_eq!(fs::read_dir(&d.mnt).unwrap().count(), 0);
}

/// The kernel remembers what it has seen for an hour, and each inode that it remembers costs a slot here.
#[test]
fn the_kernel_forgets_what_is_too_much_and_nothing_in_use() {
    use nacrefs::crypt::{KdfParams, Secret};
    use nacrefs::drive::Settings;
    use nacrefs::fuse::{Mount, MountConfig};
    use nacrefs::session::{self, Opening, Site, StateDir};
    use nacrefs::sys::{SystemClock, SystemRandom};

    let tmp = tempfile::Builder::new().prefix("nacre-test-").tempdir().unwrap();
    let [store, state, mnt] = ["store", "state", "mnt"].map(|name| tmp.path().join(name));
    fs::create_dir(&mnt).unwrap();
    let url = format!("file://{}", store.display());
    let secret = Secret::KeyFile(nacrefs::types::Key([7; 32]));
    session::init(&url, &secret, KdfParams::default(), (0, 0), false, &SystemClock, &SystemRandom).unwrap();
    let opening = Opening {
        site: Site::unlock(&url, &secret).unwrap(),
        state: StateDir::open(&state).unwrap(),
        settings: Settings { remembered: 1000, loaded_inodes: 100, ..Settings::within(64 << 20) },
        store_dir: Some(store.clone()),
        cache: 0,
    };
    let (drive, _) = session::open(opening).unwrap();
    let mount = Mount::new(drive.clone(), &mnt, &MountConfig::default()).unwrap();
    let serving = mount.spawn().unwrap();
    make_files(&mnt, 5000, 500);
    let open: Vec<File> = (0..20).map(|i| File::open(mnt.join(format!("d0/file-{i}"))).unwrap()).collect();
    assert!(drive.surplus() > 3000, "{}", drive.surplus());
    drive.commit_all().unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while drive.surplus() > 0 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(drive.surplus(), 0, "so many more than there should be");
    for (i, f) in open.iter().enumerate() {
        use std::os::fd::AsRawFd;
        let name = fs::read_link(format!("/proc/self/fd/{}", f.as_raw_fd())).unwrap();
        assert_eq!(name, mnt.join(format!("d0/file-{i}")), "an open file looks deleted");
    }
    drop(open);
    for i in 0..5000u64 {
        assert_eq!(fs::read(mnt.join(format!("d{}/file-{i}", i / 500))).unwrap(), [i as u8; 200]);
    }
    let unmounter = serving.unmounter();
    unmounter.unmount().unwrap();
    serving.wait().unwrap();
}

#[test]
fn small_files_cost_little_more_than_their_bytes() {
    let d = TestDrive::with(BY_HAND);
    let n = 10_000;
    let mut dice = Dice(9);
    let dir = d.mnt.join("small");
    fs::create_dir(&dir).unwrap();
    let grown = growth(&d, || {
        for i in 0..n {
            fs::write(dir.join(format!("file-{i}")), dice.bytes(1000)).unwrap();
        }
    });
    println!("{n} files of 1,000 bytes: {} bytes each", grown / n);
    assert!(grown <= n * 1600, "{} bytes for each file of 1,000", grown / n);
}
