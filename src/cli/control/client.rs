//! A command's side of the control socket.

use super::protocol::{Answer, MAX_DATA, Reply, Request};
use super::{MAX_LINE, peer};
use crate::error::{Context, Error, Kind, Result};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// A connection to a daemon, for one request. Waiting for answers ends when the daemon does, or by Ctrl-C.
pub struct Client {
    stream: BufReader<Timed>,
    pid: Option<rustix::process::Pid>,
    /// Who serves it.
    uid: rustix::process::Uid,
}

/// A connection that ends to be read at some moment, however much comes until then.
struct Timed {
    stream: UnixStream,
    until: Option<Instant>,
}

impl Read for Timed {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if let Some(until) = self.until {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.stream.set_read_timeout(Some(left))?;
        }
        self.stream.read(into)
    }
}

impl Client {
    /// Connects to a daemon of the caller's, or of root's; root may connect to everybody's. `NotFound`: nobody takes
    /// calls there.
    pub fn connect(socket: &Path) -> Result<Client> {
        let stream = super::connect(socket).map_err(|e| match e.kind() {
            ErrorKind::WouldBlock => Error::failed(
                "the drive's daemon does not answer: it is stopped, and many have called it since",
            ),
            ErrorKind::PermissionDenied => Error::failed("this mount belongs to another user"),
            ErrorKind::ConnectionRefused | ErrorKind::NotFound => {
                Error::new(Kind::NotFound, format!("nobody answers at {}", socket.display()))
            }
            _ => Error::from(e).context(format!("cannot call {}", socket.display())),
        })?;
        let peer = peer(&stream).context(|| "cannot tell who serves the control socket")?;
        let me = rustix::process::geteuid();
        if !me.is_root() && !peer.uid.is_root() && peer.uid != me {
            return Err(Error::failed(format!("{} is served by another user", socket.display())));
        }
        Ok(Client::new(stream, peer.pid, peer.uid))
    }

    /// A client of whoever is at the other end.
    #[cfg(fuzzing)]
    pub fn over(stream: UnixStream) -> Client {
        Client::new(stream, None, rustix::process::geteuid())
    }

    fn new(stream: UnixStream, pid: Option<rustix::process::Pid>, uid: rustix::process::Uid) -> Client {
        Client { stream: BufReader::new(Timed { stream, until: None }), pid, uid }
    }

    /// Refuses a daemon that is not the mount owner's. A mount says itself where its socket is: what a user has mounted
    /// could send root to somebody else's drive.
    pub fn served_by(self, owner: Option<(u32, u32)>) -> Result<Client> {
        match owner {
            Some((owner, _)) if owner != self.uid.as_raw() => Err(Error::failed(format!(
                "the mount is user {owner}'s, and its control socket is served by user {}: not asking that one",
                self.uid.as_raw()
            ))),
            _ => Ok(self),
        }
    }

    /// The daemon's process, where it can be told: not in a PID namespace where it is not.
    pub fn pid(&self) -> Option<rustix::process::Pid> {
        self.pid
    }

    /// From now on a silence that lasts longer is an error.
    pub fn within(self, patience: Duration) -> Result<Client> {
        let stream = &self.stream.get_ref().stream;
        let set = stream.set_read_timeout(Some(patience)).and(stream.set_write_timeout(Some(patience)));
        set.context(|| "control socket")?;
        Ok(self)
    }

    /// The whole answer is to be there after this time: for what a daemon answers at once. Somebody else's may talk
    /// without end.
    pub fn at_once(mut self, patience: Duration) -> Result<Client> {
        self.stream.get_mut().until = Some(Instant::now() + patience);
        self.within(patience)
    }

    /// Sends the request, hands on what it is answered with, and returns its outcome.
    pub fn ask(mut self, request: &Request, out: &mut dyn Reply) -> Result<()> {
        let mut line = serde_json::to_vec(request)
            .map_err(|e| Error::failed("cannot encode a request").with_source(e))?;
        line.push(b'\n');
        // A server that refuses may have answered and closed already: then its answer says why.
        let sent = self.stream.get_mut().stream.write_all(&line);
        let mut data = Vec::new();
        loop {
            let answer = match self.answer()? {
                Some(answer) => answer,
                None => {
                    sent.context(|| "cannot send the request")?;
                    return Err(Error::failed(
                        "the drive's daemon ended before it answered: its log says why",
                    ));
                }
            };
            match answer {
                Answer::Progress(progress) => out.progress(&progress)?,
                Answer::Status(status) => out.status(&status)?,
                Answer::Entry(entry) => out.entry(&entry)?,
                Answer::Version(version) => out.version(version)?,
                Answer::Note(text) => out.note(&text)?,
                Answer::LogLevel(level) => out.log_level(&level)?,
                Answer::Data { len } if len <= MAX_DATA => {
                    data.resize(len, 0);
                    self.stream.read_exact(&mut data).context(|| "the drive's daemon ended in the middle")?;
                    out.data(&data)?;
                }
                Answer::Data { .. } => {
                    return Err(Error::failed("the drive's daemon sends too much at once"));
                }
                Answer::Done {} => return Ok(()),
                Answer::Error(failure) => return Err(failure.into_error()),
            }
        }
    }

    fn answer(&mut self) -> Result<Option<Answer>> {
        let mut line = Vec::new();
        let read = (&mut self.stream).take(MAX_LINE).read_until(b'\n', &mut line);
        match read {
            Ok(0) => return Ok(None),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(None),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                let pid = self.pid.map_or("unknown".to_owned(), |pid| pid.to_string());
                return Err(Error::failed(format!(
                    "the drive's daemon (process {pid}) does not answer: it is stopped, or waits for a disk"
                )));
            }
            Err(e) => return Err(e).context(|| "cannot hear the drive's daemon"),
            Ok(_) if line.last() != Some(&b'\n') => {
                return Err(Error::failed("the drive's daemon ended in the middle of an answer"));
            }
            Ok(_) => {}
        }
        serde_json::from_slice(&line).map(Some).map_err(|e| {
            Error::new(Kind::Failed, "the drive's daemon answers strangely: it may be of another version")
                .with_source(e)
        })
    }
}
