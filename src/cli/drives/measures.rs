//! What the metrics of a mounted drive say.

use super::mounted::Inner;
use crate::cli::metrics::{Kind, Page};
use crate::store::{Counts, Request};
use std::time::Duration;

/// Bytes a second that went to the store while something went; `None` before anything did.
pub fn store_speed(requests: &Counts) -> Option<u64> {
    let puts = [Request::Put, Request::Create].map(|r| requests.of(r));
    let bytes: u64 = puts.iter().map(|t| t.bytes.get()).sum();
    let time: Duration = puts.iter().map(|t| t.answered.total()).sum();
    let speed = bytes as f64 / time.as_secs_f64();
    // The first version of a new mount may be a few hundred bytes, which says nothing.
    (bytes > 1 << 20 && speed.is_finite()).then_some(speed as u64)
}

/// What this process has in memory, in bytes; 0 where the kernel does not tell.
pub fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// The name of an errno, for those that a file system answers with.
fn errno_name(errno: i32) -> String {
    let name = match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EINTR => "EINTR",
        libc::EIO => "EIO",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::EXDEV => "EXDEV",
        libc::ENOTDIR => "ENOTDIR",
        libc::EISDIR => "EISDIR",
        libc::EINVAL => "EINVAL",
        libc::EFBIG => "EFBIG",
        libc::ENOSPC => "ENOSPC",
        libc::EROFS => "EROFS",
        libc::EMLINK => "EMLINK",
        libc::ERANGE => "ERANGE",
        libc::ENAMETOOLONG => "ENAMETOOLONG",
        libc::ENOTEMPTY => "ENOTEMPTY",
        libc::ENODATA => "ENODATA",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::EOVERFLOW => "EOVERFLOW",
        libc::ENXIO => "ENXIO",
        libc::E2BIG => "E2BIG",
        libc::ELOOP => "ELOOP",
        libc::ESTALE => "ESTALE",
        libc::EDQUOT => "EDQUOT",
        other => return other.to_string(),
    };
    name.to_owned()
}

/// Writes the metrics of a mounted drive.
pub fn measure(drive: &Inner, page: &mut Page) {
    use Kind::{Counter, Gauge, Info};
    let build = [("version", env!("CARGO_PKG_VERSION"))];
    page.family("nacrefs_build", Info, "", "The version of the daemon.").value(&build, 1);

    kernel(drive, page);
    journal(drive, page);
    commits(drive, page);
    store(drive, page);

    let f = drive.drive.figures();
    page.family("nacrefs_cache_hits", Counter, "", "Chunks that were found opened in memory.")
        .value(&[], f.cache_hits);
    page.family("nacrefs_cache_misses", Counter, "", "Looks for an opened chunk that was not in memory.")
        .value(&[], f.cache_misses);
    page.family("nacrefs_cache_bytes", Gauge, "bytes", "Opened chunks in memory.")
        .value(&[], f.cache_bytes as u64);
    page.family("nacrefs_cache_limit_bytes", Gauge, "bytes", "The most that they may take.")
        .value(&[], f.cache_limit as u64);
    page.family("nacrefs_inodes", Gauge, "", "Inodes: remembered by the kernel, loaded, with changes.")
        .value(&[("state", "remembered")], f.inodes as u64)
        .value(&[("state", "loaded")], f.loaded as u64)
        .value(&[("state", "changed")], f.changed as u64);
    page.family("nacrefs_waiting_operations", Gauge, "", "Operations that wait for room now.")
        .value(&[], f.waiting as u64);
    page.family("nacrefs_held_back_operations", Counter, "", "Operations that were made to wait for room.")
        .value(&[], f.held_back);
    page.family("nacrefs_held_back_seconds", Counter, "seconds", "How long they waited, in all.")
        .seconds(&[], f.held_back_for);
    page.family("nacrefs_read_only", Gauge, "", "1 where nothing can be changed.")
        .value(&[], f.read_only.into());
    page.family("nacrefs_memory_bytes", Gauge, "bytes", "What the daemon has in memory.")
        .value(&[], resident_bytes());
    page.family("nacrefs_memory_limit_bytes", Gauge, "bytes", "The budget of memory.")
        .value(&[], drive.options.memory);
    page.family("nacrefs_mount_timestamp_seconds", Gauge, "seconds", "When it was mounted (Unix time).")
        .value(&[], drive.mounted.0.sec.max(0) as u64);
}

fn kernel(drive: &Inner, page: &mut Page) {
    use Kind::Counter;
    let calls = page.family("nacrefs_operations", Counter, "", "Requests of the kernel that were answered.");
    for (call, n) in drive.calls.calls() {
        calls.value(&[("operation", call.name())], n);
    }
    let errors = page.family("nacrefs_operation_errors", Counter, "", "Answers that were an errno.");
    for (errno, n) in drive.calls.errors() {
        errors.value(&[("errno", &errno_name(errno))], n);
    }
    page.family("nacrefs_read_bytes", Counter, "bytes", "Bytes of files that the kernel read.")
        .value(&[], drive.calls.read.get());
    page.family("nacrefs_written_bytes", Counter, "bytes", "Bytes of files that the kernel wrote.")
        .value(&[], drive.calls.written.get());
}

fn journal(drive: &Inner, page: &mut Page) {
    use Kind::{Counter, Gauge};
    let (usage, counts) = (drive.drive.journal().usage(), drive.drive.journal().counts());
    page.family("nacrefs_journal_bytes", Gauge, "bytes", "What is in the journal.").value(&[], usage.bytes);
    page.family("nacrefs_journal_limit_bytes", Gauge, "bytes", "The limit of the journal.")
        .value(&[], usage.limit);
    page.family("nacrefs_journal_records", Counter, "", "Changes that were acknowledged.")
        .value(&[], counts.records.get());
    page.family("nacrefs_journal_appended_bytes", Counter, "bytes", "Their bytes, before sealing.")
        .value(&[], counts.bytes.get());
    page.family("nacrefs_journal_syncs", Counter, "", "Times that the journal was made durable.")
        .value(&[], counts.syncs.times());
    page.family("nacrefs_journal_sync_seconds", Counter, "seconds", "How long that took, in all.")
        .seconds(&[], counts.syncs.total());
    page.family("nacrefs_journal_failures", Counter, "", "Writes and syncs of the journal that failed.")
        .value(&[], counts.failures.get());
    let dirty = drive.drive.unstored_bytes();
    page.family("nacrefs_dirty_bytes", Gauge, "bytes", "What is not yet in the store.").value(&[], dirty);
}

fn commits(drive: &Inner, page: &mut Page) {
    use Kind::{Counter, Gauge};
    let p = drive.drive.progress();
    page.family("nacrefs_version", Gauge, "", "The newest version of the drive.").value(&[], p.version);
    page.family("nacrefs_commits", Counter, "", "Versions made.").value(&[], p.commits);
    page.family("nacrefs_commit_failures", Counter, "", "Commits that failed.").value(&[], p.failures);
    page.family("nacrefs_commit_seconds", Counter, "seconds", "How long the commits took, in all.")
        .seconds(&[], p.busy);
    page.family(
        "nacrefs_last_commit_timestamp_seconds",
        Gauge,
        "seconds",
        "The newest version's (Unix) time.",
    )
    .value(&[], p.last_commit.sec.max(0) as u64);
    page.family("nacrefs_online", Gauge, "", "1 where the store could be reached when it was last needed.")
        .value(&[], u64::from(drive.is_online()));
}

fn store(drive: &Inner, page: &mut Page) {
    use Kind::Counter;
    let counts = &drive.site.requests;
    let label = |r: Request| [("request", r.name())];
    let requests = page.family("nacrefs_store_requests", Counter, "", "Requests to the store.");
    for r in Request::ALL {
        requests.value(&label(r), counts.of(r).answered.times());
    }
    let errors = page.family("nacrefs_store_errors", Counter, "", "Requests to the store that failed.");
    for r in Request::ALL {
        errors.value(&label(r), counts.of(r).failed.get());
    }
    let bytes =
        page.family("nacrefs_store_bytes", Counter, "bytes", "Bytes of objects, to and from the store.");
    for r in Request::ALL {
        bytes.value(&label(r), counts.of(r).bytes.get());
    }
    let seconds = page.family("nacrefs_store_seconds", Counter, "seconds", "How long requests took, in all.");
    for r in Request::ALL {
        seconds.seconds(&label(r), counts.of(r).answered.total());
    }
}
