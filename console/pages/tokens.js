// Tokens: which exist, with what rights, and when they were last used.
import { html, useState } from '../lib/html.js';
import { call, get, useLoad } from '../lib/api.js';
import { ago, time } from '../lib/format.js';
import { me } from '../lib/session.js';
import { Badge, Empty, Heading, Loaded } from '../parts/states.js';
import { Confirm, Dialog } from '../parts/dialog.js';
import { Table } from '../parts/table.js';

const REFRESH_MS = 10_000;
const SCOPES = ['evaluate', 'read', 'audit', 'track', 'write', 'delete', 'admin'];

export default function Tokens() {
  const load = useLoad((signal) => get('/api/v1/tokens', { limit: 1000 }, signal), [], REFRESH_MS);
  const [creates, setCreates] = useState(false);
  const [revokes, setRevokes] = useState(null);
  const kind = (state) => (state === 'active' ? 'good' : state === 'revoked' ? 'bad' : '');
  const columns = [
    { title: 'Name', kind: 'main', cell: (it) => it.name },
    { title: 'State', cell: (it) => html`<${Badge} kind=${kind(it.state)}>${it.state}<//>` },
    { title: 'Scopes', cell: (it) => it.scopes.join(', ') },
    { title: 'Environments', cell: (it) => it.environments.join(', ') },
    { title: 'Restricted to', cell: (it) => [...it.projects, ...it.flag_prefixes.map((one) => `${one}*`), ...it.owners].join(', ') || '–' },
    { title: 'Last use', kind: 'when', cell: (it) => ago(it.last_used_at) },
    { title: 'Expires', kind: 'when', cell: (it) => time(it.expires_at) },
    { title: 'Created', kind: 'when', cell: (it) => time(it.created_at) },
    { title: 'Revoke', cell: (it) => it.state === 'active' && html`<button type="button" class="danger" aria-label=${`Revoke ${it.name}`} onClick=${() => setRevokes(it)}>Revoke</button>` },
  ];
  const children = revokes ? load.data.tokens.filter((it) => it.made_by === revokes.id && it.state === 'active').length : 0;
  const effect = async () => html`<p><strong>${revokes.name}</strong> was last used ${ago(revokes.last_used_at)}. Every instance refuses it within two seconds${children ? `, and ${children} tokens that were created with it` : ''}.</p>`;
  return html`<${Heading} title="Tokens" note="Secrets are never stored: they are shown once">${load.data && html`<button type="button" class="primary" onClick=${() => setCreates(true)}>New token</button>`}<//>
    <${Loaded} load=${load} scope="admin" empty=${(it) => !it.tokens.length && html`<${Empty} title="There are no tokens." />`}>${(data) =>
      html`<${Table} label="Tokens" columns=${columns} rows=${data.tokens} rowKey=${(it) => it.id} />`}<//>
    ${creates && html`<${Create} close=${() => { setCreates(false); load.reload(); }} />`}
    ${revokes && html`<${Confirm} title=${`Revoke ${revokes.name}`} action="Revoke" destructive effect=${effect} run=${(reason) => call('DELETE', `/api/v1/tokens/${revokes.id}`, { reason })}
      close=${(/** @type {boolean} */ done) => { setRevokes(null); if (done) load.reload(); }} />`}`;
}

/** @param {{close: () => void}} props */
function Create({ close }) {
  const [name, setName] = useState('');
  const [scopes, setScopes] = useState(['evaluate']);
  const [environments, setEnvironments] = useState([]);
  const [expires, setExpires] = useState('90d');
  const [made, setMade] = useState(null);
  const toggled = (/** @type {string[]} */ all, one) => (all.includes(one) ? all.filter((it) => it !== one) : [...all, one]);
  const run = async (reason) =>
    setMade(await call('POST', '/api/v1/tokens', { body: { name, scopes, environments: environments.length ? environments : ['*'], ...(expires ? { expires_in: expires } : {}) }, reason }));
  if (made) {
    return html`<${Dialog} title="Token created" close=${close}><div class="stack"><p>Copy the secret of <strong>${made.name}</strong> now. It is not shown again.</p>
      <label>Secret<input readonly name="secret" value=${made.token} onFocus=${(event) => event.target.select()} /></label>
      <footer class="actions"><button type="button" class="primary" onClick=${() => navigator.clipboard?.writeText(made.token)}>Copy</button><button type="button" onClick=${close}>Done</button></footer></div><//>`;
  }
  const check = (label, /** @type {boolean} */ checked, /** @type {() => void} */ change) => html`<label class="check"><input type="checkbox" checked=${checked} onChange=${change} />${label}</label>`;
  return html`<${Confirm} title="New token" action="Create" run=${run} close=${(/** @type {boolean} */ done) => !done && close()}>
    <label>Name<input name="name" required maxlength="100" value=${name} onInput=${(event) => setName(event.target.value)} /></label>
    <fieldset><legend>Scopes</legend>${SCOPES.map((it) => check(it, scopes.includes(it), () => setScopes(toggled(scopes, it))))}</fieldset>
    <fieldset><legend>Environments (none: all)</legend>${me.value?.environments.map((it) => check(it, environments.includes(it), () => setEnvironments(toggled(environments, it))))}</fieldset>
    <label>Lifetime (empty: no expiry)<input name="expires" value=${expires} placeholder="90d" onInput=${(event) => setExpires(event.target.value)} /></label><//>`;
}
