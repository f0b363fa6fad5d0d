package dev.flagstream.client;

import dev.flagstream.client.internal.Futures;
import java.time.Duration;
import java.util.Collection;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/**
 * Evaluates feature flags. Code that takes a client or a mock declares this type.
 *
 * <p>{@code isEnabled}, {@code evaluateFlag}, {@code batchEvaluate}, {@code bulkEvaluateFlags} and {@code getVariant} always
 * return: the default if the service does not answer. {@code evaluate} and {@code evaluateMany} throw a
 * {@link FlagstreamException} instead. All methods may be called from any thread.
 */
public interface FeatureFlags extends AutoCloseable {

    /**
     * Evaluates a boolean flag for a user. The default is {@code false}.
     *
     * @param flagName the flag
     * @param userId the user; {@code null} for none
     * @return whether the flag is on
     */
    default boolean isEnabled(String flagName, @Nullable String userId) {
        return isEnabled(flagName, Subject.user(userId), false);
    }

    /**
     * Evaluates a boolean flag for a user.
     *
     * @param flagName the flag
     * @param userId the user; {@code null} for none
     * @param defaultValue the value if the service does not answer, or if the flag is unknown
     * @return whether the flag is on
     */
    default boolean isEnabled(String flagName, @Nullable String userId, boolean defaultValue) {
        return isEnabled(flagName, Subject.user(userId), defaultValue);
    }

    /**
     * Evaluates a boolean flag. The default is {@code false}.
     *
     * @param flagName the flag
     * @param subject whom it is evaluated for
     * @return whether the flag is on
     */
    default boolean isEnabled(String flagName, Subject subject) {
        return isEnabled(flagName, subject, false);
    }

    /**
     * Evaluates a boolean flag.
     *
     * @param flagName the flag
     * @param subject whom it is evaluated for
     * @param defaultValue the value if the service does not answer, or if the flag is unknown
     * @return whether the flag is on
     */
    boolean isEnabled(String flagName, Subject subject, boolean defaultValue);

    /**
     * Evaluates a flag for a user, and returns its value, which has the type of the default.
     *
     * @param <T> the type of the value
     * @param flagName the flag
     * @param userId the user; {@code null} for none
     * @param defaultValue as in {@link #evaluateFlag(String, Subject, Object)}
     * @return the value
     */
    default <T> T evaluateFlag(String flagName, @Nullable String userId, T defaultValue) {
        return evaluateFlag(flagName, Subject.user(userId), defaultValue);
    }

    /**
     * Evaluates a flag, and returns its value, which has the type of the default. An {@code Integer} or a {@code Long} asks
     * for a whole number, a {@code Double} or a {@code Float} for any number. A value of another class than those of JSON,
     * such as a record, is read from an object by Jackson.
     *
     * @param <T> the type of the value
     * @param flagName the flag
     * @param subject whom it is evaluated for
     * @param defaultValue the value if the service does not answer, if the flag is unknown, or if its value has another type
     * @return the value
     */
    <T> T evaluateFlag(String flagName, Subject subject, T defaultValue);

    /**
     * Evaluates many boolean flags for a user in one request.
     *
     * @param flagNames the flags
     * @param userId the user; {@code null} for none
     * @return whether each flag is on; {@code false} for those without a boolean value
     */
    default Map<String, Boolean> batchEvaluate(Collection<String> flagNames, @Nullable String userId) {
        return batchEvaluate(flagNames, Subject.user(userId), false);
    }

    /**
     * Evaluates many boolean flags in one request.
     *
     * @param flagNames the flags
     * @param subject whom they are evaluated for
     * @param defaultValue the value of flags without a boolean value
     * @return whether each flag is on, in the order asked
     */
    Map<String, Boolean> batchEvaluate(Collection<String> flagNames, Subject subject, boolean defaultValue);

    /**
     * Evaluates many flags in one request. If the service does not answer, the values are the defaults and the reasons
     * {@code ERROR}.
     *
     * @param flagNames the flags
     * @param subject whom they are evaluated for
     * @param defaultValues values by flag
     * @return the answers by flag, in the order asked
     */
    Map<String, Evaluation> bulkEvaluateFlags(Collection<String> flagNames, Subject subject, Map<String, ?> defaultValues);

    /**
     * Returns the variant of a flag or of an experiment for a subject.
     *
     * @param flagName the flag
     * @param subject whom it is evaluated for
     * @param defaultVariant the variant if the flag has none for the subject, or if the service does not answer
     * @return the name of the variant
     */
    String getVariant(String flagName, Subject subject, String defaultVariant);

    /**
     * Evaluates a flag and returns the service's complete answer.
     *
     * @param query what is asked
     * @param subject whom it is evaluated for
     * @return the answer
     * @throws FlagstreamException if there is none
     */
    default Evaluation evaluate(FlagQuery query, Subject subject) {
        return Futures.join(evaluateAsync(query, subject));
    }

    /**
     * Evaluates a flag and returns the service's complete answer.
     *
     * @param flagName the flag
     * @param subject whom it is evaluated for
     * @param defaultValue the value if the flag has none for the subject; its type is asked for
     * @return the answer
     * @throws FlagstreamException if there is none
     */
    default Evaluation evaluate(String flagName, Subject subject, @Nullable Object defaultValue) {
        return evaluate(FlagQuery.of(flagName).withDefault(defaultValue), subject);
    }

    /**
     * Evaluates many flags in one request.
     *
     * @param queries what is asked; of several about one flag the last counts
     * @param subject whom they are evaluated for
     * @return the answers by flag, in the order asked
     * @throws FlagstreamException if the service does not answer
     */
    default Map<String, Evaluation> evaluateMany(Collection<FlagQuery> queries, Subject subject) {
        return Futures.join(evaluateManyAsync(queries, subject));
    }

    /**
     * Evaluates a flag without blocking.
     *
     * @param query what is asked
     * @param subject whom it is evaluated for
     * @return the answer, or a {@link FlagstreamException}
     */
    CompletableFuture<Evaluation> evaluateAsync(FlagQuery query, Subject subject);

    /**
     * Evaluates many flags in one request, without blocking.
     *
     * @param queries what is asked; of several about one flag the last counts
     * @param subject whom they are evaluated for
     * @return the answers by flag, in the order asked, or a {@link FlagstreamException}
     */
    CompletableFuture<Map<String, Evaluation>> evaluateManyAsync(Collection<FlagQuery> queries, Subject subject);

    /**
     * Reports that a user saw the variant of an experiment. It evaluates the flag without any cache, because exposures are
     * counted from evaluations; each user counts once, however often this is called.
     *
     * @param flagName the flag of the experiment
     * @param subject the user
     * @return completes when the service has the evaluation. A failure is reported to the log or to {@code onError} as well
     */
    CompletableFuture<Void> trackExposure(String flagName, Subject subject);

    /**
     * Reports a conversion. The token needs the scope {@code track}.
     *
     * @param conversion what happened
     * @param subject the user, who is required
     * @return completes when Kafka has the conversion. A failure is reported to the log or to {@code onError} as well
     */
    CompletableFuture<Void> trackConversion(Conversion conversion, Subject subject);

    /**
     * Reports a conversion without a value.
     *
     * @param experiment the experiment
     * @param userId the user
     * @param metric one of its metrics
     * @return as in {@link #trackConversion(Conversion, Subject)}
     */
    default CompletableFuture<Void> trackConversion(String experiment, String userId, String metric) {
        return trackConversion(Conversion.of(experiment, metric), Subject.user(userId));
    }

    /**
     * Reports what a user did, for every running experiment that has a metric of this name (experimental). Only clients over
     * HTTP support it.
     *
     * @param metric the name of the metric
     * @param subject the user, who is required
     * @param value the value, which a mean requires
     * @return completes when Kafka has the conversions. A failure is reported to the log or to {@code onError} as well
     */
    default CompletableFuture<Void> track(String metric, Subject subject, @Nullable Double value) {
        return track(metric, subject, value, Map.of());
    }

    /**
     * Reports what a user did, with metadata of the conversions; see {@link #track(String, Subject, Double)}.
     *
     * @param metric the name of the metric
     * @param subject the user, who is required
     * @param value the value, which a mean requires
     * @param metadata as in {@link Conversion#metadata(Map)}, without the members {@code value}, {@code experiment},
     *     {@code eventId} and {@code occurredAt}, which are the event's own
     * @return as in {@link #track(String, Subject, Double)}
     */
    CompletableFuture<Void> track(String metric, Subject subject, @Nullable Double value,
            Map<String, ? extends @Nullable Object> metadata);

    /**
     * Registers a listener for changes of flags. It is called on a thread of the client and must not block. Changes arrive
     * with {@code followChanges}, with {@code KafkaChanges}, and through {@link #invalidate(FlagChange)}.
     *
     * @param listener receives each change, after the caches were invalidated
     * @return closing it removes the listener
     */
    Subscription onChange(Consumer<? super FlagChange> listener);

    /**
     * Registers a listener for the connection to the source of changes. It must not block.
     *
     * @param listener receives {@code true} when changes arrive, and {@code false} when they no longer do
     * @return closing it removes the listener
     */
    Subscription onFollowing(Consumer<? super Boolean> listener);

    /**
     * Makes cached answers older than a change unusable.
     *
     * @param change the change
     */
    void invalidate(FlagChange change);

    /** Drops all cached answers of this process. */
    void clearCache();

    /**
     * Returns whether changes arrive.
     *
     * @return {@code true} while the client is connected to a source of changes
     */
    boolean isFollowing();

    /**
     * Waits until changes arrive.
     *
     * @param timeout how long
     * @return whether they do
     */
    boolean awaitFollowing(Duration timeout);

    /** Closes all connections. Later calls return their defaults. */
    @Override
    void close();
}
