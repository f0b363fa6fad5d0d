//! Medians, quartiles, and the interval of a median.

/// Confidence of [`interval`].
const CONFIDENCE: f64 = 0.95;

/// Lower quartile, median and upper quartile.
pub fn quartiles(values: &[f64]) -> [f64; 3] {
    let sorted = sorted(values);
    let last = sorted.len().saturating_sub(1) as f64;
    [0.25, 0.5, 0.75].map(|part| sorted.get((last * part).round() as usize).copied().unwrap_or(f64::NAN))
}

/// Interval of the median by the sign test. With fewer than 6 values it is the whole range.
pub fn interval(values: &[f64]) -> [f64; 2] {
    let sorted = sorted(values);
    let count = sorted.len();
    let mut outside = 0;
    // Probabilities that exactly `rank` of the values are below the true median, and that at most `rank` are.
    let (mut exactly, mut at_most) = (0.5_f64.powi(count as i32), 0.0);
    for rank in 0..count / 2 {
        at_most += exactly;
        if 2.0 * at_most > 1.0 - CONFIDENCE {
            break;
        }
        outside = rank;
        exactly *= (count - rank) as f64 / (rank + 1) as f64;
    }
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    [at(outside), at(count.saturating_sub(1 + outside))]
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_has_the_ranks_of_the_sign_test() {
        let of = |count: u32| interval(&(1..=count).map(f64::from).collect::<Vec<_>>());
        assert_eq!([of(3), of(6), of(9), of(20)], [[1.0, 3.0], [1.0, 6.0], [2.0, 8.0], [6.0, 15.0]]);
    }
}
