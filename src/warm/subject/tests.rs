#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;

const SUBJECT: Subject<'_> =
    Subject { environment: "e", flag: "f", user: Some("u"), session: None, context: "{}" };

#[test]
fn only_bare_subjects_have_a_plain_key() {
    let plain = |subject: Subject<'_>| subject.keys().unwrap().plain;
    assert_eq!(plain(SUBJECT).as_deref(), Some("ff_eval:e:f:u"));
    assert_eq!(plain(Subject { context: " { } ", ..SUBJECT }).as_deref(), Some("ff_eval:e:f:u"));
    assert_eq!(plain(Subject { context: r#"{"a":1}"#, ..SUBJECT }), None);
    assert_eq!(plain(Subject { session: Some("s"), ..SUBJECT }), None);
    assert!(Subject { context: "[]", ..SUBJECT }.keys().is_none());
    let long = "u".repeat(KEY_BYTES_MAX + 1);
    assert!(Subject { user: Some(&long), ..SUBJECT }.keys().is_none());
}

#[test]
fn a_session_within_the_context_is_not_added_to_it() {
    let hash = |subject: Subject<'_>| subject.keys().unwrap().evaluation;
    let within = Subject { context: r#"{"sessionId":"s"}"#, ..SUBJECT };
    assert_eq!(hash(within), hash(Subject { session: Some("s"), ..within }));
    assert_ne!(hash(within), hash(Subject { session: Some("other"), ..within }));
}

#[test]
fn members_say_what_they_were_made_of() {
    let subject = Subject { session: Some("s\"9"), context: r#"{"a": [1]}"#, ..SUBJECT };
    let bytes = subject.member(&subject.keys().unwrap());
    let Some(Member::Subject { user, session, context }) = Member::read(&bytes) else { panic!("{bytes:?}") };
    assert_eq!((user.as_deref(), session.as_deref(), context), (Some("u"), Some("s\"9"), r#"{"a": [1]}"#));
    let context = format!(r#"{{"a":"{}"}}"#, "x".repeat(LISTED_CONTEXT_BYTES_MAX));
    let large = Subject { context: &context, ..SUBJECT };
    let keys = large.keys().unwrap();
    let bytes = large.member(&keys);
    assert!(matches!(Member::read(&bytes), Some(Member::Key(key)) if key == keys.evaluation));
    assert!(Member::read(b"[1,2]").is_none());
}
