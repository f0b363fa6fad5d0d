package dev.flagstream.client.internal;

import dev.flagstream.client.CacheOptions;
import dev.flagstream.client.Evaluation;
import dev.flagstream.client.FlagChange;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import org.jspecify.annotations.Nullable;

/**
 * The layers of a client's cache.
 *
 * <pre>
 *  question ─► memory ─► Redis (booleans of users without context) ─► service
 *                 ▲         ▲
 *  change ────────┴─────────┴── announced versions: an older answer is not used
 * </pre>
 */
public final class AnswerCache {
    /** Marks booleans that come from Redis: they are no complete answers. */
    private static final String BOOLEAN_PREFIX = "b:";
    private static final String CACHED = "CACHED";

    private final Announcements announcements = new Announcements();
    private final @Nullable MemoryCache memory;
    private final @Nullable RedisCache redis;

    /** Creates the layers that the options name. */
    public AnswerCache(CacheOptions options, Clock clock) {
        Duration memoryTtl = options.memoryTtl();
        memory = memoryTtl == null ? null : new MemoryCache(options.maxEntries(), memoryTtl, clock);
        Duration redisTtl = options.redisTtl();
        redis = options.redis() == null || redisTtl == null ? null : new RedisCache(options.redis(), redisTtl, clock);
    }

    /** Returns whether there is a layer in Redis. */
    public boolean hasRedis() {
        return redis != null;
    }

    /** Returns whether there is any layer, so that announced versions matter. */
    public boolean isOn() {
        return memory != null || redis != null;
    }

    /** Returns the newest announced version of all environments, or 0. */
    public long newest() {
        return announcements.newest();
    }

    /** Returns the complete answer to a question, from memory. */
    public @Nullable Evaluation get(String key) {
        return memory == null ? null : memory.get(key);
    }

    /** Keeps a complete answer in memory. */
    public void put(String key, Evaluation evaluation) {
        if (memory != null && !evaluation.isError()) {
            memory.put(key, evaluation, this::isCurrent);
        }
    }

    /** Returns a boolean of a user without context, from memory or Redis; {@code null} if neither has it. */
    public CompletableFuture<@Nullable Evaluation> getBoolean(String key, String environment, String flag, String user) {
        Evaluation kept = memory == null ? null : memory.get(BOOLEAN_PREFIX + key);
        if (kept != null || redis == null) {
            return CompletableFuture.completedFuture(kept);
        }
        return redis.get(environment, flag, user).thenApply(found -> {
            // Compared after the value was read: a change may have been announced meanwhile.
            if (found == null || !found.isCurrent(announcements, environment, flag)) {
                return null;
            }
            Long basis = found.basisVersion();
            Evaluation evaluation = new Evaluation(flag, found.enabled(), found.enabled(), null, CACHED, null, null, false,
                    found.flagVersion(), environment, basis == null ? found.flagVersion() : basis, true);
            if (memory != null) {
                memory.put(BOOLEAN_PREFIX + key, evaluation, ignored -> found.isCurrent(announcements, environment, flag));
            }
            return evaluation;
        });
    }

    /** Writes a boolean of a user without context to Redis. */
    public void putBoolean(String environment, String flag, String user, Evaluation evaluation) {
        boolean isUsable = !evaluation.isError() && evaluation.value() instanceof Boolean && isCurrent(evaluation)
                && environment.equals(evaluation.environment());
        if (redis != null && isUsable) {
            redis.put(environment, flag, user, evaluation);
        }
    }

    /** Makes answers older than a change unusable. */
    public void announce(FlagChange change) {
        announcements.add(change);
    }

    /** Records where a stream of changes begins. */
    public void begin(@Nullable String environment, long version) {
        announcements.begin(environment, version);
    }

    /** Drops all answers in memory. */
    public void clear() {
        if (memory != null) {
            memory.clear();
        }
    }

    /** Closes the connection to Redis. */
    public void close() {
        if (redis != null) {
            redis.close();
        }
    }

    private boolean isCurrent(Evaluation evaluation) {
        return evaluation.flagsVersion() >= announcements.of(evaluation.environment());
    }
}
