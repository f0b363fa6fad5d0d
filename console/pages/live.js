// Live: evaluations as they are committed.
import { html, useEffect, useMemo, useRef, useState } from '../lib/html.js';
import { follow } from '../lib/api.js';
import { clock, count, value } from '../lib/format.js';
import { can, environment, me, token } from '../lib/session.js';
import { Badge, Empty, Figure, Heading, NoPermission } from '../parts/states.js';
import { Table } from '../parts/table.js';
import { EvaluationDialog, Outcome, added } from './evaluation.js';

/** Evaluations on the page. Older ones are dropped, so that the page does not grow. */
const SHOWN = 100;
/** Time between two drawings, in milliseconds. Rows that change faster cannot be read. */
const DRAW_MS = 200;
/** Seconds over which the rate is averaged. */
const RATE_SECONDS = 5;
const FIELDS = [['flag_name', 'Flag'], ['user_id', 'User'], ['reason', 'Reason'], ['variant', 'Variant'], ['request_id', 'Request id']];
const REASONS = ['TARGETING_MATCH', 'DEFAULT', 'DISABLED', 'ERROR'];

export default function Live() {
  const [filters, setFilters] = useState({});
  const [paused, setPaused] = useState(false);
  const [view, setView] = useState({ rows: /** @type {any[]} */ ([]), matched: 0, leftOut: 0, rate: 0 });
  const [state, setState] = useState({ name: 'connecting', error: /** @type {any} */ (null) });
  const [open, setOpen] = useState(null);
  const isPaused = useRef(false);
  isPaused.current = paused;
  const key = JSON.stringify([filters, environment.value, token.value]);
  useEffect(() => {
    const controller = new AbortController();
    // Evaluations arrive faster than a page can be drawn: they are collected first.
    const all = { rows: /** @type {any[]} */ ([]), matched: 0, leftOut: 0, rates: /** @type {number[]} */ ([]) };
    /** @type {any} */
    let timer = 0;
    const draw = () => {
      timer = 0;
      if (isPaused.current) return;
      const rate = all.rates.reduce((sum, it) => sum + it, 0) / Math.max(1, all.rates.length);
      setView({ rows: all.rows, matched: all.matched, leftOut: all.leftOut, rate });
    };
    const event = (name, data) => {
      if (name === 'counts') {
        all.matched += data.matched;
        all.leftOut += data.left_out;
        all.rates = [...all.rates, data.matched].slice(-RATE_SECONDS);
      } else if (!isPaused.current) {
        all.rows = [data, ...all.rows].slice(0, SHOWN);
      }
      timer ||= setTimeout(draw, DRAW_MS);
    };
    setView({ rows: [], matched: 0, leftOut: 0, rate: 0 });
    const on = { event, state: (name, error = null) => setState({ name, error }) };
    if (can('read')) follow('/api/v1/evaluations/stream', { ...filters, environment: environment.value }, on, controller.signal);
    return () => {
      controller.abort();
      clearTimeout(timer);
    };
  }, [key, me.value?.actor]);
  if (!can('read')) return html`<${Heading} title="Live" /><${NoPermission} scope="read" />`;
  return html`<${Heading} title="Live" note="Evaluations as they are committed. At most 200 per second are shown; the others are counted.">
      <button type="button" aria-pressed=${paused} onClick=${() => setPaused(!paused)}>${paused ? 'Continue' : 'Pause'}</button><//>
    <${Filters} filters=${filters} set=${setFilters} />
    <div class="figures">
      <${Figure} label="Stream" value=${html`<${Badge} kind=${state.name === 'open' ? 'good' : 'bad'}>${paused ? 'paused' : state.name}<//>`} note=${state.error?.message} />
      <${Figure} label="Rate" value=${`${count(view.rate)}/s`} note="of the evaluations that match" />
      <${Figure} label="Matched" value=${count(view.matched)} />
      <${Figure} label="Left out" value=${count(view.leftOut)} note="counted, not shown" />
    </div>
    ${view.rows.length ? html`<${Rows} rows=${view.rows} open=${setOpen} />` : html`<${Empty} title="No evaluation has matched yet."><p>Evaluations appear here within a second.</p><//>`}
    ${open && html`<${EvaluationDialog} row=${open} close=${() => setOpen(null)} />`}`;
}

/** @param {{filters: Record<string, string>, set: (filters: Record<string, string>) => void}} props */
function Filters({ filters, set }) {
  const [draft, setDraft] = useState(filters);
  const submit = (event) => {
    event.preventDefault();
    set(draft);
  };
  const shown = FIELDS.filter(([name]) => can('audit') || (name !== 'user_id' && name !== 'request_id'));
  return html`<form class="filters" onSubmit=${submit}>${shown.map(([name, title]) => html`<label>${title}${name === 'reason'
    ? html`<select value=${draft.reason ?? ''} onChange=${(event) => setDraft({ ...draft, reason: event.target.value })}><option value="">any</option>${REASONS.map((it) => html`<option>${it}</option>`)}</select>`
    : html`<input name=${name} value=${draft[name] ?? ''} onInput=${(event) => setDraft({ ...draft, [name]: event.target.value })} />`}</label>`)}
    <button class="primary">Filter</button></form>`;
}

/** @param {{rows: any[], open: (row: any) => void}} props */
function Rows({ rows, open }) {
  // A column that only some services need, which stays once it was needed.
  const hasAttributes = useRef(false);
  hasAttributes.current ||= rows.some((it) => it.attributes);
  const columns = useMemo(() => [
    { title: 'Time', cell: (it) => html`<span class="mono">${clock(it.evaluated_at)}</span>` },
    { title: 'Flag', kind: 'main', cell: (it) => html`<button type="button" class="link" onClick=${() => open(it)}>${it.flag_name}</button>` },
    { title: 'Value', cell: (it) => html`<span class="mono">${value(it.value).slice(0, 60)}</span>` },
    { title: 'Result', cell: (it) => html`<${Outcome} row=${it} />` },
    { title: 'User', cell: (it) => it.user_id ?? '–' },
    ...(hasAttributes.current ? [{ title: 'Attributes', cell: added }] : []),
    { title: 'Environment', cell: (it) => it.environment },
    { title: 'Path', cell: (it) => it.source.api ?? (it.source.tap ? `tap ${it.source.tap}` : 'stream') },
  ], [hasAttributes.current]);
  return html`<${Table} label="Evaluations" columns=${columns} rows=${rows} rowKey=${(it) => it.event_id} />`;
}
