//! Metrics of the tables of attributes. `flagstream_attributes_…`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Outcomes of a lookup.
const LOOKUPS: [&str; 4] = ["cache", "disk", "absent", "failed"];
/// Outcomes of a record of a table's topic.
const RECORDS: [&str; 3] = ["applied", "deleted", "malformed"];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TableLabels {
    table: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TableOutcomeLabels {
    table: String,
    outcome: &'static str,
}

/// Metrics of all tables.
#[derive(Debug, Default)]
pub struct AttributeMetrics {
    rows: Family<TableLabels, Gauge>,
    lag: Family<TableLabels, Gauge>,
    rebuilds: Family<TableLabels, Counter>,
    lookups: Family<TableOutcomeLabels, Counter>,
    records: Family<TableOutcomeLabels, Counter>,
}

/// Metrics of one table. The counters are looked up once, because evaluations update them.
#[derive(Debug)]
pub struct TableMetrics {
    pub rows: Gauge,
    pub lag: Gauge,
    pub rebuilds: Counter,
    lookups: [Counter; LOOKUPS.len()],
    records: [Counter; RECORDS.len()],
}

impl AttributeMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("rows", "Rows of a table", metrics.rows.clone());
        registry.register("lag", "Records of the topic that are not in the table yet", metrics.lag.clone());
        let help = "Number of times that a table was built anew from its topic";
        registry.register("rebuilds", help, metrics.rebuilds.clone());
        registry.register("lookups", "Lookups of a row, by outcome", metrics.lookups.clone());
        registry.register("records", "Records of the topic, by outcome", metrics.records.clone());
        metrics
    }

    /// The metrics of the table of this name.
    pub fn of_table(&self, table: &str) -> TableMetrics {
        let labels = TableLabels { table: table.to_owned() };
        let counter = |family: &Family<TableOutcomeLabels, Counter>, outcome| {
            family.get_or_create(&TableOutcomeLabels { table: table.to_owned(), outcome }).clone()
        };
        TableMetrics {
            rows: self.rows.get_or_create(&labels).clone(),
            lag: self.lag.get_or_create(&labels).clone(),
            rebuilds: self.rebuilds.get_or_create(&labels).clone(),
            lookups: LOOKUPS.map(|outcome| counter(&self.lookups, outcome)),
            records: RECORDS.map(|outcome| counter(&self.records, outcome)),
        }
    }
}

impl TableMetrics {
    /// Counts a lookup with this outcome: `cache`, `disk`, `absent` or `failed`.
    pub fn looked_up(&self, outcome: &'static str) {
        add(&LOOKUPS, &self.lookups, outcome, 1);
    }

    /// Counts records with this outcome: `applied`, `deleted` or `malformed`.
    pub fn read(&self, outcome: &'static str, count: u64) {
        add(&RECORDS, &self.records, outcome, count);
    }
}

fn add(outcomes: &[&'static str], counters: &[Counter], outcome: &'static str, count: u64) {
    let counter = outcomes.iter().position(|known| *known == outcome).and_then(|index| counters.get(index));
    if let Some(counter) = counter {
        counter.inc_by(count);
    }
}
