// All pages of the console in a browser, against real services. `tests/it/console.rs` starts it.
import { writeFileSync } from 'node:fs';
import { api, ask, check, close, faults, findings, open, say, settings, settled, show, start, timed } from './browser.mjs';
import { screenshots } from './screenshots.mjs';

const ENVIRONMENT = 'production';
const browser = await start();
const PAGES = ['overview', 'live', 'flags', `flags/${ENVIRONMENT}/checkout`, 'what-if', 'experiments', `experiments/${settings.experiment}`, 'audit', 'dead-letters', 'propagation', 'activity', 'tokens'];

/** Pages with what opens a dialog. @type {[string, (page: any) => Promise<void>][]} */
const DIALOGS = [
  ['flags', (page) => page.getByRole('button', { name: `Kill checkout in ${ENVIRONMENT}` }).click()],
  ['flags', (page) => page.getByRole('button', { name: 'New flag' }).click()],
  [`flags/${ENVIRONMENT}/checkout`, (page) => page.getByRole('button', { name: 'Edit', exact: true }).click()],
  ['experiments', (page) => page.getByRole('button', { name: 'Begin an experiment' }).click()],
  ['audit', (page) => page.getByRole('button', { name: 'Erase a user' }).click()],
  ['audit', async (page) => {
    await page.getByRole('button', { name: 'Search' }).click();
    await page.locator('td.main button').first().click();
  }],
  ['dead-letters', (page) => page.locator('td.main button').first().click()],
  ['tokens', (page) => page.getByRole('button', { name: 'New token' }).click()],
  ['tokens', (page) => page.getByRole('button', { name: /^Revoke / }).first().click()],
];

const evaluate = (flag, user, context = {}) => api('POST', '/api/v1/feature-flags/evaluate', { flag_name: flag, user_id: user, environment: ENVIRONMENT, context });

/** Every page opens with a token of each scope, says what is missing, and offers only what the token may do. */
async function scopes() {
  for (const scope of ['evaluate', 'read', 'audit', 'track', 'write', 'delete', 'admin']) {
    const scopes = ['evaluate', 'read'].includes(scope) ? [scope] : ['read', scope];
    const { token } = await api('POST', '/api/v1/tokens', { name: `console-${scope}`, scopes, environments: ['*'] });
    const mine = (await api('GET', '/api/v1/me', undefined, { authorization: `Bearer ${token}` })).scopes;
    const page = await open(browser, { token });
    for (const path of PAGES) {
      await show(page, path);
      const refused = await page.locator('[data-state=no-permission]').count();
      const failed = await page.locator('[data-state=error]').allTextContents();
      const expected = scope === 'evaluate' || (path === 'tokens' && scope !== 'admin');
      check(Boolean(refused) === expected, `${path} with the scope ${scope}: ${refused ? 'refused' : 'shown'}`);
      check(!failed.length, `${path} with the scope ${scope}: ${failed}`);
    }
    if (scope !== 'evaluate') await offered(page, scope, mine);
    await close(page);
  }
  say(`${PAGES.length} pages with 7 scopes`);
}

/** What the pages offer with these scopes. */
async function offered(page, scope, mine) {
  const offers = async (path, name, wanted) => {
    await show(page, path);
    const count = await page.getByRole('button', { name, exact: true }).count();
    check(Boolean(count) === mine.includes(wanted), `${path} with the scope ${scope}: ${name} is ${count ? '' : 'not '}offered`);
  };
  await offers('flags', 'New flag', 'write');
  await offers(`flags/${ENVIRONMENT}/checkout`, 'Kill', 'write');
  await offers('experiments', 'Begin an experiment', 'write');
  await offers('audit', 'Erase a user', 'admin');
  check(Boolean(await page.locator('input[name=user_id]').count()) === mine.includes('audit'), `a search by user with the scope ${scope}`);
  await page.getByRole('button', { name: 'Search' }).click();
  await page.locator('[data-found]').waitFor();
  const users = new Set(await page.locator('td[data-label=User]').allTextContents());
  check(users.has('–') !== mine.includes('audit'), `users with the scope ${scope}: ${[...users].slice(0, 3)}`);
}

async function live(page) {
  await show(page, 'live');
  await page.getByText('open', { exact: true }).first().waitFor();
  await page.locator('input[name=user_id]').fill('seen-at-once');
  await page.getByRole('button', { name: 'Filter' }).click();
  await page.getByText('open', { exact: true }).first().waitFor();
  await timed('an evaluation is on the live page', async () => {
    await Promise.all([page.getByRole('cell', { name: 'seen-at-once' }).first().waitFor(), evaluate('checkout', 'seen-at-once', { plan: 'gold' })]);
  });
  await page.locator('td.main button').first().click();
  await page.locator('[data-explanation]').waitFor();
  check(/strategy 1/.test(await page.locator('[data-explanation]').textContent()), 'the explanation names the strategy');
  await page.keyboard.press('Escape');
  check(!(await page.locator('dialog').count()), 'Escape closes the dialog');
}

async function kill(page) {
  const watcher = await open(browser, { token: settings.token });
  await show(watcher, `flags/${ENVIRONMENT}/checkout`);
  await show(page, 'flags');
  await page.locator('input[type=search]').fill('checkout');
  await page.getByRole('button', { name: `Kill checkout in ${ENVIRONMENT}` }).click();
  check(/evaluations per minute/.test(await page.locator('[data-effect] [data-rate]').textContent()), 'the dialog says how many evaluations a minute there are');
  await page.locator('textarea[name=reason]').fill('a drill of the console');
  const dialog = page.locator('dialog');
  await timed('a kill shows a badge', async () => {
    await dialog.getByRole('button', { name: 'Kill', exact: true }).click();
    await page.locator('tr', { hasText: 'checkout' }).getByText('killed', { exact: true }).waitFor();
  });
  const killed = await evaluate('checkout', 'u');
  check(!killed.enabled, 'a killed flag is off');
  await watcher.getByText('by', { exact: false }).first().waitFor();
  await watcher.locator('.alarm.critical').waitFor();
  await close(watcher);
  await page.getByRole('button', { name: `Restore checkout in ${ENVIRONMENT}` }).click();
  await page.locator('textarea[name=reason]').fill('the drill is over');
  await dialog.getByRole('button', { name: 'Restore', exact: true }).click();
  await dialog.waitFor({ state: 'detached' });
}

async function edit(page) {
  await show(page, `flags/${ENVIRONMENT}/checkout`);
  await page.getByRole('button', { name: 'Edit', exact: true }).click();
  await page.locator('input[name=rollout]').fill('50');
  const different = page.locator('[data-preview] [data-different]');
  await page.waitForFunction(() => Number(document.querySelector('[data-preview] [data-different]')?.textContent.replace(/\D/g, '')) > 0);
  const shown = { different: await different.textContent(), users: await page.locator('[data-preview] [data-users]').textContent() };
  const definition = JSON.parse(await page.locator('textarea[name=definition]').inputValue());
  const command = JSON.parse(await ask(`replay ${JSON.stringify(definition)}`));
  const number = (text) => Number(text.replace(/\D/g, ''));
  say(`the preview says ${shown.different} evaluations of ${shown.users} users, the command ${command.different} of ${command.users}`);
  check(number(shown.different) === command.different && number(shown.users) === command.users, 'the preview equals `flagstream replay --with`');
  await page.locator('textarea[name=reason]').fill('half is enough');
  await page.getByRole('button', { name: 'Save' }).click();
  await page.locator('dialog').waitFor({ state: 'detached' });
  await show(page, `flags/${ENVIRONMENT}/checkout?tab=versions`);
  await page.getByText('half is enough').waitFor();
}

async function whatIf(page) {
  await show(page, `what-if?environment=${ENVIRONMENT}&flag=checkout`);
  await page.getByRole('button', { name: 'Load the flag in force' }).click();
  await page.waitForFunction(() => document.querySelector('textarea[name=with]')?.value.includes('checkout'));
  const text = await page.locator('textarea[name=with]').inputValue();
  await page.locator('textarea[name=with]').fill(JSON.stringify({ ...JSON.parse(text), is_enabled: false }));
  await page.getByRole('button', { name: 'Run' }).click();
  await page.locator('[data-report]').waitFor();
  say(`what-if: ${await page.locator('[data-report] [data-different]').textContent()} evaluations would change`);
}

async function deadLetter(page) {
  await ask('dead-letter');
  await show(page, 'dead-letters');
  await page.reload();
  await page.locator('td.main button').first().click();
  const body = page.locator('textarea[name=body]');
  await body.waitFor();
  const text = await body.inputValue();
  check(text.includes('["u-1"]'), `the body is shown: ${text}`);
  await body.fill(text.replace('["u-1"]', '"u-1"'));
  await page.getByRole('button', { name: 'Send the edited body…' }).click();
  await page.locator('[data-outcomes]').getByText('would be sent').waitFor();
  await page.locator('textarea[name=reason]').fill('the user was a list');
  await page.getByRole('button', { name: 'Send', exact: true }).click();
  await page.locator('dialog').getByText('sent', { exact: true }).waitFor();
  await ask('event-of mended');
  await page.getByRole('button', { name: 'Close', exact: true }).last().click();
}

async function audit(page) {
  await show(page, 'audit');
  await page.locator('input[name=user_id]').fill('searched-user');
  await page.getByRole('button', { name: 'Search' }).click();
  await page.locator('[data-found]').waitFor();
  check((await page.locator('[data-found]').getAttribute('data-found')) === '7', 'the seven evaluations of the user are found');
  await page.locator('td.main button').first().click();
  await page.locator('[data-explanation]').waitFor();
  await page.keyboard.press('Escape');
  await show(page, 'activity');
  await page.getByText('the user was a list').first().waitFor();
}

async function propagation(page) {
  const frozen = await ask('freeze');
  await api('PUT', `/api/v1/feature-flags/checkout?environment=${ENVIRONMENT}`, { description: 'changed while one was frozen' }).catch(() => {});
  await show(page, 'propagation');
  await page.locator(`[data-slowest="${frozen}"]`).first().waitFor();
  await page.getByText('waiting for').first().waitFor();
  if (settings.screenshots) await screenshots(browser, PAGES, ['propagation']);
  await ask('thaw');
}

async function broker(page) {
  await show(page, 'overview');
  await page.locator('[data-alarms]').waitFor();
  const before = await page.evaluate(() => performance.timeOrigin);
  await ask('stop-broker');
  await timed('a stopped broker turns the overview red', () => page.locator('[data-alarms=critical]').waitFor());
  await ask('start-broker');
  const begun = performance.now();
  await page.locator('[data-alarms=critical]').waitFor({ state: 'detached', timeout: 60_000 });
  say(`well again ${Math.round(performance.now() - begun)} ms after the broker`);
  check((await page.evaluate(() => performance.timeOrigin)) === before, 'the page was not loaded again');
}

/** Every page and dialog without findings, in light and dark, and small. */
async function accessibility() {
  const found = [];
  const look = async (page, where) => {
    found.push(...(await findings(page, where)));
    const [content, window] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    if (content > window + 1) found.push(`${where} is ${content} px wide in a window of ${window} px`);
  };
  for (const [scheme, width] of [['light', 1440], ['dark', 1440], ['light', 390], ['dark', 360]]) {
    const page = await open(browser, { token: settings.token, scheme, width });
    for (const path of PAGES) {
      await show(page, path);
      await look(page, `${path}, ${scheme}, ${width}`);
    }
    for (const [path, open] of DIALOGS) {
      await show(page, path);
      await open(page);
      await page.locator('dialog').waitFor();
      await page.waitForFunction(() => !document.querySelector('dialog [data-state=loading]'));
      await look(page, `dialog of ${path}, ${scheme}, ${width}`);
      await page.keyboard.press('Escape');
      await page.locator('dialog').waitFor({ state: 'detached' });
    }
    await close(page);
  }
  check(!found.length, `${found.length} findings:\n${[...new Set(found)].join('\n')}`);
  say(`${PAGES.length} pages and ${DIALOGS.length} dialogs in 4 forms without a serious finding of axe-core`);
}

/** A point of a plot is inspected with the keys, and all are in a table. */
async function plots(page) {
  await show(page, `experiments/${settings.experiment}`);
  const plot = page.getByRole('slider', { name: /^Effect of dark on purchases/ });
  await plot.focus();
  const latest = await plot.getAttribute('aria-valuetext');
  await page.keyboard.press('Home');
  const first = await plot.getAttribute('aria-valuetext');
  check(first !== latest && /effect .* %, low .* %, high .* %/.test(first), `the first point: ${first}`);
  const points = Number(await plot.getAttribute('aria-valuemax')) + 1;
  const figure = page.locator('figure', { has: plot });
  check((await figure.locator('path.line').count()) === 3 && (await figure.locator('path.band').count()) === 1, 'three lines and a band');
  await figure.locator('summary').click();
  // The table is rendered after the event of the summary.
  await figure.locator('tbody tr').nth(points - 1).waitFor();
  check((await figure.locator('tbody tr').count()) >= points, 'a row for each point');
}

/** The dimension of the results is chosen with the keys. */
async function dimensions(page) {
  await show(page, `experiments/${settings.experiment}`);
  const values = async (name) => {
    const table = page.getByRole('region', { name: `Effects by ${name}` });
    await table.locator('tbody tr').first().waitFor();
    check((await table.locator('td[data-label=Metric]').first().textContent()) === 'purchases', `a metric by ${name}`);
    return (await table.locator(`td[data-label=${name}]`).allTextContents()).sort().join();
  };
  const plans = await values('plan');
  check(plans === 'gold,silver', `plans: ${plans}`);
  await page.getByRole('combobox', { name: 'Dimension' }).focus();
  await page.keyboard.press('ArrowDown');
  const payments = await values('payment');
  check(payments === 'cash,visa', `payments: ${payments}`);
}

async function keyboard(page) {
  await show(page, 'flags');
  await page.locator('tbody tr').first().waitFor();
  await page.locator('body').click({ position: { x: 5, y: 5 } });
  await page.keyboard.press('/');
  check(await page.evaluate(() => document.activeElement.type === 'search'), '/ goes to the search');
  await page.keyboard.press('Tab');
  await page.evaluate(() => document.activeElement.blur());
  await page.keyboard.press('j');
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => location.hash.startsWith('#/flags/'));
}

const steps = { deadLetter, scopes, live, kill, edit, whatIf, audit, keyboard, plots, dimensions, propagation, accessibility, broker };
const wanted = process.argv.slice(2);
let failure = null;
try {
  const page = await open(browser, { token: settings.token });
  await settled(page);
  for (const [name, step] of Object.entries(steps)) {
    if (wanted.length ? !wanted.includes(name) : name === 'broker' && !settings.broker) continue;
    const begun = performance.now();
    try {
      await step(page);
    } catch (error) {
      await page.screenshot({ path: `${settings.folder}/failed-${name}.png` }).catch(() => {});
      const text = await page.locator('body').innerText().catch(() => '');
      throw new Error(`${name}: ${error.stack ?? error}\n${text.slice(0, 3000)}`);
    }
    say(`${name}: ${Math.round(performance.now() - begun)} ms in all`);
    if (name === 'propagation' && settings.screenshots) await screenshots(browser, PAGES, null);
  }
  await close(page);
  check(!faults.length, `faults:\n${[...new Set(faults)].join('\n')}`);
} catch (error) {
  failure = error;
}
await browser.close();
if (failure) {
  console.error(failure.message);
  process.exit(1);
}
process.exit(0);
