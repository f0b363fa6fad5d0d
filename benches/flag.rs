//! The evaluation core: cost of an evaluation, of a change among 10,000 flags, and of readers during changes.
//!
//! `cargo bench --bench flag`; the ratios and the memory are printed before criterion's own figures.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_debug_implementations)]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use criterion::{Criterion, criterion_group, criterion_main};
use flagstream::flag::value::Lookup;
use flagstream::flag::{
    CompiledFlag, DefaultValue, EvaluationContext, FlagChange, Moment, Snapshot, ValueType, answer,
};
use hdrhistogram::Histogram;
use serde_json::json;

const ENVIRONMENT: &str = "production";
const FLAGS: usize = 10_000;

/// Two constraints and a rollout to half of the users, with variants.
fn definition(number: usize) -> String {
    json!({
        "name": name(number), "type": "release", "enabled": true, "project": "default", "impressionData": false,
        "strategies": [{
            "name": "flexibleRollout",
            "parameters": { "rollout": "50", "stickiness": "default", "groupId": name(number) },
            "constraints": [
                { "contextName": "region", "operator": "IN", "values": ["us-west", "us-east", "eu-north"] },
                { "contextName": "subscription_tier", "operator": "STR_STARTS_WITH", "values": ["prem"] },
            ],
        }],
        "variants": [
            { "name": "dark", "weight": 500, "stickiness": "default", "payload": { "type": "string", "value": "dark" } },
            { "name": "light", "weight": 500, "stickiness": "default", "payload": { "type": "json", "value": "{\"value\": 5}" } },
        ],
    })
    .to_string()
}

fn name(number: usize) -> String {
    format!("checkout-flag-{number}")
}

fn flag(number: usize, version: u64) -> Arc<CompiledFlag> {
    Arc::new(CompiledFlag::compile(ENVIRONMENT, version, &definition(number)).unwrap())
}

fn snapshot(flags: usize) -> Snapshot {
    Snapshot::default().with((0..flags).map(|number| FlagChange::Set(flag(number, 1))))
}

fn context(user: &str) -> EvaluationContext<'_> {
    EvaluationContext {
        user_id: Some(user.into()),
        session_id: Some("s-9".into()),
        properties: vec![
            ("device_type".into(), "mobile".into()),
            ("region".into(), "us-west".into()),
            ("subscription_tier".into(), "premium".into()),
        ],
        ..EvaluationContext::default()
    }
}

const MOMENT: Moment<'static> =
    Moment { now: "2026-01-15T10:30:00Z", hostname: "bench", app_name: "flagstream" };

/// One lookup, evaluation and answer.
fn ask(snapshot: &Snapshot, flag: &str, user: &str) -> bool {
    let flags = snapshot.environment(ENVIRONMENT).unwrap();
    let lookup = flags.evaluate(flag, &context(user), &MOMENT).map_or(Lookup::NotFound, Lookup::Found);
    let default = DefaultValue::String("light".into());
    black_box(answer(flag, lookup, ValueType::String, Some(&default))).enabled
}

/// Nanoseconds per evaluation over all flags, in an order that caches cannot foresee: the best of several runs.
fn cost(snapshot: &Snapshot, flags: usize) -> f64 {
    const EVALUATIONS: usize = 200_000;
    let names: Vec<String> = (0..flags).map(name).collect();
    let users: Vec<String> = (0..1_000).map(|user| format!("user-{user}")).collect();
    let run = || {
        let start = Instant::now();
        for step in 0..EVALUATIONS {
            let flag = &names[step * 7_919 % flags];
            black_box(ask(snapshot, flag, &users[step % users.len()]));
        }
        start.elapsed().as_nanos() as f64 / EVALUATIONS as f64
    };
    (0..7).map(|_| run()).fold(f64::MAX, f64::min)
}

fn figures() {
    let before = resident_kib();
    let start = Instant::now();
    let large = snapshot(FLAGS);
    println!("compile {FLAGS} flags: {:?}", start.elapsed());
    println!("memory with {FLAGS} flags: {} KiB more", resident_kib() - before);
    let one = cost(&snapshot(1), 1);
    for flags in [1, 100, 1_000, FLAGS] {
        let cost = cost(&snapshot(flags), flags);
        println!("evaluate, {flags:>6} flags: {cost:.0} ns, {:.2} of one flag's", cost / one);
    }
    change(&large);
    readers(large);
}

fn change(large: &Snapshot) {
    let mut times: Vec<Duration> = Vec::new();
    let mut snapshot = large.clone();
    for version in 2..2_002 {
        let number = version as usize * 31 % FLAGS;
        let text = definition(number);
        let start = Instant::now();
        let flag = CompiledFlag::compile(ENVIRONMENT, version, &text).unwrap();
        snapshot = snapshot.with([FlagChange::Set(Arc::new(flag))]);
        times.push(start.elapsed());
    }
    times.sort();
    println!(
        "one flag changed among {FLAGS} (compiled and applied): median {:?}, p99 {:?}, max {:?}",
        times[times.len() / 2],
        times[times.len() * 99 / 100],
        times[times.len() - 1]
    );
}

/// Latency of readers beside a writer that compiles and swaps in a new snapshot at each pause.
fn readers(large: Snapshot) {
    let store = ArcSwap::from_pointee(large);
    for pause in [Duration::from_millis(100), Duration::from_millis(10), Duration::from_micros(500)] {
        // Right before, twice: other work on the machine changes the baseline.
        latencies(&store);
        let quiet = latencies(&store);
        let (busy, swaps) = beside_a_writer(&store, pause);
        println!("readers while {swaps} snapshots were swapped in, one each {pause:?}:");
        for quantile in [0.5, 0.99, 0.999] {
            let (quiet, busy) = (quiet.value_at_quantile(quantile), busy.value_at_quantile(quantile));
            let (percent, ratio) = (quantile * 100.0, busy as f64 / quiet as f64);
            println!("  p{percent}: {quiet} ns without, {busy} ns with, ratio {ratio:.2}");
        }
    }
}

fn beside_a_writer(store: &ArcSwap<Snapshot>, pause: Duration) -> (Histogram<u64>, u64) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let first = store.load().version() + 1;
            let versions = (first..).take_while(|_| !stop.load(Ordering::Relaxed));
            let swaps = versions.map(|version| {
                let changed = flag(version as usize % FLAGS, version);
                store.store(Arc::new(store.load().with([FlagChange::Set(changed)])));
                std::thread::sleep(pause);
            });
            swaps.count() as u64
        });
        let busy = latencies(store);
        stop.store(true, Ordering::Relaxed);
        (busy, writer.join().unwrap())
    })
}

fn latencies(store: &ArcSwap<Snapshot>) -> Histogram<u64> {
    let mut histogram = Histogram::new(3).unwrap();
    let names: Vec<String> = (0..FLAGS).map(name).collect();
    for step in 0..1_000_000_usize {
        let start = Instant::now();
        black_box(ask(&store.load(), &names[step * 7_919 % FLAGS], "user-456"));
        histogram.record(start.elapsed().as_nanos() as u64).unwrap();
    }
    histogram
}

/// Resident memory of this process in KiB, from /proc; 0 on systems without it.
fn resident_kib() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn criteria(criterion: &mut Criterion) {
    figures();
    let snapshot = snapshot(FLAGS);
    criterion.bench_function("evaluate and answer one of 10,000 flags", |bencher| {
        bencher.iter(|| ask(&snapshot, black_box("checkout-flag-77"), black_box("user-456")));
    });
    let flags = snapshot.environment(ENVIRONMENT).unwrap();
    let asking = context("user-456");
    criterion.bench_function("evaluate, context given", |bencher| {
        bencher.iter(|| flags.evaluate(black_box("checkout-flag-77"), &asking, &MOMENT).is_some());
    });
    criterion.bench_function("look a flag up", |bencher| {
        bencher.iter(|| flags.get(black_box("checkout-flag-77")).is_some());
    });
    let text = definition(77);
    criterion.bench_function("compile one flag", |bencher| {
        bencher.iter(|| CompiledFlag::compile(ENVIRONMENT, 2, &text).is_ok());
    });
    let changed = flag(77, 2);
    criterion.bench_function("apply one change to 10,000 flags", |bencher| {
        bencher.iter(|| snapshot.with([FlagChange::Set(Arc::clone(&changed))]));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30).measurement_time(Duration::from_secs(2));
    targets = criteria
}
criterion_main!(benches);
