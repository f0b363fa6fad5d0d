//! Statistics of the Kafka clients. `flagstream_kafka_…`.
//!
//! The clients report every ten seconds; the values of a client that no longer reports are left out.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::kafka::statistics::{self, ClientTotals};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClientLabels {
    client: String,
    r#type: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BrokerLabels {
    client: String,
    r#type: String,
    broker: String,
}

/// Exports what the Kafka clients of this process last reported.
#[derive(Debug, Clone, Copy, Default)]
pub struct KafkaMetrics;

impl KafkaMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        registry.register_collector(Box::new(Self));
        Self
    }
}

impl Collector for KafkaMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let clients = statistics::totals();
        if clients.is_empty() {
            return Ok(());
        }
        let help = "99th percentile of the round-trip time to a broker in the last interval with a request";
        let mut metric = encoder.encode_descriptor("rtt_seconds", help, None, MetricType::Gauge)?;
        for (client, totals) in &clients {
            for (broker, seconds) in &totals.rtt_seconds {
                let (client, r#type) = (client.role.clone(), client.kind.clone());
                let labels = BrokerLabels { client, r#type, broker: broker.clone() };
                ConstGauge::new(*seconds).encode(metric.encode_family(&labels)?)?;
            }
        }
        let help = "Records in the queues of producers that Kafka has not acknowledged";
        gauges(
            encoder.encode_descriptor("queue_messages", help, None, MetricType::Gauge)?,
            &clients,
            |totals| totals.queue_messages,
        )?;
        let help = "Bytes of these records";
        gauges(
            encoder.encode_descriptor("queue_bytes", help, None, MetricType::Gauge)?,
            &clients,
            |totals| totals.queue_bytes,
        )?;
        let help = "Records that consumers have fetched and not yet processed";
        gauges(
            encoder.encode_descriptor("fetched_messages", help, None, MetricType::Gauge)?,
            &clients,
            |totals| totals.fetched_messages,
        )?;
        let help = "Requests to brokers that wait to be sent or for their response";
        gauges(
            encoder.encode_descriptor("requests_in_flight", help, None, MetricType::Gauge)?,
            &clients,
            |totals| totals.requests_in_flight,
        )?;
        let help = "Rebalances of consumer groups";
        counters(
            encoder.encode_descriptor("rebalances", help, None, MetricType::Counter)?,
            &clients,
            |totals| totals.rebalances,
        )?;
        let help = "Requests to brokers that failed or took too long";
        counters(
            encoder.encode_descriptor("request_errors", help, None, MetricType::Counter)?,
            &clients,
            |totals| totals.request_errors,
        )
    }
}

type Clients = [(statistics::Client, ClientTotals)];

fn labels(client: &statistics::Client) -> ClientLabels {
    ClientLabels { client: client.role.clone(), r#type: client.kind.clone() }
}

fn gauges(
    mut metric: prometheus_client::encoding::MetricEncoder<'_>,
    clients: &Clients,
    value: impl Fn(&ClientTotals) -> u64,
) -> fmt::Result {
    clients.iter().try_for_each(|(client, totals)| {
        let value = i64::try_from(value(totals)).unwrap_or(i64::MAX);
        ConstGauge::new(value).encode(metric.encode_family(&labels(client))?)
    })
}

fn counters(
    mut metric: prometheus_client::encoding::MetricEncoder<'_>,
    clients: &Clients,
    value: impl Fn(&ClientTotals) -> u64,
) -> fmt::Result {
    clients.iter().try_for_each(|(client, totals)| {
        ConstCounter::new(value(totals)).encode(metric.encode_family(&labels(client))?)
    })
}
