package dev.flagstream.examples.streams;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.JoinWindows;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.StreamJoined;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;

/**
 * Enriches a stream of orders with flags, through requests and replies.
 *
 * <pre>
 *  orders ─┬─► request (reply-to, correlation-id) ─► feature-flag-evaluation-requests ─► flagstream
 *          │                                                                                │
 *          └─────────► join by order id ◄───────────── replies ◄────────────────────────────┘
 *                           │
 *                           ▼
 *                    orders-enriched
 * </pre>
 *
 * <p>The order id is the key of everything: flagstream gives the reply the key of the request, and chooses partitions as
 * Kafka's Java clients do. The topics of orders and of replies need the same number of partitions. With exactly-once
 * processing on both sides each order is enriched once.
 */
public final class EnrichOrders {
    /** Longest time between an order and its reply. An order without one is written with defaults after this time. */
    static final Duration WINDOW = Duration.ofSeconds(30);
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final Serde<String> TEXT = Serdes.String();

    private EnrichOrders() {}

    /**
     * Names of topics.
     *
     * @param orders orders in JSON: {@code order_id}, {@code user_id}, {@code country}
     * @param requests the requests of flagstream
     * @param replies a topic for replies, which flagstream allows
     * @param enriched the orders with flags
     */
    public record Topics(String orders, String requests, String replies, String enriched) {}

    /**
     * Returns the topology.
     *
     * @param topics the topics
     * @param environment the environment of the flags
     * @return the topology
     */
    public static Topology topology(Topics topics, String environment) {
        StreamsBuilder builder = new StreamsBuilder();
        KStream<String, String> orders = builder.stream(topics.orders(), Consumed.with(TEXT, TEXT));
        orders.process(() -> new RequestProcessor(topics.replies(), environment))
                .to(topics.requests(), Produced.with(TEXT, TEXT));
        KStream<String, String> replies = builder.stream(topics.replies(), Consumed.with(TEXT, TEXT));
        orders.leftJoin(replies, EnrichOrders::enriched, JoinWindows.ofTimeDifferenceWithNoGrace(WINDOW),
                        StreamJoined.with(TEXT, TEXT, TEXT))
                .to(topics.enriched(), Produced.with(TEXT, TEXT));
        return builder.build();
    }

    /** Makes a request of an order. Headers are why this is a processor. */
    private static final class RequestProcessor implements Processor<String, String, String, String> {
        private final String replies;
        private final String environment;
        private ProcessorContext<String, String> context;

        RequestProcessor(String replies, String environment) {
            this.replies = replies;
            this.environment = environment;
        }

        @Override
        public void init(ProcessorContext<String, String> given) {
            context = given;
        }

        @Override
        public void process(Record<String, String> order) {
            Record<String, String> request = order.withValue(request(order.key(), read(order.value()), environment));
            request.headers().add("reply-to", replies.getBytes(StandardCharsets.UTF_8));
            request.headers().add("correlation-id", order.key().getBytes(StandardCharsets.UTF_8));
            context.forward(request);
        }
    }

    private static String request(String orderId, JsonNode order, String environment) {
        ObjectNode request = JSON.createObjectNode().put("request_id", orderId).put("environment", environment);
        request.put("user_id", order.path("user_id").asText());
        request.putArray("flag_names").add("theme").add("max-retries");
        request.putObject("default_values").put("theme", "light").put("max-retries", 3);
        request.putObject("context").put("country", order.path("country").asText());
        return request.toString();
    }

    private static String enriched(String order, String reply) {
        ObjectNode whole = (ObjectNode) read(order);
        // Without a reply the flags have their defaults.
        JsonNode results = reply == null ? JSON.createObjectNode() : read(reply).path("results");
        whole.put("theme", results.path("theme").path("value").asText("light"));
        whole.put("max_retries", results.path("max-retries").path("value").asInt(3));
        return whole.toString();
    }

    private static JsonNode read(String text) {
        try {
            return JSON.readTree(text);
        } catch (JsonProcessingException error) {
            throw new IllegalArgumentException("not JSON: " + text, error);
        }
    }

    /**
     * Returns the settings.
     *
     * @param servers where Kafka is
     * @param application the name of the group
     * @return the settings
     */
    public static Properties settings(String servers, String application) {
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, application);
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, servers);
        // Replies are read only once they are committed.
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, "-1");
        return settings;
    }

    /**
     * Runs until the process is ended.
     *
     * @param arguments none
     * @throws InterruptedException if the thread is interrupted
     */
    public static void main(String[] arguments) throws InterruptedException {
        Map<String, String> variables = System.getenv();
        Topics topics = new Topics(variables.getOrDefault("ORDERS_TOPIC", "orders"),
                variables.getOrDefault("FLAGSTREAM_TOPICS__REQUESTS", "feature-flag-evaluation-requests"),
                variables.getOrDefault("REPLY_TOPIC", "feature-flag-replies-orders"),
                variables.getOrDefault("ENRICHED_TOPIC", "orders-enriched"));
        String servers = variables.getOrDefault("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092");
        KafkaStreams streams = new KafkaStreams(topology(topics, variables.getOrDefault("ENVIRONMENT", "production")),
                settings(servers, "enrich-orders"));
        CountDownLatch ended = new CountDownLatch(1);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            streams.close();
            ended.countDown();
        }));
        streams.start();
        ended.await();
    }
}
