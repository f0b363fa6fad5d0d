package dev.flagstream.client;

/** A registered listener. Closing it removes the listener. */
@FunctionalInterface
public interface Subscription extends AutoCloseable {
    @Override
    void close();
}
