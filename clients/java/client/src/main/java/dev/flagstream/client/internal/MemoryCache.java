package dev.flagstream.client.internal;

import dev.flagstream.client.Evaluation;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.function.Predicate;
import org.jspecify.annotations.Nullable;

/** Answers in memory, until they expire or are overtaken by a change; the least recently used are evicted. */
final class MemoryCache {
    private final int maxEntries;
    private final long ttlNanos;
    private final Clock clock;
    private final LinkedHashMap<String, Entry> entries = new LinkedHashMap<>(16, 0.75f, true);

    private record Entry(Evaluation evaluation, Predicate<Evaluation> isCurrent, long until) {}

    MemoryCache(int maxEntries, Duration ttl, Clock clock) {
        this.maxEntries = maxEntries;
        this.ttlNanos = ttl.toNanos();
        this.clock = clock;
    }

    synchronized @Nullable Evaluation get(String key) {
        Entry entry = entries.get(key);
        if (entry == null) {
            return null;
        }
        if (clock.nanos() - entry.until >= 0 || !entry.isCurrent.test(entry.evaluation)) {
            entries.remove(key);
            return null;
        }
        return entry.evaluation;
    }

    /** Keeps an answer as long as {@code isCurrent} holds for it. */
    synchronized void put(String key, Evaluation evaluation, Predicate<Evaluation> isCurrent) {
        if (maxEntries == 0 || !isCurrent.test(evaluation)) {
            return;
        }
        entries.put(key, new Entry(evaluation, isCurrent, clock.nanos() + ttlNanos));
        if (entries.size() > maxEntries) {
            Map.Entry<String, Entry> eldest = entries.entrySet().iterator().next();
            entries.remove(eldest.getKey());
        }
    }

    synchronized void clear() {
        entries.clear();
    }
}
