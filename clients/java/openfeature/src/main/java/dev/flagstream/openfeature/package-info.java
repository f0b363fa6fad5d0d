/** OpenFeature with flagstream. */
@NullMarked
package dev.flagstream.openfeature;

import org.jspecify.annotations.NullMarked;
