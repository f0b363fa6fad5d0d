//! Sampling: the traces that are recorded, by the standard's variables. The decision comes before anything of a span is made,
//! because most requests are not sampled.

use std::cell::Cell;

use opentelemetry::trace::{SpanContext, SpanKind};
use opentelemetry::{SpanId, TraceId};
use opentelemetry_sdk::trace::{
    IdGenerator, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample as _,
};

const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";

thread_local! {
    /// The id that was decided on for a new trace of this thread.
    static DECIDED: Cell<Option<TraceId>> = const { Cell::new(None) };
}

/// The ids of spans, and of traces as [`SamplingRule::samples`] has decided on them.
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

/// Decides which traces are recorded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct SamplingRule {
    /// Whether the decision on the parent span counts, where there is one.
    is_parent_based: bool,
    root: Root,
}

/// Decision on spans without a parent.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Root {
    On,
    Off,
    /// Share of the trace ids.
    Ratio(f64),
}

impl Root {
    fn sampler(self) -> Sampler {
        match self {
            Self::On => Sampler::AlwaysOn,
            Self::Off => Sampler::AlwaysOff,
            Self::Ratio(ratio) => Sampler::TraceIdRatioBased(ratio),
        }
    }
}

impl SamplingRule {
    /// The rule that the variables name; `parentbased_always_on` without them, as the standard says.
    pub(super) fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable =
            |name| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let name = variable(SAMPLER).unwrap_or_else(|| "parentbased_always_on".to_owned());
        let (is_parent_based, root) = match name.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, name.as_str()),
        };
        let root = match root {
            "always_on" => Root::On,
            "always_off" => Root::Off,
            "traceidratio" => Root::Ratio(ratio(variable(ARGUMENT))),
            _ => {
                // Not limited: once at the start of a process.
                tracing::warn!(
                    "{SAMPLER}: expected always_on, always_off, traceidratio, or one of them after parentbased_, found \
                     {name:?}; parentbased_always_on is used"
                );
                return Self { is_parent_based: true, root: Root::On };
            }
        };
        Self { is_parent_based, root }
    }

    /// Returns the SDK's sampler with this rule.
    pub(super) fn sampler(self) -> Sampler {
        let root = self.root.sampler();
        if self.is_parent_based { Sampler::ParentBased(Box::new(root)) } else { root }
    }

    /// Whether a span beneath `parent` is recorded. If so, the next span of this thread must be the one that was asked for.
    pub(super) fn samples(self, parent: Option<&SpanContext>) -> bool {
        let parent = parent.filter(|parent| parent.is_valid());
        let ratio = match (parent, self.root) {
            (Some(parent), _) if self.is_parent_based => return parent.is_sampled(),
            (_, Root::On) => return true,
            (_, Root::Off) => return false,
            (_, Root::Ratio(_)) => self.root.sampler(),
        };
        let trace = parent.map_or_else(|| RandomIdGenerator::default().new_trace_id(), SpanContext::trace_id);
        let decision = ratio.should_sample(None, trace, "", &SpanKind::Internal, &[], &[]).decision;
        let is_sampled = decision == SamplingDecision::RecordAndSample;
        if is_sampled && parent.is_none() {
            DECIDED.set(Some(trace));
        }
        is_sampled
    }
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
