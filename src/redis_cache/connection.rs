//! Connection to one Redis server or to a cluster.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisError, Value};
use tokio::task::JoinSet;

use super::script;

/// Timeout for connecting to each node of a cluster.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Upper bound of commands in flight in a cluster, where each goes to its own node.
const CLUSTER_COMMANDS_MAX: usize = 256;

#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    /// Connects, and loads the scripts unless it is a cluster. Returns the connection and the scripts' hashes.
    /// `direct`: use only one node, even of a cluster.
    pub(super) async fn open(
        client: &redis::Client,
        direct: bool,
    ) -> Result<(Self, Arc<[String]>), RedisError> {
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let mut one = client.get_multiplexed_async_connection_with_config(&config).await?;
        let mut info = redis::cmd("INFO");
        info.arg("cluster");
        // If the user has no permission for `INFO`, the server is treated as a single one.
        let info: String = info.query_async(&mut one).await.unwrap_or_default();
        if !direct && info.contains("cluster_enabled:1") {
            let seeds = [client.get_connection_info().clone()];
            let cluster =
                ClusterClient::builder(seeds).connection_timeout(CONNECT_TIMEOUT).retries(2).build()?;
            return Ok((Self::Cluster(cluster.get_async_connection().await?), Arc::default()));
        }
        let mut loading = Pipeline::new();
        for text in script::ALL {
            loading.cmd("SCRIPT").arg("LOAD").arg(text);
        }
        let hashes: Vec<String> = loading.query_async(&mut one).await?;
        Ok((Self::One(one), hashes.into()))
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    pub(super) async fn send(self, commands: Vec<Cmd>) -> Result<Vec<Value>, RedisError> {
        match self {
            Self::One(mut connection) => {
                let count = commands.len();
                let mut pipeline = Pipeline::with_capacity(count);
                for command in commands {
                    pipeline.add_command(command);
                }
                connection.send_packed_commands(&pipeline, 0, count).await
            }
            Self::Cluster(connection) => each(&connection, commands).await,
        }
    }
}

/// Sends commands of any slots concurrently.
async fn each(connection: &ClusterConnection, commands: Vec<Cmd>) -> Result<Vec<Value>, RedisError> {
    let mut replies = vec![Value::Nil; commands.len()];
    let mut under_way = JoinSet::new();
    let mut commands = commands.into_iter().enumerate();
    loop {
        while under_way.len() < CLUSTER_COMMANDS_MAX
            && let Some((index, command)) = commands.next()
        {
            let mut connection = connection.clone();
            under_way.spawn(async move { (index, connection.req_packed_command(&command).await) });
        }
        let Some(done) = under_way.join_next().await else {
            return Ok(replies);
        };
        let Ok((index, reply)) = done else { continue };
        if let Some(place) = replies.get_mut(index) {
            *place = reply?;
        }
    }
}
