//! Tracking events of OpenFeature (experimental: OFREP 0.3 defines no route for them).
//!
//! ```text
//! event ─► metric of that name ─► running experiments of the environment that have it ─► one conversion for each
//! ```

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{SecondsFormat, Utc};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::experiment::conversion::check_metric;
use crate::http::Problem;
use crate::http::api::Api;
use crate::http::caller::{Authorized, scope};
use crate::http::evaluate::environment_of;
use crate::http::input::Undecodable;
use crate::http::manage::experiment::{experiments, refused, report};
use crate::http::manage::refusal::{invalid_fields, problem};
use crate::http::openapi::calls::{OfrepProblems, TrackHeaders};
use crate::http::openapi::ofrep_bodies::{OfrepFailure, OfrepTrackRequest, OfrepTracked};
use crate::http::places::Pool;
use crate::manage::ManageError;
use crate::message::conversion::{Conversion, MAX_CONVERSION_BYTES};

use super::body::Failure;

/// Members of `trackingEventDetails`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Details {
    value: Value,
    experiment: Option<String>,
    event_id: Value,
    occurred_at: Value,
    /// The members that are not above: the metadata of the conversion.
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    tracking_event_name: String,
    #[serde(default)]
    context: Option<Map<String, Value>>,
    #[serde(default)]
    tracking_event_details: Option<Details>,
}

/// Reports what a user did (experimental). The event counts as a conversion in each running experiment of the
/// environment that has a metric of this name, or only in `trackingEventDetails.experiment`.
///
/// A request that failed can be repeated without counting anything twice if its details have an `eventId`.
#[utoipa::path(
    post,
    path = "/ofrep/v1/track",
    operation_id = "ofrepTrack",
    tag = "openfeature",
    params(("environment" = Option<String>, Query, description = "The environment"), TrackHeaders),
    request_body = OfrepTrackRequest,
    responses(
        (status = 202, description = "The conversions are in Kafka; none, if no experiment has the metric", body = OfrepTracked),
        (status = 404, description = "There is no experiment of the given name, or this service has no experiments", body = OfrepFailure),
        OfrepProblems
    )
)]
pub(in crate::http) async fn track(
    State(api): State<Arc<Api>>,
    caller: Result<Authorized<scope::Track>, Problem>,
    unread: Undecodable,
) -> Response {
    answer(&api, caller, unread).await.unwrap_or_else(|failure| failure.into_response(None))
}

async fn answer(
    api: &Api,
    caller: Result<Authorized<scope::Track>, Problem>,
    unread: Undecodable,
) -> Result<Response, Failure> {
    let caller = caller?;
    let input = unread.read_in(api, &caller, Pool::Evaluation).await?;
    let environment = environment_of(api, &input, None);
    caller.check_environment(&environment)?;
    let broken = |message: String| Failure::new(StatusCode::BAD_REQUEST, "PARSE_ERROR", message);
    let event: Event = serde_json::from_slice(&input.body)
        .map_err(|error| broken(format!("not a tracking event: {error}")))?;
    let (text, details) = conversion_of(event).map_err(broken)?;
    let experiments = experiments(api)?;
    let designs = match &details.experiment {
        Some(name) => vec![experiments.design(&environment, name).await.map_err(refused)?],
        None => experiments.counting(&environment, &text.metric, Utc::now()).await.map_err(refused)?,
    };
    let accepted = api.config.accepted_conversions(Utc::now());
    let (mut conversions, encoded) = (Vec::new(), text.encode()?);
    for design in &designs {
        match api.manager.check_reach(caller.restrictions(), &environment, &design.flag_name).await {
            Ok(()) => {}
            // The token is not for this flag. Naming its experiment is an error, not naming it leaves it out.
            Err(ManageError::Outside(_)) if details.experiment.is_none() => continue,
            Err(error) => return Err(problem(error).into()),
        }
        let conversion = Conversion::read(&encoded, Some(&design.name), &accepted)
            .map_err(|wrong| invalid_fields(&wrong))?;
        check_metric(design, &conversion.metric, conversion.value)
            .map_err(|wrong| invalid_fields(&[wrong]))?;
        conversions.push(conversion);
    }
    report(api, experiments, &environment, &mut conversions).await?;
    let names: Vec<_> = conversions.iter().map(|conversion| &conversion.experiment).collect();
    let body = json!({"accepted": names.len(), "experiments": names, "eventId": text.event_id});
    let mut response =
        crate::http::input::json_answer(body.to_string().into_bytes(), api.store.load().version());
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}

/// Members of a conversion, before they are validated.
struct Text {
    user_id: Value,
    metric: String,
    value: Value,
    occurred_at: Value,
    event_id: Value,
    metadata: Map<String, Value>,
}

impl Text {
    fn encode(&self) -> Result<String, Failure> {
        let members = json!({"user_id": self.user_id, "metric": self.metric, "value": self.value,
            "occurred_at": self.occurred_at, "event_id": self.event_id, "metadata": self.metadata});
        let text = members.to_string();
        if text.len() <= MAX_CONVERSION_BYTES {
            return Ok(text);
        }
        let message =
            format!("expected an event of at most {MAX_CONVERSION_BYTES} bytes, got {}", text.len());
        Err(Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "PARSE_ERROR", message))
    }
}

/// The conversion that an event is, except for its experiment. All conversions of an event have one event id, so that a
/// repeated event counts once in each experiment.
fn conversion_of(event: Event) -> Result<(Text, Details), String> {
    let mut details = event.tracking_event_details.unwrap_or_default();
    let user = event.context.and_then(|mut context| context.remove("targetingKey"));
    let user_id = match user {
        Some(text @ Value::String(_)) => text,
        Some(other @ (Value::Number(_) | Value::Bool(_))) => Value::String(other.to_string()),
        _ => {
            return Err(
                "context.targetingKey: expected the user as a string, a number or a boolean".to_owned()
            );
        }
    };
    let event_id = match details.event_id.take() {
        Value::Null => Value::String(Uuid::now_v7().to_string()),
        given => given,
    };
    let occurred_at = match details.occurred_at.take() {
        Value::Null => Value::String(Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true)),
        given => given,
    };
    let value = details.value.take();
    let metadata = std::mem::take(&mut details.others);
    Ok((Text { user_id, metric: event.tracking_event_name, value, occurred_at, event_id, metadata }, details))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(event: Value) -> Result<(Text, Details), String> {
        conversion_of(serde_json::from_value(event).unwrap())
    }

    #[test]
    fn the_targeting_key_is_the_user_and_the_name_the_metric() {
        let (text, details) = read(json!({"trackingEventName": "purchase", "context": {"targetingKey": 7, "plan": "gold"},
            "trackingEventDetails": {"value": 12.5, "experiment": "e", "eventId": "order-77", "colour": "red"}}))
        .unwrap();
        assert_eq!((text.user_id, text.metric.as_str(), text.value), (json!("7"), "purchase", json!(12.5)));
        assert_eq!(Value::Object(text.metadata), json!({"colour": "red"}));
        assert_eq!((text.event_id, details.experiment.as_deref()), (json!("order-77"), Some("e")));
    }

    #[test]
    fn an_event_without_a_user_is_refused() {
        for context in [json!({}), json!({"targetingKey": null}), json!({"targetingKey": ["u"]})] {
            assert!(read(json!({"trackingEventName": "purchase", "context": context})).is_err());
        }
        assert!(read(json!({"trackingEventName": "purchase"})).is_err());
    }
}
