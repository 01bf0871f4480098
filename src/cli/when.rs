//! WHEN: how people name a moment of a drive's past.

use super::values::Moment;
use crate::error::{Error, Kind, Result};
use crate::types::Version;
use serde::{Deserialize, Serialize};
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, Duration, OffsetDateTime, PrimitiveDateTime, UtcOffset};

/// A version number, the last version at or before a time, or the version that a snapshot names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    Version(Version),
    Time(Moment),
    Name(String),
}

impl When {
    /// Reads WHEN as typed: a number; `2026-11-17` (the end of that day), `2026-11-17 14:30`,
    /// `2026-11-17T14:30:05+01:00`; `3 days ago`; and whatever is none of these is a snapshot's name.
    /// Times without an offset are local.
    pub fn parse(text: &str) -> Result<When> {
        When::parse_at(text, OffsetDateTime::now_utc(), &|at| UtcOffset::local_offset_at(at).ok())
    }

    fn parse_at(
        text: &str,
        now: OffsetDateTime,
        offset: &dyn Fn(OffsetDateTime) -> Option<UtcOffset>,
    ) -> Result<When> {
        let text = text.trim();
        let refuse =
            |why: &str| Err(Error::new(Kind::Usage, format!("{text:?} is no version or time: {why}")));
        if text.is_empty() {
            return refuse("it is empty");
        }
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return match text.parse() {
                Ok(version) => Ok(When::Version(version)),
                Err(_) => refuse("the number is too large"),
            };
        }
        if let Some(span) = text.strip_suffix(" ago") {
            return match parse_span(span).and_then(|span| now.checked_sub(span)) {
                Some(at) => Ok(When::Time(Moment::from_utc(at))),
                None => refuse("write it as `3 days ago`, with seconds, minutes, hours, days or weeks"),
            };
        }
        if let Ok(at) = OffsetDateTime::parse(&text.replacen(' ', "T", 1), &Rfc3339) {
            return Ok(When::Time(Moment::from_utc(at)));
        }
        match parse_local(&text.replacen('T', " ", 1)) {
            Some(local) => match resolve(local, offset) {
                Some(at) => Ok(When::Time(Moment::from_utc(at))),
                None => refuse("the local time zone is unknown: add an offset, as in 2026-11-17T14:30:05Z"),
            },
            None => Ok(When::Name(text.to_owned())),
        }
    }
}

/// `3 days`, `1 hour`, `90s`.
fn parse_span(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let seconds = match unit.trim().trim_end_matches('s') {
        "" | "sec" | "second" => 1,
        "m" | "min" | "minute" => 60,
        "h" | "hour" => 3600,
        "d" | "day" => 86400,
        "w" | "week" => 7 * 86400,
        _ => return None,
    };
    Some(Duration::seconds(number.parse::<i64>().ok()?.checked_mul(seconds)?))
}

/// A date, which means its last instant, or a date and a time of day.
fn parse_local(text: &str) -> Option<PrimitiveDateTime> {
    if let Ok(date) = Date::parse(text, format_description!("[year]-[month]-[day]")) {
        return date.with_hms_nano(23, 59, 59, 999_999_999).ok();
    }
    let minutes = format_description!("[year]-[month]-[day] [hour]:[minute]");
    let seconds = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    PrimitiveDateTime::parse(text, seconds).or_else(|_| PrimitiveDateTime::parse(text, minutes)).ok()
}

/// Local time to a moment: the offset is asked for near it, then at it.
fn resolve(
    local: PrimitiveDateTime,
    offset: &dyn Fn(OffsetDateTime) -> Option<UtcOffset>,
) -> Option<OffsetDateTime> {
    let near = local.assume_offset(offset(local.assume_utc())?);
    Some(local.assume_offset(offset(near)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::{datetime, offset};

    fn parse(text: &str) -> Result<When> {
        When::parse_at(text, datetime!(2026-11-20 12:00 UTC), &|_| Some(offset!(+1)))
    }

    #[test]
    fn the_forms_of_when() {
        let time = |t| When::Time(Moment::from_utc(t));
        let table = [
            ("17", When::Version(17)),
            ("2026-11-17", time(datetime!(2026-11-17 22:59:59.999999999 UTC))),
            ("2026-11-17 14:30", time(datetime!(2026-11-17 13:30 UTC))),
            ("2026-11-17T14:30:05", time(datetime!(2026-11-17 13:30:05 UTC))),
            ("2026-11-17T14:30:05Z", time(datetime!(2026-11-17 14:30:05 UTC))),
            ("2026-11-17 14:30:05+02:00", time(datetime!(2026-11-17 12:30:05 UTC))),
            ("3 days ago", time(datetime!(2026-11-17 12:00 UTC))),
            ("1 hour ago", time(datetime!(2026-11-20 11:00 UTC))),
            ("90s ago", time(datetime!(2026-11-20 11:58:30 UTC))),
            ("before-upgrade", When::Name("before-upgrade".into())),
        ];
        for (text, when) in table {
            assert_eq!(parse(text).unwrap(), when, "{text}");
        }
        for text in
            ["", " ", "99999999999999999999", "three days ago", "3 moons ago", "99999999999999 weeks ago"]
        {
            assert_eq!(parse(text).unwrap_err().kind(), Kind::Usage, "{text}");
        }
        assert!(When::parse_at("2026-11-17", datetime!(2026-11-20 12:00 UTC), &|_| None).is_err());
    }
}
