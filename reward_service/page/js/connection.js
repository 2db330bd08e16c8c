// Whether the service answers. While it does not, a banner tells since when and what is shown stays; attempts go on at
// growing intervals, and requests that wait are repeated after the first that succeeds.

import { h } from "./dom.js";

const FIRST_PAUSE_S = 1, LONGEST_PAUSE_S = 30, ATTEMPTS = 120; // about an hour
const CHECK_S = 10, TIMEOUT_S = 5;

let answeredAt = new Date();
let recovering = null;

export const hasAnswered = () => (answeredAt = new Date());

// Returns when the service answers (at once, if it does).
export function untilItAnswers() {
  recovering ??= recover().finally(() => (recovering = null));
  return recovering;
}

async function recover() {
  const banner = document.getElementById("away");
  const since = answeredAt.toLocaleTimeString();
  let pause = FIRST_PAUSE_S;
  for (let attempt = 1; !(await answers()); attempt += 1) {
    const isLast = attempt >= ATTEMPTS;
    await new Promise((done) => {
      banner.replaceChildren(
        `The service has not answered since ${since}. What you see is from then. `,
        isLast ? "No further attempts. " : `Next attempt in ${pause} s. `,
        h("button", { type: "button", onclick: done }, "Try now"));
      banner.hidden = false;
      if (!isLast) setTimeout(done, 1000 * pause);
    });
    pause = Math.min(2 * pause, LONGEST_PAUSE_S);
  }
  banner.hidden = true;
  banner.replaceChildren();
}

async function answers() {
  try {
    const is = (await fetch("healthz", { cache: "no-store", signal: AbortSignal.timeout(1000 * TIMEOUT_S) })).ok;
    if (is) hasAnswered();
    return is;
  } catch {
    return false;
  }
}

// For views that ask for nothing more.
setInterval(async () => {
  if (!document.hidden && !recovering && !(await answers())) untilItAnswers();
}, 1000 * CHECK_S);
