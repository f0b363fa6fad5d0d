// Dead letters: rejected records, which can be edited and sent again.
import { html, useState } from '../lib/html.js';
import { call, get, useLoad } from '../lib/api.js';
import { count, time } from '../lib/format.js';
import { can } from '../lib/session.js';
import { Badge, Empty, Heading, Json, Loaded } from '../parts/states.js';
import { Confirm, Dialog } from '../parts/dialog.js';
import { Table } from '../parts/table.js';

const REFRESH_MS = 10_000;
const place = (it) => `${it.partition}-${it.offset}`;
const item = (it) => ({ partition: it.partition, offset: it.offset });

export default function DeadLetters() {
  const [code, setCode] = useState('');
  const load = useLoad((signal) => get('/api/v1/dead-letters', { code, limit: 200 }, signal), [code], REFRESH_MS);
  const [chosen, setChosen] = useState({});
  const [open, setOpen] = useState(null);
  const [sends, setSends] = useState(null);
  const toggle = (it) => setChosen(({ [place(it)]: known, ...rest }) => (known ? rest : { ...rest, [place(it)]: it }));
  const many = Object.values(chosen);
  const columns = [
    ...(can('write') ? [{ title: 'Select', cell: (it) => html`<input type="checkbox" aria-label=${`Select ${place(it)}`} checked=${place(it) in chosen} onChange=${() => toggle(it)} />` }] : []),
    { title: 'Position', kind: 'main', cell: (it) => html`<button type="button" class="link" onClick=${() => setOpen(it)}>${place(it)}</button>` },
    { title: 'Code', cell: (it) => html`<${Badge} kind="bad">${it.code}<//>` },
    { title: 'Message', kind: 'wide', cell: (it) => it.message },
    { title: 'From', cell: (it) => `${it.source.topic} ${it.source.partition}/${it.source.offset}` },
    { title: 'Key', cell: (it) => it.key ?? '–' },
    { title: 'Body', kind: 'number', cell: (it) => (it.body_omitted ? 'too large' : `${count(it.body_bytes)} B`) },
    { title: 'Written', kind: 'when', cell: (it) => time(it.written_at) },
  ];
  return html`<${Heading} title="Dead letters" note="Records that cannot be processed, with the reason">
      ${many.length > 0 && html`<button type="button" class="primary" onClick=${() => setSends({ items: many.map(item) })}>Send ${many.length} again</button>`}<//>
    <div class="filters"><label>Code<input type="search" value=${code} onChange=${(event) => setCode(event.target.value)} placeholder="such as NOT_JSON" /></label></div>
    <${Loaded} load=${load} empty=${(it) => !it.dead_letters.length && html`<${Empty} title="There are no dead letters." />`}>${(data) => html`
      <p class="note" role="status">${count(data.dead_letters.length)} dead letters, newest first${data.truncated ? '; older ones are not shown' : ''}</p>
      <${Table} label="Dead letters" columns=${columns} rows=${data.dead_letters} rowKey=${place} />`}<//>
    ${open && html`<${One} row=${open} close=${() => setOpen(null)} send=${(order) => { setOpen(null); setSends(order); }} />`}
    ${sends && html`<${Send} order=${sends} close=${(/** @type {boolean} */ done) => { setSends(null); if (done) { setChosen({}); load.reload(); } }} />`}`;
}

/** @param {{row: any, close: () => void, send: (order: any) => void}} props */
function One({ row, close, send }) {
  const load = useLoad((signal) => get(`/api/v1/dead-letters/${place(row)}`, {}, signal), [place(row)]);
  const [text, setText] = useState(null);
  return html`<${Dialog} title=${`Dead letter ${place(row)}`} close=${close} wide><div class="stack">
    <${Loaded} load=${load} scope="audit">${(it) => html`<dl class="facts"><dt>Code</dt><dd><${Badge} kind="bad">${it.code}<//></dd><dt>Message</dt><dd>${it.message}</dd>
      <dt>Source</dt><dd>${it.source.topic} ${it.source.partition}/${it.source.offset}${it.source.index == null ? '' : `, flag ${it.source.index} of the request`}</dd>
      <dt>Key</dt><dd class="mono">${it.key ?? 'none'}</dd><dt>Written</dt><dd>${time(it.written_at)}</dd></dl>
      <h3>Headers</h3><${Json} value=${it.headers} label="Headers" />
      <label>Body${it.body_omitted ? ' (it was too large to be kept)' : ''}<textarea class="code" name="body" rows="10" spellcheck=${false} readonly=${!can('write')} value=${text ?? it.body ?? ''} onInput=${(event) => setText(event.target.value)}></textarea></label>
      <footer class="actions">${can('write') && html`<button type="button" class="primary" onClick=${() => send({ items: [{ ...item(it), ...(text != null && text !== it.body ? { body: text } : {}) }] })}>${text != null && text !== it.body ? 'Send the edited body…' : 'Send again…'}</button>`}</footer>`}<//></div><//>`;
}

/** @param {{order: any, close: (done: boolean) => void}} props */
function Send({ order, close }) {
  const [whole, setWhole] = useState(false);
  const [intoSource, setIntoSource] = useState(false);
  const [outcomes, setOutcomes] = useState(null);
  const send = (more, reason = '') => call('POST', '/api/v1/dead-letters/replay', { body: { ...order, whole, into_source: intoSource, ...more }, reason });
  const effect = async () => html`<p>What would happen:</p><${Outcomes} outcomes=${(await send({ dry_run: true })).outcomes} />`;
  const run = async (reason) => setOutcomes((await send({}, reason)).outcomes);
  if (outcomes) return html`<${Dialog} title="Sent" close=${() => close(true)}><div class="stack"><${Outcomes} outcomes=${outcomes} /><footer class="actions"><button type="button" onClick=${() => close(true)}>Close</button></footer></div><//>`;
  return html`<${Confirm} key=${`${whole} ${intoSource}`} title=${`Send ${order.items.length} again`} action="Send" effect=${effect} run=${run} close=${(/** @type {boolean} */ done) => !done && close(false)}>
    <label class="check"><input type="checkbox" checked=${whole} onChange=${(event) => setWhole(event.target.checked)} />send whole requests, even if only one of their flags was rejected</label>
    <label class="check"><input type="checkbox" checked=${intoSource} onChange=${(event) => setIntoSource(event.target.checked)} />send records of taps to their source, where all its consumers read them again</label><//>`;
}

/** @param {{outcomes: any[]}} props */
const Outcomes = ({ outcomes }) => html`<ul class="plain" data-outcomes>${outcomes.map((it) => html`<li><code>${place(it)}</code> <${Badge} kind=${it.state === 'kept' ? 'bad' : 'good'}>${it.state === 'ready' ? 'would be sent' : it.state === 'kept' ? `not sent: ${it.reason}` : 'sent'}<//>
  ${it.sent ? ` at ${it.sent.partition}/${it.sent.offset}` : ''} ${it.message ?? ''}</li>`)}</ul>`;
