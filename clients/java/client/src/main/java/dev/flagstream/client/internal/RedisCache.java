package dev.flagstream.client.internal;

import com.fasterxml.jackson.databind.JsonNode;
import dev.flagstream.client.Evaluation;
import dev.flagstream.client.redis.RedisStore;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Booleans in Redis, under the keys {@code ff_eval:…} that flagstream documents.
 *
 * <p>A value begins with a version: {@code basis_version}, the newest one that its answer is based on, else
 * {@code flag_version}. This client writes {@code basis_version} always, with the newest version that the service knew.
 */
final class RedisCache {
    /** Time that an evaluation waits for Redis. */
    private static final long READ_TIMEOUT_MILLIS = 100;
    /** Time for which Redis is skipped after a failure. */
    private static final Duration RECOVERY = Duration.ofSeconds(2);
    /** Longest environment, flag and user together, in bytes; flagstream writes no longer ones either. */
    private static final int MAX_NAMES_BYTES = 1_024;
    private static final Logger LOG = LoggerFactory.getLogger("dev.flagstream.client");

    private final RedisStore store;
    private final Duration ttl;
    private final Breaker breaker;

    /** A value that was read. */
    record Found(boolean enabled, long flagVersion, @Nullable Long basisVersion) {
        /** Returns whether no announced change has overtaken the value. */
        boolean isCurrent(Announcements announcements, String environment, String flag) {
            return basisVersion == null ? flagVersion >= announcements.of(environment, flag)
                    : basisVersion >= announcements.of(environment);
        }
    }

    RedisCache(RedisStore store, Duration ttl, Clock clock) {
        this.store = store;
        this.ttl = ttl;
        this.breaker = new Breaker(1, RECOVERY, clock);
    }

    /** Reads a value; {@code null} if there is none, if it is stale, or if Redis does not answer. */
    CompletableFuture<@Nullable Found> get(String environment, String flag, String user) {
        if (!isAllowed(environment, flag, user)) {
            return CompletableFuture.completedFuture(null);
        }
        try {
            breaker.enter();
        } catch (RuntimeException open) {
            return CompletableFuture.completedFuture(null);
        }
        CompletableFuture<List<@Nullable String>> read;
        try {
            read = store.get(List.of(key(environment, flag, user), minVersionKey(environment, flag))).toCompletableFuture();
        } catch (RuntimeException error) {
            read = CompletableFuture.failedFuture(error);
        }
        return read.copy().orTimeout(READ_TIMEOUT_MILLIS, TimeUnit.MILLISECONDS).handle((values, failure) -> {
            if (failure != null) {
                failed(failure);
                return null;
            }
            breaker.succeeded();
            return found(values.get(0), values.get(1));
        });
    }

    /** Writes an answer, unless Redis has a newer one. Does not wait. */
    void put(String environment, String flag, String user, Evaluation evaluation) {
        Long flagVersion = evaluation.flagVersion();
        if (flagVersion == null || evaluation.killed() || !isAllowed(environment, flag, user) || breaker.isOpen()) {
            return;
        }
        Map<String, Object> value = new LinkedHashMap<>();
        value.put("basis_version", evaluation.flagsVersion());
        value.put("flag_version", flagVersion);
        value.put("enabled", evaluation.enabled());
        value.put("cached_at", Instant.now().truncatedTo(ChronoUnit.MILLIS).toString());
        String text = new String(Json.encode(value), StandardCharsets.UTF_8);
        try {
            store.setIfNewer(key(environment, flag, user), evaluation.flagsVersion(), ttl, text)
                    .whenComplete((done, failure) -> {
                        if (failure != null) {
                            failed(failure);
                        }
                    });
        } catch (RuntimeException error) {
            failed(error);
        }
    }

    /** Closes the store. */
    void close() {
        store.close();
    }

    private void failed(Throwable failure) {
        boolean wasOpen = breaker.isOpen();
        breaker.failed();
        if (!wasOpen) {
            LOG.warn("Redis does not answer, its cache is skipped until it does: {}", String.valueOf(failure));
        }
    }

    static @Nullable Found found(@Nullable String value, @Nullable String minVersion) {
        JsonNode node = value == null ? null : Json.decodeOrNull(value);
        if (node == null || !node.path("enabled").isBoolean() || !node.path("flag_version").canConvertToLong()) {
            return null;
        }
        long flagVersion = node.path("flag_version").longValue();
        JsonNode basis = node.get("basis_version");
        Long basisVersion = basis != null && basis.canConvertToLong() ? basis.longValue() : null;
        long least;
        try {
            least = minVersion == null ? 0 : Long.parseLong(minVersion);
        } catch (NumberFormatException error) {
            return null;
        }
        if ((basisVersion == null ? flagVersion : basisVersion) < least) {
            return null;
        }
        return new Found(node.path("enabled").booleanValue(), flagVersion, basisVersion);
    }

    static String key(String environment, String flag, String user) {
        return "ff_eval:" + encode(environment, "%:") + ':' + encode(flag, "%:") + ':' + encode(user, "%:");
    }

    /** Returns the key of the version below which values of the flag are stale. */
    static String minVersionKey(String environment, String flag) {
        String special = "%:/{}";
        return "flagstream:warm:{" + encode(environment, special) + '/' + encode(flag, special) + "}:floor";
    }

    private static boolean isAllowed(String environment, String flag, String user) {
        int length = 0;
        for (String part : List.of(environment, flag, user)) {
            length += part.getBytes(StandardCharsets.UTF_8).length;
        }
        return length <= MAX_NAMES_BYTES;
    }

    private static String encode(String part, String special) {
        StringBuilder encoded = new StringBuilder(part.length() + 8);
        for (int i = 0; i < part.length(); i++) {
            char c = part.charAt(i);
            if (special.indexOf(c) >= 0) {
                encoded.append('%').append(String.format("%02X", (int) c));
            } else {
                encoded.append(c);
            }
        }
        return encoded.toString();
    }
}
