// The page that the address names: `#/flags/production/new-ui?tab=versions`.
import { computed, signal } from './html.js';

const hash = signal(location.hash);
addEventListener('hashchange', () => {
  hash.value = location.hash;
});

export const route = computed(() => {
  const [path, query] = hash.value.replace(/^#\/?/, '').split('?');
  const [page, ...params] = path.split('/').map(decodeURIComponent);
  return { page: page || 'overview', params, query: new URLSearchParams(query) };
});

/** @param {string[]} parts @param {Record<string, any>} [query] */
export function address(parts, query = {}) {
  const pairs = Object.entries(query).filter(([, value]) => value !== '' && value != null);
  const text = new URLSearchParams(pairs).toString();
  return `#/${parts.map(encodeURIComponent).join('/')}${text ? `?${text}` : ''}`;
}

/** Replaces the query of the current page without a new entry in the history. @param {Record<string, any>} query */
export function setQuery(query) {
  const { page, params } = route.value;
  history.replaceState(null, '', address([page, ...params], query));
  hash.value = location.hash;
}
