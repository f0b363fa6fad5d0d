package dev.flagstream.it;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import dev.flagstream.client.FeatureFlagClient;
import dev.flagstream.client.FeatureFlags;
import dev.flagstream.client.FlagQuery;
import dev.flagstream.client.FlagstreamException;
import dev.flagstream.client.Subject;
import dev.flagstream.client.Vectors;
import dev.flagstream.client.kafka.KafkaFeatureFlagClient;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** The live cases of {@code clients/vectors.json}: over HTTP, and through Kafka. */
class ALiveVectorsTest {
    private static final JsonNode VECTORS = Vectors.read();

    @BeforeAll
    static void require() {
        Live.require();
    }

    @Test
    void overHttp() {
        try (FeatureFlagClient flags = Live.http().build()) {
            check(flags);
        }
    }

    @Test
    void throughKafka() {
        try (KafkaFeatureFlagClient flags = Live.kafka().build()) {
            check(flags);
        }
    }

    private static void check(FeatureFlags flags) {
        boolean overHttp = flags instanceof FeatureFlagClient;
        for (JsonNode one : VECTORS.get("live")) {
            if (one.has("error")) {
                // Kafka's requests have no answer but dead letters: the client checks names, and the type is a caller's.
                if (!overHttp && one.has("value_type")) {
                    continue;
                }
                var error = assertThrows(FlagstreamException.class,
                        () -> flags.evaluate(Vectors.query(one), Vectors.subject(one)), one.toString());
                if (overHttp) {
                    Vectors.checkError(one.get("error"), error);
                } else {
                    assertEquals(one.get("error").get("kind").asText(), error.kind().wireName());
                }
                assertEquals(one.get("value").asBoolean(), flags.isEnabled(one.get("flag").asText(), Subject.anonymous(),
                        one.get("default").asBoolean()) || one.has("value_type"));
            } else {
                Vectors.check(one.get("expect"),
                        Vectors.evaluation(flags.evaluate(Vectors.query(one), Vectors.subject(one))));
            }
        }
        many(flags);
    }

    private static void many(FeatureFlags flags) {
        Map<String, JsonNode> cases = new LinkedHashMap<>();
        List<FlagQuery> queries = new ArrayList<>();
        for (JsonNode one : VECTORS.get("live")) {
            boolean isPlain = one.size() == 4 && one.has("expect") && one.get("user_id").asText().equals("u");
            if (isPlain && cases.putIfAbsent(one.get("flag").asText(), one) == null) {
                queries.add(Vectors.query(one));
            }
        }
        assertTrue(queries.size() >= 6);
        var answers = flags.evaluateMany(queries, Subject.user("u"));
        assertEquals(List.copyOf(cases.keySet()), List.copyOf(answers.keySet()));
        cases.forEach((flag, one) -> Vectors.check(one.get("expect"), Vectors.evaluation(answers.get(flag))));
    }
}
