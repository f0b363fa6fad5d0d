package dev.flagstream.client.internal;

import dev.flagstream.client.FlagChange;
import java.net.URLEncoder;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Flow;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.function.LongConsumer;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** Follows the stream of changes: reconnects, and resumes where it stopped. */
public final class ChangeStream implements AutoCloseable {
    /** Silence after which a connection counts as broken. The service writes at least every 15 s. */
    private static final Duration SILENCE = Duration.ofSeconds(45);
    private static final Duration RETRY_BASE = Duration.ofSeconds(1);
    private static final Duration RETRY_CAP = Duration.ofSeconds(30);
    private static final Logger LOG = LoggerFactory.getLogger("dev.flagstream.client");

    private final HttpTransport transport;
    private final Breaker breaker;
    private final Timers timers;
    private final Duration connectTimeout;
    private final String path;
    private final ChangeParser parser;
    private final Consumer<Boolean> followers;
    private final Object lock = new Object();
    private boolean following;
    private boolean closed;
    private int failures;
    private @Nullable Connection connection;

    /** Creates a stream that {@link #start} opens. */
    public ChangeStream(HttpTransport transport, Breaker breaker, Timers timers, HttpSettings settings,
            Consumer<FlagChange> changes, LongConsumer begin, Consumer<Boolean> followers) {
        this.followers = followers;
        this.transport = transport;
        this.breaker = breaker;
        this.timers = timers;
        this.connectTimeout = settings.attemptTimeout();
        String environment = settings.environment();
        path = "/api/v1/changes" + (environment == null ? ""
                : "?environment=" + URLEncoder.encode(environment, StandardCharsets.UTF_8));
        parser = new ChangeParser(changes, begin);
    }

    /** Connects, and reconnects until it is closed. */
    public void start() {
        Connection next;
        synchronized (lock) {
            if (closed) {
                return;
            }
            next = new Connection();
            connection = next;
        }
        next.open();
    }

    /** Returns whether the stream is connected. */
    public boolean isFollowing() {
        synchronized (lock) {
            return following;
        }
    }

    /** Waits until the stream is connected. */
    public boolean awaitFollowing(Duration timeout) {
        long deadline = System.nanoTime() + timeout.toNanos();
        synchronized (lock) {
            while (!following) {
                long left = deadline - System.nanoTime();
                if (left <= 0 || closed) {
                    return false;
                }
                try {
                    TimeUnit.NANOSECONDS.timedWait(lock, Math.max(left, 1_000_000));
                } catch (InterruptedException interrupted) {
                    Thread.currentThread().interrupt();
                    return false;
                }
            }
            return true;
        }
    }

    @Override
    public void close() {
        Connection open;
        synchronized (lock) {
            closed = true;
            following = false;
            open = connection;
            lock.notifyAll();
        }
        if (open != null) {
            open.cancel();
        }
    }

    private void ended(Connection which, String why) {
        long pause;
        boolean wasFollowing;
        synchronized (lock) {
            if (connection != which || closed) {
                return;
            }
            wasFollowing = following;
            connection = null;
            failures = following ? 0 : Math.min(failures + 1, 30);
            following = false;
            pause = Timers.partOf(Math.min(RETRY_CAP.toNanos(), RETRY_BASE.toNanos() << Math.min(failures, 5)));
        }
        if (wasFollowing) {
            followers.accept(false);
        }
        LOG.warn("the stream of changes ended, cached answers may be outdated until it is open again: {}", why);
        try {
            timers.after(pause, this::start);
        } catch (RejectedExecutionException closing) {
            LOG.debug("the client is closed");
        }
    }

    private void arrived(Connection which, List<ByteBuffer> pieces) {
        synchronized (lock) {
            if (connection != which) {
                return;
            }
        }
        boolean isKnown = false;
        for (ByteBuffer piece : pieces) {
            isKnown |= parser.feed(piece);
        }
        if (isKnown) {
            boolean isNew;
            synchronized (lock) {
                isNew = !following && connection == which;
                following = connection == which;
                lock.notifyAll();
            }
            if (isNew) {
                followers.accept(true);
            }
        }
    }

    /** One connection, from its request to its end. */
    private final class Connection implements HttpResponse.BodySubscriber<Void> {
        private final CompletableFuture<Void> body = new CompletableFuture<>();
        private volatile @Nullable CompletableFuture<HttpResponse<Void>> sent;
        private volatile Flow.@Nullable Subscription subscription;
        private @Nullable ScheduledFuture<?> timer;

        void open() {
            parser.restart();
            HttpRequest.Builder request = transport.request(path).header("Accept", "text/event-stream").GET();
            String lastId = parser.lastId();
            if (lastId != null) {
                request.header("Last-Event-ID", lastId);
            }
            limit(connectTimeout, "no answer within " + connectTimeout);
            CompletableFuture<HttpResponse<Void>> answer = transport.http().sendAsync(request.build(), info -> {
                if (info.statusCode() == 200) {
                    breaker.mayBeWell();
                    return this;
                }
                end("status " + info.statusCode());
                return HttpResponse.BodySubscribers.discarding();
            });
            sent = answer;
            answer.whenComplete((response, failure) -> {
                if (failure != null) {
                    end(String.valueOf(failure.getMessage()));
                }
            });
        }

        /** Ends the connection unless something arrives in time. */
        private synchronized void limit(Duration time, String why) {
            if (timer != null) {
                timer.cancel(false);
            }
            try {
                timer = timers.after(time.toNanos(), () -> end(why));
            } catch (RejectedExecutionException closing) {
                cancel();
            }
        }

        private void end(String why) {
            cancel();
            ended(this, why);
        }

        void cancel() {
            synchronized (this) {
                if (timer != null) {
                    timer.cancel(false);
                }
            }
            Flow.Subscription open = subscription;
            if (open != null) {
                open.cancel();
            }
            CompletableFuture<HttpResponse<Void>> request = sent;
            if (request != null) {
                request.cancel(true);
            }
            body.complete(null);
        }

        @Override
        public CompletionStage<Void> getBody() {
            return body;
        }

        @Override
        public void onSubscribe(Flow.Subscription given) {
            subscription = given;
            limit(SILENCE, "silent for " + SILENCE);
            given.request(Long.MAX_VALUE);
        }

        @Override
        public void onNext(List<ByteBuffer> pieces) {
            limit(SILENCE, "silent for " + SILENCE);
            try {
                arrived(this, pieces);
            } catch (RuntimeException error) {
                end(String.valueOf(error.getMessage()));
            }
        }

        @Override
        public void onError(Throwable failure) {
            end(String.valueOf(failure.getMessage()));
        }

        @Override
        public void onComplete() {
            end("the service closed it");
        }
    }
}
