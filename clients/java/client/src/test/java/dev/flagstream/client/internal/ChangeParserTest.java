package dev.flagstream.client.internal;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import dev.flagstream.client.FlagChange;
import dev.flagstream.client.FlagstreamException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;

class ChangeParserTest {
    private final List<FlagChange> changes = new ArrayList<>();
    private final List<Long> begins = new ArrayList<>();
    private final ChangeParser parser = new ChangeParser(changes::add, begins::add);

    @Test
    void theStreamIsReadHoweverItIsCut() {
        String text = "retry: 1000\nid: 5\n\n: heartbeat\n\nid: 7\r\n"
                + "data: {\"event_type\":\"FEATURE_FLAG_UPDATED\",\"flag_name\":\"é\",\"environment\":\"p\",\"version\":7}\r\n\r\n";
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        int known = -1;
        for (int i = 0; i < bytes.length; i++) {
            boolean isKnown = parser.feed(ByteBuffer.wrap(bytes, i, 1));
            known = isKnown && known < 0 ? i : known;
        }
        assertEquals(text.indexOf("\n\n") + 1, known);
        assertEquals(List.of(5L), begins);
        assertEquals(List.of(new FlagChange("FEATURE_FLAG_UPDATED", "é", "p", 7)), changes);
        assertEquals("7", parser.lastId());
    }

    @Test
    void halfAnEventOfABrokenConnectionIsForgotten() {
        feed("id: 9\ndata: {\"event_type\":\"RESET\",\"version\":9}\n\nid: 10\ndata: what");
        assertEquals("9", parser.lastId());
        parser.restart();
        feed("id: 11\n\n");
        assertEquals("11", parser.lastId());
        assertEquals(List.of(11L), begins);
        feed("id: 12\ndata: not json\n\nid: 13\ndata: {\"version\":\"x\"}\n\n");
        assertEquals(1, changes.size(), "what cannot be read is no change");
    }

    @Test
    void aLineHasALimit() {
        assertThrows(FlagstreamException.class, () -> feed("x".repeat(ChangeParser.MAX_LINE_BYTES + 1)));
    }

    private void feed(String text) {
        parser.feed(ByteBuffer.wrap(text.getBytes(StandardCharsets.UTF_8)));
    }
}
