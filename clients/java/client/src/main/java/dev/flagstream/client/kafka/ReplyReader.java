package dev.flagstream.client.kafka;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.InterruptException;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Reads a reply topic for all clients of the process, on one thread.
 *
 * <p>It belongs to no consumer group: each process reads the whole topic, and recognizes its replies by the correlation id,
 * which begins with the id of a client. Reading starts at the end of each partition, which is looked up before the first
 * request is sent.
 */
final class ReplyReader implements Runnable {
    /** Separates a client's id from the number of its request in a correlation id. */
    static final char SEPARATOR = '.';
    private static final Duration POLL = Duration.ofMillis(500);
    private static final Duration LOOKUP_TIMEOUT = Duration.ofSeconds(10);
    private static final Duration RETRY_INTERVAL = Duration.ofSeconds(1);
    /** Interval at which new partitions are noticed: replies to their keys would be missed otherwise. */
    private static final Duration PARTITIONS_INTERVAL = Duration.ofSeconds(5);
    private static final Logger LOG = LoggerFactory.getLogger("dev.flagstream.client");
    private static final Map<Map<String, Object>, ReplyReader> SHARED = new HashMap<>();

    private final Map<String, Object> properties;
    private final String topic;
    private final Map<String, Sink> sinks = new ConcurrentHashMap<>();
    private final CompletableFuture<Void> ready = new CompletableFuture<>();
    /** Offsets to read next, if the consumer had to be replaced. */
    private final Map<TopicPartition, Long> positions = new HashMap<>();
    private volatile boolean closed;
    private volatile @Nullable String problem;
    private volatile @Nullable KafkaConsumer<byte[], byte[]> consumer;

    /** Receives the replies of one client. */
    interface Sink {
        void reply(String correlationId, byte[] message);
    }

    private ReplyReader(Map<String, Object> properties, String topic) {
        this.properties = properties;
        this.topic = topic;
    }

    /** Returns the process's reader of a topic, and registers a client. */
    static ReplyReader acquire(Map<String, Object> properties, String topic, String client, Sink sink) {
        Map<String, Object> key = new HashMap<>(properties);
        key.put("flagstream.reply.topic", topic);
        synchronized (SHARED) {
            ReplyReader reader = SHARED.computeIfAbsent(key, absent -> {
                ReplyReader started = new ReplyReader(Map.copyOf(properties), topic);
                Thread thread = new Thread(started, "flagstream-replies");
                thread.setDaemon(true);
                thread.start();
                return started;
            });
            reader.sinks.put(client, sink);
            return reader;
        }
    }

    /** Returns the number of readers in this process, for tests. */
    static int count() {
        synchronized (SHARED) {
            return SHARED.size();
        }
    }

    /** Removes a client; the last one ends the reader. */
    void release(String client) {
        synchronized (SHARED) {
            sinks.remove(client);
            if (!sinks.isEmpty()) {
                return;
            }
            SHARED.values().remove(this);
            closed = true;
        }
        KafkaConsumer<byte[], byte[]> open = consumer;
        if (open != null) {
            open.wakeup();
        }
    }

    /** Completes when every reply to a later request will be read. */
    CompletableFuture<Void> ready() {
        return ready;
    }

    /** Returns why the reader is not ready, or {@code null}. */
    @Nullable String problem() {
        return problem;
    }

    @Override
    public void run() {
        while (!closed) {
            try (KafkaConsumer<byte[], byte[]> open = new KafkaConsumer<>(properties, new ByteArrayDeserializer(),
                    new ByteArrayDeserializer())) {
                consumer = open;
                read(open);
            } catch (WakeupException | InterruptException ending) {
                // The reader was closed, or its thread is to end.
            } catch (KafkaException error) {
                failed("reply topic " + topic + ": " + error.getMessage());
            } finally {
                consumer = null;
            }
        }
    }

    private void read(KafkaConsumer<byte[], byte[]> open) {
        if (!locate(open)) {
            return;
        }
        problem = null;
        ready.complete(null);
        long looked = System.nanoTime();
        while (!closed) {
            for (ConsumerRecord<byte[], byte[]> message : open.poll(POLL)) {
                positions.put(new TopicPartition(message.topic(), message.partition()), message.offset() + 1);
                dispatch(message);
            }
            if (System.nanoTime() - looked > PARTITIONS_INTERVAL.toNanos()) {
                looked = System.nanoTime();
                addPartitions(open);
            }
        }
    }

    /** Assigns all partitions, at their ends or where an earlier consumer stopped; returns whether the topic exists. */
    private boolean locate(KafkaConsumer<byte[], byte[]> open) {
        List<TopicPartition> places = places(open);
        if (places.isEmpty()) {
            failed("reply topic " + topic + " does not exist, or may not be read; create it");
            return false;
        }
        open.assign(places);
        open.endOffsets(places, LOOKUP_TIMEOUT).forEach((place, end) -> {
            long next = positions.computeIfAbsent(place, absent -> end);
            open.seek(place, next);
        });
        return true;
    }

    private void addPartitions(KafkaConsumer<byte[], byte[]> open) {
        List<TopicPartition> added = new ArrayList<>(places(open));
        added.removeAll(open.assignment());
        if (added.isEmpty()) {
            return;
        }
        List<TopicPartition> all = new ArrayList<>(open.assignment());
        all.addAll(added);
        open.assign(all);
        // From their beginning: replies may have been written before they were noticed.
        open.seekToBeginning(added);
        LOG.info("reply topic {} has {} partitions now", topic, all.size());
    }

    private List<TopicPartition> places(KafkaConsumer<byte[], byte[]> open) {
        List<PartitionInfo> infos = open.partitionsFor(topic, LOOKUP_TIMEOUT);
        return infos == null ? List.of()
                : infos.stream().map(info -> new TopicPartition(topic, info.partition())).toList();
    }

    private void dispatch(ConsumerRecord<byte[], byte[]> message) {
        Header header = message.headers().lastHeader("correlation-id");
        if (header == null || header.value() == null || message.value() == null) {
            return;
        }
        String id = new String(header.value(), StandardCharsets.UTF_8);
        int end = id.indexOf(SEPARATOR);
        // Replies to other processes are in the topic, too.
        Sink sink = end < 0 ? null : sinks.get(id.substring(0, end));
        if (sink != null) {
            try {
                sink.reply(id, message.value());
            } catch (RuntimeException error) {
                LOG.warn("a reply could not be taken: {}", id, error);
            }
        }
    }

    private void failed(String why) {
        if (!why.equals(problem)) {
            LOG.warn("{}", why);
        }
        problem = why;
        try {
            Thread.sleep(RETRY_INTERVAL.toMillis());
        } catch (InterruptedException interrupted) {
            // The thread belongs to this class; nobody interrupts it but the end of the process.
            Thread.currentThread().interrupt();
            closed = true;
        }
    }
}
