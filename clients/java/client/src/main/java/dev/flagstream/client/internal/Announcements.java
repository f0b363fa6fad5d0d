package dev.flagstream.client.internal;

import dev.flagstream.client.FlagChange;
import java.util.HashMap;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * The newest announced versions: by environment, and by flag.
 *
 * <p>An answer of the service carries the newest version that it knew, so it is compared with all changes of its environment:
 * flags depend on each other, and only the service knows how. A value that flagstream wrote to Redis carries the version of
 * its flag, and a second one only if it depends on others.
 */
final class Announcements {
    /** Maximum number of tracked environments. Changes of further ones count for all environments. */
    private static final int MAX_ENVIRONMENTS = 1_000;
    /** Maximum number of tracked flags. Changes of further ones count for all flags of their environment. */
    private static final int MAX_FLAGS = 10_000;
    private static final String ALL = "";

    private final Map<String, Long> byEnvironment = new HashMap<>();
    private final Map<String, Long> ofAnyFlag = new HashMap<>();
    private final Map<String, Long> byFlag = new HashMap<>();

    /** Records a change. */
    synchronized void add(FlagChange change) {
        String environment = change.environment() == null ? ALL : change.environment();
        if (!byEnvironment.containsKey(environment) && byEnvironment.size() >= MAX_ENVIRONMENTS) {
            environment = ALL;
        }
        byEnvironment.merge(environment, change.version(), Math::max);
        String flag = change.flagName();
        String key = flag == null ? null : environment + '\0' + flag;
        if (key != null && (byFlag.containsKey(key) || byFlag.size() < MAX_FLAGS)) {
            byFlag.merge(key, change.version(), Math::max);
        } else {
            ofAnyFlag.merge(environment, change.version(), Math::max);
        }
    }

    /** Records where a stream of changes begins: earlier ones were not announced to this client. */
    synchronized void begin(@Nullable String environment, long version) {
        byEnvironment.merge(environment == null ? ALL : environment, version, Math::max);
    }

    /** Returns the newest announced version of all environments, or 0. */
    synchronized long newest() {
        return byEnvironment.values().stream().mapToLong(Long::longValue).max().orElse(0);
    }

    /** Returns the newest announced version of an environment, or 0. */
    synchronized long of(@Nullable String environment) {
        return Math.max(byEnvironment.getOrDefault(ALL, 0L),
                environment == null ? 0 : byEnvironment.getOrDefault(environment, 0L));
    }

    /** Returns the newest announced version of a flag that depends on no other, or 0. */
    synchronized long of(String environment, String flag) {
        long any = Math.max(ofAnyFlag.getOrDefault(ALL, 0L), ofAnyFlag.getOrDefault(environment, 0L));
        long own = Math.max(byFlag.getOrDefault(ALL + '\0' + flag, 0L), byFlag.getOrDefault(environment + '\0' + flag, 0L));
        return Math.max(any, own);
    }
}
