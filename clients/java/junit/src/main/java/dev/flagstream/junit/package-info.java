/** Flags for tests, which need no service. */
@NullMarked
package dev.flagstream.junit;

import org.jspecify.annotations.NullMarked;
