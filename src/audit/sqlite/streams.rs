//! Last processed sequence number of each stream: the table `sink_streams`.

use chrono::Utc;
use sqlx::sqlite::SqliteConnection;

use crate::database::DatabaseError;
use crate::message::sequence::Sequence;

use super::super::batch::Move;
use super::super::streams::{MAX_STREAMS_COUNT, Streams};
use super::time;

/// Returns the known streams of a partition.
pub(super) async fn known(
    connection: &mut SqliteConnection,
    topic: &str,
    partition: i32,
) -> Result<Streams, DatabaseError> {
    let query = "SELECT stream, number FROM sink_streams WHERE topic = $1 AND partition = $2
        ORDER BY updated_at DESC LIMIT $3";
    let limit = i64::try_from(MAX_STREAMS_COUNT).unwrap_or(i64::MAX);
    let query = sqlx::query_as::<_, (i64, i64)>(query).bind(topic).bind(partition).bind(limit);
    let mut streams = Streams::default();
    for (stream, number) in query.fetch_all(connection).await? {
        streams.enter(Sequence { stream: stream.cast_unsigned(), number: number.cast_unsigned() });
    }
    Ok(streams)
}

/// Writes the streams that have changed.
pub(super) async fn advance(
    connection: &mut SqliteConnection,
    topic: &str,
    moved: &Move,
) -> Result<(), DatabaseError> {
    let upsert = "INSERT INTO sink_streams (topic, partition, stream, number, updated_at)
        VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT DO UPDATE SET number = excluded.number, updated_at = excluded.updated_at";
    for Sequence { stream, number } in &moved.streams {
        let query = sqlx::query(upsert).bind(topic).bind(moved.partition).bind(stream.cast_signed());
        query.bind(number.cast_signed()).bind(time(Utc::now())).execute(&mut *connection).await?;
    }
    Ok(())
}
