#!/usr/bin/env node
// Watches a hub in a terminal: node watch.mjs [ADDRESS [GLOB [TICKS]]]
//
// Values at each tick; below them the findings that open and close, and what
// becomes of plugins. A token is taken from TOKEN in the environment. Node 20 has
// no WebSocket of its own: `npm install` brings one.

import { connect } from './telltale.js';

const [address = '127.0.0.1:8765', glob = '*', ticks = 'Infinity'] = process.argv.slice(2);
const WebSocket = globalThis.WebSocket ?? (await import('ws')).WebSocket;
const url = address.includes('://') ? address : `ws://${address}`;

const hub = connect(url, { WebSocket, token: process.env.TOKEN, onstatus });
let left = Number(ticks);

const metrics = hub.subscribe({ channel: 'metrics', filter: { name: glob } }, {
  onchange({ snapshot }) {
    if (snapshot || left === 0) return;
    showTick();
    left -= 1;
    if (left === 0) hub.close();
  },
  onerror: fail,
});

for (const channel of ['findings', 'hub']) {
  hub.subscribe({ channel }, {
    onentry: (entry, { offset }) => showEntry(channel, offset, entry),
    onfresh({ first, offset, open }) {
      if (!first) console.log(`  ${channel}: entries were lost before ${offset}`);
      for (const finding of open ?? []) showEntry(channel, '-', finding);
    },
    onerror: fail,
  });
}

function showTick() {
  const series = [...metrics.series.values()].sort((a, b) => a.id - b.id);
  const rows = series.map(({ name, labels, value, stale }) => {
    const number = (value === null ? '-' : value.toFixed(4)).padStart(16);
    return `  ${number}  ${title(name, labels)}${stale ? `  (${stale.code})` : ''}`;
  });
  console.log([`tick ${metrics.tick} ${metrics.time}`, ...rows].join('\n'));
}

function showEntry(channel, offset, entry) {
  const what = channel === 'findings' ? finding(entry) : event(entry);
  console.log(`  ${channel} ${offset} ${what}`);
}

function finding({ state, type, peak, name, labels, detector }) {
  return `${state} ${type} ${peak.toFixed(2)} ${title(name, labels)} by ${detector}`;
}

function event({ event, plugin, reason }) {
  return `${event} ${plugin ?? ''}${reason ? `: ${reason}` : ''}`;
}

function title(name, labels) {
  return [name, ...Object.entries(labels).map(([key, value]) => `${key}=${value}`)].join(' ');
}

function onstatus({ state, code, reason, retryInMs }) {
  const why = [code, reason].filter(Boolean).join(' ');
  if (state === 'waiting') console.error(`lost: ${why}; again in ${Math.round(retryInMs)} ms`);
  if (state === 'closed' && left > 0) fail(new Error(why));
}

function fail(error) {
  console.error(error.message);
  process.exit(1);
}
