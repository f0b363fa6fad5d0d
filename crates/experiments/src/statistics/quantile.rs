//! Standard error of a quantile from its neighbours (Price and Bonett, 2001): the distance between the quantiles a fixed
//! number of standard errors of the share below and above. With it, a quantile has an asymptotic confidence sequence like
//! a mean.

use crate::tally::QuantileSample;

/// Distance of the neighbours, in standard errors of the share of users below the quantile.
pub const NEIGHBOUR_ERRORS: f64 = 2.0;

/// Smallest share: that of the smallest value.
const SMALLEST: f64 = 1e-12;

/// Shares of the quantile and its two neighbours among `users` values. With few users a neighbour is the smallest or the
/// largest value.
pub fn shares(quantile: f64, users: u64) -> [f64; 3] {
    let distance = NEIGHBOUR_ERRORS * (quantile * (1.0 - quantile) / (users as f64).max(1.0)).sqrt();
    [quantile, (quantile - distance).max(SMALLEST), (quantile + distance).min(1.0)]
}

/// Standard error of the quantile.
pub fn error(sample: &QuantileSample) -> f64 {
    (sample.high - sample.low) / (2.0 * NEIGHBOUR_ERRORS)
}
