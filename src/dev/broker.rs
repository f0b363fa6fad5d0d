//! The embedded broker: librdkafka's own mock cluster, reachable by any Kafka client on this machine.
//!
//! Its limits: it stores nothing across restarts and at most 5 MB per partition, it never compacts, and consumers of
//! committed records also see aborted ones.

use std::ffi::CString;
use std::net::SocketAddr;

use anyhow::Context;
use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer, ProducerContext};
use rdkafka_sys as sys;

use crate::config::Config;
use crate::kafka::client;

use super::forward;

/// The API key of Kafka's LeaveGroup request.
const LEAVE_GROUP: i16 = 13;

/// The id of the only broker in the cluster.
const BROKER_ID: i32 = 1;

/// The embedded broker. The cluster lives as long as the client that created it.
pub struct Broker {
    client: BaseProducer<Host>,
    /// The address that clients connect to; `None` for the port that the cluster has bound itself.
    advertised: Option<SocketAddr>,
}

/// A client context that only hosts the cluster.
#[derive(Debug)]
struct Host;

impl Broker {
    /// Starts the broker on a free port of the loopback interface.
    pub fn start() -> KafkaResult<Self> {
        let client: BaseProducer<Host> =
            ClientConfig::new().set("test.mock.num.brokers", "1").create_with_context(Host)?;
        let broker = Self { client, advertised: None };
        // A new group would otherwise wait three seconds for more members.
        let cluster = unsafe { sys::rd_kafka_handle_mock_cluster(broker.client.client().native_ptr()) };
        if cluster.is_null() {
            return Err(KafkaError::ClientCreation("no mock cluster".to_owned()));
        }
        // SAFETY: the cluster lives as long as `broker.client`.
        unsafe {
            sys::rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 0);
            // Newer versions of the response contain members, which the mock omits.
            sys::rd_kafka_mock_set_apiversion(cluster, LEAVE_GROUP, 0, 2);
        }
        Ok(broker)
    }

    /// Makes the broker reachable at a fixed port, `forward::DEFAULT_PORT`, or at the next free one. Must be called
    /// before any client connects, because the address is part of the broker's metadata.
    pub async fn advertise(&mut self) -> anyhow::Result<()> {
        let bound: SocketAddr = self.bound().parse().context("the embedded broker's own address")?;
        let listener = forward::bind().await.context("a port for the embedded broker")?;
        let address = listener.local_addr()?;
        let host = CString::new(address.ip().to_string())?;
        let cluster = unsafe { sys::rd_kafka_handle_mock_cluster(self.client.client().native_ptr()) };
        anyhow::ensure!(!cluster.is_null(), "no mock cluster");
        // SAFETY: the cluster lives as long as `self.client`; the host is copied before the call returns.
        unsafe {
            sys::rd_kafka_mock_broker_set_host_port(cluster, BROKER_ID, host.as_ptr(), address.port().into());
        }
        tokio::spawn(forward::forward(listener, bound));
        self.advertised = Some(address);
        Ok(())
    }

    /// The address that clients connect to: `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.advertised.map_or_else(|| self.bound(), |address| address.to_string())
    }

    /// The address with the port that the operating system chose.
    fn bound(&self) -> String {
        let cluster = self.client.client().mock_cluster();
        cluster.map(|cluster| cluster.bootstrap_servers()).unwrap_or_default()
    }

    /// Creates the topics of `config`, and one reply topic per allowed prefix.
    pub fn create_topics(&self, config: &Config) -> KafkaResult<()> {
        let Some(cluster) = self.client.client().mock_cluster() else {
            return Ok(());
        };
        let topics = &config.topics;
        let single = [&topics.changes, &topics.definitions, &topics.overrides, &topics.updates];
        let many = [&topics.requests, &topics.events, &topics.dead_letters, &topics.conversions];
        let single = single.into_iter().map(|topic| (topic, 1));
        let many =
            many.into_iter().chain(&config.reply.allowed_prefixes).map(|topic| (topic, topics.partitions));
        single.chain(many).try_for_each(|(topic, partitions)| cluster.create_topic(topic, partitions, 1))
    }
}

impl ClientContext for Host {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // librdkafka warns about the configured mock cluster, which is intended here.
        if facility != "MOCK" {
            client::log(level, facility, message);
        }
    }
}

impl ProducerContext for Host {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("address", &self.address()).finish()
    }
}
