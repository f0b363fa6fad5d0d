/** Spring Boot with flagstream. */
@NullMarked
package dev.flagstream.spring;

import org.jspecify.annotations.NullMarked;
