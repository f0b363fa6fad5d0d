package dev.flagstream.spring;

import dev.flagstream.client.Subject;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpSession;
import java.security.Principal;

/**
 * The default {@link SubjectResolver}: the user is the authenticated principal, the session that of the servlet container if
 * there is one, and the context has {@code remoteAddress} and {@code userAgent}.
 */
public final class RequestSubjectResolver implements SubjectResolver {
    /** Creates the resolver. */
    public RequestSubjectResolver() {}

    @Override
    public Subject resolve(HttpServletRequest request) {
        Principal principal = request.getUserPrincipal();
        HttpSession session = request.getSession(false);
        Subject subject = Subject.user(principal == null ? null : principal.getName())
                .session(session == null ? null : session.getId());
        if (request.getRemoteAddr() != null) {
            subject = subject.with("remoteAddress", request.getRemoteAddr());
        }
        String userAgent = request.getHeader("User-Agent");
        return userAgent == null ? subject : subject.with("userAgent", userAgent);
    }
}
