//! The errors that end a worker's session, and their classification for recovery.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::session::STEP_TIMEOUT;

/// Reason why a session ended with its batch uncommitted.
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
    #[error("results rejected by the broker: {count}, the first with {first}")]
    Refused { count: usize, first: RDKafkaErrorCode },
    #[error("results not acknowledged within {} s", STEP_TIMEOUT.as_secs())]
    Unacknowledged,
    #[error(
        "the coordinator of the consumer group did not respond; the offsets were not added to the transaction"
    )]
    OffsetsUnanswered,
    #[error(
        "the coordinator of the transaction did not respond; it is not known whether the batch was committed"
    )]
    CommitUnanswered,
    #[error("the topic that is read was deleted and recreated")]
    TopicRecreated,
}

impl SessionError {
    /// Whether the consumer has to be replaced too, and not only the producer.
    pub fn ends_consumer(&self) -> bool {
        matches!(self, Self::Consumer(_))
    }

    /// Whether the worker was fenced: another process uses its name, or the group reassigned its partitions.
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

    /// Whether the batch failed although producer and consumer could be created.
    pub fn is_of_delivery(&self) -> bool {
        !matches!(self, Self::Producer(_) | Self::Consumer(_) | Self::TopicRecreated)
    }

    /// Whether the group reassigned partitions while the batch was open. This is expected whenever a member joins or
    /// leaves.
    pub fn is_rebalance(&self) -> bool {
        use RDKafkaErrorCode as Code;
        let Self::Commit(error) = self else { return false };
        matches!(
            error.rdkafka_error_code(),
            Some(Code::IllegalGeneration | Code::UnknownMemberId | Code::RebalanceInProgress)
        )
    }

    /// Whether librdkafka discarded the results because their transaction had failed.
    pub fn is_purged(&self) -> bool {
        use RDKafkaErrorCode as Code;
        matches!(self, Self::Undelivered { first: Code::PurgeQueue | Code::PurgeInflight, .. })
    }

    /// Whether the broker rejected records. The worker then retries immediately, without backoff, after recording what
    /// to change.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// Whether a call to Kafka timed out, so that it may be repeated.
pub fn is_timeout(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::OperationTimedOut)
}
