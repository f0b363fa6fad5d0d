//! Decision from all metrics of a treatment.

use crate::Role;
use crate::results::explanations::thousands;

use super::super::{MetricResults, Missing, Verdict};
use super::{Conclusion, Finding};

pub fn of(variant: &str, control: &str, metrics: &[MetricResults]) -> Conclusion {
    let named = |role: Role, verdict: Verdict| {
        let of_role = metrics.iter().filter(move |metric| metric.metric.role == role);
        let such = of_role.filter(move |metric| {
            metric.comparisons.iter().any(|of| of.variant == variant && of.verdict == verdict)
        });
        such.map(|metric| metric.metric.name.as_str()).collect::<Vec<_>>()
    };
    let [better, worse, undecided] =
        [Verdict::Better, Verdict::Worse, Verdict::NotKnownYet].map(|verdict| named(Role::Primary, verdict));
    // Guardrails without any event hold nothing up, but are named: the event may not be reported at all.
    let silent: Vec<&str> = metrics
        .iter()
        .filter(|metric| metric.metric.role == Role::Guardrail)
        .filter(|metric| {
            let mut of_variant = metric.comparisons.iter().filter(|of| of.variant == variant);
            of_variant.any(|of| of.missing == Some(Missing::NoConversions))
        })
        .map(|metric| metric.metric.name.as_str())
        .collect();
    let [harmed, unsure, safe] = [Verdict::Harmed, Verdict::NotKnownYet, Verdict::SafeSoFar]
        .map(|verdict| named(Role::Guardrail, verdict));
    let unsure: Vec<&str> = unsure.into_iter().filter(|name| !silent.contains(name)).collect();
    let bad = [worse, harmed].concat().join(", ");
    let (good, unsure) = (better.join(", "), unsure.join(", "));
    let text = match (better.is_empty(), bad.is_empty()) {
        (true, false) => {
            format!("Keep {control}: {variant} is worse in {bad}, and better in no deciding metric.")
        }
        (false, false) => format!(
            "{variant} is better in {good}, but worse in {bad}. Decide which of them is more important."
        ),
        (false, true) if !unsure.is_empty() => {
            format!(
                "{variant} is better in {good}. Keep the experiment running: whether it harms {unsure} is not known \
                 yet."
            )
        }
        (false, true) => {
            let unharmed = if safe.is_empty() { "" } else { ", and no guardrail is harmed" };
            let silent = match silent.as_slice() {
                [] => String::new(),
                names => format!(" No {} was reported for any variant.", names.join(", ")),
            };
            format!("{variant} may be chosen over {control}: it is better in {good}{unharmed}.{silent}")
        }
        (true, true) if undecided.is_empty() => {
            format!(
                "There is no evidence for or against {variant}: the deciding metrics are the same under {control}."
            )
        }
        (true, true) => {
            format!("Keep the experiment running: there is no decision between {variant} and {control} yet.")
        }
    };
    let open = metrics.iter().map(|metric| metric.unfinished).max().unwrap_or(0);
    let text = match open {
        0 => text,
        open => format!("{text} The windows of {} users are not over yet.", thousands(open)),
    };
    Conclusion {
        finding: Finding::Decision,
        alarm: false,
        metric: None,
        variant: Some(variant.to_owned()),
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Comparison;
    use crate::{Kind, Metric};

    fn metric(at: usize, role: Role, verdict: Verdict) -> MetricResults {
        MetricResults {
            metric: Metric { name: format!("m{at}"), kind: Kind::Mean, role, ..Metric::default() },
            levels: vec![],
            comparisons: vec![Comparison {
                variant: "new".to_owned(),
                verdict,
                missing: None,
                rare: None,
                effect: None,
            }],
            holdout: None,
            cuped: None,
            covariate: None,
            unfinished: 0,
        }
    }

    fn decision(verdicts: &[(Role, Verdict)]) -> String {
        let metrics = verdicts.iter().enumerate().map(|(at, (role, verdict))| metric(at, *role, *verdict));
        of("new", "old", &metrics.collect::<Vec<_>>()).text
    }

    #[test]
    fn a_guardrail_without_events_holds_nothing_up() {
        let mut metrics =
            [metric(0, Role::Primary, Verdict::Better), metric(1, Role::Guardrail, Verdict::NotKnownYet)];
        metrics[1].comparisons[0].missing = Some(Missing::NoConversions);
        let text = of("new", "old", &metrics).text;
        assert_eq!(
            text,
            "new may be chosen over old: it is better in m0. No m1 was reported for any variant."
        );
        metrics[0].unfinished = 1_200;
        let text = of("new", "old", &metrics).text;
        assert!(text.ends_with(" The windows of 1,200 users are not over yet."), "{text}");
    }

    #[test]
    fn what_decides_and_what_guards_are_weighed_together() {
        use Role::{Guardrail, Primary, Secondary};
        use Verdict::{Better, Harmed, NoEffect, NotKnownYet, SafeSoFar, Worse};
        let said = |verdicts: &[(Role, Verdict)], text: &str| assert_eq!(decision(verdicts), text);
        said(
            &[(Primary, Better), (Guardrail, SafeSoFar)],
            "new may be chosen over old: it is better in m0, and no guardrail is harmed.",
        );
        said(&[(Primary, Better)], "new may be chosen over old: it is better in m0.");
        said(
            &[(Primary, Better), (Guardrail, NotKnownYet)],
            "new is better in m0. Keep the experiment running: whether it harms m1 is not known yet.",
        );
        said(
            &[(Primary, Better), (Primary, Worse), (Guardrail, Harmed)],
            "new is better in m0, but worse in m1, m2. Decide which of them is more important.",
        );
        said(
            &[(Primary, NotKnownYet), (Guardrail, Harmed)],
            "Keep old: new is worse in m1, and better in no deciding metric.",
        );
        said(
            &[(Primary, NotKnownYet), (Secondary, Better)],
            "Keep the experiment running: there is no decision between new and old yet.",
        );
        said(
            &[(Primary, NoEffect)],
            "There is no evidence for or against new: the deciding metrics are the same under old.",
        );
    }
}
