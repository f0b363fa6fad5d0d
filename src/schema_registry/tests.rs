use std::collections::HashMap;
use std::sync::Mutex as StdMutex;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::*;
use crate::config::{InputFormat, Secret, SubjectStrategy};
use crate::message::avro::{Kind, Subject, header};

/// An in-process registry that can be made to fail.
#[derive(Default)]
struct Fake {
    schemas: StdMutex<HashMap<u32, Value>>,
    /// If set, every request is answered with this status.
    fails: StdMutex<Option<StatusCode>>,
    /// Ids with failing lookups: 0 returns an internal error, another number a schema of that many bytes.
    fails_for: StdMutex<HashMap<u32, usize>>,
    calls: StdMutex<Vec<String>>,
    /// If set, every request must have this header value.
    authorization: Option<&'static str>,
}

async fn serve(
    State(fake): State<Arc<Fake>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    fake.calls.lock().unwrap().push(format!("{method} {}", uri.path()));
    if let Some(status) = *fake.fails.lock().unwrap() {
        return (status, "upstream fails").into_response();
    }
    if let Some(expected) = fake.authorization
        && headers.get("authorization").is_none_or(|got| got != expected)
    {
        return (StatusCode::UNAUTHORIZED, r#"{"message":"Unauthorized"}"#).into_response();
    }
    let missing = (StatusCode::NOT_FOUND, r#"{"error_code":40403,"message":"Schema not found"}"#);
    let mut schemas = fake.schemas.lock().unwrap();
    let parts: Vec<&str> = uri.path().trim_start_matches("/base").split('/').skip(1).collect();
    let sent = || serde_json::from_slice::<Value>(&body).unwrap()["schema"].clone();
    match (method.as_str(), parts.as_slice()) {
        ("GET", ["schemas", "types"]) => r#"["AVRO"]"#.into_response(),
        ("GET", ["schemas", "ids", id])
            if fake.fails_for.lock().unwrap().contains_key(&id.parse().unwrap()) =>
        {
            match fake.fails_for.lock().unwrap()[&id.parse::<u32>().unwrap()] {
                0 => (StatusCode::INTERNAL_SERVER_ERROR, "this one fails").into_response(),
                bytes => json!({"schema": "x".repeat(bytes)}).to_string().into_response(),
            }
        }
        // In this registry, versions equal ids.
        ("GET", ["schemas", "ids", id] | ["subjects", _, "versions", id]) => {
            match schemas.get(&id.parse().unwrap()) {
                Some(schema) => schema.to_string().into_response(),
                None => missing.into_response(),
            }
        }
        ("POST", ["subjects", "refused-value", ..]) => {
            (StatusCode::CONFLICT, r#"{"message":"incompatible with an earlier schema"}"#).into_response()
        }
        ("POST", ["subjects", _, "versions"]) => {
            let id = schemas.iter().find(|(_, known)| known["schema"] == sent()).map(|(id, _)| *id);
            let id = id.unwrap_or(schemas.len() as u32 + 1);
            schemas.insert(id, json!({"schema": sent()}));
            json!({"id": id}).to_string().into_response()
        }
        ("POST", ["subjects", _]) => match schemas.iter().find(|(_, known)| known["schema"] == sent()) {
            Some((id, _)) => json!({"id": id, "version": 1}).to_string().into_response(),
            None => missing.into_response(),
        },
        _ => panic!("{method} {uri}"),
    }
}

impl Fake {
    async fn start(self) -> (Arc<Self>, String) {
        let fake = Arc::new(self);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = Router::new().fallback(serve).with_state(Arc::clone(&fake));
        tokio::spawn(async move { axum::serve(listener, router).await });
        (fake, address)
    }

    fn has(&self, id: u32, schema: &str) {
        self.schemas.lock().unwrap().insert(id, json!({"schema": schema}));
    }

    fn calls(&self) -> usize {
        self.calls.lock().unwrap().len()
    }
}

fn config(urls: &[&str], auto_register: bool) -> SchemaRegistryConfig {
    let urls = urls.iter().map(|url| Secret::new((*url).to_owned())).collect();
    SchemaRegistryConfig { urls, auto_register, ca_certificate: None }
}

fn open(urls: &[&str]) -> Arc<SchemaRegistry> {
    disk_cache_path(None, urls)
}

fn disk_cache_path(folder: Option<&Path>, urls: &[&str]) -> Arc<SchemaRegistry> {
    let lookups = Lookups::default();
    SchemaRegistry::open(&config(urls, true), folder, lookups, Handle::current()).unwrap().unwrap()
}

/// The number of lookups with this outcome.
fn count(registry: &SchemaRegistry, outcome: &'static str) -> u64 {
    registry.lookups.get_or_create(&OutcomeLabels { outcome }).get()
}

fn request(id: u32) -> Vec<u8> {
    let mut message = header(id).to_vec();
    Kind::Request.plan().from_json(r#"{"flag_name":"f"}"#, &mut message).unwrap();
    message
}

/// Reads on a separate thread, as the roles do.
async fn read(mut reader: Reader, payload: Vec<u8>) -> (Reader, Result<String, Undecodable>) {
    tokio::task::spawn_blocking(move || {
        let mut text = Vec::new();
        let read =
            reader.read(&payload, &mut text, 1_000).map(|json| String::from_utf8(json.to_vec()).unwrap());
        (reader, read)
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn a_schema_is_asked_for_once_and_outlives_its_registry() {
    let (fake, address) = Fake::default().start().await;
    fake.has(7, Kind::Request.text());
    let registry = open(&[&format!("http://{address}")]);
    let mut reader = Reader::new(Some(Arc::clone(&registry)), Subject::REQUESTS, InputFormat::Auto);
    for _ in 0..3 {
        let (back, read) = read(reader, request(7)).await;
        reader = back;
        assert_eq!(read.as_deref(), Ok(r#"{"flag_name":"f"}"#));
    }
    *fake.fails.lock().unwrap() = Some(StatusCode::INTERNAL_SERVER_ERROR);
    let (_, known) = read(reader, request(7)).await;
    assert!(known.is_ok());
    // Another thread's reader gets the schema from the registry's memory.
    let other = Reader::new(Some(registry), Subject::REQUESTS, InputFormat::Avro);
    let (_, known) = read(other, request(7)).await;
    assert!(known.is_ok());
    assert_eq!(fake.calls(), 1);
}

#[tokio::test]
async fn a_start_while_the_registry_is_away_goes_on_with_what_it_said() {
    let folder = tempfile::tempdir().unwrap();
    let (fake, address) = Fake::default().start().await;
    fake.has(7, Kind::Request.text());
    let url = format!("http://{address}");
    let (subject, schema) = ("events-value", Subject::EVENTS.text());
    let first = disk_cache_path(Some(folder.path()), &[&url]);
    let id = first.id_of(subject, &schema).await.unwrap();
    let reader = Reader::new(Some(Arc::clone(&first)), Subject::REQUESTS, InputFormat::Auto);
    read(reader, request(7)).await.1.unwrap();
    assert_eq!(count(&first, "found"), 1);

    *fake.fails.lock().unwrap() = Some(StatusCode::SERVICE_UNAVAILABLE);
    let second = disk_cache_path(Some(folder.path()), &[&url]);
    assert_eq!(second.id_of(subject, &schema).await, Ok(id));
    assert!(matches!(second.id_of(subject, Kind::Reply.text()).await, Err(RegistryError::Away(_))));
    let reader = Reader::new(Some(Arc::clone(&second)), Subject::REQUESTS, InputFormat::Auto);
    let (reader, disk_cache) = read(reader, request(7)).await;
    assert_eq!(disk_cache.as_deref(), Ok(r#"{"flag_name":"f"}"#));
    let (_, away) = read(reader, request(8)).await;
    assert!(matches!(away, Err(Undecodable::Away(_))));
    assert_eq!((count(&second, "kept"), count(&second, "away")), (1, 1));

    // For another registry the cached ids are not valid, and a damaged file is ignored.
    let closed = "http://127.0.0.1:9";
    let stranger = disk_cache_path(Some(folder.path()), &[closed]);
    assert!(matches!(stranger.id_of(subject, &schema).await, Err(RegistryError::Away(_))));
    std::fs::write(folder.path().join("schemas"), "{").unwrap();
    let damaged = disk_cache_path(Some(folder.path()), &[&url]);
    assert!(matches!(damaged.id_of(subject, &schema).await, Err(RegistryError::Away(_))));
    *fake.fails.lock().unwrap() = None;
    assert_eq!(damaged.id_of(subject, &schema).await, Ok(id));
    assert_eq!(damaged.is_away(), None);
}

#[tokio::test]
async fn what_a_schema_refers_to_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (fake, address) = Fake::default().start().await;
    let has = |id: u32, schema: Value, references: &[u32]| {
        let reference = |id: &u32| json!({"name": "any", "subject": format!("s{id}"), "version": id});
        let references: Vec<_> = references.iter().map(reference).collect();
        let schema = json!({"schema": schema.to_string(), "references": references});
        fake.schemas.lock().unwrap().insert(id, schema);
    };
    let record = |name: &str, fields: Value| json!({"type": "record", "name": name, "fields": fields});
    has(1, json!({"type": "enum", "name": "a.Tier", "symbols": ["free", "paid"]}), &[]);
    has(2, record("b.Context", json!([{"name": "tier", "type": "a.Tier"}])), &[1]);
    let fields = json!([{"name": "flag_name", "type": "string"}, {"name": "context", "type": "b.Context"},
        {"name": "trace", "type": "a.Tier"}]);
    has(3, record("Question", fields), &[2, 1]);
    let message = [&header(3)[..], b"\x02f\x02\x00"].concat();
    let url = format!("http://{address}");
    for _ in 0..2 {
        // The second registry reads it from the disk cache.
        let registry = disk_cache_path(Some(folder.path()), &[&url]);
        let reader = Reader::new(Some(registry), Subject::REQUESTS, InputFormat::Auto);
        let (_, read) = read(reader, message.clone()).await;
        assert_eq!(read.as_deref(), Ok(r#"{"flag_name":"f","context":{"tier":"paid"}}"#));
        *fake.fails.lock().unwrap() = Some(StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_eq!(fake.calls.lock().unwrap().iter().filter(|call| call.contains("/versions/")).count(), 2);

    *fake.fails.lock().unwrap() = None;
    (100..300).for_each(|id| has(id, json!("string"), &[id + 1]));
    has(4, json!("string"), &[4]);
    has(5, record("Question", json!([{"name": "context", "type": "a.Tier"}])), &[]);
    let registry = open(&[&url]);
    for (id, expected) in [
        (100, "schema 100 references more than 100 other schemas, or 4194304 bytes of schemas"),
        (4, "schema 4 cannot be parsed: "),
        (5, "schema 5 cannot be parsed: "),
    ] {
        let reader = Reader::new(Some(Arc::clone(&registry)), Subject::REQUESTS, InputFormat::Auto);
        let error = read(reader, header(id).to_vec()).await.1.unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[tokio::test]
async fn an_outage_is_no_fault_of_the_record_and_ends() {
    let (fake, address) = Fake::default().start().await;
    *fake.fails.lock().unwrap() = Some(StatusCode::SERVICE_UNAVAILABLE);
    let reader =
        Reader::new(Some(open(&[&format!("http://{address}")])), Subject::REQUESTS, InputFormat::Auto);
    let (reader, away) = read(reader, request(7)).await;
    assert!(matches!(&away, Err(Undecodable::Away(why)) if why.contains("503")), "{away:?}");
    // The next lookup is not sent immediately, even for another id.
    let (mut reader, away) = read(reader, request(8)).await;
    assert!(matches!(away, Err(Undecodable::Away(_))));
    assert_eq!(fake.calls(), 1);
    *fake.fails.lock().unwrap() = None;
    fake.has(7, Kind::Request.text());
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let (back, again) = read(reader, request(7)).await;
        reader = back;
        match again {
            Ok(_) => break,
            Err(Undecodable::Away(_)) if Instant::now() < deadline => tokio::time::sleep(REST / 10).await,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_record_is_told_apart() {
    let (fake, address) = Fake::default().start().await;
    fake.has(1, Kind::Reply.text());
    fake.has(2, r#"{"type":"record","name":"R","fields":[{"name":"user_id","type":"bytes"},{"name":"flag_names","type":"string"}]}"#);
    fake.has(3, "no schema");
    fake.schemas
        .lock()
        .unwrap()
        .insert(4, json!({"schema": "syntax = \"proto3\";", "schemaType": "PROTOBUF"}));
    fake.has(5, Kind::Request.text());
    let referring =
        json!({"schema": Kind::Request.text(), "references": [{"name": "X", "subject": "x", "version": 99}]});
    fake.schemas.lock().unwrap().insert(6, referring);
    let registry = open(&[&format!("http://{address}")]);
    let outcomes = [
        (header(9).to_vec(), "the registry has no schema 9"),
        (header(2).to_vec(), "schema 2: flag_names: expected a list, but the writer's schema has string"),
        (header(3).to_vec(), "schema 3 cannot be parsed"),
        (header(4).to_vec(), "schema 4 is of type PROTOBUF, not AVRO"),
        (header(6).to_vec(), "schema 6 references subject x version 99, which the registry does not have"),
        (header(5).to_vec(), "not a message of schema 5: the message ends in the middle of a value"),
    ];
    let mut reader = Reader::new(Some(registry), Subject::REQUESTS, InputFormat::Auto);
    for (payload, expected) in outcomes {
        let (back, outcome) = read(reader, payload).await;
        reader = back;
        let error = outcome.unwrap_err();
        assert!(!matches!(error, Undecodable::Away(_)));
        assert!(error.to_string().starts_with(expected), "{error}");
    }
    // An unknown id is looked up twice, in case it was just registered, and then not again for a while.
    let calls = fake.calls();
    let (_, outcome) = read(reader, header(9).to_vec()).await;
    assert!(matches!(outcome, Err(Undecodable::UnknownSchema(_))));
    assert_eq!(fake.calls(), calls);
}

#[tokio::test]
async fn formats_are_told_apart_where_either_is_taken() {
    let json = br#"{"flag_name":"f"}"#.to_vec();
    let reader = |format| Reader::new(None, Subject::REQUESTS, format);
    for (format, payload, expected) in [
        (InputFormat::Json, json.clone(), Ok(r#"{"flag_name":"f"}"#)),
        (InputFormat::Auto, json.clone(), Ok(r#"{"flag_name":"f"}"#)),
        (InputFormat::Auto, vec![], Ok("")),
        (InputFormat::Avro, vec![], Ok("")),
        (InputFormat::Avro, json, Err(Undecodable::NotAvro)),
        (InputFormat::Json, vec![0, 0, 0, 0, 7], Ok("\0\0\0\0\u{7}")),
        (
            InputFormat::Auto,
            request(7),
            Err(Undecodable::UnknownSchema(
                "the record is in Avro, and SCHEMA_REGISTRY_URL is not set".into(),
            )),
        ),
    ] {
        let (_, outcome) = read(reader(format), payload).await;
        assert_eq!(outcome.as_deref(), expected.as_ref().copied(), "{format:?}");
    }
}

#[tokio::test]
async fn schemas_are_registered_or_only_looked_up() {
    let (fake, address) =
        Fake { authorization: Some("Basic dXNlcjpwQHNzK3c="), ..Fake::default() }.start().await;
    // Below a path, as behind a proxy, and with a percent-encoded password.
    let url = format!("http://user:p%40ss+w@{address}/base/");
    let client = |auto| Client::new(&config(&[&url], auto)).unwrap().unwrap();
    let wanted = Subject::EVENTS.text();
    let refused = client(false).id_of("events-value", &wanted).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "subject events-value does not contain flagstream's schema: register it with `flagstream schemas register`"
    );
    assert_eq!(client(true).id_of("events-value", &wanted).await, Ok(1));
    assert_eq!(client(true).id_of("events-value", &wanted).await, Ok(1));
    assert_eq!(client(false).id_of("events-value", &wanted).await, Ok(1));
    assert!(
        fake.calls.lock().unwrap().iter().all(|call| call.starts_with("POST /base/subjects/events-value"))
    );
    let refused = client(true).id_of("refused-value", &wanted).await.unwrap_err();
    assert!(
        matches!(&refused, RegistryError::Refused(why) if why.ends_with("409 Conflict: incompatible with an earlier schema"))
    );
    let stranger = Client::new(&config(&[&format!("http://user:guess@{address}")], true)).unwrap().unwrap();
    let error = stranger.id_of("events-value", &wanted).await.unwrap_err();
    assert!(
        error.to_string().contains("401 Unauthorized") && !error.to_string().contains("guess"),
        "{error}"
    );
}

#[tokio::test]
async fn another_address_answers_for_one_that_is_away() {
    let (fake, address) = Fake::default().start().await;
    fake.has(7, Kind::Request.text());
    // Accepts connections but never responds.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_address = silent.local_addr().unwrap();
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (broken, broken_address) = Fake::default().start().await;
    *broken.fails.lock().unwrap() = Some(StatusCode::BAD_GATEWAY);
    let addresses = [silent_address.to_string(), closed.to_string(), broken_address, address];
    let urls = addresses.map(|address| format!("http://{address}"));
    let client = Client::new(&config(&urls.each_ref().map(String::as_str), true)).unwrap().unwrap();
    for _ in 0..3 {
        assert_eq!(client.schema(7).await.unwrap().unwrap().schema, Kind::Request.text());
    }
    // The address that answered is asked first from then on.
    assert_eq!((broken.calls(), fake.calls()), (1, 3));
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn a_registry_behind_tls_is_asked_if_its_certificate_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let files = crate::http::tests::certificate(folder.path()).unwrap();
    let fake = Arc::new(Fake { authorization: Some("Basic dXNlcjpw"), ..Fake::default() });
    fake.has(7, Kind::Request.text());
    let mut server = crate::http::Server::bind("test", "127.0.0.1:0".parse().unwrap()).await.unwrap();
    server.encrypt(&files).unwrap();
    let port = server.address().unwrap().port();
    let router = Router::new().fallback(serve).with_state(Arc::clone(&fake));
    tokio::spawn(server.run(router, Shutdown::new()));
    let url = format!("https://user:p@localhost:{port}");
    let client = |ca_certificate| {
        let config = SchemaRegistryConfig { ca_certificate, ..config(&[&url], true) };
        Client::new(&config).unwrap().unwrap()
    };
    let stranger = client(None).schema(7).await.unwrap_err();
    assert!(stranger.to_string().contains("certificate verify failed"), "{stranger}");
    assert_eq!(fake.calls(), 0);
    let trusted = client(Some(files.certificate)).schema(7).await.unwrap();
    assert_eq!(trusted.unwrap().schema, Kind::Request.text());
    let config = SchemaRegistryConfig { ca_certificate: Some(files.key), ..config(&[&url], true) };
    assert!(Client::new(&config).is_err());
}

#[test]
fn subjects_are_named_by_their_strategy() {
    let named = |strategy, messages| {
        let registrations = registrations_of(strategy, "t", messages).into_iter();
        registrations.map(|registration| (registration.subject, registration.kinds)).collect::<Vec<_>>()
    };
    let one = |subject: &str, kind| (subject.to_owned(), vec![(kind, None)]);
    assert_eq!(named(SubjectStrategy::Topic, Subject::REPLIES), [one("t-value", Kind::Reply)]);
    let both = vec![(Kind::Evaluated, Some(0)), (Kind::Changed, Some(2))];
    assert_eq!(
        named(SubjectStrategy::Topic, Subject::EVENTS_WITHOUT_BULK),
        [("t-value".to_owned(), both.clone())]
    );
    let all = [both, vec![(Kind::EvaluatedTogether, Some(4))]].concat();
    assert_eq!(named(SubjectStrategy::Topic, Subject::EVENTS), [("t-value".to_owned(), all)]);
    assert_eq!(
        named(SubjectStrategy::Record, Subject::EVENTS_WITHOUT_BULK),
        [
            one("flagstream.FeatureFlagEvaluated", Kind::Evaluated),
            one("flagstream.FeatureFlagChanged", Kind::Changed)
        ]
    );
    assert_eq!(
        named(SubjectStrategy::TopicRecord, Subject::REPLIES),
        [one("t-flagstream.EvaluationReply", Kind::Reply)]
    );
}

#[tokio::test]
async fn an_id_that_fails_alone_or_is_too_large_is_unknown_and_others_go_on() {
    let (fake, address) = Fake::default().start().await;
    *fake.fails_for.lock().unwrap() = [(7, 0), (8, 5 << 20)].into();
    fake.has(9, Kind::Request.text());
    let registry = open(&[&format!("http://{address}")]);
    let mut reader = Reader::new(Some(Arc::clone(&registry)), Subject::REQUESTS, InputFormat::Auto);
    let deadline = Instant::now() + Duration::from_secs(60);
    for (id, expected) in [
        (8, "larger than 4194304 bytes"),
        (7, "the schema registry responds, but not to requests for schema 7"),
    ] {
        loop {
            let (back, outcome) = read(reader, request(id)).await;
            reader = back;
            match outcome.unwrap_err() {
                Undecodable::UnknownSchema(why) => {
                    assert!(why.contains(expected), "{why}");
                    break;
                }
                other => assert!(Instant::now() < deadline, "{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    assert_eq!(registry.is_away(), None);
    let (_, other) = read(reader, request(9)).await;
    assert!(other.is_ok(), "{other:?}");
    assert!(count(&registry, "failed") >= 2);
}

#[tokio::test]
async fn made_up_ids_hold_a_thread_for_a_bounded_time_and_end_as_unknown() {
    let (_fake, address) = Fake::default().start().await;
    let registry = open(&[&format!("http://{address}")]);
    let mut reader = Reader::new(Some(registry), Subject::REQUESTS, InputFormat::Auto);
    let (mut pending, mut unknown, deadline) = (0, 0, Instant::now() + Duration::from_secs(60));
    let mut id = 1_000_000;
    while unknown < 40 {
        assert!(Instant::now() < deadline, "{unknown} unknown, {pending} pending");
        for ahead in 0..16 {
            reader.prepare(&request(id + ahead));
        }
        let (back, outcome) = read(reader, request(id)).await;
        reader = back;
        match outcome.unwrap_err() {
            Undecodable::UnknownSchema(_) => {
                unknown += 1;
                id += 1;
            }
            Undecodable::Pending(_) => {
                pending += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => panic!("{other:?}"),
        }
    }
}
