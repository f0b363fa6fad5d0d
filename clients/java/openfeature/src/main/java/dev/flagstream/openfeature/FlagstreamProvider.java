package dev.flagstream.openfeature;

import dev.flagstream.client.Conversion;
import dev.flagstream.client.ErrorKind;
import dev.flagstream.client.Evaluation;
import dev.flagstream.client.FeatureFlags;
import dev.flagstream.client.FlagChange;
import dev.flagstream.client.FlagQuery;
import dev.flagstream.client.FlagstreamException;
import dev.flagstream.client.Subject;
import dev.flagstream.client.Subscription;
import dev.flagstream.client.ValueType;
import dev.flagstream.client.internal.Conversions;
import dev.openfeature.sdk.ErrorCode;
import dev.openfeature.sdk.EvaluationContext;
import dev.openfeature.sdk.EventProvider;
import dev.openfeature.sdk.ImmutableMetadata;
import dev.openfeature.sdk.Metadata;
import dev.openfeature.sdk.ProviderEvaluation;
import dev.openfeature.sdk.ProviderEventDetails;
import dev.openfeature.sdk.Reason;
import dev.openfeature.sdk.TrackingEventDetails;
import dev.openfeature.sdk.Value;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/**
 * OpenFeature's provider for flagstream. Unlike OFREP it sends the requested type, so that a text {@code "5"} is a number
 * where a number is asked for. Caching is that of the client; with {@code followChanges} each change becomes the event
 * {@code PROVIDER_CONFIGURATION_CHANGED}, and the state is {@code STALE} while changes do not arrive.
 *
 * <p>The targeting key is the user; {@code session_id} in the context is the session. A tracking event counts as a conversion
 * in each running experiment that has a metric of its name, or only in that of its detail {@code experiment}. Its other
 * details are the metadata of the conversion, except for {@code value}, {@code eventId} and {@code occurredAt}.
 *
 * <pre>{@code
 * FeatureFlags flags = FeatureFlagClient.builder().url("http://flagstream:8082").followChanges(true).build();
 * OpenFeatureAPI.getInstance().setProviderAndWait(new FlagstreamProvider(flags));
 * }</pre>
 */
public final class FlagstreamProvider extends EventProvider {
    /** The provider's name. */
    public static final String NAME = "flagstream";
    private static final String CACHED = "CACHED";

    private final FeatureFlags flags;
    private final List<Subscription> subscriptions = new ArrayList<>();

    /**
     * Returns a provider with a client, which it closes when it is shut down.
     *
     * @param flags a client over HTTP or Kafka, or a mock
     */
    public FlagstreamProvider(FeatureFlags flags) {
        this.flags = Objects.requireNonNull(flags, "flags");
    }

    @Override
    public Metadata getMetadata() {
        return () -> NAME;
    }

    @Override
    public void initialize(EvaluationContext context) {
        synchronized (subscriptions) {
            if (subscriptions.isEmpty()) {
                subscriptions.add(flags.onChange(this::changed));
                subscriptions.add(flags.onFollowing(this::following));
            }
        }
    }

    @Override
    public void shutdown() {
        synchronized (subscriptions) {
            subscriptions.forEach(Subscription::close);
            subscriptions.clear();
        }
        flags.close();
        super.shutdown();
    }

    @Override
    public ProviderEvaluation<Boolean> getBooleanEvaluation(String key, Boolean defaultValue, EvaluationContext context) {
        return evaluate(key, ValueType.BOOLEAN, defaultValue, defaultValue, context,
                value -> value instanceof Boolean flag ? flag : null);
    }

    @Override
    public ProviderEvaluation<String> getStringEvaluation(String key, String defaultValue, EvaluationContext context) {
        return evaluate(key, ValueType.STRING, defaultValue, defaultValue, context,
                value -> value instanceof String text ? text : null);
    }

    @Override
    public ProviderEvaluation<Integer> getIntegerEvaluation(String key, Integer defaultValue, EvaluationContext context) {
        return evaluate(key, ValueType.INTEGER, defaultValue, defaultValue, context,
                value -> value instanceof Long whole && whole == whole.intValue() ? (Integer) whole.intValue() : null);
    }

    @Override
    public ProviderEvaluation<Double> getDoubleEvaluation(String key, Double defaultValue, EvaluationContext context) {
        return evaluate(key, ValueType.FLOAT, defaultValue, defaultValue, context,
                value -> value instanceof Number number ? (Double) number.doubleValue() : null);
    }

    @Override
    public ProviderEvaluation<Value> getObjectEvaluation(String key, Value defaultValue, EvaluationContext context) {
        return evaluate(key, ValueType.OBJECT, Values.toJson(defaultValue), defaultValue, context,
                value -> value == null ? null : Values.of(value));
    }

    @Override
    public void track(String eventName, EvaluationContext context, TrackingEventDetails details) {
        Double value = details == null ? null : details.getValue().map(Number::doubleValue).orElse(null);
        Value experiment = details == null ? null : details.getValue("experiment");
        Map<String, @Nullable Object> metadata = details == null ? new LinkedHashMap<>() : Values.toJson(details.asMap());
        metadata.keySet().removeAll(Conversions.EVENT_MEMBERS);
        Subject subject = subject(context);
        // Failures are reported by the client.
        if (experiment == null || !experiment.isString()) {
            flags.track(eventName, subject, value, metadata);
            return;
        }
        Conversion conversion = Conversion.of(experiment.asString(), eventName).metadata(metadata);
        conversion = value == null ? conversion : conversion.value(value);
        Value eventId = details.getValue("eventId");
        flags.trackConversion(eventId != null && eventId.isString() ? conversion.eventId(eventId.asString()) : conversion, subject);
    }

    private <T> ProviderEvaluation<T> evaluate(String key, ValueType type, @Nullable Object jsonDefault, T defaultValue,
            EvaluationContext context, Function<@Nullable Object, @Nullable T> convert) {
        Evaluation answer;
        try {
            answer = flags.evaluate(FlagQuery.of(key).withType(type).withDefault(jsonDefault), subject(context));
        } catch (FlagstreamException error) {
            return failed(defaultValue, codeOf(error.kind()), error.getMessage());
        }
        if (answer.errorCode() != null) {
            return failed(defaultValue, codeOf(answer.errorCode()), answer.errorMessage());
        }
        T value = convert.apply(answer.value());
        if (value == null && answer.value() != null) {
            return failed(defaultValue, ErrorCode.TYPE_MISMATCH, key + ": " + answer.value() + " is no "
                    + defaultValue.getClass().getSimpleName());
        }
        ImmutableMetadata.ImmutableMetadataBuilder metadata =
                ImmutableMetadata.builder().addBoolean("enabled", answer.enabled()).addLong("flagsVersion", answer.flagsVersion());
        if (answer.flagVersion() != null) {
            metadata.addLong("version", answer.flagVersion());
        }
        return ProviderEvaluation.<T>builder().value(value == null ? defaultValue : value).variant(answer.variant())
                .reason(answer.cached() ? CACHED : answer.reason()).flagMetadata(metadata.build()).build();
    }

    private static <T> ProviderEvaluation<T> failed(T defaultValue, ErrorCode code, @Nullable String message) {
        return ProviderEvaluation.<T>builder().value(defaultValue).reason(Reason.ERROR.toString()).errorCode(code)
                .errorMessage(message).build();
    }

    private static ErrorCode codeOf(ErrorKind kind) {
        return kind == ErrorKind.INVALID_REQUEST ? ErrorCode.INVALID_CONTEXT : ErrorCode.GENERAL;
    }

    private static ErrorCode codeOf(String code) {
        try {
            return ErrorCode.valueOf(code);
        } catch (IllegalArgumentException unknown) {
            return ErrorCode.GENERAL;
        }
    }

    static Subject subject(@Nullable EvaluationContext context) {
        if (context == null) {
            return Subject.anonymous();
        }
        Map<String, Value> attributes = new LinkedHashMap<>(context.asMap());
        attributes.remove(EvaluationContext.TARGETING_KEY);
        String user = context.getTargetingKey();
        return Subject.user(user == null || user.isEmpty() ? null : user).withAll(Values.toJson(attributes));
    }

    private void changed(FlagChange change) {
        List<String> names = change.flagName() == null ? List.of() : List.of(change.flagName());
        ImmutableMetadata metadata = ImmutableMetadata.builder().addLong("version", change.version()).build();
        emitProviderConfigurationChanged(
                ProviderEventDetails.builder().flagsChanged(names).message(change.type()).eventMetadata(metadata).build());
    }

    private void following(boolean isFollowing) {
        ProviderEventDetails.ProviderEventDetailsBuilder<?, ?> details = ProviderEventDetails.builder();
        if (isFollowing) {
            emitProviderReady(details.message("changes arrive").build());
        } else {
            emitProviderStale(details.message("changes do not arrive: cached answers may be outdated").build());
        }
    }
}
