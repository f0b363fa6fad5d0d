//! The configuration of the embedded mode: what is embedded takes the place of what is configured.

use std::time::Duration;

use crate::config::{Config, Secret};

/// Few enough to look at, more than one.
const PARTITIONS: i32 = 4;
/// A result is seen soon after its request, at the price of more transactions.
const BATCH_MAX: Duration = Duration::from_millis(10);
/// The mock broker answers a fetch only when its time is up, whatever arrives meanwhile.
const FETCH_WAIT: Duration = Duration::from_millis(10);

/// Where the audit trail is written, in the folder that `dev` was started in.
const DATABASE: &str = "sqlite:./flagstream-dev.db";

/// Lets `config` use the embedded broker at `address`, and nothing else that is not in this process.
pub fn embed(config: &mut Config, address: String) {
    "dev".clone_into(&mut config.instance);
    config.state_dir.set_file_name("dev");
    config.kafka.bootstrap_servers = address;
    // Security settings are for a real broker.
    let fetch_wait = Secret::new(FETCH_WAIT.as_millis().to_string());
    config.kafka.client = [("fetch.wait.max.ms".to_owned(), fetch_wait)].into();
    config.topics.partitions = PARTITIONS;
    config.topics.replication = Some(1);
    config.unleash.url = None;
    config.redis.url = None;
    config.unleash.environments.clear();
    config.delivery.workers = 1;
    // A Postgres that is configured is one for real, and no place for samples.
    let sqlite = config.database.url.take().filter(|url| url.expose().starts_with("sqlite:"));
    config.database.url = Some(sqlite.unwrap_or_else(|| Secret::new(DATABASE)));
    config.database.migrate = true;
    // The broker begins anew with every start, and its offsets with it.
    config.audit.log_id = Some(uuid::Uuid::now_v7().to_string());
    config.delivery.batch_max = BATCH_MAX;
}
