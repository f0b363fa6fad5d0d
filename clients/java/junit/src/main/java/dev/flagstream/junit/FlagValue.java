package dev.flagstream.junit;

import java.lang.annotation.Documented;
import java.lang.annotation.ElementType;
import java.lang.annotation.Inherited;
import java.lang.annotation.Repeatable;
import java.lang.annotation.Retention;
import java.lang.annotation.RetentionPolicy;
import java.lang.annotation.Target;
import org.junit.jupiter.api.extension.ExtendWith;

/**
 * The value of a flag in a test, or in all tests of a class. That of a method wins.
 *
 * <pre>{@code
 * @Test
 * @FlagValue(name = "new-ui-enabled", value = "true")
 * void showsTheNewUi(FeatureFlags flags) { ... }
 * }</pre>
 */
@Documented
@Inherited
@Target({ElementType.TYPE, ElementType.METHOD})
@Retention(RetentionPolicy.RUNTIME)
@Repeatable(FlagValues.class)
@ExtendWith(FlagstreamExtension.class)
public @interface FlagValue {
    /**
     * Returns the flag.
     *
     * @return the flag's name
     */
    String name();

    /**
     * Returns the value: JSON such as {@code true}, {@code 5} or {@code {"a": 1}}; any other text is a string.
     *
     * @return the value
     */
    String value() default "true";

    /**
     * Returns the variant, if it is not empty. It is also the value then.
     *
     * @return the name of the variant
     */
    String variant() default "";
}
