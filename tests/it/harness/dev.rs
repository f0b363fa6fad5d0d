//! `flagstream dev` as it starts in a folder of the test's own.

use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::Value;

use super::{TEST_TIMEOUT, command, free_port, get, wait_until};

/// A running `flagstream dev`, ended with the test.
pub struct Dev {
    child: Child,
    /// Address and port of its HTTP listener.
    pub listen: String,
    pub url: String,
}

impl Dev {
    /// Starts it without sample requests, and waits until its sample flags exist.
    pub fn start(folder: &Path) -> Self {
        Self::start_with(folder, &[])
    }

    /// Like [`Dev::start`], with further settings.
    pub fn start_with(folder: &Path, settings: &[(&str, &str)]) -> Self {
        let listen = format!("127.0.0.1:{}", free_port());
        let child = command(folder)
            .args(["dev", "--quiet", "--rate", "0"])
            .env("FLAGSTREAM_HTTP__LISTEN", &listen)
            .envs(settings.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let url = format!("http://{listen}");
        let dev = Self { child, listen, url };
        let health = format!("{}/health", dev.url);
        wait_until("the sample flags exist", TEST_TIMEOUT, || {
            get(&health).is_some_and(|(_, body)| {
                let health: Value = serde_json::from_str(&body).unwrap();
                health["parts"]["samples"]["state"] == "up"
            })
        });
        dev
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
