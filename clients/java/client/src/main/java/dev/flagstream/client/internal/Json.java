package dev.flagstream.client.internal;

import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonMappingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import com.fasterxml.jackson.databind.SerializerProvider;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.module.SimpleModule;
import com.fasterxml.jackson.databind.ser.std.StdSerializer;
import dev.flagstream.client.ErrorKind;
import dev.flagstream.client.FlagstreamException;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** Reads and writes JSON. */
public final class Json {
    private static final ObjectMapper MAPPER = JsonMapper.builder()
            .configure(SerializationFeature.ORDER_MAP_ENTRIES_BY_KEYS, false)
            .addModule(new SimpleModule().addSerializer(new Finite<>(Double.class)).addSerializer(new Finite<>(Float.class)))
            .build();
    /** Writes equal objects as equal texts. */
    private static final ObjectMapper SORTED = MAPPER.copy().configure(SerializationFeature.ORDER_MAP_ENTRIES_BY_KEYS, true);

    private Json() {}

    /** Writes a value of a caller. */
    public static byte[] encode(Object value) {
        try {
            return MAPPER.writeValueAsBytes(value);
        } catch (JsonProcessingException error) {
            throw notJson(error);
        }
    }

    /** Returns a text of one length that is the same for equal values. */
    public static String digest(List<?> parts) {
        try {
            byte[] digest = MessageDigest.getInstance("SHA-256").digest(SORTED.writeValueAsBytes(parts));
            return Base64.getEncoder().encodeToString(digest);
        } catch (JsonProcessingException error) {
            throw notJson(error);
        } catch (NoSuchAlgorithmException impossible) {
            throw new IllegalStateException(impossible);
        }
    }

    /** Reads a value that the service sent. */
    public static JsonNode decode(byte[] text, int status) {
        JsonNode node;
        try {
            node = MAPPER.readTree(text);
        } catch (IOException error) {
            throw new FlagstreamException(ErrorKind.INVALID_ANSWER, "not JSON: " + firstLine(error), status, List.of(), null,
                    error);
        }
        return node;
    }

    /** Reads a value, or returns {@code null} if it is no JSON. */
    public static @Nullable JsonNode decodeOrNull(byte[] text) {
        try {
            return MAPPER.readTree(text);
        } catch (IOException error) {
            return null;
        }
    }

    /** Reads a text, or returns {@code null} if it is no JSON. */
    public static @Nullable JsonNode decodeOrNull(String text) {
        return decodeOrNull(text.getBytes(StandardCharsets.UTF_8));
    }

    /** Returns the value as a caller sees it: whole numbers are {@code Long} where they fit, others {@code Double}. */
    public static @Nullable Object plain(JsonNode node) {
        return switch (node.getNodeType()) {
            case BOOLEAN -> node.booleanValue();
            case STRING -> node.textValue();
            case NUMBER -> number(node);
            case ARRAY -> {
                List<@Nullable Object> list = new ArrayList<>(node.size());
                node.forEach(member -> list.add(plain(member)));
                yield java.util.Collections.unmodifiableList(list);
            }
            case OBJECT -> {
                Map<String, @Nullable Object> map = new LinkedHashMap<>();
                node.properties().forEach(member -> map.put(member.getKey(), plain(member.getValue())));
                yield java.util.Collections.unmodifiableMap(map);
            }
            default -> null;
        };
    }

    /** Converts a value to another class, as Jackson does. */
    public static <T> T convert(Object value, Class<T> type) {
        return MAPPER.convertValue(value, type);
    }

    /** Returns the text of a member, or {@code null}. */
    public static @Nullable String text(JsonNode object, String member) {
        JsonNode node = object.get(member);
        return node != null && node.isTextual() ? node.textValue() : null;
    }

    private static Object number(JsonNode node) {
        if (!node.isIntegralNumber()) {
            return node.doubleValue();
        }
        return node.canConvertToLong() ? (Object) node.longValue() : node.bigIntegerValue();
    }

    private static FlagstreamException notJson(JsonProcessingException error) {
        return new FlagstreamException(ErrorKind.INVALID_REQUEST, "context, default or metadata: not JSON: " + firstLine(error), error);
    }

    private static String firstLine(Exception error) {
        String message = String.valueOf(error.getMessage());
        int end = message.indexOf('\n');
        return end < 0 ? message : message.substring(0, end);
    }

    /** Refuses numbers that JSON does not have. */
    private static final class Finite<N extends Number> extends StdSerializer<N> {
        private static final long serialVersionUID = 1L;

        Finite(Class<N> type) {
            super(type);
        }

        @Override
        public void serialize(N value, JsonGenerator out, SerializerProvider provider) throws IOException {
            if (!Double.isFinite(value.doubleValue())) {
                throw JsonMappingException.from(out, "a number that is not finite: " + value);
            }
            if (value instanceof Float single) {
                out.writeNumber(single);
            } else {
                out.writeNumber(value.doubleValue());
            }
        }
    }
}
