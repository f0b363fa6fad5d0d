//! A replay's report as readable text.

use crate::cli::render;
use crate::replay::{Example, FlagReport, ReplayedResult, Report, With};

pub fn lines(report: &Report, with: With, seconds: f64) -> Vec<String> {
    let per_second = report.evaluations as f64 / seconds.max(0.001);
    let mut lines = vec![format!("{} evaluations in {seconds:.1} s ({per_second:.0}/s)", report.evaluations)];
    if report.untouched > 0 {
        lines.push(format!("{:>12} not of a proposed flag, nor of one that depends on it", report.untouched));
    }
    lines.push(format!("{:>12} the same", report.same));
    lines.push(format!("{:>12} different{}", report.different, whose(report)));
    let reasons = report.unrepeatable.iter();
    let reasons =
        reasons.map(|(why, count)| format!("{:>12} cannot be evaluated again: {}", count, why.as_str()));
    lines.extend(reasons);
    let mut flags: Vec<&FlagReport> = report.flags.iter().collect();
    flags.sort_by_key(|flag| std::cmp::Reverse(flag.different));
    lines.extend(flags.into_iter().flat_map(of_flag));
    if report.other_flags > 0 {
        lines.push(format!("{} more differences, of other flags", report.other_flags));
    }
    if with == With::Then && report.different == 0 && report.same > 0 {
        lines.push("all results that can be evaluated again are unchanged".to_owned());
    }
    lines.iter().map(|line| render::printable(line)).collect()
}

fn whose(report: &Report) -> String {
    if report.different == 0 {
        return String::new();
    }
    let more = |is_full: bool| if is_full { " or more" } else { "" };
    let (users, requests) = (&report.users, &report.requests);
    format!(
        ", of {}{} requests and {}{} users",
        requests.count(),
        more(requests.is_full),
        users.count(),
        more(users.is_full)
    )
}

fn of_flag(flag: &FlagReport) -> Vec<String> {
    let FlagReport { environment, flag_name, different, users, variants, reasons, examples } = flag;
    let mut lines =
        vec![format!("{environment}/{flag_name}: {different} different, of {} users", users.count())];
    for (what, pairs) in [("variant", variants), ("reason", reasons)] {
        for ((recorded, again), count) in pairs.iter().filter(|((recorded, again), _)| recorded != again) {
            let name = |side: &Option<String>| side.clone().unwrap_or_else(|| "none".to_owned());
            lines.push(format!("  {what} {} -> {}: {count}", name(recorded), name(again)));
        }
    }
    lines.extend(examples.iter().map(example));
    lines
}

fn example(example: &Example) -> String {
    let user = example.user_id.as_deref().unwrap_or("nobody");
    let context = example.context.as_ref().map(|context| context.get()).unwrap_or("{}");
    let (recorded, again) = (told(&example.recorded), told(&example.again));
    format!("  {} for {user} {context}: {recorded} -> {again}", example.evaluated_at)
}

fn told(told: &ReplayedResult) -> String {
    let more = [told.variant.as_deref(), told.error_code.as_deref()];
    let more: String = more.into_iter().flatten().map(|more| format!(", {more}")).collect();
    let on = if told.enabled { "on" } else { "off" };
    format!("{} ({on}, {}{more})", told.value, told.reason)
}
