# SPDX-License-Identifier: BSD-2-Clause
"""The style and the script of the page /docs."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1c2024; --soft: #5b6570; --line: #d9dee4; --raised: #f5f7f9;
  --link: #0b5fae; --focus: #b45309; --get: #0b5fae; --post: #15703c; --put: #8a5300; --delete: #b3261e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --ink: #e6e9ec; --soft: #a3adb8; --line: #333a41; --raised: #1d2226;
    --link: #79b8ff; --focus: #f5b453; --get: #79b8ff; --post: #6fd08c; --put: #f0b35e; --delete: #ff8a80;
  }
}
* { box-sizing: border-box; }
html { scroll-padding-top: 8rem; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
a { color: var(--link); }
:focus-visible { outline: 3px solid var(--focus); outline-offset: 2px; border-radius: 3px; }
main:focus { outline: none; }
.skip { position: absolute; left: -100vw; background: var(--paper); padding: .5rem; z-index: 3; }
.skip:focus { left: .5rem; top: .5rem; }
header { position: sticky; top: 0; z-index: 2; background: var(--paper); border-bottom: 1px solid var(--line);
  padding: .6rem 1.2rem; }
h1 { font-size: 1.25rem; margin: 0 0 .4rem; }
h1 small { color: var(--soft); font-weight: normal; }
h2 { font-size: 1.15rem; margin: 1.6rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
h4 { font-size: .9rem; margin: .8rem 0 .2rem; color: var(--soft); }
.tools { display: flex; flex-wrap: wrap; gap: .6rem; align-items: center; }
#search { flex: 1 1 14rem; max-width: 34rem; font: inherit; padding: .35rem .6rem; color: inherit;
  background: var(--raised); border: 1px solid var(--soft); border-radius: 6px; }
button { font: inherit; padding: .35rem .8rem; color: inherit; background: var(--raised);
  border: 1px solid var(--soft); border-radius: 6px; cursor: pointer; }
#found { margin: .3rem 0 0; min-height: 1.3em; font-size: .85rem; color: var(--soft); }
.columns { display: grid; grid-template-columns: 18rem minmax(0, 1fr); gap: 2rem; max-width: 84rem;
  margin: 0 auto; padding: 0 1.2rem 4rem; }
nav { position: sticky; top: 7.4rem; align-self: start; max-height: calc(100vh - 8rem); overflow: auto;
  padding-bottom: 1rem; font-size: .88rem; }
nav h2 { font-size: .88rem; margin: 1rem 0 .2rem; }
nav h2 a { color: var(--soft); text-decoration: none; }
nav ul { list-style: none; margin: 0; padding: 0; }
nav li a { display: flex; gap: .5rem; padding: .15rem .2rem; color: var(--ink); text-decoration: none; }
nav li a:hover { background: var(--raised); }
.method { flex: none; display: inline-block; min-width: 4.2em; font: 600 .78em/1.8 ui-monospace, monospace; }
.get, .head, .options { color: var(--get); } .post { color: var(--post); }
.put, .patch { color: var(--put); } .delete { color: var(--delete); }
code, pre, kbd { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: .88em; }
kbd { border: 1px solid var(--line); border-radius: 4px; padding: 0 .3em; background: var(--raised); }
pre { background: var(--raised); border: 1px solid var(--line); border-radius: 6px; padding: .7rem .9rem;
  overflow: auto; margin: .3rem 0 .8rem; max-height: 26rem; }
.operation { border: 1px solid var(--line); border-radius: 8px; margin: .5rem 0; }
.operation > summary { display: flex; flex-wrap: wrap; gap: .2rem .7rem; align-items: baseline;
  cursor: pointer; padding: .5rem .8rem; }
.operation > summary::before { content: "\\25B8"; color: var(--soft); }
.operation[open] > summary::before { content: "\\25BE"; }
.operation > summary:hover { background: var(--raised); border-radius: 8px; }
.operation > summary span { color: var(--soft); }
.operation > summary code { overflow-wrap: anywhere; font-weight: 600; }
.inside { padding: 0 1rem 1rem; border-top: 1px solid var(--line); }
.answer { margin: .3rem 0; } .answer > summary { cursor: pointer; padding: .15rem 0; }
.status { font-family: ui-monospace, monospace; } .status.good { color: var(--post); }
.status.other { color: var(--delete); }
.fields { list-style: none; margin: .2rem 0; padding: 0; }
.fields .fields { margin-left: .3rem; padding-left: .9rem; border-left: 2px solid var(--line); }
.fields li { padding: .3rem 0; border-top: 1px solid var(--line); }
.fields > li:first-child { border-top: 0; }
.fields div { color: var(--soft); font-size: .92em; }
.type { color: var(--soft); font-size: .9em; }
em { color: var(--delete); font-size: .8em; font-style: normal; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92em; }
th, td { text-align: left; vertical-align: top; padding: .35rem .8rem .35rem 0;
  border-bottom: 1px solid var(--line); font-weight: normal; }
thead th { color: var(--soft); }
[hidden] { display: none !important; }
@media (max-width: 56rem) { .columns { grid-template-columns: minmax(0, 1fr); } nav { display: none; } }
@media print { header, nav { display: none; } .columns { display: block; } }
"""

SCRIPT: Final = """
"use strict";
const search = document.getElementById("search");
const toggle = document.getElementById("toggle");
const found = document.getElementById("found");
const operations = [...document.querySelectorAll(".operation")];
const sections = [...document.querySelectorAll("main section[aria-labelledby]")];

function show() {
  const words = search.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let count = 0;
  for (const operation of operations) {
    const fits = words.every((word) => operation.dataset.words.includes(word));
    operation.hidden = !fits;
    document.querySelector(`li[data-of="${operation.id}"]`).hidden = !fits;
    count += fits;
  }
  for (const section of sections) section.hidden = !section.querySelector(".operation:not([hidden])");
  found.textContent = words.length ? `${count} of ${operations.length} operations` : "";
}

function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target || !target.classList.contains("operation")) return;
  if (target.hidden) { search.value = ""; show(); }
  target.open = true;
  target.querySelector("summary").focus({ preventScroll: true });
  target.scrollIntoView();
}

search.addEventListener("input", show);
search.addEventListener("keydown", (event) => {
  const first = operations.find((operation) => !operation.hidden);
  if (event.key === "Enter" && first) { first.open = true; first.querySelector("summary").focus(); }
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/" && document.activeElement !== search) { event.preventDefault(); search.focus(); }
  if (event.key === "Escape") { search.value = ""; show(); }
});
toggle.addEventListener("click", () => {
  const open = toggle.getAttribute("aria-pressed") !== "true";
  toggle.setAttribute("aria-pressed", String(open));
  toggle.textContent = open ? "Close all" : "Open all";
  for (const operation of operations) operation.open = open;
});
addEventListener("hashchange", openTarget);
openTarget();
show();
"""
