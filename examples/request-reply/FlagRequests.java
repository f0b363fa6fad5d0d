import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Asks flagstream through Kafka, and awaits the replies: a request is a record, its reply one in a topic of ours, matched by
 * {@code correlation-id}. Each instance reads the whole reply topic and takes what is its own, so give instances with much
 * traffic topics of their own.
 */
public final class FlagRequests implements AutoCloseable {
    /** Requests that wait for a reply; the next one waits for room. */
    private static final int MAX_PENDING = 10_000;

    private final ObjectMapper json = new ObjectMapper();
    private final Map<String, CompletableFuture<JsonNode>> pending = new ConcurrentHashMap<>();
    private final Semaphore room = new Semaphore(MAX_PENDING);
    private final KafkaProducer<String, String> producer;
    private final KafkaConsumer<String, String> consumer;
    private final Thread reader;
    private final String requests;
    private final String replies;
    private volatile boolean closing;

    public FlagRequests(String bootstrapServers, String requests, String replies) {
        this.requests = requests;
        this.replies = replies;
        producer = new KafkaProducer<>(Map.of("bootstrap.servers", bootstrapServers, "linger.ms", "2"),
                new StringSerializer(), new StringSerializer());
        // Replies are written in transactions: what was taken back must not be read.
        consumer = new KafkaConsumer<>(Map.of("bootstrap.servers", bootstrapServers, "isolation.level", "read_committed",
                "enable.auto.commit", "false"), new StringDeserializer(), new StringDeserializer());
        List<TopicPartition> places = consumer.partitionsFor(replies).stream()
                .map(place -> new TopicPartition(replies, place.partition())).toList();
        consumer.assign(places);
        consumer.seekToEnd(places);
        // Looked up before the first request, whose reply would be missed otherwise.
        places.forEach(consumer::position);
        reader = new Thread(this::read, "flag-replies");
        reader.start();
    }

    /** The results by flag. The future fails with a TimeoutException if no reply comes in time. */
    public CompletableFuture<JsonNode> evaluate(String user, Map<String, Object> flagsAndDefaults, Map<String, Object> context,
            String environment, Duration timeout) throws Exception {
        String id = UUID.randomUUID().toString();
        Map<String, Object> request = new LinkedHashMap<>();
        request.put("request_id", id);
        request.put("flag_names", flagsAndDefaults.keySet());
        request.put("default_values", flagsAndDefaults);
        request.put("user_id", user);
        request.put("context", context);
        request.put("environment", environment);
        // The user is the key: requests of one user stay in order.
        ProducerRecord<String, String> message = new ProducerRecord<>(requests, user, json.writeValueAsString(request));
        message.headers().add("reply-to", replies.getBytes(StandardCharsets.UTF_8));
        message.headers().add("correlation-id", id.getBytes(StandardCharsets.UTF_8));

        room.acquire();
        CompletableFuture<JsonNode> reply = new CompletableFuture<>();
        pending.put(id, reply);
        reply.orTimeout(timeout.toMillis(), TimeUnit.MILLISECONDS).whenComplete((said, failure) -> {
            pending.remove(id);
            room.release();
        });
        producer.send(message, (place, failure) -> {
            if (failure != null) {
                reply.completeExceptionally(failure);
            }
        });
        return reply;
    }

    private void read() {
        try {
            while (!closing) {
                consumer.poll(Duration.ofSeconds(1)).forEach(message -> {
                    Header id = message.headers().lastHeader("correlation-id");
                    CompletableFuture<JsonNode> reply =
                            id == null ? null : pending.get(new String(id.value(), StandardCharsets.UTF_8));
                    if (reply == null) {
                        return;
                    }
                    try {
                        reply.complete(json.readTree(message.value()).get("results"));
                    } catch (Exception failure) {
                        reply.completeExceptionally(failure);
                    }
                });
            }
        } catch (WakeupException closed) {
            // Asked to end.
        } finally {
            consumer.close();
        }
    }

    @Override
    public void close() throws InterruptedException {
        closing = true;
        consumer.wakeup();
        reader.join();
        producer.close();
    }

    /** Asks for each user named, all at once, and prints what they get. */
    public static void main(String[] users) throws Exception {
        Map<String, String> environment = System.getenv();
        String servers = environment.getOrDefault("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092");
        String requests = environment.getOrDefault("FLAGSTREAM_TOPICS__REQUESTS", "feature-flag-evaluation-requests");
        String replies = environment.getOrDefault("REPLY_TOPIC", "feature-flag-replies-example");
        try (FlagRequests flags = new FlagRequests(servers, requests, replies)) {
            Map<String, CompletableFuture<JsonNode>> asked = new LinkedHashMap<>();
            for (String user : users) {
                asked.put(user, flags.evaluate(user, Map.of("theme", "light", "max-retries", 3),
                        Map.of("subscription_tier", "premium"), "production", Duration.ofSeconds(20)));
            }
            for (Map.Entry<String, CompletableFuture<JsonNode>> one : asked.entrySet()) {
                JsonNode results = one.getValue().get();
                System.out.printf("%s theme=%s max-retries=%s%n", one.getKey(),
                        results.get("theme").get("value").asText(), results.get("max-retries").get("value"));
            }
        }
    }
}
