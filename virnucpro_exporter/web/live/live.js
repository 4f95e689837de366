"use strict";
const every = 2000, patience = 10000; // milliseconds
const pause = document.getElementById("pause"), silent = document.getElementById("silent");
let isPaused = false, answered = new Date();

// Only what differs is touched: focus, selection and the place of a screen reader stay.
function update(old, fresh) {
  if (old.nodeName !== fresh.nodeName) {
    old.replaceWith(fresh);
  } else if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
  } else {
    for (const name of old.getAttributeNames())
      if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes)
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    const children = [...fresh.childNodes];
    [...old.childNodes].forEach((child, place) =>
      place < children.length ? update(child, children[place]) : child.remove());
    old.append(...children.slice(old.childNodes.length));
  }
}

async function refresh() {
  if (isPaused || document.hidden) return;
  try {
    const answer = await fetch(location.href, { signal: AbortSignal.timeout(patience) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const id of ["now", "wrong", "runs"])
      update(document.getElementById(id), page.getElementById(id));
    document.title = page.title;
    answered = new Date();
    silent.textContent = "";
  } catch (error) {
    const since = `No answer since ${answered.toLocaleTimeString()}. The values are old.`;
    if (silent.textContent !== since) silent.textContent = since;
  }
  document.body.classList.toggle("old", silent.textContent !== "");
}

(async () => {
  for (;;) {
    await new Promise((done) => setTimeout(done, every));
    await refresh();
  }
})();
pause.hidden = false;
pause.addEventListener("click", () => {
  isPaused = !isPaused;
  pause.setAttribute("aria-pressed", isPaused);
});
document.addEventListener("visibilitychange", refresh);
