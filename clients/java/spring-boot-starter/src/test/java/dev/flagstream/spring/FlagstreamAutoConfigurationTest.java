package dev.flagstream.spring;

import static org.assertj.core.api.Assertions.assertThat;

import dev.flagstream.client.CacheOptions;
import dev.flagstream.client.ErrorKind;
import dev.flagstream.client.FeatureFlagClient;
import dev.flagstream.client.FeatureFlags;
import dev.flagstream.client.FlagstreamException;
import dev.flagstream.client.Subject;
import dev.flagstream.client.kafka.KafkaFeatureFlagClient;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.springframework.boot.autoconfigure.AutoConfigurations;
import org.springframework.boot.test.context.runner.ApplicationContextRunner;
import org.springframework.boot.test.context.runner.WebApplicationContextRunner;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.mock.web.MockHttpServletRequest;
import org.springframework.mock.web.MockHttpSession;
import org.springframework.web.context.request.RequestContextHolder;
import org.springframework.web.context.request.ServletRequestAttributes;

class FlagstreamAutoConfigurationTest {
    private static final AutoConfigurations STARTER = AutoConfigurations.of(FlagstreamAutoConfiguration.class);
    private final ApplicationContextRunner runner = new ApplicationContextRunner().withConfiguration(STARTER);
    private final WebApplicationContextRunner web = new WebApplicationContextRunner().withConfiguration(STARTER);

    @Configuration
    static class Customized {
        final List<FlagstreamException> told = new ArrayList<>();

        @Bean
        FlagstreamClientCustomizer customizer() {
            return builder -> builder.maxRetries(0).onError(told::add).cache(CacheOptions.memory());
        }
    }

    @Configuration
    static class WithResolver {
        @Bean
        SubjectResolver resolver() {
            return request -> Subject.user(request.getHeader("X-User"));
        }
    }

    @Test
    void aClientOverHttpIsCreatedAndCustomized() {
        runner.withUserConfiguration(Customized.class)
                .withPropertyValues("flagstream.url=http://127.0.0.1:1", "flagstream.environment=production",
                        "flagstream.cache-ttl=1m", "flagstream.token=fst_1")
                .run(context -> {
                    assertThat(context).hasSingleBean(FeatureFlagClient.class);
                    assertThat(context.getBean(FeatureFlags.class).isEnabled("f", "u", true)).isTrue();
                    assertThat(context.getBean(Customized.class).told).singleElement()
                            .matches(error -> error.kind() == ErrorKind.CONNECTION_FAILED);
                });
    }

    @Test
    void aClientThroughKafkaIsCreated() {
        runner.withPropertyValues("flagstream.transport=kafka", "spring.kafka.bootstrap-servers=127.0.0.1:1",
                "flagstream.timeout=100ms", "flagstream.kafka.reply-topic=feature-flag-replies-shop",
                "flagstream.kafka.properties.client.id=shop").run(context -> {
                    assertThat(context).hasSingleBean(KafkaFeatureFlagClient.class);
                    assertThat(context.getBean(FeatureFlags.class).evaluateFlag("f", "u", "light")).isEqualTo("light");
                });
    }

    @Test
    void aClientOfTheApplicationIsKept() {
        try (FeatureFlagClient own = FeatureFlagClient.builder().url("http://127.0.0.1:1").build()) {
            runner.withBean(FeatureFlags.class, () -> own)
                    .run(context -> assertThat(context.getBean(FeatureFlags.class)).isSameAs(own));
        }
    }

    @Test
    void aWrongAddressEndsTheStart() {
        runner.withPropertyValues("flagstream.url=flagstream:8082").run(context -> assertThat(context).hasFailed()
                .getFailure().rootCause().hasMessageContaining("expected http://"));
    }

    @Test
    void aRequestHasTheFlagsOfItsUser() {
        MockHttpServletRequest request = new MockHttpServletRequest();
        request.setUserPrincipal(() -> "ada");
        request.setSession(new MockHttpSession(null, "s-9"));
        request.setRemoteAddr("10.0.0.7");
        request.addHeader("User-Agent", "curl/8");
        web.withPropertyValues("flagstream.url=http://127.0.0.1:1").run(context -> {
            RequestContextHolder.setRequestAttributes(new ServletRequestAttributes(request));
            try {
                Subject subject = context.getBean(RequestFlags.class).subject();
                assertThat(subject).isEqualTo(Subject.user("ada").session("s-9").with("remoteAddress", "10.0.0.7")
                        .with("userAgent", "curl/8"));
                assertThat(context.getBean(RequestFlags.class).isEnabled("f", true)).isTrue();
            } finally {
                RequestContextHolder.resetRequestAttributes();
            }
        });
    }

    @Test
    void anApplicationSaysWhoTheUserIs() {
        MockHttpServletRequest request = new MockHttpServletRequest();
        request.addHeader("X-User", "grace");
        web.withUserConfiguration(WithResolver.class).withPropertyValues("flagstream.url=http://127.0.0.1:1").run(context -> {
            RequestContextHolder.setRequestAttributes(new ServletRequestAttributes(request));
            try {
                assertThat(context.getBean(RequestFlags.class).subject()).isEqualTo(Subject.user("grace"));
            } finally {
                RequestContextHolder.resetRequestAttributes();
            }
        });
    }

    @Test
    void anApplicationThatIsNotOfTheWebHasNoRequests() {
        runner.withPropertyValues("flagstream.url=http://127.0.0.1:1")
                .run(context -> assertThat(context).doesNotHaveBean("requestFlags"));
    }
}
