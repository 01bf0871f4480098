use super::*;
use crate::cli::control::protocol::At;
use crate::cli::values::{DrivePath, Moment};
use crate::error::Kind;
use crate::types::{Time, Version};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// Answers each kind of request with what it can be answered with.
struct Fake;

pub(crate) fn status() -> Status {
    Status {
        drive: "ab".into(),
        store: "file:///s".into(),
        mount: Some("/mnt".into()),
        version: 7,
        last_commit: Some(Moment(Time { sec: 1_700_000_000, nsec: 0 })),
        dirty_bytes: 1,
        journal_bytes: 2,
        cache_bytes: 3,
        online: true,
        last_error: None,
        ..Status::default()
    }
}

pub(crate) fn entry(version: Version) -> LogEntry {
    LogEntry {
        version,
        time: Moment(Time { sec: 1_700_000_000, nsec: 0 }),
        device: "cd".into(),
        change: "changed".into(),
        path: DrivePath::new("a/b").unwrap(),
        size: Some(5),
    }
}

impl Handler for Fake {
    fn handle(&self, request: Request, out: &mut dyn Reply) -> Result<()> {
        match request {
            Request::Status {} => out.status(&status()),
            Request::Sync {} => {
                for done in 0..1000 {
                    out.progress(&Progress {
                        what: "uploading".into(),
                        done,
                        total: Some(1000),
                        counted: false,
                    })?;
                }
                out.version(8)
            }
            Request::Commit {} => panic!("a handler may fail badly"),
            Request::Umount { local: false } => {
                Err(Error::new(Kind::Away, "no route to host").context("the store is away: try --local"))
            }
            Request::Umount { local: true } | Request::Remount { .. } => Ok(()),
            Request::LogLevel { level } => out.log_level(&level.unwrap_or("info".into())),
            Request::Log { path } => {
                assert_eq!(path.as_bytes(), b"a/b");
                (0..3).rev().try_for_each(|v| out.entry(&entry(v)))
            }
            Request::Cat { at, .. } => {
                assert_eq!(at, Some(At::Version(3)));
                out.data(&vec![7; MAX_DATA + 5])?;
                out.data(b"\n{\"done\":{}}\n")
            }
        }
    }
}

/// Keeps what it is told.
#[derive(Default)]
struct Heard {
    progress: usize,
    status: Vec<Status>,
    entries: Vec<LogEntry>,
    versions: Vec<Version>,
    data: Vec<u8>,
    level: String,
}

impl Reply for Heard {
    fn progress(&mut self, _: &Progress) -> Result<()> {
        self.progress += 1;
        Ok(())
    }
    fn status(&mut self, status: &Status) -> Result<()> {
        self.status.push(status.clone());
        Ok(())
    }
    fn entry(&mut self, entry: &LogEntry) -> Result<()> {
        self.entries.push(entry.clone());
        Ok(())
    }
    fn version(&mut self, version: Version) -> Result<()> {
        self.versions.push(version);
        Ok(())
    }
    fn log_level(&mut self, level: &str) -> Result<()> {
        self.level = level.into();
        Ok(())
    }
    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.data.extend_from_slice(bytes);
        Ok(())
    }
}

fn me() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn ask(socket: &Path, request: Request) -> (Result<()>, Heard) {
    let mut heard = Heard::default();
    let outcome = Client::connect(socket).and_then(|c| c.ask(&request, &mut heard));
    (outcome, heard)
}

/// Root used to ask whomever a mount named.
#[test]
fn a_socket_that_is_not_the_mount_owners_is_not_asked() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join(SOCKET);
    let _server = Server::start(&socket, me(), Arc::new(Fake)).unwrap();
    let connect = |owner| Client::connect(&socket).unwrap().served_by(owner);
    assert!(connect(Some((me(), 0))).is_ok() && connect(None).is_ok());
    let e = connect(Some((me() + 1, 0))).err().unwrap().to_string();
    assert!(e.contains(&format!("user {}'s", me() + 1)), "{e}");
}

#[test]
fn every_request_is_answered_over_a_socket() {
    let dir = tempfile::tempdir().unwrap();
    // Longer than a socket's address can be.
    let deep = dir.path().join("d".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    for socket in [dir.path().join(SOCKET), deep.join(SOCKET)] {
        std::fs::write(&socket, "stale").unwrap();
        let server = Server::start(&socket, me(), Arc::new(Fake)).unwrap();
        assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);

        let (outcome, heard) = ask(&socket, Request::Status {});
        outcome.unwrap();
        assert_eq!(heard.status, [status()]);
        let (outcome, heard) = ask(&socket, Request::Sync {});
        outcome.unwrap();
        assert_eq!(heard.versions, [8]);
        assert!((1..50).contains(&heard.progress), "{} lines of progress", heard.progress);
        let (outcome, heard) = ask(&socket, Request::Log { path: DrivePath::new("a/b").unwrap() });
        outcome.unwrap();
        assert_eq!(heard.entries, [entry(2), entry(1), entry(0)]);
        let cat = Request::Cat { path: DrivePath::new("a").unwrap(), at: Some(At::Version(3)) };
        let (outcome, heard) = ask(&socket, cat);
        outcome.unwrap();
        assert_eq!(heard.data.len(), MAX_DATA + 5 + 13);
        assert!(heard.data.ends_with(b"\n{\"done\":{}}\n"));
        let (outcome, heard) = ask(&socket, Request::LogLevel { level: Some("debug".into()) });
        outcome.unwrap();
        assert_eq!(heard.level, "debug");
        ask(&socket, Request::Umount { local: true }).0.unwrap();
        let e = ask(&socket, Request::Umount { local: false }).0.unwrap_err();
        assert_eq!((e.kind(), e.exit_status()), (Kind::Away, 4));
        assert_eq!(e.chain(), "the store is away: try --local: no route to host");
        // The panic ends one call, not the server.
        assert_eq!(ask(&socket, Request::Commit {}).0.unwrap_err().kind(), Kind::Failed);
        ask(&socket, Request::Status {}).0.unwrap();

        drop(server);
        assert!(!socket.exists());
        assert_eq!(ask(&socket, Request::Status {}).0.unwrap_err().kind(), Kind::NotFound);
    }
}

#[test]
fn strange_requests_are_refused_and_the_server_lives() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join(SOCKET);
    let _server = Server::start(&socket, me(), Arc::new(Fake)).unwrap();
    for line in ["{}\n", "{\"dance\":{}}\n", "\u{0}\n", "[[[[[[[[\n", "{\"log\":{\"path\":\"a/../../b\"}}\n"]
    {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let Answer::Error(failure) = serde_json::from_str(&answer).unwrap() else { panic!("{answer}") };
        assert_eq!((failure.kind.as_str(), failure.exit), ("usage", 2));
    }
    // Callers that hang up early.
    drop(UnixStream::connect(&socket).unwrap());
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.write_all(b"{\"cat\":{\"path\":\"a\",\"at\":{\"version\":3}}}\n").unwrap();
    drop(stream);
    ask(&socket, Request::Status {}).0.unwrap();
}

/// The one too many was hung up on without a word, and told its user that the daemon had ended.
#[test]
fn who_comes_when_too_many_are_there_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(SOCKET);
    let _server = Server::start(&path, me(), Arc::new(Fake)).unwrap();
    let idle: Vec<UnixStream> =
        (0..server::MAX_CALLERS).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let refused = ask(&path, Request::Sync {}).0.unwrap_err();
    assert!(refused.kind() == Kind::Conflict && refused.to_string().contains("try again later"), "{refused}");
    drop(idle);
    let begun = std::time::Instant::now();
    while ask(&path, Request::Sync {}).0.is_err() {
        assert!(begun.elapsed().as_secs() < 60);
    }
}

/// `status` and `doctor` of root's heard for ever what a user's own daemon had to say.
#[test]
fn who_talks_without_end_is_not_heard_to_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(SOCKET);
    for words in ["{\"note\":\"x\"}\n", "x"] {
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let talker = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while stream.write_all(words.as_bytes()).is_ok() {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        let client = Client::connect(&path).unwrap().at_once(std::time::Duration::from_millis(300)).unwrap();
        let refused = client.ask(&Request::Status {}, &mut Heard::default()).unwrap_err();
        assert!(refused.to_string().contains("does not answer"), "{refused}");
        talker.join().unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_peer_of_this_process_is_this_process() {
    let (one, _other) = UnixStream::pair().unwrap();
    let found = peer(&one).unwrap();
    assert_eq!(found.pid.map(|pid| pid.as_raw_nonzero().get()), Some(std::process::id() as i32));
    assert_eq!(found.uid.as_raw(), me());
}

#[test]
fn other_users_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join(SOCKET);
    let root = me() == 0;
    let owner = if root { 0 } else { me() + 1 };
    let _server = Server::start(&socket, owner, Arc::new(Fake)).unwrap();
    // Only the peer's credentials stand in the way now.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    let path = socket.clone();
    // Credentials belong to threads: this one becomes somebody else, and ends.
    let answer = std::thread::spawn(move || {
        if root {
            let other = rustix::process::Uid::from_raw(65534);
            rustix::thread::set_thread_res_uid(other, other, other).unwrap();
        }
        let mut stream = UnixStream::connect(&path).unwrap();
        // The server does not wait for our line, and closes with it unread, which may reset the connection: only
        // its answer counts.
        let _ = stream.write_all(b"{\"status\":{}}\n");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    })
    .join()
    .unwrap();
    assert!(answer.contains("another user") && !answer.contains("file:///s"), "{answer}");
}

#[test]
fn errors_cross_processes_with_kind_and_causes() {
    for kind in
        [Kind::Usage, Kind::Secret, Kind::Away, Kind::Damage, Kind::Conflict, Kind::NotADrive, Kind::Failed]
    {
        let e = Error::new(kind, "a").context("b").context("c");
        let json = serde_json::to_string(&Failure::of(&e)).unwrap();
        let back = serde_json::from_str::<Failure>(&json).unwrap().into_error();
        assert_eq!((back.kind(), back.chain()), (kind, "c: b: a".to_owned()));
    }
    assert_eq!(Failure::of(&Error::errno_of(libc::ENOENT)).into_error().exit_status(), 1);
}
