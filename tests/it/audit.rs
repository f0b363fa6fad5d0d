//! The audit trail: every committed event is a row, once, whatever breaks.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::harness::{Database, Flag, Flags, Group, Ledger, Load, SOON, Service, Stack, is_long, wait_until};

/// Evaluators and sinks under load, the books of events, and the database.
struct Scene {
    group: Group,
    database: Database,
    ledger: Ledger,
    load: Option<Load>,
    reply_to: String,
    at_least_once: bool,
}

impl Scene {
    fn new(stack: &Stack) -> Self {
        let database = Database::create(stack);
        let group = Group::new(stack)
            .set("DATABASE_URL", &database.url)
            .set("FLAGSTREAM_DELIVERY__SESSION_TIMEOUT", "2s")
            .set("FLAGSTREAM_DELIVERY__TRANSACTION_TIMEOUT", "2s");
        let mut flags = Flags::new(&group.topics);
        flags.set("production", Flag::on("on"));
        flags.set("production", Flag::off("off"));
        let theme = Flag::on("theme").where_in("subscription_tier", &["premium"]);
        flags.set("production", theme.variant("dark", Some(("string", "dark"))));
        let reply_to = group.topics.reply_topic("load");
        let ledger = Ledger::open(&group.topics, &reply_to);
        Self { group, database, ledger, load: None, reply_to, at_least_once: false }
    }

    fn at_least_once(mut self) -> Self {
        self.group = self.group.set("FLAGSTREAM_DELIVERY__MODE", "at_least_once");
        self.at_least_once = true;
        self
    }

    /// An instance with these roles only.
    fn start(&self, name: &str, roles: &str) -> Service {
        let mut service = self.group.prepare(name).roles(roles);
        service.spawn();
        service.wait_until_ready();
        service
    }

    fn load(&mut self, rate: u32) {
        self.load = Some(Load::start(&self.group.topics, &self.reply_to, rate));
        self.ledger.sign_of_life("all partitions served", SOON);
    }

    /// Lets the load run into whatever the test broke.
    fn run_for(&mut self, time: Duration) {
        let before = std::time::Instant::now();
        while before.elapsed() < time {
            self.ledger.progress();
        }
    }

    /// Waits until rows are added.
    fn wait_for_rows(&mut self, what: &str) {
        let before = self.database.audited();
        wait_until(what, SOON, || self.database.audited() > before);
    }

    /// Events committed = rows.
    fn balance(mut self) -> Database {
        let sent = self.load.take().unwrap().stop();
        let events = if self.at_least_once {
            self.ledger.assert_last_pair_suffices()
        } else {
            self.ledger.assert_exactly_once()
        };
        self.database.assert_audited(&events, SOON * 2);
        println!("{sent} requests, {} events, {} rows", events.len(), self.database.audited());
        self.database
    }
}

fn sum(services: &[Service], metric: &str) -> f64 {
    services.iter().map(|service| service.metrics().sum(metric, &[])).sum()
}

#[test]
fn evaluated_published_and_audited_agree() {
    let (stack, _together) = Stack::together();
    let mut scene = Scene::new(stack);
    let services = [scene.group.start("a"), scene.group.start("b")];
    scene.load(1_000);
    scene.wait_for_rows("rows are written");
    scene.run_for(Duration::from_secs(3));
    let database = scene.balance();
    let rows = database.audited() as f64;
    wait_until("audited as counted", SOON, || sum(&services, "flagstream_audit_rows_total") >= rows);
    for metric in
        ["flagstream_evaluations_total", "flagstream_events_published_total", "flagstream_audit_rows_total"]
    {
        assert_eq!(sum(&services, metric), rows, "{metric}");
    }
    let versions: Vec<(String, i64, String)> =
        database.rows("SELECT name, version, checksum FROM feature_flag_versions ORDER BY name");
    assert_eq!(versions.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(), ["off", "on", "theme"]);
    let cached: Vec<(String, bool, bool)> = database.rows(
        "SELECT f.name, f.is_enabled, f.version = v.version AND f.last_synced_at IS NOT NULL
         FROM feature_flags f JOIN feature_flag_versions v USING (environment, name) ORDER BY f.name",
    );
    let expected = [("off", false), ("on", true), ("theme", true)];
    assert_eq!(cached, expected.map(|(name, on)| (name.to_owned(), on, true)));
}

#[test]
fn sinks_are_killed_at_random_moments() {
    sinks_are_killed(false);
}

#[test]
fn sinks_are_killed_at_random_moments_at_least_once() {
    sinks_are_killed(true);
}

fn sinks_are_killed(at_least_once: bool) {
    let (stack, _together) = Stack::together();
    let seed = rand::random();
    println!("seed {seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let mut scene = Scene::new(stack);
    if at_least_once {
        scene = scene.at_least_once();
    }
    let mut evaluator = scene.start("evaluator", "evaluator,api");
    let mut sinks: Vec<_> = ["a", "b"].iter().map(|name| scene.start(name, "sink")).collect();
    scene.load(if is_long() { 4_000 } else { 1_500 });
    scene.wait_for_rows("rows are written");
    let kills = if is_long() { 24 } else { 3 };
    for _ in 0..kills {
        scene.run_for(Duration::from_millis(chance.random_range(100..1_500)));
        let victim = chance.random_range(0..sinks.len());
        sinks[victim].kill();
        if at_least_once {
            // Writes results again that the sink has seen already.
            evaluator.kill();
            evaluator.spawn();
        }
        if chance.random_bool(0.4) {
            scene.wait_for_rows("the other took over");
        }
        sinks[victim].spawn();
    }
    sinks.iter_mut().for_each(Service::wait_until_ready);
    evaluator.wait_until_ready();
    scene.balance();
}
