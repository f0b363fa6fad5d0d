package dev.flagstream.client.kafka;

import dev.flagstream.client.ErrorKind;
import dev.flagstream.client.FlagstreamException;
import dev.flagstream.client.internal.Timers;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.RejectedExecutionException;
import java.util.function.Supplier;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Produces messages. The metadata of each topic is read on a thread of its own before the first message, so that no caller waits
 * in {@code send} while Kafka is unreachable.
 */
final class RequestSender implements AutoCloseable {
    private static final Duration CLOSE_TIMEOUT = Duration.ofSeconds(5);
    private static final Duration RETRY_INTERVAL = Duration.ofSeconds(1);
    private static final Logger LOG = LoggerFactory.getLogger("dev.flagstream.client");

    private final KafkaProducer<byte[], byte[]> producer;
    private final Map<String, CompletableFuture<Void>> ready = new ConcurrentHashMap<>();
    private final @Nullable Supplier<@Nullable String> traceparent;
    private volatile boolean closed;
    private volatile @Nullable String problem;

    RequestSender(Map<String, Object> properties, @Nullable Supplier<@Nullable String> traceparent) {
        producer = new KafkaProducer<>(properties, new ByteArraySerializer(), new ByteArraySerializer());
        this.traceparent = traceparent;
    }

    /** Completes when the topic's metadata is known, or exceptionally when the sender is closed before. */
    CompletableFuture<Void> ready(String topic) {
        return ready.computeIfAbsent(topic, absent -> {
            CompletableFuture<Void> known = new CompletableFuture<>();
            Thread starter = new Thread(() -> awaitMetadata(topic, known), "flagstream-requests");
            starter.setDaemon(true);
            starter.start();
            return known;
        });
    }

    /** Returns why the sender is not ready, or {@code null}. */
    @Nullable String problem() {
        return problem;
    }

    /** Sends a message; completes when Kafka has it. */
    CompletableFuture<Void> send(String topic, @Nullable String key, byte[] value, Map<String, String> headers) {
        byte[] keyBytes = key == null ? null : key.getBytes(StandardCharsets.UTF_8);
        ProducerRecord<byte[], byte[]> message = new ProducerRecord<>(topic, keyBytes, value);
        headers.forEach((name, text) -> message.headers().add(name, text.getBytes(StandardCharsets.UTF_8)));
        String trace = traceparent == null ? null : traceparent.get();
        if (trace != null) {
            message.headers().add("traceparent", trace.getBytes(StandardCharsets.UTF_8));
        }
        CompletableFuture<Void> sent = new CompletableFuture<>();
        try {
            producer.send(message, (place, error) -> {
                if (error == null) {
                    sent.complete(null);
                } else {
                    sent.completeExceptionally(KafkaErrors.of(topic, error));
                }
            });
        } catch (KafkaException error) {
            sent.completeExceptionally(KafkaErrors.of(topic, error));
        } catch (IllegalStateException error) {
            sent.completeExceptionally(new FlagstreamException(ErrorKind.CONNECTION_FAILED, "the client is closed", error));
        }
        return sent;
    }

    /** Fails the future after a time, unless it is completed before. */
    static <T> void limit(Timers timers, CompletableFuture<T> future, Duration timeout, Runnable atTimeout) {
        try {
            var timer = timers.after(timeout.toNanos(), atTimeout);
            future.whenComplete((done, failure) -> timer.cancel(false));
        } catch (RejectedExecutionException closing) {
            future.completeExceptionally(new FlagstreamException(ErrorKind.CONNECTION_FAILED, "the client is closed", closing));
        }
    }

    @Override
    public void close() {
        closed = true;
        producer.close(CLOSE_TIMEOUT);
        FlagstreamException failure = new FlagstreamException(ErrorKind.CONNECTION_FAILED, "the client is closed", null);
        ready.values().forEach(known -> known.completeExceptionally(failure));
    }

    private void awaitMetadata(String topic, CompletableFuture<Void> known) {
        while (!closed) {
            try {
                List<PartitionInfo> partitions = producer.partitionsFor(topic);
                if (!partitions.isEmpty()) {
                    problem = null;
                    known.complete(null);
                    return;
                }
            } catch (KafkaException error) {
                String why = "topic " + topic + ": " + error.getMessage();
                if (!why.equals(problem) && !closed) {
                    LOG.warn("{}", why);
                }
                problem = why;
            } catch (IllegalStateException error) {
                return;
            }
            try {
                Thread.sleep(RETRY_INTERVAL.toMillis());
            } catch (InterruptedException interrupted) {
                Thread.currentThread().interrupt();
                return;
            }
        }
    }
}
