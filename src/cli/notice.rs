//! A word on the terminal about what takes its time and shows no progress.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// After how long there is something to say.
const PATIENCE: Duration = Duration::from_secs(1);

/// Says, after a second, what is being done; wipes that when dropped. Where standard error is no terminal it does nothing.
pub struct Notice {
    done: Option<Sender<()>>,
    teller: Option<JoinHandle<()>>,
}

impl Notice {
    pub fn of(what: &'static str) -> Notice {
        if !std::io::stderr().is_terminal() {
            return Notice { done: None, teller: None };
        }
        let (done, ended) = channel();
        let tell = move || {
            if ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                show(&format!("{what}…"));
                // An error is the end too: the sender is gone.
                let _ = ended.recv();
                show("\r\x1b[K");
            }
        };
        let teller = std::thread::Builder::new().name("notice".into()).spawn(tell);
        // Without the thread nothing is said, and nothing is lost.
        Notice { done: Some(done), teller: teller.ok() }
    }
}

fn show(text: &str) {
    let mut terminal = std::io::stderr();
    if let Err(e) = terminal.write_all(text.as_bytes()).and_then(|()| terminal.flush()) {
        tracing::debug!("the terminal takes no notice: {e}");
    }
}

impl Drop for Notice {
    fn drop(&mut self) {
        drop(self.done.take());
        if self.teller.take().is_some_and(|teller| teller.join().is_err()) {
            tracing::debug!("the thread of a notice panicked");
        }
    }
}
