//! Parses times on the command line.

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};

/// Parses `2026-01-15T10:30:00Z`, `2026-01-15` (midnight UTC), `now`, or a time relative to now: `90s`, `15m`, `2h`,
/// `7d` ago.
pub fn parse(text: &str) -> Result<DateTime<Utc>, String> {
    parse_at(text, Utc::now())
}

fn parse_at(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, String> {
    if text == "now" {
        return Ok(now);
    }
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.to_utc());
    }
    if let Ok(day) = text.parse::<NaiveDate>() {
        return Ok(day.and_time(NaiveTime::MIN).and_utc());
    }
    let past = ago(text).and_then(|ago| now.checked_sub_signed(ago));
    past.ok_or_else(|| {
        "expected a time such as `2026-01-15T10:30:00Z`, a day such as `2026-01-15`, `now`, or how long ago, such as `2h` or `7d`"
            .to_owned()
    })
}

fn ago(text: &str) -> Option<TimeDelta> {
    let unit = text.chars().next_back()?;
    let count: i64 = text.strip_suffix(unit)?.parse().ok().filter(|count| *count >= 0)?;
    match unit {
        's' => TimeDelta::try_seconds(count),
        'm' => TimeDelta::try_minutes(count),
        'h' => TimeDelta::try_hours(count),
        'd' => TimeDelta::try_days(count),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_days_and_how_long_ago() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap_or_default();
        let read = |text| parse_at(text, now).map(|time| time.timestamp());
        assert_eq!(read("2026-01-15T10:30:00+01:00"), Ok(1_768_469_400));
        assert_eq!(read("2026-01-15"), Ok(1_768_435_200));
        assert_eq!(read("now"), Ok(1_800_000_000));
        assert_eq!(read("2h"), Ok(1_799_992_800));
        for wrong in ["", "h", "-2h", "2 h", "2w", "yesterday", "99999999999999999d", "é"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
