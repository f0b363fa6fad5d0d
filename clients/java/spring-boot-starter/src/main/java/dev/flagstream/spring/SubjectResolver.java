package dev.flagstream.spring;

import dev.flagstream.client.Subject;
import jakarta.servlet.http.HttpServletRequest;

/** Says for whom the flags of a request are evaluated. Replace the default with a bean of this type. */
@FunctionalInterface
public interface SubjectResolver {
    /**
     * Returns the subject of a request.
     *
     * @param request the request
     * @return the subject
     */
    Subject resolve(HttpServletRequest request);
}
