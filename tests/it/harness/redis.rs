//! Redis: a database of the test's own, and a door to it that can be shut.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::{Commands, Connection};
use serde_json::Value;

use super::{SOON, Stack, wait_for};

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
        wait_for(key, SOON, || self.get(key).filter(&fits))
    }
}

/// How connections fare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Open,
    /// Ended, and ended again.
    Shut,
    /// Answers come five seconds late.
    Slow,
    /// Answers are something else.
    Garbled,
}

/// A way to Redis that a test can disturb.
#[derive(Debug)]
pub struct Door {
    pub url: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: Mutex<String>,
    way: Mutex<Way>,
    gone: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

impl Door {
    /// To the database of `redis`.
    pub fn to(redis: &Redis) -> Self {
        let address = redis.url.strip_prefix("redis://").unwrap();
        let (upstream, database) = address.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://{}/{database}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            upstream: Mutex::new(upstream.to_owned()),
            way: Mutex::new(Way::Open),
            gone: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let door = Arc::clone(&shared);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                if door.gone.load(Ordering::Relaxed) {
                    return;
                }
                door.admit(connection.unwrap());
            }
        });
        Self { url, shared }
    }

    /// Leads to another server from now on; connections end.
    pub fn lead_to(&self, redis: &Redis) {
        let address = redis.url.strip_prefix("redis://").unwrap().split('/').next().unwrap();
        address.clone_into(&mut self.shared.upstream.lock().unwrap());
        self.set(Way::Open);
    }

    /// Treats connections differently from now on; those there are end.
    pub fn set(&self, way: Way) {
        *self.shared.way.lock().unwrap() = way;
        for connection in self.shared.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.shared.gone.store(true, Ordering::Relaxed);
        self.set(Way::Shut);
        // Wakes the one who listens.
        let address = self.url.strip_prefix("redis://").unwrap().split('/').next().unwrap().to_owned();
        let _ = TcpStream::connect(address);
    }
}

impl Shared {
    fn admit(self: &Arc<Self>, inside: TcpStream) {
        if *self.way.lock().unwrap() == Way::Shut {
            return;
        }
        let upstream = self.upstream.lock().unwrap().clone();
        let Ok(outside) = TcpStream::connect(upstream) else { return };
        let (asks, answers) = (inside.try_clone().unwrap(), outside.try_clone().unwrap());
        self.connections.lock().unwrap().extend([inside.try_clone().unwrap(), outside.try_clone().unwrap()]);
        std::thread::spawn(move || pass(asks, outside, |_| {}));
        let shared = Arc::clone(self);
        std::thread::spawn(move || {
            pass(answers, inside, |bytes| match *shared.way.lock().unwrap() {
                Way::Garbled => bytes.fill(b'?'),
                Way::Slow => std::thread::sleep(Duration::from_secs(5)),
                Way::Open | Way::Shut => {}
            });
        });
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, change: impl Fn(&mut [u8])) {
    let mut buffer = [0; 65_536];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        change(&mut buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
