package dev.flagstream.client.kafka;

import dev.flagstream.client.ErrorKind;
import dev.flagstream.client.FlagstreamException;
import org.apache.kafka.common.errors.AuthenticationException;
import org.apache.kafka.common.errors.AuthorizationException;
import org.apache.kafka.common.errors.InvalidTopicException;
import org.apache.kafka.common.errors.RecordTooLargeException;
import org.apache.kafka.common.errors.SerializationException;
import org.apache.kafka.common.errors.TimeoutException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;

/** Kinds of the producer's failures. */
final class KafkaErrors {
    private KafkaErrors() {}

    static FlagstreamException of(String topic, Throwable error) {
        ErrorKind kind = ErrorKind.CONNECTION_FAILED;
        if (error instanceof TimeoutException) {
            kind = ErrorKind.TIMED_OUT;
        } else if (error instanceof RecordTooLargeException || error instanceof SerializationException) {
            kind = ErrorKind.INVALID_REQUEST;
        } else if (error instanceof AuthenticationException) {
            kind = ErrorKind.UNAUTHORIZED;
        } else if (error instanceof AuthorizationException) {
            kind = ErrorKind.FORBIDDEN;
        } else if (error instanceof UnknownTopicOrPartitionException || error instanceof InvalidTopicException) {
            kind = ErrorKind.NOT_FOUND;
        }
        return new FlagstreamException(kind, "topic " + topic + ": " + error.getMessage(), error);
    }
}
