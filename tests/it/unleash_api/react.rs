//! Unleash's SDK for React, unchanged, in a browser: pages of other origins than the service's.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::metrics::totals;
use super::sdks::Sdks;
use super::{Fixture, ask};
use crate::harness::{
    Mood, Received, Stack, TEST_TIMEOUT, TopicReader, free_port, programs, rollout, wait_until,
};

/// Pages in one browser.
struct Pages<'p> {
    stack: &'p Stack,
    browser: &'p Path,
    url: &'p str,
    token: &'p str,
    flags: &'p [String],
}

impl Pages<'_> {
    /// Opens pages with the SDK; each has a name and a port, which make its origin.
    fn open(&self, pages: &[(&str, u16)]) -> Sdks {
        let pages = pages.iter().map(|(name, port)| {
            let config = json!({"url": format!("{}/api/frontend", self.url), "clientKey": self.token,
                "appName": name, "refreshInterval": 0.3, "metricsIntervalInitial": 0.5, "metricsInterval": 0.5,
                "context": {"userId": "user-1"}});
            json!({"name": name, "port": port, "config": config, "flags": self.flags})
        });
        let settings = json!({"chromium": self.browser, "pages": pages.collect::<Vec<_>>()});
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/unleash_api/react/browser.mjs");
        let mut command = Command::new("node");
        command.args([script, &settings.to_string()]);
        command.env("FLAGSTREAM_TEST_NODE_MODULES", &self.stack.node_modules);
        let mut sdks = Sdks::new();
        sdks.spawn(&mut command);
        sdks
    }
}

/// A strategy for everyone with one variant.
fn with_variant(name: &str, payload: &str) -> Value {
    let mut strategy = rollout(&json!([]));
    strategy["variants"] = json!([{"name": name, "weight": 1000, "weightType": "variable",
        "stickiness": "default", "payload": {"type": "string", "value": payload}}]);
    strategy
}

#[test]
fn a_page_with_the_sdk_for_react_follows_changes_and_kills_and_reports() {
    let (stack, _shared) = Stack::shared();
    let Some(browser) = programs::browser() else {
        let _ = writeln!(std::io::stderr(), "the SDK for React: skipped: there is no Chromium or Chrome");
        return;
    };
    let (shop, foreign) = (free_port(), free_port());
    let fixture = Fixture::new(stack)
        .set("FLAGSTREAM_API__CORS_ORIGINS", &format!("http://127.0.0.1:{shop},https://shop.example.com"));
    let admin = &fixture.admin;
    admin.create_all(&[
        ("steady".to_owned(), rollout(&json!([]))),
        ("toggled".to_owned(), rollout(&json!([]))),
        ("colour".to_owned(), with_variant("blue", "#00f")),
    ]);
    admin.record_impressions("colour");
    let mut service = fixture.group.start("one");
    wait_until("the flag has impressions", TEST_TIMEOUT, || {
        let answer = ask(&service, "/api/frontend?userId=waiting", Some(&fixture.frontend)).json();
        answer["toggles"].to_string().contains("\"impressionData\":true")
    });
    let topics = &fixture.group.topics;
    let mut events = TopicReader::open(&topics.kafka, &topics.events);
    let flags = ["steady", "toggled", "colour"].map(|flag| admin.name(flag));
    let url = service.url.clone();
    let pages = Pages { stack, browser: &browser, url: &url, token: &fixture.frontend, flags: &flags };
    let mut sdks = pages.open(&[("shop", shop), ("foreign", foreign)]);
    let shows = |steady: &str, toggled: &str, colour: &str| json!({&flags[0]: steady, &flags[1]: toggled, &flags[2]: colour});
    let agree = |what: &str, sdks: &mut Sdks, state: &Value| {
        println!("{what}: {:?} ms", sdks.agree(what, &["shop"], state));
    };
    agree("flags and a variant", &mut sdks, &shows("on", "on", "blue (#00f)"));
    sdks.wait("a page of an origin that is not listed is refused by the browser", |sdks| {
        !sdks.with("foreign", "error").is_empty()
    });
    admin.turn_off("toggled");
    agree("a change", &mut sdks, &shows("on", "off", "blue (#00f)"));
    fixture.kill(&service, "colour");
    agree("a kill", &mut sdks, &shows("on", "off", "off"));

    // A restart while Unleash is unreachable: the page keeps its flags, its token stays valid, and kills reach it.
    fixture.proxy.set(Mood::Down);
    service.stop();
    service.spawn();
    service.wait_until_ready();
    fixture.kill(&service, "steady");
    agree("a kill after a restart without Unleash", &mut sdks, &shows("off", "off", "off"));
    fixture.proxy.set(Mood::Good);
    admin.turn_on("toggled");
    agree("a change after the outage", &mut sdks, &shows("off", "on", "off"));

    let impression = events
        .wait("the impression", TEST_TIMEOUT, |event: &Received| event.json()["source"]["app"] == "shop")
        .json();
    assert_eq!(
        (&impression["flag_name"], &impression["variant"], &impression["user_id"]),
        (&json!(flags[2]), &json!("blue"), &json!("user-1"))
    );
    assert!(impression["source"]["connection"].is_string(), "{impression}");
    wait_until("Unleash has what the page counted", 3 * TEST_TIMEOUT, || {
        let (on, off) = totals(&fixture, "steady");
        on + off > 0
    });
    assert!(sdks.with("foreign", "flags").iter().all(|line| line["flags"].as_object().unwrap().is_empty()));
    for page in ["shop", "foreign"] {
        assert!(sdks.with(page, "fault").is_empty(), "{:?}", sdks.with(page, "fault"));
    }
    let blocked = |page: &str| {
        sdks.with(page, "console").iter().any(|line| line["console"].to_string().contains("CORS policy"))
    };
    assert!(blocked("foreign") && !blocked("shop"), "{:#?}", sdks.seen);
}
