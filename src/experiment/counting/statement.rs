//! SQL of a count.

use std::fmt::Write;

use super::super::design::Kind;
use super::super::tally::Phase;
use super::dimensions::SEEN_VALUES;
use super::parts::Part;
use super::{CONVERSIONS, FINISHED, MICROSECONDS_PER_HOUR, Question, USERS, WAITING};

/// Statement with the texts to bind after the experiment's id.
pub(super) struct Statement {
    pub(super) text: String,
    pub(super) events: Vec<String>,
}

/// Time from the exposure of a row of `joined` to its conversion; 0 for one that the clocks put before it.
pub(super) const OFFSET: &str =
    "CASE WHEN s.occurred_at > s.exposed_at THEN s.occurred_at - s.exposed_at ELSE 0 END";
/// Value and other value of each user, by the kind of the metric.
pub(super) const CAPPED: &str = "capped AS (
        SELECT user_key, phase, variant, assignment, seen, metric, n,
            CAST(CASE kind WHEN 0 THEN CASE WHEN n > 0 THEN 1 ELSE 0 END
                WHEN 1 THEN CASE WHEN n > cap THEN cap ELSE n END
                ELSE CASE WHEN v > cap THEN cap ELSE v END END AS double precision) AS y,
            CAST(CASE kind WHEN 0 THEN CASE WHEN other_n > 0 THEN 1 ELSE 0 END
                WHEN 1 THEN CASE WHEN other_n > cap THEN cap ELSE other_n END
                ELSE CASE WHEN other_v > cap THEN cap ELSE other_v END END AS double precision) AS x
        FROM converted
    )";
pub(super) const NO_MOMENTS: &str = ", CAST(NULL AS double precision), CAST(NULL AS double precision),
    CAST(NULL AS double precision), CAST(NULL AS double precision), CAST(NULL AS double precision),
    CAST(NULL AS double precision)";
/// Postgres computes means and scatter with the algorithm of Youngs and Cramer, which keeps the precision.
pub(super) const POSTGRES_MOMENTS: &str = "UNION ALL SELECT 2, phase, variant, assignment, seen, metric, count(*),
        sum(CASE WHEN n > 0 THEN 1 ELSE 0 END), 0, regr_avgy(y, x), regr_syy(y, x), regr_avgx(y, x), regr_sxx(y, x),
        regr_sxy(y, x), max(abs(y))
    FROM capped GROUP BY phase, variant, assignment, seen, metric";
/// SQLite has no such functions. The deviations from the mean are summed in a second pass.
pub(super) const SQLITE_MOMENTS: &str = "UNION ALL SELECT 2, phase, variant, assignment, seen, metric, count(*),
        sum(CASE WHEN n > 0 THEN 1 ELSE 0 END), 0, max(my), sum((y - my) * (y - my)), max(mx), sum((x - mx) * (x - mx)),
        sum((y - my) * (x - mx)), max(abs(y))
    FROM (SELECT capped.*, avg(y) OVER place AS my, avg(x) OVER place AS mx FROM capped
        WINDOW place AS (PARTITION BY phase, variant, assignment, seen, metric))
    GROUP BY phase, variant, assignment, seen, metric";

impl Question<'_> {
    pub(super) fn statement(
        &self,
        caps: &[Option<f64>],
        moments: &str,
        one_version: bool,
        part: Part,
    ) -> Statement {
        let (measures, mut events) = self.measures(caps, None);
        // The first parameter is the experiment.
        let first = events.len() + 2;
        events.extend(self.split.iter().flat_map(|split| split.texts().cloned()));
        let windows = self.ends();
        let number = |(index, hours): (usize, &u32)| {
            let cut = self.cut(*hours);
            format!(", sum(CASE WHEN exposed_at <= {cut} THEN 1 ELSE 0 END) AS finished_{index}")
        };
        let numbers: String = windows.iter().enumerate().map(number).collect();
        let line = |index: usize| {
            format!(
                "UNION ALL SELECT {FINISHED}, phase, variant, assignment, seen, {index}, finished_{index}, 0, 0{NO_MOMENTS}
                FROM counted"
            )
        };
        let finished: Vec<String> = (0..windows.len()).map(line).collect();
        let skew = self.skew();
        let text = format!(
            "WITH {spans}, measures(metric, event, side, kind, paired, delay, ends, length, cut, cap) AS (VALUES {measures}),
            windows AS (SELECT event, min(delay) AS delay, max(ends) AS ends FROM measures GROUP BY event),
            {converted}, {CAPPED}, outcomes AS (
                SELECT s.phase, s.variant, s.assignment, s.seen,
                    CASE WHEN s.occurred_at < s.first_at - {skew} THEN 0
                        WHEN ({OFFSET}) BETWEEN w.delay AND w.ends THEN 1 ELSE 2 END AS outcome
                FROM joined AS s JOIN windows AS w ON w.event = s.event
                WHERE ({BELONGS}) OR (s.occurred_at < s.first_at - {skew} AND s.exposed_at = s.first_at)
            ), counted AS (
                SELECT phase, variant, assignment, seen, count(*) AS users{numbers}
                FROM spans GROUP BY phase, variant, assignment, seen
            )
            SELECT CAST({USERS} AS bigint), CAST(phase AS bigint), variant, assignment, CAST(seen AS bigint),
                CAST(0 AS bigint), CAST(users AS bigint), CAST(0 AS bigint), CAST(0 AS bigint){NO_MOMENTS}
            FROM counted
            {finished}
            UNION ALL SELECT {CONVERSIONS}, phase, variant, assignment, seen, 0,
                sum(CASE WHEN outcome = 1 THEN 1 ELSE 0 END), sum(CASE WHEN outcome = 0 THEN 1 ELSE 0 END),
                sum(CASE WHEN outcome = 2 THEN 1 ELSE 0 END){NO_MOMENTS}
            FROM outcomes GROUP BY phase, variant, assignment, seen
            UNION ALL SELECT {WAITING}, 1, '', NULL, 0, 0,
                (SELECT count(*) FROM experiment_conversions WHERE experiment_id = $1{of_part})
                    - (SELECT count(*) FROM joined WHERE is_first), 0, 0{NO_MOMENTS}
            {moments}",
            of_part = part.condition("user_key"),
            spans = self.spans(one_version, &self.level_of_exposure(first), part),
            finished = finished.join("\n"),
            converted = self.converted(&self.level_of_conversion(first), part),
            BELONGS = self.belongs(),
        );
        Statement { text, events }
    }

    /// One row per user and phase: the first exposure determines variant, assignment and level. `level`: number of the
    /// level of an exposure, to be added to `seen`; empty if exposures have none.
    pub(super) fn spans(&self, one_version: bool, level: &str, part: Part) -> String {
        let part = part.condition("user_key");
        let seen = "CASE WHEN crossed + changed > 0 THEN 1 WHEN before <> variant THEN 2 ELSE 0 END";
        // With one version every user has one row, which Postgres reads where it is needed.
        let (level, add_level) = match level {
            "" => ("0", String::new()),
            level => (level, format!(" + {SEEN_VALUES} * ({level})")),
        };
        if one_version {
            return format!(
                "spans AS NOT MATERIALIZED (SELECT user_key, {phase} AS phase, variant, assignment, exposed_at, exposed_at AS first_at,
                    exposed_at - {skew} AS starts_at, CAST(NULL AS bigint) AS until, 1 = 1 AS is_first,
                    CASE WHEN crossed THEN 1 ELSE 0 END{add_level} AS seen
                FROM experiment_exposures WHERE experiment_id = $1{part})",
                phase = phase_of_version(self.phases),
                skew = self.skew()
            );
        }
        format!(
            "seen AS (
                SELECT user_key, {phase} AS phase, variant, assignment, exposed_at, crossed, {level} AS level
                FROM experiment_exposures WHERE experiment_id = $1{part}
            ), ranked AS (
                SELECT seen.*, row_number() OVER (PARTITION BY user_key, phase ORDER BY exposed_at, variant) AS nth FROM seen
            ), users AS (
                SELECT user_key, phase, min(exposed_at) AS exposed_at, max(CASE WHEN nth = 1 THEN variant END) AS variant,
                    max(CASE WHEN nth = 1 THEN assignment END) AS assignment,
                    max(CASE WHEN nth = 1 THEN level END) AS level,
                    max(CASE WHEN crossed THEN 1 ELSE 0 END) AS crossed,
                    CASE WHEN min(variant) <> max(variant) THEN 1 ELSE 0 END AS changed
                FROM ranked GROUP BY user_key, phase
            ), chained AS (
                SELECT users.*, min(exposed_at) OVER (PARTITION BY user_key) AS first_at,
                    lead(exposed_at) OVER (PARTITION BY user_key ORDER BY phase) AS until,
                    min(variant) OVER (PARTITION BY user_key ORDER BY phase
                        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before,
                    max(variant) OVER (PARTITION BY user_key ORDER BY phase
                        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before_too
                FROM users
            ), spans AS (
                SELECT user_key, phase, variant, assignment, exposed_at, first_at,
                    CASE WHEN exposed_at = first_at THEN exposed_at - {skew} ELSE exposed_at END AS starts_at, until,
                    before IS NULL AS is_first,
                    {seen} + {SEEN_VALUES} * level AS seen
                FROM chained
            )",
            phase = phase_of_version(self.phases),
            skew = self.skew(),
            seen = seen.replace("before <> variant", "before <> variant OR before_too <> variant"),
        )
    }

    /// The conversions of each user and phase, and the values of each user for each metric. `level`: number of the level of a
    /// conversion, to be added to `seen`; empty if conversions have none.
    pub(super) fn converted(&self, level: &str, part: Part) -> String {
        let after = format!("({}) AND ({OFFSET}) BETWEEN m.delay AND m.ends", self.belongs());
        let before = format!(
            "m.paired = 0 AND s.occurred_at >= s.first_at - {skew} - m.length AND s.occurred_at < s.first_at - {skew}",
            skew = self.skew()
        );
        // A conversion without a value counts as 1 in a ratio.
        let value = "coalesce(s.value, CASE WHEN m.kind = 2 THEN 1.0 ELSE 0.0 END)";
        let (level, seen) = match level {
            "" => ("0", "s.seen".to_owned()),
            level => (level, format!("s.seen + {SEEN_VALUES} * s.level")),
        };
        // The fifth column is `seen`.
        format!(
            "joined AS MATERIALIZED (
                SELECT s.*, c.metric AS event, c.occurred_at, c.value, {level} AS level
                FROM spans AS s JOIN experiment_conversions AS c ON c.experiment_id = $1 AND c.user_key = s.user_key{part}
            ), converted AS (
                SELECT s.user_key, s.phase, s.variant, s.assignment, {seen} AS seen, m.metric, m.kind, m.cap,
                    sum(CASE WHEN m.side = 0 AND {after} THEN 1 ELSE 0 END) AS n,
                    sum(CASE WHEN m.side = 0 AND {after} THEN {value} ELSE 0.0 END) AS v,
                    sum(CASE WHEN m.side = 1 OR {before} THEN 1 ELSE 0 END) AS other_n,
                    sum(CASE WHEN m.side = 1 OR {before} THEN {value} ELSE 0.0 END) AS other_v
                FROM joined AS s JOIN measures AS m ON m.event = s.event
                WHERE (({after}) OR ({before})) AND s.exposed_at <= m.cut AND NOT (m.kind = 0 AND coalesce(s.value, 1) = 0)
                GROUP BY s.user_key, m.metric, s.phase, s.variant, s.assignment, 5, m.kind, m.cap
            )",
            part = part.condition("c.user_key"),
        )
    }

    /// Condition: the conversion of a row of `joined` belongs to its phase.
    pub(super) fn belongs(&self) -> &'static str {
        "s.occurred_at >= s.starts_at AND (s.until IS NULL OR s.occurred_at < s.until)"
    }

    /// Rows of the measures, and the events to bind from the second parameter on. A ratio has a second measure for its
    /// denominator.
    pub(super) fn measures(&self, caps: &[Option<f64>], only: Option<usize>) -> (String, Vec<String>) {
        let (mut rows, mut events) = (Vec::new(), Vec::new());
        for (index, metric) in self.design.metrics.iter().enumerate() {
            if only.is_some_and(|only| only != index) {
                continue;
            }
            let kind = match metric.kind {
                Kind::Conversion | Kind::Retention => 0,
                Kind::Count => 1,
                Kind::Ratio => 2,
                Kind::Mean | Kind::Quantile => 3,
            };
            let paired = i32::from(matches!(metric.kind, Kind::Ratio | Kind::Quantile));
            let hours = self.design.ends_after_hours(metric);
            let [delay, ends] = [metric.delay_hours, hours].map(micros);
            let cut = if self.design.finished_windows { self.cut(hours) } else { i64::MAX };
            let cap = match caps.get(index).copied().flatten() {
                Some(cap) => format!("CAST({cap:e} AS double precision)"),
                None => "CAST(NULL AS double precision)".to_owned(),
            };
            let sides = [Some(metric.event()), metric.denominator.as_deref()];
            for (side, event) in sides.iter().enumerate().filter_map(|(side, event)| Some((side, (*event)?)))
            {
                events.push(event.to_owned());
                let place = events.len() + 1;
                let mut row = String::new();
                // Writing to a string cannot fail.
                let _ = write!(
                    row,
                    "({index}, CAST(${place} AS text), {side}, {kind}, {paired}, CAST({delay} AS bigint), \
                     CAST({ends} AS bigint), CAST({length} AS bigint), CAST({cut} AS bigint), {cap})",
                    length = ends - delay,
                );
                rows.push(row);
            }
        }
        (rows.join(", "), events)
    }

    /// Different ends of the metrics' windows, in hours.
    pub(super) fn ends(&self) -> Vec<u32> {
        let mut ends: Vec<u32> =
            self.design.metrics.iter().map(|metric| self.design.ends_after_hours(metric)).collect();
        ends.sort_unstable();
        ends.dedup();
        ends
    }

    /// Latest exposure whose window of this length is over.
    pub(super) fn cut(&self, hours: u32) -> i64 {
        self.counted_at.timestamp_micros() - micros(hours)
    }

    pub(super) fn skew(&self) -> i64 {
        self.clock_skew.num_microseconds().unwrap_or(0)
    }
}

fn micros(hours: u32) -> i64 {
    i64::from(hours) * MICROSECONDS_PER_HOUR
}

/// SQL expression for the phase of a flag version.
fn phase_of_version(phases: &[Phase]) -> String {
    let later = phases.iter().skip(1).rev();
    let cases: String = later
        .map(|phase| format!(" WHEN flag_version >= {} THEN {}", phase.first_version, phase.number))
        .collect();
    if cases.is_empty() { "1".to_owned() } else { format!("CASE{cases} ELSE 1 END") }
}
