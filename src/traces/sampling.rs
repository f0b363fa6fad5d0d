//! Sampling: the traces that are recorded, by the standard's variables. The decision comes before anything of a span is made,
//! because most requests are not sampled.

use std::cell::Cell;

use opentelemetry::trace::{SpanKind, TraceContextExt as _};
use opentelemetry::{Context, SpanId, TraceId};
use opentelemetry_sdk::trace::{
    IdGenerator, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample as _,
};

const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";

thread_local! {
    /// The id that was decided on for a new trace of this thread.
    static DECIDED: Cell<Option<TraceId>> = const { Cell::new(None) };
}

/// The ids of spans, and of traces as [`is_sampled`] has decided on them.
#[derive(Debug, Default)]
pub(super) struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        DECIDED.take().unwrap_or_else(|| self.0.new_trace_id())
    }

    fn new_span_id(&self) -> SpanId {
        self.0.new_span_id()
    }
}

/// The sampler that the variables name; `parentbased_always_on` without them, as the standard says.
pub(super) fn sampler(variable: impl Fn(&str) -> Option<String>) -> Sampler {
    let variable =
        |name| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let name = variable(SAMPLER).unwrap_or_else(|| "parentbased_always_on".to_owned());
    let (is_parent_based, root) = match name.strip_prefix("parentbased_") {
        Some(root) => (true, root),
        None => (false, name.as_str()),
    };
    let root = match root {
        "always_on" => Sampler::AlwaysOn,
        "always_off" => Sampler::AlwaysOff,
        "traceidratio" => Sampler::TraceIdRatioBased(ratio(variable(ARGUMENT))),
        _ => {
            // Not limited: once at the start of a process.
            tracing::warn!(
                "{SAMPLER}: expected always_on, always_off, traceidratio, or one of them after parentbased_, found \
                 {name:?}; parentbased_always_on is used"
            );
            return Sampler::ParentBased(Box::new(Sampler::AlwaysOn));
        }
    };
    if is_parent_based { Sampler::ParentBased(Box::new(root)) } else { root }
}

fn ratio(argument: Option<String>) -> f64 {
    let Some(argument) = argument else { return 1.0 };
    let ratio = argument.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.unwrap_or_else(|| {
        // Not limited: once at the start of a process.
        tracing::warn!("{ARGUMENT}: expected a number from 0 to 1, found {argument:?}; 1 is used");
        1.0
    })
}

/// Whether a span beneath this context is recorded. If so, the next span of this thread must be the one that was asked
/// for.
pub(super) fn is_sampled(sampler: &Sampler, beneath: &Context) -> bool {
    let span = beneath.span();
    let parent = span.span_context();
    let begins_trace = !parent.is_valid();
    let trace = if begins_trace { RandomIdGenerator::default().new_trace_id() } else { parent.trace_id() };
    let sampled = sampler.should_sample(Some(beneath), trace, "", &SpanKind::Internal, &[], &[]);
    let is_sampled = sampled.decision == SamplingDecision::RecordAndSample;
    if is_sampled && begins_trace {
        DECIDED.set(Some(trace));
    }
    is_sampled
}
