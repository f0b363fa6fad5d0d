use chrono::Utc;

use super::*;
use crate::experiment::results::{Breakdown, Conversions, DimensionLevel, LevelKind};
use crate::experiment::{Dimension, DimensionSource};
use flagstream_experiments::sample_data::{experiment, tally, variant};

const SCREEN: Screen = Screen { width: 92, colour: false, terminal: false };

const CONVERSIONS: Conversions = Conversions {
    attributed: 12_345,
    waiting: 6,
    expired: 7,
    before_exposure: 0,
    after_window: 0,
    excluded: 0,
    duplicates: 0,
};

const RUNNING: &str = "\
checkout in production, flag new-checkout: running since 2026-01-01 00:00 UTC
Fewer steps, more purchases
100,000 users in 10 days. Conversions: 12,345 counted, 6 waiting for an exposure, 7 without
one.

variant              users  share  expected  saw others
old      control    50,000  50.0%     50.0%           0
new      treatment  50,000  50.0%     50.0%           0
split: consistent with the weights, p 1.000

metric          variant    mean  difference  95% interval           p  can find
purchase        old      10.00%
  decides, up   new      11.20%      +12.0%  +5.5% to +18.9%   <0.001     ±7.9%  better
amount          old       1.000
  beside, up    new       1.120      +12.0%  +5.5% to +18.9%   <0.001     ±7.9%  better
errors          old       2.00%
  guards, down  new       2.00%       +0.0%  -13.4% to +15.5%   1.000    ±18.1%  not known yet

               -20%                                  0                                  +20%
purchase  new                                        │         ├────────────●────────────┤
amount    new                                        │         ├────────────●────────────┤
errors    new              ├─────────────────────────●────────────────────────────┤

- new is better in purchase. Keep the experiment running: whether it harms errors is not
  known yet.
- purchase: new is better than old, by +12.0% (between +5.5% and +18.9%).
- errors: not known yet whether new differs from old: +0.0% (between -13.4% and +15.5%). To
  detect an effect of 5.0%, about 1,462,743 more users are needed, about 147 days.
- amount: new is better than old, by +12.0% (between +5.5% and +18.9%).";

#[test]
fn a_running_experiment_is_a_table_bars_and_words() {
    let counted = tally(vec![variant("old", 50_000, 100, 20), variant("new", 50_000, 112, 20)]);
    let shown = of(&Results::of(experiment(None), &[counted], CONVERSIONS), &SCREEN);
    assert_eq!(shown, RUNNING, "\n{shown}");
    assert!(shown.lines().all(|line| !line.contains('\x1b')));
}

#[test]
fn an_alarm_is_red_where_there_is_colour() {
    let counted = tally(vec![variant("old", 52_000, 100, 20), variant("new", 48_000, 112, 20)]);
    let results = Results::of(experiment(None), &[counted], CONVERSIONS);
    let screen = Screen { colour: true, ..SCREEN };
    let shown = of(&results, &screen);
    assert!(shown.contains("\x1b[31msplit: SAMPLE RATIO MISMATCH, p <0.001\x1b[0m"), "{shown}");
    assert!(
        shown.contains("\x1b[31m! ALARM: The split of the users does not match the weights: old 52.0%"),
        "{shown}"
    );
}

#[test]
fn the_holdout_has_a_line_of_its_own() {
    let variants = [("old", 100), ("new", 120), ("none", 60)];
    let counted = tally(variants.map(|(name, purchases)| variant(name, 5_000, purchases, 20)).to_vec());
    let shown = of(&Results::of(experiment(Some("none")), &[counted], CONVERSIONS), &SCREEN);
    let line = shown.lines().find(|line| line.contains("all others / none")).unwrap();
    assert!(line.contains("+83.3%") && line.ends_with("better"), "{line}");
}

#[test]
fn without_users_there_is_no_table() {
    let shown = of(&Results::of(experiment(None), &[], Conversions::default()), &SCREEN);
    let last = shown.lines().last().unwrap();
    assert_eq!(last, "- No user was exposed to new-checkout yet.");
    assert!(!shown.contains("variant"), "{shown}");
}

#[test]
fn a_name_cannot_move_the_cursor() {
    let mut named = experiment(None);
    named.design.hypothesis = Some("\x1b[2J".to_owned());
    named.design.metrics[0].name = "\x1b[31mred".to_owned();
    let counted = tally(vec![variant("old", 500, 100, 20), variant("new", 500, 112, 20)]);
    let shown = of(&Results::of(named, &[counted], CONVERSIONS), &SCREEN);
    assert!(!shown.contains('\x1b'), "{shown}");
}

#[test]
fn the_age_of_the_count_and_what_is_not_in_it_stand_below_the_numbers() {
    let counted = |evaluations_since, conversions_since| Counted {
        at: Utc::now(),
        age_seconds: 2,
        evaluations_since,
        conversions_since,
    };
    let line = |counted| {
        let results = Results::of(experiment(None), &[], Conversions::default());
        let shown = of(&Results { counted: Some(counted), ..results }, &Screen { width: 120, ..SCREEN });
        shown.lines().find(|line| line.starts_with("Counted")).unwrap().to_owned()
    };
    let expected =
        "Counted 2 s ago; about 2,004 evaluations (of all flags) and 2,272 conversions have come in since.";
    assert_eq!(line(counted(Some(2_004), Some(2_272))), expected);
    assert_eq!(line(counted(Some(0), Some(0))), "Counted 2 s ago; nothing has come in since.");
    let unknown = "Counted 2 s ago; Kafka does not answer, so what has come in since is not known.";
    assert_eq!(line(counted(None, None)), unknown);
    assert_eq!(line(counted(Some(1), None)), unknown);
}

#[test]
fn each_dimension_is_a_table() {
    let counts =
        |users, purchases| tally(vec![variant("old", users, 100, 20), variant("new", users, purchases, 20)]);
    let mut results = Results::of(experiment(None), &[counts(10_000, 112)], CONVERSIONS);
    let level = |kind, value: Option<&str>, users, purchases| {
        (DimensionLevel { kind, value: value.map(str::to_owned) }, counts(users, purchases))
    };
    let by_plan = Dimension { name: "plan".to_owned(), source: DimensionSource::Context };
    let levels = vec![
        level(LevelKind::Value, Some("gold"), 5_000, 160),
        level(LevelKind::Other, None, 40, 100),
        level(LevelKind::None, None, 4_000, 100),
    ];
    let by_payment = Dimension { name: "payment".to_owned(), source: DimensionSource::Conversion };
    let visa = vec![level(LevelKind::Value, Some("visa"), 10_000, 50)];
    results.break_down(&[
        Breakdown { dimension: by_plan, levels },
        Breakdown { dimension: by_payment, levels: visa },
    ]);
    let shown = of(&results, &Screen { width: 120, ..SCREEN });
    let line = |start: &str| {
        let line = shown.lines().find(|line| line.starts_with(start));
        line.unwrap_or_else(|| panic!("{start}: {shown}")).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert!(line("by plan ").starts_with("by plan users metric variant difference 95% interval"), "{shown}");
    let gold = line("gold ");
    assert!(gold.starts_with("gold 10,000 purchase new +60.0% ") && gold.ends_with("better"), "{gold}");
    assert!(line("(other) ").starts_with("(other) 80 purchase new - - - - not known yet"), "{shown}");
    assert!(line("(none) ").starts_with("(none) 8,000 purchase new +0.0%"), "{shown}");
    assert!(line("visa ").starts_with("visa 20,000 purchase new -50.0%"), "{shown}");
    assert!(shown.contains("by payment of conversions"), "{shown}");
}
