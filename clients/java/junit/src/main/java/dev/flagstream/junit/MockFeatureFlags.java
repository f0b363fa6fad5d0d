package dev.flagstream.junit;

import dev.flagstream.client.CacheOptions;
import dev.flagstream.client.Conversion;
import dev.flagstream.client.Evaluation;
import dev.flagstream.client.FlagChange;
import dev.flagstream.client.FlagQuery;
import dev.flagstream.client.Subject;
import dev.flagstream.client.Subscription;
import dev.flagstream.client.internal.AbstractFlags;
import dev.flagstream.client.internal.AnswerCache;
import dev.flagstream.client.internal.Clock;
import java.time.Duration;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.atomic.AtomicLong;
import org.jspecify.annotations.Nullable;

/**
 * A client for tests: it answers with the values that it was given, and sends nothing. A flag without a value has the default
 * of the call. Setting a flag is a change, which listeners receive.
 *
 * <pre>{@code new MockFeatureFlags().set("new-ui-enabled", true).set("theme-variant", "dark")}</pre>
 */
public final class MockFeatureFlags extends AbstractFlags {
    private final Map<String, Flag> flags = new ConcurrentHashMap<>();
    private final List<Asked> asked = new CopyOnWriteArrayList<>();
    private final List<Exposure> exposures = new CopyOnWriteArrayList<>();
    private final List<Conversion> conversions = new CopyOnWriteArrayList<>();
    private final List<Tracked> tracked = new CopyOnWriteArrayList<>();
    private final AtomicLong version = new AtomicLong(1);
    private volatile boolean isFollowing = true;

    private record Flag(@Nullable Object value, @Nullable String variant, long version) {}

    /**
     * A flag that was asked for.
     *
     * @param query what was asked
     * @param subject whom it was asked for
     */
    public record Asked(FlagQuery query, Subject subject) {}

    /**
     * An exposure that was reported.
     *
     * @param flagName the flag
     * @param subject the user
     */
    public record Exposure(String flagName, Subject subject) {}

    /**
     * A metric that was reported without an experiment.
     *
     * @param metric the metric
     * @param subject the user
     * @param value the value, or {@code null}
     * @param metadata the metadata of the conversions
     */
    public record Tracked(String metric, Subject subject, @Nullable Double value, Map<String, @Nullable Object> metadata) {}

    /** Creates a mock without flags. */
    public MockFeatureFlags() {
        this(Map.of());
    }

    /**
     * Creates a mock.
     *
     * @param values values by flag
     */
    public MockFeatureFlags(Map<String, ?> values) {
        super("test", new AnswerCache(CacheOptions.none(), Clock.SYSTEM), null);
        values.forEach(this::set);
    }

    /**
     * Sets the value of a flag for everybody.
     *
     * @param flagName the flag
     * @param value the value
     * @return this mock
     */
    public MockFeatureFlags set(String flagName, Object value) {
        return put(flagName, new Flag(value, null, version.incrementAndGet()));
    }

    /**
     * Sets the variant of a flag, which is its value as well.
     *
     * @param flagName the flag
     * @param variant the name of the variant
     * @return this mock
     */
    public MockFeatureFlags setVariant(String flagName, String variant) {
        return put(flagName, new Flag(variant, variant, version.incrementAndGet()));
    }

    /**
     * Removes a flag: calls get their defaults.
     *
     * @param flagName the flag
     * @return this mock
     */
    public MockFeatureFlags remove(String flagName) {
        flags.remove(flagName);
        invalidate(new FlagChange("FEATURE_FLAG_DELETED", flagName, "test", version.incrementAndGet()));
        return this;
    }

    /**
     * Sets the value of a flag until the result is closed, for {@code try (var ignored = flags.setFor("a", true))}.
     *
     * @param flagName the flag
     * @param value the value
     * @return closing it restores the former value
     */
    public Subscription setFor(String flagName, Object value) {
        Flag before = flags.get(flagName);
        set(flagName, value);
        return () -> {
            if (before == null) {
                remove(flagName);
            } else {
                put(flagName, before);
            }
        };
    }

    /**
     * Sets whether changes arrive.
     *
     * @param following what {@link #isFollowing()} returns
     * @return this mock
     */
    public MockFeatureFlags setFollowing(boolean following) {
        isFollowing = following;
        following(following);
        return this;
    }

    /**
     * Returns what was asked, in order.
     *
     * @return one entry for each flag of each call
     */
    public List<Asked> asked() {
        return List.copyOf(asked);
    }

    /**
     * Returns the exposures that were reported, in order.
     *
     * @return the exposures
     */
    public List<Exposure> exposures() {
        return List.copyOf(exposures);
    }

    /**
     * Returns the conversions that were reported, in order.
     *
     * @return the conversions
     */
    public List<Conversion> conversions() {
        return List.copyOf(conversions);
    }

    /**
     * Returns the metrics that were reported without an experiment, in order.
     *
     * @return the metrics
     */
    public List<Tracked> tracked() {
        return List.copyOf(tracked);
    }

    /** Forgets all flags and reports. */
    public void reset() {
        List.copyOf(flags.keySet()).forEach(this::remove);
        asked.clear();
        exposures.clear();
        conversions.clear();
        tracked.clear();
    }

    @Override
    public boolean isFollowing() {
        return isFollowing;
    }

    @Override
    public boolean awaitFollowing(Duration timeout) {
        return isFollowing;
    }

    /** Does nothing: nothing is open. */
    @Override
    public void close() {}

    @Override
    protected CompletableFuture<Evaluation> ask(FlagQuery query, Subject subject, long newest) {
        asked.add(new Asked(query, subject));
        Flag flag = flags.get(query.flagName());
        String environment = subject.environment();
        if (flag == null) {
            return CompletableFuture.completedFuture(new Evaluation(query.flagName(), query.defaultValue(), false, null, "DEFAULT",
                    "FLAG_NOT_FOUND", "the mock has no flag of this name", false, null, environment, version.get(), false));
        }
        Object value = flag.value() instanceof Integer whole ? (Object) whole.longValue() : flag.value();
        boolean isOn = !Boolean.FALSE.equals(value);
        return CompletableFuture.completedFuture(new Evaluation(query.flagName(), value, isOn, flag.variant(),
                isOn ? "TARGETING_MATCH" : "DEFAULT", null, null, false, flag.version(), environment, version.get(), false));
    }

    @Override
    protected CompletableFuture<Map<String, Evaluation>> askMany(List<FlagQuery> queries, Subject subject, long newest) {
        Map<String, Evaluation> answers = new LinkedHashMap<>();
        queries.forEach(query -> answers.put(query.flagName(), ask(query, subject, newest).join()));
        return CompletableFuture.completedFuture(answers);
    }

    @Override
    protected CompletableFuture<Void> expose(FlagQuery query, Subject subject) {
        exposures.add(new Exposure(query.flagName(), subject));
        return CompletableFuture.completedFuture(null);
    }

    @Override
    protected CompletableFuture<Void> convert(Conversion conversion, Subject subject) {
        conversions.add(conversion);
        return CompletableFuture.completedFuture(null);
    }

    @Override
    protected CompletableFuture<Void> sendEvent(String metric, Subject subject, @Nullable Double value,
            Map<String, ? extends @Nullable Object> metadata) {
        tracked.add(new Tracked(metric, subject, value, Collections.unmodifiableMap(new LinkedHashMap<>(metadata))));
        return CompletableFuture.completedFuture(null);
    }

    @Override
    protected String address() {
        return "mock";
    }

    private MockFeatureFlags put(String flagName, Flag flag) {
        boolean isNew = flags.put(flagName, flag) == null;
        invalidate(new FlagChange(isNew ? "FEATURE_FLAG_CREATED" : "FEATURE_FLAG_UPDATED", flagName, "test", version.get()));
        return this;
    }
}
