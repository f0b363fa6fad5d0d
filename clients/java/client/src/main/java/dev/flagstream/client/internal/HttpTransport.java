package dev.flagstream.client.internal;

import com.fasterxml.jackson.databind.JsonNode;
import dev.flagstream.client.ErrorKind;
import dev.flagstream.client.FlagstreamException;
import java.io.IOException;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.HttpTimeoutException;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ScheduledFuture;
import org.jspecify.annotations.Nullable;

/** Calls the service: attempts under a deadline, with retries and a circuit breaker. */
public final class HttpTransport implements AutoCloseable {
    private static final int OK = 200;
    private static final int ACCEPTED = 202;
    private static final int FIRST_SERVER_ERROR = 500;

    private final HttpSettings settings;
    private final Breaker breaker;
    private final Clock clock;
    private final Timers timers;
    private final HttpClient http;
    private volatile boolean closed;

    /** Connects with the first call. */
    public HttpTransport(HttpSettings settings, Breaker breaker, Clock clock, Timers timers) {
        this.settings = settings;
        this.breaker = breaker;
        this.clock = clock;
        this.timers = timers;
        HttpClient given = settings.httpClient();
        http = given != null ? given : HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1)
                .followRedirects(HttpClient.Redirect.NEVER).connectTimeout(settings.attemptTimeout()).build();
    }

    /** A call with all its attempts. */
    private final class Call {
        final String path;
        final byte[] body;
        /** The version that every attempt requires, or 0. */
        final long minVersion;
        final long deadline = clock.nanos() + settings.timeout().toNanos();
        final CompletableFuture<JsonNode> result = new CompletableFuture<>();

        Call(String path, byte[] body, long minVersion) {
            this.path = path;
            this.body = body;
            this.minVersion = minVersion;
        }
    }

    /**
     * Posts JSON.
     *
     * @param minVersion the version that the answer needs, or 0
     * @param newest the newest announced version: the first attempt waits for it, because an instance that does not have it
     *     yet would give an outdated answer. If that takes too long, such an answer is better than none
     */
    public CompletableFuture<JsonNode> post(String path, Object body, long minVersion, long newest) {
        byte[] encoded;
        try {
            encoded = Json.encode(body);
        } catch (FlagstreamException error) {
            return CompletableFuture.failedFuture(error);
        }
        Call call = new Call(path, encoded, minVersion);
        attempt(call, 0, Math.max(minVersion, newest));
        return call.result;
    }

    /** The client that the stream of changes uses as well. */
    HttpClient http() {
        return http;
    }

    /** Returns a request with the headers of all calls. */
    HttpRequest.Builder request(String path) {
        HttpRequest.Builder request = HttpRequest.newBuilder(settings.address(path)).header("User-Agent", settings.userAgent());
        String token = settings.token();
        if (token != null) {
            request.header("Authorization", "Bearer " + token);
        }
        return request;
    }

    @Override
    public void close() {
        closed = true;
    }

    private void attempt(Call call, int number, long wanted) {
        try {
            if (closed) {
                throw new FlagstreamException(ErrorKind.CONNECTION_FAILED, "the client is closed", null);
            }
            breaker.enter();
        } catch (FlagstreamException error) {
            call.result.completeExceptionally(error);
            return;
        }
        long timeout = Math.min(settings.attemptTimeout().toNanos(), call.deadline - clock.nanos());
        send(call, wanted, timeout).whenComplete((response, failure) -> {
            if (call.result.isDone()) {
                breaker.abandoned();
                return;
            }
            FlagstreamException error = failure == null ? judge(call, response) : failed(failure);
            if (error != null) {
                retry(call, number, error);
            }
        });
    }

    private CompletableFuture<HttpResponse<byte[]>> send(Call call, long wanted, long timeout) {
        HttpRequest.Builder request = request(call.path).header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofByteArray(call.body));
        if (wanted > 0) {
            request.header("If-Flags-Version", Long.toString(wanted));
        }
        if (settings.traceparent() != null) {
            String traceparent = settings.traceparent().get();
            if (traceparent != null) {
                request.header("traceparent", traceparent);
            }
        }
        CompletableFuture<HttpResponse<byte[]>> sent = http.sendAsync(request.build(), info -> new LimitedBody());
        // HttpRequest's own timeout ends with the headers, this one with the body.
        ScheduledFuture<?> timer;
        CompletableFuture<HttpResponse<byte[]>> answered = sent.copy();
        try {
            timer = timers.after(timeout, () -> {
                if (answered.completeExceptionally(new HttpTimeoutException("no answer within "
                        + timeout / 1_000_000 + " ms"))) {
                    sent.cancel(true);
                }
            });
        } catch (RejectedExecutionException closing) {
            return sent;
        }
        call.result.whenComplete((result, failure) -> {
            if (call.result.isCancelled()) {
                sent.cancel(true);
            }
        });
        return answered.whenComplete((response, failure) -> timer.cancel(false));
    }

    /** Completes the call with a good answer, or returns the error that the answer is. */
    private @Nullable FlagstreamException judge(Call call, HttpResponse<byte[]> response) {
        int status = response.statusCode();
        if (status >= FIRST_SERVER_ERROR) {
            breaker.failed();
        } else {
            breaker.succeeded();
        }
        if (status != OK && status != ACCEPTED) {
            return Problems.of(status, response.headers(), response.body());
        }
        try {
            call.result.complete(Json.decode(response.body(), status));
            return null;
        } catch (FlagstreamException error) {
            return error;
        }
    }

    private FlagstreamException failed(Throwable failure) {
        Throwable cause = failure instanceof CompletionException && failure.getCause() != null ? failure.getCause() : failure;
        for (Throwable inner = cause; inner != null; inner = inner.getCause()) {
            if (inner instanceof TooLargeException) {
                breaker.abandoned();
                return new FlagstreamException(ErrorKind.INVALID_ANSWER, "the answer is too large", OK, List.of(), null, cause);
            }
        }
        breaker.failed();
        ErrorKind kind = cause instanceof HttpTimeoutException ? ErrorKind.TIMED_OUT : ErrorKind.CONNECTION_FAILED;
        String detail = cause.getMessage() == null ? cause.getClass().getSimpleName() : cause.getMessage();
        return new FlagstreamException(kind, detail, cause instanceof IOException ? cause : failure);
    }

    private void retry(Call call, int number, FlagstreamException error) {
        long pause = pause(number, error);
        boolean isLate = clock.nanos() + pause - call.deadline >= 0;
        if (!error.kind().isPassing() || number >= settings.maxRetries() || isLate || breaker.isOpen()) {
            call.result.completeExceptionally(error);
            return;
        }
        try {
            timers.after(pause, () -> attempt(call, number + 1, call.minVersion));
        } catch (RejectedExecutionException closing) {
            call.result.completeExceptionally(error);
        }
    }

    /** Exponential backoff with full jitter. */
    private long pause(int number, FlagstreamException error) {
        long most = settings.backoffBase().toNanos();
        for (int i = 0; i < number && most < settings.backoffCap().toNanos(); i++) {
            most *= 2;
        }
        long after = error.retryAfter() == null ? 0 : error.retryAfter().toNanos();
        return after + Timers.partOf(Math.min(most, settings.backoffCap().toNanos()));
    }
}
