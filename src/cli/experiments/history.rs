//! `experiments history`: the results over time, as a table or a picture.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use reqwest::Method;
use serde_json::Value;

use crate::cli::render::printable;
use crate::cli::{Global, Output, print};
use crate::experiment::records::History;
use crate::experiment::results::explanations::{signed_percent, thousands};
use crate::experiment::results::history::{Point, PointComparison};
use crate::experiment::statistics::Interval;
use crate::http::segment;

use super::PlaceArgs;
use super::bars::Scale;
use super::svg::picture;
use super::table::{Align, table};

/// Width of the bars in characters.
const BAR_CHARS: usize = 41;

#[derive(Debug, clap::Args)]
pub struct HistoryArgs {
    /// Name of the experiment
    name: String,
    /// Metric to show (default: the first that was compared)
    #[arg(long)]
    metric: Option<String>,
    /// Variant to show (default: the first treatment)
    #[arg(long)]
    variant: Option<String>,
    /// Write a picture of the interval to this file, as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    place: PlaceArgs,
}

pub async fn history(args: HistoryArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    let path = args.place.path(&format!("/{}/history", segment(&args.name)), &config);
    let answered = args.place.service(&config)?.call(Method::GET, &path, None, None::<&Value>).await?;
    if global.output == Output::Json && args.svg.is_none() {
        print::line(&answered.body)?;
        return Ok(ExitCode::SUCCESS);
    }
    let History { points } = serde_json::from_str(&answered.body)
        .context("the response is not a history from flagstream; check --url")?;
    let first = points.iter().rev().find_map(|point| point.comparisons.first());
    let metric = args.metric.or_else(|| first.map(|of| of.metric.clone()));
    let variant = args.variant.or_else(|| first.map(|of| of.variant.clone()));
    let (Some(metric), Some(variant)) = (metric, variant) else {
        bail!("{}: nothing could be compared yet", args.name);
    };
    match &args.svg {
        Some(file) => {
            let Some(picture) = picture(&points, &metric, &variant) else {
                bail!("{}: there is no relative difference of {variant} in {metric} yet", args.name);
            };
            std::fs::write(file, picture).with_context(|| format!("cannot write {}", file.display()))?;
            print::line(&printable(&format!("{metric} of {variant} in {}", file.display())))?;
        }
        None => {
            print::line(&text(&points, &metric, &variant))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A line for each point, with the interval as a bar.
fn text(points: &[Point], metric: &str, variant: &str) -> String {
    let of_point = |point: &Point| -> Option<PointComparison> {
        point.comparisons.iter().find(|of| of.metric == metric && of.variant == variant).cloned()
    };
    let intervals = points.iter().filter_map(of_point).filter_map(|of| of.relative);
    let scale = Scale::new(intervals.map(|of| of.interval), BAR_CHARS);
    let title = printable(&format!("{metric} of {variant}, relative to the control"));
    let legend = scale.legend();
    let head = ["counted at", "phase", "users", "difference", "interval", &legend];
    let end =
        |interval: Interval| format!("{} to {}", signed_percent(interval.low), signed_percent(interval.high));
    let rows = points.iter().map(|point| {
        let at = point.counted_at.format("%F %H:%M").to_string();
        let mut row = vec![at, point.phase.to_string(), thousands(point.users)];
        match of_point(point).and_then(|of| of.relative) {
            Some(of) => row.extend([
                signed_percent(of.difference),
                end(of.interval),
                scale.bar(of.difference, of.interval),
            ]),
            None => row.extend(["-", "-", ""].map(str::to_owned)),
        }
        row
    });
    use Align::{Left, Right};
    let rows = std::iter::once(head.map(str::to_owned).to_vec()).chain(rows).collect();
    let lines = table(&[Left, Right, Right, Right, Left, Left], rows);
    std::iter::once(title).chain(lines).collect::<Vec<_>>().join("\n")
}
