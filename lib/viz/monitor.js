// A training run: a curve for each number that is logged, where it stands in a line, and a button that stops it.
function render({ model, el }) {
  const { title, color, button: label } = model.get("meta");
  const WIDTH = 320, HEIGHT = 190, LEFT = 46, BOTTOM = 34, TOP = 22, RIGHT = 12;          // of a panel, in its own units
  const make = (tag, name, parent) => {
    const node = document.createElement(tag);
    node.className = name;
    parent.append(node);
    return node;
  };
  const root = make("section", "monitor", el);
  root.setAttribute("aria-label", title);
  const head = make("div", "monitor-head", root);
  make("strong", "", head).textContent = title;
  const state = make("span", "monitor-state", head);
  state.setAttribute("role", "status");                           // read out when it changes, which is seldom
  const button = make("button", "monitor-stop", head);
  button.textContent = label;
  const bar = make("progress", "", root);
  bar.setAttribute("aria-label", "Share of the steps done");
  const text = make("p", "monitor-text", root);
  const note = make("p", "monitor-note", root);
  note.setAttribute("role", "status");
  const stage = make("div", "monitor-stage", root);
  let waiting;                                                    // for the kernel's answer to the button

  button.addEventListener("click", () => {
    if (!reaches(model)) {
      note.textContent = ENDED;
      return;
    }
    model.set("asked_to_stop", model.get("asked_to_stop") + 1);
    model.save_changes();
    button.disabled = true;
    waiting = setTimeout(() => {
      note.textContent = "The kernel is busy with a cell, and hears the button only after it. " +
        "Interrupt it (■ in the toolbar): where the cell waits for this run, the run stops.";
    }, 2000);
  });

  const shape = (tag, attributes, parent, content) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (content !== undefined) node.textContent = content;
    parent.append(node);
    return node;
  };

  const number = (value, places) => {
    if (value === 0) return "0";
    if (Math.abs(value) >= 1e4) return `${value / 1e3}k`;
    return Math.abs(value) < 1e-3 ? value.toExponential(1) : value.toFixed(places);
  };

  function ticks(low, high) {                                     // about four round numbers between low and high
    const raw = (high - low) / 4, power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 5, 10].find(part => part * power >= raw);
    const places = Math.max(0, -Math.floor(Math.log10(step)));
    const found = [];
    for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-6; value += step) found.push(value);
    return found.map(value => [value, number(Math.abs(value) < step * 1e-6 ? 0 : value, places)]);
  }

  function panel(name, points, end) {                             // end: the last step of the horizontal axis
    const finite = points.filter(point => Number.isFinite(point[1]));
    const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" }, stage);
    const last = finite.length ? finite[finite.length - 1] : [0, NaN];
    svg.setAttribute("aria-label", `${name}: ${last[1].toPrecision(4)} at step ${last[0]}, ${points.length} values`);
    let low = Math.min(...finite.map(point => point[1])), high = Math.max(...finite.map(point => point[1]));
    const room = (high - low || Math.abs(high) || 1) * 0.06;
    low -= room;
    high += room;
    const x = step => LEFT + (WIDTH - LEFT - RIGHT) * step / end;
    const y = value => HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (value - low) / (high - low);
    for (const [value, label] of finite.length ? ticks(low, high) : []) {
      shape("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value), class: "monitor-grid" }, svg);
      shape("text", { x: LEFT - 5, y: y(value) + 4, "text-anchor": "end" }, svg, label);
    }
    for (const [value, label] of ticks(0, end)) {
      shape("text", { x: x(value), y: HEIGHT - BOTTOM + 14, "text-anchor": "middle" }, svg, label);
    }
    shape("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM, class: "monitor-axis" }, svg);
    shape("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, svg, "step");
    shape("text", { x: WIDTH - RIGHT, y: 12, "text-anchor": "end", class: "monitor-name" }, svg,
          finite.length ? `${name} ${last[1].toPrecision(4)}` : `${name}: not a number`);
    shape("polyline", { points: finite.map(([s, v]) => `${x(s)},${y(v)}`).join(" "), class: "monitor-curve" }, svg);
    if (finite.length) shape("circle", { cx: x(last[0]), cy: y(last[1]), r: 3.5, class: "monitor-last" }, svg);
  }

  function draw() {
    const running = model.get("state") === "running";
    if (state.textContent !== model.get("state")) state.textContent = model.get("state");
    root.dataset.state = model.get("state");
    if (!running) {
      clearTimeout(waiting);
      waiting = undefined;
      note.textContent = "";
    }
    button.disabled = !running || waiting !== undefined;
    bar.value = model.get("share");
    text.textContent = model.get("text");
    stage.replaceChildren();
    const curves = Object.entries(model.get("curves"));
    const end = Math.max(...curves.map(([, points]) => points[points.length - 1][0]));
    for (const [name, points] of curves) panel(name, points, end);
  }

  root.style.setProperty("--monitor-color", color === "#000000" ? "currentcolor" : color);
  const shown = ["state", "share", "text", "curves"];
  shown.forEach(name => model.on(`change:${name}`, draw));
  draw();
  root.dataset.ready = "yes";
  return () => {
    clearTimeout(waiting);
    shown.forEach(name => model.off(`change:${name}`, draw));
  };
}

export default { render };
