// Flags: all of them, with their state, their use, and what is wrong with them.
import { html, useEffect, useState } from '../lib/html.js';
import { get, segment, useLoad } from '../lib/api.js';
import { address } from '../lib/router.js';
import { ago, count } from '../lib/format.js';
import { can, environment } from '../lib/session.js';
import { Badge, Empty, Heading, Loaded } from '../parts/states.js';
import { Sparkline } from '../parts/plot.js';
import { Table } from '../parts/table.js';
import { EditDialog } from './edit.js';
import { KillDialog } from './kill.js';

const REFRESH_MS = 10_000;
/** Flags of one page of the API, which is its limit too. */
const PAGE = 100;
/** Usages that are loaded at the same time. */
const AT_ONCE = 4;

/** Loads all flags, page by page, with the reasons why some need attention. @param {AbortSignal} signal */
async function all(signal) {
  const items = [];
  for (let offset = 0; ; offset += PAGE) {
    const page = await get('/api/v1/feature-flags', { environment: environment.value, limit: PAGE, offset }, signal);
    items.push(...page.items);
    if (offset + PAGE >= page.total || offset > 5_000) break;
  }
  const stale = await get('/api/v1/feature-flags/stale', { environment: environment.value, limit: PAGE }, signal).catch(() => ({ items: [] }));
  const reasons = new Map(stale.items.map((it) => [`${it.environment}/${it.name}`, it.reasons]));
  return items.map((it) => ({ ...it, reasons: reasons.get(`${it.environment}/${it.name}`) ?? [] }));
}

export default function Flags() {
  const load = useLoad(all, [environment.value], REFRESH_MS);
  const [text, setText] = useState('');
  const [shown, setShown] = useState('all');
  const [creates, setCreates] = useState(false);
  const [turns, setTurns] = useState(null);
  const done = () => load.reload();
  return html`<${Heading} title="Flags" note="Keys: / to search, j and k to move, Enter to open">
      ${can('write') && html`<button type="button" class="primary" onClick=${() => setCreates(true)}>New flag</button>`}<//>
    <div class="filters"><label>Search<input type="search" value=${text} onInput=${(event) => setText(event.target.value)} placeholder="name, owner, tag or description" /></label>
      <label>Show<select value=${shown} onChange=${(event) => setShown(event.target.value)}>
        <option value="all">all</option><option value="on">switched on</option><option value="off">switched off</option><option value="killed">killed</option><option value="attention">needs attention</option><option value="local">local</option></select></label></div>
    <${Loaded} load=${load} empty=${(data) => !data.length && html`<${Empty} title="There are no flags here."><p>Create one, or connect Unleash.</p><//>`}>${(data) => {
      const rows = data.filter((it) => matches(it, text, shown));
      return rows.length ? html`<p class="note" role="status">${count(rows.length)} of ${count(data.length)} flags</p><${List} rows=${rows} turn=${setTurns} />` : html`<${Empty} title="No flag matches." />`;
    }}<//>
    ${creates && html`<${EditDialog} close=${(/** @type {boolean} */ changed) => { setCreates(false); if (changed) done(); }} />`}
    ${turns && html`<${KillDialog} flag=${turns} close=${(/** @type {boolean} */ changed) => { setTurns(null); if (changed) done(); }} />`}`;
}

/** @param {any} flag @param {string} text @param {string} shown */
function matches(flag, text, shown) {
  const words = [flag.name, flag.owner, flag.description, ...flag.tags].join(' ').toLowerCase();
  const is = { on: flag.is_switched_on, off: !flag.is_switched_on, killed: flag.kill_switch, attention: flag.reasons.length, local: flag.source === 'local' }[shown] ?? true;
  return Boolean(is) && text.toLowerCase().split(/\s+/).every((word) => words.includes(word));
}

/** @param {{flag: any}} props */
export function FlagState({ flag }) {
  if (flag.kill_switch) return html`<${Badge} kind="bad" title=${flag.kill_switch.reason}>killed<//>`;
  if (flag.is_enabled) return html`<${Badge} kind="good">on<//>`;
  return html`<${Badge}>${flag.is_switched_on ? 'on for no one' : 'off'}<//>`;
}

/** @param {{rows: any[], turn: (flag: any) => void}} props */
function List({ rows, turn }) {
  const usages = useUsages(rows);
  const columns = [
    { title: 'Flag', kind: 'main', cell: (it) => html`<a href=${address(['flags', it.environment, it.name])}>${it.name}</a>` },
    { title: 'State', cell: (it) => html`<${FlagState} flag=${it} />${it.in_force ? '' : html` <${Badge} kind="warn">not in force<//>`}` },
    { title: 'Environment', cell: (it) => it.environment },
    { title: 'Type', cell: (it) => it.type ?? '–' },
    { title: 'Source', cell: (it) => it.source },
    { title: 'Owner', cell: (it) => it.owner ?? '–' },
    { title: 'Last day', cell: (it) => html`<${Usage} usage=${usages[`${it.environment}/${it.name}`]} />` },
    { title: 'Evaluations', kind: 'number', cell: (it) => count(it.evaluation_count) },
    { title: 'Last', kind: 'when', cell: (it) => ago(it.last_evaluated_at) },
    { title: 'Attention', cell: (it) => it.reasons.map((reason) => html`<${Badge} kind="warn">${reason.replaceAll('_', ' ')}<//> `) },
    ...(can('write') ? [{ title: 'Switch', cell: (it) => html`<button type="button" class=${it.kill_switch ? '' : 'danger'} onClick=${() => turn(it)} aria-label=${`${it.kill_switch ? 'Restore' : 'Kill'} ${it.name} in ${it.environment}`}>${it.kill_switch ? 'Restore' : 'Kill'}</button>` }] : []),
  ];
  return html`<${Table} label="Flags" columns=${columns} rows=${rows} rowKey=${(it) => `${it.environment}/${it.name}`} />`;
}

/** @param {{usage: any}} props */
function Usage({ usage }) {
  if (!usage) return null;
  return html`<${Sparkline} values=${usage.hours} label=${`${usage.total} evaluations in the last day`} />`;
}

/** Usages of the last day by flag, loaded a few at a time. @param {any[]} rows */
function useUsages(rows) {
  const [usages, setUsages] = useState({});
  const keys = rows.slice(0, PAGE).map((it) => `${it.environment}/${it.name}`);
  useEffect(() => {
    const controller = new AbortController();
    const waiting = rows.slice(0, PAGE).filter((it) => !usages[`${it.environment}/${it.name}`]);
    const next = async () => {
      for (let flag = waiting.shift(); flag && !controller.signal.aborted; flag = waiting.shift()) {
        const { name, environment: of } = flag;
        const usage = await get(`/api/v1/feature-flags/${segment(name)}/usage`, { environment: of, resolution: 'hour' }, controller.signal).catch(() => null);
        if (usage) setUsages((before) => ({ ...before, [`${of}/${name}`]: { total: usage.total.evaluations, hours: hours(usage) } }));
      }
    };
    for (let worker = 0; worker < AT_ONCE; worker++) next();
    return () => controller.abort();
  }, [keys.join()]);
  return usages;
}

/** Evaluations of each hour, those without any included. @param {any} usage */
function hours(usage) {
  const first = Date.parse(usage.from);
  const values = new Array(25).fill(0);
  for (const bucket of usage.buckets) values[Math.min(24, Math.round((Date.parse(bucket.starts_at) - first) / 3_600_000))] = bucket.evaluations;
  return values;
}
