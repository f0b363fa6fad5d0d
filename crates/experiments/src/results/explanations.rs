//! Numbers and durations formatted for sentences.

pub fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

pub fn signed_percent(share: f64) -> String {
    format!("{:+.1}%", share * 100.0)
}

pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let separated = digits.bytes().enumerate().flat_map(|(at, digit)| {
        let comma = at > 0 && (digits.len() - at).is_multiple_of(3);
        comma.then_some(',').into_iter().chain([char::from(digit)])
    });
    separated.collect()
}

pub fn duration(seconds: u64) -> String {
    let counted = |number: u64, unit: &str| {
        format!("{} {unit}{}", thousands(number), if number == 1 { "" } else { "s" })
    };
    match seconds {
        0..5_400 => counted(seconds.div_ceil(60).max(1), "minute"),
        5_400..129_600 => counted(seconds.div_ceil(3_600), "hour"),
        _ => counted(seconds.div_ceil(86_400), "day"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [percent(0.0101), signed_percent(0.12), signed_percent(-0.0)],
            ["1.0%", "+12.0%", "-0.0%"]
        );
        let durations = [0, 60, 5_400, 129_599, 129_600, 86_400_000].map(duration);
        assert_eq!(durations, ["1 minute", "1 minute", "2 hours", "36 hours", "2 days", "1,000 days"]);
    }
}
