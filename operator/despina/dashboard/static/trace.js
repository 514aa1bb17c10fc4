// Traces: the list on a program's page is asked for when it is opened, and keys lead through a trace. All else is the
// server's, and works without this.
const view = document.body.dataset.view;

// Taken over as a document, so that nothing is parsed from a string here.
function load(place) {
  const into = place.querySelector("[data-into]"), ask = new XMLHttpRequest();
  ask.open("GET", place.dataset.src);
  ask.setRequestHeader("Accept", "text/html");
  ask.responseType = "document";
  const told = () => {
    const list = ask.status === 200 && ask.response?.querySelector("[data-list]");
    if (list) into.replaceChildren(document.adoptNode(list));
    else into.lastElementChild.textContent = "The traces could not be had: open the link.";
  };
  ask.onload = told;
  ask.onerror = told;
  const waits = document.createElement("p");
  waits.className = "dim";
  waits.setAttribute("role", "status");
  waits.textContent = "Asking the pods";
  into.append(waits);
  ask.send();
}
for (const place of document.querySelectorAll("details[data-src]")) {
  place.addEventListener("toggle", () => { if (place.open) load(place); });
}

function move(by) {
  const all = [...document.querySelectorAll(view === "trace" ? ".span summary" : ".traces th a")];
  const at = all.indexOf(document.activeElement);
  all[Math.min(Math.max(at + by, 0), all.length - 1)]?.focus();
}

if (view === "trace" || view === "traces") addEventListener("keydown", (press) => {
  if (press.ctrlKey || press.metaKey || press.altKey || press.target.matches?.("input, select, textarea")) return;
  if (press.key === "j") move(1);
  if (press.key === "k") move(-1);
  if (press.key === "u") location.assign(document.getElementById("back").href);
});
