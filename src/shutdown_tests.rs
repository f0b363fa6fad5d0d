//! Tests of the stop: order, deadline, and names in errors.

use std::sync::{Arc, Mutex};

use super::*;

type Order = Arc<Mutex<Vec<&'static str>>>;

fn part(
    order: &Order,
    name: &'static str,
) -> impl FnOnce(Shutdown) -> Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>> {
    let order = Arc::clone(order);
    move |shutdown| {
        Box::pin(async move {
            shutdown.cancelled().await;
            tokio::task::yield_now().await;
            order.lock().map_err(|_| anyhow!("poisoned"))?.push(name);
            Ok(())
        })
    }
}

#[tokio::test]
async fn intake_ends_before_what_it_needs() -> anyhow::Result<()> {
    let order = Order::default();
    let mut supervisor = Supervisor::default();
    supervisor.start(Stage::Base, "store", part(&order, "store"));
    supervisor.start(Stage::Intake, "feeder", part(&order, "feeder"));
    supervisor.start(Stage::Base, "http", part(&order, "http"));
    supervisor.start(Stage::Intake, "evaluator", part(&order, "evaluator"));
    supervisor.stop(Duration::from_secs(10)).await?;
    let order = order.lock().map_err(|_| anyhow!("poisoned"))?.clone();
    assert_eq!(order.len(), 4);
    assert!(order[..2].contains(&"feeder") && order[..2].contains(&"evaluator"), "{order:?}");
    Ok(())
}

#[tokio::test]
async fn a_part_that_ends_or_panics_is_named() {
    let order = Order::default();
    for (name, expected) in
        [("ends", "ends ended unexpectedly"), ("fails", "fails: broken"), ("panics", "panics panicked")]
    {
        let mut supervisor = Supervisor::default();
        supervisor.start(Stage::Base, "store", part(&order, "store"));
        supervisor.start(Stage::Intake, name, move |_| async move {
            assert_ne!(name, "panics");
            if name == "fails" { Err(anyhow!("broken")) } else { Ok(()) }
        });
        assert_eq!(format!("{:#}", supervisor.failure().await), expected);
        assert!(supervisor.stop(Duration::from_secs(10)).await.is_ok());
    }
}

#[tokio::test]
async fn a_part_that_hangs_is_named_at_the_deadline_and_the_rest_still_stops() {
    let order = Order::default();
    let mut supervisor = Supervisor::default();
    supervisor.start(Stage::Intake, "evaluator", |_| std::future::pending());
    supervisor.start(Stage::Base, "store", part(&order, "store"));
    let error = supervisor.stop(Duration::from_millis(500)).await.err();
    assert_eq!(error.map(|e| e.to_string()).as_deref(), Some("evaluator did not stop in time"));
}

struct Worker(std::thread::JoinHandle<()>);

impl Threads for Worker {
    fn has_failed(&self) -> bool {
        self.0.is_finished()
    }

    fn join(self) -> bool {
        self.0.join().is_ok()
    }
}

#[tokio::test]
async fn threads_are_looked_after_and_waited_for() {
    let ended = Worker(std::thread::spawn(|| {}));
    let error = run_threads(ended, Shutdown::new()).await.err().map(|error| error.to_string());
    assert_eq!(error.as_deref(), Some("a thread ended unexpectedly"));

    let shutdown = Shutdown::new();
    let (send, receive) = std::sync::mpsc::channel::<()>();
    let worker = Worker(std::thread::spawn(move || {
        let _ = receive.recv();
        unreachable!("as a test");
    }));
    shutdown.cancel();
    drop(send);
    let error = run_threads(worker, shutdown).await.err().map(|error| error.to_string());
    assert_eq!(error.as_deref(), Some("a thread panicked"));
}
