/**
 * Evaluates feature flags with flagstream.
 *
 * <p>{@link dev.flagstream.client.FeatureFlags} is the interface of all clients:
 * {@link dev.flagstream.client.FeatureFlagClient} calls the service over HTTP, and
 * {@link dev.flagstream.client.kafka.KafkaFeatureFlagClient} sends requests through Kafka. No method declares a checked
 * exception, and everything that may be {@code null} is marked so.
 */
@NullMarked
package dev.flagstream.client;

import org.jspecify.annotations.NullMarked;
