//! A server that returns scripted answers one by one and records its requests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

#[derive(Debug)]
pub(super) enum Answer {
    /// Status, headers, body.
    Say(u16, Vec<(String, String)>, Vec<u8>),
    /// The beginning of an answer whose connection stays open.
    Begin(Vec<u8>),
    /// The connection is closed without an answer.
    Drop,
    /// No answer until the client times out.
    Hang,
}

#[derive(Debug)]
pub(super) struct Seen {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: Value,
}

pub(super) struct Server {
    pub url: String,
    pub seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub(super) async fn start(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        tokio::spawn(async move {
            let mut answers = answers.into_iter();
            let mut hanging = Vec::new();
            loop {
                let mut connection = listener.accept().await.unwrap().0;
                let Some(asked) = read(&mut connection).await else { continue };
                log.lock().unwrap().push(asked);
                match answers.next() {
                    Some(Answer::Say(status, headers, body)) => {
                        say(connection, status, &headers, &body).await
                    }
                    Some(Answer::Drop) | None => {}
                    Some(Answer::Begin(body)) => {
                        let begun = [b"HTTP/1.1 200 Said\r\n\r\n".as_slice(), &body].concat();
                        // The client may have closed the connection already.
                        let _ = connection.write_all(&begun).await;
                        hanging.push(connection);
                    }
                    Some(Answer::Hang) => hanging.push(connection),
                }
            }
        });
        Self { url, seen }
    }
}

/// Reads one HTTP/1.1 request.
async fn read(connection: &mut TcpStream) -> Option<Seen> {
    let mut reader = BufReader::new(connection);
    let mut line = String::new();
    reader.read_line(&mut line).await.ok()?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await.ok()?;
    Some(Seen { method, path, headers, body: serde_json::from_slice(&body).unwrap_or_default() })
}

async fn say(mut connection: TcpStream, status: u16, headers: &[(String, String)], body: &[u8]) {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status} Said\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n");
    // The client may have closed the connection already.
    let _ = connection.write_all(head.as_bytes()).await;
    let _ = connection.write_all(body).await;
}
