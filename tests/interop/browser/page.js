// SPDX-License-Identifier: BSD-2-Clause
// A web page's own part, on Pipecat's browser client: it starts a session at a gateway, talks, and tells what
// it heard.

import { PipecatClient } from "@pipecat-ai/client-js";
import { WavMediaManager, WebSocketTransport } from "@pipecat-ai/websocket-transport";

const SAMPLE_RATE = 8000;
const LOUD = 1000; // of 32767

window.startSession = async (gateway, key) => {
  const told = { states: [], loudSamples: 0 };
  const media = new WavMediaManager(undefined, SAMPLE_RATE);
  const play = media.bufferBotAudio.bind(media);
  let enough;
  const heard = new Promise((resolve) => (enough = resolve));
  media.bufferBotAudio = (sound, id) => {
    const samples = sound instanceof Int16Array ? sound : new Int16Array(sound);
    told.loudSamples += samples.filter((sample) => Math.abs(sample) > LOUD).length;
    if (told.loudSamples > SAMPLE_RATE / 10) enough();
    return play(sound, id);
  };
  const client = new PipecatClient({
    transport: new WebSocketTransport({
      mediaManager: media,
      recorderSampleRate: SAMPLE_RATE,
      playerSampleRate: SAMPLE_RATE,
    }),
    enableMic: true,
    enableCam: false,
    callbacks: { onTransportStateChanged: (state) => told.states.push(state) },
  });
  try {
    const started = await client.startBot({
      endpoint: `${gateway}/v1/public/talk/start`,
      headers: new Headers({ Authorization: `Bearer ${key}` }),
      requestData: { transport: "websocket" },
    });
    told.session = started.sessionId;
    await client.connect({ wsUrl: started.wsUrl, token: started.token });
    await heard;
    await client.disconnect();
  } catch (error) {
    told.error = String(error.message ?? error);
  }
  return told;
};
