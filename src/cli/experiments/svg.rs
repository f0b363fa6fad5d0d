//! A picture of an interval over time, as SVG.

use std::fmt::Write;

use crate::experiment::results::explanations::{signed_percent, thousands};
use crate::experiment::results::history::{Point, RelativePoint};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 320.0;
/// Space for the labels on the left, at the top, on the right, and at the bottom.
const MARGINS: [f64; 4] = [64.0, 36.0, 16.0, 40.0];
/// Number of labels of the horizontal axis.
const LABELS: usize = 5;

/// A series: number of users, and the relative difference at that number.
struct Series(Vec<(f64, RelativePoint)>);

/// Draws the relative difference of one metric and variant by the number of users. `None` without a point.
pub fn picture(points: &[Point], metric: &str, variant: &str) -> Option<String> {
    let last_phase = points.last()?.phase;
    let of_point = |point: &Point| {
        let found = point.comparisons.iter().find(|of| of.metric == metric && of.variant == variant)?;
        Some((point.users as f64, found.relative?))
    };
    let series: Vec<_> =
        points.iter().filter(|point| point.phase == last_phase).filter_map(of_point).collect();
    if series.is_empty() {
        return None;
    }
    Some(Series(series).draw(metric, variant))
}

impl Series {
    fn draw(&self, metric: &str, variant: &str) -> String {
        let [left, top, right, bottom] = MARGINS;
        let most = self.0.iter().map(|(users, _)| *users).fold(1.0, f64::max);
        let ends = self.0.iter().flat_map(|(_, of)| [of.interval.low.abs(), of.interval.high.abs()]);
        let reach = ends.fold(0.01, f64::max);
        let x = |users: f64| left + users / most * (WIDTH - left - right);
        let middle = top + (HEIGHT - top - bottom) / 2.0;
        let y = |share: f64| middle - share / reach * (HEIGHT - top - bottom) / 2.0;
        let line = |of: fn(&RelativePoint) -> f64| {
            let places = self.0.iter().map(|(users, point)| format!("{:.1},{:.1}", x(*users), y(of(point))));
            places.collect::<Vec<_>>()
        };
        let (low, high) = (line(|of| of.interval.low), line(|of| of.interval.high));
        let area: Vec<String> = low.iter().cloned().chain(high.into_iter().rev()).collect();
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n<text x=\"{left}\" y=\"20\" \
             font-size=\"14\">{}: {} relative to the control, with its interval</text>\n",
            escaped(metric),
            escaped(variant)
        );
        // Writing to a string cannot fail.
        let _ =
            writeln!(out, "<polygon points=\"{}\" fill=\"#9ec5e8\" fill-opacity=\"0.6\"/>", area.join(" "));
        let _ = writeln!(
            out,
            "<line x1=\"{left}\" y1=\"{middle:.1}\" x2=\"{:.1}\" y2=\"{middle:.1}\" stroke=\"#444444\" \
             stroke-dasharray=\"4 3\"/>",
            WIDTH - right
        );
        let estimate = line(|of| of.difference).join(" ");
        let _ = writeln!(
            out,
            "<polyline points=\"{estimate}\" fill=\"none\" stroke=\"#1f4e79\" stroke-width=\"2\"/>"
        );
        for (users, point) in &self.0 {
            let (cx, cy) = (x(*users), y(point.difference));
            let _ = writeln!(out, "<circle cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"2.5\" fill=\"#1f4e79\"/>");
        }
        for share in [-reach, -reach / 2.0, 0.0, reach / 2.0, reach] {
            let place = y(share) + 4.0;
            let label = if share == 0.0 { "0".to_owned() } else { signed_percent(share) };
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{place:.1}\" text-anchor=\"end\">{label}</text>",
                left - 6.0
            );
        }
        for label in 0..=LABELS {
            let users = (most * label as f64 / LABELS as f64).round();
            let anchor = if label == LABELS { "end" } else { "middle" };
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
                x(users),
                HEIGHT - bottom + 18.0,
                thousands(users as u64)
            );
        }
        let _ = writeln!(out, "<text x=\"{left}\" y=\"{:.1}\">users</text>", HEIGHT - 6.0);
        out.push_str("</svg>\n");
        out
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::experiment::results::Verdict;
    use crate::experiment::results::history::PointComparison;
    use crate::experiment::statistics::Interval;

    fn point(users: u64, difference: f64, half: f64) -> Point {
        let interval = Interval { low: difference - half, high: difference + half };
        let of = PointComparison {
            metric: "a<b".to_owned(),
            variant: "new".to_owned(),
            verdict: Verdict::NotKnownYet,
            difference,
            interval,
            p_value: 1.0,
            relative: Some(RelativePoint { difference, interval }),
        };
        Point { counted_at: DateTime::UNIX_EPOCH, phase: 1, users, comparisons: vec![of] }
    }

    #[test]
    fn the_interval_is_an_area_around_the_estimate() {
        let points = [point(100, 0.2, 0.8), point(200, 0.1, 0.4)];
        let picture = picture(&points, "a<b", "new").unwrap();
        assert!(picture.contains("a&lt;b: new relative to the control"), "{picture}");
        // The upper end of the first interval is the top, and zero the middle.
        assert!(picture.contains("points=\"384.0,231.2 704.0,194.6 704.0,97.0 384.0,36.0\""), "{picture}");
        assert!(picture.contains("<polyline points=\"384.0,133.6 704.0,145.8\""), "{picture}");
        assert_eq!(picture.matches("<circle").count(), 2);
        assert_eq!(self::picture(&points, "other", "new"), None);
        assert_eq!(self::picture(&[], "a<b", "new"), None);
    }
}
