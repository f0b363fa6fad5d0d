use super::*;
use crate::sample_data::{experiment, start, strata, tally, variant};
use crate::{DrawList, Sample, Stratum, VariantTally};

fn results(tallies: &[Tally]) -> Results {
    let results = Results::of(experiment(None), tallies, Conversions::default());
    let text = serde_json::to_string(&results).unwrap();
    assert!(!text.contains("NaN"));
    let read: Results = serde_json::from_str(&text).unwrap();
    let [written, read] = [&results, &read].map(|results| serde_json::to_value(results).unwrap());
    assert!(same(&written, &read), "readable as written: {written} {read}");
    results
}

/// Whether both are equal. Reading a number may change its last digit.
fn same(one: &serde_json::Value, other: &serde_json::Value) -> bool {
    use serde_json::Value;
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(name, value)| other.get(name).is_some_and(|other| same(value, other)))
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Number(one), Value::Number(other)) => {
            let (one, other) = (one.as_f64().unwrap(), other.as_f64().unwrap());
            (one - other).abs() <= 1e-14 * one.abs()
        }
        _ => one == other,
    }
}

fn comparison(results: &Results, metric: usize) -> &Comparison {
    &results.phase.as_ref().unwrap().metrics[metric].comparisons[0]
}

fn texts(results: &Results) -> Vec<&str> {
    results.conclusions.iter().map(|conclusion| conclusion.text.as_str()).collect()
}

#[test]
fn a_large_difference_is_found_and_said() {
    let results = results(&[tally(vec![variant("old", 50_000, 100, 20), variant("new", 50_000, 112, 20)])]);
    let purchase = comparison(&results, 0);
    let effect = purchase.effect.as_ref().unwrap();
    assert_eq!(purchase.verdict, Verdict::Better);
    assert!((effect.difference - 0.012).abs() < 1e-12 && effect.interval.low > 0.0 && effect.p_value < 0.05);
    let single = effect.single_look.unwrap();
    assert!(single.p_value < effect.p_value && single.interval.low > effect.interval.low);
    let relative = effect.relative.unwrap();
    assert!((relative.difference - 0.12).abs() < 1e-12 && relative.minimum_detectable_effect < 0.12);
    assert_eq!(comparison(&results, 1).verdict, Verdict::Better);
    assert_eq!(
        texts(&results)[0],
        "new is better in purchase. Keep the experiment running: whether it harms errors is not known yet."
    );
    assert!(texts(&results)[1].starts_with("purchase: new is better than old, by +12.0% (between"));
    assert!(!results.conclusions.iter().any(|conclusion| conclusion.alarm));
}

#[test]
fn what_is_not_known_yet_says_how_much_is_missing() {
    let results = results(&[tally(vec![variant("old", 5_000, 100, 20), variant("new", 5_000, 102, 20)])]);
    let effect = comparison(&results, 0).effect.as_ref().unwrap();
    let (users, seconds) = (effect.users_left.unwrap(), effect.seconds_left.unwrap());
    assert!(users > 50_000, "five per cent of ten per cent takes many: {users}");
    assert!(seconds.abs_diff(users * 864_000 / 10_000) <= 1, "as many a day as so far");
    let text = texts(&results)[1];
    assert!(
        text.starts_with("purchase: not known yet whether new differs from old: +2.0% (between"),
        "{text}"
    );
    assert!(text.contains("more users are needed, about"), "{text}");
}

#[test]
fn a_guardrail_raises_an_alarm_when_it_is_harmed() {
    let results = results(&[tally(vec![variant("old", 50_000, 100, 20), variant("new", 50_000, 100, 30)])]);
    assert_eq!(comparison(&results, 2).verdict, Verdict::Harmed);
    let alarm = results.conclusions.iter().find(|conclusion| conclusion.alarm).unwrap();
    assert!(
        alarm.text.starts_with("errors: harmed by new: it is higher than under old, by +50.0%"),
        "{}",
        alarm.text
    );
}

#[test]
fn users_split_wrongly_take_all_conclusions_away() {
    let mut uneven = tally(vec![variant("old", 52_000, 100, 20), variant("new", 48_000, 120, 20)]);
    let phase = results(std::slice::from_ref(&uneven)).phase.unwrap();
    assert!(phase.sample_ratio.alarm && phase.sample_ratio.tested.unwrap().p_value < 1e-6);
    let said = results(std::slice::from_ref(&uneven));
    assert_eq!(texts(&said).len(), 1);
    assert!(texts(&said)[0].contains("old 52.0% instead of 50.0%, new 48.0% instead of 50.0%"));

    // Two rules with different weights: the users of each are split as they should be, all together are not.
    uneven.strata = vec![
        stratum(0.9, variant("old", 9_000, 50, 20), variant("new", 1_000, 50, 20)),
        stratum(0.5, variant("old", 3_000, 400, 20), variant("new", 3_000, 400, 20)),
    ];
    let split = results(&[uneven]).phase.unwrap();
    assert!(!split.sample_ratio.alarm && split.sample_ratio.tested.unwrap().p_value > 0.9);
    let expected: Vec<_> = split.variants.iter().map(|of| of.expected_share.unwrap()).collect();
    assert!((expected[0] - 0.75).abs() < 1e-12 && (expected[1] - 0.25).abs() < 1e-12, "{expected:?}");
}

fn stratum(old: f64, control: VariantTally, treatment: VariantTally) -> Stratum {
    let weights = vec![("old".to_owned(), old), ("new".to_owned(), 1.0 - old)];
    Stratum { list: DrawList { rules: Vec::new(), weights, unit: None }, variants: vec![control, treatment] }
}

#[test]
fn rules_with_different_weights_are_compared_each() {
    // Premium users buy at 40% and are split evenly, the others at 5% and are split 9:1. There is no effect.
    let tally = strata(vec![
        stratum(0.9, variant("old", 63_000, 50, 20), variant("new", 7_000, 50, 20)),
        stratum(0.5, variant("old", 15_000, 400, 20), variant("new", 15_000, 400, 20)),
    ]);
    let found = results(&[tally]);
    let effect = comparison(&found, 0).effect.clone().unwrap();
    assert!(effect.difference.abs() < 1e-9 && effect.p_value == 1.0, "{effect:?}");
    let levels = &found.phase.as_ref().unwrap().metrics[0].levels;
    assert!(levels[1].mean.unwrap() > 2.0 * levels[0].mean.unwrap(), "pooled, new buys more");
}

#[test]
fn a_contaminated_covariate_takes_all_conclusions_away() {
    let mut counted = tally(vec![variant("old", 5_000, 100, 20), variant("new", 5_000, 130, 20)]);
    for (variant, before) in counted.strata[0].variants.iter_mut().zip([500, 700]) {
        let rate = Sample::rate(5_000, before);
        let sample = &mut variant.samples[1];
        (sample.other_mean, sample.other_scatter) = (rate.mean, rate.scatter);
    }
    let results = results(&[counted]);
    assert_eq!(results.conclusions.len(), 1, "{:?}", texts(&results));
    assert_eq!(results.conclusions[0].finding, Finding::CovariateImbalance);
    let covariate = results.phase.unwrap().metrics[1].covariate.unwrap();
    assert!(covariate.alarm && covariate.p_value < 1e-4, "{covariate:?}");
}

#[test]
fn variants_that_are_not_drawn_by_user_take_all_conclusions_away() {
    let mut counted = tally(vec![variant("old", 5_000, 100, 20), variant("new", 5_000, 130, 20)]);
    counted.strata[0].list.unit = Some("company".to_owned());
    let results = results(&[counted]);
    assert_eq!(results.conclusions[0].finding, Finding::UnitIsNotUser);
    assert_eq!(results.conclusions.len(), 1);
    assert!(texts(&results)[0].contains("by company and not by user"));
}

#[test]
fn a_rare_guardrail_is_compared_exactly_and_a_silent_one_holds_nothing_up() {
    let mut counted = tally(vec![variant("old", 2_000, 100, 0), variant("new", 2_000, 150, 0)]);
    let silent = results(std::slice::from_ref(&counted));
    assert_eq!(comparison(&silent, 2).missing, Some(Missing::NoConversions));
    assert!(
        texts(&silent)[0].starts_with("new may be chosen over old: it is better in purchase."),
        "{silent:?}"
    );
    assert!(texts(&silent)[0].ends_with("No errors was reported for any variant."));
    counted.strata[0].variants[1].samples[2] = Sample::rate(2_000, 38);
    let harmed = results(&[counted]);
    let crash = comparison(&harmed, 2);
    assert_eq!((crash.verdict, crash.missing), (Verdict::Harmed, Some(Missing::TooFewConversions)));
    let rare = crash.rare.unwrap();
    assert!(rare.p_value < 1e-6 && rare.low.unwrap() > 1.5 && rare.high.is_none(), "{rare:?}");
    assert!(harmed.conclusions.iter().any(|of| of.alarm && of.finding == Finding::Guardrail));
}

#[test]
fn crashes_in_a_small_stratum_are_found_beside_a_large_one_without_any() {
    let mut counted = strata(vec![
        stratum(0.9, variant("old", 9_000, 50, 0), variant("new", 1_000, 50, 0)),
        stratum(0.5, variant("old", 800, 400, 0), variant("new", 800, 400, 0)),
    ]);
    counted.strata[1].variants[1].samples[2] = Sample::rate(800, 20);
    let found = results(&[counted]);
    let crash = comparison(&found, 2);
    assert_eq!((crash.verdict, crash.missing), (Verdict::Harmed, Some(Missing::TooFewConversions)));
}

#[test]
fn guardrails_share_the_chance_of_error() {
    let harm = |guardrails: usize| {
        let mut experiment = experiment(None);
        let mut counted = tally(vec![variant("old", 20_000, 100, 40), variant("new", 20_000, 100, 48)]);
        for at in 1..guardrails {
            let mut more = experiment.design.metrics[2].clone();
            more.name = format!("more-{at}");
            experiment.design.metrics.push(more);
            for variant in &mut counted.strata[0].variants {
                variant.samples.push(Sample::rate(20_000, 800));
            }
        }
        let results = Results::of(experiment, &[counted], Conversions::default());
        comparison(&results, 2).clone()
    };
    let (alone, among) = (harm(1), harm(19));
    let p_value = |of: &Comparison| of.effect.as_ref().unwrap().p_value;
    assert!(p_value(&alone) < 0.05 && alone.verdict == Verdict::Harmed, "{alone:?}");
    assert!(p_value(&among) > 0.05 && among.verdict == Verdict::NotKnownYet, "{among:?}");
    assert!((among.effect.unwrap().alpha - 0.05 / 19.0).abs() < 1e-12);
}

#[test]
fn excluded_users_are_counted_and_named() {
    let mut counted = tally(vec![variant("old", 5_000, 100, 20), variant("new", 5_000, 130, 20)]);
    counted.excluded.forced = 60;
    let results = results(&[counted]);
    let text = &results.conclusions.iter().find(|of| of.finding == Finding::ExcludedUsers).unwrap().text;
    assert_eq!(
        text,
        "Exposed users who are not compared: 60 whose variant a rule or an override sets without a draw."
    );
    assert_eq!(results.phase.unwrap().excluded.forced, 60);
}

#[test]
fn unfinished_windows_are_part_of_each_conclusion() {
    let mut counted = tally(vec![variant("old", 5_000, 100, 20), variant("new", 5_000, 130, 20)]);
    counted.strata[0].variants[0].samples[0].unfinished = 4_000;
    let results = results(&[counted]);
    assert!(
        texts(&results)[0].ends_with("The windows of 4,000 users are not over yet."),
        "{:?}",
        texts(&results)
    );
    assert!(texts(&results)[1].ends_with("The windows of 4,000 of 10,000 users are not over yet."));
}

#[test]
fn many_crossed_users_are_an_alarm() {
    let mut counted = tally(vec![variant("old", 10_000, 100, 20), variant("new", 10_000, 100, 20)]);
    counted.strata[0].variants[0].crossed = 200;
    assert!(
        !results(std::slice::from_ref(&counted)).phase.unwrap().crossed_alarm,
        "one per cent is not above it"
    );
    counted.strata[0].variants[0].crossed = 202;
    let results = results(&[counted]);
    let alarms: Vec<_> = results.conclusions.iter().filter(|of| of.alarm).map(|of| of.finding).collect();
    assert_eq!(alarms, [Finding::CrossedUsers]);
}

#[test]
fn comparisons_share_the_chance_of_error() {
    let two = tally(vec![variant("old", 5_000, 100, 20), variant("new", 5_000, 110, 20)]);
    let three =
        ["old", "new", "newer"].map(|name| variant(name, 5_000, if name == "old" { 100 } else { 110 }, 20));
    let three = tally(three.to_vec());
    let (two, three) = (results(&[two]), results(&[three]));
    let (alone, corrected) = (comparison(&two, 0), comparison(&three, 0));
    let (alone, corrected) = (alone.effect.as_ref().unwrap(), corrected.effect.as_ref().unwrap());
    assert!(corrected.interval.low < alone.interval.low);
    let [once, twice] = [alone, corrected].map(|effect| effect.single_look.unwrap().p_value);
    assert!((twice - 2.0 * once).abs() < 1e-12);
}

#[test]
fn the_holdout_is_compared_with_all_others_and_no_treatment() {
    let counted = tally(vec![
        variant("old", 5_000, 100, 20),
        variant("new", 5_000, 120, 20),
        variant("none", 5_000, 60, 20),
    ]);
    let results = Results::of(experiment(Some("none")), &[counted], Conversions::default());
    let purchase = &results.phase.as_ref().unwrap().metrics[0];
    assert_eq!(purchase.comparisons.len(), 1);
    let holdout = purchase.holdout.as_ref().unwrap();
    assert_eq!((holdout.variant.as_str(), holdout.verdict), ("none", Verdict::Better));
    assert!((holdout.effect.as_ref().unwrap().difference - 0.05).abs() < 1e-12);
    assert!(texts(&results).iter().any(|text| text.contains("all others together is better than none")));
}

#[test]
fn what_was_before_makes_intervals_narrower() {
    let mut counted = tally(vec![variant("old", 5_000, 100, 20), variant("new", 5_000, 100, 20)]);
    let plain = results(std::slice::from_ref(&counted));
    for variant in &mut counted.strata[0].variants {
        // Four of five buyers also bought before their exposure, and no one else did.
        let amount = &mut variant.samples[1];
        let mut valued = Sample::default();
        (0..500).for_each(|user| valued.push(10.0, if user < 400 { 10.0 } else { 0.0 }));
        *amount = valued.with_zeros(4_500);
    }
    let adjusted = results(&[counted]);
    let width = |results: &Results| {
        let interval = comparison(results, 1).effect.as_ref().unwrap().interval;
        interval.high - interval.low
    };
    let reduction = adjusted.phase.as_ref().unwrap().metrics[1].cuped.unwrap().variance_reduction;
    assert!((0.7..0.8).contains(&reduction), "{reduction}");
    assert!((width(&adjusted) / width(&plain) - (1.0 - reduction).sqrt()).abs() < 0.01);
    assert_eq!(adjusted.phase.unwrap().metrics[0].cuped, None);
}

#[test]
fn earlier_phases_are_kept_apart() {
    let mut first = tally(vec![variant("old", 10, 100, 20), variant("new", 10, 100, 20)]);
    first.phase.ended_at = Some(first.counted_at);
    let mut second = tally(vec![variant("old", 50_000, 100, 20), variant("new", 50_000, 120, 20)]);
    second.phase.number = 2;
    let results = results(&[first, second]);
    assert_eq!((results.earlier_phases.len(), results.phase.as_ref().unwrap().number), (1, 2));
    assert_eq!(comparison(&results, 0).verdict, Verdict::Better);
}

#[test]
fn degenerate_counts_say_what_is_missing() {
    let missing = |variants: Vec<VariantTally>| {
        let results = results(&[tally(variants)]);
        let comparison = comparison(&results, 0).clone();
        assert_eq!((comparison.effect, comparison.verdict), (None, Verdict::NotKnownYet));
        comparison.missing.unwrap()
    };
    let old = || variant("old", 5_000, 100, 20);
    assert_eq!(missing(vec![old(), variant("new", 0, 0, 0)]), Missing::TooFewUsers);
    let few = |users| vec![variant("old", users, 100, 20), variant("new", users, 100, 20)];
    assert_eq!(missing(few(49)), Missing::TooFewUsers);
    assert_eq!(missing(few(99)), Missing::TooFewConversions);
    assert_eq!(missing(vec![variant("new", 5_000, 100, 20)]), Missing::NoControl);
    let rate =
        |per_thousand| vec![variant("old", 5_000, per_thousand, 0), variant("new", 5_000, per_thousand, 0)];
    assert_eq!(missing(rate(0)), Missing::NoConversions);
    assert_eq!(missing(rate(1_000)), Missing::TooFewConversions, "all converted");

    let mut broken = rate(100);
    broken[0].samples[1].mean = f64::NAN;
    let amount = |variants| comparison(&results(&[tally(variants)]), 1).missing;
    assert_eq!(amount(broken), Some(Missing::NotFinite));
    assert_eq!(amount(rate(1_000)), Some(Missing::NoVariance), "all the same amount");
}

#[test]
fn without_users_variants_or_phases_there_is_nothing_to_conclude() {
    let empty = tally(vec![variant("old", 0, 0, 0), variant("new", 0, 0, 0)]);
    for tallies in [vec![], vec![tally(vec![])], vec![empty], vec![tally(vec![variant("old", 0, 0, 0)])]] {
        let results = results(&tallies);
        assert_eq!(texts(&results), ["No user was exposed to new-checkout yet."]);
    }
    let alone = results(&[tally(vec![variant("old", 5_000, 100, 20)])]);
    assert_eq!(texts(&alone).len(), 1, "nothing but that the split can't be tested: {alone:?}");
}

#[test]
fn samples_that_are_missing_count_as_none() {
    let mut counted = tally(vec![variant("old", 5_000, 100, 20), variant("new", 5_000, 100, 20)]);
    counted.strata[0].variants[1].samples.truncate(1);
    assert_eq!(comparison(&results(&[counted]), 2).missing, Some(Missing::TooFewUsers));
}

#[test]
fn a_stopped_experiment_says_why() {
    let mut stopped = experiment(None);
    stopped.status = Status::Stopped;
    stopped.stopped_at = Some(start());
    stopped.reason = Some("enough".to_owned());
    stopped.winner = Some("new".to_owned());
    let results = Results::of(stopped, &[], Conversions::default());
    assert_eq!(texts(&results)[0], "Stopped on 2026-01-01: enough. The winner is new.");
}
