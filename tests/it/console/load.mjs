// The benchmark of docs/benchmarks.md: frames and memory of the live page while many evaluations are committed. No test.
//
// node tests/it/console/load.mjs URL [SECONDS]
//
// The packages are those of $FLAGSTREAM_TEST_NODE_MODULES (`scripts/stack env`), the browser is chromium of the PATH.
import { readFileSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';

const [url, seconds = '30'] = process.argv.slice(2);
const require = createRequire(`${process.env.FLAGSTREAM_TEST_NODE_MODULES}/`);
const { chromium } = require('playwright-core');
const MIB = 1 << 20;

/** Resident memory of the tab's process that is not shared with other processes, in bytes. */
function memoryOf(pid) {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  const kib = (name) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)[1]);
  return (kib('Private_Clean') + kib('Private_Dirty')) * 1024;
}

/** The processes of tabs. */
function renderers() {
  const commandOf = (pid) => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
    } catch {
      return '';
    }
  };
  return readdirSync('/proc').filter((pid) => /^\d+$/.test(pid) && commandOf(pid).includes('--type=renderer'));
}

const before = new Set(renderers());
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox', '--enable-precise-memory-info'] });
const page = await browser.newPage({ viewport: { width: 1440, height: 900 } });
await page.goto(`${url}/console/#/live`);
await page.locator('td.main').first().waitFor();
const session = await page.context().newCDPSession(page);
// Times of the CPU, which other processes do not lengthen.
await session.send('Performance.enable', { timeDomain: 'threadTicks' });
const metricsOf = async () => Object.fromEntries((await session.send('Performance.getMetrics')).metrics.map(({ name, value }) => [name, value]));
const start = await metricsOf();

/** Times between frames, in milliseconds, until the time is over. */
const frames = await page.evaluate((limitMs) => new Promise((resolve) => {
  const times = [];
  let last = performance.now();
  const begun = last;
  const frame = (now) => {
    times.push(now - last);
    last = now;
    if (now - begun < limitMs) requestAnimationFrame(frame);
    else resolve(times.slice(1));
  };
  requestAnimationFrame(frame);
}), Number(seconds) * 1000);

const figures = await page.locator('.figures').innerText();
const metrics = await metricsOf();
const spent = (...names) => names.reduce((sum, name) => sum + metrics[name] - start[name], 0).toFixed(2);
const memory = Math.max(...renderers().filter((pid) => !before.has(pid)).map(memoryOf));
await browser.close();

frames.sort((a, b) => a - b);
const at = (share) => frames[Math.min(frames.length - 1, Math.round(frames.length * share))];
const total = frames.reduce((sum, time) => sum + time, 0);
console.log(figures.replace(/\n+/g, ' | '));
console.log(`frames: ${(frames.length * 1000 / total).toFixed(1)} per second; time of a frame p50 ${at(0.5).toFixed(1)} ms, p99 ${at(0.99).toFixed(1)} ms, longest ${at(1).toFixed(1)} ms`);
console.log(`memory: ${(memory / MIB).toFixed(0)} MiB of the tab's process, ${(metrics.JSHeapUsedSize / MIB).toFixed(1)} MiB of it JavaScript; ${metrics.Nodes} nodes`);
console.log(`CPU of the page's thread: ${spent('TaskDuration')} s in ${seconds} s, of it scripts ${spent('ScriptDuration')} s, styles and layout ${spent('LayoutDuration', 'RecalcStyleDuration')} s`);
