#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
#
# @pipecat-ai/websocket-transport 1.7.1 (with @pipecat-ai/client-js 1.13.1) refuses Pipecat Cloud's own start answer.
#
# Pipecat Cloud documents the answer to a start with "transport": "websocket" as {token, wsUrl, sessionId}
# (docs.pipecat.ai, "WebSocket Authentication"), and `body` if one was sent. `startBotAndConnect()` hands the answer
# to the transport as it is, and the transport throws at any member but wsUrl (ws_url) and token. Seen on 2026-11-29:
#
#     startBotAndConnect: Invalid connection params: Unrecognized connection parameter: sessionId.. Please check your
#                         connection params and try again.   (no WebSocket was opened)
#     startBot, then connect({wsUrl, token}): opens ws://…/ws/generic/my-agent.my-org?token=…
#
# Why a good guess was wrong: method, answer and transport are one project's, the members that the transport needs
# have the names it needs, clients commonly pass over members that they do not know, and the transport for Daily
# rooms passes them on (1.6.9, read, not run here). The transport's own page says that any other key is an error; the
# page of the start answer and that of startBotAndConnect() do not. So a page takes two steps and picks the two
# members, and a server cannot help it by leaving sessionId away: it is documented, and the Session API needs it.
#
# The transport runs in node: its documented `mediaManager` option takes the place of a microphone, and a WebSocket
# class that notes its URL and opens takes the place of the browser's. The start answer comes from 127.0.0.1.
# Exits 0 if it behaves so, 1 if not. Needs node 20 or newer and npm.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

echo '{"private": true}' > package.json
timeout 120 npm install --silent --ignore-scripts --no-audit --no-fund --save-exact \
    @pipecat-ai/client-js@1.13.1 @pipecat-ai/websocket-transport@1.7.1 > npm.log 2>&1 || { cat npm.log; exit 1; }

cat > page.js <<'EOF'
const assert = require("node:assert");
const http = require("node:http");

const opened = [];
globalThis.window = globalThis;
globalThis.WebSocket = class {
  constructor(url) {
    opened.push(url);
    this.listeners = {};
    setImmediate(() => (this.listeners.open ?? []).forEach((listener) => listener({})));
  }
  addEventListener(type, listener) { (this.listeners[type] ??= []).push(listener); }
  send() {}
  close() {}
};

const { LogLevel, PipecatClient } = require("@pipecat-ai/client-js");
const { WebSocketTransport } = require("@pipecat-ai/websocket-transport");

const nothing = () => ({});
const mediaManager = Object.fromEntries(["setUserAudioCallback", "setClientOptions", "initialize", "connect",
  "disconnect", "tracks", "enableMic", "enableCam", "bufferBotAudio"].map((name) => [name, nothing]));

function client() {
  const made = new PipecatClient({ transport: new WebSocketTransport({ mediaManager }) });
  made.setLogLevel(LogLevel.NONE);
  return made;
}

const answer = {
  token: "example-token",
  wsUrl: "ws://127.0.0.1:7860/ws/generic/my-agent.my-org",
  sessionId: "639f91d8-d511-4677-a83b-bd7564d5d92f",
};

async function main() {
  const server = http.createServer((request, response) => {
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify(answer));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const start = {
    endpoint: `http://127.0.0.1:${server.address().port}/v1/public/my-agent/start`,
    requestData: { transport: "websocket" },
  };

  let refused = "nothing";
  try {
    await Promise.race([client().startBotAndConnect(start), new Promise((resolve) => setTimeout(resolve, 10_000))]);
  } catch (error) {
    refused = error.message;
  }
  process.stdout.write(`startBotAndConnect: ${refused}\n`);
  assert.match(refused, /Unrecognized connection parameter: sessionId/);
  assert.deepEqual(opened, []);

  const second = client();
  const { wsUrl, token } = await second.startBot(start);
  second.connect({ wsUrl, token }).catch(() => {}); // settles when a bot says that it is ready: none is here
  for (let waited = 0; !opened.length && waited < 100; waited++) await new Promise((resolve) => setTimeout(resolve, 50));
  process.stdout.write(`startBot, then connect({wsUrl, token}): ${opened}\n`);
  assert.deepEqual(opened, [`${answer.wsUrl}?token=${answer.token}`]);
}

main().then(() => process.exit(0), (error) => { process.stderr.write(`${error}\n`); process.exit(1); });
EOF
timeout 30 node page.js
