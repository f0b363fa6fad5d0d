package dev.flagstream.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CopyOnWriteArrayList;
import org.junit.jupiter.api.Test;

/** What the client for Java has of its own: options, types, cancellation, threads, listeners, reports. */
class FeatureFlagClientTest {
    private static final Duration LIMIT = Duration.ofSeconds(30);

    record Limits(double threshold, List<String> regions) {}

    private static FeatureFlagClient.Builder builder(ScriptedServer server) {
        return FeatureFlagClient.builder().url(server.url()).variables(Map.of())
                .backoff(Duration.ofMillis(1), Duration.ofMillis(2));
    }

    @Test
    void aValueHasTheTypeOfItsDefault() throws Exception {
        List<FlagstreamException> told = new ArrayList<>();
        try (ScriptedServer server = ScriptedServer.of("{\"body\":{\"value\":5}}", "{\"body\":{\"value\":5}}",
                "{\"body\":{\"value\":2.5}}", "{\"body\":{\"value\":{\"threshold\":0.8,\"regions\":[\"us\"]}}}",
                "{\"body\":{\"value\":\"5\"}}", "{\"body\":{\"value\":9999999999}}", "{\"body\":{\"value\":[1]}}",
                "{\"body\":{\"value\":{\"regions\":7}}}");
                FeatureFlagClient flags = builder(server).onError(told::add).build()) {
            int whole = flags.evaluateFlag("f", "u", 3);
            long large = flags.evaluateFlag("f", "u", 3L);
            double number = flags.evaluateFlag("f", "u", 0.5);
            assertEquals(5, whole);
            assertEquals(5L, large);
            assertEquals(2.5, number);
            Limits none = new Limits(0, List.of());
            assertEquals(new Limits(0.8, List.of("us")), flags.evaluateFlag("f", "u", none));
            assertEquals(3, flags.evaluateFlag("f", "u", 3), "a text is no number");
            assertEquals(3, flags.evaluateFlag("f", "u", 3), "too large for an int");
            assertEquals(Map.of("d", 1), flags.evaluateFlag("f", "u", Map.of("d", 1)), "a list is no map");
            assertEquals(none, flags.evaluateFlag("f", "u", none), "not of this record's form");
            assertEquals("integer", server.requests.get(0).body().get("value_type").asText());
            assertFalse(server.requests.get(2).body().has("value_type"));
        }
        assertEquals(4, told.size());
        assertTrue(told.stream().allMatch(error -> error.kind() == ErrorKind.INVALID_ANSWER), told.toString());
    }

    @Test
    void environmentVariablesAreTheDefaults() throws Exception {
        try (ScriptedServer server = ScriptedServer.of("{}")) {
            Map<String, String> variables = Map.of("CONFIG_SERVICE_URL", server.url() + "/", "ENVIRONMENT", "staging");
            try (FeatureFlagClient flags = FeatureFlagClient.builder().variables(variables).build()) {
                assertTrue(flags.isEnabled("f", "u"));
            }
            assertEquals("staging", server.requests.get(0).body().get("environment").asText());
        }
    }

    @Test
    void wrongOptionsAreNamed() {
        FeatureFlagClient.Builder empty = FeatureFlagClient.builder().variables(Map.of());
        assertTrue(assertThrows(IllegalArgumentException.class, empty::build).getMessage().contains("CONFIG_SERVICE_URL"));
        for (String url : List.of("flagstream:8082", "ftp://x", "http://", "http://a b")) {
            var refused = assertThrows(IllegalArgumentException.class, () -> FeatureFlagClient.builder().url(url).build(), url);
            assertTrue(refused.getMessage().startsWith("url: "), refused.getMessage());
        }
        FeatureFlagClient.Builder builder = FeatureFlagClient.builder();
        assertThrows(IllegalArgumentException.class, () -> builder.timeout(Duration.ZERO));
        assertThrows(IllegalArgumentException.class, () -> builder.maxRetries(-1));
        assertThrows(IllegalArgumentException.class, () -> builder.circuitBreaker(0, LIMIT));
        assertThrows(IllegalArgumentException.class, () -> CacheOptions.memory(Duration.ofSeconds(-1)));
    }

    @Test
    void whatIsNotJsonIsNotSent() throws Exception {
        try (ScriptedServer server = ScriptedServer.of(); FeatureFlagClient flags = builder(server).build()) {
            Map<String, Object> endless = new HashMap<>();
            endless.put("self", endless);
            for (Object value : List.of(new Object(), Double.NaN, Float.POSITIVE_INFINITY, endless)) {
                Subject subject = Subject.user("u").with("x", value);
                var error = assertThrows(FlagstreamException.class, () -> flags.evaluate("f", subject, null));
                assertEquals(ErrorKind.INVALID_REQUEST, error.kind());
                assertNull(error.status());
                assertTrue(flags.isEnabled("f", subject, true));
                assertEquals("ERROR", flags.bulkEvaluateFlags(List.of("f"), subject, Map.of()).get("f").reason());
            }
            assertEquals(List.of(), server.requests);
        }
    }

    @Test
    void aCancelledAttemptLetsTheNextOneTry() throws Exception {
        try (ScriptedServer server = ScriptedServer.of("{\"status\":500}", "{\"hang\":true}", "{}");
                FeatureFlagClient flags =
                        builder(server).maxRetries(0).circuitBreaker(1, Duration.ZERO).attemptTimeout(LIMIT.multipliedBy(9))
                                .timeout(LIMIT.multipliedBy(10)).build()) {
            FlagQuery query = FlagQuery.of("f").withDefault(false);
            assertThrows(FlagstreamException.class, () -> flags.evaluate(query, Subject.anonymous()));
            var probe = flags.evaluateAsync(query, Subject.anonymous());
            await(() -> server.requests.size() == 2);
            var refused = assertThrows(FlagstreamException.class, () -> flags.evaluate(query, Subject.anonymous()));
            assertEquals(ErrorKind.CIRCUIT_OPEN, refused.kind());
            probe.cancel(true);
            await(() -> flags.isEnabled("f", "u"));
        }
    }

    @Test
    void threadsShareAClientAndItsConnections() throws Exception {
        String[] answers = Collections.nCopies(400, "{}").toArray(String[]::new);
        try (ScriptedServer server = ScriptedServer.of(answers);
                FeatureFlagClient flags = builder(server).cache(CacheOptions.memory().maxEntries(10)).build()) {
            List<Thread> threads = new ArrayList<>();
            List<Boolean> said = new CopyOnWriteArrayList<>();
            for (int t = 0; t < 8; t++) {
                int thread = t;
                threads.add(new Thread(() -> {
                    for (int number = 0; number < 50; number++) {
                        flags.invalidate(FlagChange.ofAny(null, number % 10));
                        said.add(flags.isEnabled("f", "user-" + (thread + number) % 20));
                    }
                }));
            }
            threads.forEach(Thread::start);
            for (Thread thread : threads) {
                thread.join();
            }
            assertEquals(Collections.nCopies(400, true), said);
            assertTrue(server.requests.size() >= 20 && server.requests.size() <= 400);
            long connections = server.requests.stream().map(ScriptedServer.Request::connection).distinct().count();
            assertTrue(connections <= 8, connections + " connections");
        }
    }

    @Test
    void aClosedClientAnswersWithDefaults() throws Exception {
        try (ScriptedServer server = ScriptedServer.of()) {
            FeatureFlagClient flags = builder(server).build();
            flags.close();
            assertTrue(flags.isEnabled("f", "u", true));
            assertEquals("light", flags.evaluateFlag("f", "u", "light"));
            assertEquals("control", flags.getVariant("f", Subject.user("u"), "control"));
        }
    }

    @Test
    void aStreamThatEndedGoesOnWhereItWasAndClosesTheCircuit() throws Exception {
        byte[] first = "id: 5\n\n".getBytes(StandardCharsets.UTF_8);
        byte[] late = "id: 9\ndata: {\"event_type\":\"RESET\",\"version\":9}\n\n".getBytes(StandardCharsets.UTF_8);
        List<FlagChange> heard = new CopyOnWriteArrayList<>();
        try (ScriptedServer server = new ScriptedServer(Vectors.read().get("answer"), List.of(
                ScriptedServer.MAPPER.readTree("{\"status\":500}"),
                ScriptedServer.MAPPER.readTree("{\"body\":{\"flags_version\":9}}")), List.of(first, late));
                FeatureFlagClient flags = builder(server).maxRetries(0).circuitBreaker(1, LIMIT.multipliedBy(10))
                        .followChanges(true).build()) {
            flags.onChange(change -> {
                throw new IllegalStateException("a listener that fails");
            });
            var subscription = flags.onChange(heard::add);
            flags.isEnabled("f", "u");
            // Asked only after the stream was opened again; before that the circuit is open.
            await(() -> server.resumedAfter.size() == 2 && flags.awaitFollowing(LIMIT) && flags.isEnabled("f", "u"));
            assertEquals(List.of("null", "5"), server.resumedAfter);
            await(() -> heard.size() == 1);
            assertEquals(new FlagChange("RESET", null, null, 9), heard.get(0));
            assertTrue(flags.isEnabled("f", "u"));
            assertEquals(2, server.requests.size(), "cached");
            subscription.close();
            flags.invalidate(FlagChange.ofAny(null, 10));
            assertEquals(1, heard.size());
        }
    }

    @Test
    void exposuresAndConversionsAreReported() throws Exception {
        try (ScriptedServer server = ScriptedServer.of("{}", "{}", "{\"status\":503}", "{}", "{}", "{\"status\":403}");
                FeatureFlagClient flags = builder(server).environment("production").cacheTtl(LIMIT).build()) {
            Subject user = Subject.user("u");
            assertEquals("control", flags.getVariant("checkout", user, "control"));
            flags.trackExposure("checkout", user).join();
            assertEquals(2, server.requests.size(), "the cache is not asked");
            flags.trackConversion(Conversion.of("a b/c", "purchase").value(12.5).eventId("order-77"), user).join();
            var sent = server.requests.get(3);
            assertEquals("/api/v1/experiments/a%20b%2Fc/conversions?environment=production", sent.path());
            assertEquals("order-77", sent.body().get("event_id").asText());
            assertEquals(server.requests.get(2).body(), sent.body(), "a retry has the same id");
            flags.track("purchase", user, 3.0).join();
            assertEquals("/ofrep/v1/track?environment=production", server.requests.get(4).path());
            assertEquals("u", server.requests.get(4).body().get("context").get("targetingKey").asText());
            var refused = flags.trackConversion("checkout", "u", "purchase");
            var error = (FlagstreamException) assertThrows(CompletionException.class, refused::join).getCause();
            assertEquals(ErrorKind.FORBIDDEN, error.kind());
            var nobody = flags.trackConversion(Conversion.of("checkout", "purchase"), Subject.anonymous());
            assertTrue(nobody.isCompletedExceptionally());
        }
    }

    @Test
    void conversionsAndTrackingEventsHaveMetadata() throws Exception {
        try (ScriptedServer server = ScriptedServer.of("{}", "{}", "{}", "{}");
                FeatureFlagClient flags = builder(server).environment("production").build()) {
            Subject user = Subject.user("u");
            Map<String, Object> metadata = new HashMap<>(Map.of("plan", "gold", "cart", Map.of("items", List.of(1, 2.5))));
            Conversion conversion = Conversion.of("checkout", "purchase").metadata(metadata).value(2);
            metadata.put("plan", "changed later");
            flags.trackConversion(conversion, user).join();
            flags.trackConversion(Conversion.of("checkout", "purchase"), user).join();
            flags.track("purchase", user, 3.0, Map.of("plan", "gold")).join();
            flags.track("purchase", user, null).join();
            var bodies = server.requests.stream().map(ScriptedServer.Request::body).toList();
            assertEquals("gold", bodies.get(0).get("metadata").get("plan").asText());
            assertEquals("{\"items\":[1,2.5]}", bodies.get(0).get("metadata").get("cart").toString());
            assertFalse(bodies.get(1).has("metadata"));
            assertEquals("gold", bodies.get(2).get("trackingEventDetails").get("plan").asText());
            assertEquals(3.0, bodies.get(2).get("trackingEventDetails").get("value").asDouble());
            assertEquals(1, bodies.get(3).get("trackingEventDetails").size(), "only the id");
            for (var refused : List.of(
                    flags.trackConversion(Conversion.of("checkout", "purchase").metadata(Map.of("total", Double.NaN)), user),
                    flags.track("purchase", user, null, Map.of("experiment", "checkout")))) {
                var error = (FlagstreamException) assertThrows(CompletionException.class, refused::join).getCause();
                assertEquals(ErrorKind.INVALID_REQUEST, error.kind());
                assertTrue(error.getMessage().contains("metadata"), error.getMessage());
            }
            assertEquals(4, server.requests.size());
        }
    }

    @Test
    void anAnswerThatStopsAfterItsHeadersIsGivenUp() throws Exception {
        try (ScriptedServer server = ScriptedServer.of("{\"half\":true}");
                FeatureFlagClient flags = builder(server).maxRetries(0).attemptTimeout(Duration.ofMillis(100)).build()) {
            var error = assertThrows(FlagstreamException.class, () -> flags.evaluate("f", Subject.anonymous(), true));
            assertEquals(ErrorKind.TIMED_OUT, error.kind());
        }
    }

    private interface Condition {
        boolean holds();
    }

    private static void await(Condition condition) throws InterruptedException {
        long deadline = System.nanoTime() + LIMIT.toNanos();
        while (!condition.holds()) {
            assertTrue(System.nanoTime() < deadline, "not within " + LIMIT);
            Thread.onSpinWait();
        }
    }
}
