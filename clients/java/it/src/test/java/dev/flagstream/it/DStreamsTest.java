package dev.flagstream.it;

import static org.junit.jupiter.api.Assertions.assertEquals;

import com.fasterxml.jackson.databind.JsonNode;
import dev.flagstream.examples.streams.EnrichOrders;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.UUID;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The example for Kafka Streams, on a real service. */
class DStreamsTest {
    private static final int ORDERS = 20;

    @TempDir
    private Path state;

    @BeforeAll
    static void require() {
        Live.require();
    }

    @Test
    void everyOrderIsEnrichedOnce() {
        EnrichOrders.Topics topics = new EnrichOrders.Topics(Live.variable("ORDERS_TOPIC"),
                Live.variable("FLAGSTREAM_TOPICS__REQUESTS"), Live.variable("ORDERS_REPLY_TOPIC"), Live.variable("ENRICHED_TOPIC"));
        String servers = Live.variable("KAFKA_BOOTSTRAP_SERVERS");
        Properties settings = EnrichOrders.settings(servers, "enrich-" + UUID.randomUUID());
        settings.put(StreamsConfig.STATE_DIR_CONFIG, state.toString());
        settings.put("auto.offset.reset", "earliest");
        Map<String, Integer> found = new HashMap<>();
        try (KafkaStreams streams = new KafkaStreams(EnrichOrders.topology(topics, Live.ENVIRONMENT), settings);
                KafkaProducer<String, String> orders = new KafkaProducer<>(Map.of("bootstrap.servers", servers),
                        new StringSerializer(), new StringSerializer());
                KafkaConsumer<String, String> enriched = BKafkaTest.consumer(topics.enriched())) {
            streams.start();
            for (int number = 0; number < ORDERS; number++) {
                String id = "order-" + number;
                orders.send(new ProducerRecord<>(topics.orders(), id,
                        "{\"order_id\":\"" + id + "\",\"user_id\":\"user-" + number + "\",\"country\":\"NL\"}"));
            }
            orders.flush();
            Live.await("all orders", () -> {
                for (ConsumerRecord<String, String> message : enriched.poll(Duration.ofMillis(100))) {
                    JsonNode order = BKafkaTest.json(message.value());
                    assertEquals("dark", order.get("theme").asText());
                    assertEquals(5, order.get("max_retries").asInt());
                    found.merge(message.key(), 1, Integer::sum);
                }
                return found.size() == ORDERS;
            });
        }
        assertEquals(ORDERS, found.values().stream().mapToInt(Integer::intValue).sum());
    }
}
