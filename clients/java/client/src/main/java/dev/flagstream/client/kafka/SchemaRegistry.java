package dev.flagstream.client.kafka;

import com.fasterxml.jackson.databind.JsonNode;
import dev.flagstream.client.ErrorKind;
import dev.flagstream.client.FlagstreamException;
import dev.flagstream.client.internal.Json;
import java.io.IOException;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Map;

/** The two calls of Confluent's schema registry that the client needs. */
final class SchemaRegistry {
    private static final Duration TIMEOUT = Duration.ofSeconds(10);

    private final String url;
    private final HttpClient http = HttpClient.newBuilder().connectTimeout(TIMEOUT).build();

    SchemaRegistry(String url) {
        this.url = url.replaceAll("/+$", "");
    }

    /** Registers a schema, or finds it if it is registered; returns its id. */
    int register(String subject, String schema) {
        String path = "/subjects/" + URLEncoder.encode(subject, StandardCharsets.UTF_8) + "/versions";
        byte[] body = Json.encode(Map.of("schema", schema));
        HttpRequest.Builder request = request(path).header("Content-Type", "application/vnd.schemaregistry.v1+json")
                .POST(HttpRequest.BodyPublishers.ofByteArray(body));
        JsonNode id = call(request).path("id");
        if (!id.canConvertToInt()) {
            throw failure(path, "the answer has no id", null);
        }
        return id.intValue();
    }

    /** Returns the text of a schema. */
    String schema(int id) {
        String path = "/schemas/ids/" + id;
        String schema = Json.text(call(request(path).GET()), "schema");
        if (schema == null) {
            throw failure(path, "the answer has no schema", null);
        }
        return schema;
    }

    private HttpRequest.Builder request(String path) {
        return HttpRequest.newBuilder(URI.create(url + path)).timeout(TIMEOUT);
    }

    private JsonNode call(HttpRequest.Builder building) {
        HttpRequest request = building.build();
        String path = request.uri().getPath();
        try {
            HttpResponse<byte[]> response = http.send(request, HttpResponse.BodyHandlers.ofByteArray());
            if (response.statusCode() != 200) {
                throw failure(path, "status " + response.statusCode() + ": "
                        + new String(response.body(), StandardCharsets.UTF_8), null);
            }
            return Json.decode(response.body(), response.statusCode());
        } catch (IOException error) {
            throw failure(path, String.valueOf(error.getMessage()), error);
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
            throw failure(path, "the thread was interrupted", error);
        }
    }

    private FlagstreamException failure(String path, String why, @org.jspecify.annotations.Nullable Throwable cause) {
        return new FlagstreamException(ErrorKind.UNAVAILABLE, "schema registry " + url + path + ": " + why, cause);
    }
}
