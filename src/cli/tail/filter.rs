//! Which records are shown.

use rdkafka::Message;
use serde_json::Value;

/// All that is given must hold.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub struct Filter {
    /// About this flag only
    #[arg(long, value_name = "FLAG")]
    flag: Option<String>,
    /// Of this user only
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// Of this environment only
    #[arg(long)]
    environment: Option<String>,
    /// With this event_type, reason, error_code, or code of a dead letter only
    #[arg(long = "type", value_name = "WORD")]
    word: Option<String>,
    /// With this key only
    #[arg(long)]
    key: Option<String>,
    /// Of this partition only
    #[arg(long)]
    partition: Option<i32>,
    /// With this text in the value, as it is written there
    #[arg(long, value_name = "TEXT")]
    contains: Option<String>,
}

impl Filter {
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
        // A tombstone tells its flag by its key, and so does every definition.
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
