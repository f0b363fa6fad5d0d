// Propagation: how far the last changes have spread, and which instance was the slowest.
import { html } from '../lib/html.js';
import { get, useLoad } from '../lib/api.js';
import { address } from '../lib/router.js';
import { duration, time, who } from '../lib/format.js';
import { environment } from '../lib/session.js';
import { Badge, Empty, Figure, Heading, Loaded } from '../parts/states.js';
import { Table } from '../parts/table.js';

const REFRESH_MS = 2000;
const STAGES = [['seen_to_committed', 'Seen → written'], ['committed_to_in_force', 'Written → in force everywhere'], ['committed_to_announced', 'Written → cache invalid'], ['committed_to_refreshed', 'Written → last key correct']];
const KEY = [['c4', 'seen → written'], ['c1', 'in force'], ['c5', 'cache invalid'], ['c6', 'last key correct'], ['c2', 'waiting']];

export default function Propagation() {
  const load = useLoad((signal) => get('/api/v1/propagation', { environment: environment.value, limit: 50 }, signal), [environment.value], REFRESH_MS);
  return html`<${Heading} title="Propagation" note="The path of each change: seen at its source, written to Kafka, in force on each instance, cached values invalid" />
    <${Loaded} load=${load} empty=${(it) => !it.changes.length && html`<${Empty} title="No flag has changed in the last day." />`}>${(data) => html`
      <div class="figures">${STAGES.map(([name, title]) => {
        const stage = data.statistics.stages[name];
        return html`<${Figure} label=${title} value=${stage ? `${duration(stage.p50_ms)} / ${duration(stage.p99_ms)}` : '–'} note=${stage ? `p50 / p99 of ${stage.count} changes` : 'not measured'} />`;
      })}</div>
      <div class="key">${KEY.map(([kind, title]) => html`<span><span class=${`swatch ${kind}`}></span>${title}</span>`)}</div>
      <${Changes} changes=${data.changes} />`}<//>`;
}

/** @param {{changes: any[]}} props */
function Changes({ changes }) {
  const columns = [
    { title: 'Flag', kind: 'main', cell: (it) => html`<a href=${address(['flags', it.environment, it.flag_name])}>${it.flag_name}</a> <span class="note">${it.environment}</span>` },
    { title: 'Change', cell: (it) => html`<${Badge}>${it.event_type.replace('FEATURE_FLAG_', '').toLowerCase()}<//> <span class="note">${it.version} by ${who(it.actor)}</span>` },
    { title: 'Written', kind: 'when', cell: (it) => time(it.committed_at) },
    { title: 'Path', kind: 'wide', cell: (it) => html`<${Path} change=${it} />` },
    { title: 'Slowest instance', cell: (it) => html`<${Slowest} change=${it} />` },
  ];
  return html`<${Table} label="Changes" columns=${columns} rows=${changes} rowKey=${(it) => it.version} />`;
}

/** @param {{change: any}} props */
function Slowest({ change }) {
  const it = change.slowest;
  if (!it) return html`<span class="note">no instance was running then</span>`;
  return html`<span data-slowest=${it.instance}>${it.instance}</span> ${it.state === 'waiting' ? html`<${Badge} kind="bad">waiting for ${duration(it.after_ms)}<//>` : html`<span class="note">${it.after_ms == null ? it.state : duration(it.after_ms)}</span>`}
    <div class="note">${change.instances.filter((one) => one.instance !== it.instance).map((one) => `${one.instance} ${one.after_ms == null ? one.state : duration(one.after_ms)}`).join(', ')}</div>`;
}

/** Durations of the stages as bars from the time at which the change was seen. @param {{change: any}} props */
function Path({ change }) {
  const seen = Date.parse(change.seen_at);
  const after = (/** @type {string | null} */ text) => (text ? Math.max(0, Date.parse(text) - seen) : null);
  const committed = after(change.committed_at) ?? 0;
  const inForce = change.slowest?.after_ms == null ? null : committed + change.slowest.after_ms;
  const waits = change.slowest?.state === 'waiting';
  const ends = [['c4', 0, committed], [waits ? 'c2' : 'c1', committed, inForce], ['c5', committed, after(change.announced_at)], ['c6', committed, after(change.refreshed_at)]];
  const bars = ends.filter(([, , end]) => end != null);
  const total = Math.max(1, ...bars.map(([, , end]) => Number(end)));
  const height = 20 / bars.length;
  const text = bars.map(([kind, , end]) => `${KEY.find(([name]) => name === kind)?.[1]} after ${duration(Number(end))}`).join(', ');
  return html`<div class="track"><svg viewBox="0 0 100 22" preserveAspectRatio="none" role="img" aria-label=${text}>${bars.map(([kind, from, to], index) => html`<rect class=${kind} x=${(Number(from) / total) * 100} y=${1 + index * height} width=${Math.max(1, ((Number(to) - Number(from)) / total) * 100)} height=${height - 1} />`)}</svg></div><span class="note">${duration(total)}</span>`;
}
