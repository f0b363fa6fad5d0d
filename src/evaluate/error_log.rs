//! Logs evaluations that end in an error, with what is needed to repeat them: flag, version, type, context and origin.
//!
//! The context is what events contain: privacy settings have removed or hashed what they name. One line per minute is
//! written for each flag and error code; `flagstream_evaluations_total{reason="ERROR"}` counts all.

use std::fmt;

use crate::flag::{Answer, ErrorCode, Reason};
use crate::log_limit::KeyedLogLimit;
use crate::privacy::Shown;
use crate::traces;

/// Number of characters of a context that are logged.
const CONTEXT_MAX_CHARS: usize = 2_000;
/// Number of characters of a name that are logged, because callers choose it.
const NAME_MAX_CHARS: usize = 255;

static LIMIT: KeyedLogLimit = KeyedLogLimit::new();

/// Source of a request.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'o> {
    Record { topic: &'o str, partition: i32, offset: i64, request_id: Option<&'o str> },
    Api { path: &'o str },
}

impl fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record { topic, partition, offset, request_id } => {
                write!(
                    f,
                    "request {} at {topic}/{partition}@{offset}",
                    cut(request_id.unwrap_or("without id"), NAME_MAX_CHARS)
                )
            }
            Self::Api { path } => write!(f, "call of the API {path}"),
        }
    }
}

/// Logs the answer if it is an error, and reports it to OpenTelemetry. Unserved environments and missing flags are logged
/// elsewhere.
pub fn note(answer: &Answer<'_>, flag: &str, environment: &str, shown: &Shown<'_>, origin: Origin<'_>) {
    traces::evaluated(answer, flag, environment, shown);
    if answer.reason != Reason::Error || answer.error_code == Some(ErrorCode::ProviderNotReady) {
        return;
    }
    let code = answer.error_code.map_or("GENERAL", ErrorCode::as_str);
    let (flag, environment) = (cut(flag, NAME_MAX_CHARS), cut(environment, NAME_MAX_CHARS));
    if let Some(suppressed) = LIMIT.admit(&format!("{environment}/{flag}/{code}")) {
        tracing::warn!(
            suppressed,
            flag,
            environment,
            code,
            flag_version = answer.flag_version,
            variant = answer.variant,
            error = answer.error_message.as_deref(),
            user_id = shown.user_id.as_deref().map(|user| cut(user, NAME_MAX_CHARS)),
            context = cut(&shown.context, CONTEXT_MAX_CHARS),
            %origin,
            "a flag cannot be evaluated as requested; the default was returned"
        );
    }
}

fn cut(text: &str, max_chars: usize) -> &str {
    text.char_indices().nth(max_chars).and_then(|(end, _)| text.get(..end)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_at_a_character() {
        assert_eq!(cut("häßlich", 3), "häß");
        assert_eq!(cut("ä", 3), "ä");
        assert_eq!(cut("", 0), "");
    }

    #[test]
    fn an_origin_names_the_position() {
        let origin = Origin::Record { topic: "requests", partition: 3, offset: 17, request_id: Some("r-1") };
        assert_eq!(origin.to_string(), "request r-1 at requests/3@17");
    }
}
