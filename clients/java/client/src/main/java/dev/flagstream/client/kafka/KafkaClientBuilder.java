package dev.flagstream.client.kafka;

import dev.flagstream.client.CacheOptions;
import dev.flagstream.client.FlagstreamException;
import dev.flagstream.client.internal.Clock;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.Executor;
import java.util.concurrent.ForkJoinPool;
import java.util.function.Consumer;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/** Options of a {@link KafkaFeatureFlagClient}. */
public final class KafkaClientBuilder {
    private final Map<String, Object> properties = new HashMap<>();
    private @Nullable String environment = variable("ENVIRONMENT");
    private String requestsTopic = "feature-flag-evaluation-requests";
    private @Nullable String replyTopic;
    private String conversionsTopic = "feature-flag-conversions";
    private String updatesTopic = KafkaChanges.UPDATES_TOPIC;
    private MessageFormat format = MessageFormat.json();
    private Duration timeout = Duration.ofSeconds(5);
    private int maxPending = 10_000;
    private int failureThreshold = 5;
    private Duration recoveryTimeout = Duration.ofSeconds(60);
    private CacheOptions cache = CacheOptions.none();
    private boolean followChanges;
    private Executor executor = ForkJoinPool.commonPool();
    private @Nullable Consumer<? super FlagstreamException> onError;
    private @Nullable Supplier<@Nullable String> traceparent;
    private Clock clock = Clock.SYSTEM;

    KafkaClientBuilder() {
        String servers = variable("KAFKA_BOOTSTRAP_SERVERS");
        if (servers != null) {
            properties.put("bootstrap.servers", servers);
        }
    }

    /**
     * Sets where Kafka is. Default: {@code KAFKA_BOOTSTRAP_SERVERS}.
     *
     * @param servers such as {@code kafka:9092}
     * @return this builder
     */
    public KafkaClientBuilder bootstrapServers(String servers) {
        properties.put("bootstrap.servers", servers);
        return this;
    }

    /**
     * Adds properties of Kafka's clients, such as those for TLS and SASL. They are given to producer and consumers.
     *
     * @param more the properties
     * @return this builder
     */
    public KafkaClientBuilder properties(Map<String, ?> more) {
        properties.putAll(more);
        return this;
    }

    /**
     * Sets the environment of all calls whose subject names none. Default: {@code ENVIRONMENT}, else that of the service.
     *
     * @param environment the environment
     * @return this builder
     */
    public KafkaClientBuilder environment(@Nullable String environment) {
        this.environment = environment;
        return this;
    }

    /**
     * Sets the topic of requests. Default: {@code feature-flag-evaluation-requests}.
     *
     * @param topic the topic's name
     * @return this builder
     */
    public KafkaClientBuilder requestsTopic(String topic) {
        this.requestsTopic = topic;
        return this;
    }

    /**
     * Sets the topic of replies. It must exist, and its name must begin with a prefix that the service allows
     * ({@code feature-flag-replies} by default). Every process reads the whole topic, so give services with much traffic
     * topics of their own. Without a reply topic only requests without replies can be sent.
     *
     * @param topic the topic's name
     * @return this builder
     */
    public KafkaClientBuilder replyTopic(String topic) {
        this.replyTopic = topic;
        return this;
    }

    /**
     * Sets the topic of conversions. Default: {@code feature-flag-conversions}.
     *
     * @param topic the topic's name
     * @return this builder
     */
    public KafkaClientBuilder conversionsTopic(String topic) {
        this.conversionsTopic = topic;
        return this;
    }

    /**
     * Sets the topic of changes. Default: {@code feature-flag-updates}.
     *
     * @param topic the topic's name
     * @return this builder
     */
    public KafkaClientBuilder updatesTopic(String topic) {
        this.updatesTopic = topic;
        return this;
    }

    /**
     * Sets the format of requests and conversions. Replies and changes in JSON are always read. Default: JSON.
     *
     * @param format the format
     * @return this builder
     */
    public KafkaClientBuilder format(MessageFormat format) {
        this.format = format;
        return this;
    }

    /**
     * Sets the deadline of a call. Default: 5 s.
     *
     * @param timeout the time from the call to the reply
     * @return this builder
     */
    public KafkaClientBuilder timeout(Duration timeout) {
        if (timeout.isNegative() || timeout.isZero()) {
            throw new IllegalArgumentException("timeout: expected more than 0, got " + timeout);
        }
        this.timeout = timeout;
        return this;
    }

    /**
     * Sets how many requests may wait for replies; further ones fail at once. Default: 10,000.
     *
     * @param maxPending the number of requests
     * @return this builder
     */
    public KafkaClientBuilder maxPending(int maxPending) {
        if (maxPending < 1) {
            throw new IllegalArgumentException("maxPending: expected 1 or more, got " + maxPending);
        }
        this.maxPending = maxPending;
        return this;
    }

    /**
     * Sets the circuit breaker. Default: 5 failures and 60 s. A late reply ends the wait.
     *
     * @param failureThreshold requests without a reply in a row that open it
     * @param recoveryTimeout how long it stays open before one request is let through
     * @return this builder
     */
    public KafkaClientBuilder circuitBreaker(int failureThreshold, Duration recoveryTimeout) {
        if (failureThreshold < 1) {
            throw new IllegalArgumentException("failureThreshold: expected 1 or more, got " + failureThreshold);
        }
        this.failureThreshold = failureThreshold;
        this.recoveryTimeout = recoveryTimeout;
        return this;
    }

    /**
     * Sets where answers are cached. Default: nowhere, or in memory with {@link #followChanges}.
     *
     * @param cache the layers
     * @return this builder
     */
    public KafkaClientBuilder cache(CacheOptions cache) {
        this.cache = cache;
        return this;
    }

    /**
     * Caches answers in memory.
     *
     * @param ttl the lifetime of an answer
     * @return this builder
     */
    public KafkaClientBuilder cacheTtl(Duration ttl) {
        return cache(CacheOptions.memory(ttl));
    }

    /**
     * Sets whether the client reads the topic of changes and stops using what a change made outdated. Answers are cached in
     * memory unless {@link #cache} says otherwise. Default: {@code false}.
     *
     * @param followChanges whether to read the topic
     * @return this builder
     */
    public KafkaClientBuilder followChanges(boolean followChanges) {
        this.followChanges = followChanges;
        return this;
    }

    /**
     * Sets where callers of asynchronous methods continue. Default: the common pool.
     *
     * @param executor the executor
     * @return this builder
     */
    public KafkaClientBuilder executor(Executor executor) {
        this.executor = executor;
        return this;
    }

    /**
     * Sets what is called with each failure that a default hides. Default: a warning in the log.
     *
     * @param onError receives the failure, and must not block
     * @return this builder
     */
    public KafkaClientBuilder onError(Consumer<? super FlagstreamException> onError) {
        this.onError = onError;
        return this;
    }

    /**
     * Sets what gives the W3C {@code traceparent} of each message, which events and replies carry.
     *
     * @param traceparent called on the thread that sends; {@code null} for no header
     * @return this builder
     */
    public KafkaClientBuilder traceparent(Supplier<@Nullable String> traceparent) {
        this.traceparent = traceparent;
        return this;
    }

    /**
     * Returns the client. It connects in the background.
     *
     * @return the client
     * @throws IllegalArgumentException if no servers are set
     */
    public KafkaFeatureFlagClient build() {
        if (properties.get("bootstrap.servers") == null) {
            throw new IllegalArgumentException("bootstrapServers: expected HOST:PORT, or the variable KAFKA_BOOTSTRAP_SERVERS");
        }
        CacheOptions layers = cache.isOff() && followChanges ? CacheOptions.memory() : cache;
        return new KafkaFeatureFlagClient(new KafkaOptions(Map.copyOf(properties), environment, requestsTopic, replyTopic,
                conversionsTopic, updatesTopic, format, timeout, maxPending, failureThreshold, recoveryTimeout, layers,
                followChanges, executor, onError, traceparent, clock));
    }

    /** Replaces the clock, for tests. */
    KafkaClientBuilder clock(Clock given) {
        this.clock = given;
        return this;
    }

    private static @Nullable String variable(String name) {
        String value = System.getenv(name);
        return value == null || value.isEmpty() ? null : value;
    }
}
