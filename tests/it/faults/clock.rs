//! One instance whose clock is an hour off, beside one whose clock is right.

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};

use super::*;
use crate::harness::{Answer, call, post, wait_for, with_clock};

const ENVIRONMENT: &str = "production";

/// An instance that is right, one whose clock is off, and a database.
struct Clocks {
    fixture: Fixture,
    right: Service,
    wrong: Service,
}

impl Clocks {
    /// Starts the instances; the right one leads.
    fn start(stack: &Stack, offset_seconds: i64) -> Self {
        let mut fixture = Fixture::new(stack, Mode::Transactional).impatient();
        let database = Database::create(stack);
        fixture.group = fixture
            .group
            .set("DATABASE_URL", &database.url)
            .set("UNLEASH_ENVIRONMENT", ENVIRONMENT)
            .set("FLAGSTREAM_AUTH__ANONYMOUS_SCOPES", "evaluate,read,write,delete");
        fixture.database = Some(database);
        let shifted = with_clock(&fixture.group, offset_seconds);
        let right = fixture.group.start("right");
        wait_until("the right one leads", TEST_TIMEOUT, || leads(&right));
        let wrong = shifted.start("wrong");
        Self { fixture, right, wrong }
    }

    /// The clock is named on the instance where it is wrong, with its distance and direction.
    fn assert_named(&self, seconds: f64, side: &str) {
        let clock = wait_for("the clock is named", TEST_TIMEOUT, || {
            let clock = clock(&self.wrong);
            (clock["state"] == "degraded").then_some(clock)
        });
        let detail = clock["detail"].as_str().unwrap();
        println!("{detail}");
        assert!(detail.contains("the database's clock is") && detail.contains(side), "{detail}");
        let skew = |service: &Service| {
            service.metrics().sum("flagstream_clock_skew_seconds", &[("against", "database")])
        };
        assert!((skew(&self.wrong) - seconds).abs() < 60.0, "{}", skew(&self.wrong));
        assert!(skew(&self.right).abs() < 60.0, "{}", skew(&self.right));
    }

    /// Both instances answer requests; each is answered and audited once, also by the one whose clock is off.
    fn load(&mut self) {
        self.fixture.load(300);
        wait_until_at_work(&self.wrong);
        wait_until_at_work(&self.right);
    }

    /// Leadership moves to the instance whose clock is off and back; each change is in force on both, under a higher
    /// version.
    fn leadership_moves(&mut self) {
        let first = changed(&self.right);
        self.right.kill();
        wait_until("the wrong one leads", TEST_TIMEOUT, || leads(&self.wrong));
        let second = changed(&self.wrong);
        self.right.spawn();
        self.right.wait_until_ready();
        self.wrong.kill();
        wait_until("the right one leads again", TEST_TIMEOUT, || leads(&self.right));
        let third = changed(&self.right);
        assert!(first < second && second < third, "{first} {second} {third}");
        self.wrong.spawn();
        self.wrong.wait_until_ready();
        for service in [&self.right, &self.wrong] {
            wait_until("the last change", TEST_TIMEOUT, || {
                evaluate(service, "mine")["flag_version"] == third
            });
        }
        self.fixture.ledger.sign_of_life("all partitions served", TEST_TIMEOUT * 2);
    }
}

fn leads(service: &Service) -> bool {
    service.metrics().sum("flagstream_feed_leader", &[]) == 1.0
}

fn clock(service: &Service) -> Value {
    service.health()["parts"]["clock"].clone()
}

fn url(service: &Service, path: &str) -> String {
    format!("{}/api/v1/feature-flags{path}?environment={ENVIRONMENT}", service.url)
}

fn evaluate(service: &Service, flag: &str) -> Value {
    let body = json!({"flag_name": flag, "user_id": "u", "environment": ENVIRONMENT});
    post(&format!("{}/api/v1/feature-flags/evaluate", service.url), &body).json()
}

fn put(service: &Service, method: &str, path: &str, body: &Value) -> Answer {
    let headers = [("content-type", "application/json")];
    call(method, &url(service, path), &headers, body.to_string().as_bytes())
}

/// Changes the flag `mine` and returns the version under which the change is in force.
fn changed(service: &Service) -> u64 {
    let body = json!({"description": format!("{}", rand::random::<u32>()), "is_enabled": true});
    wait_until("changed", TEST_TIMEOUT, || put(service, "PUT", "/mine", &body).status == 200);
    evaluate(service, "mine")["flag_version"].as_u64().unwrap()
}

fn kill_until(service: &Service, flag: &str, expires_at: chrono::DateTime<Utc>) {
    let body = json!({"reason": "for a while", "expires_at": expires_at.to_rfc3339()});
    let killed = put(service, "POST", &format!("/{flag}/kill"), &body);
    assert_eq!(killed.status, 200, "{killed:?}");
}

/// The actions of the change log on the flag's kill switch.
fn actions(service: &Service, flag: &str) -> Vec<String> {
    let changes = call("GET", &url(service, &format!("/{flag}/changes")), &[], b"").json();
    let changes = changes.as_array().unwrap().iter().filter(|change| change["source"] == "override");
    changes.map(|change| change["action"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_clock_that_is_an_hour_ahead_is_named_and_ends_nothing_early_for_the_others() {
    let (stack, _shared) = Stack::shared();
    // Brokers refuse records that are more than an hour ahead of their own clock.
    let mut clocks = Clocks::start(stack, 55 * 60);
    for flag in ["mine", "brief"] {
        let body = json!({"name": flag, "environment": ENVIRONMENT, "is_enabled": true});
        let made = put(&clocks.right, "POST", "", &body);
        assert!(matches!(made.status, 201 | 202), "{made:?}");
    }
    clocks.assert_named(-3_300.0, "behind this machine's");
    clocks.load();
    for service in [&clocks.right, &clocks.wrong] {
        wait_until("the flags", TEST_TIMEOUT, || evaluate(service, "brief")["enabled"] == true);
    }

    // By the clock of one of them this switch has expired: its own answers change, and no other instance's.
    kill_until(&clocks.right, "mine", Utc::now() + TimeDelta::minutes(30));
    let version = evaluate(&clocks.right, "mine")["flag_version"].clone();
    wait_until("it has the switch", TEST_TIMEOUT, || {
        evaluate(&clocks.wrong, "mine")["flag_version"] == version
    });
    assert_eq!(evaluate(&clocks.wrong, "mine")["enabled"], true);
    // The right one records this expiry. The wrong one had as much time for the other switch.
    kill_until(&clocks.right, "brief", Utc::now() + TimeDelta::seconds(3));
    wait_until("the expiry is recorded", TEST_TIMEOUT, || {
        actions(&clocks.right, "brief") == ["expired", "killed"]
    });
    assert_eq!(actions(&clocks.right, "mine"), ["killed"]);
    assert_eq!(evaluate(&clocks.right, "mine")["enabled"], false);

    // Tokens expire by the clock of the instance that checks them.
    let body =
        json!({"name": "short", "scopes": ["evaluate"], "environments": [ENVIRONMENT], "expires_in": "30m"});
    let admin = format!("Bearer {}", crate::harness::HEALTH_TOKEN);
    let headers = [("content-type", "application/json"), ("authorization", admin.as_str())];
    let tokens = format!("{}/api/v1/tokens", clocks.right.url);
    let token = call("POST", &tokens, &headers, body.to_string().as_bytes());
    assert_eq!(token.status, 201, "{token:?}");
    let bearer = format!("Bearer {}", token.json()["token"].as_str().unwrap());
    let ask = |service: &Service| {
        let body = json!({"flag_name": "on", "user_id": "u", "environment": ENVIRONMENT}).to_string();
        let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
        call("POST", &format!("{}/api/v1/feature-flags/evaluate", service.url), &headers, body.as_bytes())
            .status
    };
    wait_until("it counts where the clock is right", TEST_TIMEOUT, || ask(&clocks.right) == 200);
    wait_until("it has expired where the clock is ahead", TEST_TIMEOUT, || ask(&clocks.wrong) == 401);

    assert_eq!(put(&clocks.right, "POST", "/mine/restore", &json!({"reason": "over"})).status, 200);
    clocks.leadership_moves();
    clocks.fixture.balance();
}

#[test]
fn a_clock_that_is_an_hour_behind_is_named_and_keeps_nothing_from_ending() {
    let (stack, _shared) = Stack::shared();
    let mut clocks = Clocks::start(stack, -3_600);
    let body = json!({"name": "mine", "environment": ENVIRONMENT, "is_enabled": true});
    let made = put(&clocks.right, "POST", "", &body);
    assert!(matches!(made.status, 201 | 202), "{made:?}");
    clocks.assert_named(3_600.0, "ahead of this machine's");
    clocks.load();
    // By the clock of one of them the switch is in force for an hour more. The other one records that it has expired.
    kill_until(&clocks.right, "mine", Utc::now() + TimeDelta::seconds(3));
    for service in [&clocks.right, &clocks.wrong] {
        wait_until("expired everywhere", TEST_TIMEOUT, || evaluate(service, "mine")["enabled"] == true);
    }
    assert_eq!(actions(&clocks.right, "mine"), ["expired", "killed"]);
    clocks.leadership_moves();
    clocks.fixture.balance();
}
