//! Tests of what is read from the environment and from callers, and of the log event.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use opentelemetry::logs::AnyValue;
use opentelemetry::trace::{SpanKind, TraceContextExt};
use opentelemetry_sdk::trace::{IdGenerator, SamplingDecision, ShouldSample};

use super::audit::first_of_each;
use super::evaluation::attributes;
use super::sampling::{Ids, SamplingRule};
use super::subjects::WrittenRecord;
use super::{beneath, is_configured, remote, traceparent};
use crate::flag::value::{Lookup, answer};
use crate::flag::{EvaluationContext, ValueType};
use crate::message::trace::Traceparent;
use crate::privacy::Shown;

const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[test]
fn it_is_on_where_an_endpoint_is_named_and_it_is_not_disabled() {
    let on = |variables: &[(&str, &str)]| {
        let variables: BTreeMap<_, _> = variables.iter().copied().collect();
        is_configured(|name| variables.get(name).map(|value| (*value).to_owned()))
    };
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
    assert!(on(&[endpoint]));
    assert!(on(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4318/v1/traces")]));
    assert!(!on(&[]) && !on(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]));
    assert!(!on(&[endpoint, ("OTEL_SDK_DISABLED", "true")]));
}

#[test]
fn the_callers_span_is_the_parent() {
    let given = |text: &str| remote(&Traceparent::parse(text.as_bytes()).unwrap()).unwrap();
    let sampled = given(GIVEN);
    assert!(sampled.is_sampled() && sampled.is_remote());
    assert_eq!(traceparent(&sampled), GIVEN);
    assert_eq!(beneath(Some(&sampled)).span().span_context(), &sampled);
    assert!(!given(&GIVEN.replace("-01", "-00")).is_sampled());
    // Flags of later versions are not passed on.
    assert_eq!(traceparent(&given(&GIVEN.replace("-01", "-fb"))), GIVEN);
}

#[test]
fn the_log_event_has_the_conventions_attributes() {
    let subject = EvaluationContext { user_id: Some("ann".into()), ..EvaluationContext::default() };
    let shown = Shown::of(&subject, "{}");
    let missing = answer("f", Lookup::NotFound, ValueType::Boolean, None);
    let found: BTreeMap<_, _> = attributes(&missing, "f", "production", &shown).into_iter().collect();
    let text = |name: &str| match found.get(name) {
        Some(AnyValue::String(text)) => Some(text.as_str().to_owned()),
        _ => None,
    };
    assert_eq!(text("feature_flag.key").as_deref(), Some("f"));
    assert_eq!(text("feature_flag.set.id").as_deref(), Some("production"));
    assert_eq!(text("feature_flag.context.id").as_deref(), Some("ann"));
    assert_eq!(text("feature_flag.result.reason").as_deref(), Some("default"));
    assert_eq!(text("error.type").as_deref(), Some("flag_not_found"));
    assert_eq!(text("feature_flag.result.variant"), None);
}

#[test]
fn a_batch_has_one_span_in_each_sampled_trace_and_a_limited_number() {
    let record = |offset: usize, traceparent| WrittenRecord {
        partition: 0,
        offset: i64::try_from(offset).unwrap(),
        traceparent,
    };
    let unsampled = GIVEN.replace("-01", "-00");
    let other = GIVEN.replace("3331-", "3332-");
    let headers = [GIVEN, GIVEN, &unsampled, &other, "", GIVEN];
    let records = headers.iter().enumerate().map(|(offset, header)| record(offset, header.as_bytes()));
    assert_eq!(first_of_each(records).map(|(record, _)| record.offset).collect::<Vec<_>>(), [0, 3]);
    let many: Vec<_> = (0..1_000).map(|span| GIVEN.replace("3331-", &format!("{span:04x}-"))).collect();
    let records = many.iter().enumerate().map(|(offset, header)| record(offset, header.as_bytes()));
    assert_eq!(first_of_each(records).count(), 128);
}

fn rule(values: &[(&str, &str)]) -> SamplingRule {
    SamplingRule::read(|wanted| {
        let (_, value) = values.iter().find(|(name, _)| *name == wanted)?;
        Some((*value).to_owned())
    })
}

#[test]
fn the_sampler_is_that_of_the_variables() {
    let of = |name: &str, argument: &str| {
        let values = [("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", argument)];
        format!("{:?}", rule(&values).sampler())
    };
    assert_eq!(of("", ""), "ParentBased(AlwaysOn)");
    assert_eq!(of("always_off", ""), "AlwaysOff");
    assert_eq!(of("traceidratio", "0.25"), "TraceIdRatioBased(0.25)");
    assert_eq!(of("parentbased_traceidratio", " 0.01 "), "ParentBased(TraceIdRatioBased(0.01))");
    for argument in ["", "2", "-0.5", "half", "NaN"] {
        assert_eq!(
            of("parentbased_traceidratio", argument),
            "ParentBased(TraceIdRatioBased(1.0))",
            "{argument}"
        );
    }
    assert_eq!(of("xray", ""), "ParentBased(AlwaysOn)");
}

#[test]
fn a_new_trace_has_the_id_that_the_decision_was_made_for() {
    let tenth =
        rule(&[("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.1")]);
    let (sampler, ids) = (tenth.sampler(), Ids::default());
    let mut sampled = 0;
    for _ in 0..10_000 {
        if tenth.samples(None) {
            sampled += 1;
            let id = ids.new_trace_id();
            let again = sampler.should_sample(None, id, "", &SpanKind::Internal, &[], &[]);
            assert_eq!(again.decision, SamplingDecision::RecordAndSample);
        }
    }
    assert!((800..1_200).contains(&sampled), "{sampled} of 10,000");
}

#[test]
fn beneath_a_callers_span_the_decision_is_that_of_the_sdk() {
    let names = ["always_on", "always_off", "traceidratio"];
    let names = names.iter().flat_map(|name| [(*name).to_owned(), format!("parentbased_{name}")]);
    for name in names {
        let rule = rule(&[("OTEL_TRACES_SAMPLER", &name), ("OTEL_TRACES_SAMPLER_ARG", "0.5")]);
        let mut decisions = BTreeSet::new();
        for trace in 1..100_u64 {
            // A multiplicative hash, so that the ratio divides the ids.
            let trace = format!("{:032x}", u128::from(trace.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
            let given = format!("00-{trace}-b7ad6b7169203331-0{}", trace.len() % 2);
            for given in [given.clone(), given.replace("-00", "-01")] {
                let parent = remote(&Traceparent::parse(given.as_bytes()).unwrap()).unwrap();
                let context = beneath(Some(&parent));
                let sdk = rule.sampler().should_sample(
                    Some(&context),
                    parent.trace_id(),
                    "",
                    &SpanKind::Internal,
                    &[],
                    &[],
                );
                assert_eq!(
                    rule.samples(Some(&parent)),
                    sdk.decision == SamplingDecision::RecordAndSample,
                    "{name} {given}"
                );
                decisions.insert(rule.samples(Some(&parent)));
            }
        }
        assert_eq!(decisions.len(), if name.starts_with("always") { 1 } else { 2 }, "{name}");
    }
}
