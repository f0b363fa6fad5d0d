// A browser that notes every violation of the page's policy, every error, and every request to another origin.
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';

export const settings = JSON.parse(process.env.CONSOLE_TEST);
const require = createRequire(`${settings.node_modules}/`);
const { chromium } = require('playwright-core');
const axe = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');

export const faults = [];

/** What the page did that it must not do. */
function watch(page) {
  const origin = new URL(settings.url).origin;
  page.on('request', (request) => {
    const url = request.url();
    if (!url.startsWith(`${origin}/`) && !url.startsWith('data:') && !url.startsWith('blob:')) faults.push(`a request to ${url}`);
  });
  page.on('pageerror', (error) => faults.push(`an error on ${page.url()}: ${error.stack ?? error}`));
  page.on('console', (message) => {
    if (/Content Security Policy|content-security-policy/i.test(message.text())) faults.push(`${page.url()}: ${message.text()}`);
  });
}

/** @param {{token?: string, width?: number, height?: number, scheme?: string}} options */
export async function open(browser, { token = '', width = 1440, height = 900, scheme = 'light' } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: scheme, reducedMotion: 'reduce', locale: 'en-GB', timezoneId: 'UTC' });
  await context.addInitScript((value) => {
    if (value) sessionStorage.setItem('token', value);
    window.violations = [];
    addEventListener('securitypolicyviolation', (event) => window.violations.push(`${event.violatedDirective}: ${event.blockedURI}`));
  }, token);
  const page = await context.newPage();
  page.setDefaultTimeout(30_000);
  watch(page);
  await page.goto(`${settings.url}/console/`);
  return page;
}

export async function show(page, path) {
  await page.evaluate((hash) => (location.hash = hash), `#/${path}`);
  await page.locator(`main[data-place="${path.split('?')[0]}"]`).waitFor();
  await settled(page);
}

/** Waits until the page shows data, or another state than loading. */
export async function settled(page) {
  await page.waitForFunction(() => document.querySelector('main h1') && !document.querySelector('main [data-state=loading]'));
}

export async function close(page) {
  const violations = await page.evaluate(() => window.violations);
  if (violations.length) faults.push(`violations of the policy: ${violations.join(', ')}`);
  await page.context().close();
}

/** Findings of axe-core that are serious or critical. */
export async function findings(page, where) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'] }));
  return violations.filter((it) => ['serious', 'critical'].includes(it.impact)).map((it) => `${where}: ${it.id}: ${it.nodes.slice(0, 3).map((node) => `${node.target} ${node.failureSummary}`).join('; ')}`);
}

export const start = () => chromium.launch({ executablePath: settings.chromium, args: ['--no-sandbox', '--disable-dev-shm-usage'] });

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Asks the test around this process to do something to the services, and returns its answer. */
export async function ask(what) {
  process.stdout.write(`ask ${what}\n`);
  const { value } = await answers.next();
  check(value?.startsWith('done'), `${what}: ${value}`);
  return value.slice(5).trim();
}

export function say(text) {
  process.stdout.write(`say ${text}\n`);
}

export function check(condition, text) {
  if (!condition) throw new Error(text);
}

/** Reports how long something took. The deadline is that of the page's waits, because the machine may be busy. */
export async function timed(what, run) {
  const begun = performance.now();
  await run();
  say(`${what} after ${Math.round(performance.now() - begun)} ms`);
}

/** Calls the API from outside of the browser. */
export async function api(method, path, body, headers = {}) {
  const response = await fetch(settings.url + path, {
    method, body: body === undefined ? undefined : JSON.stringify(body),
    headers: { authorization: `Bearer ${settings.token}`, 'content-type': 'application/json', ...headers },
  });
  const text = await response.text();
  check(response.ok, `${method} ${path}: ${response.status} ${text}`);
  return text ? JSON.parse(text) : null;
}
