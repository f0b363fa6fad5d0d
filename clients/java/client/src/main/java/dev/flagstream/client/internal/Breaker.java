package dev.flagstream.client.internal;

import dev.flagstream.client.ErrorKind;
import dev.flagstream.client.FlagstreamException;
import java.time.Duration;

/** A circuit breaker: opens after failures in a row; after a while it lets one attempt through, which decides. */
public final class Breaker {
    private final int failureThreshold;
    private final long recoveryNanos;
    private final Clock clock;
    private int failures;
    private boolean open;
    private long openedAt;
    private boolean probing;

    /** Creates a closed breaker. */
    public Breaker(int failureThreshold, Duration recoveryTimeout, Clock clock) {
        this.failureThreshold = failureThreshold;
        this.recoveryNanos = recoveryTimeout.toNanos();
        this.clock = clock;
    }

    /** Returns whether attempts are refused, or only one is let through. */
    public synchronized boolean isOpen() {
        return open;
    }

    /** Called before an attempt; throws if it must not be made. */
    public synchronized void enter() {
        if (!open) {
            return;
        }
        if (probing || clock.nanos() - openedAt < recoveryNanos) {
            throw new FlagstreamException(ErrorKind.CIRCUIT_OPEN, "the service failed too often: not asked", null);
        }
        probing = true;
    }

    /** Reports that the service answered. */
    public synchronized void succeeded() {
        failures = 0;
        open = false;
        probing = false;
    }

    /** Reports that the service failed. */
    public synchronized void failed() {
        failures++;
        if (open || failures >= failureThreshold) {
            open = true;
            openedAt = clock.nanos();
        }
        probing = false;
    }

    /** Reports that an attempt was cancelled, which does not count for or against the service. */
    public synchronized void abandoned() {
        probing = false;
    }

    /** Reports a sign of life of the service: the next attempt goes through at once. */
    public synchronized void mayBeWell() {
        if (open) {
            openedAt = clock.nanos() - recoveryNanos;
        }
    }
}
