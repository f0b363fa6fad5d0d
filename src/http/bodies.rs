//! Reads request bodies, and aborts those that arrive too slowly.
//!
//! Most bodies arrive together with their request and are read without waiting. The others are registered in
//! [`Bodies`], which limits their number and memory. When a limit is reached, the body that has waited longest is
//! aborted, so that slow clients cannot block those that send at a normal rate.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::StatusCode;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{MAX_BODY_BYTES, Problem};

/// Time for a body to arrive completely, plus one second for each [`MIN_BYTES_PER_SECOND`] of it received.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Minimum rate at which a large body must arrive.
pub const MIN_BYTES_PER_SECOND: usize = 64 << 10;
/// Maximum number of incomplete bodies.
pub const MAX_WAITING_BODIES: usize = 1_024;
/// Maximum memory of all incomplete bodies together, in bytes.
pub const MAX_WAITING_BYTES: usize = 64 << 20;

/// Maximum bytes of a refused body that are read and dropped.
const DISCARD_MAX_BYTES: usize = 4 << 20;
/// Maximum time for reading and dropping a refused body.
const DISCARD_TIMEOUT: Duration = Duration::from_millis(500);

/// Incomplete bodies of all requests.
#[derive(Debug)]
pub(super) struct Bodies {
    /// Time for a body to arrive: [`BODY_TIMEOUT`], shortened by tests.
    pub(super) timeout: Duration,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    bytes: usize,
    /// Incomplete bodies in the order in which they started to wait.
    bodies: BTreeMap<u64, Held>,
}

#[derive(Debug)]
struct Held {
    bytes: usize,
    given_up: CancellationToken,
}

/// Registration of one incomplete body, removed when dropped.
#[derive(Debug)]
struct Slow {
    bodies: Arc<Bodies>,
    number: u64,
    given_up: CancellationToken,
    since: Instant,
}

/// Concatenates the frames of a body.
#[derive(Debug, Default)]
struct Collected {
    first: Bytes,
    /// All frames, if there is more than one; else empty.
    joined: Vec<u8>,
}

impl Bodies {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { timeout: BODY_TIMEOUT, waiting: Mutex::default() })
    }

    /// Reads the whole body. An error if it is too large, too slow, or ends early.
    pub(super) async fn read(self: &Arc<Self>, mut body: Body) -> Result<Bytes, Problem> {
        // Refuses by the announced length, before anything was received.
        if body.size_hint().lower() > MAX_BODY_BYTES as u64 {
            discard(body).await;
            return Err(too_large());
        }
        let (mut collected, mut slow) = (Collected::default(), None::<Slow>);
        loop {
            let frame = match body.frame().now_or_never() {
                Some(frame) => frame,
                None => self.wait(&mut body, &mut slow, collected.len()).await?,
            };
            let Some(frame) = frame else { return Ok(collected.into_bytes()) };
            let frame = frame.map_err(|_| {
                Problem::new(
                    StatusCode::BAD_REQUEST,
                    "the request body is incomplete: the connection was closed before its end",
                )
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if collected.len() + data.len() > MAX_BODY_BYTES {
                discard(body).await;
                return Err(too_large());
            }
            if let Some(slow) = &slow {
                slow.holds(collected.len() + data.len());
            }
            collected.push(data);
        }
    }

    /// Waits for the next frame of a body of which `received` bytes have arrived.
    async fn wait(
        self: &Arc<Self>,
        body: &mut Body,
        slow: &mut Option<Slow>,
        received: usize,
    ) -> Result<Option<Result<hyper::body::Frame<Bytes>, axum::Error>>, Problem> {
        let slow = slow.get_or_insert_with(|| self.begin(received));
        let earned = Duration::from_secs((received / MIN_BYTES_PER_SECOND) as u64);
        tokio::select! {
            frame = body.frame() => Ok(frame),
            () = slow.given_up.cancelled() => {
                let detail = "too many request bodies are incomplete, and this one for the longest time: it was \
                    aborted; retry";
                Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1))
            }
            () = sleep_until(slow.since + self.timeout + earned) => {
                let detail = format!(
                    "the request body did not arrive in time: it must be complete within {} s, plus 1 s for every \
                     {MIN_BYTES_PER_SECOND} bytes received",
                    self.timeout.as_secs_f32()
                );
                Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail))
            }
        }
    }

    fn begin(self: &Arc<Self>, bytes: usize) -> Slow {
        let given_up = CancellationToken::new();
        let mut waiting = self.lock();
        while waiting.bodies.len() >= MAX_WAITING_BODIES {
            waiting.give_up_oldest();
        }
        let number = waiting.next;
        waiting.next += 1;
        waiting.bytes += bytes;
        waiting.bodies.insert(number, Held { bytes, given_up: given_up.clone() });
        waiting.keep_within_memory();
        drop(waiting);
        Slow { bodies: Arc::clone(self), number, given_up, since: Instant::now() }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.lock().bodies.len()
    }
}

impl Waiting {
    fn give_up_oldest(&mut self) {
        if let Some((_, held)) = self.bodies.pop_first() {
            self.bytes -= held.bytes;
            held.given_up.cancel();
        }
    }

    fn keep_within_memory(&mut self) {
        while self.bytes > MAX_WAITING_BYTES && !self.bodies.is_empty() {
            self.give_up_oldest();
        }
    }
}

impl Slow {
    /// Records that `bytes` of the body have arrived.
    fn holds(&self, bytes: usize) {
        let mut waiting = self.bodies.lock();
        let Some(held) = waiting.bodies.get_mut(&self.number) else { return };
        let before = std::mem::replace(&mut held.bytes, bytes);
        waiting.bytes = waiting.bytes - before + bytes;
        waiting.keep_within_memory();
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        let mut waiting = self.bodies.lock();
        if let Some(held) = waiting.bodies.remove(&self.number) {
            waiting.bytes -= held.bytes;
        }
    }
}

impl Collected {
    fn len(&self) -> usize {
        self.first.len().max(self.joined.len())
    }

    fn push(&mut self, data: Bytes) {
        if self.len() == 0 {
            self.first = data;
            return;
        }
        if self.joined.is_empty() {
            self.joined.extend_from_slice(&self.first);
        }
        self.joined.extend_from_slice(&data);
    }

    fn into_bytes(self) -> Bytes {
        if self.joined.is_empty() { self.first } else { self.joined.into() }
    }
}

/// Reads and drops the rest of a refused body, within limits. A client that still writes when the connection closes gets
/// a reset instead of the response.
async fn discard(mut body: Body) {
    let rest = async {
        let mut dropped = 0;
        while let Some(Ok(frame)) = body.frame().await {
            dropped += frame.data_ref().map_or(0, Bytes::len);
            if dropped > DISCARD_MAX_BYTES {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, rest).await;
}

fn too_large() -> Problem {
    let detail = format!("the request body is larger than {MAX_BODY_BYTES} bytes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{StreamExt, stream};

    use super::*;

    /// A body that sends some bytes and then never continues.
    fn stuck(bytes: usize) -> Body {
        let begun = stream::iter([Ok::<_, Infallible>(vec![b'x'; bytes])]);
        Body::from_stream(begun.chain(stream::pending()))
    }

    #[tokio::test]
    async fn a_body_that_is_there_is_read_without_waiting() {
        let bodies = Bodies::new();
        assert_eq!(bodies.read(Body::empty()).await.unwrap(), "");
        assert_eq!(bodies.read(Body::from("{}")).await.unwrap(), "{}");
        let parts = stream::iter(["a", "", "b", "c"].map(Ok::<_, Infallible>));
        assert_eq!(bodies.read(Body::from_stream(parts)).await.unwrap(), "abc");
        assert_eq!(bodies.waiting(), 0);
    }

    #[tokio::test]
    async fn a_body_that_is_too_large_is_refused_however_it_comes() {
        let bodies = Bodies::new();
        let whole = bodies.read(Body::from(vec![b'x'; MAX_BODY_BYTES + 1])).await.unwrap_err();
        assert_eq!(whole.status, StatusCode::PAYLOAD_TOO_LARGE);
        let parts = stream::repeat_with(|| Ok::<_, Infallible>(vec![b'x'; 1_000]));
        let parts = bodies.read(Body::from_stream(parts)).await.unwrap_err();
        assert_eq!(parts.status, StatusCode::PAYLOAD_TOO_LARGE);
    }

    fn impatient() -> Arc<Bodies> {
        Arc::new(Bodies { timeout: Duration::from_millis(50), waiting: Mutex::default() })
    }

    /// Reads the body in a separate task.
    fn spawn(bodies: &Arc<Bodies>, body: Body) -> tokio::task::JoinHandle<Result<Bytes, StatusCode>> {
        let bodies = Arc::clone(bodies);
        tokio::spawn(async move { bodies.read(body).await.map_err(|problem| problem.status) })
    }

    async fn until_waiting(bodies: &Bodies, count: usize) {
        let waiting = async {
            while bodies.waiting() != count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap();
    }

    #[tokio::test]
    async fn a_body_that_does_not_arrive_in_time_is_given_up() {
        let bodies = impatient();
        assert_eq!(bodies.read(stuck(1)).await.unwrap_err().status, StatusCode::REQUEST_TIMEOUT);
        // A body that sends one byte at a time is too slow as well.
        let dripping = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Some((Ok::<_, Infallible>("x"), ()))
        });
        let dripping = bodies.read(Body::from_stream(dripping)).await.unwrap_err();
        assert_eq!(dripping.status, StatusCode::REQUEST_TIMEOUT);
        // A large body that arrives at the minimum rate is read to its end.
        let steady = stream::unfold(0, |sent| async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            (sent < 15).then(|| (Ok::<_, Infallible>(vec![b'x'; MIN_BYTES_PER_SECOND]), sent + 1))
        });
        assert_eq!(bodies.read(Body::from_stream(steady)).await.unwrap().len(), 15 * MIN_BYTES_PER_SECOND);
        assert_eq!(bodies.waiting(), 0);
    }

    #[tokio::test]
    async fn when_too_many_wait_the_oldest_is_given_up_and_not_the_newest() {
        let bodies = Bodies::new();
        let oldest = spawn(&bodies, stuck(1));
        until_waiting(&bodies, 1).await;
        let others: Vec<_> = (1..MAX_WAITING_BODIES).map(|_| spawn(&bodies, stuck(1))).collect();
        until_waiting(&bodies, MAX_WAITING_BODIES).await;
        let (send, arrives) = tokio::sync::oneshot::channel::<()>();
        let newest = spawn(
            &bodies,
            Body::from_stream(stream::once(async {
                let _ = arrives.await;
                Ok::<_, Infallible>("{}")
            })),
        );
        assert_eq!(oldest.await.unwrap(), Err(StatusCode::SERVICE_UNAVAILABLE));
        send.send(()).unwrap();
        assert_eq!(newest.await.unwrap().unwrap(), "{}");
        until_waiting(&bodies, MAX_WAITING_BODIES - 1).await;
        // Cancelling a request also removes its body.
        others.iter().for_each(tokio::task::JoinHandle::abort);
        until_waiting(&bodies, 0).await;
    }

    #[tokio::test]
    async fn bodies_that_are_waited_for_hold_a_bounded_amount_of_memory() {
        let bodies = Bodies::new();
        let most = MAX_WAITING_BYTES / MAX_BODY_BYTES;
        let first: Vec<_> = (0..most).map(|_| spawn(&bodies, stuck(MAX_BODY_BYTES))).collect();
        until_waiting(&bodies, most).await;
        let second: Vec<_> = (0..most).map(|_| spawn(&bodies, stuck(MAX_BODY_BYTES))).collect();
        for given_up in first {
            assert_eq!(given_up.await.unwrap(), Err(StatusCode::SERVICE_UNAVAILABLE));
        }
        until_waiting(&bodies, most).await;
        assert!(bodies.lock().bytes <= MAX_WAITING_BYTES);
        second.iter().for_each(tokio::task::JoinHandle::abort);
        until_waiting(&bodies, 0).await;
        assert_eq!(bodies.lock().bytes, 0);
    }
}
