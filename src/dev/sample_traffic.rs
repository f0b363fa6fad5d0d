//! Sends a few sample requests per second, as a service would.

use std::time::Duration;

use rand::Rng;
use rand::seq::IndexedRandom;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord};
use serde_json::{Value, json};

use crate::config::Config;
use crate::kafka::client::{self, Logged};
use crate::shutdown::Shutdown;

use super::sample::ASKS;

const USERS: u32 = 50;
/// One request in this many names several flags.
const MANY_EVERY: u32 = 5;
const MANY_COUNT: usize = 3;
/// Maximum rate in requests per second. Higher rates are a load test, which `bench` provides.
pub const MAX_RATE: f64 = 1_000.0;

/// Sends `rate` requests per second until `shutdown`.
pub async fn run(config: &Config, rate: f64, shutdown: Shutdown) -> Result<(), KafkaError> {
    let client = client::base(&config.kafka, "trickle");
    let producer: BaseProducer<Logged> = client.create_with_context(Logged)?;
    let pause = Duration::from_secs_f64(1.0 / rate.min(MAX_RATE));
    let mut ticks = tokio::time::interval(pause);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let (user, body) = sample(&mut rand::rng());
        let record = BaseRecord::to(&config.topics.requests).key(&user).payload(&body);
        // A full queue means that the broker accepts no requests at the moment. The sample is skipped, because another
        // one follows soon.
        if let Err((error, _)) = producer.send(record) {
            tracing::debug!(%error, "sample request not sent");
        }
        producer.poll(Duration::ZERO);
    }
}

/// A random request: its key and its body.
fn sample(random: &mut impl Rng) -> (String, String) {
    let user = format!("user-{}", random.random_range(1..=USERS));
    let mut request = json!({
        "request_id": uuid::Uuid::now_v7().to_string(),
        "user_id": user,
        "context": {
            "region": pick(random, &["us-west", "us-east", "eu-central"]),
            "subscription_tier": pick(random, &["free", "free", "premium", "gold"]),
        },
        "requested_at": chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
    });
    let Some(members) = request.as_object_mut() else {
        return (user, String::new());
    };
    let default = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    if random.random_ratio(1, MANY_EVERY) {
        let asks: Vec<_> = ASKS.choose_multiple(random, MANY_COUNT).collect();
        members.insert("flag_names".to_owned(), asks.iter().map(|(flag, _)| *flag).collect());
        let defaults = asks.iter().map(|(flag, text)| ((*flag).to_owned(), default(text)));
        members.insert("default_values".to_owned(), Value::Object(defaults.collect()));
    } else if let Some((flag, text)) = ASKS.choose(random) {
        members.insert("flag_name".to_owned(), (*flag).into());
        members.insert("default_value".to_owned(), default(text));
    }
    (user, request.to_string())
}

fn pick(random: &mut impl Rng, choices: &[&'static str]) -> &'static str {
    choices.choose(random).copied().unwrap_or_default()
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::request::Request;

    #[test]
    fn samples_are_requests() {
        let mut random = rand::rng();
        for _ in 0..500 {
            let (user, body) = sample(&mut random);
            let request = Request::decode(body.as_bytes()).unwrap();
            assert_eq!(request.context.user_id.as_deref(), Some(user.as_str()));
            assert!([1, MANY_COUNT].contains(&request.asks.as_slice().len()));
        }
    }
}
