package dev.flagstream.it;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.flagstream.client.FeatureFlagClient;
import dev.flagstream.client.kafka.KafkaClientBuilder;
import dev.flagstream.client.kafka.KafkaFeatureFlagClient;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.net.Socket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.function.BooleanSupplier;
import org.junit.jupiter.api.Assumptions;

/** The real services, as tests/it/clients/java.rs starts them, and ways to disturb them. */
final class Live {
    /** Longest wait for something that normally takes well under a second. The machine may be busy. */
    static final Duration LIMIT = Duration.ofSeconds(30);
    static final String ENVIRONMENT = "production";
    static final ObjectMapper MAPPER = new ObjectMapper();
    private static final HttpClient HTTP = HttpClient.newHttpClient();

    private Live() {}

    /** Skips the test if no services run. */
    static void require() {
        Assumptions.assumeTrue(System.getenv("FLAGSTREAM_URL") != null, "FLAGSTREAM_URL is not set: no service to ask");
    }

    static String variable(String name) {
        String value = System.getenv(name);
        assertTrue(value != null && !value.isEmpty(), name);
        return value;
    }

    /** A topic of the service, by the service's own variable or default. */
    static String topic(String role, String defaultName) {
        String name = System.getenv("FLAGSTREAM_TOPICS__" + role);
        return name == null ? defaultName : name;
    }

    static String url() {
        return variable("FLAGSTREAM_URL");
    }

    static FeatureFlagClient.Builder http() {
        return FeatureFlagClient.builder().url(url()).environment(ENVIRONMENT);
    }

    static KafkaClientBuilder kafka() {
        return KafkaFeatureFlagClient.builder().bootstrapServers(variable("KAFKA_BOOTSTRAP_SERVERS")).environment(ENVIRONMENT)
                .requestsTopic(topic("REQUESTS", "feature-flag-evaluation-requests")).replyTopic(variable("REPLY_TOPIC"))
                .conversionsTopic(topic("CONVERSIONS", "feature-flag-conversions"))
                .updatesTopic(topic("UPDATES", "feature-flag-updates")).timeout(LIMIT);
    }

    /** Kills or restores a flag; returns the version of the change. */
    static long turn(String flag, String action) {
        JsonNode answer = post(url() + "/api/v1/feature-flags/" + flag + "/" + action + "?environment=" + ENVIRONMENT,
                "{\"reason\": \"a test\"}", 200);
        return answer.get("version").asLong();
    }

    static JsonNode post(String url, String body, int status) {
        return call(HttpRequest.newBuilder(URI.create(url)).header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(body)), status);
    }

    static JsonNode call(HttpRequest.Builder request, int status) {
        try {
            HttpResponse<String> answer = HTTP.send(request.build(), HttpResponse.BodyHandlers.ofString());
            assertEquals(status, answer.statusCode(), answer.body());
            return MAPPER.readTree(answer.body());
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        } catch (InterruptedException error) {
            throw new IllegalStateException(error);
        }
    }

    /** Has the test around this process stop or start a service, and waits until it is done. */
    static void control(String command) {
        String[] place = variable("FLAGSTREAM_TEST_CONTROL").split(":");
        try (Socket socket = new Socket(place[0], Integer.parseInt(place[1]))) {
            socket.getOutputStream().write((command + "\n").getBytes(StandardCharsets.UTF_8));
            var answer = new BufferedReader(new InputStreamReader(socket.getInputStream(), StandardCharsets.UTF_8));
            assertEquals("done", answer.readLine(), command);
        } catch (IOException error) {
            throw new UncheckedIOException(command, error);
        }
    }

    static void await(String what, BooleanSupplier condition) {
        long deadline = System.nanoTime() + LIMIT.toNanos();
        while (!condition.getAsBoolean()) {
            assertTrue(System.nanoTime() < deadline, "not within " + LIMIT + ": " + what);
            Thread.onSpinWait();
        }
    }
}
