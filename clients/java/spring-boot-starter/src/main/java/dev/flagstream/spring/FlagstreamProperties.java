package dev.flagstream.spring;

import java.time.Duration;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.springframework.boot.context.properties.ConfigurationProperties;
import org.springframework.boot.context.properties.bind.DefaultValue;

/**
 * Properties of the starter.
 *
 * @param transport how the service is reached
 * @param url the address of the service; default: the variable {@code CONFIG_SERVICE_URL}
 * @param environment the environment; default: the variable {@code ENVIRONMENT}, else that of the service
 * @param token an API token
 * @param timeout the limit of a call
 * @param cacheTtl the lifetime of cached answers; without it there is a cache only with {@code followChanges}
 * @param followChanges whether changes of flags invalidate cached answers
 * @param kafka settings of the transport {@code kafka}
 */
@ConfigurationProperties("flagstream")
public record FlagstreamProperties(@DefaultValue("http") Transport transport, @Nullable String url,
        @Nullable String environment, @Nullable String token, @DefaultValue("5s") Duration timeout,
        @Nullable Duration cacheTtl, @DefaultValue("false") boolean followChanges, @DefaultValue Kafka kafka) {

    /** How the service is reached. */
    public enum Transport {
        /** Calls over HTTP. */
        HTTP,
        /** Requests and replies through Kafka. */
        KAFKA
    }

    /**
     * Settings of the transport {@code kafka}.
     *
     * @param bootstrapServers where Kafka is; default: {@code spring.kafka.bootstrap-servers}, else the variable
     *     {@code KAFKA_BOOTSTRAP_SERVERS}
     * @param requestsTopic the topic of requests
     * @param replyTopic the topic of replies
     * @param conversionsTopic the topic of conversions
     * @param updatesTopic the topic of changes
     * @param properties further properties of Kafka's clients
     */
    public record Kafka(@Nullable String bootstrapServers,
            @DefaultValue("feature-flag-evaluation-requests") String requestsTopic, @Nullable String replyTopic,
            @DefaultValue("feature-flag-conversions") String conversionsTopic,
            @DefaultValue("feature-flag-updates") String updatesTopic, @DefaultValue Map<String, String> properties) {}
}
