package dev.flagstream.client;

import org.jspecify.annotations.Nullable;

/**
 * A change of flags that was announced.
 *
 * @param type {@code FEATURE_FLAG_CREATED}, {@code FEATURE_FLAG_UPDATED}, {@code FEATURE_FLAG_DELETED}, or {@code RESET}:
 *     any flag may have changed
 * @param flagName the flag; {@code null} if any may have changed
 * @param environment the environment; {@code null} for all
 * @param version the version of the change
 */
public record FlagChange(String type, @Nullable String flagName, @Nullable String environment, long version) {
    /** The type of a change that any flag may have had. */
    public static final String RESET = "RESET";

    /**
     * Returns a change of any flag.
     *
     * @param environment the environment; {@code null} for all
     * @param version the version of the change
     * @return the change
     */
    public static FlagChange ofAny(@Nullable String environment, long version) {
        return new FlagChange(RESET, null, environment, version);
    }
}
