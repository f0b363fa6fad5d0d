//! Classification of the errors of consumers: transient or lasting.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// Whether an error lasts until an operator intervenes: the topic is missing or may not be read, the credentials are
/// refused, or the client has failed. Connection errors are transient; librdkafka reconnects by itself.
pub fn is_lasting(error: &KafkaError) -> bool {
    matches!(error, KafkaError::MessageConsumptionFatal(_))
        || matches!(
            error.rdkafka_error_code(),
            Some(
                Code::UnknownTopic
                    | Code::UnknownPartition
                    | Code::UnknownTopicOrPartition
                    | Code::TopicAuthorizationFailed
                    | Code::GroupAuthorizationFailed
                    | Code::Authentication
                    | Code::SaslAuthenticationFailed
                    | Code::Fatal
            )
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_connection_is_transient_and_a_missing_topic_is_not() {
        for code in [Code::AllBrokersDown, Code::BrokerTransportFailure, Code::NotLeaderForPartition] {
            assert!(!is_lasting(&KafkaError::MessageConsumption(code)), "{code}");
        }
        for code in [Code::UnknownTopicOrPartition, Code::TopicAuthorizationFailed, Code::Authentication] {
            assert!(is_lasting(&KafkaError::MessageConsumption(code)), "{code}");
        }
        assert!(is_lasting(&KafkaError::MessageConsumptionFatal(Code::BrokerTransportFailure)));
    }
}
