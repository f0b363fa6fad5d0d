//! Reads values from environment variables.

use std::ffi::OsString;

use crate::kafka::properties;

use super::settings::{self, Mask};
use super::values::{Origin, Raw, Values};

/// Takes flagstream's variables out of the process environment. An empty variable counts as unset, because Compose
/// passes an empty one for `${NAME:-}`.
pub(super) fn read(variables: impl IntoIterator<Item = (OsString, OsString)>, values: &mut Values) {
    for (name, text) in variables {
        // A name that is not UTF-8 is never a setting.
        let Ok(name) = name.into_string() else { continue };
        let setting = settings::of_variable(&name);
        match (setting, text.into_string()) {
            (None, _) if is_foreign(&name) => {}
            (None, _) => values.problem(format!("{name}: unknown setting")),
            (Some(_), Err(_)) => values.problem(format!("{name}: not UTF-8")),
            (Some(_), Ok(text)) if text.is_empty() => {}
            (Some(setting), Ok(text)) => {
                let (raw, origin) = (Raw::One(text), Origin::Environment(name.clone()));
                match name.strip_prefix(setting.variable).filter(|_| setting.mask == Mask::Group) {
                    Some("") => values.problem(format!("{name}: unknown setting")),
                    Some(rest) => values.put_client(&properties::property_of(rest), raw, origin),
                    None => values.put(setting, raw, origin),
                }
            }
        }
    }
}

/// The token of commands that call a service. It is a command option and not a setting.
const COMMAND_TOKEN: &str = "FLAGSTREAM_TOKEN";

/// Whether the variable is not a setting: it has another prefix, is a command option, or was set by Kubernetes for a
/// Service named `flagstream…`.
fn is_foreign(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("FLAGSTREAM_") else {
        return true;
    };
    name == COMMAND_TOKEN || (!rest.contains("__") && is_service_link(&format!("_{rest}")))
}

/// Whether Kubernetes sets this name for a Service: `…_SERVICE_HOST`, `…_SERVICE_PORT[_NAME]`, `…_PORT`,
/// `…_PORT_8082_TCP[_ADDR|_PORT|_PROTO]`.
fn is_service_link(name: &str) -> bool {
    if name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || name.ends_with("_PORT") {
        return true;
    }
    let port = name.split_once("_PORT_").map(|(_, rest)| rest.split('_').collect::<Vec<_>>());
    matches!(port.as_deref(), Some([number, "TCP" | "UDP" | "SCTP", rest @ ..])
        if number.bytes().all(|b| b.is_ascii_digit()) && matches!(rest, [] | ["ADDR" | "PORT" | "PROTO"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_sets_beside_our_service_is_not_ours() {
        for name in [
            "FLAGSTREAM_SERVICE_HOST",
            "FLAGSTREAM_SERVICE_PORT",
            "FLAGSTREAM_SERVICE_PORT_HTTP",
            "FLAGSTREAM_PORT",
            "FLAGSTREAM_PORT_8082_TCP",
            "FLAGSTREAM_PORT_8082_TCP_ADDR",
            "FLAGSTREAM_ADMIN_SERVICE_HOST",
            "FLAGSTREAM_ADMIN_PORT_9000_TCP_PROTO",
            "FLAGSTREAM_TOKEN",
        ] {
            assert!(is_foreign(name), "{name}");
        }
        for name in ["FLAGSTREAM_LOGS", "FLAGSTREAM_HTTP__PORT", "FLAGSTREAM_PORT_X_TCP", "FLAGSTREAM_"] {
            assert!(!is_foreign(name), "{name}");
        }
    }
}
