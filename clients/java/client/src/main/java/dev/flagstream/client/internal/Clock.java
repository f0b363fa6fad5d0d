package dev.flagstream.client.internal;

/** A clock that never goes back. Tests replace it. */
@FunctionalInterface
public interface Clock {
    /** The clock of the machine. */
    Clock SYSTEM = System::nanoTime;

    /** Returns nanoseconds since an arbitrary moment. */
    long nanos();
}
