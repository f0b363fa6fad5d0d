package dev.flagstream.client.internal;

import dev.flagstream.client.Conversion;
import dev.flagstream.client.ErrorKind;
import dev.flagstream.client.Evaluation;
import dev.flagstream.client.FeatureFlags;
import dev.flagstream.client.FlagChange;
import dev.flagstream.client.FlagQuery;
import dev.flagstream.client.FlagstreamException;
import dev.flagstream.client.Subject;
import dev.flagstream.client.Subscription;
import dev.flagstream.client.ValueType;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** What the clients have in common, however they reach the service: defaults, caches, warnings, listeners. */
public abstract class AbstractFlags implements FeatureFlags {
    /** Logger of all clients. */
    protected static final Logger LOG = LoggerFactory.getLogger("dev.flagstream.client");
    /** Combinations of environment and error code that are warned of, each once. */
    private static final int MAX_WARNINGS_COUNT = 100;

    /** The cache. */
    protected final AnswerCache cache;
    private final @Nullable String environment;
    private final @Nullable Consumer<? super FlagstreamException> onError;
    private final List<Consumer<? super FlagChange>> listeners = new CopyOnWriteArrayList<>();
    private final List<Consumer<? super Boolean>> followers = new CopyOnWriteArrayList<>();
    private final Set<String> warned = ConcurrentHashMap.newKeySet();

    /** Creates the common part. */
    protected AbstractFlags(@Nullable String environment, AnswerCache cache,
            @Nullable Consumer<? super FlagstreamException> onError) {
        this.environment = environment;
        this.cache = cache;
        this.onError = onError;
    }

    /**
     * Asks the service about one flag. An answer older than {@code newest} is better than none, an answer older than the
     * query's own version is none.
     */
    protected abstract CompletableFuture<Evaluation> ask(FlagQuery query, Subject subject, long newest);

    /** Asks the service about many flags, at least one. */
    protected abstract CompletableFuture<Map<String, Evaluation>> askMany(List<FlagQuery> queries, Subject subject,
            long newest);

    /** Returns where the service is, for the log. */
    protected abstract String address();

    @Override
    public boolean isEnabled(String flagName, Subject subject, boolean defaultValue) {
        try {
            return Answers.booleanOf(Futures.join(booleanAsync(FlagQuery.of(flagName).withDefault(defaultValue), subject)));
        } catch (FlagstreamException error) {
            hide(error, flagName);
            return defaultValue;
        }
    }

    @Override
    public <T> T evaluateFlag(String flagName, Subject subject, T defaultValue) {
        try {
            FlagQuery query = FlagQuery.of(flagName).withDefault(defaultValue).withType(Answers.typeOf(defaultValue));
            return Answers.like(evaluate(query, subject), defaultValue);
        } catch (FlagstreamException error) {
            hide(error, flagName);
            return defaultValue;
        }
    }

    @Override
    public Map<String, Boolean> batchEvaluate(Collection<String> flagNames, Subject subject, boolean defaultValue) {
        List<FlagQuery> queries = flagNames.stream().distinct().map(f -> FlagQuery.of(f).withDefault(defaultValue)).toList();
        Map<String, Evaluation> answers = bulk(queries, subject, true);
        Map<String, Boolean> values = new LinkedHashMap<>();
        answers.forEach((flag, evaluation) -> {
            try {
                values.put(flag, Answers.booleanOf(evaluation));
            } catch (FlagstreamException error) {
                hide(error, flag);
                values.put(flag, defaultValue);
            }
        });
        return values;
    }

    @Override
    public Map<String, Evaluation> bulkEvaluateFlags(Collection<String> flagNames, Subject subject,
            Map<String, ?> defaultValues) {
        List<FlagQuery> queries =
                flagNames.stream().distinct().map(f -> FlagQuery.of(f).withDefault(defaultValues.get(f))).toList();
        return bulk(queries, subject, false);
    }

    @Override
    public String getVariant(String flagName, Subject subject, String defaultVariant) {
        try {
            // Every variant is a string, so the type always fits.
            String variant = evaluate(FlagQuery.of(flagName).withType(ValueType.STRING), subject).variant();
            return variant == null ? defaultVariant : variant;
        } catch (FlagstreamException error) {
            hide(error, flagName);
            return defaultVariant;
        }
    }

    @Override
    public CompletableFuture<Evaluation> evaluateAsync(FlagQuery query, Subject subject) {
        Subject whole = inEnvironment(subject);
        String key;
        try {
            key = Answers.key(query, whole);
        } catch (FlagstreamException error) {
            return CompletableFuture.failedFuture(error);
        }
        Evaluation kept = cache.get(key);
        if (kept != null && kept.flagsVersion() >= query.minVersion()) {
            return CompletableFuture.completedFuture(kept.asCached());
        }
        return Futures.map(ask(query, whole, cache.newest()), answer -> taken(key, query, whole, answer));
    }

    @Override
    public CompletableFuture<Map<String, Evaluation>> evaluateManyAsync(Collection<FlagQuery> queries, Subject subject) {
        Subject whole = inEnvironment(subject);
        Map<String, FlagQuery> asked = new LinkedHashMap<>();
        queries.forEach(query -> asked.put(query.flagName(), query));
        try {
            Map<String, Evaluation> found = new LinkedHashMap<>();
            asked.forEach((flag, query) -> {
                Evaluation kept = cache.get(Answers.key(query, whole));
                if (kept != null && kept.flagsVersion() >= query.minVersion()) {
                    found.put(flag, kept.asCached());
                }
            });
            return askMissing(asked, found, whole);
        } catch (FlagstreamException error) {
            return CompletableFuture.failedFuture(error);
        }
    }

    @Override
    public CompletableFuture<Void> trackExposure(String flagName, Subject subject) {
        FlagQuery query = FlagQuery.of(flagName).withType(ValueType.STRING);
        return reported(expose(query, inEnvironment(subject)), flagName);
    }

    @Override
    public CompletableFuture<Void> trackConversion(Conversion conversion, Subject subject) {
        Subject whole = inEnvironment(subject);
        if (whole.userId() == null) {
            FlagstreamException error = new FlagstreamException(ErrorKind.INVALID_REQUEST, "a conversion needs a user", null);
            return reported(CompletableFuture.failedFuture(error), conversion.metric());
        }
        return reported(convert(conversion, whole), conversion.metric());
    }

    @Override
    public CompletableFuture<Void> track(String metric, Subject subject, @Nullable Double value,
            Map<String, ? extends @Nullable Object> metadata) {
        Set<String> taken = new TreeSet<>(metadata.keySet());
        taken.retainAll(Conversions.EVENT_MEMBERS);
        if (!taken.isEmpty()) {
            String detail = "metadata: not possible in a tracking event: " + String.join(", ", taken);
            FlagstreamException error = new FlagstreamException(ErrorKind.INVALID_REQUEST, detail, null);
            return reported(CompletableFuture.failedFuture(error), metric);
        }
        return reported(sendEvent(metric, inEnvironment(subject), value, metadata), metric);
    }

    /** Evaluates a flag of an experiment, whatever the cache has. */
    protected CompletableFuture<Void> expose(FlagQuery query, Subject subject) {
        return ask(query, subject, 0).thenAccept(answer -> { });
    }

    /** Sends a conversion of a subject that has a user. */
    protected abstract CompletableFuture<Void> convert(Conversion conversion, Subject subject);

    /** Sends a tracking event, whose metadata has none of the event's own members. */
    protected abstract CompletableFuture<Void> sendEvent(String metric, Subject subject, @Nullable Double value,
            Map<String, ? extends @Nullable Object> metadata);

    @Override
    public Subscription onChange(Consumer<? super FlagChange> listener) {
        listeners.add(listener);
        return () -> listeners.remove(listener);
    }

    @Override
    public Subscription onFollowing(Consumer<? super Boolean> listener) {
        followers.add(listener);
        return () -> followers.remove(listener);
    }

    @Override
    public void invalidate(FlagChange change) {
        cache.announce(change);
        notify(listeners, change);
    }

    /** Reports that changes arrive, or no longer do. */
    protected void following(boolean isFollowing) {
        notify(followers, isFollowing);
    }

    private static <T> void notify(List<Consumer<? super T>> all, T what) {
        for (Consumer<? super T> listener : all) {
            try {
                listener.accept(what);
            } catch (RuntimeException error) {
                LOG.warn("a listener failed", error);
            }
        }
    }

    /** Records a change that was announced before this client began to follow changes; listeners do not get it. */
    public void announceEarlier(FlagChange change) {
        cache.announce(change);
    }

    @Override
    public void clearCache() {
        cache.clear();
    }

    /** Records where a stream of changes begins; this is no change. */
    protected void begin(@Nullable String streamEnvironment, long version) {
        cache.begin(streamEnvironment, version);
    }

    /** Returns the subject with the client's environment, unless it names one. */
    protected Subject inEnvironment(Subject subject) {
        return subject.environment() == null && environment != null ? subject.environment(environment) : subject;
    }

    /** Reports a failure to the log or to {@code onError}, and leaves it in the future. */
    protected CompletableFuture<Void> reported(CompletableFuture<Void> report, String what) {
        return report.whenComplete((done, failure) -> {
            if (failure != null) {
                hide(Futures.failureOf(failure), what);
            }
        });
    }

    /** Evaluates a boolean, with all layers of the cache. */
    private CompletableFuture<Evaluation> booleanAsync(FlagQuery query, Subject subject) {
        Subject whole = inEnvironment(subject);
        String user = whole.userId();
        String place = whole.environment();
        if (!cache.hasRedis() || user == null || place == null || !isPlain(whole)) {
            return evaluateAsync(query, whole);
        }
        String key = Answers.key(query, whole);
        Evaluation kept = cache.get(key);
        if (kept != null) {
            return CompletableFuture.completedFuture(kept.asCached());
        }
        return cache.getBoolean(key, place, query.flagName(), user)
                .thenCompose(found -> found == null ? evaluateAsync(query, whole) : CompletableFuture.completedFuture(found));
    }

    private Map<String, Evaluation> bulk(List<FlagQuery> queries, Subject subject, boolean areBooleans) {
        try {
            return Futures.join(areBooleans ? booleansAsync(queries, subject) : evaluateManyAsync(queries, subject));
        } catch (FlagstreamException error) {
            hide(error, String.join(", ", queries.stream().map(FlagQuery::flagName).toList()));
            Subject whole = inEnvironment(subject);
            Map<String, Evaluation> answers = new LinkedHashMap<>();
            for (FlagQuery query : queries) {
                Evaluation kept = error.kind() == ErrorKind.INVALID_REQUEST ? null : cache.get(Answers.key(query, whole));
                answers.put(query.flagName(), kept == null ? Evaluation.failed(query, error) : kept.asCached());
            }
            return answers;
        }
    }

    private CompletableFuture<Map<String, Evaluation>> booleansAsync(List<FlagQuery> queries, Subject subject) {
        Subject whole = inEnvironment(subject);
        String user = whole.userId();
        String place = whole.environment();
        if (!cache.hasRedis() || user == null || place == null || !isPlain(whole)) {
            return evaluateManyAsync(queries, whole);
        }
        Map<String, FlagQuery> asked = new LinkedHashMap<>();
        Map<String, CompletableFuture<@Nullable Evaluation>> reads = new LinkedHashMap<>();
        for (FlagQuery query : queries) {
            String key = Answers.key(query, whole);
            asked.put(query.flagName(), query);
            Evaluation kept = cache.get(key);
            reads.put(query.flagName(), kept != null ? CompletableFuture.completedFuture(kept.asCached())
                    : cache.getBoolean(key, place, query.flagName(), user));
        }
        return CompletableFuture.allOf(reads.values().toArray(CompletableFuture<?>[]::new)).thenCompose(done -> {
            Map<String, Evaluation> found = new LinkedHashMap<>();
            reads.forEach((flag, read) -> {
                Evaluation evaluation = read.join();
                if (evaluation != null) {
                    found.put(flag, evaluation);
                }
            });
            return askMissing(asked, found, whole);
        });
    }

    private CompletableFuture<Map<String, Evaluation>> askMissing(Map<String, FlagQuery> asked, Map<String, Evaluation> found,
            Subject whole) {
        List<FlagQuery> missing = asked.values().stream().filter(query -> !found.containsKey(query.flagName())).toList();
        CompletableFuture<Map<String, Evaluation>> answers = missing.isEmpty() ? CompletableFuture.completedFuture(Map.of())
                : askMany(missing, whole, cache.newest());
        return Futures.map(answers, fresh -> {
            Map<String, Evaluation> all = new LinkedHashMap<>();
            asked.forEach((flag, query) -> {
                Evaluation known = found.get(flag);
                Evaluation answer = known != null ? known : fresh.get(flag);
                if (answer != null) {
                    all.put(flag, known != null ? known : taken(Answers.key(query, whole), query, whole, answer));
                }
            });
            return all;
        });
    }

    /** Keeps an answer of the service. */
    private Evaluation taken(String key, FlagQuery query, Subject subject, Evaluation answer) {
        warn(answer);
        cache.put(key, answer);
        ValueType type = query.valueType();
        boolean isBoolean = (type == null || type.equals(ValueType.BOOLEAN))
                && (query.defaultValue() == null || query.defaultValue() instanceof Boolean);
        String user = subject.userId();
        String place = subject.environment();
        if (isBoolean && user != null && place != null && isPlain(subject)) {
            cache.putBoolean(place, query.flagName(), user, answer);
        }
        return answer;
    }

    private static boolean isPlain(Subject subject) {
        return subject.sessionId() == null && subject.context().isEmpty();
    }

    private void warn(Evaluation answer) {
        if (!answer.isError() || warned.size() >= MAX_WARNINGS_COUNT
                || !warned.add(answer.environment() + "\0" + answer.errorCode())) {
            return;
        }
        LOG.warn("{} in environment {} is answered with its default: {}: {} (logged once for this environment and code)",
                answer.flagName(), answer.environment(), answer.errorCode(), answer.errorMessage());
    }

    private void hide(FlagstreamException error, String flags) {
        if (onError != null) {
            try {
                onError.accept(error);
            } catch (RuntimeException failure) {
                LOG.warn("onError failed", failure);
            }
        } else if (error.kind() == ErrorKind.CIRCUIT_OPEN) {
            // What opened the circuit breaker was logged.
            LOG.debug("{} answered with the default: {}: {}", flags, address(), error.getMessage());
        } else {
            LOG.warn("{} answered with the default: {}: {}", flags, address(), error.getMessage());
        }
    }
}
