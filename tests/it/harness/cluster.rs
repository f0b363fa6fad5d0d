//! Kafka clusters that one test starts for itself: several nodes, or settings that the shared broker does not have.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::metadata::Metadata;

use super::{Stack, free_port, temporary_folder, wait_until};

/// Longest start of a node. The machine may be busy with the start of others.
const NODE_START: Duration = Duration::from_secs(90);
/// Longest orderly stop of a node.
const NODE_STOP: Duration = Duration::from_secs(30);
const CLUSTER_ID: &str = "ZmxhZ3N0cmVhbS10ZXN0Mg";
/// Settings of every node. Few internal partitions, because a coordinator loads each of them at its start.
const BASE: &[(&str, &str)] = &[
    ("controller.listener.names", "CONTROLLER"),
    ("offsets.topic.num.partitions", "2"),
    ("transaction.state.log.num.partitions", "2"),
    ("share.coordinator.state.topic.num.partitions", "1"),
    ("auto.create.topics.enable", "false"),
];
/// Short intervals, as the shared broker has them.
pub const PROMPT: &[(&str, &str)] = &[
    ("group.initial.rebalance.delay.ms", "0"),
    ("group.min.session.timeout.ms", "1000"),
    ("transaction.abort.timed.out.transaction.cleanup.interval.ms", "1000"),
    ("broker.heartbeat.interval.ms", "500"),
    ("broker.session.timeout.ms", "3000"),
];
/// One replica of everything.
pub const SINGLE: &[(&str, &str)] = &[
    ("default.replication.factor", "1"),
    ("offsets.topic.replication.factor", "1"),
    ("transaction.state.log.replication.factor", "1"),
    ("transaction.state.log.min.isr", "1"),
    ("share.coordinator.state.topic.replication.factor", "1"),
    ("share.coordinator.state.topic.min.isr", "1"),
];
/// Three replicas of everything, two of which must be in sync.
pub const TRIPLE: &[(&str, &str)] = &[
    ("default.replication.factor", "3"),
    ("min.insync.replicas", "2"),
    ("offsets.topic.replication.factor", "3"),
    ("transaction.state.log.replication.factor", "3"),
    ("transaction.state.log.min.isr", "2"),
    ("share.coordinator.state.topic.replication.factor", "3"),
    ("share.coordinator.state.topic.min.isr", "2"),
];

/// Access control lists, which allow everything that no entry is about.
pub const AUTHORIZER: &[(&str, &str)] = &[
    ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
    ("allow.everyone.if.no.acl.found", "true"),
];

/// A running cluster; its nodes are killed on drop.
#[derive(Debug)]
pub struct Cluster {
    folder: tempfile::TempDir,
    jars: String,
    nodes: Vec<Node>,
    /// Held by a cluster of several nodes.
    _turn: Option<MutexGuard<'static, ()>>,
}

/// Several clusters of several nodes at the same time would leave none of them enough of the processors.
static TURN: Mutex<()> = Mutex::new(());

#[derive(Debug)]
struct Node {
    folder: PathBuf,
    is_broker: bool,
    /// Port of the listener for clients.
    port: u16,
    /// Port of the listener for brokers and for the test's own administration, which needs no password.
    internal_port: u16,
    child: Option<Child>,
}

impl Cluster {
    /// Whether clusters can be started here: not where the stack runs in containers.
    pub fn is_possible(stack: &Stack) -> bool {
        if stack.kafka_jars.is_empty() {
            eprintln!("left out: the broker runs in a container");
        }
        !stack.kafka_jars.is_empty()
    }

    /// A broker that is its own controller.
    pub fn single(stack: &Stack, settings: &[(&str, &str)]) -> Self {
        Self::start(stack, 1, 1, &[SINGLE, settings].concat())
    }

    /// Starts brokers with these settings and waits until all of them know each other. The first `controllers` of them are
    /// controllers too.
    pub fn start(stack: &Stack, brokers: usize, controllers: usize, settings: &[(&str, &str)]) -> Self {
        let roles = (0..brokers).map(|index| (true, index < controllers)).collect();
        Self::of_roles(stack, roles, settings)
    }

    /// Node 1 is the controller and no broker.
    pub fn with_controller_apart(stack: &Stack, brokers: usize, settings: &[(&str, &str)]) -> Self {
        let roles = std::iter::once((false, true)).chain((0..brokers).map(|_| (true, false)));
        Self::of_roles(stack, roles.collect(), settings)
    }

    /// Nodes that are brokers, controllers, or both. In the values of settings, `{clients}` and `{brokers}` stand for the ports
    /// of a node's listeners for clients and for brokers.
    fn of_roles(stack: &Stack, roles: Vec<(bool, bool)>, settings: &[(&str, &str)]) -> Self {
        let turn = (roles.len() > 1).then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner));
        let folder = temporary_folder();
        let ports: Vec<[u16; 3]> = roles.iter().map(|_| [free_port(), free_port(), free_port()]).collect();
        let voters =
            ports.iter().zip(&roles).enumerate().filter(|(_, (_, (_, is_controller)))| *is_controller);
        let voters: Vec<_> =
            voters.map(|(index, (ports, _))| format!("{}@127.0.0.1:{}", index + 1, ports[1])).collect();
        let nodes = ports.iter().zip(&roles).enumerate().map(|(index, (ports, roles))| {
            let node = folder.path().join(format!("node-{}", index + 1));
            fs::create_dir(&node).unwrap();
            let own = structure(index + 1, *roles, *ports, &voters.join(","), &node.join("data"));
            let with_ports = |value: &str| {
                value.replace("{clients}", &ports[0].to_string()).replace("{brokers}", &ports[2].to_string())
            };
            let all =
                BASE.iter().chain(settings).map(|(name, value)| format!("{name}={}\n", with_ports(value)));
            fs::write(node.join("server.properties"), own + &all.collect::<String>()).unwrap();
            Node { folder: node, is_broker: roles.0, port: ports[0], internal_port: ports[2], child: None }
        });
        let nodes = nodes.collect();
        let mut cluster = Self { folder, jars: stack.kafka_jars.clone(), nodes, _turn: turn };
        cluster.format();
        (1..=cluster.nodes.len()).for_each(|number| cluster.spawn(number));
        cluster.wait_until_complete();
        cluster
    }

    /// The addresses of all brokers, for clients.
    pub fn kafka(&self) -> String {
        self.addresses(|node| node.port)
    }

    /// The addresses of all brokers at which the test itself needs no password.
    pub fn internal(&self) -> String {
        self.addresses(|node| node.internal_port)
    }

    fn addresses(&self, port: impl Fn(&Node) -> u16) -> String {
        let brokers = self.nodes.iter().filter(|node| node.is_broker);
        brokers.map(|node| format!("127.0.0.1:{}", port(node))).collect::<Vec<_>>().join(",")
    }

    /// Starts a broker, without waiting for it.
    pub fn spawn(&mut self, number: usize) {
        let mut command = self.java();
        let node = &mut self.nodes[number - 1];
        assert!(node.child.is_none(), "node {number} runs already");
        let log = File::options().create(true).append(true).open(node.folder.join("log")).unwrap();
        command
            .args(["kafka.Kafka".as_ref(), node.folder.join("server.properties").as_os_str()])
            .current_dir(&node.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        // SAFETY: prctl is async-signal-safe and touches nothing of the parent's.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        node.child = Some(command.spawn().unwrap());
    }

    /// SIGKILL.
    pub fn kill(&mut self, number: usize) {
        let mut child = self.nodes[number - 1].child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM: the broker hands over its partitions first.
    pub fn stop(&mut self, number: usize) {
        self.end([number]);
    }

    /// SIGTERM to several nodes at once.
    pub fn end(&mut self, numbers: impl IntoIterator<Item = usize>) {
        let children: Vec<_> = numbers
            .into_iter()
            .map(|number| (number, self.nodes[number - 1].child.take().unwrap()))
            .collect();
        for (_, child) in &children {
            // SAFETY: the child was not waited for, so the id is still its own.
            unsafe { libc::kill(i32::try_from(child.id()).unwrap(), libc::SIGTERM) };
        }
        for (number, mut child) in children {
            wait_until(&format!("node {number} stopped"), NODE_STOP, || child.try_wait().unwrap().is_some());
        }
    }

    /// Copies the data of a stopped node, so that [`restore`](Self::restore) can bring it back.
    pub fn back_up(&self, number: usize) {
        let data = self.data(number);
        copy_folder(&data, &data.with_file_name("copy"));
    }

    /// Replaces the data of a stopped node by the last copy.
    pub fn restore(&self, number: usize) {
        let data = self.data(number);
        fs::remove_dir_all(&data).unwrap();
        copy_folder(&data.with_file_name("copy"), &data);
    }

    /// The data folder of a node, for copies of it while the node is stopped.
    pub fn data(&self, number: usize) -> PathBuf {
        self.nodes[number - 1].folder.join("data")
    }

    /// Waits until every broker answers and knows all others, and every replica is in sync.
    pub fn wait_until_complete(&self) {
        let brokers = self.nodes.iter().filter(|node| node.is_broker).count();
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.is_broker) {
            let number = index + 1;
            let client = client(&format!("127.0.0.1:{}", node.internal_port));
            wait_until(&format!("node {number} knows all others\n{}", self.log(number)), NODE_START, || {
                metadata(&client).is_some_and(|metadata| metadata.brokers().len() == brokers)
            });
        }
        let client = client(&self.internal());
        wait_until("every replica in sync", NODE_START, || metadata(&client).is_some_and(is_in_sync));
    }

    /// Whether every partition has a leader.
    pub fn has_leaders(&self) -> bool {
        let client = client(&self.internal());
        metadata(&client).is_some_and(|metadata| {
            let mut partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
            partitions.all(|partition| partition.leader() > 0)
        })
    }

    /// Runs Kafka's command for settings, quotas and users (`kafka-configs.sh`).
    pub fn configure(&self, arguments: &[&str]) {
        let mut command = self.java();
        command.args(["kafka.admin.ConfigCommand", "--bootstrap-server", &self.internal()]).args(arguments);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Denies everyone to write to a topic. Needs the setting [`AUTHORIZER`].
    pub fn deny_writes(&self, topic: &str) {
        self.change_acls("deny", topic);
    }

    /// Removes all access control entries of a topic.
    pub fn clear_acls(&self, topic: &str) {
        self.change_acls("clear", topic);
    }

    fn change_acls(&self, what: &str, topic: &str) {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/harness/acls.java");
        let output = self.java().args([program, &self.kafka(), what, topic]).output().unwrap();
        assert!(output.status.success(), "{what} {topic}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Formats the data folders: the first one with Kafka's tool, the others as copies with different ids.
    fn format(&self) {
        let first = &self.nodes[0];
        let output = self
            .java()
            .args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"])
            .arg(first.folder.join("server.properties"))
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let data = first.folder.join("data");
        for (index, node) in self.nodes.iter().enumerate().skip(1) {
            let target = node.folder.join("data");
            fs::create_dir(&target).unwrap();
            for entry in fs::read_dir(&data).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_file() {
                    fs::copy(entry.path(), target.join(entry.file_name())).unwrap();
                }
            }
            let properties = fs::read_to_string(data.join("meta.properties")).unwrap();
            // 16 bytes in base64: the last character stands for two bits.
            let directory = format!("{CLUSTER_ID:.19}{:02}A", index + 1);
            let lines = properties.lines().map(|line| match line.split_once('=') {
                Some(("node.id", _)) => format!("node.id={}\n", index + 1),
                Some(("directory.id", _)) => format!("directory.id={directory}\n"),
                _ => format!("{line}\n"),
            });
            fs::write(target.join("meta.properties"), lines.collect::<String>()).unwrap();
        }
    }

    fn java(&self) -> Command {
        let mut command = Command::new("java");
        // Compiled quickly rather than well: a node lives for a minute.
        command.args(["-Xmx256m", "-Xms64m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto"]);
        command.args(["-Djava.awt.headless=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]);
        command.args(["-Dorg.slf4j.simpleLogger.showDateTime=true", "-cp", &format!("{}/*", self.jars)]);
        command
    }

    fn log(&self, number: usize) -> String {
        let text = fs::read_to_string(self.nodes[number - 1].folder.join("log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for index in 0..self.nodes.len() {
            if std::thread::panicking() {
                eprintln!("---- the end of the log of node {} ----\n{}", index + 1, self.log(index + 1));
            }
            if let Some(mut child) = self.nodes[index].child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// The settings that differ between nodes. The ports are for clients, controllers and brokers, in this order.
fn structure(number: usize, roles: (bool, bool), ports: [u16; 3], voters: &str, data: &Path) -> String {
    let [clients, controllers, brokers] = ports;
    let (is_broker, is_controller) = roles;
    let mut roles = Vec::new();
    let mut listeners = Vec::new();
    let mut advertised = String::new();
    if is_broker {
        roles.push("broker");
        listeners.push(format!("CLIENTS://127.0.0.1:{clients},INTERNAL://127.0.0.1:{brokers}"));
        advertised = format!("advertised.listeners={}\ninter.broker.listener.name=INTERNAL\n", listeners[0]);
    }
    if is_controller {
        roles.push("controller");
        listeners.push(format!("CONTROLLER://127.0.0.1:{controllers}"));
    }
    format!(
        "process.roles={}\n\
         node.id={number}\n\
         listeners={}\n\
         {advertised}\
         listener.security.protocol.map=CLIENTS:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
         controller.quorum.voters={voters}\n\
         log.dirs={}\n",
        roles.join(","),
        listeners.join(","),
        data.display()
    )
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn client(kafka: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("reconnect.backoff.max.ms", "200")
        .set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg)
        .create()
        .unwrap()
}

fn metadata(client: &BaseConsumer) -> Option<Metadata> {
    client.fetch_metadata(None, Duration::from_secs(2)).ok()
}

fn is_in_sync(metadata: Metadata) -> bool {
    let mut partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
    partitions.all(|partition| partition.isr().len() == partition.replicas().len() && partition.leader() > 0)
}
