use super::*;
use crate::sample_data::{experiment, start, tally, variant};
use crate::{VariantTally, Weighted};

fn results(tallies: &[Tally]) -> Results {
    let results = Results::of(experiment(None), tallies, Conversions::default());
    let text = serde_json::to_string(&results).unwrap();
    assert!(!text.contains("NaN"));
    assert_eq!(serde_json::from_str::<Results>(&text).unwrap(), results, "readable as written");
    results
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

    uneven.phase.variants[0].weight = None;
    let unknown = results(&[uneven]);
    let phase = unknown.phase.as_ref().unwrap();
    assert_eq!((phase.sample_ratio.tested, phase.sample_ratio.alarm), (None, false));
    assert!(phase.variants.iter().all(|variant| variant.expected_share.is_none()));
    assert_eq!(unknown.conclusions[0].finding, Finding::SampleRatioUnknown);
}

#[test]
fn many_crossed_users_are_an_alarm() {
    let mut counted = tally(vec![variant("old", 10_000, 100, 20), variant("new", 10_000, 100, 20)]);
    counted.variants[0].crossed = 200;
    assert!(
        !results(std::slice::from_ref(&counted)).phase.unwrap().crossed_alarm,
        "one per cent is not above it"
    );
    counted.variants[0].crossed = 202;
    let results = results(&[counted]);
    let alarms: Vec<_> = results.conclusions.iter().filter(|of| of.alarm).map(|of| of.finding).collect();
    assert_eq!(alarms, [Finding::CrossedUsers]);
}

#[test]
fn comparisons_share_the_chance_of_error() {
    let two = tally(vec![variant("old", 5_000, 100, 20), variant("new", 5_000, 110, 20)]);
    let mut three = two.clone();
    three.variants.push(variant("newer", 5_000, 110, 20));
    three.phase.variants.push(Weighted { name: "newer".to_owned(), weight: Some(500.0) });
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
    for variant in &mut counted.variants {
        // Four of five buyers also bought before their exposure, and no one else did.
        let before = f64::from(400_u16);
        let amount = &mut variant.samples[1];
        (amount.before_sum, amount.before_sum_of_squares, amount.product_sum) =
            (before * 10.0, before * 100.0, before * 100.0);
    }
    let adjusted = results(&[counted]);
    let width = |results: &Results| {
        let interval = comparison(results, 1).effect.as_ref().unwrap().interval;
        interval.high - interval.low
    };
    let reduction = adjusted.phase.as_ref().unwrap().metrics[1].cuped.unwrap().variance_reduction;
    assert!((0.7..0.8).contains(&reduction), "{reduction}");
    assert!((width(&adjusted) / width(&plain) - (1.0 - reduction).sqrt()).abs() < 1e-6);
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
    assert_eq!(missing(vec![old(), variant("new", 99, 100, 0)]), Missing::TooFewUsers);
    assert_eq!(missing(vec![variant("new", 5_000, 100, 20)]), Missing::NoControl);
    let rate =
        |per_thousand| vec![variant("old", 5_000, per_thousand, 0), variant("new", 5_000, per_thousand, 0)];
    assert_eq!(missing(rate(0)), Missing::TooFewConversions);
    assert_eq!(missing(rate(1_000)), Missing::TooFewConversions, "all converted");

    let mut broken = rate(100);
    broken[0].samples[1].sum = f64::NAN;
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
    counted.variants[1].samples.truncate(1);
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
