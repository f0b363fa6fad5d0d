// A server that gives prepared answers, one by one, and remembers what it was asked.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';

export async function scripted(answer, answers) {
  const rest = [...answers];
  const requests = [];
  const server = createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = JSON.parse(Buffer.concat(chunks));
    requests.push({ method: request.method, path: request.url, headers: request.headers, body, port: request.socket.remotePort });
    const next = rest.shift() ?? { status: 418 };
    if (next.hang) return;
    if (next.drop) {
      request.socket.destroy();
      return;
    }
    const { status = 200, headers = {} } = next;
    response.writeHead(status, headers);
    if (status === 200) response.end(next.text ?? JSON.stringify({ ...answer, ...next.body }));
    else response.end(JSON.stringify({ status, ...next.problem }));
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const close = () => {
    server.close();
    server.closeAllConnections();
  };
  return { url: `http://127.0.0.1:${server.address().port}`, requests, close };
}

export function checkRequests(expected, seen) {
  assert.equal(seen.length, expected.length, JSON.stringify(seen));
  expected.forEach((wanted, index) => {
    const request = seen[index];
    assert.equal(request.method, wanted.method ?? 'POST');
    if (wanted.path) assert.equal(request.path, wanted.path);
    for (const [name, value] of Object.entries(wanted.headers ?? {})) assert.equal(request.headers[name], value);
    for (const name of wanted.without ?? []) assert.ok(!(name in request.headers), name);
    for (const [name, value] of Object.entries(wanted.body ?? {})) assert.deepEqual(request.body[name], value);
    if (wanted.whole_body) assert.deepEqual(request.body, wanted.whole_body);
  });
}
