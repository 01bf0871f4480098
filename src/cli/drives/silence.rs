//! A store that answers nothing: neither an error nor a result, as from a dead server of a network file system.

use crate::cli::values::Moment;
use crate::store::Counts;
use crate::types::Time;
use std::time::Duration;

/// A store that has answered nothing for so long is out of reach.
const SILENT: Duration = Duration::from_secs(30);

/// Since when the store has answered nothing although it was asked, if that is too long.
pub fn silent_since(requests: &Counts) -> Option<Moment> {
    let silent = requests.silent_for().filter(|time| *time >= SILENT)?;
    let Moment(Time { sec, nsec }) = Moment::now();
    Some(Moment(Time { sec: sec.saturating_sub_unsigned(silent.as_secs()), nsec }))
}

/// Tells the log when a store falls silent, and when it is heard again: no request has failed, so nobody else does.
#[derive(Default)]
pub struct Listener {
    is_silent: bool,
}

impl Listener {
    pub fn look(&mut self, requests: &Counts) {
        let is_silent = silent_since(requests).is_some();
        if std::mem::replace(&mut self.is_silent, is_silent) == is_silent {
            return;
        }
        match is_silent {
            true => tracing::warn!(
                "the store has answered nothing for {} s; changes wait in the journal until it does",
                SILENT.as_secs()
            ),
            false => tracing::info!("the store answers again"),
        }
    }
}
