package dev.flagstream.spring;

import dev.flagstream.client.FeatureFlagClient;

/** Changes the options of the client over HTTP before it is created: a bean of this type. */
@FunctionalInterface
public interface FlagstreamClientCustomizer {
    /**
     * Changes options.
     *
     * @param builder the builder with the options of the properties
     */
    void customize(FeatureFlagClient.Builder builder);
}
