// Feature flags in Express: one client for the service, a middleware that gives each request its flags.
import { pathToFileURL } from 'node:url';

import express from 'express';
import { FeatureFlagsClient } from 'flagstream-client';

export function service(flags) {
  const app = express();
  app.use(async (request, _response, next) => {
    // A real service takes the user from its session, not from a header that anybody can send.
    const user = request.get('x-user');
    const context = { subscription_tier: request.get('x-tier') };
    request.flags = await flags.batchEvaluate(['on', 'premium'], user, false, { context });
    next();
  });
  app.get('/api/users/:userId/dashboard', async (request, response) => {
    const theme = await flags.evaluateFlag('theme', request.params.userId, 'light');
    response.json({ template: request.flags.premium ? 'new_dashboard' : 'old_dashboard', theme });
  });
  return app;
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const configServiceUrl = process.env.FLAGSTREAM_URL ?? 'http://localhost:8082';
  const flags = new FeatureFlagsClient({ configServiceUrl, environment: process.env.ENVIRONMENT, followChanges: true });
  const server = service(flags).listen(process.env.PORT ?? 3000);
  process.on('SIGTERM', () => server.close(() => flags.close()));
}
