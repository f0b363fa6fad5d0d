package dev.flagstream.it;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.flagstream.client.CacheOptions;
import dev.flagstream.client.Conversion;
import dev.flagstream.client.ErrorKind;
import dev.flagstream.client.FeatureFlagClient;
import dev.flagstream.client.FlagstreamException;
import dev.flagstream.client.Subject;
import dev.flagstream.client.kafka.KafkaFeatureFlagClient;
import dev.flagstream.client.redis.LettuceStore;
import dev.flagstream.client.redis.RedisStore;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CopyOnWriteArrayList;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.MethodOrderer;
import org.junit.jupiter.api.Order;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestMethodOrder;

/** The service, Kafka and Redis go away and come back while clients use them. */
@TestMethodOrder(MethodOrderer.OrderAnnotation.class)
class ZFaultsTest {
    private static final Subject USER = Subject.user("u").with("a", 1);

    @BeforeAll
    static void require() {
        Live.require();
    }

    @Test
    @Order(1)
    void withoutRedisTheServiceIsAsked() {
        try (RedisStore store = LettuceStore.of(Live.variable("CLIENT_REDIS_URL"));
                FeatureFlagClient flags = Live.http().cache(CacheOptions.redis(store)).build()) {
            assertTrue(flags.isEnabled("on", "redis-user"));
            Live.control("redis stop");
            for (int call = 0; call < 50; call++) {
                assertTrue(flags.isEnabled("on", "redis-user-" + call));
            }
            Live.control("redis start");
            Live.await("Redis is used again", () -> flags.isEnabled("on", "redis-user-0")
                    && flags.isEnabled("on", "redis-user-0") && values(store, "ff_eval:production:on:redis-user-0"));
        }
    }

    /** Writes a change, as the service does. */
    private static void announce(long version) {
        Map<String, Object> properties = Map.of("bootstrap.servers", Live.variable("KAFKA_BOOTSTRAP_SERVERS"));
        try (var producer = new KafkaProducer<>(properties, new StringSerializer(), new StringSerializer())) {
            producer.send(new ProducerRecord<>(Live.variable("FLAGSTREAM_TOPICS__UPDATES"), "production/on",
                    "{\"event_type\":\"FEATURE_FLAG_UPDATED\",\"flag_name\":\"on\",\"environment\":\"production\",\"version\":"
                            + version + "}"));
        }
    }

    private static boolean values(RedisStore store, String key) {
        try {
            return store.get(List.of(key)).toCompletableFuture().join().get(0) != null;
        } catch (java.util.concurrent.CompletionException away) {
            return false;
        }
    }

    @Test
    @Order(2)
    void whileTheServiceIsAwayCachedAnswersAndDefaultsAreGivenAndAfterARestartItIsAskedAgain() {
        List<FlagstreamException> told = new CopyOnWriteArrayList<>();
        try (FeatureFlagClient flags = Live.http().followChanges(true).onError(told::add).build();
                KafkaFeatureFlagClient throughKafka =
                        Live.kafka().timeout(Duration.ofMillis(500)).circuitBreaker(2, Duration.ofMinutes(10))
                                .onError(told::add).build()) {
            assertTrue(flags.awaitFollowing(Live.LIMIT));
            Live.await("cached", () -> flags.isEnabled("on", USER));
            assertTrue(throughKafka.awaitReady(Live.LIMIT));
            Live.await("a reply in time", () -> throughKafka.isEnabled("on", USER));
            told.clear();
            Live.control("service stop");
            Live.await("the stream ended", () -> !flags.isFollowing());
            assertTrue(flags.isEnabled("on", USER), "cached");
            for (int call = 0; call < 10; call++) {
                assertEquals("light", flags.evaluateFlag("theme", Subject.user("new-" + call), "light"));
            }
            assertEquals(ErrorKind.CIRCUIT_OPEN, told.get(told.size() - 1).kind());
            assertFalse(throughKafka.isEnabled("on", USER) || throughKafka.isEnabled("on", USER));
            assertEquals("light", throughKafka.evaluateFlag("theme", USER, "light"));
            assertEquals(ErrorKind.CIRCUIT_OPEN, told.get(told.size() - 1).kind());
            Live.control("service start");
            // The circuit would stay open for a minute; the stream shows that the service is well.
            Live.await("the service is asked again", () -> flags.evaluateFlag("theme", USER, "light").equals("dark"));
            Live.await("changes arrive again", flags::isFollowing);
            // Its requests waited in Kafka: their late replies let the next one through.
            Live.await("Kafka is used again", () -> throughKafka.isEnabled("on", USER));
            assertTrue(throughKafka.lateReplies() >= 1);
        }
    }

    @Test
    @Order(3)
    void kafkaIsStoppedAndComesBackAndNothingHasToBeStartedAgain() {
        List<FlagstreamException> told = new CopyOnWriteArrayList<>();
        try (KafkaFeatureFlagClient flags = Live.kafka().timeout(Duration.ofSeconds(1))
                .circuitBreaker(3, Duration.ofMillis(200)).onError(told::add).followChanges(true).build();
                FeatureFlagClient overHttp = Live.http().build()) {
            assertTrue(flags.awaitFollowing(Live.LIMIT) && flags.awaitReady(Live.LIMIT));
            Live.await("a reply in time", () -> flags.isEnabled("on", USER));
            Live.control("kafka stop");
            assertTrue(flags.isEnabled("on", USER), "cached");
            for (int call = 0; call < 5; call++) {
                assertEquals("light", flags.evaluateFlag("theme", Subject.user("new-" + call), "light"));
            }
            assertTrue(told.stream().anyMatch(error -> error.kind() == ErrorKind.TIMED_OUT), told.toString());
            assertTrue(told.stream().anyMatch(error -> error.kind() == ErrorKind.CIRCUIT_OPEN), told.toString());
            assertEquals("dark", overHttp.evaluateFlag("theme", USER, "light"), "HTTP needs no Kafka");
            CompletableFuture<Void> conversion =
                    flags.trackConversion(Conversion.of("java-experiment", "purchase"), Subject.user("ann"));
            // A client that starts meanwhile is ready once Kafka is back.
            try (KafkaFeatureFlagClient meanwhile = Live.kafka().timeout(Duration.ofSeconds(1)).build()) {
                assertEquals("light", meanwhile.evaluateFlag("theme", USER, "light"));
                Live.control("kafka start");
                Live.await("replies arrive again", () -> flags.evaluateFlag("theme", USER, "light").equals("dark"));
                Live.await("and those of the new client",
                        () -> meanwhile.isEnabled("on", USER));
            }
            conversion.orTimeout(Live.LIMIT.toSeconds(), java.util.concurrent.TimeUnit.SECONDS).join();
            List<Long> versions = new CopyOnWriteArrayList<>();
            flags.onChange(change -> versions.add(change.version()));
            long version = System.currentTimeMillis();
            announce(version);
            Live.await("changes arrive again", () -> versions.contains(version));
        }
    }
}
