// Calls as services in Node make them: `clients.mjs URL` prints what `isEnabled` and `batchEvaluate` say.
const url = process.argv[2];
const environment = 'production';
const post = async (path, body) => {
  const headers = { 'Content-Type': 'application/json' };
  const response = await fetch(`${url}${path}`, { method: 'POST', headers, body: JSON.stringify(body) });
  return response.status === 200 ? response.json() : undefined;
};

async function isEnabled(flagName, userId, defaultValue = false) {
  const body = { flag_name: flagName, user_id: userId, environment };
  const data = await post('/api/v1/feature-flags/evaluate', body);
  return data ? data.enabled || defaultValue : defaultValue;
}

async function batchEvaluate(flagNames, userId) {
  const path = `/api/v1/feature-flags/evaluate/batch?user_id=${userId}&environment=${environment}`;
  const results = await post(path, flagNames);
  return Object.fromEntries(Object.entries(results).map(([flag, result]) => [flag, result.enabled]));
}

console.log(
  JSON.stringify({
    on: await isEnabled('on', 'user123'),
    off: await isEnabled('off', 'user123'),
    unknown: await isEnabled('unknown', 'user123', true),
    batch: await batchEvaluate(['on', 'off', 'theme', 'unknown'], 'user123'),
  }),
);
