package dev.flagstream.client;

import java.time.Duration;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** A call that failed. {@link #kind()} says how to react. */
public final class FlagstreamException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    /** Kind of the failure. */
    private final ErrorKind kind;
    /** What failed. */
    private final String detail;
    /** HTTP status. */
    private final @Nullable Integer status;
    private final transient List<FieldError> errors;
    /** Time after which the call may be made again. */
    private final @Nullable Duration retryAfter;

    /**
     * Creates the exception of a failure without an HTTP status.
     *
     * @param kind the kind of the failure
     * @param detail what failed, for people
     * @param cause the cause, if there is one
     */
    public FlagstreamException(ErrorKind kind, String detail, @Nullable Throwable cause) {
        this(kind, detail, null, List.of(), null, cause);
    }

    /**
     * Creates the exception of an answer of the service.
     *
     * @param kind the kind of the failure
     * @param detail the problem's {@code detail}
     * @param status the HTTP status; {@code null} if there was no answer
     * @param errors the invalid fields
     * @param retryAfter the time after which the call may be made again
     * @param cause the cause, if there is one
     */
    public FlagstreamException(ErrorKind kind, String detail, @Nullable Integer status, List<FieldError> errors,
            @Nullable Duration retryAfter, @Nullable Throwable cause) {
        super(status == null ? detail : status + ": " + detail, cause);
        this.kind = kind;
        this.detail = detail;
        this.status = status;
        this.errors = List.copyOf(errors);
        this.retryAfter = retryAfter;
    }

    /**
     * Returns the kind of the failure.
     *
     * @return the kind
     */
    public ErrorKind kind() {
        return kind;
    }

    /**
     * Returns what failed, for people.
     *
     * @return the {@code detail} of the service's answer, or a description of the failure
     */
    public String detail() {
        return detail;
    }

    /**
     * Returns the HTTP status.
     *
     * @return the status, or {@code null} if there was no answer
     */
    public @Nullable Integer status() {
        return status;
    }

    /**
     * Returns the invalid fields of the request.
     *
     * @return one entry for each invalid field
     */
    public List<FieldError> errors() {
        return errors == null ? List.of() : errors;
    }

    /**
     * Returns the time after which the call may be made again.
     *
     * @return the service's {@code Retry-After}, or {@code null}
     */
    public @Nullable Duration retryAfter() {
        return retryAfter;
    }
}
