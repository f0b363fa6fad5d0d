package dev.flagstream.client.kafka;

import dev.flagstream.client.CacheOptions;
import dev.flagstream.client.FlagstreamException;
import dev.flagstream.client.internal.Clock;
import java.time.Duration;
import java.util.Map;
import java.util.concurrent.Executor;
import java.util.function.Consumer;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/** Settings of a client over Kafka, after they were checked. */
record KafkaOptions(Map<String, Object> properties, @Nullable String environment, String requestsTopic,
        @Nullable String replyTopic, String conversionsTopic, String updatesTopic, MessageFormat format, Duration timeout,
        int maxPending, int failureThreshold, Duration recoveryTimeout, CacheOptions cache, boolean followChanges,
        Executor executor, @Nullable Consumer<? super FlagstreamException> onError,
        @Nullable Supplier<@Nullable String> traceparent, Clock clock) {}
