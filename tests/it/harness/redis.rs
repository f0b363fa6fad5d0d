//! Redis: a database of the test's own.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use redis::{Commands, Connection};
use serde_json::Value;

use super::{Stack, TEST_TIMEOUT, wait_for};

/// Redis has sixteen databases; number 0 is left alone.
const DATABASES: u32 = 15;

/// An empty database.
pub struct Redis {
    pub url: String,
    connection: Mutex<Connection>,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Redis {
    pub fn database(stack: &Stack) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = 1 + COUNT.fetch_add(1, Ordering::Relaxed) % DATABASES;
        let redis = Self::at(&format!("{}/{number}", stack.redis.trim_end_matches('/')));
        redis.flush();
        redis
    }

    pub fn at(url: &str) -> Self {
        let connection = redis::Client::open(url).unwrap().get_connection().unwrap();
        Self { url: url.to_owned(), connection: Mutex::new(connection) }
    }

    pub fn flush(&self) {
        self.command::<()>(&["FLUSHDB"]);
    }

    pub fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(word);
        }
        command.query(&mut *self.connection.lock().unwrap()).unwrap()
    }

    /// The JSON at a key.
    pub fn get(&self, key: &str) -> Option<Value> {
        let text: Option<String> = self.connection.lock().unwrap().get(key).unwrap();
        text.map(|text| serde_json::from_str(&text).unwrap())
    }

    pub fn set(&self, key: &str, value: &str) {
        let _: () = self.connection.lock().unwrap().set(key, value).unwrap();
    }

    /// Waits until the JSON at a key is as it should be.
    pub fn wait(&self, key: &str, fits: impl Fn(&Value) -> bool) -> Value {
        wait_for(key, TEST_TIMEOUT, || self.get(key).filter(&fits))
    }
}
