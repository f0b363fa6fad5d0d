// Experiment: exposures, sample ratio, effects with their intervals, and the decision in words.
import { html, useState } from '../lib/html.js';
import { call, get, useLoad } from '../lib/api.js';
import { address, route } from '../lib/router.js';
import { count, number, percent, time } from '../lib/format.js';
import { can } from '../lib/session.js';
import { Badge, Empty, Figure, Heading, Loaded, Panel } from '../parts/states.js';
import { Confirm } from '../parts/dialog.js';
import { Plot } from '../parts/plot.js';
import { Table } from '../parts/table.js';

const REFRESH_MS = 5000;
/** @type {Record<string, string>} */
const VERDICTS = { better: 'good', safe_so_far: 'good', worse: 'bad', harmed: 'bad' };
/** The results over time change with the users, so they are read less often. */
const HISTORY_REFRESH_MS = 30_000;

export default function Experiment() {
  const [of, name] = route.value.params;
  const path = `/api/v1/experiments/${encodeURIComponent(name)}`;
  const one = useLoad((signal) => get(path, { environment: of }, signal), [of, name], REFRESH_MS);
  const results = useLoad((signal) => get(`${path}/results`, { environment: of }, signal), [of, name], REFRESH_MS);
  const [stops, setStops] = useState(false);
  const [winner, setWinner] = useState('');
  const phase = results.data?.phase;
  const run = (reason) => call('POST', `${path}/stop`, { query: { environment: of }, body: { reason, ...(winner ? { winner } : {}) }, reason });
  const effect = async () => html`<p>Later evaluations expose no users. <strong>${count(phase?.users ?? 0)} users</strong> are exposed so far. Conversions still count until their window ends.</p>`;
  return html`<${Heading} title=${name} note=${html`<a href="#/experiments">Experiments</a> in ${of}`}>
      ${one.data?.status === 'running' && can('write') && html`<button type="button" class="danger" onClick=${() => setStops(true)}>Stop</button>`}<//>
    <${Loaded} load=${one}>${(data) => html`<${Panel} title="Design"><dl class="facts">
      <dt>State</dt><dd><${Badge} kind=${data.status === 'running' ? 'good' : ''}>${data.status}<//> ${data.winner ? `winner: ${data.winner}` : ''} ${data.reason ?? ''}</dd>
      <dt>Flag</dt><dd><a href=${address(['flags', data.environment, data.flag_name])}>${data.flag_name}</a>, control ${data.control}${data.holdout ? `, holdout ${data.holdout}` : ''}</dd>
      ${data.hypothesis && html`<dt>Hypothesis</dt><dd>${data.hypothesis}</dd>`}
      <dt>Started</dt><dd>${time(data.started_at)}${data.stopped_at ? `, stopped ${time(data.stopped_at)}` : ''}</dd>
      <dt>Metrics</dt><dd>${data.metrics.map((it) => html`${it.name} <${Badge} kind=${it.role === 'guardrail' ? 'warn' : ''}>${it.role}<//> `)}</dd></dl><//>`}<//>
    <${Loaded} load=${results}>${(data) => html`<${Results} data=${data} path=${path} of=${of} />`}<//>
    ${stops && html`<${Confirm} title=${`Stop ${name}`} action="Stop" destructive effect=${effect} run=${run} close=${(/** @type {boolean} */ done) => { setStops(false); if (done) { one.reload(); results.reload(); } }}>
      <label>Winner<select value=${winner} onChange=${(event) => setWinner(event.target.value)}><option value="">none</option>${(phase?.variants ?? []).map((it) => html`<option>${it.name}</option>`)}</select></label><//>`}`;
}

/** @param {{data: any, path: string, of: string}} props */
function Results({ data, path, of }) {
  const { phase } = data;
  const history = useLoad((signal) => get(`${path}/history`, { environment: of }, signal), [path, of], HISTORY_REFRESH_MS);
  return html`<${Panel} title="In words"><ul class="plain">${data.conclusions.map((it) => html`<li>${it.alarm && html`<${Badge} kind="bad">alarm<//> `}${it.text}</li>`)}</ul><//>
    ${phase && html`<div class="figures"><${Figure} label="Exposed users" value=${count(phase.users)} note=${`phase ${phase.number} since ${time(phase.started_at)}`} />
      <${Figure} label="Sample ratio" value=${phase.sample_ratio.alarm ? 'mismatch' : 'as planned'} kind=${phase.sample_ratio.alarm ? 'bad' : ''} note=${phase.sample_ratio.tested && `p ${phase.sample_ratio.tested.p_value.toPrecision(2)}`} />
      <${Figure} label="Crossed over" value=${count(phase.crossed)} kind=${phase.crossed_alarm ? 'bad' : ''} note="users who saw several variants" />
      <${Figure} label="Conversions" value=${count(data.conversions.attributed)} note=${`${count(data.conversions.waiting)} wait for an exposure`} />
      ${data.counted && html`<${Figure} label="Counted" value=${`${data.counted.age_seconds} s ago`} />`}</div>
    <${Variants} phase=${phase} />${phase.metrics.map((it) => html`<${Metric} key=${it.name} metric=${it} history=${history.data} />`)}
    ${phase.dimensions[0] && html`<${Dimensions} key=${path} dimensions=${phase.dimensions} />`}`}
    ${data.earlier_phases.length > 0 && html`<${Panel} title="Earlier phases"><ul class="plain">${data.earlier_phases.map((it) => html`<li>phase ${it.number}: ${time(it.started_at)} to ${time(it.ended_at)}, ${count(it.users)} users</li>`)}</ul><//>`}`;
}

/** @param {{phase: any}} props */
function Variants({ phase }) {
  const columns = [
    { title: 'Variant', kind: 'main', cell: (it) => html`${it.name} <${Badge}>${it.part}<//>` },
    { title: 'Users', kind: 'number', cell: (it) => count(it.users) },
    { title: 'Share', kind: 'number', cell: (it) => percent(it.share) },
    { title: 'Planned', kind: 'number', cell: (it) => percent(it.expected_share) },
  ];
  return html`<${Table} label="Variants" columns=${columns} rows=${phase.variants} rowKey=${(it) => it.name} />`;
}

/** Columns of comparisons with the control. @type {import('../parts/table.js').Column[]} */
const EFFECTS = [
  { title: 'Variant', kind: 'main', cell: (it) => it.variant },
  { title: 'Verdict', cell: (it) => html`<${Badge} kind=${VERDICTS[it.verdict] ?? ''}>${it.verdict.replaceAll('_', ' ')}<//> <span class="note">${it.missing?.replaceAll('_', ' ')}</span>` },
  { title: 'Relative effect', kind: 'number', cell: (it) => (it.relative || it.difference == null ? percent(it.relative?.difference) : `${number(it.difference)} absolute`) },
  { title: 'Interval', kind: 'wide', cell: (it) => html`<${Interval} effect=${it.relative} />` },
  { title: 'p', kind: 'number', cell: (it) => it.p_value?.toPrecision(2) ?? '–' },
  { title: 'Still needed', kind: 'number', cell: (it) => (it.users_left == null ? '–' : `${count(it.users_left)} users`) },
];

/** Results by the values of an attribute, which is chosen. @param {{dimensions: any[]}} props */
function Dimensions({ dimensions }) {
  const [at, choose] = useState(0);
  const { name, levels } = dimensions[at];
  const rows = levels.flatMap((level) => level.metrics.flatMap((metric) => metric.comparisons.map((it) => ({ ...it, level, metric: metric.name }))));
  const columns = [
    { title: name, kind: 'main', cell: ({ level }) => level.value ?? html`<em>${level.kind}</em>` },
    { title: 'Users', kind: 'number', cell: (it) => count(it.level.users) },
    { title: 'Metric', cell: (it) => it.metric },
    // How many users are still needed is known for the whole experiment only.
    ...EFFECTS.slice(0, -1),
  ];
  return html`<${Panel} title="By dimension" note="hints: no conclusion is drawn from them"><div class="stack"><div class="filters">
    <label>Dimension<select value=${at} onChange=${(event) => choose(event.target.value)}>${dimensions.map((it, index) => html`<option value=${index}>${it.name}${it.source === 'conversion' && ' of conversions'}</option>`)}</select></label></div>
    ${rows[0] ? html`<${Table} label=${`Effects by ${name}`} columns=${columns} rows=${rows} rowKey=${(it) => `${it.level.kind} ${it.level.value} ${it.metric} ${it.variant}`} />` : html`<${Empty} title="No users are compared yet." />`}</div><//>`;
}

/** @param {{metric: any, history: any}} props */
function Metric({ metric, history }) {
  const level = (it) => `${it.variant} ${metric.kind === 'conversion' || metric.kind === 'retention' ? percent(it.mean) : it.mean == null ? '–' : number(it.mean)}`;
  return html`<${Panel} title=${metric.name} note=${`${metric.role}, should ${metric.goal}; ${metric.levels.map(level).join(', ')}`}>
    <div class="stack"><${Table} label=${`Effects on ${metric.name}`} columns=${EFFECTS} rows=${metric.comparisons} rowKey=${(it) => it.variant} />
    ${metric.comparisons.map(({ variant }) => html`<${History} key=${variant} variant=${variant} name=${metric.name} points=${points(history, metric.name, variant)} />`)}</div><//>`;
}

/** @param {{variant: string, name: string, points: {at: number, effect: number, low: number, high: number}[]}} props */
function History({ variant, name, points }) {
  if (points.length < 2) return null;
  const series = ['effect', 'low', 'high'].map((member) => ({ name: member, values: points.map((it) => it[member]), dash: member !== 'effect' }));
  return html`<div><h3>Effect of ${variant} over time <span class="note">relative, with its interval</span></h3>
    <${Plot} label=${`Effect of ${variant} on ${name} over time`} unit=" %" times=${points.map((it) => it.at)} bands=${[[1, 2]]} series=${series} /></div>`;
}

/** Relative effects of a variant over time, in per cent. @param {any} history @param {string} metric @param {string} variant */
function points(history, metric, variant) {
  return (history?.points ?? []).flatMap((point) => {
    const relative = point.comparisons.find((it) => it.metric === metric && it.variant === variant)?.relative;
    return relative ? [{ at: Date.parse(point.counted_at) / 1000, effect: relative.difference * 100, low: relative.interval.low * 100, high: relative.interval.high * 100 }] : [];
  });
}

/** An interval around zero. @param {{effect: any}} props */
function Interval({ effect }) {
  if (!effect) return null;
  const range = [effect.interval.low, effect.interval.high];
  const reach = Math.max(Math.abs(range[0]), Math.abs(range[1]), 0.001) * 1.1;
  const x = (value) => 110 + (value / reach) * 100;
  return html`<svg class="forest" viewBox="0 0 220 30" role="img" aria-label=${`${percent(range[0])} to ${percent(range[1])}`}><line class="zero" x1="110" y1="2" x2="110" y2="28" />
    <line class="range" x1=${x(range[0])} y1="15" x2=${x(range[1])} y2="15" /><circle cx=${x(effect.difference)} cy="15" r="5" /></svg><span class="note">${percent(range[0])} to ${percent(range[1])}</span>`;
}
