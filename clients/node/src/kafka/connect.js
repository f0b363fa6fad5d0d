// Kafka's client, an optional peer dependency, and its options.
'use strict';

/** The module, which is an ES module and loaded by the first client that needs it. */
async function load() {
  try {
    return await import('@platformatic/kafka');
  } catch (cause) {
    if (cause.code !== 'ERR_MODULE_NOT_FOUND') throw cause;
    throw new Error('flagstream-client/kafka needs the package @platformatic/kafka: npm install @platformatic/kafka (@1 for Node 20)', { cause });
  }
}

/** The connection options of Kafka's client. Retries are made here, where they are bounded by deadlines. */
function connection({ bootstrapServers, kafka }) {
  return { clientId: 'flagstream-client-node', ...kafka, bootstrapBrokers: serversOf(bootstrapServers), retries: 0 };
}

/** Addresses as a list; throws without any. */
function serversOf(bootstrapServers) {
  const listed = Array.isArray(bootstrapServers) ? bootstrapServers : String(bootstrapServers ?? '').split(',');
  const servers = listed.map((server) => server.trim()).filter(Boolean);
  if (servers.length === 0) throw new TypeError('bootstrapServers: expected HOST:PORT, or the variable KAFKA_BOOTSTRAP_SERVERS');
  return servers;
}

/** Why an operation failed. Errors of the client often contain the cause in a list. */
function why(error) {
  const inner = error.errors?.at(-1) ?? error.cause;
  return inner ? why(inner) : error.message || String(error);
}

module.exports = { connection, load, serversOf, why };
