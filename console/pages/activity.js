// Activity: who changed what, when and why.
import { html, useState } from '../lib/html.js';
import { get, useLoad } from '../lib/api.js';
import { address } from '../lib/router.js';
import { rfc3339, time, who } from '../lib/format.js';
import { environment } from '../lib/session.js';
import { Badge, Diff, Empty, Heading, Loaded } from '../parts/states.js';
import { Table } from '../parts/table.js';

const REFRESH_MS = 5000;
const KINDS = ['flag', 'kill_switch', 'source', 'token', 'experiment', 'erasure', 'retention', 'dead_letter', 'replay'];
const BAD = ['killed', 'deleted', 'revoked', 'removed', 'anonymised'];

export default function Activity() {
  const [asked, setAsked] = useState({ actor: '', kind: '', from: '' });
  const query = { ...asked, from: rfc3339(asked.from), environment: environment.value, limit: 200 };
  const load = useLoad((signal) => get('/api/v1/activity', query, signal), [JSON.stringify(query)], REFRESH_MS);
  const set = (name) => (event) => setAsked({ ...asked, [name]: event.target.value });
  const columns = [
    { title: 'When', kind: 'when', cell: (it) => time(it.changed_at) },
    { title: 'Who', cell: (it) => html`<span title=${it.actor}>${who(it.actor)}</span>` },
    { title: 'What', cell: (it) => html`<${Badge}>${it.kind.replace('_', ' ')}<//> <${Badge} kind=${BAD.includes(it.action) ? 'bad' : ''}>${it.action}<//>` },
    { title: 'Subject', kind: 'main', cell: (it) => subject(it) },
    { title: 'Why', kind: 'wide', cell: (it) => it.reason ?? html`<span class="note">no reason given</span>` },
    { title: 'Difference', cell: (it) => (it.before || it.after ? html`<details><summary>show</summary><${Diff} before=${it.before} after=${it.after} /></details>` : '–') },
  ];
  return html`<${Heading} title="Activity" note="All changes of flags, kill switches, tokens and experiments" />
    <div class="filters"><label>Actor<input type="search" name="actor" value=${asked.actor} onChange=${set('actor')} /></label>
      <label>Kind<select value=${asked.kind} onChange=${set('kind')}><option value="">all</option>${KINDS.map((it) => html`<option value=${it}>${it.replace('_', ' ')}</option>`)}</select></label>
      <label>From<input type="datetime-local" value=${asked.from} onChange=${set('from')} /></label></div>
    <${Loaded} load=${load} empty=${(it) => !it.changes.length && html`<${Empty} title="No change matches." />`}>${(data) =>
      html`<${Table} label="Changes" columns=${columns} rows=${data.changes} rowKey=${(it) => `${it.kind}${it.subject}${it.changed_at}${it.action}`} />`}<//>`;
}

/** @param {any} it */
function subject(it) {
  const place = it.environment ? html` <span class="note">${it.environment}</span>` : '';
  if (['flag', 'kill_switch', 'source'].includes(it.kind)) return html`<a href=${address(['flags', it.environment, it.subject])}>${it.subject}</a>${place}`;
  if (it.kind === 'experiment' && it.environment) return html`<a href=${address(['experiments', it.environment, it.subject])}>${it.subject}</a>${place}`;
  if (it.kind === 'replay') return html`<a href=${address(['what-if'], { replay: it.subject })}>${it.subject.slice(0, 8)}</a>`;
  return html`${it.after?.name ?? it.before?.name ?? it.subject}${place}`;
}
