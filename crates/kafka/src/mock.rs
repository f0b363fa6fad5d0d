//! librdkafka's mock cluster, reachable by any Kafka client on this machine.
//!
//! Its limits: it stores nothing across restarts and at most 5 MB per partition, it never compacts, and consumers of
//! committed records also see aborted ones.

use std::ffi::CString;
use std::net::SocketAddr;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};
use rdkafka_sys as sys;

use super::client;

/// The API key of Kafka's LeaveGroup request.
const LEAVE_GROUP: i16 = 13;

/// The id of the only broker in the cluster.
const BROKER_ID: i32 = 1;

/// A cluster of one broker. It lives as long as the client that created it.
pub struct MockBroker {
    client: BaseProducer<Host>,
}

/// A client context that only hosts the cluster.
#[derive(Debug)]
struct Host;

impl MockBroker {
    /// Starts the broker on a free port of the loopback interface.
    pub fn start() -> KafkaResult<Self> {
        let client: BaseProducer<Host> =
            ClientConfig::new().set("test.mock.num.brokers", "1").create_with_context(Host)?;
        let broker = Self { client };
        let cluster = broker.cluster()?;
        // SAFETY: the cluster lives as long as `broker.client`.
        unsafe {
            // A new group would otherwise wait three seconds for more members.
            sys::rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 0);
            // Newer versions of the response contain members, which the mock omits.
            sys::rd_kafka_mock_set_apiversion(cluster, LEAVE_GROUP, 0, 2);
        }
        Ok(broker)
    }

    /// Sets the address that the broker returns to clients. Must be called before any client connects, because the
    /// address is part of the broker's metadata.
    pub fn advertise(&self, address: SocketAddr) -> KafkaResult<()> {
        let host = CString::new(address.ip().to_string())?;
        let cluster = self.cluster()?;
        // SAFETY: the cluster lives as long as `self.client`; the host is copied before the call returns.
        unsafe {
            sys::rd_kafka_mock_broker_set_host_port(cluster, BROKER_ID, host.as_ptr(), address.port().into());
        }
        Ok(())
    }

    /// The address that the cluster has bound: `127.0.0.1:PORT`.
    pub fn bound(&self) -> String {
        let cluster = self.client.client().mock_cluster();
        cluster.map(|cluster| cluster.bootstrap_servers()).unwrap_or_default()
    }

    /// Creates a topic.
    pub fn create_topic(&self, topic: &str, partitions: i32) -> KafkaResult<()> {
        match self.client.client().mock_cluster() {
            Some(cluster) => cluster.create_topic(topic, partitions, 1),
            None => Ok(()),
        }
    }

    fn cluster(&self) -> KafkaResult<*mut sys::rd_kafka_mock_cluster_t> {
        // SAFETY: the client is alive.
        let cluster = unsafe { sys::rd_kafka_handle_mock_cluster(self.client.client().native_ptr()) };
        if cluster.is_null() {
            return Err(KafkaError::ClientCreation("no mock cluster".to_owned()));
        }
        Ok(cluster)
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

impl std::fmt::Debug for MockBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MockBroker").field("bound", &self.bound()).finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn clients_get_the_advertised_address_in_the_metadata() {
        let broker = MockBroker::start().unwrap();
        broker.create_topic("t", 2).unwrap();
        broker.advertise("127.0.0.1:4321".parse().unwrap()).unwrap();
        let client: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", broker.bound()).create().unwrap();
        let metadata = client.client().fetch_metadata(Some("t"), Duration::from_secs(10)).unwrap();
        let brokers: Vec<_> =
            metadata.brokers().iter().map(|broker| (broker.host().to_owned(), broker.port())).collect();
        assert_eq!(brokers, [("127.0.0.1".to_owned(), 4321)]);
        assert_eq!(metadata.topics()[0].partitions().len(), 2);
    }
}
