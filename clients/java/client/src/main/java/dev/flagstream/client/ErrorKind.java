package dev.flagstream.client;

/** Kind of a failure. The clients of all languages have the same kinds. */
public enum ErrorKind {
    /** There is no connection, or it broke. */
    CONNECTION_FAILED("connection_failed", true),
    /** No answer arrived within the time limit. */
    TIMED_OUT("timed_out", true),
    /** The request was not sent, because too many recent attempts failed. */
    CIRCUIT_OPEN("circuit_open", false),
    /** The request is wrong. Without a status it was not sent. */
    INVALID_REQUEST("invalid_request", false),
    /** The token is missing or unknown. */
    UNAUTHORIZED("unauthorized", false),
    /** The token lacks the scope, the environment or the flag. */
    FORBIDDEN("forbidden", false),
    /** The address is not that of a flagstream service. An unknown flag is an answer, not an error. */
    NOT_FOUND("not_found", false),
    /** More calls were made than are allowed. */
    RATE_LIMITED("rate_limited", true),
    /** The service cannot answer now. */
    UNAVAILABLE("unavailable", true),
    /** The answer is not one of flagstream, or its value has the wrong type. */
    INVALID_ANSWER("invalid_answer", false);

    private final String wireName;
    private final boolean passing;

    ErrorKind(String wireName, boolean passing) {
        this.wireName = wireName;
        this.passing = passing;
    }

    /**
     * Returns the name of this kind in the clients of all languages.
     *
     * @return a name such as {@code timed_out}
     */
    public String wireName() {
        return wireName;
    }

    /**
     * Returns whether a retry may succeed.
     *
     * @return {@code true} if the failure may pass
     */
    public boolean isPassing() {
        return passing;
    }
}
