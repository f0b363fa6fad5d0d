package dev.flagstream.junit;

import com.fasterxml.jackson.databind.JsonNode;
import dev.flagstream.client.FeatureFlags;
import dev.flagstream.client.internal.Json;
import java.lang.reflect.AnnotatedElement;
import java.util.Objects;
import org.junit.jupiter.api.extension.BeforeEachCallback;
import org.junit.jupiter.api.extension.ExtensionContext;
import org.junit.jupiter.api.extension.ParameterContext;
import org.junit.jupiter.api.extension.ParameterResolver;

/**
 * Gives each test a {@link MockFeatureFlags} of its own, as a parameter of this type or of type {@link FeatureFlags}, with the
 * values of its {@link FlagValue}s.
 */
public final class FlagstreamExtension implements BeforeEachCallback, ParameterResolver {
    private static final ExtensionContext.Namespace NAMESPACE = ExtensionContext.Namespace.create(FlagstreamExtension.class);

    /** Creates the extension. */
    public FlagstreamExtension() {}

    @Override
    public void beforeEach(ExtensionContext context) {
        flags(context);
    }

    @Override
    public boolean supportsParameter(ParameterContext parameter, ExtensionContext context) {
        Class<?> type = parameter.getParameter().getType();
        return type == MockFeatureFlags.class || type == FeatureFlags.class;
    }

    @Override
    public Object resolveParameter(ParameterContext parameter, ExtensionContext context) {
        return flags(context);
    }

    /**
     * Returns the mock of a test.
     *
     * @param context the test
     * @return its mock
     */
    public static MockFeatureFlags flags(ExtensionContext context) {
        return context.getStore(NAMESPACE).getOrComputeIfAbsent(MockFeatureFlags.class, absent -> {
            MockFeatureFlags flags = new MockFeatureFlags();
            context.getEnclosingTestClasses().forEach(outer -> set(flags, outer));
            context.getTestClass().ifPresent(type -> set(flags, type));
            context.getTestMethod().ifPresent(method -> set(flags, method));
            return flags;
        }, MockFeatureFlags.class);
    }

    private static void set(MockFeatureFlags flags, AnnotatedElement element) {
        for (FlagValue value : element.getAnnotationsByType(FlagValue.class)) {
            if (!value.variant().isEmpty()) {
                flags.setVariant(value.name(), value.variant());
                continue;
            }
            JsonNode json = Json.decodeOrNull(value.value());
            boolean isJson = json != null && !json.isMissingNode() && !json.isNull();
            flags.set(value.name(), isJson ? Objects.requireNonNull(Json.plain(json)) : value.value());
        }
    }
}
