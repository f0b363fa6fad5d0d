package dev.flagstream.client;

import java.time.Instant;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Objects;
import java.util.UUID;
import org.jspecify.annotations.Nullable;

/**
 * What a metric of an experiment counts. Immutable.
 *
 * <pre>{@code Conversion.of("checkout-test", "purchase").value(12.5).eventId("order-77")}</pre>
 */
public final class Conversion {
    private final String experiment;
    private final String metric;
    private final @Nullable Double value;
    private final String eventId;
    private final @Nullable Instant occurredAt;
    private final Map<String, @Nullable Object> metadata;

    private Conversion(String experiment, String metric, @Nullable Double value, String eventId,
            @Nullable Instant occurredAt, Map<String, @Nullable Object> metadata) {
        this.experiment = Objects.requireNonNull(experiment, "experiment");
        this.metric = Objects.requireNonNull(metric, "metric");
        this.value = value;
        this.eventId = Objects.requireNonNull(eventId, "eventId");
        this.occurredAt = occurredAt;
        this.metadata = metadata;
    }

    /**
     * Returns a conversion with an event id of its own.
     *
     * @param experiment the experiment
     * @param metric one of its metrics
     * @return the conversion
     */
    public static Conversion of(String experiment, String metric) {
        return new Conversion(experiment, metric, null, UUID.randomUUID().toString(), null, Map.of());
    }

    /**
     * Returns a copy with a value.
     *
     * @param value the value, which a mean requires
     * @return the copy
     */
    public Conversion value(double value) {
        return new Conversion(experiment, metric, value, eventId, occurredAt, metadata);
    }

    /**
     * Returns a copy with an event id. A conversion that has the id of an earlier one is not counted again.
     *
     * @param eventId the id, such as that of an order
     * @return the copy
     */
    public Conversion eventId(String eventId) {
        return new Conversion(experiment, metric, value, eventId, occurredAt, metadata);
    }

    /**
     * Returns a copy with the time of the conversion. Without it the time of the report counts.
     *
     * @param occurredAt the time
     * @return the copy
     */
    public Conversion occurredAt(Instant occurredAt) {
        return new Conversion(experiment, metric, value, eventId, occurredAt, metadata);
    }

    /**
     * Returns a copy with metadata: further properties, which are kept with the conversion and can be dimensions of the
     * experiment's results. They replace those that it had.
     *
     * @param metadata strings, numbers, booleans, lists, maps and other values that Jackson writes as JSON, by their names
     * @return the copy
     */
    public Conversion metadata(Map<String, ? extends @Nullable Object> metadata) {
        return new Conversion(experiment, metric, value, eventId, occurredAt,
                Collections.unmodifiableMap(new LinkedHashMap<>(metadata)));
    }

    /**
     * Returns the experiment.
     *
     * @return the name of the experiment
     */
    public String experiment() {
        return experiment;
    }

    /**
     * Returns the metric.
     *
     * @return the name of the metric
     */
    public String metric() {
        return metric;
    }

    /**
     * Returns the value.
     *
     * @return the value, or {@code null}
     */
    public @Nullable Double value() {
        return value;
    }

    /**
     * Returns the event id.
     *
     * @return the id
     */
    public String eventId() {
        return eventId;
    }

    /**
     * Returns the time.
     *
     * @return the time of the conversion, or {@code null}
     */
    public @Nullable Instant occurredAt() {
        return occurredAt;
    }

    /**
     * Returns the metadata.
     *
     * @return values by their names
     */
    public Map<String, @Nullable Object> metadata() {
        return metadata;
    }
}
