/** Not for users: parts of the clients, which may change with any version. */
@NullMarked
package dev.flagstream.client.internal;

import org.jspecify.annotations.NullMarked;
