// Opens pages with Unleash's SDK for React in Chromium: `node browser.mjs CONFIG`, with {chromium, pages}. Each page has an
// origin of its own: {name, port, config, flags}. It prints a line of JSON whenever a page shows something else, and for
// its errors. It ends when its input does.
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const modules = process.env.FLAGSTREAM_TEST_NODE_MODULES;
const require = createRequire(join(modules, 'browser.cjs'));
const { build } = require('esbuild');
const { chromium } = require('playwright-core');

const settings = JSON.parse(process.argv[2]);
const print = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

async function bundle() {
  const built = await build({
    entryPoints: [fileURLToPath(new URL('page.jsx', import.meta.url))],
    bundle: true,
    write: false,
    format: 'iife',
    jsx: 'automatic',
    define: { 'process.env.NODE_ENV': '"production"' },
    nodePaths: [modules],
  });
  return built.outputFiles[0].text;
}

/** Serves a page on its own port. */
function serve(page, script) {
  const document = `<!doctype html><meta charset="utf-8"><title>${page.name}</title><link rel="icon" href="data:,">
<div id="root"></div><script>window.settings = ${JSON.stringify(page)}</script><script src="/page.js"></script>`;
  const server = createServer((request, response) => {
    const isScript = request.url === '/page.js';
    response.setHeader('content-type', isScript ? 'text/javascript; charset=utf-8' : 'text/html; charset=utf-8');
    response.end(isScript ? script : document);
  });
  return new Promise((resolve) => server.listen(page.port, '127.0.0.1', resolve));
}

/** Runs in the page: reports what it shows after every change of the document. */
function watch() {
  let before = '';
  const look = () => {
    const error = document.querySelector('main')?.dataset.error;
    const items = [...document.querySelectorAll('[data-flag]')];
    const flags = items.length ? Object.fromEntries(items.map((item) => [item.dataset.flag, item.textContent])) : undefined;
    const line = { ...(flags && { flags }), ...(error && { error }) };
    const now = JSON.stringify(line);
    if (now !== before) window.report(line);
    before = now;
  };
  new MutationObserver(look).observe(document, { subtree: true, childList: true, characterData: true, attributes: true });
}

async function open(browser, page) {
  const tab = await (await browser.newContext()).newPage();
  const own = [`http://127.0.0.1:${page.port}`, new URL(page.config.url).origin];
  tab.on('request', (request) => {
    const url = new URL(request.url());
    if (url.protocol !== 'data:' && !own.includes(url.origin)) print({ sdk: page.name, fault: `a request to ${url}` });
  });
  tab.on('pageerror', (error) => print({ sdk: page.name, fault: String(error.stack ?? error) }));
  tab.on('console', (message) => {
    if (message.type() === 'error') print({ sdk: page.name, console: message.text() });
  });
  await tab.exposeFunction('report', (line) => print({ sdk: page.name, ...line }));
  await tab.addInitScript(watch);
  await tab.goto(own[0]);
}

const script = await bundle();
await Promise.all(settings.pages.map((page) => serve(page, script)));
const browser = await chromium.launch({ executablePath: settings.chromium, args: ['--no-sandbox', '--disable-dev-shm-usage'] });
process.stdin.on('end', async () => {
  await browser.close();
  process.exit(0);
}).resume();
await Promise.all(settings.pages.map((page) => open(browser, page)));
