/** The layer of a cache that is in Redis. */
@NullMarked
package dev.flagstream.client.redis;

import org.jspecify.annotations.NullMarked;
