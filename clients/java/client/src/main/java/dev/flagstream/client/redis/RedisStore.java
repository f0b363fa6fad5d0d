package dev.flagstream.client.redis;

import java.time.Duration;
import java.util.List;
import java.util.concurrent.CompletionStage;
import org.jspecify.annotations.Nullable;

/**
 * The commands of Redis that a cache uses. {@link LettuceStore} implements them with Lettuce; for another library implement
 * this interface. Failures complete the stages exceptionally and never fail an evaluation.
 */
public interface RedisStore extends AutoCloseable {
    /**
     * A script for {@link #setIfNewer}: it sets the key unless the existing value begins with a higher version. Arguments:
     * the version, the lifetime in milliseconds, the value.
     */
    String SET_IF_NEWER = """
            local kept = tonumber(string.match(redis.call('GETRANGE', KEYS[1], 0, 47), '^{"%l+_version":(%d+)'))
            if kept and kept > tonumber(ARGV[1]) then return 0 end
            redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[2])
            return 1
            """;

    /**
     * Reads keys.
     *
     * @param keys the keys, which may be on different nodes of a cluster
     * @return a value for each key, {@code null} where there is none
     */
    CompletionStage<List<@Nullable String>> get(List<String> keys);

    /**
     * Sets a key unless its value is newer, in one atomic step: see {@link #SET_IF_NEWER}.
     *
     * @param key the key
     * @param version the version of the value
     * @param ttl the lifetime of the value
     * @param value the value
     * @return completes when it is done
     */
    CompletionStage<Void> setIfNewer(String key, long version, Duration ttl, String value);

    /** Closes the connection, if this store opened it. */
    @Override
    void close();
}
