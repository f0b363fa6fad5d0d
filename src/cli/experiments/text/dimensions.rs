//! Results by the values of attributes, as tables.

use crate::experiment::DimensionSource;
use crate::experiment::results::explanations::thousands;
use crate::experiment::results::{DimensionLevel, DimensionResults, LevelKind, PhaseResults};

use super::super::table::{Align, table};
use super::compared;

/// One table for each dimension, after an empty line.
pub(super) fn tables(phase: &PhaseResults, confidence: f64) -> Vec<String> {
    phase.dimensions.iter().flat_map(|dimension| lines(dimension, confidence)).collect()
}

fn lines(dimension: &DimensionResults, confidence: f64) -> Vec<String> {
    let interval = format!("{}% interval", (confidence * 1000.0).round() / 10.0);
    let name = match dimension.source {
        DimensionSource::Context => format!("by {}", dimension.name),
        DimensionSource::Conversion => format!("by {} of conversions", dimension.name),
    };
    let head = [&name, "users", "metric", "variant", "difference", &interval, "p", "can find", ""];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for level in &dimension.levels {
        for (at, metric) in level.metrics.iter().enumerate() {
            for (number, comparison) in metric.comparisons.iter().enumerate() {
                let is_first = at == 0 && number == 0;
                let [label, users] = match is_first {
                    true => [label(&level.level), thousands(level.users)],
                    false => [String::new(), String::new()],
                };
                let metric = if number == 0 { metric.name.clone() } else { String::new() };
                let mut row = vec![label, users, metric, comparison.variant.clone()];
                row.extend(compared(comparison));
                rows.push(row);
            }
        }
    }
    use Align::{Left, Right};
    let columns = [Left, Right, Left, Left, Right, Left, Right, Right, Left];
    std::iter::once(String::new()).chain(table(&columns, rows)).collect()
}

fn label(level: &DimensionLevel) -> String {
    match level.kind {
        LevelKind::Value => level.value.clone().unwrap_or_default(),
        LevelKind::Other => "(other)".to_owned(),
        LevelKind::None => "(none)".to_owned(),
    }
}
