package dev.flagstream.examples.streams;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.streams.TestInputTopic;
import org.apache.kafka.streams.TestOutputTopic;
import org.apache.kafka.streams.TopologyTestDriver;
import org.apache.kafka.streams.test.TestRecord;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

class EnrichOrdersTest {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final Instant START = Instant.parse("2026-01-15T10:30:00Z");
    private static final EnrichOrders.Topics TOPICS = new EnrichOrders.Topics("orders", "requests", "replies", "enriched");

    private final TopologyTestDriver driver =
            new TopologyTestDriver(EnrichOrders.topology(TOPICS, "production"), EnrichOrders.settings("none:1", "test"));
    private final TestInputTopic<String, String> orders = input("orders");
    private final TestInputTopic<String, String> replies = input("replies");
    private final TestOutputTopic<String, String> requests = output("requests");
    private final TestOutputTopic<String, String> enriched = output("enriched");

    private TestInputTopic<String, String> input(String topic) {
        return driver.createInputTopic(topic, new StringSerializer(), new StringSerializer());
    }

    private TestOutputTopic<String, String> output(String topic) {
        return driver.createOutputTopic(topic, new StringDeserializer(), new StringDeserializer());
    }

    @AfterEach
    void close() {
        driver.close();
    }

    private void order(String id, String user, Instant at) {
        orders.pipeInput(id, "{\"order_id\":\"" + id + "\",\"user_id\":\"" + user + "\",\"country\":\"NL\"}", at);
    }

    @Test
    void anOrderBecomesARequestAndItsReplyIsJoined() throws Exception {
        order("o-1", "ada", START);
        TestRecord<String, String> request = requests.readRecord();
        assertEquals("o-1", request.key());
        assertEquals("replies", new String(request.headers().lastHeader("reply-to").value(), StandardCharsets.UTF_8));
        assertEquals("o-1", new String(request.headers().lastHeader("correlation-id").value(), StandardCharsets.UTF_8));
        JsonNode body = JSON.readTree(request.value());
        assertEquals("ada", body.get("user_id").asText());
        assertEquals("NL", body.get("context").get("country").asText());
        assertTrue(enriched.isEmpty());
        replies.pipeInput("o-1", "{\"results\":{\"theme\":{\"value\":\"dark\"},\"max-retries\":{\"value\":5}}}",
                START.plusSeconds(1));
        JsonNode whole = JSON.readTree(enriched.readValue());
        assertEquals("dark", whole.get("theme").asText());
        assertEquals(5, whole.get("max_retries").asInt());
        assertEquals("o-1", whole.get("order_id").asText());
    }

    @Test
    void anOrderWithoutAReplyHasDefaults() throws Exception {
        order("o-1", "ada", START);
        order("o-2", "grace", START.plus(EnrichOrders.WINDOW).plusSeconds(5));
        JsonNode whole = JSON.readTree(enriched.readValue());
        assertEquals("o-1", whole.get("order_id").asText());
        assertEquals("light", whole.get("theme").asText());
        assertEquals(3, whole.get("max_retries").asInt());
    }
}
