//! The progress bar of long-running commands.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Update interval of the bar.
const TICK: Duration = Duration::from_millis(200);

/// Waits for `work` and shows its progress on a terminal. `update` sets the bar; `template` is its style.
pub async fn watched<T>(work: impl Future<Output = T>, template: &str, update: impl Fn(&ProgressBar)) -> T {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    let mut work = std::pin::pin!(work);
    let mut ticks = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            done = &mut work => {
                bar.finish_and_clear();
                return done;
            }
            _ = ticks.tick() => update(&bar),
        }
    }
}
