//! The configuration of `dev`: embedded parts replace configured ones.

use std::path::{Path, absolute};
use std::time::Duration;

use crate::config::{Config, Secret};

/// More than one partition, but few enough to inspect.
const PARTITIONS_COUNT: i32 = 4;
/// Short, so that a result follows soon after its request, at the cost of more transactions.
const BATCH_MAX: Duration = Duration::from_millis(10);
/// The mock broker answers a fetch only when its wait time has passed, even if records arrive earlier.
const FETCH_WAIT: Duration = Duration::from_millis(10);

/// Database file of the audit trail, in the folder in which `dev` was started.
const DATABASE_FILE: &str = "flagstream-dev.db";

/// Adapts `config` for development. `embedded` is the address of the embedded broker; with `None` the configured Kafka
/// is used. A configured Redis is used; without one its values are stored in this process.
pub fn embed(config: &mut Config, embedded: Option<String>) -> std::io::Result<()> {
    config.set_instance("dev");
    config.state_dir.set_file_name("dev");
    // Batches are not compressed: several clients need another package before they can read lz4.
    let compression = ("compression.type".to_owned(), Secret::new("none"));
    if let Some(address) = embedded {
        config.kafka.bootstrap_servers = address;
        // Security settings apply to a real broker only.
        let fetch_wait = Secret::new(FETCH_WAIT.as_millis().to_string());
        config.kafka.client = [compression, ("fetch.wait.max.ms".to_owned(), fetch_wait)].into();
        config.topics.partitions = PARTITIONS_COUNT;
        config.topics.replication = Some(1);
        config.reply.create_missing = true;
        // The embedded broker and its offsets are new at every start.
        config.audit.log_id = Some(uuid::Uuid::now_v7().to_string());
    } else {
        config.kafka.client.entry(compression.0).or_insert(compression.1);
    }
    config.unleash.url = None;
    config.unleash.environments.clear();
    config.redis.edge_in_memory = config.redis.url.is_none();
    config.delivery.workers = 1;
    // A configured Postgres is a production database and must not receive sample data.
    let sqlite = config.database.url.take().filter(|url| url.expose().starts_with("sqlite:"));
    let url = sqlite.map_or_else(|| format!("sqlite:{DATABASE_FILE}"), |url| url.expose().to_owned());
    config.database.url = Some(Secret::new(with_absolute_path(&url)?));
    config.database.migrate = true;
    config.delivery.batch_max = BATCH_MAX;
    Ok(())
}

/// Makes the path of an SQLite URL absolute, so that it names the same file in every working directory.
fn with_absolute_path(url: &str) -> std::io::Result<String> {
    let Some(file) = url.strip_prefix("sqlite:").map(|rest| rest.trim_start_matches("//")) else {
        return Ok(url.to_owned());
    };
    if file.is_empty() || file.contains(":memory:") {
        return Ok(url.to_owned());
    }
    let (file, options) = file.split_once('?').map_or((file, None), |(file, options)| (file, Some(options)));
    let options = options.map(|options| format!("?{options}")).unwrap_or_default();
    Ok(format!("sqlite:{}{options}", absolute(Path::new(file))?.display()))
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_the_same_file_from_every_folder() {
        let here = std::env::current_dir().unwrap();
        let here = here.display();
        for (url, expected) in [
            ("sqlite:a.db", format!("sqlite:{here}/a.db")),
            ("sqlite://a.db?mode=ro", format!("sqlite:{here}/a.db?mode=ro")),
            ("sqlite:///tmp/a.db", "sqlite:/tmp/a.db".to_owned()),
            ("sqlite::memory:", "sqlite::memory:".to_owned()),
        ] {
            assert_eq!(with_absolute_path(url).unwrap(), expected);
        }
    }
}
