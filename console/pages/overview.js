// Overview: is everything well, and how much happens?
import { html, useRef } from '../lib/html.js';
import { get, useLoad } from '../lib/api.js';
import { bytes, count, duration, rate, time } from '../lib/format.js';
import { Badge, Figure, Heading, Loaded, Panel, State } from '../parts/states.js';
import { Plot } from '../parts/plot.js';
import { Table } from '../parts/table.js';

const REFRESH_MS = 1000;
/** Points of the plot of the rate, which covers as many refreshes. */
const POINTS = 300;

export default function Overview() {
  const load = useLoad((signal) => get('/api/v1/cluster', {}, signal), [], REFRESH_MS);
  const seen = useRef(/** @type {{at: number, rates: Record<string, number>}[]} */ ([]));
  const rates = load.data?.totals.evaluations_per_second;
  if (rates && seen.current.at(-1)?.rates !== rates) {
    seen.current = [...seen.current, { at: Date.now() / 1000, rates }].slice(-POINTS);
  }
  return html`<${Heading} title="Overview" note=${load.data && `${load.data.instances.length} ${load.data.instances.length === 1 ? 'instance' : 'instances'}, leader ${load.data.leader ?? 'none'}, flags version ${load.data.flags_version}`} />
    <${Loaded} load=${load}>${(data) => html`
      <${Alarms} data=${data} unreachable=${load.error} />
      <${Figures} totals=${data.totals} />
      <${Dependencies} dependencies=${data.dependencies} />
      <${Panel} title="Evaluations per second" note="by path, since this page was opened">
        <${Plot} label="Evaluations per second" times=${seen.current.map((it) => it.at)} unit="/s"
          series=${paths(seen.current.map((it) => it.rates)).map((path) => ({ name: path, values: seen.current.map((it) => it.rates[path] ?? 0) }))} /><//>
      <${Instances} data=${data} />`}<//>`;
}

/** Paths on which evaluations came. @param {Record<string, number>[]} rates */
const paths = (rates) => [...new Set(rates.flatMap(Object.keys))].sort();

/** @param {{data: any, unreachable: any}} props */
function Alarms({ data, unreachable }) {
  if (unreachable) return null;
  if (!data.alarms.length) return html`<p class="alarm-free" data-alarms="none"><${Badge} kind="good">all well<//> No alarms.</p>`;
  return html`<div role="alert" data-alarms=${data.alarms.some((it) => it.severity === 'critical') ? 'critical' : 'warning'}>${data.alarms.map(
    (it) => html`<p class=${`alarm ${it.severity}`}><strong>${it.severity}</strong><span>${it.text}</span></p>`,
  )}</div>`;
}

/** @param {{totals: any}} props */
function Figures({ totals }) {
  const all = Object.values(totals.evaluations_per_second).reduce((sum, it) => sum + it, 0);
  const quantiles = (name) => totals.durations_ms[name];
  const pair = (name) => (quantiles(name) ? `${duration(quantiles(name).p50)} / ${duration(quantiles(name).p99)}` : '–');
  return html`<div class="figures">
    <${Figure} label="Evaluations" value=${`${rate(all)}/s`} note=${paths([totals.evaluations_per_second]).map((it) => `${it} ${rate(totals.evaluations_per_second[it])}`).join(', ') || 'none yet'} />
    <${Figure} label="Request p50 / p99" value=${pair('request')} note="from the request to its results" />
    <${Figure} label="Audit p50 / p99" value=${pair('audit')} note="from an evaluation to its row" />
    <${Figure} label="Requests that wait" value=${count(totals.request_lag)} kind=${totals.request_lag > 10_000 ? 'warn' : ''} note="records of lag" />
    <${Figure} label="Audit lag" value=${count(totals.audit_lag)} kind=${totals.audit_lag > 10_000 ? 'warn' : ''} note="events not written yet" />
    <${Figure} label="Spool" value=${bytes(totals.spool_bytes)} kind=${totals.spool_bytes ? 'warn' : ''} note="events on disk" />
    <${Figure} label="Dead letters" value=${`${rate(totals.dead_letters_per_minute)}/min`} kind=${totals.dead_letters_per_minute ? 'warn' : ''} note=${html`<a href="#/dead-letters">look at them</a>`} />
    <${Figure} label="Killed flags" value=${count(totals.killed)} kind=${totals.killed ? 'warn' : ''} />
  </div>`;
}

/** @param {{dependencies: Record<string, any>}} props */
function Dependencies({ dependencies }) {
  return html`<${Panel} title="Dependencies"><ul class="chips">${Object.entries(dependencies).map(
    ([name, it]) => html`<li data-dependency=${name}><${State} state=${it.state} /> <strong>${name.replace('_', ' ')}</strong>${it.detail && html` <span class="note">${it.detail} (${it.reported_by})</span>`}</li>`,
  )}</ul><//>`;
}

/** @param {{data: any}} props */
function Instances({ data }) {
  const columns = [
    { title: 'Instance', kind: 'main', cell: (it) => html`${it.instance}${it.leader ? html` <${Badge}>leader<//>` : ''}` },
    { title: 'State', cell: (it) => (it.silent ? html`<${Badge} kind="bad">silent for ${duration(it.age_ms)}<//>` : html`<${State} state=${it.status} />${it.ready ? '' : html` <${Badge} kind="warn">not ready<//>`}`) },
    { title: 'Roles', cell: (it) => it.roles.join(', ') },
    { title: 'Build', cell: (it) => it.build },
    { title: 'Version in force', cell: (it) => html`${it.flags_version} ${it.is_current ? '' : html`<${Badge} kind="warn">behind<//>`}` },
    { title: 'Evaluations', kind: 'number', cell: (it) => `${rate(Object.values(it.numbers.evaluations_per_second).reduce((sum, one) => sum + one, 0))}/s` },
    { title: 'Waiting', kind: 'number', cell: (it) => count(it.numbers.request_lag) },
    { title: 'Audit lag', kind: 'number', cell: (it) => count(it.numbers.audit_lag) },
    { title: 'Since', kind: 'when', cell: (it) => time(it.started_at) },
  ];
  return html`<${Panel} title="Instances"><${Table} label="Instances" columns=${columns} rows=${data.instances} rowKey=${(it) => it.instance} /><//>`;
}
