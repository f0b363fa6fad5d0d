package dev.flagstream.client;

import java.net.URI;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** Checks the address of the service. */
final class Urls {
    private static final String VARIABLE = "CONFIG_SERVICE_URL";

    private Urls() {}

    static URI parse(@Nullable String given, Map<String, String> variables) {
        String text = given != null ? given : variables.get(VARIABLE);
        if (text == null || text.isEmpty()) {
            throw new IllegalArgumentException("url: expected http://… or https://…, or the variable " + VARIABLE);
        }
        URI url;
        try {
            url = URI.create(text.replaceAll("/+$", ""));
        } catch (IllegalArgumentException error) {
            throw new IllegalArgumentException("url: expected http://… or https://…, got " + text, error);
        }
        boolean isHttp = "http".equals(url.getScheme()) || "https".equals(url.getScheme());
        if (!isHttp || url.getHost() == null) {
            throw new IllegalArgumentException("url: expected http://… or https://…, got " + text);
        }
        return url;
    }
}
