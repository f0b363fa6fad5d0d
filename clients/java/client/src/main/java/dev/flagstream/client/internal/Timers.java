package dev.flagstream.client.internal;

import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;

/** Timeouts and delayed retries of one client, on one daemon thread. */
public final class Timers implements AutoCloseable {
    private final ScheduledThreadPoolExecutor executor;

    /** Starts the thread with the first timer. */
    public Timers(String name) {
        executor = new ScheduledThreadPoolExecutor(1, task -> {
            Thread thread = new Thread(task, name);
            thread.setDaemon(true);
            return thread;
        });
        executor.setRemoveOnCancelPolicy(true);
        executor.setExecuteExistingDelayedTasksAfterShutdownPolicy(false);
    }

    /** Runs a task later, unless the timers are closed before. */
    public ScheduledFuture<?> after(long nanos, Runnable task) {
        return executor.schedule(task, Math.max(0, nanos), TimeUnit.NANOSECONDS);
    }

    /** Returns a random part of a time, so that clients do not retry together. */
    public static long partOf(long nanos) {
        return nanos <= 0 ? 0 : ThreadLocalRandom.current().nextLong(nanos + 1);
    }

    @Override
    public void close() {
        executor.shutdownNow();
    }
}
