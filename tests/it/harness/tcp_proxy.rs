//! A way to a service that a test can disturb.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Treatment of connections by the proxy.
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

/// Stands before a service until it goes.
#[derive(Debug)]
pub struct TcpProxy {
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

impl TcpProxy {
    /// Starts a proxy to the service at this URL.
    pub fn to(url: &str) -> Self {
        Self::at("127.0.0.1:0", url)
    }

    /// Starts a proxy at this address to the service at this URL.
    pub fn at(listen: &str, url: &str) -> Self {
        let upstream = address(url);
        let listener = TcpListener::bind(listen).unwrap();
        let url = url.replacen(upstream, &listener.local_addr().unwrap().to_string(), 1);
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
    pub fn lead_to(&self, url: &str) {
        address(url).clone_into(&mut self.shared.upstream.lock().unwrap());
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

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.shared.gone.store(true, Ordering::Relaxed);
        self.set(Way::Shut);
        // Wakes the one who listens.
        let _ = TcpStream::connect(address(&self.url));
    }
}

fn address(url: &str) -> &str {
    let (_, rest) = url.split_once("://").unwrap();
    rest.split('/').next().unwrap()
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
