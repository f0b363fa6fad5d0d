package dev.flagstream.client;

import java.util.Objects;
import org.jspecify.annotations.Nullable;

/** The type that an evaluation asks for. */
public final class ValueType {
    /** Whether the flag is on. */
    public static final ValueType BOOLEAN = new ValueType("boolean");
    /** A text. */
    public static final ValueType STRING = new ValueType("string");
    /** A whole number of 64 bits. */
    public static final ValueType INTEGER = new ValueType("integer");
    /** A number that always has a fraction or an exponent. */
    public static final ValueType FLOAT = new ValueType("float");
    /** Any number. */
    public static final ValueType NUMBER = new ValueType("number");
    /** An object or a list. */
    public static final ValueType OBJECT = new ValueType("object");

    private final String wireName;

    private ValueType(String wireName) {
        this.wireName = wireName;
    }

    /**
     * Returns a type by its name, also one that this version of the client does not know.
     *
     * @param wireName a name such as {@code integer}
     * @return the type
     */
    public static ValueType of(String wireName) {
        return new ValueType(Objects.requireNonNull(wireName, "wireName"));
    }

    /**
     * Returns the name in requests.
     *
     * @return a name such as {@code integer}
     */
    public String wireName() {
        return wireName;
    }

    @Override
    public boolean equals(@Nullable Object other) {
        return other instanceof ValueType type && type.wireName.equals(wireName);
    }

    @Override
    public int hashCode() {
        return wireName.hashCode();
    }

    @Override
    public String toString() {
        return wireName;
    }
}
