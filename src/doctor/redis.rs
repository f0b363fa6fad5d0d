//! Checks of Redis: reachable, a supported version, writable, and sufficient rights.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Arg, Cmd, RedisError, Value};
use tokio::time::timeout;

use crate::config::Config;

use super::Finding;

const PART: &str = "redis";
const REDIS_TIMEOUT: Duration = Duration::from_secs(5);
const OLDEST_VERSION: (u32, u32) = (6, 2);

/// The prefixes of all keys that flagstream uses.
const KEY_STARTS: [&str; 6] = [
    "feature_flag:eval:",
    "feature_flag:data:",
    "ff_eval:",
    "flag_check:",
    "flag_endpoint:",
    "flagstream:warm:",
];

/// The commands that the Redis cache and the edge API send, each with arguments for a check. They are only queued
/// (`MULTI`) and then discarded (`DISCARD`): Redis checks the rights of a command when it is queued.
const COMMANDS: [(&str, &[&str]); 23] = [
    ("GET", &["{key}"]),
    ("GETEX", &["{key}"]),
    ("SET", &["{key}", "x", "PX", "1"]),
    ("EXISTS", &["{key}"]),
    ("UNLINK", &["{key}"]),
    ("PEXPIRE", &["{key}", "1"]),
    ("GETRANGE", &["{key}", "0", "0"]),
    ("LRANGE", &["{key}", "0", "0"]),
    ("LSET", &["{key}", "0", "x"]),
    ("RPUSH", &["{key}", "x"]),
    ("RPUSHX", &["{key}", "x"]),
    ("ZADD", &["{key}", "0", "x"]),
    ("ZRANGE", &["{key}", "0", "0"]),
    ("ZREMRANGEBYSCORE", &["{key}", "0", "0"]),
    ("EVAL", &["return 1", "0"]),
    ("EVALSHA", &["0000000000000000000000000000000000000000", "0"]),
    ("SCRIPT", &["LOAD", "return 1"]),
    ("SCAN", &["0", "COUNT", "1"]),
    ("DBSIZE", &[]),
    ("PING", &[]),
    ("MULTI", &[]),
    ("DISCARD", &[]),
    ("CLUSTER", &["SLOTS"]),
];

/// Commands that only `flagstream erase` and the cache's statistics need. The Redis cache does not work without any of
/// the others.
const MINOR_COMMANDS: [&str; 2] = ["SCAN", "DBSIZE"];

pub async fn look(config: &Config) -> Vec<Finding> {
    let Some(url) = &config.redis.url else {
        return vec![Finding::well(PART, "not configured (optional)")];
    };
    let ask = async {
        let client = redis::Client::open(url.expose())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let info = redis::cmd("INFO").query_async::<String>(&mut connection).await;
        let info = match info {
            Err(error) if is_refused(&error) => None,
            info => Some(info?),
        };
        let is_cluster = info.as_deref().is_some_and(|info| info.contains("cluster_enabled:1"));
        Ok::<_, RedisError>((info, refused(&mut connection, is_cluster).await?))
    };
    let advice = "check REDIS_URL, and that Redis is running";
    match timeout(REDIS_TIMEOUT, ask).await {
        Err(_) => {
            vec![Finding::wrong(PART, format!("no answer within {} s", REDIS_TIMEOUT.as_secs()), advice)]
        }
        Ok(Err(error)) => vec![Finding::wrong(PART, error, advice)],
        Ok(Ok((info, refused))) => {
            let version = match info {
                Some(info) => of_info(&info),
                None => vec![Finding::well(
                    PART,
                    "Redis answers; its version is unknown, because this user may not send INFO",
                )],
            };
            version.into_iter().chain(of_rights(&refused)).collect()
        }
    }
}

/// The names of forbidden commands and the prefixes of forbidden keys.
async fn refused(
    connection: &mut MultiplexedConnection,
    is_cluster: bool,
) -> Result<Vec<&'static str>, RedisError> {
    let mut refused = Vec::new();
    let key = |start: &str| format!("{start}doctor");
    let usable = KEY_STARTS.iter().find(|start| start.starts_with("flagstream")).map_or("", |start| start);
    for (name, words) in COMMANDS {
        if name == "CLUSTER" && !is_cluster {
            continue;
        }
        let mut command = redis::cmd(name);
        for word in words {
            command.arg(word.replace("{key}", &key(usable)));
        }
        if is_refused_when_queued(connection, &command).await? {
            refused.push(name);
        }
    }
    for start in KEY_STARTS {
        let mut command = redis::cmd("GET");
        command.arg(key(start));
        if !refused.contains(&"GET") && is_refused_when_queued(connection, &command).await? {
            refused.push(start);
        }
    }
    Ok(refused)
}

/// Queues the command and discards it. Returns whether this user may not send it.
async fn is_refused_when_queued(
    connection: &mut MultiplexedConnection,
    command: &Cmd,
) -> Result<bool, RedisError> {
    // `MULTI` and `DISCARD` change the connection's state themselves and are sent for every other command; `PING` is
    // sent directly.
    let is_plain = matches!(command.args_iter().next(), Some(Arg::Simple(b"MULTI" | b"DISCARD" | b"PING")));
    let answered = match is_plain {
        true => redis::cmd("PING").query_async::<Value>(connection).await,
        false => {
            redis::cmd("MULTI").query_async::<Value>(connection).await?;
            let answered = command.query_async::<Value>(connection).await;
            redis::cmd("DISCARD").query_async::<Value>(connection).await?;
            answered
        }
    };
    match answered {
        Err(error) if is_refused(&error) => Ok(true),
        // Another error, such as a key on another cluster node or invalid arguments, shows that the command was
        // allowed.
        Err(error) if error.is_io_error() => Err(error),
        _ => Ok(false),
    }
}

fn is_refused(error: &RedisError) -> bool {
    error.code() == Some("NOPERM")
}

/// Findings for forbidden commands and keys.
fn of_rights(refused: &[&'static str]) -> Vec<Finding> {
    if refused.is_empty() {
        return vec![Finding::well(PART, "this user may use all required commands and keys")];
    }
    let (keys, commands): (Vec<_>, Vec<_>) = refused.iter().partition(|refused| refused.contains(':'));
    let (minor, major): (Vec<_>, Vec<_>) =
        commands.into_iter().partition(|command: &&str| MINOR_COMMANDS.contains(command));
    let mut findings = Vec::new();
    if !major.is_empty() {
        let text = format!("this user may not send {}: the Redis cache does not work", major.join(", "));
        let rights = major.iter().map(|command| format!("+{}", command.to_lowercase()));
        let advice = format!("ACL SETUSER … {}", rights.collect::<Vec<_>>().join(" "));
        findings.push(Finding::wrong(PART, text, advice));
    }
    if !keys.is_empty() {
        let text = format!("this user may not use keys that begin with {}", keys.join(", "));
        let rights = keys.iter().map(|key| format!("~{key}*"));
        let advice = format!("ACL SETUSER … {}", rights.collect::<Vec<_>>().join(" "));
        findings.push(Finding::wrong(PART, text, advice));
    }
    if !minor.is_empty() {
        let text = format!("this user may not send {}", minor.join(", "));
        findings.push(Finding::doubtful(
            PART,
            text,
            "`flagstream erase` and the cache's statistics need them",
        ));
    }
    findings
}

fn of_info(info: &str) -> Vec<Finding> {
    let value = |name: &str| {
        let mut lines = info.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| *key == name).map(|(_, value)| value.trim())
    };
    let version = value("redis_version").unwrap_or("?");
    // Valkey reports the version of Redis that it is compatible with, beside its own.
    let server = match value("valkey_version") {
        Some(valkey) => format!("Valkey {valkey}"),
        None => format!("Redis {version}"),
    };
    let mut numbers = version.split('.').map_while(|number| number.parse().ok());
    let is_new = numbers.next().zip(numbers.next()).is_some_and(|version| version >= OLDEST_VERSION);
    let mut findings = vec![match is_new {
        true => Finding::well(PART, format!("{server} answers")),
        false => Finding::wrong(PART, server, "use Redis 6.2 or newer, or Valkey"),
    }];
    if value("role") == Some("slave") {
        let advice = "set REDIS_URL to the primary";
        findings.push(Finding::wrong(PART, "this is a replica: nothing can be written", advice));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn what_is_refused_is_named_with_the_right_that_lacks() {
        assert_eq!(of_rights(&[])[0].state, State::Well);
        let findings = of_rights(&["EVALSHA", "SCRIPT", "ff_eval:"]);
        assert_eq!(findings.iter().map(|it| it.state).collect::<Vec<_>>(), [State::Wrong, State::Wrong]);
        assert_eq!(findings[0].advice.as_deref(), Some("ACL SETUSER … +evalsha +script"));
        assert_eq!(findings[1].advice.as_deref(), Some("ACL SETUSER … ~ff_eval:*"));
        assert_eq!(of_rights(&["SCAN"])[0].state, State::Doubtful);
    }

    #[test]
    fn versions_and_roles() {
        let states = |info: &str| of_info(info).iter().map(|it| it.state).collect::<Vec<_>>();
        assert_eq!(states("# Server\r\nredis_version:7.0.15\r\nrole:master\r\n"), [State::Well]);
        let valkey = "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\nrole:master\r\n";
        assert_eq!(states(valkey), [State::Well]);
        assert_eq!(states("redis_version:6.0.16\r\nrole:slave\r\n"), [State::Wrong, State::Wrong]);
        assert_eq!(states(""), [State::Wrong]);
    }
}
