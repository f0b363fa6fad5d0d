//! Compares flagstream's reader of evaluation requests with readers built on serde_json, sonic-rs and jiter.
//!
//! ```text
//! documents ──► each arm in turn, many rounds ──► CPU time per request: median, quartiles, ratio to flagstream's reader
//! ```
//!
//! Every arm reads the bytes of a record into the request of `flagstream-protocol`. Before the clock starts, all arms
//! must agree on every document: on the fields of the valid ones, and on refusing the invalid ones.
//!
//! ```console
//! $ cargo run --release --locked --manifest-path benchmarks/json/Cargo.toml --target-dir target/benchmarks -- --rounds 60
//! $ valgrind --tool=callgrind target/benchmarks/release/flagstream-json-benchmark --once serde_json "1 flag" 1000
//! ```

mod agreement;
mod arms;
mod documents;
mod report;
mod statistics;

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::arms::{ARMS, Arm};
use crate::documents::{Documents, timed};
use crate::report::Measured;

/// The service's allocator, so that allocations cost what they cost there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "expected: [--rounds NUMBER], or --once ARM DOCUMENTS COUNT";
const DEFAULT_ROUNDS: usize = 60;
/// Time that an arm reads the same documents in a round.
const TURN: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), String> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let sets = timed();
    match arguments.as_slice() {
        [] => compare(&sets, DEFAULT_ROUNDS)?,
        ["--rounds", rounds] => compare(&sets, rounds.parse().map_err(|_| USAGE)?)?,
        ["--once", arm, documents, count] => {
            let arm = ARMS.iter().find(|known| known.name == *arm).ok_or("unknown arm")?;
            let set = sets.iter().find(|known| known.name == *documents).ok_or("unknown documents")?;
            read(arm, set, count.parse().map_err(|_| USAGE)?);
        }
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

/// Measures all arms in turn, and prints a table for each set of documents. A first round is discarded.
fn compare(sets: &[Documents], rounds: usize) -> Result<(), String> {
    agreement::check(sets)?;
    for set in sets {
        let counts: Vec<usize> = ARMS.iter().map(|arm| count_of_turn(arm, set)).collect();
        let mut measured: Vec<Measured> = ARMS.iter().map(|arm| Measured::new(arm.name)).collect();
        for round in 0..=rounds {
            for turn in 0..ARMS.len() {
                // Each arm comes at each place of a round equally often.
                let index = (round + turn) % ARMS.len();
                let nanoseconds = timed_read(&ARMS[index], set, counts[index]);
                if round > 0 {
                    measured[index].nanoseconds.push(nanoseconds);
                }
            }
        }
        println!("{}", report::text(set, rounds, &measured));
    }
    Ok(())
}

/// How many documents the arm reads in a turn.
fn count_of_turn(arm: &Arm, set: &Documents) -> usize {
    let mut count = 64;
    while timed_read(arm, set, count) * count as f64 <= TURN.as_nanos() as f64 {
        count *= 2;
    }
    count
}

/// Nanoseconds of CPU time per document.
fn timed_read(arm: &Arm, set: &Documents, count: usize) -> f64 {
    let start = cpu_nanoseconds();
    read(arm, set, count);
    (cpu_nanoseconds() - start) as f64 / count as f64
}

/// CPU time of this thread. Unlike the time of day it leaves out the time for which other processes had the processor.
fn cpu_nanoseconds() -> i64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

fn read(arm: &Arm, set: &Documents, count: usize) {
    for text in set.texts.iter().cycle().take(count) {
        black_box((arm.read)(black_box(text.as_bytes())));
    }
}
