//! Verifies that the rows of each block add up to its digest.
//!
//! Blocks are selected by the hour in which they were written, and their rows by evaluation time. One pass over the
//! rows serves all blocks of the hour, and memory use stays low.

use std::collections::HashMap;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use futures_util::TryStreamExt;
use sqlx::Row;

use crate::audit::postgres::copy;
use crate::database::PostgresDatabase;
use crate::replay::rows::{Copied, each_row};

use super::super::chain::{Digest, Hasher};
use super::{ProblemKind, Progress, Range, Verified, VerifyError, count, digest};

const HOUR: TimeDelta = TimeDelta::hours(1);
/// Largest span of a block's evaluation times, in microseconds, for a shared scan. A block with a longer span (events
/// that waited in a spool) is compared alone; otherwise its hour would scan everything in between.
const SPREAD_MAX_MICROS: i64 = 2 * 3_600 * 1_000_000;

const SPAN: &str = "SELECT min(written_at), max(written_at), count(*) FROM audit_blocks
    WHERE written_at >= coalesce($1, '-infinity') AND written_at < coalesce($2, 'infinity')";
const BLOCKS: &str = "SELECT (b.chain << 40) | b.number AS id, b.number, b.rows, b.rows_digest, b.first_evaluated_at, b.last_evaluated_at,
        c.topic || '/' || c.partition AS name
    FROM audit_blocks b JOIN audit_chains c USING (chain)
    WHERE b.written_at >= $1 AND b.written_at < $2";
const ERASED: &str =
    "SELECT audit_block, digest, replaced_by FROM audit_erased_rows WHERE audit_block = ANY($1)";
/// Latest time before which retention has removed all rows.
const BOUNDARY: &str =
    "SELECT max((after->>'before_micros')::bigint) FROM audited_changes WHERE kind = 'retention'";
const WITHOUT_BLOCK: &str = "SELECT count(*) FILTER (WHERE audit_block IS NULL), count(*) FILTER (WHERE audit_block IS NOT NULL)
    FROM feature_flag_evaluations e
    WHERE NOT EXISTS (SELECT 1 FROM audit_blocks b WHERE b.chain = e.audit_block >> 40 AND b.number = e.audit_block & 1099511627775)
        AND ($1::timestamptz IS NULL OR evaluated_at >= $1) AND ($2::timestamptz IS NULL OR evaluated_at < $2)";

/// Block, with the digests of its rows found so far.
struct Open {
    name: String,
    number: i64,
    rows: i64,
    expected: Option<Digest>,
    first: i64,
    last: i64,
    found: Vec<Digest>,
    /// Digest of an anonymised row → digest of the original row.
    originals: HashMap<Digest, Digest>,
}

pub(super) async fn verify(
    database: &PostgresDatabase,
    hasher: &Hasher,
    range: &Range,
    verified: &mut Verified,
    progress: &Progress,
) -> Result<(), VerifyError> {
    let span = sqlx::query(SPAN).bind(range.from).bind(range.to).fetch_one(&database.pool).await?;
    let (first, last): (Option<DateTime<Utc>>, Option<DateTime<Utc>>) = (span.try_get(0)?, span.try_get(1)?);
    let expected: i64 = span.try_get(2)?;
    count(&progress.expected, expected.unsigned_abs());
    let boundary: Option<i64> = sqlx::query_scalar(BOUNDARY).fetch_one(&database.pool).await?;
    if let (Some(first), Some(last)) = (first, last) {
        let mut from = first;
        while from <= last {
            let to = from + HOUR;
            let end = range.to.map_or(to, |limit| to.min(limit));
            Hour { database, hasher, boundary }.verify(from, end, verified, progress).await?;
            from = to;
        }
    }
    let row = sqlx::query(WITHOUT_BLOCK).bind(range.from).bind(range.to).fetch_one(&database.pool).await?;
    let (before, added): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    verified.rows_without_block = before.unsigned_abs();
    if added > 0 {
        let detail = format!("{added} rows reference a block that does not exist");
        verified.add(ProblemKind::Added, "feature_flag_evaluations", 0, detail);
    }
    Ok(())
}

struct Hour<'a> {
    database: &'a PostgresDatabase,
    hasher: &'a Hasher,
    /// Evaluations before this time, in microseconds since 1970, may have been removed by retention. `None`: retention
    /// has removed nothing.
    boundary: Option<i64>,
}

impl Hour<'_> {
    async fn verify(
        &self,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        verified: &mut Verified,
        progress: &Progress,
    ) -> Result<(), VerifyError> {
        let mut blocks = self.blocks(from, to).await?;
        if blocks.is_empty() {
            return Ok(());
        }
        self.erased(&mut blocks, verified).await?;
        let far: Vec<i64> = blocks
            .iter()
            .filter(|(_, block)| block.last.saturating_sub(block.first) > SPREAD_MAX_MICROS)
            .map(|(id, _)| *id)
            .collect();
        let near = || blocks.iter().filter(|(id, block)| !far.contains(id) && block.rows > 0);
        let first = near().map(|(_, block)| block.first).min();
        let last = near().map(|(_, block)| block.last).max();
        if let (Some(first), Some(last)) = (first, last) {
            self.read(&condition(first, last, None), &mut blocks, &far, verified).await?;
        }
        for id in &far {
            let Some(block) = blocks.get(id) else { continue };
            let condition = condition(block.first, block.last, Some(*id));
            self.read(&condition, &mut blocks, &[], verified).await?;
        }
        for (_, block) in blocks {
            self.compare(block, verified);
            count(&progress.blocks, 1);
        }
        Ok(())
    }

    async fn blocks(
        &self,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> Result<HashMap<i64, Open>, VerifyError> {
        let mut blocks = HashMap::new();
        for row in sqlx::query(BLOCKS).bind(from).bind(to).fetch_all(&self.database.pool).await? {
            let rows: i64 = row.try_get("rows")?;
            let open = Open {
                name: row.try_get("name")?,
                number: row.try_get("number")?,
                rows,
                expected: digest(row.try_get("rows_digest")?),
                first: row.try_get("first_evaluated_at")?,
                last: row.try_get("last_evaluated_at")?,
                found: Vec::new(),
                originals: HashMap::new(),
            };
            blocks.insert(row.try_get("id")?, open);
        }
        Ok(blocks)
    }

    async fn erased(
        &self,
        blocks: &mut HashMap<i64, Open>,
        verified: &mut Verified,
    ) -> Result<(), VerifyError> {
        let ids: Vec<i64> = blocks.keys().copied().collect();
        for row in sqlx::query(ERASED).bind(ids).fetch_all(&self.database.pool).await? {
            let Some(block) = blocks.get_mut(&row.try_get("audit_block")?) else { continue };
            let Some(original) = digest(row.try_get("digest")?) else { continue };
            verified.erased_rows += 1;
            match row.try_get::<Option<Vec<u8>>, _>("replaced_by")?.and_then(|bytes| digest(&bytes)) {
                Some(replaced_by) => drop(block.originals.insert(replaced_by, original)),
                None => block.found.push(original),
            }
        }
        Ok(())
    }

    /// Adds the digests of the matching rows to their blocks, except for blocks in `skipped`.
    async fn read(
        &self,
        condition: &str,
        blocks: &mut HashMap<i64, Open>,
        skipped: &[i64],
        verified: &mut Verified,
    ) -> Result<(), VerifyError> {
        let columns = copy::COLUMN_NAMES;
        let statement = format!(
            "COPY (SELECT {columns} FROM feature_flag_evaluations WHERE audit_block IS NOT NULL AND {condition}) TO STDOUT (FORMAT binary)"
        );
        // Detached from the pool, because a connection that is dropped during a `COPY` cannot be reused.
        let mut connection = self.database.pool.acquire().await?.detach();
        let mut stream = connection.copy_out_raw(&statement).await?;
        let (mut copied, mut buffer) = (Copied::default(), Vec::new());
        let mut take = |block: &[u8]| {
            each_row(block, |row| {
                let Some(id) = row.audit_block.filter(|id| !skipped.contains(id)) else { return };
                let Some(open) = blocks.get_mut(&id) else { return };
                let digest = self.hasher.row(row, &mut buffer);
                open.found.push(open.originals.get(&digest).copied().unwrap_or(digest));
                verified.rows += 1;
            })
        };
        while let Some(chunk) = stream.try_next().await? {
            if let Some(block) = copied.add(&chunk)? {
                take(&block)?;
            }
        }
        take(&copied.rest())?;
        Ok(())
    }

    fn compare(&self, mut block: Open, verified: &mut Verified) {
        let found = i64::try_from(block.found.len()).unwrap_or(i64::MAX);
        if Some(self.hasher.rows(&mut block.found)) == block.expected && found == block.rows {
            return;
        }
        if found < block.rows && self.boundary.is_some_and(|boundary| block.first < boundary) {
            verified.blocks_past_retention += 1;
            return;
        }
        let detail = match found.cmp(&block.rows) {
            std::cmp::Ordering::Less => format!("{} of {} rows are missing", block.rows - found, block.rows),
            std::cmp::Ordering::Greater => {
                format!("{} rows were added to the block's {}", found - block.rows, block.rows)
            }
            std::cmp::Ordering::Equal => format!("at least one of {} rows was changed", block.rows),
        };
        verified.add(ProblemKind::Changed, block.name, block.number, detail);
    }
}

/// SQL condition for rows of this time span and, if given, this block. `COPY` takes no parameters; only numbers and
/// times are interpolated.
fn condition(first: i64, last: i64, block: Option<i64>) -> String {
    let time = |micros| {
        let time = DateTime::<Utc>::from_timestamp_micros(micros).unwrap_or_default();
        time.to_rfc3339_opts(SecondsFormat::Micros, true)
    };
    let one = block.map(|id| format!(" AND audit_block = {id}")).unwrap_or_default();
    format!("evaluated_at >= '{}' AND evaluated_at <= '{}'{one}", time(first), time(last))
}
