// The REST API, asked about the run in the address. The token, where one is asked for, is kept for this tab only.

import { hasAnswered, untilItAnswers } from "./connection.js";
import { chosenRun } from "./route.js";

const KEY = "vision-sr1-token";
const BY_A_PROXY = [502, 504]; // which stands before a service that does not answer
const TOO_MANY = 429;
const REPEATED_AT_MOST = 3; // times in a row that the service answers and the request does not arrive

export class Problem extends Error {
  constructor(message, status) {
    super(message);
    this.isRefusal = status >= 400 && status < 500 && status !== TOO_MANY; // the same request would be refused again
  }
}

async function ask(path, options = {}, repeated = 0) {
  const token = sessionStorage.getItem(KEY);
  const headers = { ...(token && { Authorization: `Bearer ${token}` }), ...options.headers };
  const response = await fetch(path, { ...options, headers }).catch((error) => {
    if (options.signal?.aborted) throw error;
    return null;
  });
  const isAway = response === null || BY_A_PROXY.includes(response.status);
  if (isAway || response.status === TOO_MANY) {
    const isBack = isAway ? untilItAnswers() : after(response.headers.get("Retry-After"));
    if (options.method === "POST" || repeated === REPEATED_AT_MOST) throw new Problem(await told(response));
    await isBack;
    options.signal?.throwIfAborted();
    return ask(path, options, repeated + 1);
  }
  hasAnswered();
  if (response.status === 401) {
    if (token === sessionStorage.getItem(KEY)) await login(token);
    return ask(path, options);
  }
  if (!response.ok) throw new Problem(await told(response), response.status);
  return response;
}

const told = async (response) => (response === null ? "The service does not answer."
  : (await response.json().catch(() => ({ detail: response.statusText }))).detail);

const after = (seconds) => new Promise((done) => setTimeout(done, 1000 * Number(seconds ?? 1)));

let asking = null;

// Asks for the token; of one that was refused, the dialog tells that.
function login(refused) {
  asking ??= new Promise((done, fail) => {
    const dialog = document.getElementById("login"), field = document.getElementById("token");
    document.getElementById("wrong-token").hidden = !refused;
    field.value = "";
    dialog.returnValue = "";
    dialog.addEventListener("close", () => {
      asking = null;
      if (dialog.returnValue !== "given") return fail(new Problem("Nothing is shown without the token; reload the page to enter it.", 401));
      sessionStorage.setItem(KEY, field.value);
      return done();
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

const address = (path) => `v1/${path.split("/").map(encodeURIComponent).join("/")}`;

// A view gives its signal: where it has been left meanwhile, its answers are not shown any more.
export const get = async (path, values = {}, signal = null) => (await ask(`${address(path)}${query(ofRun(values))}`, { signal })).json();
export const post = async (path, values = {}) => (await ask(`${address(path)}${query(ofRun(values))}`, { method: "POST" })).json();
export const image = async (sha) => (await ask(address(`images/${sha}`))).blob();

// Traces that fit, as they come, until the signal ends it or it is refused; after an interruption it goes on where it was.
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
      if (signal.aborted || error.isRefusal) return;
    }
    await new Promise((done) => setTimeout(done, 2000));
  }
}
