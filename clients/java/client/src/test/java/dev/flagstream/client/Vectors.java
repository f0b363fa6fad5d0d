package dev.flagstream.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.File;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.time.Instant;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;

/** The table of cases that the clients of all languages share, and how its steps are made. */
public final class Vectors {
    private static final ObjectMapper MAPPER = new ObjectMapper();

    private Vectors() {}

    public static JsonNode read() {
        try {
            return MAPPER.readTree(new File(System.getProperty("flagstream.vectors")));
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    /** Makes a call; its result as JSON. */
    public static JsonNode call(FeatureFlags flags, JsonNode step) {
        Subject subject = subject(step);
        String flag = step.path("flag").asText();
        Object defaultValue = plain(step.path("default"));
        return switch (step.get("call").asText()) {
            case "is_enabled" -> json(flags.isEnabled(flag, subject, (Boolean) defaultValue));
            case "evaluate_flag" -> json(flags.<Object>evaluateFlag(flag, subject, defaultValue));
            case "evaluate" -> evaluation(flags.evaluate(query(step), subject));
            case "batch_evaluate" -> json(flags.batchEvaluate(names(step), subject, (Boolean) defaultValue));
            case "bulk_evaluate_flags" -> {
                Map<String, Object> defaults = new LinkedHashMap<>();
                step.path("default_values").fields().forEachRemaining(d -> defaults.put(d.getKey(), plain(d.getValue())));
                ObjectNode all = MAPPER.createObjectNode();
                flags.bulkEvaluateFlags(names(step), subject, defaults).forEach((name, e) -> all.set(name, evaluation(e)));
                yield all;
            }
            case "track_conversion" -> accepted(flags.trackConversion(conversion(step), subject));
            case "track" -> accepted(flags.track(step.get("metric").asText(), subject, null, members(step.get("metadata"))));
            default -> throw new AssertionError(step);
        };
    }

    private static JsonNode accepted(CompletableFuture<Void> report) {
        return json(report.handle((done, failure) -> failure == null).join());
    }

    private static Conversion conversion(JsonNode step) {
        Conversion conversion = Conversion.of(step.get("experiment").asText(), step.get("metric").asText())
                .eventId(step.get("event_id").asText()).occurredAt(Instant.parse(step.get("occurred_at").asText()))
                .metadata(members(step.path("metadata")));
        return step.has("value") ? conversion.value(step.get("value").asDouble()) : conversion;
    }

    private static Map<String, Object> members(JsonNode object) {
        Map<String, Object> members = new LinkedHashMap<>();
        object.fields().forEachRemaining(member -> members.put(member.getKey(), plain(member.getValue())));
        return members;
    }

    public static FlagQuery query(JsonNode step) {
        FlagQuery query = FlagQuery.of(step.path("flag").asText()).withDefault(plain(step.path("default")));
        query = query.atLeast(step.path("min_version").asLong());
        return step.has("value_type") ? query.withType(ValueType.of(step.get("value_type").asText())) : query;
    }

    public static Subject subject(JsonNode step) {
        Subject subject = Subject.user(step.has("user_id") ? step.get("user_id").asText() : null);
        if (step.has("session_id")) {
            subject = subject.session(step.get("session_id").asText());
        }
        if (step.has("environment")) {
            subject = subject.environment(step.get("environment").asText());
        }
        return subject.withAll(members(step.path("context")));
    }

    /** Compares the members that are expected. */
    public static void check(JsonNode expected, JsonNode said) {
        if (expected.isObject()) {
            expected.fields().forEachRemaining(member -> {
                assertTrue(said.has(member.getKey()), () -> member.getKey() + " is missing in " + said);
                check(member.getValue(), said.get(member.getKey()));
            });
        } else if (expected.isArray()) {
            assertEquals(expected.size(), said.size(), said.toString());
            for (int index = 0; index < expected.size(); index++) {
                check(expected.get(index), said.get(index));
            }
        } else if (expected.isNumber() && said.isNumber()) {
            assertEquals(expected.asDouble(), said.asDouble());
        } else {
            assertEquals(expected, said);
        }
    }

    public static void checkError(JsonNode expected, FlagstreamException error) {
        assertEquals(expected.get("kind").asText(), error.kind().wireName(), error.toString());
        if (expected.has("status")) {
            assertEquals(expected.get("status").asInt(), error.status());
        }
        if (expected.has("detail")) {
            assertEquals(expected.get("detail").asText(), error.detail());
        }
        if (expected.has("retry_after_s")) {
            assertNotNull(error.retryAfter());
            assertEquals(expected.get("retry_after_s").asLong(), error.retryAfter().toSeconds());
        }
        if (expected.has("fields")) {
            List<String> fields = new ArrayList<>();
            expected.get("fields").forEach(field -> fields.add(field.asText()));
            assertEquals(fields, error.errors().stream().map(FieldError::field).toList());
            assertTrue(error.errors().stream().noneMatch(field -> field.message().isEmpty()));
        }
    }

    /** An evaluation with the names that all languages use. */
    public static JsonNode evaluation(Evaluation e) {
        ObjectNode node = MAPPER.createObjectNode();
        node.put("flag_name", e.flagName());
        node.set("value", json(e.value()));
        node.put("killed", e.killed()).put("enabled", e.enabled()).put("variant", e.variant()).put("reason", e.reason());
        node.put("error_code", e.errorCode()).put("error_message", e.errorMessage());
        node.put("flag_version", e.flagVersion()).put("environment", e.environment()).put("flags_version", e.flagsVersion());
        return node;
    }

    private static List<String> names(JsonNode step) {
        List<String> names = new ArrayList<>();
        step.get("flags").forEach(name -> names.add(name.asText()));
        return names;
    }

    private static Object plain(JsonNode node) {
        return node.isMissingNode() || node.isNull() ? null : MAPPER.convertValue(node, Object.class);
    }

    private static JsonNode json(Object value) {
        return MAPPER.valueToTree(value);
    }
}
