package dev.flagstream.client;

import dev.flagstream.client.redis.RedisStore;
import java.time.Duration;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * Where a client caches answers. A cached answer produces no event. An answer that is older than an announced change is
 * never served, from any layer.
 */
public final class CacheOptions {
    /** Lifetime of an answer in the memory of the process. */
    public static final Duration MEMORY_TTL = Duration.ofSeconds(300);
    /** Lifetime of an answer in memory, if Redis is behind it. */
    public static final Duration HYBRID_MEMORY_TTL = Duration.ofSeconds(60);
    /** Lifetime of an answer in Redis. */
    public static final Duration REDIS_TTL = Duration.ofSeconds(300);
    /** Maximum number of answers in memory; the least recently used one is evicted. */
    public static final int MAX_ENTRIES = 10_000;

    private static final CacheOptions NONE = new CacheOptions(null, null, null, MAX_ENTRIES);

    private final @Nullable Duration memoryTtl;
    private final @Nullable RedisStore redis;
    private final @Nullable Duration redisTtl;
    private final int maxEntries;

    private CacheOptions(@Nullable Duration memoryTtl, @Nullable RedisStore redis, @Nullable Duration redisTtl,
            int maxEntries) {
        this.memoryTtl = memoryTtl;
        this.redis = redis;
        this.redisTtl = redisTtl;
        this.maxEntries = maxEntries;
    }

    /**
     * Returns options without a cache: each call is an evaluation, and an event.
     *
     * @return the options
     */
    public static CacheOptions none() {
        return NONE;
    }

    /**
     * Returns options for a cache in the memory of the process, with a lifetime of 300 s.
     *
     * @return the options
     */
    public static CacheOptions memory() {
        return memory(MEMORY_TTL);
    }

    /**
     * Returns options for a cache in the memory of the process.
     *
     * @param ttl the lifetime of an answer
     * @return the options
     */
    public static CacheOptions memory(Duration ttl) {
        return new CacheOptions(positive(ttl), null, null, MAX_ENTRIES);
    }

    /**
     * Returns options for a cache in Redis only, with a lifetime of 300 s. Redis holds answers of {@code isEnabled} and
     * {@code batchEvaluate} for a user without context and session, under the keys {@code ff_eval:…}, which services in all
     * languages and flagstream itself share. The client, or the subject, must name the environment.
     *
     * @param store the connection
     * @return the options
     */
    public static CacheOptions redis(RedisStore store) {
        return redis(store, REDIS_TTL);
    }

    /**
     * Returns options for a cache in Redis only, as {@link #redis(RedisStore)}.
     *
     * @param store the connection
     * @param ttl the lifetime of an answer
     * @return the options
     */
    public static CacheOptions redis(RedisStore store, Duration ttl) {
        return new CacheOptions(null, Objects.requireNonNull(store, "store"), positive(ttl), MAX_ENTRIES);
    }

    /**
     * Returns options for a cache in memory (60 s) over one in Redis (300 s).
     *
     * @param store the connection
     * @return the options
     */
    public static CacheOptions hybrid(RedisStore store) {
        return hybrid(store, HYBRID_MEMORY_TTL, REDIS_TTL);
    }

    /**
     * Returns options for a cache in memory over one in Redis.
     *
     * @param store the connection
     * @param memoryTtl the lifetime of an answer in memory
     * @param redisTtl the lifetime of an answer in Redis
     * @return the options
     */
    public static CacheOptions hybrid(RedisStore store, Duration memoryTtl, Duration redisTtl) {
        return new CacheOptions(positive(memoryTtl), Objects.requireNonNull(store, "store"), positive(redisTtl), MAX_ENTRIES);
    }

    /**
     * Returns a copy with another limit of answers in memory.
     *
     * @param maxEntries the limit; 0 for none in memory
     * @return the copy
     */
    public CacheOptions maxEntries(int maxEntries) {
        if (maxEntries < 0) {
            throw new IllegalArgumentException("maxEntries: expected 0 or more, got " + maxEntries);
        }
        return new CacheOptions(memoryTtl, redis, redisTtl, maxEntries);
    }

    /**
     * Returns whether there is no layer.
     *
     * @return {@code true} without memory and Redis
     */
    public boolean isOff() {
        return memoryTtl == null && redis == null;
    }

    /**
     * Returns the lifetime in memory.
     *
     * @return the lifetime, or {@code null} without a cache in memory
     */
    public @Nullable Duration memoryTtl() {
        return memoryTtl;
    }

    /**
     * Returns the connection to Redis.
     *
     * @return the connection, or {@code null} without a cache in Redis
     */
    public @Nullable RedisStore redis() {
        return redis;
    }

    /**
     * Returns the lifetime in Redis.
     *
     * @return the lifetime, or {@code null} without a cache in Redis
     */
    public @Nullable Duration redisTtl() {
        return redisTtl;
    }

    /**
     * Returns the limit of answers in memory.
     *
     * @return the limit
     */
    public int maxEntries() {
        return maxEntries;
    }

    private static Duration positive(Duration ttl) {
        if (ttl.isNegative() || ttl.isZero()) {
            throw new IllegalArgumentException("ttl: expected more than 0, got " + ttl);
        }
        return ttl;
    }
}
