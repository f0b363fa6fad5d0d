package dev.flagstream.client.kafka;

import java.time.Duration;
import java.util.HashMap;
import java.util.Map;

/** Properties of Kafka's clients: the user's, and defaults that suit requests and replies. */
final class KafkaProperties {
    private KafkaProperties() {}

    static Map<String, Object> ofConsumer(Map<String, Object> given) {
        Map<String, Object> all = new HashMap<>(given);
        // Replies and changes are written in transactions: what was taken back must not be read.
        all.putIfAbsent("isolation.level", "read_committed");
        all.put("enable.auto.commit", "false");
        all.putIfAbsent("auto.offset.reset", "latest");
        all.putIfAbsent("metadata.max.age.ms", "5000");
        reconnectSoon(all);
        all.remove("group.id");
        all.remove("key.deserializer");
        all.remove("value.deserializer");
        return all;
    }

    static Map<String, Object> ofProducer(Map<String, Object> given, Duration timeout) {
        Map<String, Object> all = new HashMap<>(given);
        // A request waits for no others; those that come meanwhile are sent together anyway.
        all.putIfAbsent("linger.ms", "0");
        all.putIfAbsent("acks", "all");
        all.putIfAbsent("max.block.ms", Long.toString(timeout.toMillis()));
        // A topic that is used seldom stays known while Kafka is unreachable, so that no caller waits for it.
        all.putIfAbsent("metadata.max.idle.ms", Long.toString(Duration.ofDays(1).toMillis()));
        reconnectSoon(all);
        all.remove("key.serializer");
        all.remove("value.serializer");
        return all;
    }

    private static void reconnectSoon(Map<String, Object> all) {
        all.putIfAbsent("reconnect.backoff.ms", "50");
        all.putIfAbsent("reconnect.backoff.max.ms", "1000");
    }
}
