// SPDX-License-Identifier: LGPL-2.1-or-later
// All stacks, outermost function on top, width by tasks, colour by verdict.

const flame = { root: null, path: [], nodes: new Map(), elements: new Map() };

function newNode(name, isRegs, parent) {
  return {
    name,
    isRegs,
    parent,
    key: `${name}${isRegs ? "\0" : ""}`,
    kids: new Map(),
    tasks: 0,
    reliable: 0,
    unreliable: 0,
    unknown: 0,
  };
}

function growTree(stacks) {
  const root = newNode("all", false, null);
  for (const { group, tasks } of stacks) {
    let node = addTasks(root, group.verdict, tasks);
    for (const [name, isRegs] of outermostFirst(group)) {
      const key = `${name}${isRegs ? "\0" : ""}`;
      if (!node.kids.has(key)) node.kids.set(key, newNode(name, isRegs, node));
      node = addTasks(node.kids.get(key), group.verdict, tasks);
    }
  }
  return root;
}

function addTasks(node, verdict, tasks) {
  node.tasks += tasks;
  node[verdict] += tasks;
  return node;
}

function outermostFirst(group) {
  const frames = kernelFrames(group).reverse();
  return frames.length
    ? frames.map((frame) => [functionName(frame), frame.mode === "kernel"])
    : [[stackTitle(group), false]];
}

function zoomedNode() {
  // As far as the path still leads: a filter may have taken its end away.
  let node = flame.root;
  for (const key of flame.path) {
    if (!node.kids.has(key)) break;
    node = node.kids.get(key);
  }
  return node;
}

function pathTo(node) {
  return node.parent ? [...pathTo(node.parent), node.key] : [];
}

function chainTo(node) {
  return node.parent ? [...chainTo(node.parent), node] : [node];
}

function placeNodes(zoomed, width) {
  const placed = chainTo(zoomed).map((node, row) => ({
    node,
    row,
    left: 0,
    share: 1,
    isAbove: node !== zoomed,
  }));
  let undrawn = 0;
  const place = (parent, row, left) => {
    for (const node of [...parent.kids.values()].sort(
      (a, b) => b.tasks - a.tasks || (a.key < b.key ? -1 : 1),
    )) {
      const share = node.tasks / zoomed.tasks;
      if (share * width < FRAME_MIN_PX) {
        undrawn += node.tasks;
        continue;
      }
      placed.push({ node, row, left, share, isAbove: false });
      place(node, row + 1, left);
      left += share;
    }
  };
  place(zoomed, placed.length, 0);
  return { placed, undrawn };
}

function nodeLines(node) {
  const verdicts = VERDICTS.filter((verdict) => node[verdict]).map(
    (verdict) => `${count(node[verdict])} ${verdict} (${percent(node[verdict], node.tasks)})`,
  );
  const regs = node.isRegs ? ["interrupted here: kernel-mode pt_regs"] : [];
  return [
    node.parent ? node.name : "all stacks",
    `${of(node.tasks, "task")}, ${percent(node.tasks, flame.root.tasks)} of those shown`,
    ...verdicts,
    ...regs,
  ];
}

function drawFrame({ node, row, left, share, isAbove }, width) {
  const hasRoom = share * width > 22;
  const hasRoomForMark = share * width > 6;
  const classes = [
    "frame",
    node.unreliable && "bad",
    node.isRegs && hasRoomForMark && "regs",
    isAbove && "above",
    !hasRoom && "bare",
    isFound(node) && "found",
  ];
  const frame = el("div", {
    class: classes.filter(Boolean).join(" "),
    role: "treeitem",
    tabindex: "-1",
    "data-tip": true,
    "aria-level": row + 1,
    "aria-label": nodeLines(node).join("; "),
  });
  if (hasRoom) frame.textContent = node.parent ? node.name : "all stacks";
  frame.style.top = `${row * FRAME_PX}px`;
  sized(sized(frame, "left", left), "width", share);
  frame.style.setProperty("--bad", `${(100 * node.unreliable) / node.tasks}%`);
  frame.style.setProperty("--open", `${(100 * node.unknown) / node.tasks}%`);
  tips.set(frame, () => nodeLines(node));
  flame.nodes.set(frame, node);
  flame.elements.set(node, frame);
  return frame;
}

function drawFlame() {
  const graph = byId("flame-graph");
  const width = graph.clientWidth || 1;
  const zoomed = zoomedNode();
  flame.nodes.clear();
  flame.elements.clear();
  const { placed, undrawn } = zoomed.tasks ? placeNodes(zoomed, width) : { placed: [], undrawn: 0 };
  graph.replaceChildren(...placed.map((place) => drawFrame(place, width)));
  graph.style.height = `${placed.reduce((rows, { row }) => Math.max(rows, row + 1), 2) * FRAME_PX + 2}px`;
  graph.classList.toggle("searching", wantedFunction() !== "");
  flame.elements.get(zoomed)?.setAttribute("tabindex", "0");
  byId("flame-reset").disabled = byId("flame-list").disabled = !zoomed.parent;
  sayFlame(zoomed, undrawn);
}

function sayFlame(zoomed, undrawn) {
  const where = zoomed.parent
    ? `Zoomed into ${zoomed.name}: ${nodeLines(zoomed).slice(1).join("; ")}. `
    : "";
  const rest = undrawn
    ? `${of(undrawn, "task")} (${percent(undrawn, zoomed.tasks)}) end in pieces too narrow to draw; zoom in to see them.`
    : "";
  byId("flame-said").textContent = zoomed.tasks ? where + rest : "No stack is shown.";
  const wanted = wantedFunction();
  byId("flame-found").textContent = wanted
    ? `${of(tasksWith(flame.root, wanted), "task")} (${percent(tasksWith(flame.root, wanted), flame.root.tasks)})`
    : "";
}

function wantedFunction() {
  return byId("flame-search").value.trim().toLowerCase();
}

function isFound(node) {
  const wanted = wantedFunction();
  return wanted !== "" && node.parent !== null && node.name.toLowerCase().includes(wanted);
}

function tasksWith(node, wanted) {
  if (isFound(node)) return node.tasks;
  return [...node.kids.values()].reduce((sum, kid) => sum + tasksWith(kid, wanted), 0);
}

function zoomTo(node) {
  hideTip();
  flame.path = pathTo(node);
  drawFlame();
  flame.elements.get(zoomedNode())?.focus({ preventScroll: true });
}

function neighbour(node, step) {
  const row = [...flame.elements.entries()].filter(
    ([, element]) => element.style.top === flame.elements.get(node).style.top,
  );
  return row[row.findIndex(([other]) => other === node) + step]?.[0];
}

function firstKid(node) {
  return [...flame.elements.keys()].find((other) => other.parent === node);
}

function flameKey(event) {
  const node = flame.nodes.get(event.target);
  if (!node) return;
  const zoomed = zoomedNode();
  const goals = {
    ArrowDown: () => firstKid(node),
    ArrowUp: () => node.parent,
    ArrowLeft: () => neighbour(node, -1),
    ArrowRight: () => neighbour(node, 1),
    Home: () => flame.root,
  };
  if (event.key === "Enter" || event.key === " ") zoomTo(node);
  else if (event.key === "Escape") zoomTo(zoomed.parent || flame.root);
  else if (goals[event.key]) focusFrame(goals[event.key]());
  else return;
  event.preventDefault();
}

function focusFrame(node) {
  const frame = node && flame.elements.get(node);
  if (!frame) return;
  byId("flame-graph").querySelector("[tabindex='0']")?.setAttribute("tabindex", "-1");
  frame.setAttribute("tabindex", "0");
  frame.focus();
}

function flameFocused(event) {
  const node = flame.nodes.get(event.target);
  if (!node || !event.target.matches(":focus-visible")) return;
  const { left, bottom } = event.target.getBoundingClientRect();
  showTip(event.target, Math.max(0, left), bottom - 10);
}

function setUpFlame() {
  const graph = byId("flame-graph");
  graph.addEventListener(
    "click",
    (event) => flame.nodes.has(event.target) && zoomTo(flame.nodes.get(event.target)),
  );
  graph.addEventListener("keydown", flameKey);
  graph.addEventListener("focusin", flameFocused);
  graph.addEventListener("focusout", hideTip);
  byId("flame-search").addEventListener("input", drawFlame);
  byId("flame-reset").addEventListener("click", () => zoomTo(flame.root));
  byId("flame-list").addEventListener("click", () => listStacksWith(zoomedNode().name));
  byId("flame-legend").append(
    ...["reliable", "unknown"].map((verdict) =>
      el("span", {}, swatch(`flame-${verdict}`), verdict),
    ),
    el("span", {}, swatch("flame-some"), swatch("flame-unreliable"), "few to all unreliable"),
    el("span", {}, "║ interrupted here"),
  );
  let width = graph.clientWidth;
  new ResizeObserver(() => {
    if (graph.clientWidth !== width) drawFlame();
    width = graph.clientWidth;
  }).observe(graph);
}
