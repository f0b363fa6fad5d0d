//! Why a session of a worker ends, and what follows from it.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::session::STEP;

/// Why a session ended with its batch uncommitted.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("producer: {0}")]
    Producer(KafkaError),
    #[error("consumer: {0}")]
    Consumer(KafkaError),
    #[error("commit: {0}")]
    Commit(KafkaError),
    #[error("results not delivered: {count}, the first with {first}")]
    Undelivered { count: usize, first: RDKafkaErrorCode },
    #[error("results refused by the broker: {count}, the first with {first}")]
    Refused { count: usize, first: RDKafkaErrorCode },
    #[error("results not acknowledged within {} s", STEP.as_secs())]
    Unacknowledged,
    #[error("the requests topic was deleted and created anew")]
    TopicRecreated,
}

impl SessionError {
    /// Whether a new consumer is needed as well.
    pub fn ends_consumer(&self) -> bool {
        matches!(self, Self::Consumer(_))
    }

    /// Another process lives under this worker's name, or the group has given its partitions away.
    pub fn is_fenced(&self) -> bool {
        use RDKafkaErrorCode as Code;
        let (Self::Producer(error) | Self::Consumer(error) | Self::Commit(error)) = self else {
            return false;
        };
        matches!(
            error.rdkafka_error_code(),
            Some(
                Code::Fenced
                    | Code::ProducerFenced
                    | Code::InvalidProducerEpoch
                    | Code::FencedInstanceId
                    | Code::IllegalGeneration
                    | Code::UnknownMemberId
            )
        )
    }

    /// There was a producer and a consumer, and the batch failed all the same.
    pub fn is_of_delivery(&self) -> bool {
        !matches!(self, Self::Producer(_) | Self::Consumer(_) | Self::TopicRecreated)
    }

    /// The group shared out its partitions anew while the batch was open. Expected whenever a member comes or goes.
    pub fn is_rebalance(&self) -> bool {
        use RDKafkaErrorCode as Code;
        let Self::Commit(error) = self else { return false };
        matches!(
            error.rdkafka_error_code(),
            Some(Code::IllegalGeneration | Code::UnknownMemberId | Code::RebalanceInProgress)
        )
    }

    /// A refusal is answered at once by doing it differently, without waiting.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}
