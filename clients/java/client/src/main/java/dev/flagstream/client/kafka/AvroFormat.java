package dev.flagstream.client.kafka;

import com.fasterxml.jackson.databind.JsonNode;
import dev.flagstream.client.ErrorKind;
import dev.flagstream.client.FlagstreamException;
import dev.flagstream.client.internal.Json;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.ConcurrentHashMap;
import java.util.function.BiFunction;
import org.apache.avro.AvroRuntimeException;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.io.EncoderFactory;
import org.jspecify.annotations.Nullable;

/**
 * Avro with Confluent's wire format and a schema registry. Messages that do not begin with a zero byte are read as JSON. It
 * needs {@code org.apache.avro:avro}; schemas are registered and looked up once.
 */
public final class AvroFormat extends MessageFormat {
    private static final byte MAGIC = 0;
    private static final int HEADER_BYTES = 5;
    private static final Map<String, String> FILES =
            Map.of("EvaluationRequest", "evaluation-request.avsc", "Conversion", "conversion.avsc");

    private final SchemaRegistry registry;
    private final BiFunction<? super String, ? super String, String> subjects;
    private final Map<String, Integer> ids = new ConcurrentHashMap<>();
    private final Map<Integer, Schema> schemas = new ConcurrentHashMap<>();
    private final Map<String, Schema> own = new ConcurrentHashMap<>();

    private AvroFormat(SchemaRegistry registry, BiFunction<? super String, ? super String, String> subjects) {
        this.registry = registry;
        this.subjects = subjects;
    }

    /**
     * Returns the format with the subjects {@code TOPIC-value}.
     *
     * @param registryUrl the registry's address, such as {@code http://registry:8081}
     * @return the format
     */
    public static AvroFormat of(String registryUrl) {
        return of(registryUrl, (topic, record) -> topic + "-value");
    }

    /**
     * Returns the format with other subjects.
     *
     * @param registryUrl the registry's address
     * @param subjects gives the subject of a topic and a record's full name
     * @return the format
     */
    public static AvroFormat of(String registryUrl, BiFunction<? super String, ? super String, String> subjects) {
        return new AvroFormat(new SchemaRegistry(registryUrl), subjects);
    }

    @Override
    byte[] encode(String topic, String record, Map<String, ? extends @Nullable Object> members) {
        Schema schema = own.computeIfAbsent(record, AvroFormat::load);
        String subject = subjects.apply(topic, schema.getFullName());
        int id = ids.computeIfAbsent(subject, name -> registry.register(name, schema.toString()));
        GenericRecord message = new GenericData.Record(schema);
        for (Schema.Field field : schema.getFields()) {
            message.put(field.pos(), written(field, members.get(field.name())));
        }
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        out.writeBytes(ByteBuffer.allocate(HEADER_BYTES).put(MAGIC).putInt(id).array());
        BinaryEncoder encoder = EncoderFactory.get().binaryEncoder(out, null);
        try {
            new GenericDatumWriter<GenericRecord>(schema).write(message, encoder);
            encoder.flush();
        } catch (IOException | AvroRuntimeException | ClassCastException error) {
            throw new FlagstreamException(ErrorKind.INVALID_REQUEST, "cannot be written in Avro: " + error.getMessage(), error);
        }
        return out.toByteArray();
    }

    @Override
    @Nullable JsonNode decode(byte[] message) {
        if (message.length < HEADER_BYTES || message[0] != MAGIC) {
            return Json.decodeOrNull(message);
        }
        int id = ByteBuffer.wrap(message, 1, HEADER_BYTES - 1).getInt();
        Schema schema = schemas.get(id);
        if (schema == null) {
            schema = new Schema.Parser().parse(registry.schema(id));
            schemas.put(id, schema);
        }
        try {
            var decoder = DecoderFactory.get().binaryDecoder(message, HEADER_BYTES, message.length - HEADER_BYTES, null);
            Object value = new GenericDatumReader<>(schema).read(null, decoder);
            return Json.decodeOrNull(Json.encode(Objects.requireNonNull(read(value))));
        } catch (IOException | AvroRuntimeException error) {
            return null;
        }
    }

    /** The value of a field that is written. Fields with the attribute {@code json} hold JSON text. */
    private static @Nullable Object written(Schema.Field field, @Nullable Object value) {
        if (value == null) {
            return GenericData.get().getDefaultValue(field);
        }
        boolean isJson = Boolean.TRUE.equals(field.getObjectProp("json"));
        if (isJson && value instanceof Map<?, ?> map && hasMap(field.schema())) {
            Map<String, String> texts = new LinkedHashMap<>();
            map.forEach((name, member) -> texts.put(String.valueOf(name), jsonText(member)));
            return texts;
        }
        if (isJson) {
            return jsonText(value);
        }
        return value instanceof Instant time ? (Object) (time.getEpochSecond() * 1_000_000 + time.getNano() / 1_000) : value;
    }

    private static boolean hasMap(Schema schema) {
        return schema.getType() == Schema.Type.MAP
                || schema.isUnion() && schema.getTypes().stream().anyMatch(type -> type.getType() == Schema.Type.MAP);
    }

    private static String jsonText(@Nullable Object value) {
        return value == null ? "null" : new String(Json.encode(value), StandardCharsets.UTF_8);
    }

    /** A value that was read, as Jackson can write it. */
    private static @Nullable Object read(@Nullable Object value) {
        if (value instanceof GenericRecord record) {
            Map<String, @Nullable Object> members = new LinkedHashMap<>();
            for (Schema.Field field : record.getSchema().getFields()) {
                Object member = record.get(field.pos());
                boolean isJson = Boolean.TRUE.equals(field.getObjectProp("json"));
                members.put(field.name(), isJson && member != null ? parsed(member) : read(member));
            }
            return members;
        } else if (value instanceof Map<?, ?> map) {
            Map<String, @Nullable Object> members = new LinkedHashMap<>();
            map.forEach((name, member) -> members.put(String.valueOf(name), read(member)));
            return members;
        } else if (value instanceof List<?> list) {
            return list.stream().map(AvroFormat::read).toList();
        } else if (value == null || value instanceof Number || value instanceof Boolean) {
            return value;
        }
        return value.toString();
    }

    private static @Nullable Object parsed(Object text) {
        return Json.decodeOrNull(text.toString());
    }

    private static Schema load(String record) {
        String file = Objects.requireNonNull(FILES.get(record), record);
        try (InputStream text = Objects.requireNonNull(AvroFormat.class.getResourceAsStream(file), file)) {
            return new Schema.Parser().parse(text);
        } catch (IOException error) {
            throw new IllegalStateException(file, error);
        }
    }
}
