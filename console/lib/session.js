// The token, what the caller may do, and choices that last as long as the tab.
import { computed, effect, signal } from './html.js';

/** @param {string} key @param {any} initial @param {Storage} [storage] */
function stored(key, initial, storage = sessionStorage) {
  const value = signal(storage.getItem(key) ?? initial);
  effect(() => (value.value ? storage.setItem(key, value.value) : storage.removeItem(key)));
  return value;
}

/** API token; empty: the calls are anonymous. Kept until the tab closes. */
export const token = stored('token', '');
/** Environment that the pages show; empty: all. */
export const environment = stored('environment', '');
/** `auto`, `light` or `dark`. */
export const theme = stored('theme', 'auto', localStorage);
/** Answer of `/api/v1/me`; null until it is known. */
export const me = signal(/** @type {any} */ (null));
/** Whether the dialog for the token is open. */
export const asksForToken = signal(false);

effect(() => {
  document.documentElement.dataset.theme = theme.value;
});

/** @param {string} scope */
export const can = (scope) => Boolean(me.value?.scopes.includes(scope));

/** Environment for calls that need one: the chosen one, else the default one, else the first. */
export const anEnvironment = computed(() => {
  const all = me.value?.environments ?? [];
  if (all.includes(environment.value)) return environment.value;
  return all.includes(me.value?.default_environment) ? me.value.default_environment : (all[0] ?? '');
});
