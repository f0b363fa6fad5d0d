package dev.flagstream.client.internal;

import com.fasterxml.jackson.databind.JsonNode;
import dev.flagstream.client.ErrorKind;
import dev.flagstream.client.Evaluation;
import dev.flagstream.client.FlagQuery;
import dev.flagstream.client.FlagstreamException;
import dev.flagstream.client.Subject;
import dev.flagstream.client.ValueType;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.util.ArrayList;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/** Questions and answers as they cross the wire. */
public final class Answers {
    private static final int OK = 200;

    private Answers() {}

    /** Returns the members of a request that say whom flags are evaluated for. */
    public static Map<String, Object> members(Subject subject) {
        Map<String, Object> body = new LinkedHashMap<>();
        putIfGiven(body, "user_id", subject.userId());
        putIfGiven(body, "session_id", subject.sessionId());
        if (!subject.context().isEmpty()) {
            body.put("context", subject.context());
        }
        putIfGiven(body, "environment", subject.environment());
        return body;
    }

    /** Returns the body of a request for one flag. */
    public static Map<String, Object> one(FlagQuery query, Subject subject) {
        Map<String, Object> body = new LinkedHashMap<>();
        body.put("flag_name", query.flagName());
        body.putAll(members(subject));
        putIfGiven(body, "default_value", query.defaultValue());
        ValueType type = query.valueType();
        putIfGiven(body, "value_type", type == null ? null : type.wireName());
        return body;
    }

    /** Returns the body of a request for many flags. */
    public static Map<String, Object> many(Collection<FlagQuery> queries, Subject subject) {
        Map<String, Object> body = new LinkedHashMap<>();
        body.put("flag_names", queries.stream().map(FlagQuery::flagName).toList());
        body.putAll(members(subject));
        Map<String, Object> defaults = new LinkedHashMap<>();
        Map<String, Object> types = new LinkedHashMap<>();
        for (FlagQuery query : queries) {
            putIfGiven(defaults, query.flagName(), query.defaultValue());
            ValueType type = query.valueType();
            putIfGiven(types, query.flagName(), type == null ? null : type.wireName());
        }
        if (!defaults.isEmpty()) {
            body.put("default_values", defaults);
        }
        if (!types.isEmpty()) {
            body.put("value_types", types);
        }
        return body;
    }

    /** Returns a text of one length that is the same for the same question. */
    public static String key(FlagQuery query, Subject subject) {
        List<@Nullable Object> parts = new ArrayList<>();
        parts.add(query.flagName());
        parts.add(query.defaultValue());
        parts.add(query.valueType() == null ? null : Objects.requireNonNull(query.valueType()).wireName());
        parts.add(subject.userId());
        parts.add(subject.sessionId());
        parts.add(subject.context().isEmpty() ? null : subject.context());
        parts.add(subject.environment());
        return Json.digest(parts);
    }

    /** Reads the answer about one flag. */
    public static Evaluation readOne(JsonNode answer) {
        return evaluation(text(object(answer).get("flag_name")), answer, answer);
    }

    /** Reads the answers about these flags, in their order. */
    public static Map<String, Evaluation> readMany(JsonNode answer, Collection<FlagQuery> queries) {
        JsonNode results = object(object(answer).get("results"));
        Map<String, Evaluation> found = new LinkedHashMap<>();
        for (FlagQuery query : queries) {
            found.put(query.flagName(), evaluation(query.flagName(), object(results.get(query.flagName())), answer));
        }
        return found;
    }

    /** Returns the value of an answer that was asked for a boolean. */
    public static boolean booleanOf(Evaluation evaluation) {
        if (evaluation.value() instanceof Boolean value) {
            return value;
        }
        throw invalid(evaluation.flagName() + ": the value is not a boolean", null);
    }

    /** Returns the type to ask for where that of the default's JSON is too wide. */
    public static @Nullable ValueType typeOf(@Nullable Object defaultValue) {
        boolean isWhole = defaultValue instanceof Integer || defaultValue instanceof Long || defaultValue instanceof Short
                || defaultValue instanceof Byte || defaultValue instanceof BigInteger;
        return isWhole ? ValueType.INTEGER : null;
    }

    /** Returns the value of an answer with the class of the default. */
    @SuppressWarnings("unchecked")
    public static <T> T like(Evaluation evaluation, T defaultValue) {
        Object value = evaluation.value();
        Object like = null;
        if (defaultValue == null) {
            return (T) value;
        } else if (defaultValue instanceof Boolean) {
            like = value instanceof Boolean ? value : null;
        } else if (defaultValue instanceof String) {
            like = value instanceof String ? value : null;
        } else if (defaultValue instanceof Number) {
            like = value instanceof Number number ? numberLike(evaluation, number, (Number) defaultValue) : null;
        } else if (defaultValue instanceof Map) {
            like = value instanceof Map ? value : null;
        } else if (defaultValue instanceof Collection) {
            like = value instanceof List ? value : null;
        } else if (value != null) {
            like = converted(evaluation, value, defaultValue.getClass());
        }
        if (like == null) {
            String got = value == null ? "null" : value.getClass().getSimpleName();
            throw invalid(evaluation.flagName() + ": the value is of type " + got + ", the default of type "
                    + defaultValue.getClass().getSimpleName(), null);
        }
        return (T) like;
    }

    private static Object numberLike(Evaluation evaluation, Number value, Number like) {
        try {
            BigDecimal exact = new BigDecimal(value.toString());
            if (like instanceof Integer) {
                return exact.intValueExact();
            } else if (like instanceof Long) {
                return exact.longValueExact();
            } else if (like instanceof Double) {
                return value.doubleValue();
            } else if (like instanceof Float) {
                return value.floatValue();
            } else if (like instanceof Short) {
                return exact.shortValueExact();
            } else if (like instanceof Byte) {
                return exact.byteValueExact();
            } else if (like instanceof BigInteger) {
                return exact.toBigIntegerExact();
            } else if (like instanceof BigDecimal) {
                return exact;
            }
            return Json.convert(value, like.getClass());
        } catch (ArithmeticException | IllegalArgumentException error) {
            throw invalid(evaluation.flagName() + ": " + value + " is no " + like.getClass().getSimpleName(), error);
        }
    }

    private static Object converted(Evaluation evaluation, Object value, Class<?> type) {
        try {
            return Json.convert(value, type);
        } catch (IllegalArgumentException error) {
            throw invalid(evaluation.flagName() + ": the value cannot be read as " + type.getName(), error);
        }
    }

    private static Evaluation evaluation(@Nullable String flag, JsonNode result, JsonNode around) {
        JsonNode enabled = result.get("enabled");
        String reason = Json.text(result, "reason");
        JsonNode value = result.get("value");
        if (value == null || enabled == null || !enabled.isBoolean() || reason == null) {
            throw invalid("unexpected response: value, enabled or reason is missing", null);
        }
        JsonNode flagVersion = result.get("flag_version");
        JsonNode flagsVersion = around.get("flags_version");
        return new Evaluation(flag == null ? "" : flag, Json.plain(value), enabled.booleanValue(), Json.text(result, "variant"),
                reason, Json.text(result, "error_code"), Json.text(result, "error_message"),
                result.path("killed").asBoolean(false),
                flagVersion != null && flagVersion.canConvertToLong() ? flagVersion.longValue() : null,
                Json.text(around, "environment"),
                flagsVersion != null && flagsVersion.canConvertToLong() ? flagsVersion.longValue() : 0, false);
    }

    private static @Nullable String text(@Nullable JsonNode node) {
        return node == null ? null : node.asText();
    }

    private static JsonNode object(@Nullable JsonNode node) {
        if (node == null || !node.isObject()) {
            throw invalid("unexpected response: expected a JSON object", null);
        }
        return node;
    }

    private static FlagstreamException invalid(String detail, @Nullable Throwable cause) {
        return new FlagstreamException(ErrorKind.INVALID_ANSWER, detail, OK, List.of(), null, cause);
    }

    private static void putIfGiven(Map<String, Object> body, String name, @Nullable Object value) {
        if (value != null) {
            body.put(name, value);
        }
    }
}
