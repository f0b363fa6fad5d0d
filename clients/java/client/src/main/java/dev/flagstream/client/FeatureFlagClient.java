package dev.flagstream.client;

import com.fasterxml.jackson.databind.JsonNode;
import dev.flagstream.client.internal.AbstractFlags;
import dev.flagstream.client.internal.AnswerCache;
import dev.flagstream.client.internal.Answers;
import dev.flagstream.client.internal.Breaker;
import dev.flagstream.client.internal.ChangeStream;
import dev.flagstream.client.internal.Clock;
import dev.flagstream.client.internal.Conversions;
import dev.flagstream.client.internal.Futures;
import dev.flagstream.client.internal.HttpSettings;
import dev.flagstream.client.internal.HttpTransport;
import dev.flagstream.client.internal.Timers;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.function.Consumer;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/**
 * A client that calls the service over HTTP. Create one for the whole process, use it from any thread, and close it.
 *
 * <pre>{@code
 * try (FeatureFlagClient flags = FeatureFlagClient.builder().url("http://flagstream:8082").environment("production").build()) {
 *     if (flags.isEnabled("new-ui-enabled", "user-123")) {
 *         ...
 *     }
 * }
 * }</pre>
 */
public final class FeatureFlagClient extends AbstractFlags {
    private static final String ONE_PATH = "/api/v1/feature-flags/evaluate";
    private static final String MANY_PATH = "/api/v1/feature-flags/evaluate/bulk";

    private final HttpSettings settings;
    private final HttpTransport transport;
    private final Timers timers;
    private final @Nullable ChangeStream changes;

    private FeatureFlagClient(HttpSettings settings, Builder options, AnswerCache cache, Clock clock) {
        super(settings.environment(), cache, options.onError);
        this.settings = settings;
        timers = new Timers("flagstream-timers");
        Breaker breaker = new Breaker(options.failureThreshold, options.recoveryTimeout, clock);
        transport = new HttpTransport(settings, breaker, clock, timers);
        changes = !options.followChanges ? null : new ChangeStream(transport, breaker, timers, settings, this::invalidate,
                version -> begin(null, version), this::following);
        if (changes != null) {
            changes.start();
        }
    }

    /**
     * Returns a builder.
     *
     * @return the builder
     */
    public static Builder builder() {
        return new Builder();
    }

    /**
     * Returns a client for {@code CONFIG_SERVICE_URL} and {@code ENVIRONMENT}, without a cache.
     *
     * @return the client
     */
    public static FeatureFlagClient fromEnvironment() {
        return builder().build();
    }

    @Override
    protected CompletableFuture<Evaluation> ask(FlagQuery query, Subject subject, long newest) {
        CompletableFuture<JsonNode> answer =
                transport.post(ONE_PATH, Answers.one(query, subject), query.minVersion(), newest);
        return Futures.map(answer, Answers::readOne);
    }

    @Override
    protected CompletableFuture<Map<String, Evaluation>> askMany(List<FlagQuery> queries, Subject subject, long newest) {
        long minVersion = queries.stream().mapToLong(FlagQuery::minVersion).max().orElse(0);
        CompletableFuture<JsonNode> answer =
                transport.post(MANY_PATH, Answers.many(queries, subject), minVersion, newest);
        return Futures.map(answer, body -> Answers.readMany(body, queries));
    }

    @Override
    protected CompletableFuture<Void> convert(Conversion conversion, Subject subject) {
        String path = "/api/v1/experiments/" + encoded(conversion.experiment()) + "/conversions" + in(subject);
        return transport.post(path, Conversions.members(conversion, subject), 0, 0).thenAccept(accepted -> { });
    }

    @Override
    protected CompletableFuture<Void> sendEvent(String metric, Subject subject, @Nullable Double value,
            Map<String, ? extends @Nullable Object> metadata) {
        Map<String, Object> context = new LinkedHashMap<>();
        if (subject.userId() != null) {
            context.put("targetingKey", subject.userId());
        }
        Map<String, @Nullable Object> details = new LinkedHashMap<>(metadata);
        // A retry after a lost answer must not count twice.
        details.put("eventId", UUID.randomUUID().toString());
        if (value != null) {
            details.put("value", value);
        }
        Map<String, Object> body =
                Map.of("trackingEventName", metric, "context", context, "trackingEventDetails", details);
        return transport.post("/ofrep/v1/track" + in(subject), body, 0, 0).thenAccept(accepted -> { });
    }

    @Override
    public boolean isFollowing() {
        return changes != null && changes.isFollowing();
    }

    @Override
    public boolean awaitFollowing(Duration timeout) {
        return changes != null && changes.awaitFollowing(timeout);
    }

    @Override
    public void close() {
        if (changes != null) {
            changes.close();
        }
        transport.close();
        timers.close();
        cache.close();
    }

    @Override
    protected String address() {
        return settings.baseUrl().toString();
    }

    private static String in(Subject subject) {
        String environment = subject.environment();
        return environment == null ? "" : "?environment=" + encoded(environment);
    }

    private static String encoded(String part) {
        return URLEncoder.encode(part, StandardCharsets.UTF_8).replace("+", "%20");
    }

    /** Options of a {@link FeatureFlagClient}. */
    public static final class Builder {
        private @Nullable String url;
        private @Nullable String environment;
        private @Nullable String token;
        private Duration timeout = Duration.ofSeconds(5);
        private Duration attemptTimeout = Duration.ofSeconds(3);
        private int maxRetries = 2;
        private Duration backoffBase = Duration.ofMillis(100);
        private Duration backoffCap = Duration.ofSeconds(2);
        private int failureThreshold = 5;
        private Duration recoveryTimeout = Duration.ofSeconds(60);
        private CacheOptions cache = CacheOptions.none();
        private boolean followChanges;
        private @Nullable HttpClient httpClient;
        private @Nullable Consumer<? super FlagstreamException> onError;
        private @Nullable Supplier<@Nullable String> traceparent;
        private Clock clock = Clock.SYSTEM;
        private Map<String, String> variables = System.getenv();

        private Builder() {}

        /**
         * Sets the address of the service. Default: {@code CONFIG_SERVICE_URL}.
         *
         * @param url such as {@code http://flagstream:8082}
         * @return this builder
         */
        public Builder url(String url) {
            this.url = url;
            return this;
        }

        /**
         * Sets the environment of all calls whose subject names none. Default: {@code ENVIRONMENT}, else that of the service.
         *
         * @param environment the environment
         * @return this builder
         */
        public Builder environment(@Nullable String environment) {
            this.environment = environment;
            return this;
        }

        /**
         * Sets the API token. Default: none, an anonymous caller.
         *
         * @param token a token ({@code fst_…})
         * @return this builder
         */
        public Builder token(@Nullable String token) {
            this.token = token;
            return this;
        }

        /**
         * Sets the limit of a call with all its attempts. Default: 5 s.
         *
         * @param timeout the limit
         * @return this builder
         */
        public Builder timeout(Duration timeout) {
            this.timeout = positive("timeout", timeout);
            return this;
        }

        /**
         * Sets the limit of one attempt. Keep it above the 2 s that the service may wait for a version of its flags.
         * Default: 3 s.
         *
         * @param attemptTimeout the limit
         * @return this builder
         */
        public Builder attemptTimeout(Duration attemptTimeout) {
            this.attemptTimeout = positive("attemptTimeout", attemptTimeout);
            return this;
        }

        /**
         * Sets how often a call is retried after a failure that may pass. Default: 2.
         *
         * @param maxRetries the number of retries
         * @return this builder
         */
        public Builder maxRetries(int maxRetries) {
            this.maxRetries = atLeast("maxRetries", maxRetries, 0);
            return this;
        }

        /**
         * Sets the times between attempts: the first retry waits a random part of {@code base}, each later one of twice as
         * much, at most of {@code cap}. Default: 100 ms and 2 s.
         *
         * @param base the longest wait before the first retry
         * @param cap the longest wait of all
         * @return this builder
         */
        public Builder backoff(Duration base, Duration cap) {
            this.backoffBase = positive("base", base);
            this.backoffCap = positive("cap", cap);
            return this;
        }

        /**
         * Sets the circuit breaker. Default: 5 failures and 60 s.
         *
         * @param failureThreshold failed attempts in a row that open it
         * @param recoveryTimeout how long it stays open before one attempt is let through
         * @return this builder
         */
        public Builder circuitBreaker(int failureThreshold, Duration recoveryTimeout) {
            this.failureThreshold = atLeast("failureThreshold", failureThreshold, 1);
            this.recoveryTimeout = recoveryTimeout;
            return this;
        }

        /**
         * Sets where answers are cached. Default: nowhere, or in memory with {@link #followChanges}.
         *
         * @param cache the layers
         * @return this builder
         */
        public Builder cache(CacheOptions cache) {
            this.cache = cache;
            return this;
        }

        /**
         * Caches answers in memory.
         *
         * @param ttl the lifetime of an answer
         * @return this builder
         */
        public Builder cacheTtl(Duration ttl) {
            return cache(CacheOptions.memory(ttl));
        }

        /**
         * Sets whether the client reads the stream {@code /api/v1/changes} and stops using what a change made outdated. The
         * token needs the scope {@code read}. Answers are cached in memory unless {@link #cache} says otherwise. Default:
         * {@code false}.
         *
         * @param followChanges whether to read the stream
         * @return this builder
         */
        public Builder followChanges(boolean followChanges) {
            this.followChanges = followChanges;
            return this;
        }

        /**
         * Sets the HTTP client, for your own TLS settings, proxies or threads. It must not follow redirects.
         *
         * @param httpClient the HTTP client
         * @return this builder
         */
        public Builder httpClient(HttpClient httpClient) {
            this.httpClient = httpClient;
            return this;
        }

        /**
         * Sets what is called with each failure that a default hides. Default: a warning in the log.
         *
         * @param onError receives the failure, and must not block
         * @return this builder
         */
        public Builder onError(Consumer<? super FlagstreamException> onError) {
            this.onError = onError;
            return this;
        }

        /**
         * Sets what gives the W3C {@code traceparent} of each call, which events carry.
         *
         * @param traceparent called on the thread of the caller; {@code null} for no header
         * @return this builder
         */
        public Builder traceparent(Supplier<@Nullable String> traceparent) {
            this.traceparent = traceparent;
            return this;
        }

        /**
         * Returns the client. It connects with the first call, or at once to follow changes.
         *
         * @return the client
         * @throws IllegalArgumentException if an option is out of range
         */
        public FeatureFlagClient build() {
            CacheOptions layers = cache.isOff() && followChanges ? CacheOptions.memory() : cache;
            HttpSettings settings = new HttpSettings(Urls.parse(url, variables), orVariable(environment, "ENVIRONMENT"), token,
                    timeout, attemptTimeout, maxRetries, backoffBase, backoffCap, httpClient, traceparent,
                    "flagstream-client-java/0.1.0");
            return new FeatureFlagClient(settings, this, new AnswerCache(layers, clock), clock);
        }

        /** Replaces the clock, for tests. */
        Builder clock(Clock given) {
            this.clock = given;
            return this;
        }

        /** Replaces the environment variables, for tests. */
        Builder variables(Map<String, String> given) {
            this.variables = given;
            return this;
        }

        private @Nullable String orVariable(@Nullable String given, String variable) {
            String value = given != null ? given : variables.get(variable);
            return value == null || value.isEmpty() ? null : value;
        }

        private static Duration positive(String name, Duration value) {
            if (value.isNegative() || value.isZero()) {
                throw new IllegalArgumentException(name + ": expected more than 0, got " + value);
            }
            return value;
        }

        private static int atLeast(String name, int value, int least) {
            if (value < least) {
                throw new IllegalArgumentException(name + ": expected " + least + " or more, got " + value);
            }
            return value;
        }
    }
}
