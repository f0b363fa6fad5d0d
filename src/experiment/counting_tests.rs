//! The count in the database equals the one in memory, for random rows, with SQLite.
#![allow(clippy::unwrap_used)]

use std::fmt::Write;

use chrono::DateTime;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::config::Secret;
use crate::experiment::phases::{Version, phases};
use crate::experiment::rows::{self, ConversionRow, ExposureRow};
use crate::experiment::tally::Sample;
use crate::experiment::{Assignment, Dimension, DimensionSource, Metric, Role};

const HOUR: i64 = MICROSECONDS_PER_HOUR;
const SKEW: TimeDelta = TimeDelta::minutes(5);
const DRAWN: &str = r#"{"how": "drawn", "weights": {"a": 50, "b": 50}}"#;
const FORCED: &str = r#"{"how": "forced", "weights": {"b": 100}}"#;

struct Rows {
    exposures: Vec<ExposureRow<'static>>,
    conversions: Vec<ConversionRow<'static>>,
}

fn design(finished_windows: bool) -> Design {
    let metric = |name: &str, kind, more: fn(&mut Metric)| {
        let mut metric = Metric { name: name.to_owned(), kind, role: Role::Secondary, ..Metric::default() };
        more(&mut metric);
        metric
    };
    let metrics = vec![
        metric("buy", Kind::Conversion, |_| {}),
        metric("spent", Kind::Mean, |metric| metric.event = Some("order".to_owned())),
        metric("capped", Kind::Mean, |metric| {
            (metric.event, metric.cap) = (Some("order".to_owned()), Some(Cap::Value(1_000_004.0)));
        }),
        metric("usual", Kind::Mean, |metric| {
            (metric.event, metric.cap) = (Some("order".to_owned()), Some(Cap::Percentile(0.8)));
        }),
        metric("orders", Kind::Count, |metric| {
            (metric.event, metric.window_hours) = (Some("order".to_owned()), Some(12));
        }),
        metric("back", Kind::Retention, |metric| {
            (metric.event, metric.delay_hours, metric.window_hours) = (Some("buy".to_owned()), 10, Some(14));
        }),
        metric("value", Kind::Ratio, |metric| {
            (metric.event, metric.denominator) = (Some("order".to_owned()), Some("buy".to_owned()));
        }),
        metric("median", Kind::Quantile, |metric| {
            (metric.event, metric.quantile) = (Some("order".to_owned()), Some(0.5));
        }),
    ];
    Design {
        name: "x".to_owned(),
        environment: "e".to_owned(),
        flag_name: "f".to_owned(),
        hypothesis: None,
        owner: None,
        control: "a".to_owned(),
        holdout: None,
        metrics,
        window_hours: 24,
        confidence: 0.95,
        power: 0.8,
        finished_windows,
        exclude_crossed: false,
        planned_users: None,
        on_harm: None,
        dimensions: Vec::new(),
        layer: None,
        global_holdout: None,
    }
}

/// Random rows of 60 users, some of them exposed more than once, or never, or forced.
fn random(random: &mut StdRng, versions: u64) -> Rows {
    let mut rows = Rows { exposures: Vec::new(), conversions: Vec::new() };
    for user in 0..60_u64 {
        let shown: Vec<u64> = (1..=versions).filter(|_| random.random_range(0..10) < 7).collect();
        for version in shown {
            let at = 100 * HOUR + random.random_range(0..48 * HOUR) + user.cast_signed();
            let forced = random.random_range(0..10) == 0;
            let variant = if forced || random.random() { "b" } else { "a" };
            let assignment =
                [Some(if forced { 2 } else { 1 }), None][usize::from(random.random_range(0..8) == 0)];
            rows.exposures.push(ExposureRow {
                user,
                version,
                variant,
                assignment,
                at,
                crossed: random.random_range(0..9) == 0,
            });
        }
        for _ in 0..random.random_range(0..8) {
            let event = if random.random() { "buy" } else { "order" };
            let value = match event {
                "order" => Some(1e6 + f64::from(random.random_range(-5_i32..=5))),
                _ => [None, Some(0.0), Some(2.0)][random.random_range(0..3)],
            };
            // Close to an exposure as often as anywhere.
            let near = rows.exposures.last().map_or(100 * HOUR, |row| row.at);
            let at = match random.random_range(0..3) {
                0 => near + random.random_range(-600_000_000..600_000_000),
                _ => 90 * HOUR + random.random_range(0..90 * HOUR),
            };
            rows.conversions.push(ConversionRow { user, event, value, at });
        }
    }
    rows
}

/// Plan of a user: two frequent ones, many others, or none.
fn plan(user: u64) -> Option<String> {
    [Some("gold".to_owned()), Some("free".to_owned()), Some(format!("plan-{user:02}")), None]
        .into_iter()
        .nth(usize::try_from(user % 4).unwrap())
        .flatten()
}

fn attributes(user: u64) -> String {
    plan(user).map_or("NULL".to_owned(), |plan| format!(r#"'{{"plan": "{plan}"}}'"#))
}

/// Metadata of the conversions, by their position.
fn metadata(index: usize) -> &'static str {
    [r#"'{"items": 2, "payment": "visa"}'"#, r#"'{"payment": 7}'"#, "NULL"][index % 3]
}

async fn database(folder: &tempfile::TempDir, rows: &Rows) -> Database {
    let url = format!("sqlite:{}", folder.path().join("test.db").display());
    let database = Database::open(&Secret::new(url), "test").unwrap();
    database.migrate().await.unwrap();
    let mut text = String::from("BEGIN;");
    for row in &rows.exposures {
        let assignment = row.assignment.map_or("NULL".to_owned(), |key| key.to_string());
        let _ = write!(
            text,
            "INSERT INTO experiment_exposures VALUES (1, x'{:04x}', {}, '{}', {}, {}, {assignment}, {});",
            row.user,
            row.version,
            row.variant,
            row.at,
            row.crossed,
            attributes(row.user)
        );
    }
    for (index, row) in rows.conversions.iter().enumerate() {
        let value = row.value.map_or("NULL".to_owned(), |value| value.to_string());
        let _ = write!(
            text,
            "INSERT INTO experiment_conversions VALUES (1, x'{index:04x}', x'{:04x}', '{}', {value}, {}, {});",
            row.user,
            row.event,
            row.at,
            metadata(index)
        );
    }
    let Database::Sqlite(sqlite) = &database else { unreachable!() };
    sqlx::raw_sql(AssertSqlSafe(text + "COMMIT;")).execute(&sqlite.pool).await.unwrap();
    database
}

fn time(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap()
}

fn versions(count: u64) -> Vec<Version> {
    let weights = [(50, 50), (55, 45), (55, 45)];
    let version = |(index, (a, b)): (usize, &(u32, u32))| Version {
        version: index as u64 + 1,
        draws: Draws::read(&format!(
            r#"{{"variants": [{{"name": "a", "weight": {a}}}, {{"name": "b", "weight": {b}}}]}}"#
        )),
        in_force_at: time(index as i64 * 110 * HOUR),
    };
    weights.iter().enumerate().take(usize::try_from(count).unwrap()).map(version).collect()
}

/// The question for all users of the first experiment.
fn question<'q>(design: &'q Design, phases: &'q [Phase]) -> Question<'q> {
    let counted_at = time(150 * HOUR);
    Question { experiment: 1, design, phases, clock_skew: SKEW, counted_at, split: None }
}

fn assert_close(ours: &Sample, expected: &Sample, context: &str) {
    assert_eq!((ours.users, ours.converted), (expected.users, expected.converted), "{context}");
    let pairs = [
        (ours.mean, expected.mean, 1.0),
        (ours.other_mean, expected.other_mean, 1.0),
        (ours.largest, expected.largest, 1.0),
        (ours.scatter, expected.scatter, expected.scatter.abs()),
        (ours.other_scatter, expected.other_scatter, expected.other_scatter.abs()),
        (ours.product_scatter, expected.product_scatter, (expected.scatter * expected.other_scatter).sqrt()),
    ];
    for (ours, expected, scale) in pairs {
        let tolerance = 1e-9 * scale.max(expected.abs()) + 1e-6;
        assert!((ours - expected).abs() <= tolerance, "{ours} is not {expected}: {context}");
    }
}

#[tokio::test]
async fn the_database_counts_as_the_memory_does() {
    for seed in 0..12 {
        let mut chance = StdRng::seed_from_u64(seed);
        let (design, count) = (design(seed % 2 == 0), seed % 3 + 1);
        let rows = random(&mut chance, count);
        let folder = tempfile::tempdir().unwrap();
        let database = database(&folder, &rows).await;
        let phases = phases(&versions(count), "a", time(0), None);
        let question = question(&design, &phases);
        let counted_at = question.counted_at;
        let mut ours = question.count(&database).await.unwrap();
        let expected = rows::count(
            &design,
            &phases,
            &rows.exposures,
            &rows.conversions,
            SKEW.num_microseconds().unwrap(),
            counted_at.timestamp_micros(),
        );
        ours.users.sort_by(|a, b| a.group.cmp(&b.group));
        ours.conversions.sort_by(|a, b| a.group.cmp(&b.group));
        ours.metrics.sort_by(|a, b| (&a.group, a.metric).cmp(&(&b.group, b.metric)));
        assert_eq!(ours.users, expected.users, "seed {seed}");
        assert_eq!(ours.conversions, expected.conversions, "seed {seed}");
        assert_eq!(ours.waiting, expected.waiting, "seed {seed}");
        let groups = |counts: &Counts| -> Vec<(Group, usize)> {
            counts.metrics.iter().map(|line| (line.group.clone(), line.metric)).collect()
        };
        assert_eq!(groups(&ours), groups(&expected), "seed {seed}");
        for (ours, expected) in ours.metrics.iter().zip(&expected.metrics) {
            assert_close(&ours.sample, &expected.sample, &format!("seed {seed}: {expected:?}"));
        }
    }
}

#[tokio::test]
async fn what_was_sent_adds_up() {
    let mut chance = StdRng::seed_from_u64(7);
    let rows = random(&mut chance, 2);
    let folder = tempfile::tempdir().unwrap();
    let database = database(&folder, &rows).await;
    let (design, phases) = (design(false), phases(&versions(2), "a", time(0), None));
    let question = question(&design, &phases);
    let counts = question.count(&database).await.unwrap();
    let texts = [(1, DRAWN), (2, FORCED)];
    let assignments: Assignments =
        texts.iter().map(|(key, text)| (*key, Assignment::read(text).unwrap())).collect();
    let found = counts.conversions(&design, &phases, &assignments);
    let exposed = |user: u64| rows.exposures.iter().any(|row| row.user == user);
    let sent = rows.conversions.iter().filter(|row| exposed(row.user)).count() as u64;
    assert_eq!(
        found.attributed + found.before_exposure + found.after_window + found.excluded,
        sent,
        "{found:?}"
    );
    assert_eq!(found.waiting, rows.conversions.len() as u64 - sent);
    assert!(found.before_exposure > 0 && found.after_window > 0 && found.excluded > 0, "{found:?}");

    // The median of each variant is that of its users' sums.
    let mut tallies = counts.tallies(&design, phases.clone(), &assignments, question.counted_at);
    question.add_quantiles(&database, &counts, &assignments, &mut tallies).await.unwrap();
    let median = tallies[0].strata[0].variants[0].samples[7];
    let quantile = median.quantile.unwrap();
    assert!(quantile.low <= quantile.value && quantile.value <= quantile.high && median.users > 0);
    assert!((9e5..1e7).contains(&quantile.value), "{quantile:?}");
}

/// The design without the metrics whose caps or quantiles depend on all users.
fn plain_design() -> Design {
    let mut design = design(false);
    design
        .metrics
        .retain(|metric| metric.kind != Kind::Quantile && !matches!(metric.cap, Some(Cap::Percentile(_))));
    design
}

/// Compares the counts of a level with those of the rows in memory, without the lines of conversions.
fn assert_same(mut ours: Counts, mut expected: Counts, context: &str) {
    for counts in [&mut ours, &mut expected] {
        counts.users.sort_by(|a, b| a.group.cmp(&b.group));
        counts.metrics.sort_by(|a, b| (&a.group, a.metric).cmp(&(&b.group, b.metric)));
    }
    assert_eq!(ours.users, expected.users, "{context}");
    assert_eq!(ours.metrics.len(), expected.metrics.len(), "{context}");
    for (ours, expected) in ours.metrics.iter().zip(&expected.metrics) {
        assert_eq!((&ours.group, ours.metric), (&expected.group, expected.metric), "{context}");
        assert_close(&ours.sample, &expected.sample, context);
    }
}

#[tokio::test]
async fn a_level_counts_the_rows_with_its_value_and_no_others() {
    for seed in 0..6 {
        let mut chance = StdRng::seed_from_u64(100 + seed);
        let (design, count) = (plain_design(), seed % 3 + 1);
        let rows = random(&mut chance, count);
        let folder = tempfile::tempdir().unwrap();
        let database = database(&folder, &rows).await;
        let phases = phases(&versions(count), "a", time(0), None);
        let question = question(&design, &phases);
        let counted_at = question.counted_at;
        let expected = |exposures: &[ExposureRow<'static>], conversions: &[ConversionRow<'static>]| {
            let (skew, at) = (SKEW.num_microseconds().unwrap(), counted_at.timestamp_micros());
            rows::count(&design, &phases, exposures, conversions, skew, at)
        };
        let caps = question.caps(&database).await.unwrap();
        let values = ["gold", "free"].map(str::to_owned);
        // Two values, the others, and none.
        let level_of = |user: u64| match plan(user).as_deref() {
            Some("gold") => 0,
            Some("free") => 1,
            Some(_) => 2,
            None => 3,
        };
        let dimension = Dimension { name: "plan".to_owned(), source: DimensionSource::Context };
        let split = Some(Split { dimension: &dimension, values: &values });
        let by_plan = Question { split, ..question };
        let lines = by_plan.lines(&database, &caps).await.unwrap();
        for level in 0..4 {
            let exposures: Vec<_> =
                rows.exposures.iter().filter(|row| level_of(row.user) == level).cloned().collect();
            let expected = expected(&exposures, &rows.conversions);
            assert_same(
                by_plan.counts_of_level(&lines, level),
                expected,
                &format!("seed {seed}, plan {level}"),
            );
        }
        let dimension = Dimension { name: "payment".to_owned(), source: DimensionSource::Conversion };
        let values = ["visa", "7"].map(str::to_owned);
        let split = Some(Split { dimension: &dimension, values: &values });
        let by_payment = Question { split, ..question };
        let lines = by_payment.lines(&database, &caps).await.unwrap();
        // Two values, no others, and none.
        for (level, rest) in [(0, 0), (1, 1), (3, 2)] {
            let all = rows.conversions.iter().enumerate();
            let conversions: Vec<_> =
                all.filter(|(at, _)| at % 3 == rest).map(|(_, row)| row.clone()).collect();
            let expected = expected(&rows.exposures, &conversions);
            assert_same(
                by_payment.counts_of_level(&lines, level),
                expected,
                &format!("seed {seed}, payment {level}"),
            );
        }
        assert!(by_payment.counts_of_level(&lines, 2).metrics.is_empty());
    }
}

#[tokio::test]
async fn the_most_frequent_values_are_levels_and_the_others_one_together() {
    let mut chance = StdRng::seed_from_u64(5);
    let rows = random(&mut chance, 1);
    let folder = tempfile::tempdir().unwrap();
    let database = database(&folder, &rows).await;
    let (design, phases) = (plain_design(), phases(&versions(1), "a", time(0), None));
    let counted_at = time(150 * HOUR);
    let question = Question {
        experiment: 1,
        design: &design,
        phases: &phases,
        clock_skew: SKEW,
        counted_at,
        split: None,
    };
    let assignments: Assignments =
        [(1, DRAWN), (2, FORCED)].iter().map(|(key, text)| (*key, Assignment::read(text).unwrap())).collect();
    let broken_down = async |name: &str, source| {
        let dimension = Dimension { name: name.to_owned(), source };
        question.break_down(&database, &phases[0], &assignments, &dimension).await.unwrap()
    };
    let plans = broken_down("plan", DimensionSource::Context).await;
    let names: Vec<_> =
        plans.levels.iter().map(|(level, _)| level.value.clone().unwrap_or_default()).collect();
    assert_eq!((plans.levels.len(), &names[10..]), (12, &[String::new(), String::new()][..]), "{names:?}");
    assert!(names[..2].contains(&"gold".to_owned()) && names[..2].contains(&"free".to_owned()), "{names:?}");
    assert!(names[2..10].is_sorted(), "equally frequent ones by their names: {names:?}");
    let all = question.count(&database).await.unwrap();
    let all = all.tallies(&design, phases.clone(), &assignments, counted_at).remove(0);
    let users: u64 = plans.levels.iter().map(|(_, tally)| tally.users()).sum();
    assert_eq!(users, all.users(), "each user has one level");
    let payments = broken_down("payment", DimensionSource::Conversion).await;
    let kinds: Vec<_> = payments.levels.iter().map(|(level, _)| level.value.clone()).collect();
    assert_eq!(kinds.len(), 3);
    assert!(kinds.contains(&Some("visa".to_owned())) && kinds.contains(&Some("7".to_owned())), "{kinds:?}");
    assert!(payments.levels.iter().all(|(_, tally)| tally.users() == all.users()));
    assert!(broken_down("nothing", DimensionSource::Conversion).await.levels.len() <= 1);
}
