package dev.flagstream.client.internal;

import java.io.IOException;

/** An answer is larger than any of flagstream. */
final class TooLargeException extends IOException {
    private static final long serialVersionUID = 1L;

    TooLargeException() {
        super("the answer is too large");
    }
}
