package dev.flagstream.it;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import dev.flagstream.client.CacheOptions;
import dev.flagstream.client.Conversion;
import dev.flagstream.client.Evaluation;
import dev.flagstream.client.FeatureFlagClient;
import dev.flagstream.client.FeatureFlags;
import dev.flagstream.client.FlagQuery;
import dev.flagstream.client.Subject;
import dev.flagstream.client.kafka.KafkaFeatureFlagClient;
import dev.flagstream.client.redis.LettuceStore;
import dev.flagstream.client.redis.RedisStore;
import java.net.URI;
import java.net.http.HttpRequest;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicLong;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** Caches and their invalidation, and experiments. */
class CCachingTest {
    private static final String FLAG = "killed-in-java";
    /** Changes whose effect is timed; their median counts. */
    private static final int CHANGES = 10;
    private static final Duration INVALIDATION = Duration.ofMillis(250);

    @BeforeAll
    static void require() {
        Live.require();
    }

    @Test
    void aChangeInvalidatesWithinAQuarterOfASecond() {
        try (FeatureFlagClient overHttp = Live.http().followChanges(true).build();
                KafkaFeatureFlagClient throughKafka = Live.kafka().followChanges(true).build()) {
            for (FeatureFlags flags : List.of(overHttp, throughKafka)) {
                assertTrue(flags.awaitFollowing(Live.LIMIT));
                AtomicLong newest = new AtomicLong();
                flags.onChange(change -> newest.accumulateAndGet(change.version(), Math::max));
                List<Long> times = new ArrayList<>();
                for (int change = 0; change < CHANGES; change++) {
                    boolean isOn = change % 2 != 0;
                    Live.await("the former state is cached", () -> flags.isEnabled(FLAG, "u") != isOn
                            && flags.evaluate(FlagQuery.of(FLAG).withDefault(false), Subject.user("u")).cached());
                    long version = Live.turn(FLAG, isOn ? "restore" : "kill");
                    long announced = System.nanoTime();
                    Live.await("the invalidation", () -> newest.get() >= version);
                    times.add(Duration.ofNanos(System.nanoTime() - announced).toMillis());
                    // From now on the former answer is not served; the next one is that of the service.
                    Live.await("the change", () -> flags.isEnabled(FLAG, "u") == isOn);
                    Evaluation answer = flags.evaluate(FlagQuery.of(FLAG).withDefault(false), Subject.user("u"));
                    assertTrue(answer.flagsVersion() >= version);
                }
                Collections.sort(times);
                System.out.println(flags.getClass().getSimpleName() + ": a change takes effect after, in ms: " + times);
                assertTrue(times.get(CHANGES / 2) <= INVALIDATION.toMillis(), times.toString());
            }
        }
    }

    @Test
    void servicesShareValuesInRedis() {
        try (RedisStore store = LettuceStore.of(Live.variable("CLIENT_REDIS_URL"));
                FeatureFlagClient writes = Live.http().cache(CacheOptions.redis(store)).build()) {
            String key = "ff_eval:production:on:shared";
            assertTrue(writes.isEnabled("on", "shared"));
            Live.await("the value is in Redis", () -> value(store, key) != null);
            JsonNode written = BKafkaTest.json(value(store, key));
            assertTrue(written.get("enabled").asBoolean() && written.has("flag_version") && written.has("cached_at"));
            // Another process, with a service that is not there: what Redis has is served.
            try (FeatureFlagClient reads = FeatureFlagClient.builder().url("http://127.0.0.1:1").environment("production")
                    .cache(CacheOptions.hybrid(store)).build()) {
                assertTrue(reads.isEnabled("on", "shared"));
                assertEquals(java.util.Map.of("on", true), reads.batchEvaluate(List.of("on"), "shared"));
                assertFalse(reads.isEnabled("on", Subject.user("shared").with("plan", "gold")), "a context is not in Redis");
            }
        }
    }

    @Test
    void noLayerServesWhatAChangeHasOvertaken() {
        try (RedisStore store = LettuceStore.of(Live.variable("CLIENT_REDIS_URL"));
                FeatureFlagClient flags = Live.http().cache(CacheOptions.hybrid(store)).followChanges(true).build()) {
            assertTrue(flags.awaitFollowing(Live.LIMIT));
            String key = "ff_eval:production:" + FLAG + ":hybrid";
            for (int round = 0; round < 5; round++) {
                Live.await("on", () -> flags.isEnabled(FLAG, "hybrid"));
                long version = Live.turn(FLAG, "kill");
                Live.await("the change is known", () -> !flags.isEnabled(FLAG, "hybrid"));
                // A service that is late writes its old answer: it is never served.
                store.setIfNewer(key, Long.MAX_VALUE / 1024, Duration.ofMinutes(5), "{\"flag_version\":" + (version - 1)
                        + ",\"enabled\":true,\"cached_at\":\"2026-01-15T10:30:00Z\"}").toCompletableFuture().join();
                flags.clearCache();
                for (int call = 0; call < 20; call++) {
                    assertFalse(flags.isEnabled(FLAG, "hybrid"));
                }
                Live.turn(FLAG, "restore");
            }
            Live.await("restored", () -> flags.isEnabled(FLAG, "hybrid"));
        }
    }

    @Test
    void anOlderValueDoesNotReplaceANewerOne() {
        try (RedisStore store = LettuceStore.of(Live.variable("CLIENT_REDIS_URL"))) {
            String key = "ff_eval:test:newer:u";
            for (long version : new long[] {5, 7, 6}) {
                store.setIfNewer(key, version, Duration.ofMinutes(1), "{\"basis_version\":" + version + "}")
                        .toCompletableFuture().join();
            }
            assertEquals("{\"basis_version\":7}", value(store, key));
            assertNull(value(store, key + "-missing"));
        }
    }

    @Test
    void variantsExposuresAndConversionsBecomeResults() {
        String experiments = Live.url() + "/api/v1/experiments";
        Live.post(experiments, "{\"name\":\"java-experiment\",\"environment\":\"production\",\"control\":\"light\","
                + "\"metrics\":[{\"name\":\"purchase\"},{\"name\":\"revenue\",\"kind\":\"mean\"}]}", 201);
        try (FeatureFlagClient overHttp = Live.http().build(); KafkaFeatureFlagClient throughKafka = Live.kafka().build()) {
            Subject ann = Subject.user("ann");
            String variant = overHttp.getVariant("java-experiment", ann, "none");
            assertTrue(List.of("dark", "light").contains(variant), variant);
            assertEquals(variant, throughKafka.getVariant("java-experiment", ann, "none"));
            assertEquals("none", overHttp.getVariant("on", ann, "none"));
            overHttp.trackExposure("java-experiment", ann).join();
            throughKafka.trackExposure("java-experiment", Subject.user("bob")).join();
            Conversion purchase = Conversion.of("java-experiment", "purchase").eventId("order-1").metadata(Map.of("plan", "gold"));
            overHttp.trackConversion(purchase, ann).join();
            throughKafka.trackConversion(purchase, ann).join();
            throughKafka.trackConversion("java-experiment", "bob", "purchase").join();
            overHttp.track("revenue", ann, 12.5, Map.of("plan", "gold")).join();
            Live.await("two users, three conversions", () -> {
                JsonNode results = results(experiments + "/java-experiment/results?environment=production");
                return results.path("conversions").path("attributed").asInt() == 3;
            });
        }
    }

    private static JsonNode results(String url) {
        try {
            return Live.call(HttpRequest.newBuilder(URI.create(url)).GET(), 200);
        } catch (AssertionError notYet) {
            // 503 until they were computed for the first time.
            return Live.MAPPER.createObjectNode();
        }
    }

    private static String value(RedisStore store, String key) {
        return store.get(List.of(key)).toCompletableFuture().join().get(0);
    }
}
