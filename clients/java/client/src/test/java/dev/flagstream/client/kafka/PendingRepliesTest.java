package dev.flagstream.client.kafka;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.flagstream.client.ErrorKind;
import dev.flagstream.client.FlagstreamException;
import dev.flagstream.client.TestClock;
import dev.flagstream.client.internal.Breaker;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.concurrent.CompletionException;
import org.junit.jupiter.api.Test;

class PendingRepliesTest {
    private static final byte[] REPLY = "{\"results\":{}}".getBytes(StandardCharsets.UTF_8);
    private final TestClock clock = new TestClock();
    private final Breaker breaker = new Breaker(2, Duration.ofSeconds(60), clock);
    private final PendingReplies pending = new PendingReplies("c", 2, MessageFormat.json(), breaker);

    private static FlagstreamException timeout() {
        return new FlagstreamException(ErrorKind.TIMED_OUT, "no reply", null);
    }

    private ErrorKind refused() {
        return assertThrows(FlagstreamException.class, () -> pending.add(pending.nextId())).kind();
    }

    @Test
    void aReplyCompletesItsRequestAndLateOnesAreCounted() {
        String id = pending.nextId();
        var reply = pending.add(id);
        pending.reply(id, REPLY);
        assertTrue(reply.join().has("results"));
        pending.reply(id, REPLY);
        assertEquals(1, pending.late());
        assertEquals(0, pending.size());
    }

    @Test
    void soManyMayWait() {
        var first = pending.add(pending.nextId());
        pending.add(pending.nextId());
        assertEquals(ErrorKind.RATE_LIMITED, refused());
        first.cancel(true);
        assertFalse(pending.add(pending.nextId()).isDone());
    }

    @Test
    void requestsWithoutRepliesOpenTheCircuitAndALateReplyLetsOneThrough() {
        for (int i = 0; i < 2; i++) {
            String id = pending.nextId();
            var reply = pending.add(id);
            pending.fail(id, timeout());
            assertThrows(CompletionException.class, reply::join);
        }
        assertEquals(ErrorKind.CIRCUIT_OPEN, refused());
        pending.reply("c.0", REPLY);
        String probe = pending.nextId();
        pending.add(probe);
        assertEquals(ErrorKind.CIRCUIT_OPEN, refused(), "only one");
        pending.reply(probe, REPLY);
        pending.add(pending.nextId());
    }

    @Test
    void whatTheCallerDidWrongDoesNotOpenTheCircuit() {
        for (int i = 0; i < 5; i++) {
            String id = pending.nextId();
            pending.add(id);
            pending.fail(id, new FlagstreamException(ErrorKind.INVALID_REQUEST, "too large", null));
        }
        assertFalse(breaker.isOpen());
    }

    @Test
    void aReplyInAnUnknownFormatFailsTheCall() {
        String id = pending.nextId();
        var reply = pending.add(id);
        pending.reply(id, new byte[] {0, 0, 0, 0, 1, 5});
        var error = (FlagstreamException) assertThrows(CompletionException.class, reply::join).getCause();
        assertEquals(ErrorKind.INVALID_ANSWER, error.kind());
    }

    @Test
    void closingFailsWhatWaits() {
        var reply = pending.add(pending.nextId());
        pending.close();
        assertTrue(reply.isCompletedExceptionally());
        assertEquals(ErrorKind.CONNECTION_FAILED, refused());
    }
}
