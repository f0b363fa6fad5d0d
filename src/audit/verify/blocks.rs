//! Verifies that each block follows from the previous one.

use futures_util::TryStreamExt;
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::database::PostgresDatabase;

use super::super::chain::{Block, Digest, GENESIS, Hasher};
use super::{ProblemKind, Verified, VerifyError, digest};

const CHAINS: &str = "SELECT chain, topic, partition, number, hash, pruned_number, pruned_hash FROM audit_chains ORDER BY chain";
const BLOCKS: &str =
    "SELECT number, from_offset, to_offset, rows, first_evaluated_at, last_evaluated_at, rows_digest, hash
    FROM audit_blocks WHERE chain = $1 AND number <= $2 ORDER BY number";

struct Chain {
    id: i64,
    topic: String,
    partition: i32,
    number: i64,
    hash: Option<Digest>,
    pruned_number: i64,
    pruned_hash: Digest,
}

pub(super) async fn verify(
    database: &PostgresDatabase,
    hasher: &Hasher,
    verified: &mut Verified,
) -> Result<(), VerifyError> {
    for row in sqlx::query(CHAINS).fetch_all(&database.pool).await? {
        let pruned: Vec<u8> = row.try_get("pruned_hash")?;
        let chain = Chain {
            id: row.try_get("chain")?,
            topic: row.try_get("topic")?,
            partition: row.try_get("partition")?,
            number: row.try_get("number")?,
            hash: digest(row.try_get("hash")?),
            pruned_number: row.try_get("pruned_number")?,
            pruned_hash: digest(&pruned).unwrap_or(GENESIS),
        };
        verified.chains += u64::from(chain.number > 0);
        chain.verify(database, hasher, verified).await?;
    }
    Ok(())
}

impl Chain {
    async fn verify(
        &self,
        database: &PostgresDatabase,
        hasher: &Hasher,
        verified: &mut Verified,
    ) -> Result<(), VerifyError> {
        let name = format!("{}/{}", self.topic, self.partition);
        let (mut number, mut previous) = (self.pruned_number, self.pruned_hash);
        // Up to the head as it was read, because a sink may be adding blocks.
        let mut blocks = sqlx::query(BLOCKS).bind(self.id).bind(self.number).fetch(&database.pool);
        while let Some(row) = blocks.try_next().await? {
            let found: i64 = row.try_get("number")?;
            if found != number + 1 {
                let detail = format!("blocks {} to {} are missing", number + 1, found - 1);
                verified.add(ProblemKind::Missing, &name, number + 1, detail);
            }
            let hash = digest(row.try_get("hash")?);
            let expected = hasher.block(&previous, found, &self.block(&row)?);
            if found == number + 1 && hash != Some(expected) {
                let detail = "the block's hash does not match the previous block: one of the two was changed";
                verified.add(ProblemKind::BrokenChain, &name, found, detail);
            }
            verified.blocks += 1;
            number = found;
            // Continues from the stored hash, so that each difference is reported once.
            previous = hash.unwrap_or(GENESIS);
        }
        if number != self.number || (number > 0 && self.hash != Some(previous)) {
            let detail =
                format!("the chain ends with block {number}, but its head records block {}", self.number);
            verified.add(ProblemKind::Missing, &name, self.number, detail);
        }
        Ok(())
    }

    fn block(&self, row: &PgRow) -> Result<Block, sqlx::Error> {
        let rows_digest: Vec<u8> = row.try_get("rows_digest")?;
        Ok(Block {
            topic: self.topic.clone(),
            partition: self.partition,
            from_offset: row.try_get("from_offset")?,
            to_offset: row.try_get("to_offset")?,
            rows: row.try_get("rows")?,
            first_evaluated_at: row.try_get("first_evaluated_at")?,
            last_evaluated_at: row.try_get("last_evaluated_at")?,
            rows_digest: digest(&rows_digest).unwrap_or(GENESIS),
        })
    }
}
