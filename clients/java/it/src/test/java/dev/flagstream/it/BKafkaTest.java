package dev.flagstream.it;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import dev.flagstream.client.ErrorKind;
import dev.flagstream.client.Evaluation;
import dev.flagstream.client.FlagQuery;
import dev.flagstream.client.FlagstreamException;
import dev.flagstream.client.Subject;
import dev.flagstream.client.ValueType;
import dev.flagstream.client.kafka.AvroFormat;
import dev.flagstream.client.kafka.KafkaChanges;
import dev.flagstream.client.kafka.KafkaFeatureFlagClient;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** Requests and replies through Kafka. */
class BKafkaTest {
    private static final Subject USER = Subject.user("u").with("subscription_tier", "premium");

    @BeforeAll
    static void require() {
        Live.require();
    }

    @Test
    void thousandsOfRequestsAtOnceGetTheirOwnReplies() {
        try (KafkaFeatureFlagClient flags = Live.kafka().build()) {
            List<CompletableFuture<Evaluation>> asked = new ArrayList<>();
            for (int number = 0; number < 2_000; number++) {
                Subject subject = Subject.user("user-" + number);
                Object mine = "default-" + number;
                asked.add(flags.evaluateAsync(FlagQuery.of("unknown-flag").withDefault(mine), subject));
            }
            for (int number = 0; number < asked.size(); number++) {
                assertEquals("default-" + number, asked.get(number).join().value());
            }
            assertEquals(0, flags.pendingRequests());
            assertEquals(0, flags.lateReplies());
        }
    }

    @Test
    void oneConsumerReadsForAllClientsOfTheProcess() {
        try (KafkaFeatureFlagClient one = Live.kafka().build(); KafkaFeatureFlagClient two = Live.kafka().build()) {
            assertTrue(one.isEnabled("on", USER) && two.isEnabled("on", USER));
            assertEquals(1, threads("flagstream-replies"));
            one.close();
            assertTrue(two.isEnabled("on", USER));
        }
        Live.await("the reader ends with its last client", () -> threads("flagstream-replies") == 0);
    }

    private static long threads(String name) {
        return Thread.getAllStackTraces().keySet().stream().filter(thread -> thread.getName().equals(name)).count();
    }

    @Test
    void aRequestWithoutReplyBecomesAnEvent() {
        try (KafkaFeatureFlagClient flags = Live.kafka().traceparent(
                () -> "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").build();
                KafkaConsumer<String, String> events = consumer(Live.variable("FEATURE_FLAG_KAFKA_TOPIC"))) {
            List<FlagQuery> queries = List.of(FlagQuery.of("theme").withDefault("light"),
                    FlagQuery.of("max-retries").withType(ValueType.INTEGER).withDefault(3));
            String id = flags.request(queries, USER).join();
            List<JsonNode> found = new ArrayList<>();
            Live.await("both events", () -> {
                for (ConsumerRecord<String, String> message : events.poll(Duration.ofMillis(100))) {
                    JsonNode event = json(message.value());
                    if (event.path("request_id").asText().equals(id)) {
                        found.add(event);
                        assertEquals("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                                new String(message.headers().lastHeader("traceparent").value(), StandardCharsets.UTF_8));
                        assertEquals("u", message.key());
                    }
                }
                return found.size() == 2;
            });
            assertEquals(List.of("dark", "5"), found.stream().map(event -> event.get("value").asText()).toList());
        }
    }

    @Test
    void aServiceThatAnswersTooLateCostsTheDefaultAndTheLateReplyIsCounted() {
        List<FlagstreamException> told = new ArrayList<>();
        try (KafkaFeatureFlagClient flags = Live.kafka().timeout(Duration.ofMillis(300)).onError(told::add).build();
                KafkaFeatureFlagClient patient = Live.kafka().build()) {
            assertTrue(flags.awaitReady(Live.LIMIT) && patient.awaitReady(Live.LIMIT));
            Live.await("a reply in time", () -> flags.evaluateFlag("theme", USER, "light").equals("dark"));
            told.clear();
            long lateBefore = flags.lateReplies();
            CompletableFuture<Evaluation> waits;
            Live.control("service freeze");
            try {
                assertEquals("light", flags.evaluateFlag("theme", USER, "light"));
                assertEquals(ErrorKind.TIMED_OUT, told.get(0).kind());
                waits = patient.evaluateAsync(FlagQuery.of("theme").withDefault("light"), USER);
            } finally {
                Live.control("service thaw");
            }
            assertEquals("dark", waits.join().value(), "who has time gets the reply");
            Live.await("the late reply", () -> flags.lateReplies() == lateBefore + 1);
        }
    }

    @Test
    void aReplyTopicThatDoesNotExistIsNamed() {
        try (KafkaFeatureFlagClient flags =
                Live.kafka().replyTopic(Live.variable("REPLY_TOPIC") + "-missing").timeout(Duration.ofSeconds(3)).build()) {
            var error = assertThrows(FlagstreamException.class, () -> flags.evaluate("on", USER, false));
            assertEquals(ErrorKind.TIMED_OUT, error.kind());
            assertTrue(error.detail().contains("-missing does not exist"), error.detail());
            assertFalse(flags.isEnabled("on", USER));
        }
        try (KafkaFeatureFlagClient flags = KafkaFeatureFlagClient.builder().bootstrapServers("127.0.0.1:1").build()) {
            var error = assertThrows(FlagstreamException.class, () -> flags.evaluate("on", USER, false));
            assertEquals(ErrorKind.INVALID_REQUEST, error.kind());
        }
    }

    @Test
    void newPartitionsOfTheReplyTopicAreRead() throws Exception {
        String topic = Live.variable("GROWING_REPLY_TOPIC");
        Map<String, Object> admin = Map.of("bootstrap.servers", Live.variable("KAFKA_BOOTSTRAP_SERVERS"));
        try (KafkaFeatureFlagClient flags = Live.kafka().replyTopic(topic).build(); Admin kafka = Admin.create(admin)) {
            assertTrue(flags.isEnabled("on", USER));
            kafka.createPartitions(Map.of(topic, NewPartitions.increaseTo(8))).all().get();
            List<CompletableFuture<Evaluation>> asked = new ArrayList<>();
            for (int number = 0; number < 100; number++) {
                asked.add(flags.evaluateAsync(FlagQuery.of("on").withDefault(false), Subject.user("user-" + number)));
            }
            asked.forEach(answer -> assertEquals(true, answer.join().value()));
        }
    }

    @Test
    void aVersionIsWaitedFor() {
        try (KafkaFeatureFlagClient flags = Live.kafka().build()) {
            long version = Live.turn("killed-in-java", "kill");
            FlagQuery query = FlagQuery.of("killed-in-java").withDefault(true);
            assertEquals("DISABLED", flags.evaluate(query.atLeast(version), USER).reason());
            long restored = Live.turn("killed-in-java", "restore");
            assertEquals(true, flags.evaluate(query.atLeast(restored), USER).value());
        }
        try (KafkaFeatureFlagClient flags = Live.kafka().timeout(Duration.ofSeconds(1)).build()) {
            assertTrue(flags.awaitReady(Live.LIMIT));
            FlagQuery never = FlagQuery.of("on").atLeast(Long.MAX_VALUE);
            var error = assertThrows(FlagstreamException.class, () -> flags.evaluate(never, USER));
            assertTrue(error.kind().isPassing(), error.toString());
        }
    }

    @Test
    void requestsRepliesAndChangesAreInAvro() {
        AvroFormat avro = AvroFormat.of(Live.variable("SCHEMA_REGISTRY_URL"));
        try (KafkaFeatureFlagClient flags = KafkaFeatureFlagClient.builder()
                .bootstrapServers(Live.variable("KAFKA_BOOTSTRAP_SERVERS")).environment(Live.ENVIRONMENT)
                .requestsTopic(Live.variable("AVRO_REQUESTS")).replyTopic(Live.variable("AVRO_REPLY_TOPIC"))
                .updatesTopic(Live.variable("AVRO_UPDATES")).format(avro).timeout(Live.LIMIT).followChanges(true).build()) {
            assertTrue(flags.awaitFollowing(Live.LIMIT));
            // A registry on a busy machine may not answer the first lookup in time.
            Live.await("the registry answers", () -> flags.evaluateFlag("theme", USER, "light").equals("dark"));
            assertEquals(5, flags.evaluateFlag("max-retries", USER, 3));
            Map<String, Object> config = Map.of("threshold", 0.8, "regions", List.of("us", "eu"));
            assertEquals(config, flags.evaluateFlag("config", USER, Map.<String, Object>of()));
            var many = flags.bulkEvaluateFlags(List.of("theme", "premium"), USER, Map.of("theme", "light"));
            assertEquals(List.of("dark", true), many.values().stream().map(Evaluation::value).toList());
            assertTrue(flags.evaluate("theme", USER, "light").cached());
            Live.post(Live.variable("AVRO_URL") + "/api/v1/feature-flags/killed-in-java/kill?environment=production",
                    "{\"reason\": \"a test\"}", 200);
            Live.await("the change", () -> !flags.evaluate("theme", USER, "light").cached());
        }
    }

    @Test
    void changesFromKafkaReachAClientOverHttp() {
        try (var flags = Live.http().cacheTtl(Duration.ofMinutes(5)).build();
                KafkaChanges changes = KafkaChanges.start(flags,
                        Map.of("bootstrap.servers", Live.variable("KAFKA_BOOTSTRAP_SERVERS")),
                        Live.variable("FLAGSTREAM_TOPICS__UPDATES"), dev.flagstream.client.kafka.MessageFormat.json())) {
            assertTrue(changes.awaitFollowing(Live.LIMIT));
            List<String> heard = java.util.Collections.synchronizedList(new ArrayList<>());
            flags.onChange(change -> heard.add(change.flagName()));
            Live.await("on", () -> flags.isEnabled("killed-in-java", "u"));
            Live.turn("killed-in-java", "kill");
            Live.await("killed", () -> !flags.isEnabled("killed-in-java", "u"));
            Live.turn("killed-in-java", "restore");
            Live.await("restored", () -> flags.isEnabled("killed-in-java", "u"));
            Live.await("both changes were reported", () -> heard.equals(List.of("killed-in-java", "killed-in-java")));
        }
    }

    static KafkaConsumer<String, String> consumer(String topic) {
        Map<String, Object> properties = Map.of("bootstrap.servers", Live.variable("KAFKA_BOOTSTRAP_SERVERS"),
                "isolation.level", "read_committed", "auto.offset.reset", "earliest");
        var consumer = new KafkaConsumer<>(properties, new StringDeserializer(), new StringDeserializer());
        consumer.assign(consumer.partitionsFor(topic).stream()
                .map(info -> new org.apache.kafka.common.TopicPartition(topic, info.partition())).toList());
        consumer.seekToBeginning(consumer.assignment());
        return consumer;
    }

    static JsonNode json(String text) {
        try {
            return Live.MAPPER.readTree(text);
        } catch (java.io.IOException error) {
            throw new java.io.UncheckedIOException(error);
        }
    }
}
