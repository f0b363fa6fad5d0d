#![allow(clippy::unwrap_used)]

use super::*;
use crate::request::{Asked, Query, Request, Subject};
use flagstream_evaluation::context::UNSORTED_PROPERTIES_MAX;

/// Value that evaluation reads from a context for a name.
fn seen(context: &EvaluationContext<'_>, name: &str) -> Option<String> {
    let own = match name {
        "userId" => &context.user_id,
        "sessionId" => &context.session_id,
        "remoteAddress" => &context.remote_address,
        "currentTime" => &context.current_time,
        "appName" => &context.app_name,
        name => return context.property(name).map(str::to_owned),
    };
    own.as_deref().map(str::to_owned)
}

const NAMES: [&str; 7] =
    ["userId", "sessionId", "session_id", "remoteAddress", "currentTime", "appName", "plan"];

#[test]
fn of_a_repeated_name_the_last_counts_also_where_it_is_null() {
    for name in NAMES {
        for (values, expected) in [
            (&["\"a\"", "\"b\""][..], Some("b")),
            (&["\"a\"", "null"], None),
            (&["null", "\"a\""], Some("a")),
            (&["\"a\"", "null", "\"b\""], Some("b")),
            (&["\"a\"", "null", "\"b\"", "null"], None),
            (&["1", "1e0"], Some("1e0")),
        ] {
            let members: Vec<_> = values.iter().map(|value| format!("\"{name}\":{value}")).collect();
            let text = format!("{{\"other\":1,{}}}", members.join(","));
            let body = format!(r#"{{"flag_name":"f","context":{text}}}"#);
            let expected = expected.map(str::to_owned);
            assert_eq!(seen(&context(&text).unwrap(), name), expected, "{text}");
            assert_eq!(seen(&Request::decode(body.as_bytes()).unwrap().context, name), expected, "{body}");
            let query = Query::one(body.as_bytes(), None).unwrap();
            assert!(matches!(query.asked, Asked::These(_)));
            assert_eq!(seen(&query.subjects.as_slice()[0].context, name), expected, "{body}");
            let ofrep = format!(r#"{{"context":{text}}}"#);
            assert_eq!(seen(&Subject::of_openfeature(ofrep.as_bytes()).unwrap().context, name), expected);
        }
    }
}

#[test]
fn of_repeated_targeting_keys_the_last_is_the_user() {
    let user = |members: &str| {
        let body = format!(r#"{{"context":{{{members}}}}}"#);
        let subject = Subject::of_openfeature(body.as_bytes()).map_err(|refusal| refusal.field)?;
        // The recorded context has the same values: the key remains a property.
        let recorded =
            recorded_context(&subject.context_json, subject.context.user_id.as_deref(), None).unwrap();
        assert_eq!(recorded.property("targetingKey"), subject.context.property("targetingKey"));
        assert_eq!(recorded.user_id, subject.context.user_id);
        Ok(subject.context.user_id.as_deref().map(str::to_owned))
    };
    let some = |text: &str| Ok(Some(text.to_owned()));
    assert_eq!(user(r#""targetingKey":"a","targetingKey":"b""#), some("b"));
    assert_eq!(user(r#""targetingKey":"a","targetingKey":null"#), Ok(None));
    assert_eq!(user(r#""targetingKey":"a","targetingKey":null,"userId":"u""#), some("u"));
    assert_eq!(user(r#""targetingKey":"","userId":"u""#), some("u"));
    assert_eq!(user(r#""targetingKey":"k","userId":"u""#), some("k"));
    assert_eq!(user(r#""targetingKey":7"#), some("7"));
    assert_eq!(user(r#""targetingKey":{"id":"u"}"#), Err("context.targetingKey".to_owned()));
    assert_eq!(user(r#""targetingKey":"a","targetingKey":["b"]"#), Err("context.targetingKey".to_owned()));
    let twice = Subject::of_openfeature(br#"{"context":{"a":1},"context":{"b":2}}"#).unwrap_err();
    assert_eq!(twice.field, "context");
}

#[test]
fn a_session_inside_a_context_is_the_session_unless_one_stands_beside_it() {
    let session = |body: &str| {
        let request = Request::decode(body.as_bytes()).unwrap();
        let session = request.context.session_id.as_deref().map(str::to_owned);
        assert_eq!(request.context.property("session_id").map(str::to_owned), session);
        session
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(session(r#"{"flag_name":"f","context":{"session_id":"in"}}"#), some("in"));
    assert_eq!(session(r#"{"flag_name":"f","session_id":"top","context":{"session_id":"in"}}"#), some("top"));
    assert_eq!(session(r#"{"flag_name":"f","context":{"session_id":"in","sessionId":"s"}}"#), some("in"));
    assert_eq!(session(r#"{"flag_name":"f","context":{"sessionId":"s","session_id":null}}"#), some("s"));
    assert_eq!(session(r#"{"flag_name":"f","session_id":"","context":{"sessionId":"s"}}"#), some("s"));
    assert_eq!(session(r#"{"flag_name":"f","session_id":"","context":{"session_id":""}}"#), None);
}

#[test]
fn properties_inside_a_context_are_its_own_unless_it_has_the_name() {
    let text = r#"{"plan":"free","nothing":null,"properties":{"plan":"gold","tier":1e2,"userId":"u","tier":null,"tier":2,"nothing":1}}"#;
    let context = context(text).unwrap();
    assert_eq!((context.property("plan"), context.property("tier")), (Some("free"), Some("2")));
    assert_eq!((context.user_id.as_deref(), context.property("nothing")), (Some("u"), Some("1")));
    assert!(context.property("properties").unwrap().starts_with("{\"plan\":\"gold\""));
    let none = super::context(r#"{"properties":{"tier":1},"properties":null}"#).unwrap();
    assert_eq!((none.property("tier"), none.property("properties")), (None, None));
    assert_eq!(super::context(r#"{"properties":[1]}"#).unwrap().property("properties"), Some("[1]"));
    let deep = super::context(r#"{"properties":{"properties":{"tier":1}}}"#).unwrap();
    assert_eq!(deep.property("tier"), None);
}

#[test]
fn an_empty_user_is_none() {
    let user = |body: &str| Request::decode(body.as_bytes()).unwrap().context.user_id.map(Cow::into_owned);
    assert_eq!(user(r#"{"flag_name":"f","user_id":""}"#), None);
    assert_eq!(user(r#"{"flag_name":"f","user_id":"","context":{"userId":"u"}}"#).as_deref(), Some("u"));
    assert_eq!(user(r#"{"flag_name":"f","context":{"userId":""}}"#), None);
}

#[test]
fn a_generated_session_is_recorded_and_read_as_none() {
    let generated = generated_session(7);
    assert!(is_generated_session(&generated));
    for other in ["", "generated-", "generated-7", "generated-x0000000000000000000000000000007", "s"] {
        assert!(!is_generated_session(other), "{other}");
    }
    let context = recorded_context("{}", None, Some(&generated)).unwrap();
    assert_eq!((context.session_id.as_deref(), context.anonymous_id.as_deref()), (None, Some(&*generated)));
}

#[test]
fn many_properties_are_found_as_few_are() {
    let count = UNSORTED_PROPERTIES_MAX + 40;
    let members: Vec<_> = (0..count).map(|n| format!("\"p{}\":{n}", n % (count - 5))).collect();
    let text = format!("{{{},\"p3\":null,\"group_id\":1}}", members.join(","));
    let few = context(&text).unwrap();
    assert!(few.properties_sorted);
    for n in 0..count - 5 {
        let last = if n < 5 { n + count - 5 } else { n };
        let expected = (n != 3).then(|| last.to_string());
        assert_eq!(few.property(&format!("p{n}")), expected.as_deref(), "p{n}");
    }
    let body = format!(r#"{{"flag_name":"f","device_type":"phone","group_id":2,"context":{text}}}"#);
    let request = Request::decode(body.as_bytes()).unwrap();
    assert_eq!(request.context.property("device_type"), Some("phone"));
    assert_eq!(request.context.property("group_id"), Some("1"));
    assert_eq!(request.context.property("p7"), Some("7"));
}
