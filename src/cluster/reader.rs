//! Reads the reports of all instances, and the changes of the last day, on its own thread.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use rdkafka::Message;

use crate::config::{Config, InputFormat};
use crate::kafka::tail::{FollowError, Follower, Start};
use crate::message::avro::Subject;
use crate::message::change::Change;
use crate::message::instance::InstanceReport;
use crate::schema_registry::{Formats, Reader};
use crate::shutdown::{Shutdown, Threads, pause};

use super::{CHANGES_MAX_AGE, Cluster};

/// Time before now from which reports are read at the start. Older ones are ignored anyway.
const REPORTS_START_AGE: TimeDelta = TimeDelta::seconds(60);
/// Longest report that is read, in bytes.
const REPORT_BYTES_MAX: usize = 1 << 20;
/// Upper bound of the JSON of an invalidation in Avro, in bytes.
const CHANGE_BYTES_MAX: usize = 1 << 20;
/// Timeout of one request to the broker at the start of a session. A stop of the process waits for it.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a poll of one topic waits for a record, while the other topic waits.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Maximum records of one topic that are read before the other topic is polled again.
const BURST_RECORDS: usize = 1_000;
/// Delay before the first restart of a failed session; it doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(500);
/// Longest delay before the restart of a failed session.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// The running reader.
#[derive(Debug)]
pub struct ClusterReader(JoinHandle<()>);

impl ClusterReader {
    /// Starts the thread, which fills `cluster` until `shutdown`.
    pub fn start(
        cluster: Arc<Cluster>,
        config: Arc<Config>,
        formats: Arc<Formats>,
        shutdown: Shutdown,
    ) -> io::Result<Self> {
        let thread = std::thread::Builder::new().name("cluster".to_owned());
        let thread = thread.spawn(move || {
            let mut backoff = MIN_BACKOFF;
            while !shutdown.is_cancelled() {
                let mut changes = formats.reader(Subject::UPDATES, InputFormat::Auto);
                let ended = session(&cluster, &config, &mut changes, &shutdown);
                let Err(error) = ended else { return };
                tracing::debug!(%error, "the reports of instances cannot be read; retrying");
                cluster.failed(Some(error.to_string()));
                pause(backoff, &shutdown);
                backoff = (backoff * 2).min(MAX_BACKOFF);
            }
        })?;
        Ok(Self(thread))
    }
}

impl Threads for ClusterReader {
    fn has_failed(&self) -> bool {
        self.0.is_finished()
    }

    fn join(self) -> bool {
        self.0.join().is_ok()
    }
}

fn session(
    cluster: &Cluster,
    config: &Config,
    reader: &mut Reader,
    shutdown: &Shutdown,
) -> Result<(), FollowError> {
    let ago = |age: TimeDelta| Start::At((Utc::now() - age).timestamp_millis());
    let open = |role, topic, age| Follower::open_within(&config.kafka, role, topic, ago(age), CALL_TIMEOUT);
    let reports = open("cluster-instances", &config.topics.instances, REPORTS_START_AGE)?;
    if shutdown.is_cancelled() {
        return Ok(());
    }
    let changes = open("cluster-updates", &config.topics.updates, CHANGES_MAX_AGE)?;
    cluster.failed(None);
    let mut text = Vec::new();
    while !shutdown.is_cancelled() {
        let mut timeout = POLL_INTERVAL;
        for _ in 0..BURST_RECORDS {
            let Some(record) = reports.next(timeout)? else { break };
            take_report(cluster, record.key(), record.payload());
            timeout = Duration::ZERO;
        }
        let mut timeout = POLL_INTERVAL;
        for _ in 0..BURST_RECORDS {
            let Some(record) = changes.next(timeout)? else { break };
            let json = reader.read(record.payload().unwrap_or_default(), &mut text, CHANGE_BYTES_MAX);
            let change = json.ok().and_then(|json| serde_json::from_slice::<Change>(json).ok());
            if let Some(change) = change {
                cluster.lock().change(change);
            }
            timeout = Duration::ZERO;
        }
    }
    Ok(())
}

fn take_report(cluster: &Cluster, key: Option<&[u8]>, body: Option<&[u8]>) {
    let Some(instance) = key.and_then(|key| std::str::from_utf8(key).ok()) else { return };
    let report = match body {
        None => None,
        Some(body) if body.len() > REPORT_BYTES_MAX => return,
        // Any other record in the topic is no report.
        Some(body) => match serde_json::from_slice::<InstanceReport>(body) {
            Ok(report) if report.instance == instance => Some(report),
            _ => return,
        },
    };
    cluster.lock().report(instance, report, Utc::now());
}
