package dev.flagstream.client;

import org.jspecify.annotations.Nullable;

/**
 * The service's answer about one flag.
 *
 * @param flagName the flag
 * @param value the value: a {@code Boolean}, {@code String}, {@code Long}, {@code BigInteger}, {@code Double}, {@code Map} or
 *     {@code List}; {@code null} if there is none
 * @param enabled whether the flag is on for the subject, whatever type was asked for
 * @param variant the name of the chosen variant, or {@code null}
 * @param reason OpenFeature's reason: {@code TARGETING_MATCH}, {@code DEFAULT}, {@code DISABLED} or {@code ERROR}
 * @param errorCode OpenFeature's error code, or {@code null}
 * @param errorMessage the explanation of the error code, or of a flag that is off because of a parent, or {@code null}
 * @param killed whether the flag is off because of its kill switch
 * @param flagVersion the version of the definition that answered, or {@code null}
 * @param environment the environment, or {@code null} if the service did not answer
 * @param flagsVersion the newest version that the service knew
 * @param cached whether the answer comes from a cache of the client: then it is no event
 */
public record Evaluation(String flagName, @Nullable Object value, boolean enabled, @Nullable String variant, String reason,
        @Nullable String errorCode, @Nullable String errorMessage, boolean killed, @Nullable Long flagVersion,
        @Nullable String environment, long flagsVersion, boolean cached) {

    /** The reason of an answer that is an error. */
    public static final String ERROR = "ERROR";

    /**
     * Returns whether the value is the default because of an error.
     *
     * @return {@code true} if the reason is {@code ERROR}
     */
    public boolean isError() {
        return ERROR.equals(reason);
    }

    /**
     * Returns a copy from a cache, for a flag of the same question.
     *
     * @return the copy
     */
    public Evaluation asCached() {
        return new Evaluation(flagName, value, enabled, variant, reason, errorCode, errorMessage, killed, flagVersion,
                environment, flagsVersion, true);
    }

    /**
     * Returns the answer where the service has given none.
     *
     * @param query what was asked
     * @param failure why there is no answer
     * @return an answer with the default, the reason {@code ERROR} and the error code {@code GENERAL}
     */
    public static Evaluation failed(FlagQuery query, Throwable failure) {
        return new Evaluation(query.flagName(), query.defaultValue(), false, null, ERROR, "GENERAL", failure.getMessage(),
                false, null, null, 0, false);
    }
}
