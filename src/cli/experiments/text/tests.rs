use super::*;
use crate::experiment::results::Conversions;
use crate::experiment::results::tests::{experiment, tally, variant};

const SCREEN: Screen = Screen { width: 90, colour: false, terminal: false };

fn shown(results: &Results) -> Vec<String> {
    of(results, &SCREEN).lines().map(str::to_owned).collect()
}

#[test]
fn a_running_experiment() {
    let counted = tally(vec![variant("old", 50_000, 100, 20), variant("new", 50_000, 112, 20)]);
    let conversions = Conversions { attributed: 12_345, waiting: 6, expired: 7 };
    let lines = shown(&Results::of(experiment(None), &[counted], conversions));
    println!("{}", lines.join("\n"));
    panic!();
}
