package dev.flagstream.client;

import dev.flagstream.client.internal.Clock;
import java.time.Duration;
import java.util.concurrent.atomic.AtomicLong;

/** The machine's clock, which a test can put ahead. */
public final class TestClock implements Clock {
    private final AtomicLong ahead = new AtomicLong();

    @Override
    public long nanos() {
        return System.nanoTime() + ahead.get();
    }

    public void advance(Duration by) {
        ahead.addAndGet(by.toNanos());
    }
}
