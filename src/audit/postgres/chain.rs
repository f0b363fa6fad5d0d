//! Appends a batch's blocks to the hash chains, in the transaction that writes its rows.

use std::collections::BTreeMap;

use sqlx::{PgConnection, Postgres, Row, Transaction};

use crate::database::DatabaseError;

use super::super::batch::{Batch, Content};
use super::super::chain::{Block, Digest, Hasher, Head};

const ENTER: &str = "INSERT INTO audit_chains (topic, partition)
    SELECT $1, partition FROM unnest($2::int[]) AS partition ORDER BY partition ON CONFLICT DO NOTHING";
const HEADS: &str = "SELECT partition, chain, number, hash FROM audit_chains
    WHERE topic = $1 AND partition = ANY($2) ORDER BY partition";
const ADD_BLOCKS: &str = "INSERT INTO audit_blocks
        (chain, number, from_offset, to_offset, rows, first_evaluated_at, last_evaluated_at, rows_digest, hash)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
        $8::bytea[], $9::bytea[])";
const MOVE_HEADS: &str = "UPDATE audit_chains AS c SET number = m.number, hash = m.hash
    FROM unnest($1::bigint[], $2::bigint[], $3::bytea[]) AS m (chain, number, hash) WHERE c.chain = m.chain";

/// Creates missing chains for these partitions. Returns the end of each chain, by partition.
pub(super) async fn begin(
    connection: &mut PgConnection,
    topic: &str,
    partitions: &[i32],
) -> Result<BTreeMap<i32, Head>, DatabaseError> {
    sqlx::query(ENTER).bind(topic).bind(partitions).execute(&mut *connection).await?;
    heads(connection, topic, partitions).await
}

/// Returns the end of each partition's chain.
async fn heads(
    connection: &mut PgConnection,
    topic: &str,
    partitions: &[i32],
) -> Result<BTreeMap<i32, Head>, DatabaseError> {
    let rows = sqlx::query(HEADS).bind(topic).bind(partitions).fetch_all(connection).await?;
    let head = |row: &sqlx::postgres::PgRow| {
        let hash: Vec<u8> = row.try_get("hash")?;
        let hash = Digest::try_from(hash)
            .map_err(|_| sqlx::Error::Decode("a hash of 32 bytes is expected".into()))?;
        let head = Head { chain: row.try_get("chain")?, number: row.try_get("number")?, hash };
        Ok((row.try_get("partition")?, head))
    };
    Ok(rows.iter().map(head).collect::<Result<_, sqlx::Error>>()?)
}

/// Appends a block for each partition with evaluations. The positions of these partitions are locked, so no other sink
/// moves their heads.
pub(super) async fn append(
    transaction: &mut Transaction<'_, Postgres>,
    hasher: &Hasher,
    topic: &str,
    batch: &Batch,
) -> Result<(), DatabaseError> {
    // A partition whose evaluations were all refused adds an empty block, because the reader has already counted on it.
    let mut digests: BTreeMap<i32, Vec<Digest>> =
        batch.partitions_with_rows().into_iter().map(|partition| (partition, Vec::new())).collect();
    let mut times: BTreeMap<i32, (i64, i64)> = BTreeMap::new();
    for entry in batch.accepted() {
        if let Content::Evaluation { digest, evaluated_at, .. } = entry.content {
            digests.entry(entry.partition).or_default().push(digest);
            let (first, last) = times.entry(entry.partition).or_insert((evaluated_at, evaluated_at));
            (*first, *last) = ((*first).min(evaluated_at), (*last).max(evaluated_at));
        }
    }
    let partitions: Vec<i32> = digests.keys().copied().collect();
    if partitions.is_empty() {
        return Ok(());
    }
    let heads = heads(transaction, topic, &partitions).await?;
    let mut added = Added::default();
    for (partition, mut digests) in digests {
        let Some(head) = heads.get(&partition) else { continue };
        let (first, last) = times.get(&partition).unwrap_or(&(0, 0));
        let Some(moved) = batch.moves.iter().find(|moved| moved.partition == partition) else { continue };
        added.add(
            hasher,
            head,
            &Block {
                topic: topic.to_owned(),
                partition,
                from_offset: moved.from,
                to_offset: moved.to,
                rows: i64::try_from(digests.len()).unwrap_or(i64::MAX),
                first_evaluated_at: *first,
                last_evaluated_at: *last,
                rows_digest: hasher.rows(&mut digests),
            },
        );
    }
    added.write(transaction).await
}

/// Rows of `audit_blocks`, one vector per column.
#[derive(Default)]
struct Added {
    chains: Vec<i64>,
    numbers: Vec<i64>,
    from_offsets: Vec<i64>,
    to_offsets: Vec<i64>,
    rows: Vec<i64>,
    first: Vec<i64>,
    last: Vec<i64>,
    rows_digests: Vec<Vec<u8>>,
    hashes: Vec<Vec<u8>>,
}

impl Added {
    fn add(&mut self, hasher: &Hasher, head: &Head, block: &Block) {
        let number = head.number + 1;
        self.chains.push(head.chain);
        self.numbers.push(number);
        self.from_offsets.push(block.from_offset);
        self.to_offsets.push(block.to_offset);
        self.rows.push(block.rows);
        self.first.push(block.first_evaluated_at);
        self.last.push(block.last_evaluated_at);
        self.rows_digests.push(block.rows_digest.to_vec());
        self.hashes.push(hasher.block(&head.hash, number, block).to_vec());
    }

    async fn write(self, transaction: &mut Transaction<'_, Postgres>) -> Result<(), DatabaseError> {
        let heads = sqlx::query(MOVE_HEADS).bind(&self.chains).bind(&self.numbers).bind(&self.hashes);
        heads.execute(&mut **transaction).await?;
        let blocks = sqlx::query(ADD_BLOCKS).bind(self.chains).bind(self.numbers).bind(self.from_offsets);
        let blocks = blocks.bind(self.to_offsets).bind(self.rows).bind(self.first).bind(self.last);
        blocks.bind(self.rows_digests).bind(self.hashes).execute(&mut **transaction).await?;
        Ok(())
    }
}

const NOTE_RETENTION: &str = "INSERT INTO audited_changes (kind, subject, action, actor, reason, after, changed_at)
    VALUES ('retention', 'evaluations', 'removed', 'flagstream', NULL, jsonb_build_object('before_micros', $1), now())";
const PRUNE: &str = "WITH kept AS (
        SELECT c.chain, coalesce(min(b.number) FILTER (WHERE b.last_evaluated_at >= $1), c.number + 1) AS first
        FROM audit_chains c JOIN audit_blocks b USING (chain) GROUP BY c.chain
    ), pruned AS (
        DELETE FROM audit_blocks b USING kept k WHERE b.chain = k.chain AND b.number < k.first RETURNING b.chain, b.number, b.hash
    ), last AS (SELECT DISTINCT ON (chain) chain, number, hash FROM pruned ORDER BY chain, number DESC)
    UPDATE audit_chains c SET pruned_number = l.number, pruned_hash = l.hash FROM last l WHERE c.chain = l.chain";

/// Records that evaluations before a time (microseconds since 1970) were removed by retention, and removes the blocks
/// at the start of each chain that have no rows left. A verification starts behind them.
pub(super) async fn retire(
    transaction: &mut Transaction<'_, Postgres>,
    before_micros: i64,
) -> Result<(), DatabaseError> {
    sqlx::raw_sql("SET LOCAL flagstream.erasure = 'on'").execute(&mut **transaction).await?;
    sqlx::query(PRUNE).bind(before_micros).execute(&mut **transaction).await?;
    let erased = "DELETE FROM audit_erased_rows e USING audit_chains c
        WHERE c.chain = e.audit_block >> 40 AND (e.audit_block & 1099511627775) <= c.pruned_number";
    sqlx::query(erased).execute(&mut **transaction).await?;
    sqlx::query(NOTE_RETENTION).bind(before_micros).execute(&mut **transaction).await?;
    Ok(())
}
