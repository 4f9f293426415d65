// SPDX-License-Identifier: BSD-2-Clause
// Opens a page in Chromium, has it start a session, and prints as JSON what it tells.
//
//     node drive.js CHROMIUM PAGE_URL GATEWAY_URL KEY

import { chromium } from "playwright-core";

const [executablePath, page, gateway, key] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: [
    "--no-sandbox", // the tests run as root
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream", // a microphone that beeps
    "--autoplay-policy=no-user-gesture-required",
  ],
});
try {
  const tab = await browser.newPage();
  tab.on("console", (message) => console.error(message.text()));
  tab.on("pageerror", (error) => console.error(error));
  await tab.goto(page);
  console.log(JSON.stringify(await tab.evaluate((args) => window.startSession(...args), [gateway, key])));
} finally {
  await browser.close();
}
