//! The statistics give the answers of scipy, statsmodels, gbstats and tea-tasting.

use std::io::Write;
use std::process::{Command, Stdio};

use flagstream::experiment::statistics::{
    Boundary, Cuped, Difference, Estimate, Moments, SingleLook, difference, planning, readings, sample_ratio,
};
use flagstream::experiment::{Kind, Sample};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::harness::Stack;

/// Relative; quadrature and root finding lose the last digits.
const TOLERANCE: f64 = 1e-7;

/// Absolute: gbstats computes small p-values as 1 minus a number close to 1.
const ROUNDING: f64 = 1e-14;

pub fn agree_with_scipy() {
    let (stack, _shared) = Stack::shared();
    let cases = cases();
    let reference = format!("{}/tests/it/experiments/reference.py", env!("CARGO_MANIFEST_DIR"));
    let mut python = Command::new("python3")
        .arg(reference)
        .env("PYTHONPATH", &stack.python_path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(Value::from(cases.clone()).to_string().as_bytes()).unwrap();
    let answers = python.wait_with_output().unwrap();
    assert!(answers.status.success(), "{}", answers.status);
    let expected: Vec<Value> = serde_json::from_slice(&answers.stdout).unwrap();
    assert_eq!(cases.len(), expected.len());
    for (case, expected) in cases.iter().zip(&expected) {
        let ours = ours(case);
        assert!(agree(&ours, expected), "{}: {ours} is not {expected}", case["kind"]);
    }
}

fn cases() -> Vec<Value> {
    let mut random = StdRng::seed_from_u64(1);
    let mut values = |users: usize, add: f64| -> Vec<f64> {
        (0..users).map(|_| add - 3.0 * (1.0 - random.random::<f64>()).ln()).collect()
    };
    let mut cases = Vec::new();
    for (users, others, effect) in [(150, 120, 0.5), (2_000, 2_000, 0.0), (400, 40, 1.0), (40, 900, -0.4)] {
        for alpha in [0.05, 0.01 / 3.0] {
            let (control, treatment) = (values(users, 1.0), values(others, 1.0 + effect));
            cases.push(json!({"kind": "means", "control": control, "treatment": treatment, "alpha": alpha}));
        }
    }
    for (control, treatment) in
        [((100, 1_000), (130, 1_000)), ((3, 400), (60, 3_000)), ((5_000, 50_000), (4_500, 50_000))]
    {
        cases.push(json!({"kind": "rates", "control": control, "treatment": treatment, "alpha": 0.05}));
    }
    for (users, weights) in [
        (vec![5_010, 4_990], vec![1.0, 1.0]),
        (vec![10_400, 9_600], vec![500.0, 500.0]),
        (vec![700, 210, 130], vec![0.7, 0.2, 0.1]),
    ] {
        cases.push(json!({"kind": "split", "users": users, "weights": weights}));
    }
    for (users, effect, alpha, power) in [(2_000, 0.02, 0.05, 0.8), (100_000, 0.001, 0.01, 0.9)] {
        cases.push(
            json!({"kind": "planning", "users": users, "effect": effect, "alpha": alpha, "power": power,
            "deviation": 0.3}),
        );
    }
    cases.extend(data_sets());
    let mut pairs = |users: usize, add: f64| -> Vec<[f64; 2]> {
        let (before, whim) = (values(users, 0.0), values(users, add));
        before.iter().zip(whim).map(|(before, whim)| [*before, 0.7 * before + whim]).collect()
    };
    cases.push(json!({"kind": "adjusted", "control": pairs(500, 0.0), "treatment": pairs(450, 0.2)}));
    cases
}

/// Generated data sets, each a value and another one of each user: 24 of different size, split, shape and effect.
fn data_sets() -> Vec<Value> {
    let mut random = StdRng::seed_from_u64(2);
    let mut sets = Vec::new();
    for (users, others) in [(200, 200), (150, 900), (1_500, 300), (4_000, 4_000)] {
        for shape in 0..3 {
            for effect in [0.0, 0.4] {
                let mut arm = |users: usize, effect: f64| -> Vec<[f64; 2]> {
                    let mut user = || {
                        let [a, b, c] = [(); 3].map(|()| random.random::<f64>());
                        let value = match shape {
                            0 => 5.0 + a + b,
                            1 => -3.0 * (1.0 - a).ln(),
                            _ => {
                                if a < 0.3 {
                                    (4.0 * b).exp()
                                } else {
                                    0.0
                                }
                            }
                        };
                        [value * (1.0 + effect), 1.0 + (3.0 * c).floor()]
                    };
                    (0..users).map(|_| user()).collect()
                };
                let (control, treatment) = (arm(users, 0.0), arm(others, effect));
                sets.push(json!({"kind": "packages", "control": control, "treatment": treatment}));
            }
        }
    }
    sets
}

/// Answers of the product's statistics for the same data.
fn by_ours(case: &Value) -> Value {
    let arms = ["control", "treatment"].map(|arm| value_and_other(&case[arm]));
    let of_kind = |kind| arms.map(|arm| Moments::of(&arm, kind).unwrap());
    let fixed = |[control, treatment]: [Moments; 2]| {
        let look = difference::welch(&control, &treatment, 0.05).unwrap();
        json!([treatment.mean - control.mean, look.interval.low, look.interval.high, look.p_value])
    };
    let [control, treatment] = of_kind(Kind::Mean);
    let between = Difference::between(&control, &treatment, true);
    let error = (control.error_squared() + treatment.error_squared()).sqrt();
    let estimate = Estimate { value: treatment.mean - control.mean, error };
    let bayesian = readings::bayesian(&estimate, 0.95).unwrap();
    let credible = bayesian.credible_interval;
    let (mean, ratio) = (fixed([control, treatment]), fixed(of_kind(Kind::Ratio)));
    let sequential = (control.users == treatment.users).then(|| between.p_value(&Boundary::new(0.05)));
    json!({
        "gbstats": mean, "tea_tasting": mean, "statsmodels": mean, "gbstats_ratio": ratio, "tea_tasting_ratio": ratio,
        "sequential_p_value": sequential, "bayesian": [bayesian.chance_higher, credible.low, credible.high],
    })
}

fn ours(case: &Value) -> Value {
    match case["kind"].as_str().unwrap() {
        "means" => {
            let [control, treatment] = ["control", "treatment"].map(|arm| moments(&floats(&case[arm])));
            compared(case, control, treatment, true, difference::welch)
        }
        "rates" => {
            let [control, treatment] = ["control", "treatment"].map(|arm| rate(&case[arm]));
            compared(case, control, treatment, false, difference::two_rates)
        }
        "packages" => by_ours(case),
        "split" => {
            let users: Vec<u64> = serde_json::from_value(case["users"].clone()).unwrap();
            let fit = sample_ratio::fit(&users, &floats(&case["weights"])).unwrap();
            json!([fit.chi_squared, fit.single_look_p_value, fit.p_value])
        }
        "planning" => {
            let [users, effect, alpha, power, deviation] =
                ["users", "effect", "alpha", "power", "deviation"].map(|name| case[name].as_f64().unwrap());
            let boundary = Boundary::new(alpha);
            let now = Estimate { value: 0.0, error: deviation * (4.0 / users).sqrt() };
            let detectable = planning::detectable(&now, users, &boundary, power);
            json!([detectable, planning::users_needed(&now, users, effect, &boundary, power)])
        }
        _ => {
            let arms = ["control", "treatment"].map(|arm| before_and_after(&case[arm]));
            let cuped = Cuped::of(&[arms.to_vec()], Kind::Mean).unwrap();
            let [control, treatment] = arms.map(|arm| cuped.moments(0, &arm).unwrap());
            let difference = Difference::between(&control, &treatment, true).absolute().value;
            json!([cuped.theta, difference, cuped.variance_reduction])
        }
    }
}

type Test = fn(&Moments, &Moments, f64) -> Option<SingleLook>;

fn compared(case: &Value, control: Moments, treatment: Moments, scales: bool, single_look: Test) -> Value {
    let alpha = case["alpha"].as_f64().unwrap();
    let (boundary, between) = (Boundary::new(alpha), Difference::between(&control, &treatment, scales));
    let errors = boundary.half_width(between.users);
    // Without an end, none is reported.
    let interval = between.interval(errors).map(|of| json!([of.low, of.high]));
    let single = single_look(&control, &treatment, alpha).unwrap();
    let relative =
        between.relative(errors).map(|(value, interval)| json!([value, interval.low, interval.high]));
    json!({
        "single_look": [single.interval.low, single.interval.high, single.p_value],
        "interval": interval,
        "p_value": between.p_value(&boundary),
        "relative": relative,
    })
}

fn moments(values: &[f64]) -> Moments {
    let mut sample = Sample::default();
    values.iter().for_each(|value| sample.push(*value, 0.0));
    Moments::of(&sample, Kind::Mean).unwrap()
}

fn rate(arm: &Value) -> Moments {
    let [converted, users] = [0, 1].map(|at| arm[at].as_u64().unwrap());
    Moments::of(&Sample::rate(users, converted), Kind::Conversion).unwrap()
}

fn before_and_after(arm: &Value) -> Sample {
    let pairs: Vec<[f64; 2]> = serde_json::from_value(arm.clone()).unwrap();
    let mut sample = Sample::default();
    pairs.iter().for_each(|[before, after]| sample.push(*after, *before));
    sample
}

fn value_and_other(arm: &Value) -> Sample {
    let pairs: Vec<[f64; 2]> = serde_json::from_value(arm.clone()).unwrap();
    let mut sample = Sample::default();
    pairs.iter().for_each(|[value, other]| sample.push(*value, *other));
    sample
}

fn floats(values: &Value) -> Vec<f64> {
    serde_json::from_value(values.clone()).unwrap()
}

/// Compares member by member; a relative difference that is too uncertain to be reported is left out.
fn agree(ours: &Value, expected: &Value) -> bool {
    match (ours, expected) {
        (Value::Object(ours), Value::Object(expected)) => {
            ours.len() == expected.len()
                && ours.iter().all(|(name, of)| of.is_null() || agree(of, &expected[name]))
        }
        (Value::Array(ours), Value::Array(expected)) => {
            ours.len() == expected.len()
                && ours.iter().zip(expected).all(|(ours, expected)| agree(ours, expected))
        }
        (Value::Null, Value::Null) => true,
        _ => ours
            .as_f64()
            .zip(expected.as_f64())
            .is_some_and(|(ours, expected)| (ours - expected).abs() <= TOLERANCE * expected.abs() + ROUNDING),
    }
}
