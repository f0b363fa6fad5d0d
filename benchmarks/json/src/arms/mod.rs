//! The readers that are compared. All of them read a record's bytes into the same request.
//!
//! The other readers do a little less than flagstream's: they do not limit the nesting to 32 levels, do not refuse
//! repeated unknown fields, do not read the four context fields beside the context (`group_id`, …) or the member
//! `properties` of Unleash's context format, and do not say what is wrong with a request.

mod jiter;
mod parts;
mod scanner;
mod sonic_iterator;
mod typed;

use flagstream_protocol::request::Request;

/// One reader.
pub struct Arm {
    pub name: &'static str,
    /// Reads a request; `None` if it is refused.
    pub read: for<'a> fn(&'a [u8]) -> Option<Request<'a>>,
}

/// All readers; flagstream's is the first one.
pub const ARMS: [Arm; 6] = [
    Arm { name: "flagstream", read: flagstream },
    Arm { name: "scanner alone", read: scanner::read },
    Arm { name: "serde_json", read: typed::serde_json },
    Arm { name: "sonic-rs", read: typed::sonic },
    Arm { name: "sonic-rs, lazy iterator", read: sonic_iterator::read },
    Arm { name: "jiter", read: jiter::read },
];

/// The function that the request pipeline calls.
fn flagstream(payload: &[u8]) -> Option<Request<'_>> {
    Request::decode(payload).ok()
}
