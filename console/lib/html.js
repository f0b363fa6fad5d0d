// The template function and the hooks that all components use.
import { Fragment, h, render } from '../vendor/preact.js';
import htm from '../vendor/htm.js';

export const html = htm.bind(h);
export { Fragment, render };
export { useEffect, useErrorBoundary, useMemo, useRef, useState } from '../vendor/hooks.js';
// Makes components subscribe to the signals that they read.
import '../vendor/signals.js';
export { computed, effect, signal } from '../vendor/signals-core.js';
