// Images, asked for when they are about to be seen.

import { image } from "./api.js";
import { h } from "./dom.js";

const AHEAD = "300px"; // below what is seen

const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    load(target);
  }
}, { rootMargin: AHEAD });

// An `img` of an image by its SHA-256. What has not been kept is replaced by `missing`, or hidden.
export function lazyImage(sha, attributes, missing = null) {
  const element = h("img", { ...attributes, "data-sha": sha });
  element.missing = missing;
  seen.observe(element);
  return element;
}

async function load(element) {
  try {
    const address = URL.createObjectURL(await image(element.dataset.sha)); // with the token, which an address cannot have
    element.addEventListener("load", () => URL.revokeObjectURL(address), { once: true });
    element.src = address;
  } catch {
    if (element.missing) element.replaceWith(h("p", { class: "dim" }, element.missing));
    else element.hidden = true;
  }
}
