//! The embedded broker: librdkafka's own mock cluster, at a fixed port.

use std::net::SocketAddr;

use anyhow::Context;
use rdkafka::error::KafkaResult;

use crate::config::Config;
use crate::kafka::mock::MockBroker;

use super::forward;

/// The embedded broker. The cluster lives as long as this.
#[derive(Debug)]
pub struct Broker {
    mock: MockBroker,
    /// The address that clients connect to; `None` for the port that the cluster has bound itself.
    advertised: Option<SocketAddr>,
}

impl Broker {
    /// Starts the broker on a free port of the loopback interface.
    pub fn start() -> KafkaResult<Self> {
        Ok(Self { mock: MockBroker::start()?, advertised: None })
    }

    /// Makes the broker reachable at a fixed port, `forward::DEFAULT_PORT`, or at the next free one. Must be called
    /// before any client connects, because the address is part of the broker's metadata.
    pub async fn advertise(&mut self) -> anyhow::Result<()> {
        let bound: SocketAddr = self.mock.bound().parse().context("the embedded broker's own address")?;
        let listener = forward::bind().await.context("a port for the embedded broker")?;
        let address = listener.local_addr()?;
        self.mock.advertise(address)?;
        tokio::spawn(forward::forward(listener, bound));
        self.advertised = Some(address);
        Ok(())
    }

    /// The address that clients connect to: `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.advertised.map_or_else(|| self.mock.bound(), |address| address.to_string())
    }

    /// Creates the topics of `config`, and one reply topic per allowed prefix.
    pub fn create_topics(&self, config: &Config) -> KafkaResult<()> {
        let topics = &config.topics;
        let single =
            [&topics.changes, &topics.definitions, &topics.overrides, &topics.updates, &topics.instances];
        let many = [
            &topics.requests,
            &topics.events,
            &topics.dead_letters,
            &topics.conversions,
            &topics.exposures,
            &topics.client_metrics,
        ];
        let tables = topics.attributes.iter().map(|table| &table.topic);
        let single = single.into_iter().map(|topic| (topic, 1));
        let many = many
            .into_iter()
            .chain(tables)
            .chain(&config.reply.allowed_prefixes)
            .map(|topic| (topic, topics.partitions));
        let taps = config.taps.iter().flat_map(|tap| tap.outputs().into_iter().chain([tap.source.as_str()]));
        let mut taps: Vec<_> = taps.collect();
        taps.sort_unstable();
        taps.dedup();
        let all = single.chain(many).map(|(topic, partitions)| (topic.as_str(), partitions));
        all.chain(taps.into_iter().map(|topic| (topic, topics.partitions)))
            .try_for_each(|(topic, partitions)| self.mock.create_topic(topic, partitions))
    }
}
