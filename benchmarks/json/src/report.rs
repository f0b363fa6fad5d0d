//! The tables.

use crate::documents::Documents;
use crate::statistics::{interval, quartiles};

/// Rounds of one arm.
pub struct Measured {
    pub arm: &'static str,
    /// Nanoseconds of CPU time per request in each round.
    pub nanoseconds: Vec<f64>,
}

impl Measured {
    pub fn new(arm: &'static str) -> Self {
        Self { arm, nanoseconds: Vec::new() }
    }

    /// How many times the CPU time of `base` each round took.
    fn ratios(&self, base: &Self) -> Vec<f64> {
        self.nanoseconds.iter().zip(&base.nanoseconds).map(|(own, base)| own / base).collect()
    }
}

/// The table of a set of documents, with the ratios to the first two arms: flagstream's reader, and its scanner alone.
pub fn text(set: &Documents, rounds: usize, measured: &[Measured]) -> String {
    let bytes = set.bytes();
    let mut lines = vec![
        format!("{}: {bytes} bytes, {} documents, {rounds} rounds", set.name, set.texts.len()),
        format!(
            "{:24} {:>30} {:>24} {:>24}",
            "arm", "ns/request: median (quartiles)", "to flagstream (95 %)", "to the scanner (95 %)"
        ),
    ];
    lines.extend(measured.iter().map(|arm| {
        let [lower, median, upper] = quartiles(&arm.nanoseconds);
        let shown = format!("{median:.0} ({lower:.0} to {upper:.0})");
        let [reader, scanner] = [0, 1].map(|base| {
            let ratios = arm.ratios(&measured[base]);
            let ([_, ratio, _], [lowest, highest]) = (quartiles(&ratios), interval(&ratios));
            format!("{ratio:.2} ({lowest:.2} to {highest:.2})")
        });
        format!("{:24} {shown:>30} {reader:>24} {scanner:>24}", arm.arm)
    }));
    lines.push(String::new());
    lines.join("\n")
}
