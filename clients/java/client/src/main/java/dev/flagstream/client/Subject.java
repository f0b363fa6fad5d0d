package dev.flagstream.client;

import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * Whom a flag is evaluated for: a user, a session, and attributes. Immutable.
 *
 * <pre>{@code Subject.user("user-123").with("subscription_tier", "premium")}</pre>
 */
public final class Subject {
    private static final Subject ANONYMOUS = new Subject(null, null, null, Map.of());

    private final @Nullable String userId;
    private final @Nullable String sessionId;
    private final @Nullable String environment;
    private final Map<String, @Nullable Object> context;

    private Subject(@Nullable String userId, @Nullable String sessionId, @Nullable String environment,
            Map<String, @Nullable Object> context) {
        this.userId = userId;
        this.sessionId = sessionId;
        this.environment = environment;
        this.context = context;
    }

    /**
     * Returns a subject without a user.
     *
     * @return the subject
     */
    public static Subject anonymous() {
        return ANONYMOUS;
    }

    /**
     * Returns the subject of a user.
     *
     * @param userId the user's id; {@code null} for none
     * @return the subject
     */
    public static Subject user(@Nullable String userId) {
        return new Subject(userId, null, null, Map.of());
    }

    /**
     * Returns a copy with a session.
     *
     * @param sessionId the session's id; {@code null} for none
     * @return the copy
     */
    public Subject session(@Nullable String sessionId) {
        return new Subject(userId, sessionId, environment, context);
    }

    /**
     * Returns a copy for another environment than the client's.
     *
     * @param environment the environment; {@code null} for the client's
     * @return the copy
     */
    public Subject environment(@Nullable String environment) {
        return new Subject(userId, sessionId, environment, context);
    }

    /**
     * Returns a copy with one more attribute.
     *
     * @param attribute the name
     * @param value a string, a number, a boolean, a list, a map, or another value that Jackson writes as JSON
     * @return the copy
     */
    public Subject with(String attribute, @Nullable Object value) {
        Map<String, @Nullable Object> more = new LinkedHashMap<>(context);
        more.put(Objects.requireNonNull(attribute, "attribute"), value);
        return new Subject(userId, sessionId, environment, Collections.unmodifiableMap(more));
    }

    /**
     * Returns a copy with more attributes.
     *
     * @param attributes values by their names, as in {@link #with(String, Object)}
     * @return the copy
     */
    public Subject withAll(Map<String, ? extends @Nullable Object> attributes) {
        Map<String, @Nullable Object> more = new LinkedHashMap<>(context);
        more.putAll(attributes);
        return new Subject(userId, sessionId, environment, Collections.unmodifiableMap(more));
    }

    /**
     * Returns the user.
     *
     * @return the user's id, or {@code null}
     */
    public @Nullable String userId() {
        return userId;
    }

    /**
     * Returns the session.
     *
     * @return the session's id, or {@code null}
     */
    public @Nullable String sessionId() {
        return sessionId;
    }

    /**
     * Returns the environment.
     *
     * @return the environment, or {@code null} for that of the client
     */
    public @Nullable String environment() {
        return environment;
    }

    /**
     * Returns the attributes.
     *
     * @return values by their names
     */
    public Map<String, @Nullable Object> context() {
        return context;
    }

    @Override
    public boolean equals(@Nullable Object other) {
        return other instanceof Subject subject && Objects.equals(userId, subject.userId)
                && Objects.equals(sessionId, subject.sessionId) && Objects.equals(environment, subject.environment)
                && context.equals(subject.context);
    }

    @Override
    public int hashCode() {
        return Objects.hash(userId, sessionId, environment, context);
    }

    @Override
    public String toString() {
        return "Subject[userId=" + userId + ", sessionId=" + sessionId + ", environment=" + environment + ", context="
                + context + "]";
    }
}
