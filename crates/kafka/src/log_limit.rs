//! Limits how often a log line of one kind is written, so that a fault that repeats quickly cannot fill the disk.
//!
//! Each kind of line has a limiter. The first line is written at once; for the following minute further lines are only
//! counted, and the next line that is written reports how many were suppressed.
//!
//! ```ignore
//! limited!(warn, topic, "the topic does not exist");
//! limited!(error, key = &partition.to_string(), partition, offset, "the record cannot be read");
//! ```
//!
//! [`KeyedLogLimit`] keeps one limiter per key, for example per partition or per topic, and bounds how many keys it
//! remembers. Every warning and error that can repeat goes through a limiter; a test of this module reads the sources.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Writes a line at the given level like the macros of `tracing`, but at most once a minute. With `key = …`, which must be
/// the first argument, each key has its own limit.
#[macro_export]
macro_rules! limited {
    ($level:ident, key = $key:expr, $($line:tt)+) => {{
        static LIMIT: $crate::log_limit::KeyedLogLimit = $crate::log_limit::KeyedLogLimit::new();
        if let Some(suppressed) = LIMIT.admit($key) {
            tracing::$level!(suppressed, $($line)+);
        }
    }};
    ($level:ident, $($line:tt)+) => {{
        static LIMIT: $crate::log_limit::LogLimit = $crate::log_limit::LogLimit::new();
        if let Some(suppressed) = LIMIT.admit() {
            tracing::$level!(suppressed, $($line)+);
        }
    }};
}

pub use crate::limited;

/// At most one line of a kind is written within this time.
const INTERVAL: Duration = Duration::from_secs(60);

/// How many keys a [`KeyedLogLimit`] remembers. Lines of further keys share one limiter.
const MAX_KEYS: usize = 256;

/// The value of [`LogLimit::next_ms`] while no line has been written.
const NEVER_WRITTEN: u64 = 0;

/// Admits at most one log line per minute and counts the suppressed ones. Callable from any thread without a lock.
#[derive(Debug)]
pub struct LogLimit {
    /// The time, in milliseconds of [`now_ms`], from which the next line is admitted.
    next_ms: AtomicU64,
    /// Lines suppressed since the last one that was admitted.
    suppressed: AtomicU64,
}

impl LogLimit {
    /// Creates a limiter that admits the first line at once.
    pub const fn new() -> Self {
        Self { next_ms: AtomicU64::new(NEVER_WRITTEN), suppressed: AtomicU64::new(0) }
    }

    /// Returns the number of lines suppressed since the last admitted one if a line may be written now. `None` means
    /// that the line is suppressed; it is counted.
    pub fn admit(&self) -> Option<u64> {
        self.admit_at(now_ms())
    }

    fn admit_at(&self, now_ms: u64) -> Option<u64> {
        let next_ms = self.next_ms.load(Ordering::Relaxed);
        let until_ms = now_ms.saturating_add(INTERVAL.as_millis() as u64);
        let is_due = now_ms >= next_ms;
        // Of several threads that find the limiter due, one writes.
        let is_ours = is_due
            && self.next_ms.compare_exchange(next_ms, until_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_ours {
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }
}

impl Default for LogLimit {
    fn default() -> Self {
        Self::new()
    }
}

/// A [`LogLimit`] per key. Memory is bounded: it remembers a limited number of keys, and the lines of all further
/// keys share one limiter until remembered keys have been silent for a minute.
#[derive(Debug)]
pub struct KeyedLogLimit {
    keys: Mutex<Option<HashMap<Box<str>, LogLimit>>>,
    /// Limits the lines of the keys that there is no room for.
    others: LogLimit,
}

impl KeyedLogLimit {
    /// Creates a limiter that admits the first line of each key at once.
    pub const fn new() -> Self {
        Self { keys: Mutex::new(None), others: LogLimit::new() }
    }

    /// Like [`LogLimit::admit`], for the lines of `key`.
    pub fn admit(&self, key: &str) -> Option<u64> {
        self.admit_at(key, now_ms())
    }

    fn admit_at(&self, key: &str, now_ms: u64) -> Option<u64> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = keys.get_or_insert_default();
        if let Some(limit) = keys.get(key) {
            return limit.admit_at(now_ms);
        }
        if keys.len() >= MAX_KEYS {
            keys.retain(|_, limit| {
                let is_silent = now_ms >= limit.next_ms.load(Ordering::Relaxed);
                if is_silent {
                    // The next shared line reports what a forgotten key had suppressed.
                    let suppressed = limit.suppressed.load(Ordering::Relaxed);
                    self.others.suppressed.fetch_add(suppressed, Ordering::Relaxed);
                }
                !is_silent
            });
        }
        if keys.len() >= MAX_KEYS {
            return self.others.admit_at(now_ms);
        }
        keys.entry(key.into()).or_default().admit_at(now_ms)
    }
}

impl Default for KeyedLogLimit {
    fn default() -> Self {
        Self::new()
    }
}

/// Milliseconds since the first call in this process. The clock never goes back.
fn now_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use std::path::Path;

    use super::*;

    const MINUTE_MS: u64 = INTERVAL.as_millis() as u64;

    #[test]
    fn the_first_line_is_written_and_later_ones_are_counted() {
        let limit = LogLimit::new();
        assert_eq!(limit.admit_at(0), Some(0));
        assert_eq!(limit.admit_at(1), None);
        assert_eq!(limit.admit_at(MINUTE_MS - 1), None);
        assert_eq!(limit.admit_at(MINUTE_MS), Some(2));
        assert_eq!(limit.admit_at(MINUTE_MS + 1), None);
        assert_eq!(limit.admit_at(5 * MINUTE_MS), Some(1));
        assert_eq!(limit.admit_at(6 * MINUTE_MS), Some(0));
    }

    #[test]
    fn of_many_threads_one_writes_and_no_line_is_forgotten() {
        let limit = LogLimit::new();
        let calls = || (0..1000).filter_map(|_| limit.admit_at(7)).collect::<Vec<_>>();
        let admitted: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(calls)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
        });
        assert_eq!(admitted.len(), 1);
        let counted: u64 = admitted.iter().sum();
        assert_eq!(limit.admit_at(7 + MINUTE_MS), Some(8 * 1000 - 1 - counted));
    }

    #[test]
    fn keys_are_limited_apart_from_each_other() {
        let limit = KeyedLogLimit::new();
        assert_eq!(limit.admit_at("a", 0), Some(0));
        assert_eq!(limit.admit_at("b", 0), Some(0));
        assert_eq!(limit.admit_at("a", 1), None);
        assert_eq!(limit.admit_at("a", MINUTE_MS), Some(1));
        assert_eq!(limit.admit_at("b", MINUTE_MS), Some(0));
    }

    #[test]
    fn the_number_of_keys_is_bounded_and_further_keys_share_a_limiter() {
        let limit = KeyedLogLimit::new();
        let remembered = |limit: &KeyedLogLimit| {
            limit.keys.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, HashMap::len)
        };
        let first = (0..MAX_KEYS).filter_map(|key| limit.admit_at(&key.to_string(), 0)).count();
        assert_eq!(first, MAX_KEYS);
        let further = (0..10_000).filter_map(|key| limit.admit_at(&format!("further {key}"), 1)).count();
        assert_eq!(further, 1, "they share one line");
        assert_eq!(remembered(&limit), MAX_KEYS);
        // After a minute the silent keys make room.
        assert_eq!(limit.admit_at("0", 2), None);
        assert_eq!(limit.admit_at("new", MINUTE_MS), Some(0));
        assert_eq!(remembered(&limit), 1);
        assert_eq!(limit.others.suppressed.load(Ordering::Relaxed), 10_000 - 1 + 1);
    }

    /// How many lines before a statement may contain its limiter, or the reason why it has none.
    const LINES_BEFORE: usize = 8;

    #[test]
    fn every_warning_and_error_is_limited_or_says_why_it_is_not() {
        let mut unlimited = Vec::new();
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        check_folder(&crates.with_file_name("src"), &mut unlimited);
        check_folder(crates, &mut unlimited);
        assert!(
            unlimited.is_empty(),
            "use `limited!`, or explain with `// Not limited: …` why the line cannot repeat:\n{}",
            unlimited.join("\n")
        );
    }

    fn check_folder(folder: &Path, unlimited: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let is_of_service = !["bench", "tests", "tests.rs", "log_limit.rs"].contains(&name.as_str());
            if path.is_dir() && is_of_service {
                check_folder(&path, unlimited);
            } else if name.ends_with(".rs") && !name.ends_with("_tests.rs") && is_of_service {
                check_file(&path, unlimited);
            }
        }
    }

    fn check_file(path: &Path, unlimited: &mut Vec<String>) {
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<_> = text.lines().take_while(|line| *line != "#[cfg(test)]").collect();
        for (index, line) in lines.iter().enumerate() {
            let is_comment = line.trim_start().starts_with("//");
            let is_statement = ["warn!(", "error!("].iter().any(|call| {
                line.match_indices(call)
                    .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
            });
            let before = &lines[index.saturating_sub(LINES_BEFORE)..=index];
            let is_limited =
                before.iter().any(|line| line.contains(".admit(") || line.contains("// Not limited: "));
            if is_statement && !is_comment && !is_limited {
                unlimited.push(format!("{}:{}: {}", path.display(), index + 1, line.trim()));
            }
        }
    }
}
