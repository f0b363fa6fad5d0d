//! Renders confidence intervals as text bars with a common zero.

use crate::experiment::statistics::Interval;

/// Bounds of the scale. Values beyond it are cut off and marked with an arrow.
const SCALE_MAX: f64 = 1.0;
const SCALE_MIN: f64 = 0.01;

/// The common scale of all bars, symmetric around zero.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    reach: f64,
    /// Number of characters on either side of zero.
    half: usize,
}

impl Scale {
    /// A scale that contains all `intervals`, for bars of `width` characters.
    pub fn new(intervals: impl IntoIterator<Item = Interval>, width: usize) -> Self {
        let ends = intervals.into_iter().flat_map(|interval| [interval.low.abs(), interval.high.abs()]);
        let reach = rounded_up(ends.fold(SCALE_MIN, f64::max).min(SCALE_MAX));
        Self { reach, half: (width.saturating_sub(1) / 2).max(4) }
    }

    /// The scale's labels, printed above the bars.
    pub fn legend(&self) -> String {
        let percent = (self.reach * 100.0).round();
        let (low, high) = (format!("-{percent}%"), format!("+{percent}%"));
        let gap = self.half.saturating_sub(low.chars().count());
        format!("{low}{:gap$}0{high:>half$}", "", half = self.half)
    }

    pub fn bar(&self, value: f64, interval: Interval) -> String {
        let width = 2 * self.half + 1;
        let (low, at, high) = (self.place(interval.low), self.place(value), self.place(interval.high));
        let mark = |column: usize| {
            let cut = |outside: bool, arrow: char, end: char| if outside { arrow } else { end };
            match column {
                _ if column == at => '●',
                _ if column == low => cut(interval.low < -self.reach, '◄', '├'),
                _ if column == high => cut(interval.high > self.reach, '►', '┤'),
                _ if column == self.half => '│',
                _ if (low..high).contains(&column) => '─',
                _ => ' ',
            }
        };
        (0..width).map(mark).collect::<String>().trim_end().to_owned()
    }

    fn place(&self, value: f64) -> usize {
        let share = (value / self.reach).clamp(-1.0, 1.0);
        (self.half as f64 * (1.0 + share)).round() as usize
    }
}

/// Rounds up to 1, 2 or 5 times a power of ten.
fn rounded_up(reach: f64) -> f64 {
    let power = 10_f64.powf(reach.log10().floor());
    let step = [1.0, 2.0, 5.0].into_iter().find(|step| step * power >= reach * 0.999_999);
    step.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_share_their_zero_and_their_scale() {
        let interval = |low, high| Interval { low, high };
        let scale = Scale::new([interval(-0.05, 0.13), interval(-0.1, 0.02)], 21);
        assert_eq!(scale.legend(), "-20%      0      +20%");
        assert_eq!(scale.bar(0.05, interval(-0.05, 0.15)), "        ├─│──●────┤");
        assert_eq!(scale.bar(-0.1, interval(-0.2, -0.05)), "├────●──┤ │");
    }

    #[test]
    fn what_does_not_fit_is_cut_with_an_arrow() {
        let scale = Scale::new([Interval { low: -3.0, high: 0.5 }], 9);
        assert_eq!(scale.legend(), "-100%0+100%");
        assert_eq!(scale.bar(-1.25, Interval { low: -3.0, high: 0.5 }), "●───│─┤");
        assert_eq!(scale.bar(0.0, Interval { low: -3.0, high: 3.0 }), "◄───●───►");
    }
}
