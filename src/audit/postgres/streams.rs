//! Last processed sequence number of each stream: the table `sink_streams`.

use std::collections::HashMap;

use sqlx::{PgConnection, Postgres, Transaction};

use crate::database::DatabaseError;
use crate::message::sequence::Sequence;

use super::super::batch::Batch;
use super::super::streams::{MAX_STREAMS_COUNT, Streams};

/// Returns the known streams of these partitions.
pub(super) async fn known(
    connection: &mut PgConnection,
    topic: &str,
    partitions: &[i32],
) -> Result<HashMap<i32, Streams>, DatabaseError> {
    let select = "SELECT partition, stream, number FROM (
            SELECT *, row_number() OVER (PARTITION BY partition ORDER BY updated_at DESC) AS place FROM sink_streams
            WHERE topic = $1 AND partition = ANY($2)) AS s
        WHERE place <= $3 ORDER BY place";
    let limit = i64::try_from(MAX_STREAMS_COUNT).unwrap_or(i64::MAX);
    let query = sqlx::query_as::<_, (i32, i64, i64)>(select).bind(topic).bind(partitions).bind(limit);
    let mut known: HashMap<i32, Streams> = HashMap::new();
    for (partition, stream, number) in query.fetch_all(connection).await? {
        let sequence = Sequence { stream: stream.cast_unsigned(), number: number.cast_unsigned() };
        known.entry(partition).or_default().enter(sequence);
    }
    Ok(known)
}

/// Writes the streams that have changed. The positions of these partitions are locked.
pub(super) async fn advance(
    transaction: &mut Transaction<'_, Postgres>,
    topic: &str,
    batch: &Batch,
) -> Result<(), DatabaseError> {
    let (mut partitions, mut streams, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
    for moved in &batch.moves {
        for Sequence { stream, number } in &moved.streams {
            partitions.push(moved.partition);
            streams.push(stream.cast_signed());
            numbers.push(number.cast_signed());
        }
    }
    if partitions.is_empty() {
        return Ok(());
    }
    let upsert = "INSERT INTO sink_streams (topic, partition, stream, number)
        SELECT $1, * FROM unnest($2::int[], $3::bigint[], $4::bigint[])
        ON CONFLICT (topic, partition, stream) DO UPDATE SET number = excluded.number, updated_at = now()";
    let query = sqlx::query(upsert).bind(topic).bind(partitions).bind(streams).bind(numbers);
    query.execute(&mut **transaction).await?;
    Ok(())
}
