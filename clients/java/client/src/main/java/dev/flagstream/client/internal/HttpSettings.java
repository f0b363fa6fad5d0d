package dev.flagstream.client.internal;

import java.net.URI;
import java.net.http.HttpClient;
import java.time.Duration;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/** Settings of a client over HTTP, after they were checked. */
public record HttpSettings(URI baseUrl, @Nullable String environment, @Nullable String token, Duration timeout,
        Duration attemptTimeout, int maxRetries, Duration backoffBase, Duration backoffCap, @Nullable HttpClient httpClient,
        @Nullable Supplier<@Nullable String> traceparent, String userAgent) {

    /** Returns an address below the service's. */
    URI address(String path) {
        return URI.create(baseUrl + path);
    }
}
