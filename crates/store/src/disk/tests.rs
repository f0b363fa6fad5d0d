#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::super::test_records::{switch, value};
use super::*;

fn sample() -> DiskSnapshot {
    DiskSnapshot {
        saved_at: Utc::now(),
        topic: "definitions".to_owned(),
        offset: 42,
        saved: Saved {
            values: ["e/a", "e/b/c", "other/ü"].map(|key| value(key, 7, true).into()).to_vec(),
            removed: [("e/gone".to_owned(), 6)].into(),
            switches: vec![switch("e/a", 8, "killed").into()],
        },
        sources: Vec::new(),
    }
}

#[test]
fn what_is_saved_is_loaded_again() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(&folder.path().join("not/there/yet"));
    assert!(disk.load().unwrap().is_none());
    let saved = sample();
    disk.save(&saved).unwrap();
    disk.save(&saved).unwrap();
    let loaded = disk.load().unwrap().unwrap();
    assert_eq!((loaded.saved_at, loaded.offset, &loaded.topic), (saved.saved_at, 42, &saved.topic));
    assert_eq!(loaded.saved.values, saved.saved.values);
    assert_eq!(loaded.saved.removed, saved.saved.removed);
    assert_eq!(loaded.saved.switches, saved.saved.switches);
    let files = fs::read_dir(disk.path().parent().unwrap()).unwrap().count();
    assert_eq!(files, 1, "nothing is left beside it");
}

#[test]
fn a_damaged_file_is_put_aside_and_not_believed() {
    let whole = encode(&sample()).unwrap();
    let text = String::from_utf8(whole.clone()).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    let (half, _) = whole.split_at(whole.len() / 2);
    let longer = [whole.as_slice(), b"x"].concat();
    let other = text.replacen(" 1 ", " 2 ", 1);
    let cases: [(&str, &[u8]); 7] = [
        ("empty", b""),
        ("truncated", half),
        ("flipped bit", &flipped),
        ("longer", &longer),
        ("other format", other.as_bytes()),
        ("foreign", b"PK\x03\x04 something else"),
        ("head only", text.split_once('\n').unwrap().0.as_bytes()),
    ];
    for (case, bytes) in cases {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new(folder.path());
        fs::write(disk.path(), bytes).unwrap();
        assert!(matches!(disk.load(), Err(DiskError::Damaged(_))), "{case}");
        assert!(disk.load().unwrap().is_none(), "{case}");
        assert_eq!(fs::read(folder.path().join("snapshot.damaged")).unwrap(), bytes, "{case}");
    }
}

#[test]
fn a_file_that_cannot_be_written_leaves_the_former_one() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(folder.path());
    disk.save(&sample()).unwrap();
    fs::create_dir(folder.path().join("snapshot.new")).unwrap();
    assert!(disk.save(&sample()).is_err());
    assert!(disk.load().unwrap().is_some());
}

#[cfg(unix)]
#[test]
fn the_file_is_for_its_owner_only_and_a_link_in_its_way_is_not_followed() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(&folder.path().join("state"));
    disk.save(&sample()).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(disk.path()), mode(disk.path().parent().unwrap())), (0o600, 0o700));
    let victim = folder.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    symlink(&victim, disk.path().with_extension("new")).unwrap();
    assert!(disk.save(&sample()).is_err());
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
}

proptest! {
    #[test]
    fn random_bytes_are_no_snapshot(bytes: Vec<u8>) {
        prop_assert!(decode(&bytes).is_err());
    }

    #[test]
    fn random_content_under_a_right_checksum_never_panics(body: String) {
        let file = format!("{MAGIC} {FORMAT_VERSION} {}\n{body}", checksum(body.as_bytes()));
        prop_assert!(decode(file.as_bytes()).is_err());
    }

    #[test]
    fn any_flipped_bit_is_noticed(place: prop::sample::Index, bit in 0u8..8) {
        let mut bytes = encode(&sample()).unwrap();
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        prop_assert!(decode(&bytes).is_err());
    }
}
