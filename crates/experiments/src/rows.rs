//! Counting of an experiment's rows in memory. The service counts in the database; its tests compare both, and the
//! simulation uses this one.
//!
//! ```text
//!                 first exposure of all phases
//!      window      │  skew            window
//!  ├────────────┤◄─┤►├──────────────────────────┤
//!      before        │           after          │ after the window
//!                    exposure in this phase
//! ```

use std::collections::BTreeMap;

use crate::counts::{ConversionLine, Counts, Group, MetricLine, Seen, UserLine};
use crate::{Cap, Design, Kind, Metric, Phase, Sample};

const MICROSECONDS_PER_HOUR: i64 = 3_600_000_000;

/// First evaluation of a user under one version of the flag. Times are in microseconds since 1970.
#[derive(Debug, Clone, PartialEq)]
pub struct ExposureRow<'r> {
    pub user: u64,
    pub version: u64,
    pub variant: &'r str,
    /// Key of the assignment.
    pub assignment: Option<i64>,
    pub at: i64,
    /// Whether another variant was seen later under the same version.
    pub crossed: bool,
}

/// A conversion.
#[derive(Debug, Clone, PartialEq)]
pub struct ConversionRow<'r> {
    pub user: u64,
    pub event: &'r str,
    pub value: Option<f64>,
    pub at: i64,
}

/// A user in one phase.
#[derive(Debug)]
struct Span {
    group: Group,
    exposed_at: i64,
    /// First exposure of the user in any phase.
    first_at: i64,
    /// Exposure in the next phase.
    until: Option<i64>,
}

/// Values of one user for one metric.
#[derive(Debug, Clone, Copy, Default)]
struct Values {
    count: u64,
    sum: f64,
    other_count: u64,
    other_sum: f64,
}

/// Time range, both ends included, and the time that is the limit of finished windows.
struct Window {
    from: i64,
    to: i64,
    length: i64,
    cut: i64,
}

impl Window {
    fn of(design: &Design, metric: &Metric, counted_at: i64) -> Self {
        let hours = |hours: u32| i64::from(hours) * MICROSECONDS_PER_HOUR;
        let (from, to) = (hours(metric.delay_hours), hours(design.ends_after_hours(metric)));
        Self { from, to, length: to - from, cut: counted_at - to }
    }
}

/// Counts the rows. `skew` is the tolerated difference between clocks in microseconds, and `counted_at` the time.
pub fn count(
    design: &Design,
    phases: &[Phase],
    exposures: &[ExposureRow<'_>],
    conversions: &[ConversionRow<'_>],
    skew: i64,
    counted_at: i64,
) -> Counts {
    let windows: Vec<Window> =
        design.metrics.iter().map(|metric| Window::of(design, metric, counted_at)).collect();
    let mut exposed: BTreeMap<u64, Vec<&ExposureRow<'_>>> = BTreeMap::new();
    exposures.iter().for_each(|row| exposed.entry(row.user).or_default().push(row));
    let mut converted: BTreeMap<u64, Vec<&ConversionRow<'_>>> = BTreeMap::new();
    conversions.iter().for_each(|row| converted.entry(row.user).or_default().push(row));
    let (mut users, mut lines): (BTreeMap<Group, UserLine>, BTreeMap<Group, ConversionLine>) =
        Default::default();
    let mut valued: BTreeMap<(Group, usize), Vec<Values>> = BTreeMap::new();
    let waiting = conversions.iter().filter(|row| !exposed.contains_key(&row.user)).count() as u64;
    for (user, rows) in exposed {
        let spans = spans(phases, rows);
        let conversions = converted.get(&user).map(Vec::as_slice).unwrap_or_default();
        for span in &spans {
            let line = users.entry(span.group.clone()).or_insert_with(|| UserLine {
                group: span.group.clone(),
                users: 0,
                finished: vec![0; windows.len()],
            });
            line.users += 1;
            for (finished, window) in line.finished.iter_mut().zip(&windows) {
                *finished += u64::from(span.exposed_at <= window.cut);
            }
            for (index, (metric, window)) in design.metrics.iter().zip(&windows).enumerate() {
                let is_left_out = design.finished_windows && span.exposed_at > window.cut;
                let values = span.values(metric, window, conversions, skew);
                if values.count + values.other_count > 0 && !is_left_out {
                    valued.entry((span.group.clone(), index)).or_default().push(values);
                }
            }
        }
        for conversion in conversions {
            classify(design, &windows, &spans, conversion, skew, &mut lines);
        }
    }
    let caps = caps(design, &valued);
    let metric_line = |((group, metric), values): ((Group, usize), Vec<Values>)| {
        let kind = design.metrics.get(metric).map_or(Kind::Mean, |metric| metric.kind);
        MetricLine { group, metric, sample: sample(kind, caps.get(metric).copied().flatten(), &values) }
    };
    Counts {
        users: users.into_values().collect(),
        metrics: valued.into_iter().map(metric_line).collect(),
        conversions: lines.into_values().collect(),
        waiting,
    }
}

/// The phases of one user, oldest first. In each, the first exposure determines the variant.
fn spans(phases: &[Phase], mut rows: Vec<&ExposureRow<'_>>) -> Vec<Span> {
    rows.sort_by_key(|row| (row.at, row.variant));
    let first_at = rows.first().map_or(0, |row| row.at);
    let phase_of = |version: u64| {
        let phase = phases.iter().rev().find(|phase| phase.first_version <= version);
        phase.or(phases.first()).map_or(1, |phase| phase.number)
    };
    let mut spans: BTreeMap<u32, Span> = BTreeMap::new();
    let mut shown: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for row in rows {
        let phase = phase_of(row.version);
        shown.entry(phase).or_default().push(row.variant);
        let span = spans.entry(phase).or_insert_with(|| Span {
            group: Group {
                phase,
                variant: row.variant.to_owned(),
                assignment: row.assignment,
                seen: Seen::One,
            },
            exposed_at: row.at,
            first_at,
            until: None,
        });
        if row.crossed || span.group.variant != row.variant {
            span.group.seen = Seen::Crossed;
        }
    }
    let starts: Vec<(u32, i64)> = spans.iter().map(|(phase, span)| (*phase, span.exposed_at)).collect();
    let variants: Vec<(u32, String)> =
        spans.iter().map(|(phase, span)| (*phase, span.group.variant.clone())).collect();
    for (phase, span) in &mut spans {
        span.until = starts.iter().find(|(later, _)| later > phase).map(|(_, at)| *at);
        let saw_other =
            variants.iter().any(|(before, variant)| before < phase && *variant != span.group.variant);
        if saw_other && span.group.seen == Seen::One {
            span.group.seen = Seen::Changed;
        }
    }
    spans.into_values().collect()
}

impl Span {
    /// Time from the exposure to the conversion. `None` if it belongs to another phase, or came before the exposure.
    fn offset(&self, at: i64, skew: i64) -> Option<i64> {
        let is_first = self.exposed_at == self.first_at;
        let starts = if is_first { self.exposed_at - skew } else { self.exposed_at };
        let belongs = at >= starts && self.until.is_none_or(|until| at < until);
        belongs.then_some((at - self.exposed_at).max(0))
    }

    fn values(&self, metric: &Metric, window: &Window, rows: &[&ConversionRow<'_>], skew: i64) -> Values {
        let mut values = Values::default();
        let exposed = self.first_at - skew;
        for row in rows {
            let value = row.value.unwrap_or(if metric.kind == Kind::Ratio { 1.0 } else { 0.0 });
            if metric.kind.is_rate() && row.value == Some(0.0) {
                continue;
            }
            let offset = self.offset(row.at, skew);
            let is_after = offset.is_some_and(|offset| (window.from..=window.to).contains(&offset));
            let is_before = (exposed - window.length..exposed).contains(&row.at);
            if row.event == metric.event() && is_after {
                values.count += 1;
                values.sum += value;
            }
            let is_other = match &metric.denominator {
                Some(denominator) => row.event == denominator && is_after,
                None => row.event == metric.event() && is_before && metric.kind != Kind::Quantile,
            };
            if is_other {
                values.other_count += 1;
                values.other_sum += value;
            }
        }
        values
    }
}

/// Counts a conversion by its outcome.
fn classify(
    design: &Design,
    windows: &[Window],
    spans: &[Span],
    row: &ConversionRow<'_>,
    skew: i64,
    lines: &mut BTreeMap<Group, ConversionLine>,
) {
    let belongs = spans.iter().find_map(|span| Some((span, span.offset(row.at, skew)?)));
    // What came before every exposure is counted where the user came first.
    let Some(span) = belongs.map(|(span, _)| span).or(spans.iter().min_by_key(|span| span.exposed_at)) else {
        return;
    };
    let line = lines.entry(span.group.clone()).or_insert_with(|| ConversionLine {
        group: span.group.clone(),
        attributed: 0,
        before_exposure: 0,
        after_window: 0,
    });
    let counts =
        |metric: &Metric| metric.event() == row.event || metric.denominator.as_deref() == Some(row.event);
    let of_event = || design.metrics.iter().zip(windows).filter(|(metric, _)| counts(metric));
    let from = of_event().map(|(_, window)| window.from).min().unwrap_or(0);
    let to = of_event().map(|(_, window)| window.to).max().unwrap_or(0);
    match belongs {
        None => line.before_exposure += 1,
        Some((_, offset)) if (from..=to).contains(&offset) => line.attributed += 1,
        Some(_) => line.after_window += 1,
    }
}

/// Largest value of each metric.
fn caps(design: &Design, valued: &BTreeMap<(Group, usize), Vec<Values>>) -> Vec<Option<f64>> {
    let cap = |(index, metric): (usize, &Metric)| match metric.cap? {
        Cap::Value(value) => Some(value),
        Cap::Percentile(share) => {
            let of_metric = valued.iter().filter(|((_, metric), _)| *metric == index);
            let values = of_metric.flat_map(|(_, values)| values).filter(|values| values.count > 0);
            quantile(values.map(|values| values.sum).collect(), share)
        }
    };
    design.metrics.iter().enumerate().map(cap).collect()
}

/// Smallest value that at least this share of the values do not exceed.
pub fn quantile(mut values: Vec<f64>, share: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = (share * values.len() as f64).ceil().max(1.0) as usize;
    values.get(rank.min(values.len()).checked_sub(1)?).copied()
}

fn sample(kind: Kind, cap: Option<f64>, values: &[Values]) -> Sample {
    let mut sample = Sample::default();
    let capped = |sum: f64| cap.map_or(sum, |cap| sum.min(cap));
    for values in values {
        let (value, other) = match kind {
            Kind::Conversion | Kind::Retention => {
                (f64::from(u8::from(values.count > 0)), f64::from(u8::from(values.other_count > 0)))
            }
            Kind::Count => (capped(values.count as f64), capped(values.other_count as f64)),
            Kind::Ratio => (values.sum, values.other_sum),
            Kind::Mean | Kind::Quantile => (capped(values.sum), capped(values.other_sum)),
        };
        sample.push(value, other);
        sample.converted -= u64::from(values.count == 0);
    }
    sample
}
