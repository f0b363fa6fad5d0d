//! Calls over HTTP while a test breaks things; what was answered is remembered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::http::{block_on, client};

/// Threads that call one service, each one call after the other.
#[derive(Debug)]
pub struct Callers {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Said>>,
}

/// Answers that callers received.
#[derive(Debug, Default)]
pub struct Said {
    /// Event id of every answer.
    pub event_ids: Vec<String>,
    /// Calls that were not answered, and why.
    pub failures: Vec<String>,
    pub slowest: Duration,
}

impl Callers {
    /// Calls for one flag, for many, for a list, and of the edge API, in turn.
    pub fn start(url: &str, threads: usize) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..threads)
            .map(|thread| {
                let (url, stop, answered) = (url.to_owned(), Arc::clone(&stop), Arc::clone(&answered));
                std::thread::spawn(move || run(&url, thread, &stop, &answered))
            })
            .collect();
        Self { stop, answered, threads }
    }

    /// Calls answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    pub fn stop(mut self) -> Said {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Said::default();
        for thread in self.threads.drain(..) {
            let said = thread.join().expect("a caller failed");
            all.event_ids.extend(said.event_ids);
            all.failures.extend(said.failures);
            all.slowest = all.slowest.max(said.slowest);
        }
        all
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn run(url: &str, thread: usize, stop: &AtomicBool, answered: &AtomicU64) -> Said {
    let mut said = Said::default();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let begun = Instant::now();
        match block_on(call(url, thread, number)) {
            Ok(answer) => {
                collect_ids(&answer, &mut said.event_ids);
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(failure) => said.failures.push(failure),
        }
        said.slowest = said.slowest.max(begun.elapsed());
    }
    said
}

async fn call(url: &str, thread: usize, number: u64) -> Result<Value, String> {
    let user = format!("user-{thread}-{}", number % 100);
    if number % 6 == 5 {
        let flag = ["on", "off", "theme"][usize::try_from(number / 6 % 3).unwrap_or_default()];
        let path = format!("flags/{flag}/check?user_id={user}&environment=production");
        return answer(client().get(format!("{url}/{path}"))).await;
    }
    let (path, body) = match number % 6 {
        0 => (
            "bulk",
            json!({"flag_names": ["on", "off", "unknown"], "user_id": user, "environment": "production"}),
        ),
        1 => ("batch?environment=production&user_id=u", json!(["on", "theme"])),
        2 => ("boolean", json!({"flag_name": "on", "user_id": user, "environment": "production"})),
        _ => {
            let context = json!({"region": "us-west", "number": number});
            (
                "",
                json!({"flag_name": "theme", "default_value": "light", "user_id": user, "context": context,
                    "environment": "production"}),
            )
        }
    };
    let url = format!("{url}/api/v1/feature-flags/evaluate/{path}").trim_end_matches('/').to_owned();
    answer(client().post(url).json(&body)).await
}

async fn answer(call: reqwest::RequestBuilder) -> Result<Value, String> {
    let response = call.send().await.map_err(|error| error.to_string())?;
    let status = response.status();
    let text = response.text().await.map_err(|error| error.to_string())?;
    if !status.is_success() {
        return Err(format!("{status}: {text}"));
    }
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

fn collect_ids(answer: &Value, ids: &mut Vec<String>) {
    let Some(members) = answer.as_object() else { return };
    ids.extend(members.get("event_id").and_then(Value::as_str).map(str::to_owned));
    members.values().for_each(|member| collect_ids(member, ids));
}
