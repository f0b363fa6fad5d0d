package dev.flagstream.client.internal;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import dev.flagstream.client.CacheOptions;
import dev.flagstream.client.Evaluation;
import dev.flagstream.client.FlagChange;
import dev.flagstream.client.TestClock;
import dev.flagstream.client.Vectors;
import dev.flagstream.client.redis.RedisStore;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;

/** The layers of the cache, and which announced changes overtake which values in Redis. */
class RedisCacheTest {
    private static final String KEY = "ff_eval:p:f:u";

    /** Redis in a map. */
    private static final class Store implements RedisStore {
        final Map<String, String> values = new HashMap<>();
        int reads;
        boolean isAway;
        @Nullable Runnable beforeAnswer;

        @Override
        public CompletionStage<List<@Nullable String>> get(List<String> keys) {
            reads++;
            if (isAway) {
                return CompletableFuture.failedFuture(new IllegalStateException("away"));
            }
            List<@Nullable String> found = new ArrayList<>();
            keys.forEach(key -> found.add(values.get(key)));
            if (beforeAnswer != null) {
                beforeAnswer.run();
            }
            return CompletableFuture.completedFuture(found);
        }

        @Override
        public CompletionStage<Void> setIfNewer(String key, long version, Duration ttl, String value) {
            values.put(key, value);
            return CompletableFuture.completedFuture(null);
        }

        @Override
        public void close() {}
    }

    private final Store store = new Store();
    private final TestClock clock = new TestClock();
    private final AnswerCache cache = new AnswerCache(CacheOptions.redis(store), clock);

    private @Nullable Evaluation read() {
        return cache.getBoolean("k", "p", "f", "u").join();
    }

    private static FlagChange change(String flag, long version) {
        return new FlagChange("FEATURE_FLAG_UPDATED", flag, "p", version);
    }

    private static Evaluation answer(boolean value, long flagVersion, long flagsVersion) {
        return new Evaluation("f", value, value, null, "TARGETING_MATCH", null, null, false, flagVersion, "p", flagsVersion,
                false);
    }

    @TestFactory
    Stream<DynamicTest> whichValuesAreUsed() {
        return StreamSupport.stream(Vectors.read().get("redis").spliterator(), false)
                .map(one -> DynamicTest.dynamicTest(one.get("name").asText(), () -> isUsed(one)));
    }

    private static void isUsed(JsonNode one) {
        Store store = new Store();
        AnswerCache cache = new AnswerCache(CacheOptions.redis(store), new TestClock());
        store.values.put("ff_eval:production:f:u", one.get("value").asText());
        if (one.has("minimum")) {
            store.values.put("flagstream:warm:{production/f}:floor", one.get("minimum").asText());
        }
        one.path("changes").forEach(change -> cache.announce(ChangeParser.change(change)));
        Evaluation found = cache.getBoolean("k", "production", "f", "u").join();
        assertEquals(one.get("is_used").asBoolean(), found != null, one.toString());
        assertTrue(found == null || Boolean.FALSE.equals(found.value()));
    }

    @Test
    void whatThisClientWritesIsOvertakenByAllChanges() throws Exception {
        cache.putBoolean("p", "f", "u", answer(true, 10, 20));
        JsonNode written = Json.decodeOrNull(store.values.get(KEY));
        assertEquals(20, written.get("basis_version").asLong());
        assertEquals("basis_version", written.fieldNames().next(), "Redis compares the version at the beginning");
        assertNotNull(read());
        cache.announce(change("other", 21));
        assertNull(read());
        cache.putBoolean("p", "f", "u", answer(false, 10, 20));
        assertEquals(true, Json.decodeOrNull(store.values.get(KEY)).get("enabled").asBoolean(), "too late to be written");
    }

    @Test
    void aChangeThatIsAnnouncedWhileRedisAnswersCounts() {
        store.values.put(KEY, "{\"flag_version\":10,\"enabled\":true}");
        store.beforeAnswer = () -> cache.announce(change("f", 11));
        assertNull(read());
    }

    @Test
    void errorsUnknownAndKilledFlagsAreNotWritten() {
        Evaluation unknown = new Evaluation("f", true, false, null, "DEFAULT", "FLAG_NOT_FOUND", null, false, null, "p", 9, false);
        Evaluation killed = new Evaluation("f", false, false, null, "DISABLED", null, null, true, 9L, "p", 9, false);
        Evaluation error = new Evaluation("f", true, false, null, "ERROR", "GENERAL", null, false, 9L, "p", 9, false);
        Evaluation text = new Evaluation("f", "dark", true, null, "TARGETING_MATCH", null, null, false, 9L, "p", 9, false);
        for (Evaluation evaluation : List.of(unknown, killed, error, text)) {
            cache.putBoolean("p", "f", "u", evaluation);
        }
        assertEquals(Map.of(), store.values);
    }

    @Test
    void redisIsSkippedForAWhileAfterAFailure() {
        store.values.put(KEY, "{\"flag_version\":10,\"enabled\":true}");
        store.isAway = true;
        assertNull(read());
        assertNull(read());
        assertEquals(1, store.reads);
        store.isAway = false;
        clock.advance(Duration.ofSeconds(3));
        assertNotNull(read());
    }

    @Test
    void memoryIsBeforeRedisAndForgetsWhatAChangeHasOvertaken() {
        AnswerCache hybrid = new AnswerCache(CacheOptions.hybrid(store), clock);
        store.values.put(KEY, "{\"flag_version\":10,\"enabled\":true}");
        assertNotNull(hybrid.getBoolean("k", "p", "f", "u").join());
        assertNotNull(hybrid.getBoolean("k", "p", "f", "u").join());
        assertEquals(1, store.reads);
        clock.advance(Duration.ofSeconds(59));
        hybrid.getBoolean("k", "p", "f", "u").join();
        assertEquals(1, store.reads);
        clock.advance(Duration.ofSeconds(2));
        hybrid.getBoolean("k", "p", "f", "u").join();
        assertEquals(2, store.reads, "60 s in memory");
        hybrid.announce(change("f", 11));
        assertNull(hybrid.getBoolean("k", "p", "f", "u").join());
        assertNull(hybrid.get("k"), "a boolean of Redis is no complete answer");
    }

    @Test
    void keysAreThoseThatFlagstreamDocuments() {
        assertEquals("ff_eval:p%3A1:100%25:a%3Ab", RedisCache.key("p:1", "100%", "a:b"));
        assertEquals("flagstream:warm:{a%2Fb/c%7Bd%7D%25%3A}:floor", RedisCache.minVersionKey("a/b", "c{d}%:"));
    }
}
