//! Impressions that frontend SDKs report, without Kafka: what is counted, and what is refused.
#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::limits::scene_of;
use super::*;
use crate::flag::{CompiledFlag, FlagChange, Snapshot};
use crate::metrics::OutcomeLabels;

const ENVIRONMENT: &str = "development";
const EVENTS: &str = "/api/frontend/client/events";
const TOKEN: &str = "*:development.frontend";
const TOKENS: &str = "frontend=*:development.frontend,backend=*:development.backend";

struct Fixture {
    api: Arc<Api>,
    router: Router,
    publishing: crate::outbox::Publishing,
}

impl Fixture {
    fn new(recorded: &str) -> Self {
        let settings = [
            ("FLAGSTREAM_UNLEASH_API__ENABLED", "true"),
            ("FLAGSTREAM_UNLEASH_API__PRETRUSTED_TOKENS", TOKENS),
            ("FLAGSTREAM_UNLEASH_API__EVENTS", recorded),
            ("UNLEASH_ENVIRONMENT", ENVIRONMENT),
        ];
        let (api, router, publishing) = scene_of(&settings, true);
        let flag = |feature: Value| {
            let flag = CompiledFlag::compile(ENVIRONMENT, 5, &feature.to_string()).unwrap();
            FlagChange::Set(Arc::new(flag))
        };
        let variants = json!([{"name": "blue", "weight": 1000}]);
        api.store.replace(Snapshot::default().with([
            flag(json!({"name": "seen", "enabled": true, "impressionData": true, "variants": variants})),
            flag(json!({"name": "quiet", "enabled": true})),
        ]));
        Self { api, router, publishing }
    }

    async fn post(&self, path: &str, token: &str, body: String) -> (StatusCode, Value) {
        let request = Request::post(path).header("authorization", token).body(Body::from(body)).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), MAX_BODY_BYTES).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn report(&self, events: Value) {
        let (status, body) = self.post(EVENTS, TOKEN, events.to_string()).await;
        assert_eq!((status, body), (StatusCode::ACCEPTED, Value::Null));
    }

    /// Numbers of evaluations, and of those that did not become events, by reason.
    fn counts(&self) -> (u64, [u64; 4]) {
        self.api.flush_counts();
        let text = self.api.metrics.encode().unwrap();
        let evaluations = text.lines().filter(|line| line.starts_with("flagstream_evaluations_total{"));
        let evaluations =
            evaluations.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
        let unrecorded = ["no_impression_data", "repeated", "events_off", "unknown_flag"].map(|outcome| {
            self.api.metrics.unleash_api.unrecorded.get_or_create(&OutcomeLabels { outcome }).get()
        });
        (evaluations, unrecorded)
    }
}

fn shown(flag: &str, variant: Option<&str>) -> Value {
    let kind = if variant.is_some() { "getVariant" } else { "isEnabled" };
    json!({"eventType": kind, "eventId": "e-1", "featureName": flag, "enabled": true, "variant": variant,
        "context": {"userId": "u"}})
}

#[tokio::test]
async fn an_impression_is_recorded_once_whether_it_is_evaluated_or_reported() {
    let fixture = Fixture::new("impressions");
    // One evaluation of each flag: one impression, and one flag without impression data.
    let (status, _) = fixture.post("/api/frontend", TOKEN, json!({"userId": "u"}).to_string()).await;
    assert_eq!((status, fixture.counts()), (StatusCode::OK, (2, [1, 0, 0, 0])));
    fixture.report(json!([shown("seen", None), shown("seen", Some("blue"))])).await;
    assert_eq!(fixture.counts(), (4, [1, 2, 0, 0]));
    // An application that reports a flag without impression data wants to record it.
    fixture.report(shown("quiet", None)).await;
    assert_eq!(fixture.counts(), (5, [1, 2, 0, 0]));
    fixture.report(shown("quiet", None)).await;
    assert_eq!(fixture.counts(), (6, [1, 3, 0, 0]));
    // Another result than that of the flags in force, once.
    fixture.report(json!([shown("seen", Some("green")), shown("seen", Some("green"))])).await;
    assert_eq!(fixture.counts(), (8, [1, 4, 0, 0]));
    fixture.report(shown("unknown", None)).await;
    assert_eq!(fixture.counts(), (9, [1, 4, 0, 1]));
    // The other order: reported first, then evaluated.
    fixture
        .report(json!({"eventType": "isEnabled", "featureName": "seen", "enabled": true,
        "context": {"userId": "v"}}))
        .await;
    fixture.post("/api/frontend", TOKEN, json!({"userId": "v"}).to_string()).await;
    assert_eq!(fixture.counts(), (12, [2, 5, 0, 1]));
    assert!(fixture.publishing.join());
}

#[tokio::test]
async fn with_all_events_a_report_adds_only_what_no_evaluation_gave() {
    let fixture = Fixture::new("all");
    fixture.report(json!([shown("seen", None), shown("seen", Some("green"))])).await;
    assert_eq!(fixture.counts(), (2, [0, 1, 0, 0]));
    assert!(fixture.publishing.join());
    let fixture = Fixture::new("none");
    fixture.report(shown("seen", None)).await;
    assert_eq!(fixture.counts(), (1, [0, 0, 1, 0]));
    assert!(fixture.publishing.join());
}

#[tokio::test]
async fn a_wrong_report_is_refused_with_the_name_of_the_field_and_records_nothing() {
    let fixture = Fixture::new("impressions");
    let wrong = |name: &str, value: Value| {
        let mut event = shown("seen", None);
        event[name] = value;
        json!([shown("seen", None), event])
    };
    for (body, status, field) in [
        (wrong("featureName", json!("")), 400, "[1].featureName"),
        (wrong("enabled", json!("yes")), 400, "[1].enabled"),
        (wrong("eventType", json!("click")), 400, "[1].eventType"),
        (wrong("context", json!([])), 400, "[1].context"),
        (wrong("context", json!({"userId": "u".repeat(5_000)})), 400, "[1].context"),
        (json!("text"), 400, "body"),
        (json!(vec![shown("seen", None); 1_001]), 413, "body"),
    ] {
        let (answered, problem) = fixture.post(EVENTS, TOKEN, body.to_string()).await;
        assert_eq!((answered.as_u16(), &problem["errors"][0]["field"]), (status, &json!(field)), "{problem}");
    }
    assert_eq!(fixture.counts(), (0, [0; 4]));
    let one = shown("seen", None).to_string();
    assert_eq!(fixture.post(EVENTS, "*:development.backend", one.clone()).await.0, StatusCode::FORBIDDEN);
    for path in ["/api/proxy", "/api/proxy/all", "/api/frontend/all"] {
        let path = format!("{path}/client/events");
        assert_eq!(fixture.post(&path, TOKEN, one.clone()).await.0, StatusCode::ACCEPTED, "{path}");
    }
    assert!(fixture.publishing.join());
}
