package dev.flagstream.openfeature;

import dev.openfeature.sdk.EvaluationEvent;
import dev.openfeature.sdk.FlagEvaluationDetails;
import dev.openfeature.sdk.Hook;
import dev.openfeature.sdk.HookContext;
import dev.openfeature.sdk.Telemetry;
import io.opentelemetry.api.common.AttributeKey;
import io.opentelemetry.api.common.Attributes;
import io.opentelemetry.api.common.AttributesBuilder;
import io.opentelemetry.api.trace.Span;
import io.opentelemetry.api.trace.SpanContext;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * Adds each evaluation to the current span of OpenTelemetry, as an event with the names of its semantic conventions
 * ({@code feature_flag.key}, {@code feature_flag.result.variant}, …). It needs {@code io.opentelemetry:opentelemetry-api}.
 */
public final class TelemetryHook implements Hook<Object> {
    /** Creates the hook. */
    public TelemetryHook() {}

    @Override
    public void finallyAfter(HookContext<Object> context, FlagEvaluationDetails<Object> details, Map<String, Object> hints) {
        Span span = Span.current();
        if (!span.isRecording()) {
            return;
        }
        EvaluationEvent event = Telemetry.createEvaluationEvent(context, details);
        AttributesBuilder attributes = Attributes.builder();
        event.getAttributes().forEach((name, value) -> {
            if (value != null) {
                attributes.put(AttributeKey.stringKey(name), value.toString());
            }
        });
        span.addEvent(event.getName(), attributes.build());
    }

    /**
     * Returns the W3C {@code traceparent} of the current span, for {@code traceparent} of the clients' builders: then events in
     * Kafka carry the trace of the call.
     *
     * @return the header's value, or {@code null} without a span
     */
    public static @Nullable String traceparent() {
        SpanContext span = Span.current().getSpanContext();
        return span.isValid() ? "00-" + span.getTraceId() + "-" + span.getSpanId() + "-" + span.getTraceFlags().asHex() : null;
    }
}
