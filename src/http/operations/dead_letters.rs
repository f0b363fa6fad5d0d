//! `/api/v1/dead-letters`: looks at rejected records and sends them again.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use chrono::Utc;
use serde_json::{Value, json};

use super::doc::{DeadLetterBody, DeadLetterList, DeadLetterQuery, ReplayDeadLetters, ReplayedDeadLetters};
use super::{must_see_everything, required_reason, time};
use crate::config::{Config, Scope};
use crate::database::audited::{Actor, Kind};
use crate::dead_letters::body::{Readers, Writers};
use crate::dead_letters::{self, Allowed, Fate, FindError, Finder, LatestFilter, Replayer};
use crate::http::Problem;
use crate::http::api::Api;
use crate::http::caller::{Authorized, scope};
use crate::http::input::Undecodable;
use crate::http::manage::doc::{ManageProblems, ReasonHeader};
use crate::http::manage::params::{self, Params};
use crate::http::manage::{answer, reason};
use crate::http::openapi::schema::ProblemDetails;
use crate::http::places::Pool;
use crate::kafka::dead_letter::DeadLetterRecord;
use crate::log_limit::limited;
use crate::schema_registry::Undecodable as Unreadable;

const LISTED_DEFAULT: u32 = 100;
/// Maximum dead letters in one answer.
const LISTED_MAX: u32 = 500;
/// Maximum dead letters that one request sends again.
const REPLAYED_MAX: usize = 100;
const WHAT: &str = "dead letters";

/// Lists the latest dead letters, newest first.
///
/// Looks at the last 2,000 of each partition. Keys, headers and bodies are shown with the scope `audit`, bodies in Avro
/// as JSON; bodies over 32 KiB are left out.
#[utoipa::path(
    get,
    path = "/api/v1/dead-letters",
    operation_id = "listDeadLetters",
    tag = "operations",
    params(DeadLetterQuery),
    responses((status = 200, description = "The latest dead letters", body = DeadLetterList), ManageProblems)
)]
pub(in crate::http) async fn list(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Read>,
    ask: Params,
) -> Result<Response, Problem> {
    must_see_everything(&caller, WHAT)?;
    let filter = LatestFilter {
        code: ask.parameter("code").map(Cow::into_owned),
        source: ask.parameter("source").map(Cow::into_owned),
        from: time(&ask, "from")?,
        to: time(&ask, "to")?,
        limit: ask.limit(LISTED_DEFAULT, LISTED_MAX)? as usize,
    };
    let _place = api.places.take(Pool::Scan)?;
    let (config, with_bodies) = (Arc::clone(&api.config), caller.may_audit());
    let found = tokio::task::spawn_blocking(move || {
        let latest = dead_letters::latest(&config, &filter).map_err(unreadable)?;
        let mut readers = Readers::open(&config).map_err(failed)?;
        let shown = latest.dead_letters.into_iter();
        let shown: Vec<Value> =
            shown.map(|(it, bytes)| document(it, bytes, with_bodies, &mut readers)).collect();
        Ok::<_, Problem>(json!({"dead_letters": shown, "truncated": latest.truncated}))
    });
    answer(StatusCode::OK, &found.await.map_err(failed)??)
}

/// Shows one dead letter completely. Needs the scope `audit` too.
#[utoipa::path(
    get,
    path = "/api/v1/dead-letters/{position}",
    operation_id = "getDeadLetter",
    tag = "operations",
    params(("position" = String, Path, description = "Partition and offset, separated by a hyphen", pattern = "^[0-9]+-[0-9]+$")),
    responses((status = 200, description = "The dead letter", body = DeadLetterBody), ManageProblems)
)]
pub(in crate::http) async fn one(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Read>,
    Path(position): Path<String>,
    _ask: Params,
) -> Result<Response, Problem> {
    caller.may(Scope::Audit)?;
    must_see_everything(&caller, WHAT)?;
    let numbers = position.split_once('-');
    let place = numbers.and_then(|(partition, offset)| {
        Some((partition.parse::<i32>().ok()?, offset.parse::<i64>().ok().filter(|offset| *offset >= 0)?))
    });
    let unknown = || Problem::new(StatusCode::NOT_FOUND, "there is no dead letter at this position");
    let (partition, offset) = place.ok_or_else(unknown)?;
    let _place = api.places.take(Pool::Scan)?;
    let config = Arc::clone(&api.config);
    let found = tokio::task::spawn_blocking(move || {
        let Some(found) = Finder::open(&config)
            .and_then(|mut finder| finder.find(partition, offset))
            .map_err(unreadable)?
        else {
            return Ok(None);
        };
        let bytes = found.body.as_ref().map_or(0, Vec::len);
        let mut readers = Readers::open(&config).map_err(failed)?;
        Ok::<_, Problem>(Some(document(found, bytes, true, &mut readers)))
    });
    answer(StatusCode::OK, &found.await.map_err(failed)??.ok_or_else(unknown)?)
}

/// Sends dead letters to their original topics again, with their own bodies or with edited ones.
///
/// `dry_run` reports what would be sent. Sending needs a reason in the header `X-Change-Reason`.
#[utoipa::path(
    post,
    path = "/api/v1/dead-letters/replay",
    operation_id = "replayDeadLetters",
    tag = "operations",
    params(ReasonHeader),
    request_body = ReplayDeadLetters,
    responses(
        (status = 200, description = "The outcome for each dead letter, in the order of the request", body = ReplayedDeadLetters),
        (status = 413, description = "Too large", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 415, description = "Not application/json", body = ProblemDetails, content_type = "application/problem+json"),
        ManageProblems
    )
)]
pub(in crate::http) async fn replay(
    State(api): State<Arc<Api>>,
    caller: Authorized<scope::Write>,
    unread: Undecodable,
) -> Result<Response, Problem> {
    let input = unread.read_in(&api, &caller, Pool::Management).await?;
    must_see_everything(&caller, WHAT)?;
    let order = Order::read(&input.body)?;
    let reason = reason(&input)?;
    let reason = if order.dry_run { reason.unwrap_or_default() } else { required_reason(reason)? };
    let _place = api.places.take(Pool::Scan)?;
    // In a task of its own, so that a caller who leaves does not stop it halfway.
    let (task_api, actor) = (Arc::clone(&api), caller.name());
    let sending = tokio::spawn(async move { send_all(&task_api, order, &actor, &reason).await });
    let outcomes = sending.await.map_err(failed)??;
    answer(StatusCode::OK, &json!({"outcomes": outcomes}))
}

/// Dead letters to send.
#[derive(Debug)]
struct Order {
    /// Partition, offset and edited body of each.
    items: Vec<(i32, i64, Option<String>)>,
    allowed: Allowed,
    dry_run: bool,
}

impl Order {
    fn read(body: &[u8]) -> Result<Self, Problem> {
        let members = params::members(body)?;
        let wrong = |field: &str, message: &str| Problem::of_field(StatusCode::BAD_REQUEST, field, message);
        params::refuse_unknown(&members, &["items", "whole", "into_source", "dry_run"])?;
        let Some(Value::Array(items)) = members.get("items") else {
            return Err(wrong("items", "expected a list"));
        };
        if !(1..=REPLAYED_MAX).contains(&items.len()) {
            let message = format!("expected 1 to {REPLAYED_MAX} dead letters, got {}", items.len());
            return Err(Problem::of_field(StatusCode::UNPROCESSABLE_ENTITY, "items", message));
        }
        let mut positions = BTreeSet::new();
        let read = |(index, item): (usize, &Value)| {
            let field = |name: &str| format!("items[{index}].{name}");
            let number = |name: &str| item.get(name).and_then(Value::as_i64).filter(|number| *number >= 0);
            let partition = number("partition").and_then(|partition| i32::try_from(partition).ok());
            let partition =
                partition.ok_or_else(|| wrong(&field("partition"), "expected a whole number from 0"))?;
            let offset = number("offset");
            let offset = offset.ok_or_else(|| wrong(&field("offset"), "expected a whole number from 0"))?;
            let body = match item.get("body") {
                None | Some(Value::Null) => None,
                Some(Value::String(body)) => Some(body.clone()),
                Some(_) => return Err(wrong(&field("body"), "expected a string")),
            };
            if !positions.insert((partition, offset)) {
                let message = "is given twice";
                return Err(Problem::of_field(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    &format!("items[{index}]"),
                    message,
                ));
            }
            Ok((partition, offset, body))
        };
        Ok(Self {
            items: items.iter().enumerate().map(read).collect::<Result<_, _>>()?,
            allowed: Allowed {
                whole: params::member_switch(&members, "whole")?,
                into_source: params::member_switch(&members, "into_source")?,
            },
            dry_run: params::member_switch(&members, "dry_run")?,
        })
    }
}

async fn send_all(api: &Api, order: Order, actor: &str, reason: &str) -> Result<Vec<Value>, Problem> {
    let config = &api.config;
    let is_edited = order.items.iter().any(|(.., body)| body.is_some());
    let writers = if is_edited { Writers::open(config).await.map_err(failed)? } else { Writers::default() };
    let replayer = Replayer::new(config, writers).map_err(failed)?;
    let mut outcomes = Vec::new();
    let mut reader = DeadLetterReader::open(config).await?;
    for (partition, offset, edited) in order.items {
        let found;
        (reader, found) = reader.read(partition, offset).await?;
        let fate = match found {
            None => Fate::Kept {
                reason: "unknown",
                message: "there is no dead letter at this position".to_owned(),
            },
            Some((dead_letter, json)) => {
                let edited = edited.map(String::into_bytes);
                match replayer.check(&dead_letter, order.allowed, edited.is_some()) {
                    Some(kept) => kept,
                    None => {
                        let sent = replayer.take(&dead_letter, json, edited.clone(), order.dry_run).await;
                        let fate = sent.map_err(unsent)?;
                        note(
                            api,
                            &dead_letter,
                            &fate,
                            edited.is_some(),
                            Actor { actor, reason: Some(reason) },
                        )
                        .await;
                        fate
                    }
                }
            }
        };
        outcomes.push(outcome(partition, offset, &fate));
    }
    Ok(outcomes)
}

type Found = Option<(DeadLetterRecord, Result<Vec<u8>, Unreadable>)>;

/// Reads dead letters, with their bodies as JSON.
struct DeadLetterReader {
    finder: Finder,
    readers: Readers,
}

impl DeadLetterReader {
    async fn open(config: &Arc<Config>) -> Result<Self, Problem> {
        let config = Arc::clone(config);
        let opening = tokio::task::spawn_blocking(move || {
            let finder = Finder::open(&config).map_err(unreadable)?;
            Ok(Self { finder, readers: Readers::open(&config).map_err(failed)? })
        });
        opening.await.map_err(failed)?
    }

    /// Reads on a thread of its own, because reading blocks.
    async fn read(mut self, partition: i32, offset: i64) -> Result<(Self, Found), Problem> {
        let reading = tokio::task::spawn_blocking(move || {
            let found = self.finder.find(partition, offset).map_err(unreadable)?;
            let found = found.map(|found| {
                let json = self.readers.json(&found);
                (found, json)
            });
            Ok((self, found))
        });
        reading.await.map_err(failed)?
    }
}

/// Adds an entry to the change log. A failure is logged only, because the record is in Kafka already.
async fn note(api: &Api, dead_letter: &DeadLetterRecord, fate: &Fate, is_edited: bool, author: Actor<'_>) {
    let Fate::Sent { partition, offset } = fate else { return };
    let subject = format!("{}-{}", dead_letter.partition, dead_letter.offset);
    let sent = json!({
        "topic": dead_letter.source_topic, "partition": partition, "offset": offset, "edited": is_edited,
        "code": dead_letter.code,
    });
    tracing::info!(subject, actor = author.actor, edited = is_edited, "a dead letter was sent again");
    let noted =
        api.manager.note(Kind::DeadLetter, &subject, "replayed", author, Some(sent), Utc::now()).await;
    if let Err(error) = noted {
        limited!(warn, %error, subject, "the change log lacks the entry of a dead letter that was sent again");
    }
}

fn outcome(partition: i32, offset: i64, fate: &Fate) -> Value {
    let (state, sent, reason, message) = match fate {
        Fate::Sent { partition, offset } => {
            ("sent", json!({"partition": partition, "offset": offset}), None, None)
        }
        Fate::Ready => ("ready", Value::Null, None, None),
        Fate::Kept { reason, message } => ("kept", Value::Null, Some(*reason), Some(message.as_str())),
    };
    json!({"partition": partition, "offset": offset, "state": state, "sent": sent, "reason": reason,
        "message": message})
}

/// A dead letter for an answer. Without `with_bodies` everything that comes from the original record is null.
fn document(mut found: DeadLetterRecord, bytes: usize, with_bodies: bool, readers: &mut Readers) -> Value {
    if let Some(body) = found.body.take() {
        let json = readers.json(&DeadLetterRecord { body: Some(body.clone()), ..found.clone() });
        found.body = Some(json.unwrap_or(body));
    }
    let mut document = dead_letters::json(&found);
    if let Some(members) = document.as_object_mut() {
        members.insert("body_bytes".to_owned(), bytes.into());
        if !with_bodies {
            for name in ["key", "headers", "body"] {
                members.insert(name.to_owned(), Value::Null);
            }
            members.remove("key_hex");
            members.remove("body_hex");
        }
    }
    document
}

fn unreadable(error: FindError) -> Problem {
    limited!(warn, %error, "dead letters cannot be read");
    let detail = format!("the dead letters cannot be read: {error}");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(5)
}

fn unsent(error: dead_letters::ReplayError) -> Problem {
    limited!(warn, %error, "a dead letter could not be sent again");
    let detail = "Kafka did not confirm a record, which may have been written; those before it were sent";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(5)
}

fn failed(error: impl std::fmt::Display) -> Problem {
    limited!(warn, %error, "a request about dead letters failed");
    let detail = format!("the request could not be completed: {error}");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(5)
}
