//! Verifies that the chains contain the hashes of the checkpoints in Kafka.

use std::collections::BTreeMap;
use std::sync::Arc;

use rdkafka::Message;
use sqlx::Row;
use subtle::ConstantTimeEq;

use crate::config::Config;
use crate::database::PostgresDatabase;
use crate::kafka::range;
use crate::message::checkpoint::{Checkpoint, EVENT_TYPE};

use super::super::chain::Hasher;
use super::{ProblemKind, Verified, VerifyError};

/// Part of the Kafka client's name.
const ROLE: &str = "audit-verify";

const BLOCK: &str = "SELECT b.hash, c.number AS last, c.pruned_number FROM audit_chains c
    LEFT JOIN audit_blocks b ON b.chain = c.chain AND b.number = $3 WHERE c.topic = $1 AND c.partition = $2";
const LINK: &str = "SELECT hash FROM audit_change_links WHERE log = $1 AND number = $2";

/// Hashes of one chain in the checkpoints: (number, hash) → time of the first checkpoint. Disagreeing checkpoints keep
/// both hashes.
type Said = BTreeMap<(i64, String), String>;

pub(super) async fn verify(
    database: &PostgresDatabase,
    config: &Arc<Config>,
    hasher: &Hasher,
    verified: &mut Verified,
) -> Result<(), VerifyError> {
    let reading = (Arc::clone(config), hasher.clone());
    let read = tokio::task::spawn_blocking(move || read(&reading.0, &reading.1)).await;
    let (chains, logs, counted) = read.map_err(|_| VerifyError::Ended)??;
    verified.checkpoints = Some(counted.checkpoints);
    verified.unsigned_checkpoints = counted.unsigned;
    for (instance, at) in counted.bad_signatures {
        let detail = format!(
            "the checkpoint of {at} by {instance} has a signature that was not made with the configured key"
        );
        verified.add(ProblemKind::BadSignature, instance, 0, detail);
    }
    for ((topic, partition), said) in chains {
        let name = format!("{topic}/{partition}");
        for ((number, hash), at) in said {
            let query = sqlx::query(BLOCK).bind(&topic).bind(partition).bind(number);
            let row = query.fetch_optional(&database.pool).await?;
            let pruned = match &row {
                Some(row) => number <= row.try_get::<i64, _>("pruned_number")?,
                None => false,
            };
            if !pruned {
                let found = row.map(|row| row.try_get::<Option<Vec<u8>>, _>("hash")).transpose()?.flatten();
                compare(&name, number, &hash, &at, found, verified);
            }
        }
    }
    for (log, said) in logs {
        for ((number, hash), at) in said {
            let query = sqlx::query_scalar::<_, Vec<u8>>(LINK).bind(&log).bind(number);
            let found = query.fetch_optional(&database.pool).await?;
            compare(&log, number, &hash, &at, found, verified);
        }
    }
    Ok(())
}

fn compare(name: &str, number: i64, hash: &str, at: &str, found: Option<Vec<u8>>, verified: &mut Verified) {
    let detail = match found.map(hex::encode) {
        Some(found) if found == hash => return,
        Some(_) => format!("the chain was rewritten after the checkpoint of {at}"),
        None => format!("the chain is shorter than in the checkpoint of {at}: its end was removed"),
    };
    verified.add(ProblemKind::CheckpointDiffers, name, number, detail);
}

#[derive(Default)]
struct Counted {
    checkpoints: u64,
    unsigned: u64,
    /// Instance and time of each checkpoint with a bad signature.
    bad_signatures: Vec<(String, String)>,
}

type Read = (BTreeMap<(String, i32), Said>, BTreeMap<String, Said>, Counted);

/// Reads all checkpoints; blocks. Those with a bad signature are reported and not used.
fn read(config: &Config, hasher: &Hasher) -> Result<Read, VerifyError> {
    let (mut chains, mut logs, mut counted) = Read::default();
    let mut records = range::Range::open(&config.kafka, ROLE, &config.topics.audit_checkpoints, None)?;
    while let Some(record) = records.record()? {
        let read = record.payload().and_then(|body| serde_json::from_slice::<Checkpoint>(body).ok());
        let Some(checkpoint) = read.filter(|checkpoint| checkpoint.event_type == EVENT_TYPE) else {
            continue;
        };
        counted.checkpoints += 1;
        match checkpoint.signature_bytes() {
            Ok(None) if !hasher.is_keyed() => counted.unsigned += 1,
            Ok(None) => {
                counted.unsigned += 1;
                continue;
            }
            Ok(Some(signature)) if is_ours(hasher, &checkpoint, &signature) => {}
            // Without the key a signature cannot be checked, so it counts as unsigned.
            Ok(Some(_)) if !hasher.is_keyed() => counted.unsigned += 1,
            Ok(Some(_)) | Err(_) => {
                counted.bad_signatures.push((checkpoint.instance, checkpoint.created_at));
                continue;
            }
        }
        for end in checkpoint.chains {
            let said: &mut Said = chains.entry((end.topic, end.partition)).or_default();
            said.entry((end.number, end.hash)).or_insert_with(|| checkpoint.created_at.clone());
        }
        for end in checkpoint.changes {
            let said: &mut Said = logs.entry(end.log).or_default();
            said.entry((end.number, end.hash)).or_insert_with(|| checkpoint.created_at.clone());
        }
    }
    Ok((chains, logs, counted))
}

fn is_ours(hasher: &Hasher, checkpoint: &Checkpoint, signature: &[u8]) -> bool {
    hasher.is_keyed() && hasher.digest(&checkpoint.signed_bytes()).as_slice().ct_eq(signature).into()
}
