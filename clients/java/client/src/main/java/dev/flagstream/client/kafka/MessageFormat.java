package dev.flagstream.client.kafka;

import com.fasterxml.jackson.databind.JsonNode;
import dev.flagstream.client.internal.Json;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** How messages are written and read: as JSON, or in Avro with {@link AvroFormat}. */
public abstract class MessageFormat {
    private static final MessageFormat JSON = new MessageFormat() {
        @Override
        byte[] encode(String topic, String record, Map<String, ? extends @Nullable Object> members) {
            return Json.encode(members);
        }

        @Override
        @Nullable JsonNode decode(byte[] message) {
            return Json.decodeOrNull(message);
        }
    };

    MessageFormat() {}

    /**
     * Returns the format JSON.
     *
     * @return the format
     */
    public static MessageFormat json() {
        return JSON;
    }

    /** Writes a message of the record type for a topic. May block while a schema is looked up. */
    abstract byte[] encode(String topic, String record, Map<String, ? extends @Nullable Object> members);

    /** Reads a message; {@code null} if it is in another format. May block while a schema is looked up. */
    abstract @Nullable JsonNode decode(byte[] message);
}
