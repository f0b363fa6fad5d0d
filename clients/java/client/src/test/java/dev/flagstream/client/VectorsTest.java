package dev.flagstream.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import dev.flagstream.client.internal.ChangeParser;
import dev.flagstream.client.internal.Json;
import java.io.IOException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;

/** The scripted cases of {@code clients/vectors.json}. */
class VectorsTest {
    private static final JsonNode VECTORS = Vectors.read();

    @TestFactory
    Stream<DynamicTest> scripted() {
        return StreamSupport.stream(VECTORS.get("scripted").spliterator(), false)
                .map(one -> DynamicTest.dynamicTest(one.get("name").asText(), () -> run(one)));
    }

    private static void run(JsonNode test) throws IOException {
        TestClock clock = new TestClock();
        try (ScriptedServer server = new ScriptedServer(VECTORS.get("answer"), test.get("answers"), List.of());
                FeatureFlagClient flags = client(server, test.path("options"), clock)) {
            for (JsonNode step : test.get("steps")) {
                if (step.has("advance_s")) {
                    clock.advance(seconds(step.get("advance_s")));
                } else if (step.has("clear_cache")) {
                    flags.clearCache();
                } else if (step.has("message")) {
                    FlagChange change = ChangeParser.change(Json.decodeOrNull(step.get("message").asText()));
                    assertEquals(step.get("is_change").asBoolean(), change != null, step.toString());
                    if (change != null) {
                        flags.invalidate(change);
                    }
                } else if (step.has("invalidate")) {
                    JsonNode told = step.get("invalidate");
                    flags.invalidate(new FlagChange("FEATURE_FLAG_UPDATED", text(told, "flag_name"),
                            text(told, "environment"), told.get("version").asLong()));
                } else if (step.has("error")) {
                    var error = assertThrows(FlagstreamException.class, () -> Vectors.call(flags, step), step.toString());
                    Vectors.checkError(step.get("error"), error);
                } else {
                    JsonNode said = Vectors.call(flags, step);
                    Vectors.check(step.get("expect"), said);
                    if (step.get("call").asText().startsWith("b")) {
                        assertEquals(names(step.get("expect")), names(said), "the order asked");
                    }
                }
            }
            check(test.get("requests"), server.requests);
        }
    }

    private static FeatureFlagClient client(ScriptedServer server, JsonNode options, TestClock clock) {
        FeatureFlagClient.Builder builder = FeatureFlagClient.builder().url(server.url()).variables(Map.of())
                .backoff(Duration.ofMillis(1), Duration.ofSeconds(2)).clock(clock);
        Duration ttl = options.has("cache_ttl_s") ? seconds(options.get("cache_ttl_s")) : CacheOptions.MEMORY_TTL;
        CacheOptions cache = options.path("cache").asBoolean() ? CacheOptions.memory(ttl) : CacheOptions.none();
        if (options.has("cache_max_entries")) {
            cache = cache.maxEntries(options.get("cache_max_entries").asInt());
        }
        builder.cache(cache).environment(text(options, "environment")).token(text(options, "token"));
        if (options.has("max_retries")) {
            builder.maxRetries(options.get("max_retries").asInt());
        }
        if (options.has("attempt_timeout_s")) {
            builder.attemptTimeout(seconds(options.get("attempt_timeout_s")));
        }
        if (options.has("timeout_s")) {
            builder.timeout(seconds(options.get("timeout_s")));
        }
        builder.circuitBreaker(options.path("failure_threshold").asInt(5),
                options.has("recovery_timeout_s") ? seconds(options.get("recovery_timeout_s")) : Duration.ofSeconds(60));
        return builder.build();
    }

    private static void check(JsonNode expected, List<ScriptedServer.Request> seen) {
        assertEquals(expected.size(), seen.size(), seen.toString());
        Iterator<ScriptedServer.Request> requests = seen.iterator();
        for (JsonNode wanted : expected) {
            ScriptedServer.Request request = requests.next();
            assertEquals(wanted.path("method").asText("POST"), request.method());
            assertEquals(wanted.path("path").asText(request.path()), request.path());
            wanted.path("headers").fields().forEachRemaining(
                    header -> assertEquals(header.getValue().asText(), request.headers().get(header.getKey())));
            wanted.path("without").forEach(name -> assertFalse(request.headers().containsKey(name.asText()), name.asText()));
            wanted.path("body").fields().forEachRemaining(
                    member -> assertEquals(member.getValue(), request.body().get(member.getKey())));
            if (wanted.has("whole_body")) {
                assertEquals(wanted.get("whole_body"), request.body());
            }
        }
        assertTrue(!requests.hasNext());
    }

    private static List<String> names(JsonNode object) {
        List<String> names = new ArrayList<>();
        object.fieldNames().forEachRemaining(names::add);
        return names;
    }

    private static String text(JsonNode node, String member) {
        return node.has(member) ? node.get(member).asText() : null;
    }

    private static Duration seconds(JsonNode node) {
        return Duration.ofNanos((long) (node.asDouble() * 1e9));
    }
}
