use std::path::Path;

use crate::config::{ConfigError, Profile, load_from};

use super::*;

fn load(file: &str) -> Result<Vec<TapConfig>, Vec<String>> {
    let loaded = load_from(Some((Path::new("flagstream.toml"), file)), [], Profile::Service);
    loaded.map(|loaded| loaded.config.taps).map_err(|ConfigError(problems)| problems)
}

/// A tap with these settings after `name` in line 2, `source`, `target` and `flags`: they begin in line 6.
fn with(settings: &str) -> String {
    format!(
        "[[taps]]\nname = \"orders\"\nsource = \"orders\"\ntarget = \"flagged\"\nflags = [\"a\", \"b\"]\n{settings}\n"
    )
}

#[test]
fn every_setting_of_a_tap_is_read() {
    let file = with(
        "environment = \"staging\"\nformat = \"json\"\nuser = \"/customer/id\"\nsession = \"key\"\n\
         context = { plan = \"/c/pl~1an\", country = \"header:country\" }\nwrite = { member = \"flags\" }\n\
         audit = \"exposures\"\non_missing_user = \"dead_letter\"\n\
         route = { b = { red = \"canary\" }, a = { on = \"canary\", off = \"flagged\" } }",
    );
    let tap = load(&file).unwrap().remove(0);
    assert_eq!((tap.source.as_str(), tap.environment.as_deref()), ("orders", Some("staging")));
    assert_eq!(tap.user, Some(Selector::Value(vec!["customer".to_owned(), "id".to_owned()])));
    assert_eq!(tap.session, Some(Selector::Key));
    let plan = ("plan".to_owned(), Selector::Value(vec!["c".to_owned(), "pl/an".to_owned()]));
    assert_eq!(tap.context, [("country".to_owned(), Selector::Header(c"country".to_owned())), plan]);
    assert_eq!((tap.write.clone(), tap.audit), (TapWrite::Member("flags".to_owned()), TapAudit::Exposures));
    assert_eq!((tap.on_missing_user, tap.format), (OnMissingUser::DeadLetter, InputFormat::Json));
    let routed: Vec<_> = tap.routes.iter().map(|route| route.flag.as_str()).collect();
    assert_eq!(routed, ["a", "b"], "in the order of `flags`");
    assert_eq!(tap.outputs(), ["flagged", "canary"]);
}

#[test]
fn defaults_of_a_tap() {
    let tap = load(&with("")).unwrap().remove(0);
    assert_eq!((tap.write.clone(), tap.audit), (TapWrite::Headers, TapAudit::All));
    assert_eq!((tap.on_missing_user, tap.format), (OnMissingUser::Evaluate, InputFormat::Auto));
    assert!(tap.user.is_none() && !tap.reads_value());
}

#[test]
fn each_mistake_is_reported_with_its_line_and_name() {
    let cases = [
        ("user = \"customer\"", "6: taps.orders.user: expected a JSON pointer"),
        ("user = \"/a~2\"", "6: taps.orders.user: expected `~0` or `~1`"),
        ("user = \"header:\"", "6: taps.orders.user: expected"),
        ("user = [\"/a\"]", "6: taps.orders.user: expected a string"),
        ("context = \"x\"", "6: taps.orders.context: expected a table"),
        ("context = { userId = \"key\" }", "6: taps.orders.context.userId: expected an attribute"),
        ("context = { plan = \"plan\" }", "6: taps.orders.context.plan: expected a JSON pointer"),
        ("write = \"member\"", "6: taps.orders.write: expected `\"headers\"` or `{ member"),
        ("write = { member = \"\" }", "6: taps.orders.write: expected"),
        (
            "write = { member = \"f\" }\nformat = \"avro\"",
            "taps.orders.write: a member can be added to JSON only",
        ),
        ("audit = \"some\"", "6: taps.orders.audit: expected `all` or `exposures` or `none`, not `some`"),
        ("on_missing_user = \"skip\"", "6: taps.orders.on_missing_user: expected"),
        ("on_missing_user = \"pass\"", "taps.orders.user: must be set"),
        ("route = { c = { on = \"x\" } }", "6: taps.orders.route.c: expected one of `flags`"),
        ("route = { a = \"x\" }", "6: taps.orders.route.a: expected a table"),
        ("route = { a = { on = \"no topic!\" } }", "6: taps.orders.route.a.on: "),
        ("colour = \"red\"", "6: taps.orders.colour: unknown key; known are name"),
        ("environment = \"\"", "6: taps.orders.environment: "),
    ];
    for (settings, expected) in cases {
        let problems = load(&with(settings)).unwrap_err();
        let is_named = problems.iter().any(|problem| problem.contains(expected));
        assert!(is_named && problems.len() == 1, "{settings}: {problems:?}");
        assert!(problems[0].starts_with("flagstream.toml:"), "{problems:?}");
    }
    for (file, expected) in [
        ("[[taps]]\n", "flagstream.toml:1: taps.name: must be set"),
        ("taps = 3\n", "taps: expected `[[taps]]` entries"),
        ("taps = [3]\n", "taps: expected a table"),
        ("[[taps]]\nname = \"a b\"\n", "taps.a b.name: expected 1 to 64 letters"),
    ] {
        let problems = load(file).unwrap_err();
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{file}: {problems:?}");
    }
    let flags = |flags: &str| load(&with("").replace("[\"a\", \"b\"]", flags)).unwrap_err().remove(0);
    assert!(flags("[]").contains("expected 1 to 100 names, got 0"));
    assert!(flags("[\"a\", \"a\"]").contains("each once, not `a`"));
    assert!(flags("\"a\"").contains("expected a list"));
}

#[test]
fn topics_of_flagstream_and_loops_are_refused() {
    let refused = |from: &str, to: &str| load(&with("").replace(from, to)).unwrap_err().remove(0);
    let own = refused("source = \"orders\"", "source = \"feature-flag-events\"");
    assert!(
        own.contains("taps.orders.source: expected a topic other than flagstream's own (topics.events)"),
        "{own}"
    );
    let own = refused("target = \"flagged\"", "target = \"feature-flag-evaluation-requests\"");
    assert!(own.contains("taps.orders.target: "), "{own}");
    assert!(refused("\"flagged\"", "\"__consumer_offsets\"").contains("not internal to Kafka"));
    assert!(
        refused("\"flagged\"", "\"orders\"")
            .contains("what tap orders writes comes back to its source orders")
    );
    let second = |source: &str, target: &str| {
        let second = format!(
            "[[taps]]\nname = \"second\"\nsource = \"{source}\"\ntarget = \"{target}\"\nflags = [\"a\"]\n"
        );
        load(&(with("route = { a = { on = \"canary\" } }") + &second))
    };
    assert_eq!(second("flagged", "last").unwrap().len(), 2, "a chain is no loop");
    assert_eq!(second("orders", "flagged").unwrap().len(), 2, "of one topic");
    let problem = second("canary", "orders").unwrap_err().remove(0);
    assert!(problem.contains("comes back to its source"), "{problem}");
    let twice = load(&(with("") + &with(""))).unwrap_err().remove(0);
    assert!(twice.contains("`orders` is also the name of another tap"), "{twice}");
}

#[test]
fn taps_are_bounded() {
    let many: String = (0..=MAX_TAPS_COUNT)
        .map(|number| with("").replace("name = \"orders\"", &format!("name = \"t{number}\"")))
        .collect();
    assert!(load(&many).unwrap_err()[0].contains("expected at most 64 entries, got 65"));
    let flags: Vec<_> = (0..=MAX_TAP_FLAGS_COUNT).map(|number| format!("\"f{number}\"")).collect();
    let file = with("").replace("\"a\", \"b\"", &flags.join(","));
    assert!(load(&file).unwrap_err()[0].contains("expected 1 to 100 names, got 101"));
}
