//! How people name a moment of the past: a version number, a date or time (RFC 3339, or parts of it), or
//! words such as `3 days ago`.
//!
//! A moment that is told less exactly than it could be means its **last** instant: `2026-11-17` is the end of
//! that day, `2026-11-17 14:30` the end of that minute. So what was made on a day is in that day's view, and a
//! time that was printed to the second names the version it was printed for.

use crate::error::{Error, Kind, Result};
use crate::sys::{Clock as _, SystemClock};
use crate::types::{Time, Version};
use time::{Date, Duration, Month, OffsetDateTime, PrimitiveDateTime, UtcOffset};

/// What a moment of the past is named by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The version of this number.
    Version(Version),
    /// The newest version that is not after this.
    Until(Time),
}

/// Local time: what a date without an offset is told in.
trait Zone {
    /// Seconds since 1970 UTC of a local date and time.
    fn to_utc(&self, local: PrimitiveDateTime) -> Result<i64>;
    /// The local date and time at so many seconds since 1970 UTC.
    fn to_local(&self, utc: i64) -> Result<PrimitiveDateTime>;
}

/// The time zone of this process (`TZ`, `/etc/localtime`).
struct LocalZone;

impl Zone for LocalZone {
    fn to_utc(&self, local: PrimitiveDateTime) -> Result<i64> {
        // SAFETY: `tm` is plain data for which all zeros is a value.
        let mut tm: libc::tm = unsafe { std::mem::zeroed() };
        tm.tm_year = local.year() - 1900;
        tm.tm_mon = i32::from(u8::from(local.month())) - 1;
        tm.tm_mday = local.day().into();
        tm.tm_hour = local.hour().into();
        tm.tm_min = local.minute().into();
        tm.tm_sec = local.second().into();
        tm.tm_isdst = -1;
        // SAFETY: mktime reads and writes only the `tm` it is given.
        Ok(unsafe { libc::mktime(&mut tm) })
    }

    fn to_local(&self, utc: i64) -> Result<PrimitiveDateTime> {
        // SAFETY: as above; localtime_r writes only the `tm` it is given.
        let (tm, done) = unsafe {
            let mut tm: libc::tm = std::mem::zeroed();
            let done = !libc::localtime_r(&utc, &mut tm).is_null();
            (tm, done)
        };
        let parts = || {
            let month = Month::try_from(u8::try_from(tm.tm_mon + 1).ok()?).ok()?;
            let date =
                Date::from_calendar_date(tm.tm_year + 1900, month, tm.tm_mday.try_into().ok()?).ok()?;
            let (h, m, s) = (tm.tm_hour.try_into().ok()?, tm.tm_min.try_into().ok()?, tm.tm_sec.min(59));
            date.with_hms(h, m, s.try_into().ok()?).ok()
        };
        done.then(parts).flatten().ok_or_else(|| Error::failed(format!("no local time for {utc} s")))
    }
}

impl Zone for UtcOffset {
    fn to_utc(&self, local: PrimitiveDateTime) -> Result<i64> {
        Ok(local.assume_offset(*self).unix_timestamp())
    }

    fn to_local(&self, utc: i64) -> Result<PrimitiveDateTime> {
        let at = OffsetDateTime::from_unix_timestamp(utc)
            .map_err(|e| Error::failed(format!("no local time for {utc} s")).with_source(e))?
            .to_offset(*self);
        Ok(PrimitiveDateTime::new(at.date(), at.time()))
    }
}

const SECOND: i64 = 1;
const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

impl When {
    /// Reads what a person wrote here and now. Anything else is an error of usage.
    pub fn read(text: &str) -> Result<When> {
        When::parse(text, SystemClock.now(), &LocalZone)
    }

    /// Reads what a person wrote, at the time `now`.
    fn parse(text: &str, now: Time, zone: &dyn Zone) -> Result<When> {
        let text = text.trim();
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return text.parse().map(When::Version).map_err(|_| unknown(text));
        }
        if text.starts_with(|c: char| c.is_ascii_digit())
            && let Some(moment) = Moment::read(text)
        {
            return moment.last_instant(zone).map(When::Until);
        }
        relative(&text.to_ascii_lowercase(), now, zone)?.map(When::Until).ok_or_else(|| unknown(text))
    }
}

fn unknown(text: &str) -> Error {
    let text: String = text.escape_debug().collect();
    let like = "a version number, a date or time such as 2026-11-17 or 2026-11-17T14:30:00Z, or '3 days ago'";
    Error::new(Kind::Usage, format!("'{text}' names no moment: use {like}"))
}

/// The instant before `sec` seconds since 1970.
fn just_before(sec: i64) -> Time {
    Time { sec: sec.saturating_sub(1), nsec: 999_999_999 }
}

/// `now`, `today`, `yesterday`, `2 hours ago`, `a week ago`.
fn relative(text: &str, now: Time, zone: &dyn Zone) -> Result<Option<Time>> {
    match text {
        "now" => return Ok(Some(now)),
        "today" | "yesterday" => {
            let today = zone.to_local(now.sec)?.date();
            let next = if text == "today" { today.next_day() } else { Some(today) };
            return next.map(|d| Ok(just_before(zone.to_utc(d.midnight())?))).transpose();
        }
        _ => {}
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    let [count, unit, "ago"] = words[..] else { return Ok(None) };
    let count: Option<i64> = match count {
        "a" | "an" | "one" => Some(1),
        digits => digits.parse::<u32>().ok().map(i64::from),
    };
    let Some(count) = count else { return Ok(None) };
    let back = match unit.strip_suffix('s').unwrap_or(unit) {
        "second" | "sec" => SECOND,
        "minute" | "min" => MINUTE,
        "hour" => HOUR,
        "day" => DAY,
        "week" => 7 * DAY,
        "month" => return months_back(now, count, zone),
        "year" => return months_back(now, count.saturating_mul(12), zone),
        _ => return Ok(None),
    };
    Ok(Some(Time { sec: now.sec.saturating_sub(count.saturating_mul(back)), nsec: now.nsec }))
}

/// The same clock time so many months earlier; the last day of a shorter month where there is no such day.
fn months_back(now: Time, months: i64, zone: &dyn Zone) -> Result<Option<Time>> {
    let local = zone.to_local(now.sec)?;
    let total = i64::from(local.year()) * 12 + i64::from(u8::from(local.month())) - 1 - months;
    let (Ok(year), Ok(month)) = (i32::try_from(total.div_euclid(12)), u8::try_from(total.rem_euclid(12) + 1))
    else {
        return Ok(None);
    };
    let Ok(month) = Month::try_from(month) else { return Ok(None) };
    let day = local.day().min(month.length(year));
    let Ok(date) = Date::from_calendar_date(year, month, day) else { return Ok(None) };
    let sec = zone.to_utc(PrimitiveDateTime::new(date, local.time()))?;
    Ok(Some(Time { sec, nsec: now.nsec }))
}

/// A date, perhaps a time of day, perhaps an offset from UTC.
struct Moment {
    date: Date,
    clock: Option<Clock>,
    offset: Option<UtcOffset>,
}

/// A time of day.
struct Clock {
    /// Seconds since midnight.
    start: i64,
    /// How many seconds are told so: a minute or one.
    length: i64,
    /// Nanoseconds, where they were told.
    fraction: Option<u32>,
}

impl Moment {
    /// `YYYY-MM-DD[(T| )HH:MM[:SS[.f…]][Z|±HH:MM]]`
    fn read(text: &str) -> Option<Moment> {
        let mut s = Scan(text);
        let (year, month, day) = (s.digits(4)?, s.after('-')?.digits(2)?, s.after('-')?.digits(2)?);
        let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
        let date =
            Date::from_calendar_date(i32::try_from(year).ok()?, month, u8::try_from(day).ok()?).ok()?;
        if s.0.is_empty() {
            return Some(Moment { date, clock: None, offset: None });
        }
        if !(s.skip('T') || s.skip('t') || s.skip(' ')) {
            return None;
        }
        let (hour, minute) = (s.below(24)?, s.after(':')?.below(60)?);
        let start = i64::from(hour) * HOUR + i64::from(minute) * MINUTE;
        let mut clock = Clock { start, length: MINUTE, fraction: None };
        if s.skip(':') {
            // A leap second counts as the second before it.
            clock.start += i64::from(s.below(61)?.min(59));
            clock.length = SECOND;
            clock.fraction = if s.skip('.') { Some(s.fraction()?) } else { None };
        }
        s.skip(' ');
        let offset = s.offset()?;
        s.0.is_empty().then_some(Moment { date, clock: Some(clock), offset })
    }

    /// The last instant that is told so.
    fn last_instant(&self, zone: &dyn Zone) -> Result<Time> {
        let zone: &dyn Zone = self.offset.as_ref().map_or(zone, |o| o);
        let Some(clock) = &self.clock else {
            let next = self.date.next_day().ok_or_else(|| Error::new(Kind::Usage, "the date is too late"))?;
            return Ok(just_before(zone.to_utc(next.midnight())?));
        };
        let start = zone.to_utc(self.date.midnight().saturating_add(Duration::seconds(clock.start)))?;
        Ok(match clock.fraction {
            Some(nsec) => Time { sec: start, nsec },
            None => just_before(start + clock.length),
        })
    }
}

/// What is left to read of a date.
struct Scan<'a>(&'a str);

impl Scan<'_> {
    fn skip(&mut self, c: char) -> bool {
        self.0.strip_prefix(c).map(|rest| self.0 = rest).is_some()
    }

    fn after(&mut self, c: char) -> Option<&mut Self> {
        self.skip(c).then_some(self)
    }

    fn digits(&mut self, n: usize) -> Option<u32> {
        let (head, rest) = self.0.split_at_checked(n)?;
        if !head.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        self.0 = rest;
        head.parse().ok()
    }

    /// Two digits, less than `limit`.
    fn below(&mut self, limit: u8) -> Option<u8> {
        u8::try_from(self.digits(2)?).ok().filter(|v| *v < limit)
    }

    /// Digits of a fraction of a second, as nanoseconds; those beyond nine are dropped.
    fn fraction(&mut self) -> Option<u32> {
        let n = self.0.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        let nano = format!("{:0<9.9}", digits);
        if n == 0 { None } else { nano.parse().ok() }
    }

    /// `Z`, `±HH:MM`, or nothing: outermost None is a fault.
    fn offset(&mut self) -> Option<Option<UtcOffset>> {
        if self.0.is_empty() {
            return Some(None);
        }
        if self.skip('Z') || self.skip('z') {
            return Some(Some(UtcOffset::UTC));
        }
        let sign = if self.skip('+') { 1 } else { self.after('-').map(|_| -1)? };
        let (hour, minute) = (self.below(24)?, self.after(':')?.below(60)?);
        UtcOffset::from_hms(sign * hour as i8, sign * minute as i8, 0).ok().map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time { sec: 1_795_219_200 + 45_296, nsec: 5 }; // 2026-11-21T12:34:56 UTC

    fn zone() -> UtcOffset {
        UtcOffset::from_hms(2, 0, 0).unwrap()
    }

    fn until(text: &str) -> String {
        match When::parse(text, NOW, &zone()) {
            Ok(When::Until(t)) => {
                let at = OffsetDateTime::from_unix_timestamp(t.sec).unwrap();
                format!("{}T{} +{}", at.date(), at.time(), t.nsec)
            }
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn dates_and_times_mean_their_last_instant() {
        assert_eq!(until("2026-11-17"), "2026-11-17T21:59:59.0 +999999999");
        assert_eq!(until("2026-11-17 14:30"), "2026-11-17T12:30:59.0 +999999999");
        assert_eq!(until("2026-11-17 14:30:07"), "2026-11-17T12:30:07.0 +999999999");
        assert_eq!(until("2026-11-17T14:30:07Z"), "2026-11-17T14:30:07.0 +999999999");
        assert_eq!(until("2026-11-17T14:30:07.25-01:30"), "2026-11-17T16:00:07.0 +250000000");
        assert_eq!(until("2026-11-17T14:30:07.1234567899Z"), "2026-11-17T14:30:07.0 +123456789");
        assert_eq!(until("2024-02-29T23:59:60Z"), "2024-02-29T23:59:59.0 +999999999");
    }

    #[test]
    fn words_go_back_from_now() {
        assert_eq!(until("now"), "2026-11-21T12:34:56.0 +5");
        assert_eq!(until("3 days ago"), "2026-11-18T12:34:56.0 +5");
        assert_eq!(until("An Hour ago"), "2026-11-21T11:34:56.0 +5");
        assert_eq!(until("2 weeks ago"), "2026-11-07T12:34:56.0 +5");
        assert_eq!(until("9 months ago"), "2026-02-21T12:34:56.0 +5");
        assert_eq!(until("1 year ago"), "2025-11-21T12:34:56.0 +5");
        assert_eq!(until("today"), "2026-11-21T21:59:59.0 +999999999");
        assert_eq!(until("yesterday"), "2026-11-20T21:59:59.0 +999999999");
    }

    #[test]
    fn a_shorter_month_has_a_last_day() {
        let march_31 = Time { sec: 1_774_958_400, nsec: 0 }; // 2026-03-31T12:00:00 UTC
        let got = When::parse("1 month ago", march_31, &UtcOffset::UTC).unwrap();
        assert_eq!(got, When::Until(Time { sec: 1_774_958_400 - 31 * DAY, nsec: 0 })); // 2026-02-28
    }

    #[test]
    fn numbers_are_versions_and_nonsense_is_usage() {
        assert_eq!(When::parse(" 17 ", NOW, &zone()).unwrap(), When::Version(17));
        for bad in [
            "",
            "soon",
            "2026-13-01",
            "2026-02-30",
            "2026-11-17T",
            "2026-11-17T25:00",
            "2026-11-17T10:00x",
            "2026-11-17T10:00:00.Z",
            "2026-11-17T10:00+5",
            "3 fortnights ago",
            "-1 days ago",
            "99999999999999999999",
            "4000000000 years ago",
            "1 day\u{7f}",
            "٣ days ago",
        ] {
            assert_eq!(When::parse(bad, NOW, &zone()).unwrap_err().kind(), Kind::Usage, "{bad}");
        }
    }

    #[test]
    fn the_local_zone_goes_there_and_back() {
        for sec in [0, 1_700_000_000, NOW.sec] {
            let local = LocalZone.to_local(sec).unwrap();
            assert_eq!(LocalZone.to_utc(local).unwrap(), sec);
        }
    }
}
