package dev.flagstream.client.redis;

import io.lettuce.core.ClientOptions;
import io.lettuce.core.RedisClient;
import io.lettuce.core.RedisFuture;
import io.lettuce.core.RedisURI;
import io.lettuce.core.ScriptOutputType;
import io.lettuce.core.SocketOptions;
import io.lettuce.core.api.StatefulRedisConnection;
import io.lettuce.core.codec.StringCodec;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import org.jspecify.annotations.Nullable;

/** A {@link RedisStore} with Lettuce ({@code io.lettuce:lettuce-core}). */
public final class LettuceStore implements RedisStore {
    /** Timeout of a connection attempt. */
    private static final Duration CONNECT_TIMEOUT = Duration.ofSeconds(1);
    /** Commands that may wait for an answer. */
    private static final int MAX_QUEUED_COMMANDS = 10_000;
    /** Time after which another connection attempt is made. */
    private static final Duration RECONNECT_INTERVAL = Duration.ofSeconds(1);

    private final RedisClient client;
    private final boolean isOwned;
    private @Nullable CompletableFuture<StatefulRedisConnection<String, String>> connection;
    private long connectedAtNanos;

    private LettuceStore(RedisClient client, boolean isOwned) {
        this.client = client;
        this.isOwned = isOwned;
    }

    /**
     * Returns a store that connects with the first command. While Redis is unreachable, its commands fail at once.
     *
     * @param url a URL such as {@code redis://localhost:6379}
     * @return the store
     */
    public static LettuceStore of(String url) {
        RedisClient client = RedisClient.create(RedisURI.create(url));
        client.setOptions(ClientOptions.builder()
                .disconnectedBehavior(ClientOptions.DisconnectedBehavior.REJECT_COMMANDS)
                .requestQueueSize(MAX_QUEUED_COMMANDS)
                .socketOptions(SocketOptions.builder().connectTimeout(CONNECT_TIMEOUT).build())
                .build());
        return new LettuceStore(client, true);
    }

    /**
     * Returns a store that uses a client of yours, with your options. Closing the store does not close the client.
     *
     * @param client the client
     * @return the store
     */
    public static LettuceStore of(RedisClient client) {
        return new LettuceStore(client, false);
    }

    @Override
    public CompletionStage<List<@Nullable String>> get(List<String> keys) {
        return connected().thenCompose(link -> {
            // One command for each key: they may belong to different slots of a cluster.
            List<RedisFuture<String>> answers = new ArrayList<>();
            for (String key : keys) {
                answers.add(link.async().get(key));
            }
            CompletableFuture<?>[] all = answers.stream().map(RedisFuture::toCompletableFuture)
                    .toArray(CompletableFuture<?>[]::new);
            return CompletableFuture.allOf(all).thenApply(done -> {
                @Nullable String[] values = new String[all.length];
                for (int i = 0; i < all.length; i++) {
                    values[i] = (String) all[i].join();
                }
                return Arrays.asList(values);
            });
        });
    }

    @Override
    public CompletionStage<Void> setIfNewer(String key, long version, Duration ttl, String value) {
        return connected().thenCompose(link -> link.async().<Long>eval(SET_IF_NEWER, ScriptOutputType.INTEGER,
                new String[] {key}, Long.toString(version), Long.toString(ttl.toMillis()), value)).thenApply(set -> null);
    }

    @Override
    public void close() {
        CompletableFuture<StatefulRedisConnection<String, String>> open;
        synchronized (this) {
            open = connection;
        }
        if (open != null && open.isDone() && !open.isCompletedExceptionally()) {
            open.join().closeAsync();
        }
        if (isOwned) {
            client.shutdownAsync(0, 2, java.util.concurrent.TimeUnit.SECONDS);
        }
    }

    private synchronized CompletableFuture<StatefulRedisConnection<String, String>> connected() {
        boolean failed = connection != null && connection.isCompletedExceptionally();
        if (connection == null || (failed && System.nanoTime() - connectedAtNanos > RECONNECT_INTERVAL.toNanos())) {
            connectedAtNanos = System.nanoTime();
            connection = connect();
        }
        return connection;
    }

    private CompletableFuture<StatefulRedisConnection<String, String>> connect() {
        // The URI is that of the client.
        return CompletableFuture.supplyAsync(() -> client.connect(StringCodec.UTF8));
    }
}
