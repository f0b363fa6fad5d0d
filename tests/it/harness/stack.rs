//! Addresses of the real services, and ways to stop them.

use std::process::Command;
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The addresses that `scripts/stack` gives.
#[derive(Debug, Clone)]
pub struct Stack {
    pub kafka: String,
    /// A database of the cluster's owner, from which others are made.
    pub postgres: String,
    pub redis: String,
    pub unleash: Unleash,
    /// The folder that holds what the tests need from npm.
    pub node_modules: String,
    /// The folder of what the tests need from PyPI.
    pub python_path: String,
    /// The folder of the Go modules that an example needs. Empty if there is no Go.
    pub go_modules: String,
    /// Maven's local repository with what the packages for Java need. Empty if there is no Maven.
    pub maven_repository: String,
    /// The folder of the broker's jars. Empty if it runs in a container.
    pub kafka_jars: String,
    /// The folder of the jars of Kafka Connect. Empty if the broker runs in a container.
    pub connect_jars: String,
    /// The folder of the Python package DuckDB. Empty if the broker runs in a container.
    pub duckdb: String,
    /// The schema registry, up to the path of Confluent's API.
    pub registry: String,
    /// The folder of the jars of Unleash's SDK for Java. Empty if the services run in containers.
    pub unleash_jars: String,
    /// The folder of Java's Avro. Empty if the registry runs in a container.
    pub avro_jars: String,
    script: String,
    folder: String,
}

#[derive(Debug, Clone)]
pub struct Unleash {
    pub url: String,
    pub development_token: String,
    pub admin_token: String,
}

/// Held by a test while it needs every service up.
pub type Together = RwLockReadGuard<'static, ()>;
/// Held by a test while it stops services that all share.
pub type Alone = RwLockWriteGuard<'static, ()>;

static IN_USE: RwLock<()> = RwLock::new(());

impl Stack {
    /// The services, shared with other tests. Keep the guard until the end of the test.
    pub fn shared() -> (&'static Self, Together) {
        (Self::get(), IN_USE.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The services, for a test that disturbs them: waits until no other test uses them.
    pub fn exclusive() -> (&'static Self, Alone) {
        (Self::get(), IN_USE.write().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn get() -> &'static Self {
        static STACK: OnceLock<Stack> = OnceLock::new();
        STACK.get_or_init(|| Self {
            kafka: variable("KAFKA"),
            postgres: variable("DATABASE_URL"),
            redis: variable("REDIS_URL"),
            unleash: Unleash {
                url: variable("UNLEASH_URL"),
                development_token: variable("UNLEASH_CLIENT_TOKEN"),
                admin_token: variable("UNLEASH_ADMIN_TOKEN"),
            },
            node_modules: variable("NODE_MODULES"),
            python_path: variable("PYTHON_PATH"),
            go_modules: variable("GO_MODULES"),
            maven_repository: variable("MAVEN_REPOSITORY"),
            kafka_jars: variable("KAFKA_JARS"),
            connect_jars: variable("CONNECT_JARS"),
            duckdb: variable("DUCKDB"),
            registry: variable("REGISTRY"),
            unleash_jars: variable("UNLEASH_JARS"),
            avro_jars: variable("AVRO_JARS"),
            script: variable("STACK"),
            folder: variable("STACK_DIR"),
        })
    }

    /// Copy of the services with another Kafka.
    pub fn with_kafka(&self, kafka: String) -> Self {
        Self { kafka, ..self.clone() }
    }

    /// Stops a service; it is started again when the guard goes, whatever happens until then.
    pub fn stop(&'static self, service: &'static str, _exclusive: &Alone) -> Stopped {
        self.script(&["stop", service]);
        Stopped { stack: self, service }
    }

    fn script(&self, arguments: &[&str]) {
        let status =
            Command::new(&self.script).args(arguments).args(["--dir", &self.folder]).status().unwrap();
        assert!(status.success(), "{} {arguments:?}: {status}", self.script);
    }
}

/// A service that is down until this goes.
#[derive(Debug)]
pub struct Stopped {
    stack: &'static Stack,
    service: &'static str,
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.stack.script(&["start", self.service]);
        // Unleash ends if it misses its database at the wrong moment.
        if self.service == "postgres" {
            self.stack.script(&["start", "unleash"]);
        }
    }
}

/// Whether the long form of the fault tests is wanted.
pub fn is_long() -> bool {
    std::env::var("FLAGSTREAM_TEST_LONG").is_ok_and(|value| value == "1")
}

fn variable(name: &str) -> String {
    let name = format!("FLAGSTREAM_TEST_{name}");
    std::env::var(&name).unwrap_or_else(|_| {
        panic!("{name} is not set: these tests need real services around them; run scripts/test")
    })
}
