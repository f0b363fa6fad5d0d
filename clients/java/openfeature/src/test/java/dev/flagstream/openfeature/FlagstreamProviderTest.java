package dev.flagstream.openfeature;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.flagstream.client.Conversion;
import dev.flagstream.junit.MockFeatureFlags;
import dev.openfeature.sdk.Client;
import dev.openfeature.sdk.ErrorCode;
import dev.openfeature.sdk.FlagEvaluationDetails;
import dev.openfeature.sdk.ImmutableContext;
import dev.openfeature.sdk.MutableStructure;
import dev.openfeature.sdk.MutableTrackingEventDetails;
import dev.openfeature.sdk.OpenFeatureAPI;
import dev.openfeature.sdk.ProviderState;
import dev.openfeature.sdk.Value;
import io.opentelemetry.api.common.AttributeKey;
import io.opentelemetry.sdk.testing.junit5.OpenTelemetryExtension;
import java.time.Instant;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.RegisterExtension;

class FlagstreamProviderTest {
    @RegisterExtension
    static final OpenTelemetryExtension TELEMETRY = OpenTelemetryExtension.create();

    private final MockFeatureFlags flags = new MockFeatureFlags();
    private final Client client = OpenFeatureAPI.getInstance().getClient();

    @BeforeEach
    void register() {
        OpenFeatureAPI.getInstance().setProviderAndWait(new FlagstreamProvider(flags));
    }

    @AfterEach
    void shutdown() {
        OpenFeatureAPI.getInstance().shutdown();
    }

    @Test
    void everyTypeIsAskedForAndConverted() {
        flags.set("on", true).set("theme", "dark").set("five", 5).set("ratio", 0.5).set("large", 1L << 40)
                .set("config", Map.of("regions", List.of("us"), "threshold", 0.8, "n", 3));
        assertTrue(client.getBooleanValue("on", false));
        assertEquals("dark", client.getStringValue("theme", "light"));
        assertEquals(5, client.getIntegerValue("five", 3));
        assertEquals(0.5, client.getDoubleValue("ratio", 1.0));
        Value config = client.getObjectValue("config", new Value());
        assertEquals("us", config.asStructure().getValue("regions").asList().get(0).asString());
        assertEquals(3, config.asStructure().getValue("n").asInteger());
        assertEquals(List.of("boolean", "string", "integer", "float", "object"),
                flags.asked().stream().map(asked -> asked.query().valueType().wireName()).toList());
        FlagEvaluationDetails<Integer> large = client.getIntegerDetails("large", 3);
        assertEquals(ErrorCode.TYPE_MISMATCH, large.getErrorCode());
        assertEquals(3, large.getValue());
        FlagEvaluationDetails<String> unknown = client.getStringDetails("unknown", "light");
        assertEquals(ErrorCode.FLAG_NOT_FOUND, unknown.getErrorCode());
        assertEquals("light", unknown.getValue());
    }

    @Test
    void theContextIsTheSubject() {
        Instant time = Instant.parse("2026-01-15T10:30:00Z");
        client.getBooleanValue("on", false, new ImmutableContext("user-1", Map.of("plan", new Value("gold"),
                "since", new Value(time), "groups", new Value(List.of(new Value("a"))))));
        var subject = flags.asked().get(0).subject();
        assertEquals("user-1", subject.userId());
        assertEquals(Map.of("plan", "gold", "since", "2026-01-15T10:30:00Z", "groups", List.of("a")), subject.context());
        client.getBooleanValue("on", false);
        assertNull(flags.asked().get(1).subject().userId());
    }

    @Test
    void changesAreEventsAndAProviderWithoutChangesIsStale() throws Exception {
        BlockingQueue<List<String>> changed = new LinkedBlockingQueue<>();
        BlockingQueue<String> states = new LinkedBlockingQueue<>();
        client.onProviderConfigurationChanged(event -> changed.add(event.getFlagsChanged()));
        client.onProviderStale(event -> states.add("stale"));
        flags.set("theme", "dark");
        assertEquals(List.of("theme"), changed.poll(30, TimeUnit.SECONDS));
        flags.setFollowing(false);
        assertEquals("stale", states.poll(30, TimeUnit.SECONDS));
        assertEquals(ProviderState.STALE, client.getProviderState());
        client.onProviderReady(event -> states.add("ready"));
        flags.setFollowing(true);
        assertEquals("ready", states.poll(30, TimeUnit.SECONDS));
    }

    @Test
    void trackingEventsAreConversions() {
        ImmutableContext user = new ImmutableContext("user-1");
        client.track("purchase", user);
        client.track("revenue", user, new MutableTrackingEventDetails(12.5).add("experiment", "checkout-test")
                .add("eventId", "order-77"));
        MutableTrackingEventDetails rich = new MutableTrackingEventDetails().add("plan", "gold").add("occurredAt", "today")
                .add("cart", new MutableStructure().add("items", List.of(new Value(1))));
        client.track("purchase", user, rich);
        client.track("revenue", user, rich.add("experiment", "checkout-test"));
        assertEquals("purchase", flags.tracked().get(0).metric());
        assertEquals(Map.of(), flags.tracked().get(0).metadata());
        Map<String, Object> metadata = Map.of("plan", "gold", "cart", Map.of("items", List.of(1)));
        assertEquals(metadata, flags.tracked().get(1).metadata());
        assertEquals(metadata, flags.conversions().get(1).metadata());
        assertEquals("user-1", flags.tracked().get(0).subject().userId());
        Conversion conversion = flags.conversions().get(0);
        assertEquals("checkout-test", conversion.experiment());
        assertEquals("order-77", conversion.eventId());
        assertEquals(12.5, conversion.value());
        assertEquals(Map.of(), conversion.metadata());
    }

    @Test
    void evaluationsAreEventsOfTheCurrentSpan() {
        flags.set("theme", "dark");
        var span = TELEMETRY.getOpenTelemetry().getTracer("test").spanBuilder("checkout").startSpan();
        client.addHooks(new TelemetryHook());
        String header;
        try (var scope = span.makeCurrent()) {
            assertEquals("dark", client.getStringValue("theme", "light"));
            header = TelemetryHook.traceparent();
        }
        span.end();
        assertEquals("00-" + span.getSpanContext().getTraceId() + "-" + span.getSpanContext().getSpanId() + "-01", header);
        assertNull(TelemetryHook.traceparent());
        var event = TELEMETRY.getSpans().get(0).getEvents().get(0);
        assertEquals("feature_flag.evaluation", event.getName());
        assertEquals("theme", event.getAttributes().get(AttributeKey.stringKey("feature_flag.key")));
        assertEquals("flagstream", event.getAttributes().get(AttributeKey.stringKey("feature_flag.provider.name")));
    }
}
