//! Connection to one Redis server or to a cluster.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, Pipeline, RedisError, Value};
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
            Self::Cluster(connection) => {
                each(commands, |command| {
                    let mut connection = connection.clone();
                    async move { connection.req_packed_command(&command).await }
                })
                .await
            }
        }
    }
}

/// Sends commands of any slots concurrently, each with `send`. The replies are in the order of the commands. An error of
/// one command, or the panic of its task, fails the call: a missing reply must not look like an absent value.
async fn each<S>(commands: Vec<Cmd>, send: impl Fn(Cmd) -> S) -> Result<Vec<Value>, RedisError>
where
    S: Future<Output = Result<Value, RedisError>> + Send + 'static,
{
    let mut replies = vec![Value::Nil; commands.len()];
    let mut under_way = JoinSet::new();
    let mut commands = commands.into_iter().enumerate();
    loop {
        while under_way.len() < CLUSTER_COMMANDS_MAX
            && let Some((index, command)) = commands.next()
        {
            let sending = send(command);
            under_way.spawn(async move { (index, sending.await) });
        }
        let Some(done) = under_way.join_next().await else {
            return Ok(replies);
        };
        let (index, reply) = done.map_err(|error| {
            RedisError::from((ErrorKind::Client, "the task of a command has failed", error.to_string()))
        })?;
        if let Some(place) = replies.get_mut(index) {
            *place = reply?;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn commands(count: usize) -> Vec<Cmd> {
        let get = |number: usize| {
            let mut get = redis::cmd("GET");
            get.arg(number);
            get
        };
        (0..count).map(get).collect()
    }

    /// Number of the command, which its key is.
    fn number(command: &Cmd) -> usize {
        let Some(redis::Arg::Simple(key)) = command.args_iter().nth(1) else { panic!() };
        std::str::from_utf8(key).unwrap().parse().unwrap()
    }

    #[tokio::test]
    async fn replies_are_in_the_order_of_the_commands_and_none_is_missing() {
        let count = 3 * CLUSTER_COMMANDS_MAX;
        let replies = each(commands(count), |command| async move {
            // The first of them are the last to finish.
            for _ in number(&command)..count {
                tokio::task::yield_now().await;
            }
            Ok(Value::Int(i64::try_from(number(&command)).unwrap()))
        });
        let expected: Vec<Value> = (0..i64::try_from(count).unwrap()).map(Value::Int).collect();
        assert_eq!(replies.await.unwrap(), expected);
    }

    #[tokio::test]
    async fn a_command_whose_task_panics_fails_the_call() {
        let error = each(commands(3), |command| async move {
            assert_ne!(number(&command), 1, "the middle one");
            Ok(Value::Okay)
        });
        let error = error.await.unwrap_err();
        assert!(error.to_string().contains("the task of a command has failed"), "{error}");
    }

    #[tokio::test]
    async fn an_error_of_one_command_fails_the_call() {
        let error = each(commands(3), |command| async move {
            if number(&command) == 1 {
                return Err((ErrorKind::Io, "cut").into());
            }
            Ok(Value::Okay)
        });
        assert!(error.await.unwrap_err().to_string().contains("cut"));
    }
}
