package dev.flagstream.client.internal;

import dev.flagstream.client.Conversion;
import dev.flagstream.client.Subject;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/** Conversions as they cross the wire. */
public final class Conversions {
    /** Members of a tracking event's details that are not metadata of its conversions. */
    public static final Set<String> EVENT_MEMBERS = Set.of("value", "experiment", "eventId", "occurredAt");

    private Conversions() {}

    /** Returns the members of a conversion, without experiment and environment. */
    public static Map<String, @Nullable Object> members(Conversion conversion, Subject subject) {
        Map<String, @Nullable Object> body = new LinkedHashMap<>();
        body.put("user_id", subject.userId());
        body.put("metric", conversion.metric());
        if (conversion.value() != null) {
            body.put("value", conversion.value());
        }
        Instant occurredAt = conversion.occurredAt() == null ? Instant.now() : conversion.occurredAt();
        body.put("occurred_at", occurredAt.truncatedTo(ChronoUnit.MICROS).toString());
        body.put("event_id", conversion.eventId());
        if (!conversion.metadata().isEmpty()) {
            body.put("metadata", conversion.metadata());
        }
        return body;
    }
}
