//! Statistics that librdkafka's clients report: round-trip times, queues, rebalances.
//!
//! ```text
//!  enable() ─► librdkafka ─every 10 s─► a client's context ─► record() ─► totals() ─► metrics
//! ```
//!
//! Only clients that are polled all the time may enable statistics: librdkafka queues a report for every interval, and
//! only a poll takes it from the queue.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::statistics::Broker;
use rdkafka::{ClientConfig, Statistics};

/// Interval of the reports, in milliseconds.
const INTERVAL_MS: &str = "10000";
/// Age after which the last report of a client is no longer shown.
const REPORT_TTL: Duration = Duration::from_secs(45);
/// Upper bound of the clients that are remembered. A process has about ten, and creates them again after faults.
const CLIENTS_MAX: usize = 256;

static CLIENTS: Mutex<Clients> = Mutex::new(Clients::new());

/// The clients of one role and kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Client {
    /// Last part of the client id, for example `evaluator-0`.
    pub role: String,
    /// `producer` or `consumer`.
    pub kind: String,
}

/// The sums over the clients of one role and kind.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClientTotals {
    /// The 99th percentile of the last interval with a request, by broker.
    pub rtt_seconds: BTreeMap<String, f64>,
    pub queue_messages: u64,
    pub queue_bytes: u64,
    pub fetched_messages: u64,
    pub requests_in_flight: u64,
    /// Increases only, also when a client is replaced.
    pub rebalances: u64,
    /// Increases only, also when a client is replaced.
    pub request_errors: u64,
}

#[derive(Debug)]
struct Clients {
    /// The roles of the clients with statistics, by client id.
    roles: BTreeMap<String, String>,
    /// The last report of each handle, by its unique name.
    reports: BTreeMap<String, Report>,
    counters: BTreeMap<Client, Counters>,
}

#[derive(Debug)]
struct Report {
    client: Client,
    at: Instant,
    gauges: ClientTotals,
    /// An idle client sends no request for many intervals. Its last round-trip times remain until they expire.
    round_trips: BTreeMap<String, RoundTrip>,
    counters: Counters,
}

#[derive(Debug, Clone, Copy)]
struct RoundTrip {
    at: Instant,
    seconds: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    rebalances: u64,
    request_errors: u64,
}

/// Makes the client report. `role` names it in the metrics. A setting of the operator takes precedence.
pub fn enable(config: &mut ClientConfig, role: &str) {
    if config.get("statistics.interval.ms").is_none() {
        config.set("statistics.interval.ms", INTERVAL_MS);
    }
    if let Some(id) = config.get("client.id") {
        let id = id.to_owned();
        let mut clients = CLIENTS.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.roles.len() < CLIENTS_MAX {
            clients.roles.insert(id, role.to_owned());
        }
    }
}

/// Records the report of a client. Reports of clients that are not [enabled](enable) are ignored.
pub fn record(statistics: &Statistics) {
    CLIENTS.lock().unwrap_or_else(PoisonError::into_inner).record(statistics, Instant::now());
}

/// The current values of all clients that report.
pub fn totals() -> Vec<(Client, ClientTotals)> {
    CLIENTS.lock().unwrap_or_else(PoisonError::into_inner).totals(Instant::now())
}

impl Clients {
    const fn new() -> Self {
        Self { roles: BTreeMap::new(), reports: BTreeMap::new(), counters: BTreeMap::new() }
    }

    fn record(&mut self, statistics: &Statistics, now: Instant) {
        let Some(role) = self.roles.get(&statistics.client_id) else { return };
        let client = Client { role: role.clone(), kind: statistics.client_type.clone() };
        self.reports.retain(|_, report| now.saturating_duration_since(report.at) < REPORT_TTL);
        if self.reports.len() >= CLIENTS_MAX && !self.reports.contains_key(&statistics.name) {
            return;
        }
        let counters = Counters::of(statistics);
        let previous = self.reports.remove(&statistics.name);
        let before = previous.as_ref().map_or(Counters::default(), |report| report.counters);
        let total = self.counters.entry(client.clone()).or_default();
        total.rebalances += counters.rebalances.saturating_sub(before.rebalances);
        total.request_errors += counters.request_errors.saturating_sub(before.request_errors);
        let mut round_trips = previous.map(|report| report.round_trips).unwrap_or_default();
        round_trips.extend(measured_round_trips(statistics, now));
        round_trips.retain(|_, round_trip| now.saturating_duration_since(round_trip.at) < REPORT_TTL);
        let report = Report { client, at: now, gauges: gauges(statistics), round_trips, counters };
        self.reports.insert(statistics.name.clone(), report);
    }

    fn totals(&self, now: Instant) -> Vec<(Client, ClientTotals)> {
        let mut found: HashMap<&Client, ClientTotals> = HashMap::new();
        let current =
            self.reports.values().filter(|report| now.saturating_duration_since(report.at) < REPORT_TTL);
        for report in current {
            let totals = found.entry(&report.client).or_default();
            let recent = |round_trip: &RoundTrip| now.saturating_duration_since(round_trip.at) < REPORT_TTL;
            for (broker, round_trip) in report.round_trips.iter().filter(|(_, found)| recent(found)) {
                let highest = totals.rtt_seconds.entry(broker.clone()).or_default();
                *highest = highest.max(round_trip.seconds);
            }
            totals.queue_messages += report.gauges.queue_messages;
            totals.queue_bytes += report.gauges.queue_bytes;
            totals.fetched_messages += report.gauges.fetched_messages;
            totals.requests_in_flight += report.gauges.requests_in_flight;
        }
        let mut totals: Vec<_> = found
            .into_iter()
            .map(|(client, mut totals)| {
                let counters = self.counters.get(client).copied().unwrap_or_default();
                totals.rebalances = counters.rebalances;
                totals.request_errors = counters.request_errors;
                (client.clone(), totals)
            })
            .collect();
        totals.sort_by(|(one, _), (other, _)| one.cmp(other));
        totals
    }
}

impl Counters {
    fn of(statistics: &Statistics) -> Self {
        let rebalances = statistics.cgrp.as_ref().map_or(0, |group| count(group.rebalance_cnt));
        let errors =
            |broker: &Broker| broker.txerrs.saturating_add(broker.rxerrs).saturating_add(broker.req_timeouts);
        Self { rebalances, request_errors: statistics.brokers.values().map(errors).sum() }
    }
}

/// Brokers without an id are the addresses of the configuration, and the coordinator, which is a broker as well.
fn brokers(statistics: &Statistics) -> impl Iterator<Item = &Broker> {
    statistics.brokers.values().filter(|broker| broker.nodeid >= 0)
}

fn measured_round_trips(statistics: &Statistics, now: Instant) -> impl Iterator<Item = (String, RoundTrip)> {
    brokers(statistics).filter_map(move |broker| {
        let window = broker.rtt.as_ref().filter(|window| window.cnt > 0)?;
        #[allow(clippy::cast_precision_loss)] // Microseconds of a round trip are far below 2^52.
        let seconds = window.p99 as f64 / 1e6;
        Some((broker.nodename.clone(), RoundTrip { at: now, seconds }))
    })
}

fn gauges(statistics: &Statistics) -> ClientTotals {
    let fetched = statistics.topics.values().flat_map(|topic| topic.partitions.values());
    ClientTotals {
        rtt_seconds: BTreeMap::new(),
        queue_messages: statistics.msg_cnt,
        queue_bytes: statistics.msg_size,
        fetched_messages: fetched.map(|partition| count(partition.fetchq_cnt)).sum(),
        requests_in_flight: brokers(statistics)
            .map(|broker| count(broker.outbuf_cnt) + count(broker.waitresp_cnt))
            .sum(),
        rebalances: 0,
        request_errors: 0,
    }
}

fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rdkafka::statistics::{ConsumerGroup, Window};

    use super::*;

    fn report(name: &str, rebalances: i64) -> Statistics {
        let rtt = Some(Window { cnt: 3, p99: 2_500, ..Window::default() });
        let broker = Broker {
            nodeid: 1,
            nodename: "kafka:9092".to_owned(),
            rtt,
            waitresp_cnt: 2,
            ..Broker::default()
        };
        let bootstrap = Broker { nodeid: -1, nodename: "kafka:9092".to_owned(), ..Broker::default() };
        Statistics {
            name: name.to_owned(),
            client_id: "flags-a-evaluator-0".to_owned(),
            client_type: "consumer".to_owned(),
            msg_cnt: 5,
            brokers: [("one".to_owned(), broker), ("two".to_owned(), bootstrap)].into(),
            cgrp: Some(ConsumerGroup { rebalance_cnt: rebalances, ..ConsumerGroup::default() }),
            ..Statistics::default()
        }
    }

    fn clients() -> Clients {
        let mut clients = Clients::new();
        clients.roles.insert("flags-a-evaluator-0".to_owned(), "evaluator-0".to_owned());
        clients
    }

    #[test]
    fn a_client_is_shown_by_its_role_until_it_stops_reporting() {
        let (mut clients, now) = (clients(), Instant::now());
        clients.record(&report("handle-1", 2), now);
        let totals = clients.totals(now);
        let (client, totals) = totals.first().unwrap();
        assert_eq!((client.role.as_str(), client.kind.as_str()), ("evaluator-0", "consumer"));
        assert_eq!(totals.rtt_seconds.get("kafka:9092"), Some(&0.0025));
        assert_eq!((totals.queue_messages, totals.requests_in_flight, totals.rebalances), (5, 2, 2));
        assert!(clients.totals(now + REPORT_TTL).is_empty());
    }

    #[test]
    fn round_trips_of_an_idle_client_remain_until_they_expire() {
        let (mut clients, now) = (clients(), Instant::now());
        clients.record(&report("handle-1", 2), now);
        let mut idle = report("handle-1", 2);
        for broker in idle.brokers.values_mut() {
            broker.rtt = Some(Window::default());
        }
        let second = Duration::from_secs(1);
        let seconds = |clients: &Clients, at| {
            let totals = clients.totals(at);
            totals.first().and_then(|(_, totals)| totals.rtt_seconds.get("kafka:9092").copied())
        };
        clients.record(&idle, now + REPORT_TTL - second);
        assert_eq!(seconds(&clients, now + REPORT_TTL - second), Some(0.0025));
        assert_eq!(seconds(&clients, now + REPORT_TTL), None);
        clients.record(&idle, now + REPORT_TTL);
        assert_eq!(seconds(&clients, now + REPORT_TTL), None);
    }

    #[test]
    fn counters_of_a_replaced_client_do_not_decrease() {
        let (mut clients, now) = (clients(), Instant::now());
        clients.record(&report("handle-1", 2), now);
        clients.record(&report("handle-1", 3), now);
        clients.record(&report("handle-2", 1), now + REPORT_TTL);
        let totals = clients.totals(now + REPORT_TTL);
        assert_eq!(totals.first().map(|(_, totals)| totals.rebalances), Some(4));
    }

    #[test]
    fn an_unknown_client_is_ignored() {
        let mut clients = Clients::new();
        clients.record(&report("handle-1", 2), Instant::now());
        assert!(clients.totals(Instant::now()).is_empty());
    }
}
