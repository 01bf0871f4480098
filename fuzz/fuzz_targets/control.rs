#![no_main]
//! The control protocol (src/cli/control, docs/CONTROL.md), heard from both ends of a socket, and what else is heard from
//! other programs: requests for metrics, mountinfo, fstab.

use nacrefs::cli::control::{
    Answer, Client, LogEntry, MAX_DATA, Progress, Reply, Request, Status, read_request,
};
use nacrefs::cli::fuzzing::{fstab_lines, metrics_route, mountinfo};
use nacrefs::error::{Error, Result};
use nacrefs::types::Version;
use nacrefs_fuzz::{choice, target};
use std::fs;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::sync::LazyLock;

/// This process' user, as the peer of its own sockets.
static OWN: LazyLock<u32> = LazyLock::new(|| fs::metadata("/proc/self").expect("/proc").uid());

/// Listens, and says nothing; has enough at some time.
#[derive(Default)]
struct Listener(usize);

impl Listener {
    fn count(&mut self, n: usize) -> Result<()> {
        self.0 += n;
        if self.0 > 4 << 20 { Err(Error::failed("enough")) } else { Ok(()) }
    }
}

impl Reply for Listener {
    fn progress(&mut self, _: &Progress) -> Result<()> {
        self.count(1)
    }
    fn status(&mut self, _: &Status) -> Result<()> {
        self.count(1)
    }
    fn entry(&mut self, _: &LogEntry) -> Result<()> {
        self.count(1)
    }
    fn version(&mut self, _: Version) -> Result<()> {
        self.count(1)
    }
    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        assert!(bytes.len() <= MAX_DATA);
        self.count(bytes.len())
    }
    fn log_level(&mut self, _: &str) -> Result<()> {
        self.count(1)
    }
}

/// A socket at whose other end somebody has said this; and that end, which is to stay open meanwhile.
fn said(text: &[u8]) -> (UnixStream, UnixStream) {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    // What does not fit into the socket's buffer is left out.
    theirs.set_nonblocking(true).expect("a socket");
    let _ = theirs.write(text);
    theirs.shutdown(Shutdown::Write).expect("a socket");
    (ours, theirs)
}

target!(8, |data| {
    let (what, rest) = choice(data);
    match what % 4 {
        0 => {
            let (ours, _theirs) = said(rest);
            if let Ok(request) = read_request(&ours, *OWN) {
                let json = serde_json::to_vec(&request).expect("a request");
                assert_eq!(serde_json::from_slice::<Request>(&json).expect("its own form"), request);
            }
        }
        1 => {
            let (ours, _theirs) = said(rest);
            let _ = Client::over(ours).ask(&Request::Status {}, &mut Listener::default());
        }
        2 => {
            if let Ok(answer) = serde_json::from_slice::<Answer>(rest) {
                let json = serde_json::to_vec(&answer).expect("an answer");
                assert_eq!(serde_json::from_slice::<Answer>(&json).expect("its own form"), answer);
            }
        }
        _ => {
            mountinfo(rest);
            fstab_lines(&String::from_utf8_lossy(rest));
            let _ = metrics_route(rest);
        }
    }
});
