// What-if: proposed flags against the recorded traffic.
import { html, useState } from '../lib/html.js';
import { call, get, segment, useLoad } from '../lib/api.js';
import { route, setQuery } from '../lib/router.js';
import { count, local, percent, pretty, rfc3339, time, who } from '../lib/format.js';
import { anEnvironment, can, me } from '../lib/session.js';
import { Badge, Empty, Failure, Figure, Heading, Json, Loaded, NoPermission, Panel } from '../parts/states.js';
import { Table } from '../parts/table.js';
import { changes, document as editable } from './edit.js';

const REFRESH_MS = 1000;
const LIST_REFRESH_MS = 5000;
const DAY_MS = 86_400_000;

export default function WhatIf() {
  const id = route.value.query.get('replay');
  if (!can('read')) return html`<${Heading} title="What-if" /><${NoPermission} scope="read" />`;
  return html`<${Heading} title="What-if" note="Evaluates recorded evaluations again with proposed flags, or with those of another time. Changes nothing." />
    <div class="columns"><${Start} /><${Latest} current=${id} /></div>
    ${id && html`<${Replay} id=${id} key=${id} />`}`;
}

function Start() {
  const query = route.value.query;
  const [of, setOf] = useState(query.get('environment') || anEnvironment.value);
  const [flag, setFlag] = useState(query.get('flag') ?? '');
  const [from, setFrom] = useState(local(new Date(Date.now() - DAY_MS)));
  const [to, setTo] = useState('');
  const [mode, setMode] = useState('with');
  const [asOf, setAsOf] = useState('');
  const [text, setText] = useState('');
  const [error, setError] = useState(null);
  const load = async () => {
    setError(null);
    try {
      const found = await call('GET', `/api/v1/feature-flags/${segment(flag)}`, { query: { environment: of } });
      if (found.source === 'local') return setText(pretty(editable(found)));
      const { definition } = await call('POST', `/api/v1/feature-flags/${segment(flag)}/explain`, { query: { environment: of }, body: {} });
      return setText(pretty({ version: 2, features: [definition] }));
    } catch (failed) {
      return setError(failed);
    }
  };
  const submit = async (event) => {
    event.preventDefault();
    setError(null);
    const body = { from: rfc3339(from), to: rfc3339(to) || undefined, environment: of, flags: flag ? [flag] : undefined,
      ...(mode === 'as_of' ? { as_of: rfc3339(asOf) } : mode === 'with' ? { with: parse(text) } : {}) };
    try {
      const started = await call('POST', '/api/v1/replays', { body });
      setQuery({ replay: started.id, environment: of, flag });
    } catch (failed) {
      setError(failed);
    }
  };
  const input = (/** @type {(value: string) => void} */ set) => (event) => set(event.target.value);
  return html`<${Panel} title="Proposal"><form class="stack" onSubmit=${submit}>
    <div class="filters"><label>Environment<select value=${of} onChange=${input(setOf)}>${me.value?.environments.map((it) => html`<option>${it}</option>`)}</select></label>
      <label>Flag (empty: all)<input name="flag" value=${flag} onInput=${input(setFlag)} /></label>
      <label>From<input type="datetime-local" value=${from} required onInput=${input(setFrom)} /></label>
      <label>To (empty: now)<input type="datetime-local" value=${to} onInput=${input(setTo)} /></label>
      <label>Evaluate with<select name="mode" value=${mode} onChange=${input(setMode)}><option value="with">proposed flags</option><option value="as_of">the flags of another time</option><option value="then">the same flags (a proof)</option></select></label></div>
    ${mode === 'as_of' && html`<label>Flags in force at<input type="datetime-local" value=${asOf} required onInput=${input(setAsOf)} /></label>`}
    ${mode === 'with' && html`<div><button type="button" disabled=${!flag} onClick=${load}>Load the flag in force</button></div>
      <label>Proposed flags: a local flag, a list of them, or Unleash's format<textarea class="code" name="with" rows="12" required spellcheck=${false} value=${text} onInput=${input(setText)}></textarea></label>`}
    ${error && html`<${Failure} error=${error} />`}
    <button class="primary">Run</button></form><//>`;
}

/** @param {string} text */
function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** @param {{state: string}} props */
const ReplayState = ({ state }) => html`<${Badge} kind=${{ done: 'good', failed: 'bad', running: 'warn' }[state] ?? ''}>${state}<//>`;

/** @param {{current: string | null}} props */
function Latest({ current }) {
  const load = useLoad((signal) => get('/api/v1/replays', {}, signal), [current], LIST_REFRESH_MS);
  const columns = [
    { title: 'Started', kind: 'main', cell: (it) => html`<a href=${`#/what-if?replay=${it.id}`} aria-current=${it.id === current || undefined}>${time(it.started_at)}</a>` },
    { title: 'By', cell: (it) => who(it.actor) },
    { title: 'Flags', cell: (it) => it.request.flags?.join(', ') || 'all' },
    { title: 'State', cell: (it) => html`<${ReplayState} state=${it.state} />` },
  ];
  return html`<${Panel} title="Latest runs"><${Loaded} load=${load} empty=${(it) => !it.replays.length && html`<${Empty} title="Nothing was run in the last week." />`}>${(data) =>
    html`<${Table} label="Latest runs" columns=${columns} rows=${data.replays.slice(0, 10)} rowKey=${(it) => it.id} />`}<//><//>`;
}

/** @param {{id: string}} props */
function Replay({ id }) {
  const [ended, setEnded] = useState(false);
  const load = useLoad(async (signal) => {
    const data = await get(`/api/v1/replays/${id}`, {}, signal);
    if (data.state !== 'running') setEnded(true);
    return data;
  }, [id, ended], ended ? 0 : REFRESH_MS);
  const stop = () => call('DELETE', `/api/v1/replays/${id}`, { reason: 'stopped in the console' }).then(load.reload);
  return html`<${Loaded} load=${load}>${(data) => html`<${Panel} title="Result" note=${`${time(data.request.from)} to ${time(data.request.to)}, run by ${data.instance}`}>
    <div class="stack"><div class="actions"><${ReplayState} state=${data.state} /><span>${count(data.evaluations)} evaluations read</span>
      ${data.state === 'running' && html`<button type="button" onClick=${stop}>Stop</button>`}</div>
    ${data.state === 'running' && html`<progress max="1" value=${data.progress} aria-label="Progress">${percent(data.progress)}</progress>`}
    ${data.error && html`<${Failure} error=${{ message: data.error }} />`}
    ${data.report && html`<${Report} report=${data.report} />`}
    ${data.request.with && html`<details><summary>Proposed flags</summary><${Json} value=${data.request.with} label="Proposed flags" /></details>`}</div><//>`}<//>`;
}

/** @param {{report: any}} props */
function Report({ report }) {
  const unrepeatable = Object.entries(report.unrepeatable);
  return html`<div class="stack" data-report>
    <div class="figures"><${Figure} label="Changed evaluations" value=${html`<span data-different>${count(report.different)}</span>`} note=${`of ${count(report.evaluations)}`} kind=${report.different ? 'warn' : ''} />
      <${Figure} label="Changed users" value=${html`<span data-users>${count(report.users)}</span>`} /><${Figure} label="Changed requests" value=${count(report.requests)} />
      <${Figure} label="Unchanged" value=${count(report.same + report.untouched)} note=${`${count(report.untouched)} not touched`} />
      <${Figure} label="Not repeatable" value=${count(unrepeatable.reduce((sum, [, it]) => sum + Number(it), 0))} note=${unrepeatable.map(([why, it]) => `${why.replaceAll('_', ' ')} ${it}`).join(', ')} /></div>
    ${!report.different && html`<${Empty} title="No evaluation gets another result." />`}
    ${report.flags.map((flag) => html`<${Panel} title=${flag.flag_name} note=${`${flag.environment}: ${count(flag.different)} evaluations of ${count(flag.users)} users`}>
      ${changes({ flags: [flag] })}<${Examples} examples=${flag.examples} /><//>`)}</div>`;
}

/** @param {{examples: any[]}} props */
function Examples({ examples }) {
  const result = (it) => html`<code>${it.value}</code> <span class="note">${it.enabled ? 'on' : 'off'}, ${it.reason}</span>`;
  const columns = [
    { title: 'User', kind: 'main', cell: (it) => it.user_id ?? '–' },
    { title: 'Recorded', cell: (it) => result(it.recorded) },
    { title: 'Again', cell: (it) => result(it.again) },
    { title: 'Context', cell: (it) => html`<code>${it.context ? JSON.stringify(it.context).slice(0, 120) : '–'}</code>` },
    { title: 'At', kind: 'when', cell: (it) => time(it.evaluated_at) },
  ];
  return html`<${Table} label="Examples" columns=${columns} rows=${examples} rowKey=${(it) => it.event_id} />`;
}
