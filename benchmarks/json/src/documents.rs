//! Documents that are read: requests of several sizes, and short ones for corner cases.

use std::fmt::Write;

/// Requests of one kind.
pub struct Documents {
    pub name: &'static str,
    pub texts: Vec<String>,
}

impl Documents {
    /// Mean length of a request in bytes.
    pub fn bytes(&self) -> usize {
        self.texts.iter().map(String::len).sum::<usize>() / self.texts.len()
    }
}

/// The documents that are timed. They differ from each other, so that the processor cannot learn one by heart.
pub fn timed() -> Vec<Documents> {
    let set =
        |name, count: usize, of: fn(usize) -> String| Documents { name, texts: (0..count).map(of).collect() };
    vec![
        set("1 flag", 1_000, one_flag),
        set("10 flags", 1_000, ten_flags),
        set("context of 1 KB", 500, |number| large_context(number, 1_000)),
        set("context of 20 KB", 50, |number| large_context(number, 20_000)),
    ]
}

/// The request of `scripts/instructions` (crates/protocol/examples/instructions.rs).
fn one_flag(number: usize) -> String {
    let (region, tier) = (region(number), tier(number));
    let default = if number % 3 == 1 { "\"auto\"" } else { "false" };
    format!(
        "{{\"request_id\":\"{number:020}\",\"flag_name\":\"flag-{number}\",\"user_id\":\"user-{number}\",\
         \"session_id\":\"s-{number}\",\"context\":{{\"region\":\"{region}\",\"subscription_tier\":\"{tier}\",\
         \"app_version\":\"4.2.1\"}},\"default_value\":{default},\"environment\":\"production\"}}"
    )
}

fn ten_flags(number: usize) -> String {
    let (region, tier) = (region(number), tier(number));
    let name = |flag: usize| format!("\"checkout-flag-{}\"", number + flag * 31);
    let names: Vec<String> = (0..10).map(name).collect();
    let values = ["false", "true", "\"light\"", "12.50", "{\"limit\": 5}"];
    let defaults: Vec<String> =
        (0..10).map(|flag| format!("{}:{}", name(flag), values[(number + flag) % 5])).collect();
    format!(
        "{{\"request_id\":\"{number:020}\",\"flag_names\":[{}],\"user_id\":\"user-{number}\",\"session_id\":\"s-{number}\",\
         \"context\":{{\"region\":\"{region}\",\"subscription_tier\":\"{tier}\",\"app_version\":\"4.2.1\"}},\
         \"default_values\":{{{}}},\"environment\":\"production\"}}",
        names.join(","),
        defaults.join(",")
    )
}

/// A request for one flag, with properties of all kinds until the context has `bytes` bytes.
fn large_context(number: usize, bytes: usize) -> String {
    let mut context = format!("\"region\":\"{}\"", region(number));
    for property in number.. {
        if context.len() >= bytes {
            break;
        }
        let value = match property % 8 {
            0 => format!("\"{}\"", tier(property)),
            1 => format!("\"Mozilla/5.0 (X11; Linux x86_64) build/{property}\""),
            2 => format!("{}", property * 7_919),
            3 => format!("{}.{:02}", property % 1_000, property % 97),
            4 => format!("{}", property % 3 == 0),
            5 => format!("[\"cohort-{property}\",\"cohort-{}\",\"beta\"]", property + 1),
            6 => format!("{{\"plan\":\"{}\",\"seats\":{},\"trial\":false}}", tier(property), property % 50),
            // Every 32nd property has escapes, and some text is not ASCII.
            _ if property % 32 == 7 => format!("\"said \\\"yes\\\"\\nin line {property}\""),
            _ => format!("\"Zürich, Höhe {property}\""),
        };
        // Writing to a String cannot fail.
        let _ = write!(context, ",\"attribute_{property}\":{value}");
    }
    format!(
        "{{\"request_id\":\"{number:020}\",\"flag_name\":\"flag-{number}\",\"user_id\":\"user-{number}\",\
         \"session_id\":\"s-{number}\",\"context\":{{{context}}},\"default_value\":false,\"environment\":\"production\"}}"
    )
}

fn region(number: usize) -> &'static str {
    ["us-west", "us-east", "eu-central", "ap-south"][number % 4]
}

fn tier(number: usize) -> &'static str {
    ["free", "premium", "enterprise"][number % 3]
}

/// Valid requests with unusual content.
pub const UNUSUAL: [&str; 11] = [
    r#"{"flag_name":"f"}"#,
    " {\t\"flag_name\" :\r\n\"f\" , \"context\" : { \"a\" : 1 , \"b\" : [ 1 , 2 ] } } ",
    r#"{"flag_name":"a\"b\u00e9\ud83d\ude00","user_id":"u\\1","context":{"k\n":"v\t"}}"#,
    r#"{"flag_name":"f","context":{"n":12345678901234567890.1234567890,"m":-0.0e+10}}"#,
    r#"{"flag_name":"f","user_id":42,"session_id":1.50,"request_id":true}"#,
    r#"{"flag_name":"f","user_id":"","session_id":null,"context":null,"default_value":null,"environment":null}"#,
    r#"{"flag_name":"f","context":{"a":"1","b":"2","a":null,"b":"3","userId":"u","sessionId":"s","appName":7}}"#,
    r#"{"flag_name":"f","unknown":{"x":[{"y":null}]},"requested_at":"2026-01-15T10:30:00Z","default_value":"a\"b"}"#,
    r#"{"flag_names":["f","g"],"default_values":{"f":{"a":[1, 2]},"g":"x\ty","h":null},"value_types":{"f":"object"}}"#,
    r#"{"flag_name":"f","value_type":"integer","default_value":5.0,"context":{}}"#,
    r#"{"flag_name":"f","session_id":"generated-0123456789abcdef0123456789abcdef"}"#,
];

/// Invalid requests.
pub const INVALID: [&[u8]; 22] = [
    b"",
    b"null",
    b"[]",
    br#"{"flag_name":"f""#,
    br#"{"flag_name":"f"}}"#,
    br#"{"flag_name":"f"} x"#,
    br#"{"flag_name":"f",}"#,
    br#"{"flag_name":"f" "user_id":"u"}"#,
    br#"{flag_name:"f"}"#,
    br#"{"flag_name":"f","flag_name":"g"}"#,
    br#"{"flag_name":5}"#,
    br#"{"flag_name":"f","flag_names":["f"]}"#,
    br#"{"user_id":"u"}"#,
    br#"{"flag_names":["f",5]}"#,
    br#"{"flag_name":"f","context":[]}"#,
    br#"{"flag_name":"f","context":{"a":01}}"#,
    br#"{"flag_name":"f","context":{"a":1.}}"#,
    br#"{"flag_name":"f","context":{"a":nul}}"#,
    br#"{"flag_name":"f","context":{"a":[1,]}}"#,
    br#"{"flag_name":"f","context":{"a":"\x"}}"#,
    b"{\"flag_name\":\"f\",\"context\":{\"a\":\"\x01\"}}",
    b"{\"flag_name\":\"\xff\"}",
];
