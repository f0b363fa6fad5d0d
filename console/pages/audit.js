// Audit: search in the recorded evaluations; erase a user.
import { html, useState } from '../lib/html.js';
import { call, get } from '../lib/api.js';
import { route, setQuery } from '../lib/router.js';
import { count, rfc3339, time, value } from '../lib/format.js';
import { can, environment } from '../lib/session.js';
import { Empty, Failure, Heading, Loading, NoPermission } from '../parts/states.js';
import { Confirm, Dialog } from '../parts/dialog.js';
import { Table } from '../parts/table.js';
import { EvaluationDialog, Outcome, added } from './evaluation.js';

const PAGE = 100;
/** Evaluations of one download, so that the tab keeps them in memory. */
const DOWNLOAD_MAX = 100_000;
const REASONS = ['TARGETING_MATCH', 'DEFAULT', 'DISABLED', 'ERROR'];
const NAMES = ['user_id', 'request_id', 'flag_name', 'variant', 'reason', 'from', 'to'];

export default function Audit() {
  const [asked, setAsked] = useState(() => Object.fromEntries(NAMES.map((name) => [name, route.value.query.get(name) ?? ''])));
  const [state, setState] = useState({ rows: null, next: null });
  const [open, setOpen] = useState(null);
  const [erases, setErases] = useState(false);
  const query = () => ({ ...asked, from: rfc3339(asked.from), to: rfc3339(asked.to), environment: environment.value });
  const load = async (/** @type {string | null} */ after) => {
    setState({ ...state, busy: true, error: null });
    const started = performance.now();
    try {
      const page = await get('/api/v1/evaluations', { ...query(), limit: PAGE, after });
      const rows = after ? [...state.rows, ...page.evaluations] : page.evaluations;
      setState({ rows, next: page.next, ms: Math.round(performance.now() - started) });
    } catch (error) {
      setState({ ...state, busy: false, error });
    }
  };
  const submit = (event) => {
    event.preventDefault();
    setQuery(asked);
    load(null);
  };
  if (!can('read')) return html`<${Heading} title="Audit" /><${NoPermission} scope="read" />`;
  return html`<${Heading} title="Audit" note="Every evaluation is a row. A search by user, flag or request id uses an index.">
      ${state.rows?.length > 0 && html`<${Download} query=${query} />`}
      ${can('admin') && html`<button type="button" class="danger" onClick=${() => setErases(true)}>Erase a user</button>`}<//>
    <${Fields} asked=${asked} set=${setAsked} submit=${submit} />
    ${!can('audit') && html`<p class="note">Users and contexts are hidden: the token lacks the scope <code>audit</code>.</p>`}
    ${state.error && html`<${Failure} error=${state.error} reload=${() => load(null)} />`}
    ${state.busy && html`<${Loading} />`}
    ${state.rows && (state.rows.length ? html`<p class="note" role="status" data-found=${state.rows.length}>${count(state.rows.length)} evaluations${state.next ? ', and more' : ''} in ${state.ms} ms</p><${Rows} rows=${state.rows} open=${setOpen} />
      ${state.next && html`<button type="button" onClick=${() => load(state.next)}>Show more</button>`}` : html`<${Empty} title="No evaluation matches." />`)}
    ${!state.rows && !state.busy && html`<${Empty} title="Search by any of the fields."><p>Without any, the latest evaluations are shown.</p><//>`}
    ${open && html`<${EvaluationDialog} row=${open} close=${() => setOpen(null)} />`}
    ${erases && html`<${Erase} user=${asked.user_id} close=${() => setErases(false)} />`}`;
}

/** @param {{asked: Record<string, string>, set: (asked: any) => void, submit: (event: Event) => void}} props */
function Fields({ asked, set, submit }) {
  const field = (name, title, type = 'text') =>
    html`<label>${title}<input name=${name} type=${type} value=${asked[name]} onInput=${(event) => set({ ...asked, [name]: event.target.value })} /></label>`;
  return html`<form class="filters" onSubmit=${submit}>${can('audit') && html`${field('user_id', 'User', 'search')}${field('request_id', 'Request id')}`}
    ${field('flag_name', 'Flag')}${field('variant', 'Variant')}
    <label>Reason<select value=${asked.reason} onChange=${(event) => set({ ...asked, reason: event.target.value })}><option value="">any</option>${REASONS.map((it) => html`<option>${it}</option>`)}</select></label>
    ${field('from', 'From', 'datetime-local')}${field('to', 'To', 'datetime-local')}<button class="primary">Search</button></form>`;
}

/** @param {{rows: any[], open: (row: any) => void}} props */
function Rows({ rows, open }) {
  const columns = [
    { title: 'Flag', kind: 'main', cell: (it) => html`<button type="button" class="link" onClick=${() => open(it)}>${it.flag_name}</button>` },
    { title: 'At', kind: 'when', cell: (it) => time(it.evaluated_at) },
    { title: 'Value', cell: (it) => html`<span class="mono">${value(it.value).slice(0, 60)}</span>` },
    { title: 'Result', cell: (it) => html`<${Outcome} row=${it} />` },
    { title: 'User', cell: (it) => it.user_id ?? '–' },
    ...(rows.some((it) => it.attributes) ? [{ title: 'Attributes', cell: added }] : []),
    { title: 'Request', cell: (it) => it.request_id ?? '–' },
    { title: 'Environment', cell: (it) => it.environment },
    { title: 'Version', cell: (it) => it.flag_version ?? '–' },
  ];
  return html`<${Table} label="Evaluations" columns=${columns} rows=${rows} rowKey=${(it) => it.event_id} />`;
}

/** Downloads all pages as JSON lines. @param {{query: () => Record<string, any>}} props */
function Download({ query }) {
  const [busy, setBusy] = useState(0);
  const run = async () => {
    const lines = [];
    let after = '';
    do {
      const page = await get('/api/v1/evaluations', { ...query(), limit: 1000, after });
      lines.push(...page.evaluations.map((it) => `${JSON.stringify(it)}\n`));
      after = page.next ?? '';
      setBusy(lines.length);
    } while (after && lines.length < DOWNLOAD_MAX);
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob(lines, { type: 'application/x-ndjson' }));
    link.download = 'evaluations.jsonl';
    link.click();
    URL.revokeObjectURL(link.href);
    setBusy(0);
  };
  return html`<button type="button" disabled=${busy > 0} onClick=${run}>${busy ? `${count(busy)} read…` : 'Download JSON lines'}</button>`;
}

/** @param {{user: string, close: () => void}} props */
function Erase({ user: initial, close }) {
  const [user, setUser] = useState(initial);
  const [anonymise, setAnonymise] = useState(false);
  const [report, setReport] = useState(null);
  const [counted, setCounted] = useState(null);
  const look = async () => setCounted(await call('POST', '/api/v1/erasures', { body: { user_id: user, dry_run: true } }));
  const run = async (reason) => setReport(await call('POST', '/api/v1/erasures', { body: { user_id: user, anonymise }, reason }));
  if (report) return html`<${Dialog} title="Erased" close=${close}><div class="stack"><p role="status">${count(report.rows)} rows and ${count(report.keys)} keys were ${anonymise ? 'anonymised' : 'removed'} (erasure ${report.erasure_id}).</p><${Kept} kept=${report.kept} /><footer class="actions"><button type="button" onClick=${close}>Close</button></footer></div><//>`;
  return html`<${Confirm} title="Erase a user" action=${anonymise ? 'Anonymise' : 'Remove'} destructive run=${run} close=${(/** @type {boolean} */ done) => !done && close()}>
    <p>This cannot be undone. The reason must not name the user.</p>
    <label>User<input name="user" required value=${user} onInput=${(event) => { setUser(event.target.value); setCounted(null); }} /></label>
    <label class="check"><input type="checkbox" checked=${anonymise} onChange=${(event) => setAnonymise(event.target.checked)} />keep the evaluations, without anything that identifies the user</label>
    <button type="button" disabled=${!user} onClick=${look}>Count what would be erased</button>
    ${counted && html`<div class="effect" role="status"><p><strong>${count(counted.rows)} evaluations</strong> of this user are stored.</p><${Kept} kept=${counted.kept} /></div>`}<//>`;
}

/** @param {{kept: any[]}} props */
const Kept = ({ kept }) => html`<details><summary>Not changed: ${kept.length} other places</summary><ul class="plain">${kept.map((it) => html`<li><strong>${it.place}</strong>: ${it.why}</li>`)}</ul></details>`;
