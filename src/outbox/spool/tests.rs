//! Tests with files that are cut or damaged at every position.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;

use super::*;

const MAX_BYTES: u64 = 256 << 20;

fn batch(number: u32) -> EventBatch {
    let mut batch = EventBatch::new("production".into());
    batch.record(Some(b"key"), |out| out.extend_from_slice(number.to_string().as_bytes()));
    batch
}

fn number(batch: &EventBatch) -> u32 {
    let (_, value) = batch.records().next().unwrap();
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

/// Returns all readable batches, the number of damaged segments, and the last position.
fn drain(spool: &mut Spool) -> (Vec<u32>, usize, Position) {
    let (mut found, mut damaged, mut last) = (Vec::new(), 0, Position::default());
    loop {
        match spool.next().unwrap() {
            Next::EventBatch(batch, position) => {
                found.push(number(&batch));
                last = position;
            }
            Next::Damaged { .. } => damaged += 1,
            Next::End => return (found, damaged, last),
        }
    }
}

#[test]
fn parcels_come_in_order_while_more_are_appended() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(folder.path(), MAX_BYTES).unwrap();
    assert!(spool.is_read() && matches!(spool.next().unwrap(), Next::End));
    for n in 0..10 {
        spool.append(&batch(n)).unwrap();
    }
    assert!(matches!(spool.next().unwrap(), Next::EventBatch(first, _) if number(&first) == 0));
    spool.append(&batch(10)).unwrap();
    let (found, damaged, last) = drain(&mut spool);
    assert_eq!((found, damaged), ((1..=10).collect(), 0));
    spool.acknowledge(last).unwrap();
    spool.clear().unwrap();
    assert_eq!((spool.bytes(), spool.is_read()), (0, true));
    spool.append(&batch(11)).unwrap();
    assert_eq!(drain(&mut spool).0, [11]);
}

/// Kafka was slow twice, and the first segment is still open: batches that were sent meanwhile are not read again, and
/// later ones are not lost.
#[test]
fn what_is_skipped_in_an_open_segment_is_not_read_and_what_follows_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(folder.path(), MAX_BYTES).unwrap();
    spool.append(&batch(1)).unwrap();
    assert_eq!(drain(&mut spool).0, [1]);
    for number in [20, 300] {
        spool.append(&batch(number)).unwrap();
    }
    spool.skip_to_end();
    for number in [4_000, 50_000, 600_000] {
        spool.append(&batch(number)).unwrap();
    }
    let (found, damaged, _) = drain(&mut spool);
    assert_eq!((found, damaged), (vec![4_000, 50_000, 600_000], 0));
}

#[test]
fn segments_are_removed_once_they_are_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(folder.path(), MAX_BYTES).unwrap();
    let mut big = batch(7);
    big.record(None, |out| out.resize(out.len() + (6 << 20), b'x'));
    for _ in 0..8 {
        spool.append(&big).unwrap();
    }
    let segments = |spool: &Spool| spool.segments.len();
    assert_eq!(segments(&spool), 3);
    let (_, _, last) = drain(&mut spool);
    let before = spool.bytes();
    spool.acknowledge(last).unwrap();
    assert_eq!(segments(&spool), 1);
    assert!(spool.bytes() < before);
}

#[test]
fn the_next_process_goes_on_where_kafka_had_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(folder.path(), MAX_BYTES).unwrap();
    let positions: Vec<_> = (0..10).map(|n| spool.append(&batch(n)).unwrap()).collect();
    spool.acknowledge(positions[3]).unwrap();
    spool.sync().unwrap();
    spool.acknowledge(positions[5]).unwrap();
    drop(spool);
    let mut spool = Spool::open(folder.path(), MAX_BYTES).unwrap();
    spool.append(&batch(10)).unwrap();
    // Batches that were acknowledged after the last stored position are read again.
    assert_eq!(drain(&mut spool).0, (4..=10).collect::<Vec<_>>());
    drop(spool);
    fs::write(folder.path().join("acknowledged"), "1 77 5").unwrap();
    let mut spool = Spool::open(folder.path(), MAX_BYTES).unwrap();
    assert_eq!(drain(&mut spool).0, (0..=10).collect::<Vec<_>>());
}

#[test]
fn a_torn_or_damaged_end_costs_no_more_than_itself() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(folder.path(), MAX_BYTES).unwrap();
    let positions: Vec<_> = (0..3).map(|n| spool.append(&batch(n)).unwrap()).collect();
    drop(spool);
    let path = folder.path().join("0000000000000001.spool");
    let whole = fs::read(&path).unwrap();
    for end in 0..whole.len() {
        fs::write(&path, &whole[..end]).unwrap();
        let mut spool = Spool::open(folder.path(), MAX_BYTES).unwrap();
        spool.append(&batch(9)).unwrap();
        let kept = positions.iter().filter(|position| position.offset <= end as u64).count() as u32;
        let torn = positions.iter().all(|position| position.offset != end as u64) && end > 0;
        let (found, damaged, _) = drain(&mut spool);
        assert_eq!((found, damaged), ((0..kept).chain([9]).collect(), usize::from(torn)), "cut at {end}");
        drop(spool);
        fs::remove_file(folder.path().join("0000000000000002.spool")).unwrap();
    }
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        fs::write(&path, &bytes).unwrap();
        let (found, damaged, _) = drain(&mut Spool::open(folder.path(), MAX_BYTES).unwrap());
        let before = positions.iter().filter(|position| position.offset <= at as u64).count() as u32;
        assert_eq!((found, damaged), ((0..before).collect(), 1), "broken at {at}");
    }
}

#[test]
fn it_is_bounded_and_belongs_to_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(folder.path(), 200).unwrap();
    let fits = (0..100).take_while(|n| spool.append(&batch(*n)).is_ok()).count();
    assert!((1..10).contains(&fits) && spool.bytes() <= 200);
    assert!(matches!(spool.append(&batch(1)), Err(SpoolError::Full)));
    let other = Spool::open(folder.path(), 200).err().unwrap();
    assert!(other.to_string().contains("another process"), "{other}");
}

#[test]
fn a_full_disk_is_full_and_what_comes_after_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(folder.path(), MAX_BYTES).unwrap();
    spool.append(&batch(0)).unwrap();
    for _ in 0..3 {
        spool.fail_next_append().unwrap();
        let error = spool.append(&batch(1)).unwrap_err();
        assert!(error.is_full(), "{error}");
    }
    spool.append(&batch(2)).unwrap();
    let (found, damaged, _) = drain(&mut spool);
    assert_eq!((found, damaged), (vec![0, 2], 0));
    for (error, full) in [(libc::EDQUOT, true), (libc::EFBIG, true), (libc::EROFS, false), (libc::EIO, false)]
    {
        assert_eq!(SpoolError::from(io::Error::from_raw_os_error(error)).is_full(), full);
    }
}
