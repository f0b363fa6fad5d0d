package dev.flagstream.client.kafka;

import com.fasterxml.jackson.databind.JsonNode;
import dev.flagstream.client.Conversion;
import dev.flagstream.client.ErrorKind;
import dev.flagstream.client.Evaluation;
import dev.flagstream.client.FlagQuery;
import dev.flagstream.client.FlagstreamException;
import dev.flagstream.client.Subject;
import dev.flagstream.client.internal.AbstractFlags;
import dev.flagstream.client.internal.AnswerCache;
import dev.flagstream.client.internal.Answers;
import dev.flagstream.client.internal.Breaker;
import dev.flagstream.client.internal.Conversions;
import dev.flagstream.client.internal.Futures;
import dev.flagstream.client.internal.Timers;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.Collection;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/**
 * A client that sends requests through Kafka. {@code evaluate} produces a request with {@code reply-to} and
 * {@code correlation-id}, and completes when the reply arrives, or fails at the deadline. One consumer reads the reply topic
 * for all clients of the process.
 *
 * <pre>{@code
 * try (KafkaFeatureFlagClient flags = KafkaFeatureFlagClient.builder().bootstrapServers("kafka:9092")
 *         .replyTopic("feature-flag-replies-shop").environment("production").build()) {
 *     String theme = flags.evaluateFlag("theme-variant", "user-456", "light");
 * }
 * }</pre>
 */
public final class KafkaFeatureFlagClient extends AbstractFlags {
    private static final int MAX_NAME_BYTES = 255;
    private static final int MAX_FLAGS_COUNT = 1_000;
    private static final String REQUEST = "EvaluationRequest";
    private static final String CONVERSION = "Conversion";
    /** Wait between two requests of a call that needs a version which the service does not have yet. */
    private static final long VERSION_RETRY_NANOS = TimeUnit.MILLISECONDS.toNanos(100);

    /** Time for which a message without a reply waits for Kafka before it is given to Kafka's producer. */
    private static final Duration READY_TIMEOUT = Duration.ofMinutes(2);

    private final KafkaOptions options;
    /** Prefix of this client's correlation ids. */
    private final String id = HexFormat.of().toHexDigits(ThreadLocalRandom.current().nextLong());
    private final Timers timers = new Timers("flagstream-timers");
    private final Breaker breaker;
    private final RequestSender sender;
    private final PendingReplies pending;
    private final @Nullable ReplyReader reader;
    private final @Nullable KafkaChanges changes;
    private volatile boolean closed;

    KafkaFeatureFlagClient(KafkaOptions options) {
        super(options.environment(), new AnswerCache(options.cache(), options.clock()), options.onError());
        this.options = options;
        breaker = new Breaker(options.failureThreshold(), options.recoveryTimeout(), options.clock());
        pending = new PendingReplies(id, options.maxPending(), options.format(), breaker);
        sender = new RequestSender(KafkaProperties.ofProducer(options.properties(), options.timeout()),
                options.traceparent());
        sender.ready(options.requestsTopic());
        String replyTopic = options.replyTopic();
        reader = replyTopic == null ? null
                : ReplyReader.acquire(KafkaProperties.ofConsumer(options.properties()), replyTopic, id, pending);
        changes = !options.followChanges() ? null : new KafkaChanges(options.properties(), options.updatesTopic(),
                options.format(), this::invalidate, this::announceEarlier, this::clearCache, () -> following(true));
    }

    /**
     * Returns a builder.
     *
     * @return the builder
     */
    public static KafkaClientBuilder builder() {
        return new KafkaClientBuilder();
    }

    /**
     * Sends a request without waiting for an answer, for services that read the results from the events topic.
     *
     * @param queries what is asked, at least one flag
     * @param subject whom the flags are evaluated for
     * @return the request's id, which its events carry, when Kafka has the request; or a {@link FlagstreamException}
     */
    public CompletableFuture<String> request(Collection<FlagQuery> queries, Subject subject) {
        String requestId = pending.nextId();
        try {
            Map<String, Object> body = body(List.copyOf(queries), inEnvironment(subject), requestId);
            return afterReady(options.requestsTopic(), () -> send(options.requestsTopic(), REQUEST, subject.userId(), body, Map.of()))
                    .thenApply(sent -> requestId);
        } catch (FlagstreamException error) {
            return CompletableFuture.failedFuture(error);
        }
    }

    /**
     * Waits until requests can be sent and replies will be read. Without it, the first evaluations wait.
     *
     * @param timeout how long
     * @return whether it is so
     */
    public boolean awaitReady(Duration timeout) {
        try {
            ready().get(timeout.toNanos(), TimeUnit.NANOSECONDS);
            return true;
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
            return false;
        } catch (ExecutionException | TimeoutException notReady) {
            return false;
        }
    }

    /**
     * Returns how many replies arrived after their deadline.
     *
     * @return the number since the client was created
     */
    public long lateReplies() {
        return pending.late();
    }

    /**
     * Returns how many requests wait for a reply.
     *
     * @return the number
     */
    public int pendingRequests() {
        return pending.size();
    }

    @Override
    public CompletableFuture<Evaluation> evaluateAsync(FlagQuery query, Subject subject) {
        // Callers continue on a thread of theirs: the one that reads replies must not wait.
        CompletableFuture<Evaluation> answer = super.evaluateAsync(query, subject);
        return Futures.linked(answer, answer.thenApplyAsync(whole -> whole, options.executor()));
    }

    @Override
    public CompletableFuture<Map<String, Evaluation>> evaluateManyAsync(Collection<FlagQuery> queries, Subject subject) {
        CompletableFuture<Map<String, Evaluation>> answers = super.evaluateManyAsync(queries, subject);
        return Futures.linked(answers, answers.thenApplyAsync(whole -> whole, options.executor()));
    }

    @Override
    public Evaluation evaluate(FlagQuery query, Subject subject) {
        return Futures.join(super.evaluateAsync(query, subject));
    }

    @Override
    public Map<String, Evaluation> evaluateMany(Collection<FlagQuery> queries, Subject subject) {
        return Futures.join(super.evaluateManyAsync(queries, subject));
    }

    @Override
    protected CompletableFuture<Evaluation> ask(FlagQuery query, Subject subject, long newest) {
        return Futures.map(askMany(List.of(query), subject, newest), answers -> answers.get(query.flagName()));
    }

    @Override
    protected CompletableFuture<Map<String, Evaluation>> askMany(List<FlagQuery> queries, Subject subject, long newest) {
        long minVersion = queries.stream().mapToLong(FlagQuery::minVersion).max().orElse(0);
        long deadline = System.nanoTime() + options.timeout().toNanos();
        CompletableFuture<JsonNode> reply = exchange(queries, subject, deadline);
        return Futures.linked(reply, reply.thenCompose(body -> checked(queries, subject, body, minVersion, deadline)));
    }

    @Override
    protected CompletableFuture<Void> expose(FlagQuery query, Subject subject) {
        return request(List.of(query), subject).thenAccept(sent -> { });
    }

    @Override
    protected CompletableFuture<Void> convert(Conversion conversion, Subject subject) {
        Map<String, @Nullable Object> body = new LinkedHashMap<>();
        body.put("experiment", conversion.experiment());
        if (subject.environment() != null) {
            body.put("environment", subject.environment());
        }
        body.putAll(Conversions.members(conversion, subject));
        if (options.format() instanceof AvroFormat) {
            body.put("occurred_at", Instant.parse(String.valueOf(body.get("occurred_at"))));
        }
        return afterReady(options.conversionsTopic(), () -> send(options.conversionsTopic(), CONVERSION, subject.userId(), body, Map.of()));
    }

    @Override
    protected CompletableFuture<Void> sendEvent(String metric, Subject subject, @Nullable Double value,
            Map<String, ? extends @Nullable Object> metadata) {
        String detail = "Kafka needs the name of the experiment: use trackConversion, or a client over HTTP";
        return CompletableFuture.failedFuture(new FlagstreamException(ErrorKind.INVALID_REQUEST, detail, null));
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
        closed = true;
        if (changes != null) {
            changes.close();
        }
        if (reader != null) {
            reader.release(id);
        }
        pending.close();
        sender.close();
        timers.close();
        cache.close();
    }

    @Override
    protected String address() {
        return String.valueOf(options.properties().get("bootstrap.servers"));
    }

    /** Sends a request and awaits its reply. */
    private CompletableFuture<JsonNode> exchange(List<FlagQuery> queries, Subject subject, long deadline) {
        String correlationId = pending.nextId();
        Map<String, Object> body;
        CompletableFuture<JsonNode> reply;
        try {
            if (reader == null) {
                throw invalid("no reply topic is set: set replyTopic, or use request");
            }
            body = body(queries, subject, correlationId);
            reply = pending.add(correlationId);
        } catch (FlagstreamException error) {
            return CompletableFuture.failedFuture(error);
        }
        Duration left = Duration.ofNanos(Math.max(0, deadline - System.nanoTime()));
        RequestSender.limit(timers, reply, left, () -> pending.fail(correlationId, timedOut()));
        Map<String, String> headers = Map.of("reply-to", String.valueOf(options.replyTopic()), "correlation-id", correlationId);
        CompletableFuture<Void> ready = ready();
        Runnable sending = () -> {
            if (!reply.isDone()) {
                send(options.requestsTopic(), REQUEST, subject.userId(), body, headers).whenComplete((sent, failure) -> {
                    if (failure != null) {
                        pending.fail(correlationId, Futures.failureOf(failure));
                    }
                });
            }
        };
        if (ready.isDone()) {
            sending.run();
        } else {
            ready.thenRunAsync(sending, options.executor());
        }
        return reply;
    }

    /** Reads the reply. Kafka's requests cannot wait for a version, so a reply with an older one is requested again. */
    private CompletableFuture<Map<String, Evaluation>> checked(List<FlagQuery> queries, Subject subject, JsonNode reply,
            long minVersion, long deadline) {
        if (reply.path("flags_version").asLong() >= minVersion) {
            return CompletableFuture.completedFuture(Answers.readMany(reply, queries));
        }
        if (deadline - System.nanoTime() <= VERSION_RETRY_NANOS || closed) {
            String detail = "flags version " + minVersion + " is not in force yet; the current version is "
                    + reply.path("flags_version").asText();
            return CompletableFuture.failedFuture(new FlagstreamException(ErrorKind.UNAVAILABLE, detail, null));
        }
        CompletableFuture<Void> later = new CompletableFuture<>();
        timers.after(VERSION_RETRY_NANOS, () -> later.complete(null));
        return later.thenComposeAsync(now -> exchange(queries, subject, deadline), options.executor())
                .thenCompose(next -> checked(queries, subject, next, minVersion, deadline));
    }

    private CompletableFuture<Void> send(String topic, String record, @Nullable String key,
            Map<String, ? extends @Nullable Object> body, Map<String, String> headers) {
        try {
            return sender.send(topic, key, options.format().encode(topic, record, body), headers);
        } catch (FlagstreamException error) {
            return CompletableFuture.failedFuture(error);
        }
    }

    /** Sends something that needs no reply, as soon as Kafka is reachable. So many may wait for that, and so long. */
    private CompletableFuture<Void> afterReady(String topic, Supplier<CompletableFuture<Void>> sending) {
        CompletableFuture<Void> ready = sender.ready(topic);
        if (ready.isDone()) {
            return sending.get();
        }
        if (ready.getNumberOfDependents() >= options.maxPending()) {
            return CompletableFuture.failedFuture(new FlagstreamException(ErrorKind.RATE_LIMITED,
                    options.maxPending() + " messages wait for Kafka, which is unreachable: " + sender.problem(), null));
        }
        return ready.copy().orTimeout(READY_TIMEOUT.toSeconds(), TimeUnit.SECONDS).exceptionally(failure -> {
            if (failure instanceof TimeoutException) {
                throw new FlagstreamException(ErrorKind.TIMED_OUT, "Kafka is unreachable: " + sender.problem(), failure);
            }
            throw Futures.failureOf(failure);
        }).thenComposeAsync(now -> sending.get(), options.executor());
    }

    private CompletableFuture<Void> ready() {
        CompletableFuture<Void> sending = sender.ready(options.requestsTopic());
        return reader == null ? sending : CompletableFuture.allOf(reader.ready(), sending);
    }

    private FlagstreamException timedOut() {
        String problem = reader == null || reader.problem() == null ? sender.problem() : reader.problem();
        String why = problem == null ? "" : ": " + problem;
        return new FlagstreamException(ErrorKind.TIMED_OUT, "no reply within " + options.timeout() + why, null);
    }

    private Map<String, Object> body(List<FlagQuery> queries, Subject subject, String requestId) {
        if (queries.isEmpty() || queries.size() > MAX_FLAGS_COUNT) {
            throw invalid("flag_names: expected 1 to " + MAX_FLAGS_COUNT + " flags, got " + queries.size());
        }
        for (FlagQuery query : queries) {
            int length = query.flagName().getBytes(StandardCharsets.UTF_8).length;
            // The service would write a dead letter, and no reply.
            if (length == 0 || length > MAX_NAME_BYTES) {
                throw invalid("flag_name: expected a name of 1 to " + MAX_NAME_BYTES + " bytes, got " + length);
            }
        }
        Map<String, Object> body = new LinkedHashMap<>();
        body.put("request_id", requestId);
        body.putAll(queries.size() == 1 ? Answers.one(queries.get(0), subject) : Answers.many(queries, subject));
        Instant now = Instant.now().truncatedTo(ChronoUnit.MICROS);
        body.put("requested_at", options.format() instanceof AvroFormat ? now : now.toString());
        return body;
    }

    private static FlagstreamException invalid(String detail) {
        return new FlagstreamException(ErrorKind.INVALID_REQUEST, detail, null);
    }
}
