//! Writes a batch's exposures and conversions to the tables of experiments.

use ahash::AHashMap;

use crate::experiment::Design;
use crate::experiment::conversion::Reported;
use crate::experiment::conversion::check_metric;
use crate::experiment::dimensions;
use crate::experiment::exposure::{Exposure, Exposures, KnownExposures, NewExposures, Running, Shown};
use crate::experiment::exposure_events::{Evaluated, QueuedEvent};
use crate::experiment::key::key;
use crate::experiment::tables::Tables;

use super::batch::{Batch, Content, Entry, Refusal};
use super::decode::INVALID_CONVERSION;
use super::evaluation::{Evaluation, Event};
use super::store::WriteError;

/// Writes the exposures and conversions of a batch's accepted entries at the end of its transaction, and the events of the
/// exposures unless `with_events` is false. Returns the exposures, which the caller marks as known after the commit, and how
/// their variants were chosen.
pub(super) async fn enter(
    tables: &mut impl Tables,
    batch: &Batch,
    known: &KnownExposures,
    with_events: bool,
) -> Result<NewExposures, WriteError> {
    let conversions: Vec<(usize, &Reported)> = reported(batch).collect();
    if !conversions.is_empty() {
        let designs = tables.designs().await?;
        let converted = converted(&conversions, &designs).map_err(WriteError::Refused)?;
        tables.convert(&converted).await?;
    }
    if !batch.accepted().any(may_expose) {
        return Ok(NewExposures::default());
    }
    let running = tables.running().await?;
    let mut new = exposures(batch, &running).unknown(known);
    add_attributes(batch, &running, &mut new.exposures);
    tables.describe(&new.assignments).await?;
    let firsts = tables.expose(&new.exposures).await?;
    if with_events && !firsts.is_empty() {
        tables.enqueue(&events(batch, &running, &new.exposures, &firsts)).await?;
    }
    Ok(new)
}

/// Sets the attributes of the exposures of experiments that are broken down by any.
fn add_attributes(batch: &Batch, running: &[Running], exposures: &mut [Exposure]) {
    let names: AHashMap<i64, &[String]> = running
        .iter()
        .filter(|of| !of.attributes.is_empty())
        .map(|of| (of.id, of.attributes.as_slice()))
        .collect();
    for exposure in exposures {
        let Some(names) = names.get(&exposure.experiment_id) else { continue };
        exposure.attributes = evaluation(batch, exposure.place)
            .and_then(|evaluation| dimensions::attributes(&evaluation.context, names));
    }
}

/// Evaluation of the entry at a position. The event was decoded before, so this cannot fail for one that exposed a user.
fn evaluation(batch: &Batch, place: usize) -> Option<Box<Evaluation<'_>>> {
    match Event::read(batch.payload(batch.entries.get(place)?)?) {
        Ok(Event::Evaluated(evaluation)) => Some(evaluation),
        _ => None,
    }
}

/// Events of the exposures at the positions `firsts`.
fn events(batch: &Batch, running: &[Running], exposures: &[Exposure], firsts: &[usize]) -> Vec<QueuedEvent> {
    let experiments: AHashMap<i64, &Running> = running.iter().map(|of| (of.id, of)).collect();
    let event = |at: &usize| {
        let exposure = exposures.get(*at)?;
        let evaluation = evaluation(batch, exposure.place)?;
        let evaluated = Evaluated {
            user_id: evaluation.user_id.as_deref()?,
            assignment: evaluation.assignment.as_deref(),
            evaluation_id: Some(evaluation.event_id),
            context: Some(&evaluation.context),
        };
        QueuedEvent::new(experiments.get(&exposure.experiment_id)?, exposure, evaluated)
    };
    firsts.iter().filter_map(event).collect()
}

fn reported(batch: &Batch) -> impl Iterator<Item = (usize, &Reported)> {
    let accepted = batch.entries.iter().enumerate().filter(|(_, entry)| entry.refusal.is_none());
    accepted.filter_map(|(index, entry)| match &entry.content {
        Content::Conversion(reported) => Some((index, &**reported)),
        _ => None,
    })
}

/// Conversion, with the id of its experiment.
type Matched<'b> = (i64, &'b Reported);

/// Matches conversions with their experiments. `Err`: the conversions that no experiment accepts, each with its reason.
fn converted<'b>(
    conversions: &[(usize, &'b Reported)],
    designs: &[(i64, Design)],
) -> Result<Vec<Matched<'b>>, Vec<(usize, Refusal)>> {
    let designs: AHashMap<(&str, &str), &(i64, Design)> =
        designs.iter().map(|kept| ((kept.1.environment.as_str(), kept.1.name.as_str()), kept)).collect();
    let (mut converted, mut refused) = (Vec::with_capacity(conversions.len()), Vec::new());
    for (index, reported) in conversions {
        let Reported { environment, experiment, metric, value, .. } = reported;
        let (code, message) = match designs.get(&(environment.as_str(), experiment.as_str())) {
            None => (
                "UNKNOWN_EXPERIMENT",
                format!("experiment: there is no experiment {experiment} in environment {environment}"),
            ),
            Some((id, design)) => match check_metric(design, metric, *value) {
                Ok(()) => {
                    converted.push((*id, *reported));
                    continue;
                }
                Err(wrong) => (INVALID_CONVERSION, wrong.to_string()),
            },
        };
        refused.push((*index, Refusal { code, message }));
    }
    if refused.is_empty() { Ok(converted) } else { Err(refused) }
}

fn may_expose(entry: &Entry) -> bool {
    matches!(entry.content, Content::Evaluation { outcome, counts: true, .. } if outcome.enabled && !outcome.is_error)
}

fn exposures(batch: &Batch, running: &[Running]) -> Exposures {
    let mut exposures = Exposures::default();
    // A batch has few flags, and most of them have no experiment.
    let mut of_flags: AHashMap<usize, Vec<&Running>> = AHashMap::new();
    let entries = batch.entries.iter().enumerate().filter(|(_, entry)| entry.refusal.is_none());
    for (place, entry) in entries.filter(|(_, entry)| may_expose(entry)) {
        let Content::Evaluation { flag, evaluated_at, .. } = entry.content else { continue };
        let of_flag = of_flags.entry(flag).or_insert_with(|| match batch.flags.flag(flag) {
            Some((environment, name)) => running
                .iter()
                .filter(|running| *running.environment == **environment && *running.flag_name == **name)
                .collect(),
            None => Vec::new(),
        });
        if !of_flag.iter().any(|running| running.covers(evaluated_at)) {
            continue;
        }
        // The event was decoded before, so this cannot fail.
        if let Ok(Event::Evaluated(evaluation)) = Event::read(batch.payload(entry).unwrap_or_default())
            && let Some((user, version, shown)) = exposed(&evaluation, place)
        {
            for running in of_flag.iter().filter(|running| running.covers(evaluated_at)) {
                exposures.add(running.id, key(user), version, shown);
            }
        }
    }
    exposures
}

/// Returns the user, the flag's version and what was shown. `None` if the evaluation lacks one of them.
fn exposed<'e>(evaluation: &'e Evaluation<'_>, place: usize) -> Option<(&'e str, i64, Shown<'e>)> {
    let some = |text: &'e Option<std::borrow::Cow<'_, str>>| text.as_deref().filter(|text| !text.is_empty());
    let shown = Shown {
        variant: some(&evaluation.variant)?,
        assignment: evaluation.assignment.as_deref(),
        evaluated_at: evaluation.evaluated_at,
        place,
        attributes: None,
    };
    Some((some(&evaluation.user_id)?, evaluation.flag_version?, shown))
}
