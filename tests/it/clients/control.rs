//! Services that tests in other languages stop and start. They send one command on each connection, and get `done`.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use crate::harness::{Cluster, Service, TcpProxy, Way, temporary_folder, wait_until};

/// The services of one run of tests.
pub(super) struct Services {
    pub service: Service,
    pub cluster: Cluster,
    /// The proxy in front of Redis; `None` if the tests use no Redis.
    pub redis: Option<TcpProxy>,
}

impl Services {
    /// Runs a command to its end, and does meanwhile what it asks for. Returns its exit status and what it printed.
    pub(super) fn run(&mut self, command: &mut Command, what: &str, limit: Duration) -> (ExitStatus, String) {
        let control = TcpListener::bind("127.0.0.1:0").unwrap();
        control.set_nonblocking(true).unwrap();
        let log = temporary_folder();
        let path = log.path().join("log");
        let output = std::fs::File::create(&path).unwrap();
        command
            .env("FLAGSTREAM_TEST_CONTROL", control.local_addr().unwrap().to_string())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        let mut running = Running(command.spawn().unwrap());
        let mut status = None;
        wait_until(what, limit, || {
            if let Ok((connection, _)) = control.accept() {
                self.serve(connection);
            }
            status = running.0.try_wait().unwrap();
            status.is_some()
        });
        (status.unwrap(), std::fs::read_to_string(&path).unwrap())
    }

    /// Reads one command, obeys it, and answers `done`.
    fn serve(&mut self, mut connection: TcpStream) {
        connection.set_nonblocking(false).unwrap();
        let mut command = String::new();
        BufReader::new(connection.try_clone().unwrap()).read_line(&mut command).unwrap();
        self.obey(command.trim());
        connection.write_all(b"done\n").unwrap();
    }

    fn obey(&mut self, command: &str) {
        match command {
            "service stop" => self.service.kill(),
            "service start" => {
                self.service.spawn();
                self.service.wait_until_ready();
            }
            "service freeze" => self.service.freeze(),
            "service thaw" => self.service.thaw(),
            "kafka stop" => self.cluster.stop(1),
            "kafka start" => {
                self.cluster.spawn(1);
                self.cluster.wait_until_complete();
            }
            "redis stop" => self.redis.as_ref().unwrap().set(Way::Shut),
            "redis start" => self.redis.as_ref().unwrap().set(Way::Open),
            other => panic!("unknown command {other:?}"),
        }
    }
}

/// A child that is killed with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
