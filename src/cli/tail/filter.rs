//! Filters of records.

use rdkafka::Message;
use serde_json::Value;

use crate::cli::{UsageError, values};

/// The filter conditions, all of which must hold.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub struct Filter {
    /// Only this flag
    #[arg(long, value_name = "FLAG")]
    flag: Option<String>,
    /// Only this user
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// Only this environment
    #[arg(long)]
    environment: Option<String>,
    /// Only this event_type, reason, error_code, or code of a dead letter
    #[arg(long = "type", value_name = "WORD")]
    word: Option<String>,
    /// Only records with this key
    #[arg(long)]
    key: Option<String>,
    /// Only this partition
    #[arg(long, value_name = "NUMBER", value_parser = values::partition)]
    partition: Option<i32>,
    /// Only records whose value contains TEXT
    #[arg(long, value_name = "TEXT")]
    contains: Option<String>,
}

impl Filter {
    /// Rejects a partition that the topic does not have, because the command would wait for it forever.
    pub fn check(&self, topic: &str, partitions: &[i32]) -> Result<(), UsageError> {
        match (self.partition, partitions) {
            (Some(wanted), [first, .., last]) if !partitions.contains(&wanted) => Err(UsageError(format!(
                "--partition: {topic} has partitions {first} to {last}, not {wanted}"
            ))),
            (Some(wanted), [only]) if wanted != *only => {
                Err(UsageError(format!("--partition: {topic} has partition {only} only, not {wanted}")))
            }
            _ => Ok(()),
        }
    }

    pub fn takes(&self, record: &impl Message) -> bool {
        let holds =
            |wanted: Option<&String>, found: &dyn Fn(&str) -> bool| wanted.is_none_or(|wanted| found(wanted));
        let key = record.key();
        if self.partition.is_some_and(|partition| partition != record.partition())
            || !holds(self.key.as_ref(), &|wanted| key == Some(wanted.as_bytes()))
            || !holds(self.contains.as_ref(), &|wanted| {
                has(record.payload().unwrap_or_default(), wanted.as_bytes())
            })
        {
            return false;
        }
        if [&self.flag, &self.user, &self.environment, &self.word].iter().all(|wanted| wanted.is_none()) {
            return true;
        }
        // A tombstone has no value, so flag and environment are taken from its key.
        let key = key.and_then(|key| std::str::from_utf8(key).ok()).unwrap_or_default();
        let of_key = key.split_once('/');
        let body: Value =
            record.payload().and_then(|body| serde_json::from_slice(body).ok()).unwrap_or_default();
        let text = |name: &str, wanted: &str| body.get(name).and_then(Value::as_str) == Some(wanted);
        let is_null = body.is_null();
        holds(self.flag.as_ref(), &|wanted| {
            text("flag_name", wanted)
                || list_has(body.get("flag_names"), wanted)
                || body.get("results").is_some_and(|results| results.get(wanted).is_some())
                || (is_null && of_key.is_some_and(|(_, flag)| flag == wanted))
        }) && holds(self.environment.as_ref(), &|wanted| {
            text("environment", wanted)
                || (is_null && of_key.is_some_and(|(environment, _)| environment == wanted))
        }) && holds(self.user.as_ref(), &|wanted| text("user_id", wanted))
            && holds(self.word.as_ref(), &|wanted| {
                ["event_type", "reason", "error_code"].iter().any(|name| text(name, wanted))
                    || header(record, "error-code") == Some(wanted.as_bytes())
            })
    }
}

fn list_has(list: Option<&Value>, wanted: &str) -> bool {
    list.and_then(Value::as_array).is_some_and(|list| list.iter().any(|item| item == wanted))
}

fn header<'r>(record: &'r impl Message, name: &str) -> Option<&'r [u8]> {
    use rdkafka::message::Headers;
    record.headers()?.iter().filter(|header| header.key == name).last()?.value
}

fn has(text: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || text.windows(wanted.len()).any(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use rdkafka::Timestamp;
    use rdkafka::message::{Header, OwnedHeaders, OwnedMessage};

    use super::*;

    fn record(key: &str, body: Option<&str>, code: Option<&str>) -> OwnedMessage {
        let headers =
            code.map(|code| OwnedHeaders::new().insert(Header { key: "error-code", value: Some(code) }));
        let body = body.map(|body| body.as_bytes().to_vec());
        OwnedMessage::new(body, Some(key.into()), "t".into(), Timestamp::NotAvailable, 3, 0, headers)
    }

    #[test]
    fn a_partition_must_exist() {
        let of = |partition| Filter { partition: Some(partition), ..Filter::default() };
        assert!(of(3).check("t", &[0, 1, 2, 3]).is_ok());
        let error = of(99).check("t", &[0, 1, 2, 3]).map_err(|error| error.0);
        assert_eq!(error, Err("--partition: t has partitions 0 to 3, not 99".to_owned()));
        assert!(of(1).check("t", &[0]).is_err());
        assert!(Filter::default().check("t", &[0]).is_ok());
    }

    #[test]
    fn all_that_is_given_must_hold() {
        let event = record(
            "u",
            Some(r#"{"event_type":"E","flag_name":"a","user_id":"u","environment":"e","reason":"DEFAULT"}"#),
            None,
        );
        let many = record("u", Some(r#"{"flag_names":["b","a"],"user_id":"u"}"#), None);
        let gone = record("e/a/b", None, None);
        let dead = record("u", Some("{"), Some("NOT_JSON"));
        let all = [event, many, gone, dead];
        let taken = |filter: Filter| all.iter().map(|record| filter.takes(record)).collect::<Vec<_>>();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(taken(Filter::default()), [true; 4]);
        assert_eq!(taken(Filter { flag: some("a"), ..Filter::default() }), [true, true, false, false]);
        assert_eq!(taken(Filter { flag: some("a/b"), ..Filter::default() }), [false, false, true, false]);
        assert_eq!(taken(Filter { environment: some("e"), ..Filter::default() }), [true, false, true, false]);
        assert_eq!(taken(Filter { word: some("DEFAULT"), ..Filter::default() }), [true, false, false, false]);
        assert_eq!(
            taken(Filter { word: some("NOT_JSON"), ..Filter::default() }),
            [false, false, false, true]
        );
        let two = Filter { user: some("u"), contains: some("names"), ..Filter::default() };
        assert_eq!(taken(two), [false, true, false, false]);
        assert_eq!(
            taken(Filter { key: some("u"), partition: Some(3), ..Filter::default() }),
            [true, true, false, true]
        );
        assert_eq!(taken(Filter { partition: Some(4), ..Filter::default() }), [false; 4]);
    }
}
