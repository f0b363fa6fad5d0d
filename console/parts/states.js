// States that every page has: loading, error, no permission, empty; and small parts.
import { html } from '../lib/html.js';
import { asksForToken, can, me } from '../lib/session.js';
import { lines } from '../lib/diff.js';
import { pretty, sorted } from '../lib/format.js';

/** What a scope is for, in the words of the state without it. @type {Record<string, string>} */
const NEEDS = {
  read: 'see this page',
  audit: 'see users and contexts',
  write: 'make changes',
  admin: 'see and change tokens',
};

/** @param {{scope: string}} props */
export function NoPermission({ scope }) {
  return html`<div class="state" data-state="no-permission">
    <p class="state-title">A token with the scope <code>${scope}</code> is needed to ${NEEDS[scope] ?? 'do this'}.</p>
    <p>You are ${me.value?.actor ?? 'anonymous'} with the scopes ${me.value?.scopes.join(', ') || 'none'}.</p>
    <button type="button" onClick=${() => (asksForToken.value = true)}>Enter a token</button>
  </div>`;
}

/** @param {{error: any, reload?: () => void}} props */
export function Failure({ error, reload }) {
  return html`<div class="state bad" role="alert" data-state="error">
    <p class="state-title">${error.status ? `${error.status}: ` : ''}${error.message}</p>
    ${(error.errors ?? []).map((it) => html`<p><code>${it.field}</code> ${it.message}</p>`)}
    ${reload && html`<button type="button" onClick=${reload}>Try again</button>`}
  </div>`;
}

/** @param {{children?: any, title: string}} props */
export const Empty = ({ title, children }) =>
  html`<div class="state" data-state="empty"><p class="state-title">${title}</p>${children}</div>`;

export const Loading = () =>
  html`<div class="state" role="status" data-state="loading"><span class="pulse"></span>Loading…</div>`;

/**
 * Shows what `load` has: its data by `children`, or the state that it is in.
 * @param {{load: any, scope?: string, empty?: (data: any) => any, children: (data: any) => any}} props
 */
export function Loaded({ load, scope = 'read', empty, children }) {
  const { data, error, loading, reload } = load;
  if (me.value && !can(scope)) return html`<${NoPermission} scope=${scope} />`;
  if (data == null) {
    if (error?.status === 401 || error?.status === 403) return html`<${Failure} error=${error} />`;
    if (error) return html`<${Failure} error=${error} reload=${reload} />`;
    return loading ? html`<${Loading} />` : null;
  }
  const nothing = empty?.(data);
  return html`${error && html`<${Failure} error=${error} reload=${reload} />`}${nothing || children(data)}`;
}

/** @param {{kind?: string, children: any, title?: string}} props */
export const Badge = ({ kind = '', children, title }) => html`<span class=${`badge ${kind}`} title=${title}>${children}</span>`;

/** Badge for the state of a part. @param {{state: string}} props */
export function State({ state }) {
  const kind = { up: 'good', degraded: 'warn', starting: 'warn', down: 'bad' }[state] ?? '';
  return html`<${Badge} kind=${kind}>${state}<//>`;
}

/** @param {{label: string, value: any, note?: any, kind?: string}} props */
export const Figure = ({ label, value, note, kind = '' }) =>
  html`<div class=${`figure ${kind}`}><span class="label">${label}</span><strong>${value}</strong>${note && html`<span class="note">${note}</span>`}</div>`;

/** A document as indented JSON. @param {{value: any, label?: string}} props */
export const Json = ({ value, label = 'JSON' }) =>
  html`<pre class="json" tabindex="0" role="region" aria-label=${label}>${typeof value === 'string' ? value : pretty(value)}</pre>`;

/** Differences of two documents. @param {{before: any, after: any}} props */
export function Diff({ before, after }) {
  const text = (value) => (value == null ? '' : pretty(sorted(value)));
  const sign = { same: ' ', added: '+', removed: '−' };
  return html`<pre class="json diff" tabindex="0" role="region" aria-label="Differences">${lines(text(before), text(after)).map(
    (line) => html`<span class=${line.kind}>${sign[line.kind]} ${line.text}${'\n'}</span>`,
  )}</pre>`;
}

/** @param {{title: string, children?: any, note?: any}} props */
export const Heading = ({ title, note, children }) =>
  html`<header class="heading"><div><h1 tabindex="-1">${title}</h1>${note && html`<p class="note">${note}</p>`}</div><div class="actions">${children}</div></header>`;

/** @param {{title: string, children: any, note?: any}} props */
export const Panel = ({ title, note, children }) =>
  html`<section class="panel"><h2>${title}${note && html`<span class="note">${note}</span>`}</h2>${children}</section>`;
