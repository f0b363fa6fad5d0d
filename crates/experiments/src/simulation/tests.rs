use super::*;

const SHORT: Extent = Extent { runs: 200, days: 20, seed: 1 };

fn scenario(name: &str) -> Scenario {
    all().into_iter().find(|of| of.name == name).unwrap()
}

#[test]
fn looking_daily_at_nothing_finds_nothing() {
    for name in
        ["rate 10%", "rate 1%, one of ten treated", "rate 10%, converting late", "rate 10%, three treatments"]
    {
        let rates = rates(&scenario(name), &SHORT);
        assert!(rates.found <= 0.05 && rates.covered >= 0.95, "{rates:?}");
        assert!(
            rates.found_by_single_looks > 0.1,
            "looking daily at a single-look test is wrong often: {rates:?}"
        );
    }
}

#[test]
fn the_right_rows_are_counted() {
    let extent = Extent { runs: 40, ..SHORT };
    for scenario in all_traffic() {
        let rates = traffic_rates(&scenario, &extent);
        // Of 40 runs, 5 % are two; more than four are a fault and not chance.
        let is_silent = rates.effect != 0.0 || rates.found <= 0.1;
        assert!(is_silent && rates.covered >= 0.9 && rates.covered_relative >= 0.9, "{rates:?}");
        let is_refused = scenario.name.starts_with("drawn by company");
        assert_eq!(rates.refused > 0.5, is_refused, "{rates:?}");
    }
}

#[test]
fn large_effects_at_unequal_splits_are_covered() {
    let extent = Extent { runs: 60, days: 10, ..SHORT };
    for scenario in large_effects().into_iter().flatten() {
        let rates = rates(&Scenario { users: 20_000, ..scenario }, &extent);
        assert!(rates.covered >= 0.9 && rates.covered_relative >= 0.9, "{rates:?}");
    }
}

#[test]
fn means_are_as_safe_as_rates() {
    let extent = Extent { runs: 60, ..SHORT };
    for name in ["mean, mildly skewed", "mean, very skewed, one of ten treated", "mean, adjusted (CUPED)"] {
        let rates = rates(&Scenario { users: 4_000, ..scenario(name) }, &extent);
        assert!(rates.found <= 0.05 && rates.covered >= 0.95, "{rates:?}");
    }
}

#[test]
fn with_the_users_planned_the_effect_is_found_as_often_as_planned() {
    let rates = rates(&scenario("rate 10%, users as planned"), &SHORT);
    assert!(rates.found >= POWER && rates.covered >= 0.95 && rates.covered_relative >= 0.95, "{rates:?}");
}

#[test]
fn a_wrong_split_raises_the_alarm_and_a_right_one_does_not() {
    let extent = Extent { runs: 1_000, ..SHORT };
    let wrong = sample_ratio_rates(0.52, 20_000, &extent);
    assert!(wrong.alarms > 0.95, "{wrong:?}");
    let right = sample_ratio_rates(0.5, 20_000, &extent);
    assert!(
        right.alarms <= SAMPLE_RATIO_ALPHA && right.alarms_of_single_looks > SAMPLE_RATIO_ALPHA,
        "{right:?}"
    );
}

#[test]
fn the_same_seed_gives_the_same_answer() {
    let extent = Extent { runs: 20, ..SHORT };
    let scenario = scenario("rate 10%");
    let once = |seed| format!("{:?}", rates(&scenario, &Extent { seed, ..extent }));
    let [first, again] = [1, 1].map(once);
    assert_eq!(first, again);
    let outcome = |seed| run(&scenario, 3, &mut random(seed, 0, 0));
    assert_eq!(outcome(1), outcome(1));
}
