//! Reads the whole definitions topic, which is the initial state of a new leader.

use rdkafka::Message;
use rdkafka::message::BorrowedMessage;

use crate::config::Config;
use crate::kafka::compacted::{ReadError, read_to_end};
use crate::log_limit::limited;
use crate::store::record::header_version;

use super::state::State;

/// Reads all committed definitions. Blocks. Must be called after `init_transactions`: only then is the last
/// transaction of a former leader either committed or aborted, and no further one is possible.
pub fn read(config: &Config) -> Result<State, ReadError> {
    let mut state = State::default();
    let topic = &config.topics.definitions;
    read_to_end(&config.kafka, topic, "feeder-state", |message| apply(&mut state, message))?;
    Ok(state)
}

fn apply(state: &mut State, message: &BorrowedMessage<'_>) {
    let version = message.payload().is_none().then(|| header_version(message)).flatten();
    if let Err(error) = state.apply(message.key().unwrap_or_default(), message.payload(), version) {
        let (topic, offset) = (message.topic(), message.offset());
        limited!(
            warn,
            topic,
            offset,
            %error,
            "a definition cannot be decoded; it is treated as absent",
        );
    }
}
