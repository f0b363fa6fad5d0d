package dev.flagstream.client.internal;

import com.fasterxml.jackson.databind.JsonNode;
import dev.flagstream.client.ErrorKind;
import dev.flagstream.client.FlagChange;
import dev.flagstream.client.FlagstreamException;
import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.function.Consumer;
import java.util.function.LongConsumer;
import org.jspecify.annotations.Nullable;

/** Reads the server-sent events of {@code GET /api/v1/changes}, however they are cut into pieces. */
public final class ChangeParser {
    /** Maximum length of a line; the service writes shorter ones. */
    static final int MAX_LINE_BYTES = 64 << 10;

    private final Consumer<FlagChange> changes;
    private final LongConsumer begin;
    private final ByteArrayOutputStream line = new ByteArrayOutputStream();
    private String id = "";
    private String data = "";
    private @Nullable String lastId;

    /**
     * Creates a parser.
     *
     * @param changes receives each change
     * @param begin receives the version with which a stream begins
     */
    public ChangeParser(Consumer<FlagChange> changes, LongConsumer begin) {
        this.changes = changes;
        this.begin = begin;
    }

    /** Forgets half an event of a broken connection. */
    public void restart() {
        line.reset();
        id = "";
        data = "";
    }

    /** Returns the id of the last event, with which the next connection resumes. */
    public @Nullable String lastId() {
        return lastId;
    }

    /** Takes a piece; returns whether it is known from which version on changes arrive. */
    public boolean feed(ByteBuffer piece) {
        while (piece.hasRemaining()) {
            byte b = piece.get();
            if (b == '\n') {
                String text = line.toString(StandardCharsets.UTF_8);
                line.reset();
                line(text.endsWith("\r") ? text.substring(0, text.length() - 1) : text);
            } else if (line.size() >= MAX_LINE_BYTES) {
                throw new FlagstreamException(ErrorKind.INVALID_ANSWER, "a line of the stream of changes is too long", null);
            } else {
                line.write(b);
            }
        }
        return lastId != null;
    }

    private void line(String text) {
        if (text.isEmpty()) {
            if (!id.isEmpty()) {
                event();
                lastId = id;
                id = "";
                data = "";
            }
            return;
        }
        int colon = text.indexOf(':');
        String name = colon < 0 ? text : text.substring(0, colon);
        String value = colon < 0 ? "" : text.substring(colon + 1);
        value = value.startsWith(" ") ? value.substring(1) : value;
        if (name.equals("id")) {
            id = value;
        } else if (name.equals("data")) {
            // The service writes all of it in one line.
            data = value;
        }
    }

    private void event() {
        if (data.isEmpty()) {
            try {
                begin.accept(Long.parseLong(id));
            } catch (NumberFormatException error) {
                // An id of another server is only repeated.
            }
            return;
        }
        FlagChange change = change(Json.decodeOrNull(data));
        if (change != null) {
            changes.accept(change);
        }
    }

    /** Returns the change that an event of the stream or of {@code feature-flag-updates} is; {@code null} if it is none. */
    public static @Nullable FlagChange change(@Nullable JsonNode event) {
        JsonNode version = event == null ? null : event.get("version");
        if (version == null || !version.isIntegralNumber() || !version.canConvertToLong()) {
            return null;
        }
        String type = Json.text(event, "event_type");
        return new FlagChange(type == null ? FlagChange.RESET : type, Json.text(event, "flag_name"),
                Json.text(event, "environment"), version.longValue());
    }
}
