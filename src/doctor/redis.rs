//! Redis: reachable, new enough, and kept from throwing away what matters.

use std::time::Duration;

use tokio::time::timeout;

use crate::config::Config;

use super::Finding;

const PART: &str = "redis";
const PATIENCE: Duration = Duration::from_secs(5);
const OLDEST_VERSION: (u32, u32) = (6, 2);

pub async fn look(config: &Config) -> Vec<Finding> {
    let Some(url) = &config.redis.url else {
        return vec![Finding::well(PART, "there is none, and none is needed")];
    };
    let ask = async {
        let client = redis::Client::open(url.expose())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd("INFO").query_async::<String>(&mut connection).await
    };
    let advice = "is REDIS_URL right, Redis up, and the user allowed INFO?";
    match timeout(PATIENCE, ask).await {
        Err(_) => vec![Finding::wrong(PART, format!("no answer within {} s", PATIENCE.as_secs()), advice)],
        Ok(Err(error)) => vec![Finding::wrong(PART, error, advice)],
        Ok(Ok(info)) => of_info(&info),
    }
}

fn of_info(info: &str) -> Vec<Finding> {
    let value = |name: &str| {
        let mut lines = info.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| *key == name).map(|(_, value)| value.trim())
    };
    let version = value("redis_version").unwrap_or("?");
    let mut numbers = version.split('.').map_while(|number| number.parse().ok());
    let is_new = numbers.next().zip(numbers.next()).is_some_and(|version| version >= OLDEST_VERSION);
    let mut findings = vec![match is_new {
        true => Finding::well(PART, format!("Redis {version} answers")),
        false => Finding::wrong(PART, format!("Redis {version}"), "6.2 or newer is needed"),
    }];
    if value("role") == Some("slave") {
        let advice = "let REDIS_URL name the primary";
        findings.push(Finding::wrong(PART, "this is a replica: nothing can be written", advice));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn versions_and_roles() {
        let states = |info: &str| of_info(info).iter().map(|it| it.state).collect::<Vec<_>>();
        assert_eq!(states("# Server\r\nredis_version:7.0.15\r\nrole:master\r\n"), [State::Well]);
        assert_eq!(states("redis_version:6.0.16\r\nrole:slave\r\n"), [State::Wrong, State::Wrong]);
        assert_eq!(states(""), [State::Wrong]);
    }
}
