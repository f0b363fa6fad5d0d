//! Wakes a reader that has several librdkafka queues when something arrives on one of them.

use std::ffi::c_void;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rdkafka_sys as sys;

/// A flag that is set when something arrives on a queue that was empty.
#[derive(Debug, Default)]
pub struct Arrivals {
    has_arrived: Mutex<bool>,
    arrived: Condvar,
}

/// Reports arrivals on one queue until it is dropped.
#[derive(Debug)]
pub(super) struct Notification {
    queue: *mut sys::rd_kafka_queue_t,
    /// The callback's argument.
    _arrivals: Arc<Arrivals>,
}

// SAFETY: librdkafka's handles may be used from any thread.
unsafe impl Send for Notification {}

impl Arrivals {
    /// Waits up to `timeout` for an arrival since the last call. Returns whether there was one.
    pub fn wait(&self, timeout: Duration) -> bool {
        let has_arrived = self.has_arrived.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.arrived.wait_timeout_while(has_arrived, timeout, |has_arrived| !*has_arrived);
        let (mut has_arrived, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *has_arrived)
    }

    fn notify(&self) {
        *self.has_arrived.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.arrived.notify_one();
    }
}

impl Notification {
    /// # Safety
    /// `queue` must be valid until the notification is dropped, and must have no other notification.
    pub(super) unsafe fn enable(queue: *mut sys::rd_kafka_queue_t, arrivals: &Arc<Arrivals>) -> Self {
        let argument = Arc::as_ptr(arrivals).cast_mut().cast();
        // SAFETY: the argument is kept alive by this struct, whose drop ends the callbacks.
        unsafe { sys::rd_kafka_queue_cb_event_enable(queue, Some(notify), argument) };
        Self { queue, _arrivals: Arc::clone(arrivals) }
    }
}

impl Drop for Notification {
    fn drop(&mut self) {
        // SAFETY: the queue is valid. librdkafka calls back with the queue locked, and takes that lock here: no callback
        // runs afterwards.
        unsafe { sys::rd_kafka_queue_cb_event_enable(self.queue, None, std::ptr::null_mut()) };
    }
}

/// librdkafka's callback: something has arrived on a queue that was empty. It must not call librdkafka.
unsafe extern "C" fn notify(_: *mut sys::rd_kafka_t, arrivals: *mut c_void) {
    // SAFETY: the argument of `Notification::enable`, which outlives the callbacks.
    unsafe { &*arrivals.cast::<Arrivals>() }.notify();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrival_ends_one_wait_also_if_it_came_before() {
        let arrivals = Arrivals::default();
        arrivals.notify();
        arrivals.notify();
        assert!(arrivals.wait(Duration::from_secs(60)));
        assert!(!arrivals.wait(Duration::ZERO));
    }
}
