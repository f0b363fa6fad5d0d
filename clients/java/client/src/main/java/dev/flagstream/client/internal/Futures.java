package dev.flagstream.client.internal;

import dev.flagstream.client.ErrorKind;
import dev.flagstream.client.FlagstreamException;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutionException;
import java.util.function.Function;

/** Waits for futures of this package. */
public final class Futures {
    private Futures() {}

    /** Returns the result, or throws the failure itself. An interrupt cancels the future and stays set. */
    public static <T> T join(CompletableFuture<T> future) {
        try {
            return future.get();
        } catch (InterruptedException interrupted) {
            future.cancel(true);
            Thread.currentThread().interrupt();
            throw new FlagstreamException(ErrorKind.TIMED_OUT, "the thread was interrupted", interrupted);
        } catch (ExecutionException failure) {
            throw failureOf(failure);
        }
    }

    /** Applies a function to a result. Cancelling the returned future cancels its source. */
    public static <A, B> CompletableFuture<B> map(CompletableFuture<A> source, Function<? super A, ? extends B> function) {
        return linked(source, source.thenApply(function));
    }

    /** Cancels the source when the target is cancelled; returns the target. */
    public static <T> CompletableFuture<T> linked(CompletableFuture<?> source, CompletableFuture<T> target) {
        target.whenComplete((result, failure) -> {
            if (target.isCancelled()) {
                source.cancel(true);
            }
        });
        return target;
    }

    /** Returns the failure that a future wraps. */
    public static FlagstreamException failureOf(Throwable failure) {
        Throwable cause = failure;
        while ((cause instanceof CompletionException || cause instanceof ExecutionException) && cause.getCause() != null) {
            cause = cause.getCause();
        }
        if (cause instanceof FlagstreamException known) {
            return known;
        }
        if (cause instanceof CancellationException) {
            return new FlagstreamException(ErrorKind.TIMED_OUT, "the call was cancelled", cause);
        }
        return new FlagstreamException(ErrorKind.CONNECTION_FAILED, String.valueOf(cause), cause);
    }
}
