package dev.flagstream.client.internal;

import com.fasterxml.jackson.databind.JsonNode;
import dev.flagstream.client.ErrorKind;
import dev.flagstream.client.FieldError;
import dev.flagstream.client.FlagstreamException;
import java.net.http.HttpHeaders;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** Reads error answers: {@code application/problem+json} (RFC 9457), and the errors of OpenFeature's protocol. */
final class Problems {
    /** Longest {@code Retry-After} that is believed. */
    private static final double MAX_RETRY_AFTER_SECONDS = 86_400;

    private Problems() {}

    static FlagstreamException of(int status, HttpHeaders headers, byte[] body) {
        JsonNode problem = Json.decodeOrNull(body);
        List<FieldError> errors = new ArrayList<>();
        String detail = null;
        if (problem != null && problem.isObject()) {
            for (String member : List.of("detail", "errorDetails", "title")) {
                detail = detail == null ? Json.text(problem, member) : detail;
            }
            for (JsonNode error : problem.path("errors")) {
                errors.add(new FieldError(error.path("field").asText(""), error.path("message").asText("")));
            }
        }
        return new FlagstreamException(kind(status), detail == null ? "no explanation" : detail, status, errors,
                retryAfter(headers), null);
    }

    private static ErrorKind kind(int status) {
        return switch (status) {
            case 401 -> ErrorKind.UNAUTHORIZED;
            case 403 -> ErrorKind.FORBIDDEN;
            case 404 -> ErrorKind.NOT_FOUND;
            case 429 -> ErrorKind.RATE_LIMITED;
            default -> {
                if (status >= 500) {
                    yield ErrorKind.UNAVAILABLE;
                }
                yield status >= 400 ? ErrorKind.INVALID_REQUEST : ErrorKind.INVALID_ANSWER;
            }
        };
    }

    /** flagstream writes seconds. A date, as proxies may write it, is ignored. */
    private static @Nullable Duration retryAfter(HttpHeaders headers) {
        String text = headers.firstValue("retry-after").orElse(null);
        if (text == null) {
            return null;
        }
        try {
            double seconds = Double.parseDouble(text);
            boolean isTime = Double.isFinite(seconds) && seconds >= 0;
            return isTime ? Duration.ofNanos((long) (Math.min(seconds, MAX_RETRY_AFTER_SECONDS) * 1e9)) : null;
        } catch (NumberFormatException error) {
            return null;
        }
    }
}
