package dev.flagstream.client;

/**
 * An invalid field of a request.
 *
 * @param field the name of the field
 * @param message what was expected
 */
public record FieldError(String field, String message) {}
