//! Ids of evaluated events, which contain the index of their result.

use uuid::Uuid;

/// Number of indexes that the id of an event for a request from Kafka can contain.
const STREAM_INDEXES: u64 = 1 << 10;
/// Number of indexes that the id of an event for a call can contain.
const CALL_INDEXES: u64 = 1 << 20;

/// Id of an event for a request from Kafka. It depends only on the request's coordinates, so that processing
/// the request again produces the same id.
///
/// The id is a UUID of version 8 (RFC 9562): 48 bits of the record's timestamp in milliseconds (ids sort by
/// time), then 10 bits of the index, 20 bits of topic and partition and 44 bits of the offset. Within a
/// partition, (offset, index) is unique; 2^44 offsets suffice for 500 years at a thousand requests per
/// second.
pub fn stream_event_id(
    topic_hash: u32,
    partition: i32,
    offset: i64,
    index: u32,
    timestamp_ms: i64,
) -> [u8; 36] {
    let place = (topic_hash.wrapping_mul(0x9E37_79B1) ^ partition.cast_unsigned()) & 0xF_FFFF;
    let high =
        (timestamp_ms.cast_unsigned() & 0xFFFF_FFFF_FFFF) << 16 | 0x8000 | u64::from(index & 0x3FF) << 2;
    let low =
        0x8000_0000_0000_0000 | u64::from(place & 0x3_FFFF) << 44 | offset.cast_unsigned() & 0xFFF_FFFF_FFFF;
    let id = Uuid::from_u64_pair(high | u64::from(place >> 18), low);
    let mut text = [0; 36];
    id.hyphenated().encode_lower(&mut text);
    text
}

/// Id of an event for a call over HTTP: a UUID of version 7 (RFC 9562). The ids of one call sort in the order
/// of its answers.
///
/// It contains 48 bits of the call's time, 20 bits of the answer's index, and 54 random bits that all answers
/// of a call share.
pub fn call_event_id(time_ms: u64, random: u64, index: u32) -> [u8; 36] {
    let index = u64::from(index);
    let high = (time_ms & 0xFFFF_FFFF_FFFF) << 16 | 0x7000 | index >> 8 & 0xFFF;
    let low = 0x8000_0000_0000_0000 | (index & 0xFF) << 54 | random >> 10;
    let mut text = [0; 36];
    Uuid::from_u64_pair(high, low).hyphenated().encode_lower(&mut text);
    text
}

/// Index that an id from [`stream_event_id`] or [`call_event_id`] contains; `None` for any other UUID.
pub fn index_of(id: Uuid) -> Option<u64> {
    let (high, low) = id.as_u64_pair();
    match id.get_version_num() {
        8 => Some(high >> 2 & (STREAM_INDEXES - 1)),
        7 => Some((high & 0xFFF) << 8 | low >> 54 & 0xFF),
        _ => None,
    }
}

/// The id of the result `count` after the one with this id; `None` if no id has such an index.
pub fn following_id(id: Uuid, count: u64) -> Option<Uuid> {
    let (high, low) = id.as_u64_pair();
    let index = index_of(id)?.checked_add(count)?;
    match id.get_version_num() {
        8 if index < STREAM_INDEXES => {
            Some(Uuid::from_u64_pair(high & !((STREAM_INDEXES - 1) << 2) | index << 2, low))
        }
        7 if index < CALL_INDEXES => {
            let high = high & !0xFFF | index >> 8;
            Some(Uuid::from_u64_pair(high, low & !(0xFF << 54) | (index & 0xFF) << 54))
        }
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn stream_ids_are_uuids_of_version_8_that_sort_by_time_and_repeat() {
        let id =
            |offset, index, ms| String::from_utf8(stream_event_id(7, 3, offset, index, ms).to_vec()).unwrap();
        let parsed = Uuid::parse_str(&id(99_120, 0, 1_768_473_000_123)).unwrap();
        assert_eq!(parsed.get_version_num(), 8);
        assert_eq!(parsed.get_variant(), uuid::Variant::RFC4122);
        assert_eq!(id(1, 2, 3), id(1, 2, 3));
        assert!(id(9, 999, 1_768_473_000_123) < id(1, 0, 1_768_473_000_124));
    }

    #[test]
    fn call_ids_are_uuids_of_version_7_in_the_order_of_their_call() {
        let ids: Vec<_> = (0..5_000)
            .map(|index| {
                String::from_utf8(call_event_id(1_768_473_000_123, u64::MAX, index).to_vec()).unwrap()
            })
            .collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
        for id in &ids {
            let id = Uuid::parse_str(id).unwrap();
            assert_eq!((id.get_version_num(), id.get_variant()), (7, uuid::Variant::RFC4122));
            assert_eq!(id.get_timestamp().map(|at| at.to_unix().0), Some(1_768_473_000));
        }
        let next = String::from_utf8(call_event_id(1_768_473_000_124, 0, 0).to_vec()).unwrap();
        assert!(ids.iter().all(|id| *id < next));
    }

    #[test]
    fn stream_ids_differ_for_every_place() {
        let mut seen = HashSet::new();
        for partition in 0..12 {
            for offset in 0..50 {
                for index in [0, 1, 999] {
                    assert!(seen.insert(stream_event_id(7, partition, offset, index, 5)));
                }
            }
        }
    }

    #[test]
    fn the_ids_of_later_results_follow_from_the_first() {
        let parse = |id: [u8; 36]| Uuid::parse_str(std::str::from_utf8(&id).unwrap()).unwrap();
        for index in [0, 1, 200, 999] {
            for first in [0, index / 2, index] {
                let count = u64::from(index - first);
                let stream = |index| parse(stream_event_id(7, 3, 99_120, index, 1_768_473_000_123));
                assert_eq!(following_id(stream(first), count), Some(stream(index)));
                let call = |index| parse(call_event_id(1_768_473_000_123, 0xFEDC_BA98_7654_3210, index));
                assert_eq!(following_id(call(first), count), Some(call(index)));
                assert_eq!(
                    (index_of(stream(index)), index_of(call(index))),
                    (Some(index.into()), Some(index.into()))
                );
            }
        }
        let call = |index| parse(call_event_id(5, 7, index));
        assert_eq!(following_id(call(255), 70_000), Some(call(70_255)));
        assert_eq!(following_id(call(0), CALL_INDEXES), None);
        assert_eq!(following_id(parse(stream_event_id(7, 3, 1, 1_000, 5)), 24), None);
        assert_eq!(index_of(Uuid::from_u64_pair(1, 2)), None);
    }
}
