package dev.flagstream.spring;

import dev.flagstream.client.CacheOptions;
import dev.flagstream.client.FeatureFlagClient;
import dev.flagstream.client.FeatureFlags;
import dev.flagstream.client.kafka.KafkaClientBuilder;
import dev.flagstream.client.kafka.KafkaFeatureFlagClient;
import jakarta.servlet.http.HttpServletRequest;
import org.jspecify.annotations.Nullable;
import org.springframework.beans.factory.ObjectProvider;
import org.springframework.boot.autoconfigure.AutoConfiguration;
import org.springframework.boot.autoconfigure.condition.ConditionalOnClass;
import org.springframework.boot.autoconfigure.condition.ConditionalOnMissingBean;
import org.springframework.boot.autoconfigure.condition.ConditionalOnProperty;
import org.springframework.boot.autoconfigure.condition.ConditionalOnWebApplication;
import org.springframework.boot.context.properties.EnableConfigurationProperties;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.core.env.Environment;
import org.springframework.web.context.annotation.RequestScope;

/** Creates a client as the properties say, unless there is a bean of its type, and in web applications {@link RequestFlags}. */
@AutoConfiguration
@EnableConfigurationProperties(FlagstreamProperties.class)
public class FlagstreamAutoConfiguration {
    /** Creates the configuration. */
    public FlagstreamAutoConfiguration() {}

    private static CacheOptions cache(FlagstreamProperties properties) {
        return properties.cacheTtl() == null ? CacheOptions.none() : CacheOptions.memory(properties.cacheTtl());
    }

    /** Calls over HTTP. */
    @Configuration(proxyBeanMethods = false)
    @ConditionalOnMissingBean(FeatureFlags.class)
    @ConditionalOnProperty(name = "flagstream.transport", havingValue = "http", matchIfMissing = true)
    static class OverHttp {
        @Bean(destroyMethod = "close")
        FeatureFlagClient featureFlags(FlagstreamProperties properties, ObjectProvider<FlagstreamClientCustomizer> customizers) {
            FeatureFlagClient.Builder builder = FeatureFlagClient.builder().environment(properties.environment())
                    .token(properties.token()).timeout(properties.timeout()).cache(cache(properties))
                    .followChanges(properties.followChanges());
            if (properties.url() != null) {
                builder.url(properties.url());
            }
            customizers.orderedStream().forEach(customizer -> customizer.customize(builder));
            return builder.build();
        }
    }

    /** Requests and replies through Kafka. */
    @Configuration(proxyBeanMethods = false)
    @ConditionalOnMissingBean(FeatureFlags.class)
    @ConditionalOnClass(name = "org.apache.kafka.clients.producer.KafkaProducer")
    @ConditionalOnProperty(name = "flagstream.transport", havingValue = "kafka")
    static class ThroughKafka {
        @Bean(destroyMethod = "close")
        KafkaFeatureFlagClient featureFlags(FlagstreamProperties properties, Environment settings) {
            FlagstreamProperties.Kafka kafka = properties.kafka();
            KafkaClientBuilder builder = KafkaFeatureFlagClient.builder().timeout(properties.timeout())
                    .requestsTopic(kafka.requestsTopic()).conversionsTopic(kafka.conversionsTopic())
                    .updatesTopic(kafka.updatesTopic()).properties(kafka.properties()).cache(cache(properties))
                    .followChanges(properties.followChanges());
            if (properties.environment() != null) {
                builder.environment(properties.environment());
            }
            if (kafka.replyTopic() != null) {
                builder.replyTopic(kafka.replyTopic());
            }
            String servers = servers(kafka, settings);
            if (servers != null) {
                builder.bootstrapServers(servers);
            }
            return builder.build();
        }

        private static @Nullable String servers(FlagstreamProperties.Kafka kafka, Environment settings) {
            String own = kafka.bootstrapServers();
            return own != null ? own : settings.getProperty("spring.kafka.bootstrap-servers");
        }
    }

    /** Flags of the current request. */
    @Configuration(proxyBeanMethods = false)
    @ConditionalOnWebApplication(type = ConditionalOnWebApplication.Type.SERVLET)
    @ConditionalOnClass({HttpServletRequest.class, RequestScope.class})
    static class OfRequest {
        @Bean
        @ConditionalOnMissingBean
        SubjectResolver subjectResolver() {
            return new RequestSubjectResolver();
        }

        @Bean
        @RequestScope
        @ConditionalOnMissingBean
        RequestFlags requestFlags(FeatureFlags flags, SubjectResolver resolver, HttpServletRequest request) {
            return new RequestFlags(flags, resolver.resolve(request));
        }
    }
}
