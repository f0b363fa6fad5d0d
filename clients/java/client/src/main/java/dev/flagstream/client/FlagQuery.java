package dev.flagstream.client;

import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * What is asked about one flag: its name, and optionally a default value, a type and a version. Immutable.
 *
 * <pre>{@code FlagQuery.of("max-retries").withDefault(3).withType(ValueType.INTEGER)}</pre>
 */
public final class FlagQuery {
    private final String flagName;
    private final @Nullable Object defaultValue;
    private final @Nullable ValueType valueType;
    private final long minVersion;

    private FlagQuery(String flagName, @Nullable Object defaultValue, @Nullable ValueType valueType, long minVersion) {
        this.flagName = Objects.requireNonNull(flagName, "flagName");
        this.defaultValue = defaultValue;
        this.valueType = valueType;
        this.minVersion = minVersion;
    }

    /**
     * Returns a query for a flag.
     *
     * @param flagName the flag's name
     * @return the query
     */
    public static FlagQuery of(String flagName) {
        return new FlagQuery(flagName, null, null, 0);
    }

    /**
     * Returns a copy with the value that is returned if the flag has none for the subject.
     *
     * @param value a value that Jackson writes as JSON; {@code null} for none
     * @return the copy
     */
    public FlagQuery withDefault(@Nullable Object value) {
        return new FlagQuery(flagName, value, valueType, minVersion);
    }

    /**
     * Returns a copy that asks for a type. Without one the default's type is asked for, and without a default a boolean.
     *
     * @param type the type; {@code null} for that of the default
     * @return the copy
     */
    public FlagQuery withType(@Nullable ValueType type) {
        return new FlagQuery(flagName, defaultValue, type, minVersion);
    }

    /**
     * Returns a copy that is answered only by flags of this version or a newer one.
     *
     * @param version a version of a change; 0 for any
     * @return the copy
     */
    public FlagQuery atLeast(long version) {
        return new FlagQuery(flagName, defaultValue, valueType, version);
    }

    /**
     * Returns the flag.
     *
     * @return the flag's name
     */
    public String flagName() {
        return flagName;
    }

    /**
     * Returns the default.
     *
     * @return the default value, or {@code null}
     */
    public @Nullable Object defaultValue() {
        return defaultValue;
    }

    /**
     * Returns the type.
     *
     * @return the type that is asked for, or {@code null}
     */
    public @Nullable ValueType valueType() {
        return valueType;
    }

    /**
     * Returns the least version of the flags.
     *
     * @return the version, or 0
     */
    public long minVersion() {
        return minVersion;
    }
}
