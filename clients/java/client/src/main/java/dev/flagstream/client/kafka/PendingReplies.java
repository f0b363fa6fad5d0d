package dev.flagstream.client.kafka;

import com.fasterxml.jackson.databind.JsonNode;
import dev.flagstream.client.ErrorKind;
import dev.flagstream.client.FlagstreamException;
import dev.flagstream.client.internal.Breaker;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;

/** Requests of one client that wait for replies, and its circuit breaker. */
final class PendingReplies implements ReplyReader.Sink {
    private final String client;
    private final int maxPending;
    private final MessageFormat format;
    private final Breaker breaker;
    private final Map<String, CompletableFuture<JsonNode>> waiting = new ConcurrentHashMap<>();
    private final AtomicInteger count = new AtomicInteger();
    private final AtomicLong numbers = new AtomicLong();
    private final AtomicLong late = new AtomicLong();
    private volatile boolean closed;

    PendingReplies(String client, int maxPending, MessageFormat format, Breaker breaker) {
        this.client = client;
        this.maxPending = maxPending;
        this.format = format;
        this.breaker = breaker;
    }

    /** Returns an id that no other request of any client has. */
    String nextId() {
        return client + ReplyReader.SEPARATOR + numbers.getAndIncrement();
    }

    long late() {
        return late.get();
    }

    int size() {
        return waiting.size();
    }

    /** Registers a request; throws if too many wait, or if the circuit breaker is open. */
    CompletableFuture<JsonNode> add(String id) {
        if (closed) {
            throw new FlagstreamException(ErrorKind.CONNECTION_FAILED, "the client is closed", null);
        }
        if (count.incrementAndGet() > maxPending) {
            count.decrementAndGet();
            throw new FlagstreamException(ErrorKind.RATE_LIMITED, maxPending + " requests wait for replies, which is the limit",
                    null);
        }
        try {
            breaker.enter();
        } catch (FlagstreamException open) {
            count.decrementAndGet();
            throw open;
        }
        CompletableFuture<JsonNode> reply = new CompletableFuture<>();
        waiting.put(id, reply);
        reply.whenComplete((message, failure) -> {
            count.decrementAndGet();
            // Cancelled by the caller: it was not removed before.
            if (waiting.remove(id) != null) {
                breaker.abandoned();
            }
        });
        return reply;
    }

    /** Fails a request, which counts against the service if the service may be the cause. */
    void fail(String id, FlagstreamException failure) {
        CompletableFuture<JsonNode> reply = waiting.remove(id);
        if (reply == null) {
            return;
        }
        if (failure.kind() == ErrorKind.TIMED_OUT || failure.kind() == ErrorKind.CONNECTION_FAILED) {
            breaker.failed();
        } else {
            breaker.abandoned();
        }
        reply.completeExceptionally(failure);
    }

    @Override
    public void reply(String id, byte[] message) {
        CompletableFuture<JsonNode> reply = waiting.remove(id);
        if (reply == null) {
            late.incrementAndGet();
            breaker.mayBeWell();
            return;
        }
        breaker.succeeded();
        JsonNode body;
        try {
            body = format.decode(message);
        } catch (FlagstreamException error) {
            reply.completeExceptionally(error);
            return;
        }
        if (body == null) {
            reply.completeExceptionally(new FlagstreamException(ErrorKind.INVALID_ANSWER,
                    "the reply is not JSON; for replies in Avro set the format AvroFormat", null));
        } else {
            reply.complete(body);
        }
    }

    void close() {
        closed = true;
        for (String id : waiting.keySet()) {
            CompletableFuture<JsonNode> reply = waiting.remove(id);
            if (reply != null) {
                reply.completeExceptionally(
                        new FlagstreamException(ErrorKind.CONNECTION_FAILED, "the client was closed", null));
            }
        }
    }
}
