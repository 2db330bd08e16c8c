// The REST API, asked about the run in the address. The token, where one is asked for, is kept for this tab only.

import { chosenRun } from "./route.js";

const KEY = "vision-sr1-token";

export class Problem extends Error {}

function headers() {
  const token = sessionStorage.getItem(KEY);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

async function ask(path, options = {}) {
  const response = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  if (response.status === 401) {
    await login();
    return ask(path, options);
  }
  if (!response.ok) {
    const problem = await response.json().catch(() => ({ detail: response.statusText }));
    throw new Problem(problem.detail);
  }
  return response;
}

let asking = null;

function login() {
  asking ??= new Promise((done) => {
    const dialog = document.getElementById("login");
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(KEY, document.getElementById("token").value);
      asking = null;
      done();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

export function query(values) {
  const given = Object.entries(values).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const text = new URLSearchParams(given).toString();
  return text ? `?${text}` : "";
}

const ofRun = (values) => ({ run: chosenRun(), ...values });

// A view gives its signal: where it has been left meanwhile, its answers are not shown any more.
export const get = async (path, values = {}, signal = null) => (await ask(`v1/${path}${query(ofRun(values))}`, { signal })).json();
export const post = async (path, values = {}) => (await ask(`v1/${path}${query(ofRun(values))}`, { method: "POST" })).json();

const pictures = new Map();

// An image that needs the token cannot be asked for by its address alone.
export function picture(sha) {
  if (!pictures.has(sha)) {
    pictures.set(sha, ask(`v1/images/${sha}`).then((r) => r.blob()).then((blob) => URL.createObjectURL(blob)));
  }
  return pictures.get(sha);
}

// Traces that fit, as they come, until the signal ends it; after an interruption it goes on where it was.
export async function live(wanted, onTrace, signal) {
  let last = null;
  while (!signal.aborted) {
    try {
      const response = await ask(`v1/live${query(ofRun(wanted))}`, { signal, headers: last === null ? {} : { "Last-Event-ID": last } });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        text += part.value;
        const events = text.split(/\r?\n\r?\n/);
        text = events.pop();
        for (const event of events) {
          const lines = event.split(/\r?\n/).map((line) => line.split(/: (.*)/s));
          const field = Object.fromEntries(lines.filter(([name]) => name).map(([name, value]) => [name, value]));
          if (field.id) last = field.id;
          if (field.data) onTrace(JSON.parse(field.data));
        }
      }
    } catch (error) {
      if (signal.aborted) return;
    }
    await new Promise((done) => setTimeout(done, 2000));
  }
}
