// An answer's own address, and a button that copies it.

import { h } from "./dom.js";
import { chosenRun, link } from "./route.js";

const SHOWN_MS = 2000;

export function copyLink(trace) {
  const address = new URL(link("traces", trace.id, { run: chosenRun() || trace.run }), location).href;
  const button = h("button", { type: "button", class: "copy", onclick: copy }, "Copy link");
  async function copy() {
    const isCopied = await copied(address);
    button.textContent = isCopied ? "Copied" : address;
    if (isCopied) setTimeout(() => (button.textContent = "Copy link"), SHOWN_MS);
  }
  return button;
}

// Browsers allow it to pages from this machine or by HTTPS only.
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
