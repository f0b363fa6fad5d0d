package dev.flagstream.spring;

import dev.flagstream.client.Conversion;
import dev.flagstream.client.FeatureFlags;
import dev.flagstream.client.Subject;
import java.util.Collection;
import java.util.Map;
import java.util.concurrent.CompletableFuture;

/** Flags for the user of the current request. Inject it into controllers and services. */
public class RequestFlags {
    private final FeatureFlags flags;
    private final Subject subject;

    /**
     * Creates the flags of a request.
     *
     * @param flags the client
     * @param subject the user of the request
     */
    public RequestFlags(FeatureFlags flags, Subject subject) {
        this.flags = flags;
        this.subject = subject;
    }

    /**
     * Returns whom flags are evaluated for.
     *
     * @return the subject
     */
    public Subject subject() {
        return subject;
    }

    /**
     * Evaluates a boolean flag; see {@link FeatureFlags#isEnabled(String, Subject)}.
     *
     * @param flagName the flag
     * @return whether it is on
     */
    public boolean isEnabled(String flagName) {
        return flags.isEnabled(flagName, subject);
    }

    /**
     * Evaluates a boolean flag; see {@link FeatureFlags#isEnabled(String, Subject, boolean)}.
     *
     * @param flagName the flag
     * @param defaultValue the default
     * @return whether it is on
     */
    public boolean isEnabled(String flagName, boolean defaultValue) {
        return flags.isEnabled(flagName, subject, defaultValue);
    }

    /**
     * Evaluates a flag; see {@link FeatureFlags#evaluateFlag(String, Subject, Object)}.
     *
     * @param <T> the type of the value
     * @param flagName the flag
     * @param defaultValue the default
     * @return the value
     */
    public <T> T evaluateFlag(String flagName, T defaultValue) {
        return flags.evaluateFlag(flagName, subject, defaultValue);
    }

    /**
     * Evaluates many boolean flags; see {@link FeatureFlags#batchEvaluate(Collection, Subject, boolean)}.
     *
     * @param flagNames the flags
     * @return whether each is on
     */
    public Map<String, Boolean> batchEvaluate(Collection<String> flagNames) {
        return flags.batchEvaluate(flagNames, subject, false);
    }

    /**
     * Returns the variant of a flag; see {@link FeatureFlags#getVariant(String, Subject, String)}.
     *
     * @param flagName the flag
     * @param defaultVariant the default
     * @return the name of the variant
     */
    public String getVariant(String flagName, String defaultVariant) {
        return flags.getVariant(flagName, subject, defaultVariant);
    }

    /**
     * Reports a conversion; see {@link FeatureFlags#trackConversion(Conversion, Subject)}.
     *
     * @param conversion what happened
     * @return completes when Kafka has it
     */
    public CompletableFuture<Void> trackConversion(Conversion conversion) {
        return flags.trackConversion(conversion, subject);
    }
}
