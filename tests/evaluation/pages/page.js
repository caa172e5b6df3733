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
    append(...children) { this.children.push(...children); },
    replaceChildren(...children) { this.children = children; },
    addEventListener(name, listener) { this.listeners[name] = listener; },
  };
}
const nodes = {};
const byId = id => (nodes[id] ??= Object.assign(node("div"), id === "data" ? { textContent: data } : {}));
Object.assign(globalThis, {
  document: { createElement: node, createElementNS: (_, tag) => node(tag), getElementById: byId },
  location: { hash: "" },
  history: { replaceState() {} },
});
const all = (root, tag) =>
  (root.children ?? []).flatMap(child => [...(child.tag === tag ? [child] : []), ...all(child, tag)]);

(0, eval)(script);
const drawn = {};
for (const option of byId("label").children) {
  byId("label").listeners.change({ target: { value: option.children[0] } });
  const counts = ["near0", "near1", "map0", "map1", "clusters0", "clusters1"].map(
    id => all(byId(id), "figure").length + all(byId(id), "circle").length);
  drawn[option.children[0]] = { counts, colors: byId("colors").children.length };
}
const clip = all(byId("near0"), "figure")[1];
clip.listeners.keydown({ key: "Enter", preventDefault() {} });
byId("tracks").listeners.change();
const names = all(byId("near0"), "div").filter(x => x.attributes.role === "img");
console.log(JSON.stringify({
  drawn, title: document.title, chosen: byId("search").value,
  named: names.every(x => x.attributes["aria-label"]),
  hasTracks: !byId("withTracks").hidden, hasPredictions: !byId("confusions").hidden,
}));
