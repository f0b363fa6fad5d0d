/**
 * Evaluation through Kafka, and changes from Kafka. It needs {@code org.apache.kafka:kafka-clients}, and for Avro
 * {@code org.apache.avro:avro}, which the client declares as optional dependencies.
 */
@NullMarked
package dev.flagstream.client.kafka;

import org.jspecify.annotations.NullMarked;
