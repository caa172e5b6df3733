// Runs the script of an explorer page on a minimal document: node page.js PAGE.html
// It prints what the page draws for every label, and fails if the script raises an error.
const html = require("fs").readFileSync(process.argv[2], "utf8");
const data = html.match(/id="data">([\s\S]*?)<\/script>/)[1];
const script = html.match(/<script>([\s\S]*?)<\/script>/)[1];

function node(tag) {
  return {
    tag, attributes: {}, children: [], listeners: {}, style: { setProperty() {} }, value: "",
    checked: true, hidden: false, textContent: "", classList: { add() {} },
    setAttribute(name, value) { this.attributes[name] = value; },
    getAttribute(name) { return this.attributes[name]; },
    contains(other) { return all(this, other?.tag).includes(other); },
    focus() { document.activeElement = this; },
    append(...children) {
      this.children = this.children.filter(child => !children.includes(child)).concat(children);
    },
    replaceChildren(...children) { this.children = children; },
    addEventListener(name, listener) { this.listeners[name] = listener; },
  };
}
const nodes = {}, window = {};
const byId = id => (nodes[id] ??= Object.assign(node("div"), id === "data" ? { textContent: data } : {}));
Object.assign(globalThis, {
  document: {
    createElement: node, createElementNS: (_, tag) => node(tag), getElementById: byId,
    querySelectorAll: selector => selector === "#clusters figure" ? clusterFigures() : [],
  },
  location: { hash: "" },
  addEventListener(name, listener) { window[name] = listener; },
  history: { replaceState(state, title, address) { location.hash = address; } },
});
const all = (root, tag) =>
  (root.children ?? []).flatMap(child => [...(child.tag === tag ? [child] : []), ...all(child, tag)]);
const sides = (name, tag) => [0, 1].flatMap(side => all(byId(`${name}${side}`), tag));
const clusterFigures = () => sides("clusters", "figure");
const marked = kind => sides("map", "circle").filter(point => point.attributes.class === kind);

(0, eval)(script);
const drawn = {};
for (const option of byId("label").children) {
  byId("label").listeners.change({ target: { value: option.children[0] } });
  const counts = ["near0", "near1", "map0", "map1", "clusters0", "clusters1"].map(
    id => all(byId(id), "figure").length + all(byId(id), "circle").length);
  drawn[option.children[0]] = { counts, colors: byId("colors").children.length };
}
const before = [...sides("map", "circle"), ...clusterFigures()];
const clip = all(byId("near0"), "figure")[1];
clip.focus();
clip.listeners.keydown({ key: "Enter", preventDefault() {} });
const after = new Set([...sides("map", "circle"), ...clusterFigures()]);
const entered = document.activeElement === all(byId("near0"), "figure")[0];
const chosen = byId("search").value;
const isChosen = figure => figure.attributes["aria-current"] === true;
const shownChosen = clusterFigures().filter(isChosen).map(figure => figure.attributes["data-video"]);
const last = all(byId("map0"), "circle").at(-1), onTop = last.attributes.class;
const svg = all(byId("map0"), "svg")[0];
for (const key of ["ArrowRight", "ArrowLeft"])  // at an end of the map one of them has no video
  if (all(byId("map0"), "circle").at(-1) === last) svg.listeners.keydown({ key, preventDefault() {} });
const moved = all(byId("map0"), "circle").at(-1);
byId("tracks").listeners.change();
byId("search").value = "";
byId("search").listeners.input();
location.hash = "#left=motion%2Fla&right=round%2Fla&label=motion&video=video00005";
window.hashchange();
const opened = ["left", "right", "label", "search"].map(id => byId(id).value);
const link = location.hash;
location.hash = "#left=1&right=none&label=none";  // by index, and names that the page lacks
window.hashchange();
const fallback = ["left", "right", "label"].map(id => byId(id).value);
const names = all(byId("near0"), "div").filter(x => x.attributes.role === "img");
console.log(JSON.stringify({
  opened, link, fallback, drawn, title: document.title, chosen, entered, shownChosen,
  kept: before.every(node => after.has(node)),
  marks: [marked("near").length, marked("chosen").length],
  onTop, moved: moved !== last,
  matches: byId("matches").textContent,
  named: names.every(x => x.attributes["aria-label"]),
  hasTracks: !byId("withTracks").hidden, hasPredictions: !byId("confusions").hidden,
}));
