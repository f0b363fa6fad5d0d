// Kills and restores a flag, with the evaluations that this changes.
import { html, useState } from '../lib/html.js';
import { call, get, segment } from '../lib/api.js';
import { count, rfc3339 } from '../lib/format.js';
import { Confirm } from '../parts/dialog.js';

/** Minutes over which the rate beside "kill" is averaged. */
const MINUTES = 10;

/** @param {any} flag @param {AbortSignal} signal */
async function effect(flag, signal) {
  const query = { environment: flag.environment, resolution: 'minute', from: new Date(Date.now() - MINUTES * 60_000).toISOString() };
  const { total } = await get(`/api/v1/feature-flags/${segment(flag.name)}/usage`, query, signal).catch((error) => {
    if (error.status === 404) return { total: { evaluations: 0, enabled: 0 } };
    throw error;
  });
  const minute = (sum) => count(Math.round(sum / MINUTES));
  return flag.kill_switch
    ? html`<p>The flag follows its definition again. It has <strong data-rate>${minute(total.evaluations)} evaluations per minute</strong>.</p>
      <p class="note">Killed by ${flag.kill_switch.actor}: ${flag.kill_switch.reason}</p>`
    : html`<p>The flag is off for everyone at once, on all instances. It has <strong data-rate>${minute(total.evaluations)} evaluations per minute</strong>, of which ${minute(total.enabled)} find it on.</p>`;
}

/** @param {{flag: any, close: (changed: boolean) => void}} props */
export function KillDialog({ flag, close }) {
  const [until, setUntil] = useState('');
  const kills = !flag.kill_switch;
  const path = `/api/v1/feature-flags/${segment(flag.name)}/${kills ? 'kill' : 'restore'}`;
  const run = (reason) =>
    call('POST', path, { query: { environment: flag.environment }, body: { reason, ...(kills && until ? { expires_at: rfc3339(until) } : {}) } });
  return html`<${Confirm} title=${`${kills ? 'Kill' : 'Restore'} ${flag.name} in ${flag.environment}`} action=${kills ? 'Kill' : 'Restore'}
    destructive=${kills} effect=${(/** @type {AbortSignal} */ signal) => effect(flag, signal)} run=${run} close=${close}>
    ${kills && html`<label>Until (empty: until it is restored)<input type="datetime-local" value=${until} onInput=${(event) => setUntil(event.target.value)} /></label>`}<//>`;
}
