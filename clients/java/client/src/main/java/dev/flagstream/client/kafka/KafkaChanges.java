package dev.flagstream.client.kafka;

import com.fasterxml.jackson.databind.JsonNode;
import dev.flagstream.client.FeatureFlags;
import dev.flagstream.client.FlagChange;
import dev.flagstream.client.internal.AbstractFlags;
import dev.flagstream.client.internal.ChangeParser;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.InterruptException;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Reads {@code feature-flag-updates} and reports each change to a client, which invalidates its cache and calls its
 * listeners. Each process needs every message, so it belongs to no consumer group and commits nothing. Closing it ends its
 * thread.
 */
public final class KafkaChanges implements AutoCloseable {
    /** The topic's default name. */
    public static final String UPDATES_TOPIC = "feature-flag-updates";
    /** Records before the end that are read first, so that answers from before the start are compared with them. */
    private static final long LOOK_BACK_RECORDS = 100;
    private static final Duration POLL = Duration.ofMillis(500);
    private static final Duration LOOKUP_TIMEOUT = Duration.ofSeconds(10);
    private static final Duration RETRY_INTERVAL = Duration.ofSeconds(1);
    private static final Logger LOG = LoggerFactory.getLogger("dev.flagstream.client");

    private final Map<String, Object> properties;
    private final String topic;
    private final MessageFormat format;
    private final Consumer<? super FlagChange> changes;
    /** Receives changes from before the start, which are no news. */
    private final Consumer<? super FlagChange> earlier;
    /** Called for a change that cannot be read: what it makes outdated is unknown. */
    private final Runnable unreadable;
    private final Runnable started;
    private final Map<TopicPartition, Long> positions = new HashMap<>();
    private final Map<TopicPartition, Long> starts = new HashMap<>();
    private final CountDownLatch following = new CountDownLatch(1);
    private final Thread thread;
    private volatile boolean closed;
    private volatile @Nullable KafkaConsumer<byte[], byte[]> consumer;

    KafkaChanges(Map<String, Object> properties, String topic, MessageFormat format, Consumer<? super FlagChange> changes,
            Consumer<? super FlagChange> earlier, Runnable unreadable, Runnable started) {
        this.properties = KafkaProperties.ofConsumer(properties);
        this.topic = topic;
        this.format = format;
        this.changes = changes;
        this.earlier = earlier;
        this.unreadable = unreadable;
        this.started = started;
        thread = new Thread(this::run, "flagstream-changes");
        thread.setDaemon(true);
        thread.start();
    }

    /**
     * Starts to report changes in JSON from {@value #UPDATES_TOPIC}.
     *
     * @param flags a client, created with a cache
     * @param properties properties of Kafka's consumer; {@code bootstrap.servers} is required
     * @return closing it ends the reports
     */
    public static KafkaChanges start(FeatureFlags flags, Map<String, Object> properties) {
        return start(flags, properties, UPDATES_TOPIC, MessageFormat.json());
    }

    /**
     * Starts to report changes.
     *
     * @param flags a client, created with a cache
     * @param properties properties of Kafka's consumer; {@code bootstrap.servers} is required
     * @param topic the topic's name
     * @param format the format of the topic
     * @return closing it ends the reports
     */
    public static KafkaChanges start(FeatureFlags flags, Map<String, Object> properties, String topic, MessageFormat format) {
        Consumer<FlagChange> earlier = flags instanceof AbstractFlags client ? client::announceEarlier : flags::invalidate;
        return new KafkaChanges(properties, topic, format, flags::invalidate, earlier, flags::clearCache, () -> { });
    }

    /**
     * Returns whether every later change will be reported.
     *
     * @return {@code true} once the positions in the topic are known
     */
    public boolean isFollowing() {
        return following.getCount() == 0 && !closed;
    }

    /**
     * Waits until every later change will be reported.
     *
     * @param timeout how long
     * @return whether it is so
     */
    public boolean awaitFollowing(Duration timeout) {
        try {
            return following.await(timeout.toNanos(), TimeUnit.NANOSECONDS);
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
            return false;
        }
    }

    @Override
    public void close() {
        closed = true;
        KafkaConsumer<byte[], byte[]> open = consumer;
        if (open != null) {
            open.wakeup();
        }
    }

    private void run() {
        String problem = null;
        while (!closed) {
            try (KafkaConsumer<byte[], byte[]> open = new KafkaConsumer<>(properties, new ByteArrayDeserializer(),
                    new ByteArrayDeserializer())) {
                consumer = open;
                read(open);
            } catch (WakeupException | InterruptException ending) {
                // It was closed, or its thread is to end.
            } catch (KafkaException error) {
                String why = String.valueOf(error.getMessage());
                if (!why.equals(problem)) {
                    LOG.warn("{}: no changes arrive: {}", topic, why);
                }
                problem = why;
                if (!pause()) {
                    return;
                }
            } finally {
                consumer = null;
            }
        }
    }

    private void read(KafkaConsumer<byte[], byte[]> open) {
        List<PartitionInfo> infos = open.partitionsFor(topic, LOOKUP_TIMEOUT);
        if (infos == null || infos.isEmpty()) {
            throw new KafkaException("the topic does not exist, or may not be read");
        }
        List<TopicPartition> places = infos.stream().map(info -> new TopicPartition(topic, info.partition())).toList();
        open.assign(places);
        Map<TopicPartition, Long> begins = open.beginningOffsets(places, LOOKUP_TIMEOUT);
        open.endOffsets(places, LOOKUP_TIMEOUT).forEach((place, end) -> {
            long first = Math.max(begins.getOrDefault(place, 0L), end - LOOK_BACK_RECORDS);
            starts.putIfAbsent(place, end);
            open.seek(place, positions.getOrDefault(place, first));
        });
        if (following.getCount() > 0) {
            following.countDown();
            started.run();
        }
        while (!closed) {
            for (ConsumerRecord<byte[], byte[]> message : open.poll(POLL)) {
                TopicPartition place = new TopicPartition(message.topic(), message.partition());
                positions.put(place, message.offset() + 1);
                take(message, message.offset() < starts.getOrDefault(place, 0L));
            }
        }
    }

    private void take(ConsumerRecord<byte[], byte[]> message, boolean isEarlier) {
        if (message.value() == null) {
            return;
        }
        FlagChange change;
        try {
            JsonNode event = format.decode(message.value());
            change = ChangeParser.change(event);
        } catch (RuntimeException error) {
            LOG.warn("{} offset {}: {}", topic, message.offset(), error.getMessage());
            change = null;
        }
        if (change == null) {
            LOG.warn("{} offset {}: not a change that this client can read; all cached answers are dropped", topic,
                    message.offset());
            unreadable.run();
        } else if (isEarlier) {
            earlier.accept(change);
        } else {
            changes.accept(change);
        }
    }

    private boolean pause() {
        try {
            Thread.sleep(RETRY_INTERVAL.toMillis());
            return true;
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
            return false;
        }
    }
}
