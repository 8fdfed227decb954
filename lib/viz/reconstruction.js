// Draw a mask, and the kernel's network fills it in. The mask is drawn here at once; the kernel is asked one mask at a time,
// so that a quick hand does not pile up questions.
const WIDTH = 448, GREY = "#808080";

const decode = png => createImageBitmap(new Blob([png], { type: "image/png" }));

function render({ model, el }) {
  const { side, names, model: label } = model.get("meta"), cell = WIDTH / side;
  let mask = new Set(model.get("masked")), pictures = null, answer = null, told = model.get("report");
  let sent = JSON.stringify(model.get("masked")), waiting = false;       // what the kernel was asked, and is it still at it?
  let place = Math.floor(side / 2) * side + Math.floor(side / 2);        // the patch that the keys are at
  let paint = null, last = null;                                         // while the pointer is down: hide or show, from where?

  // ---- what is on the page
  const panel = (title, properties = {}) => {
    const canvas = make("canvas", { width: WIDTH, height: WIDTH, ...properties });
    return { canvas, context: canvas.getContext("2d"), node: make("figure", {}, make("figcaption", { textContent: title }), canvas) };
  };
  const whole = panel("Image", { role: "img" });
  const hidden = panel("Masked: draw here", { className: "reconstruction-draw", tabIndex: 0, role: "application",
                                              "aria-roledescription": "mask" });
  const filled = panel(`Filled in by ${label}`, { role: "img" });
  const choose = make("select", { onchange: () => { model.set("image", +choose.value); model.save_changes(); draw(); } });
  names.forEach((name, n) => choose.add(new Option(name, n)));
  const random = make("button", { type: "button", textContent: "Random mask", title: "One as in training",
                                  onclick: () => { if (!reaches(model, { random: true })) text.textContent = ENDED; } });
  const clear = make("button", { type: "button", textContent: "Show all", onclick: () => { mask = new Set(); change(); } });
  const text = make("p", { className: "reconstruction-report", role: "status" });
  const root = make("div", { className: "reconstruction", role: "group", "aria-label": `Reconstruction by ${label}`,
                             "data-lm-suppress-shortcuts": "true" },     // JupyterLab: keys that are typed here stay here
    make("div", { className: "reconstruction-bar" },
      make("label", { hidden: names.length < 2 }, make("span", { textContent: "Image" }), choose), random, clear),
    make("div", { className: "reconstruction-stage" }, whole.node, hidden.node, filled.node), text,
    make("p", { className: "reconstruction-help", textContent:
      "Draw over patches to hide them, over hidden ones to show them. Keys: arrows move, space hides or shows." }));
  el.append(root);

  // ---- drawing
  function draw() {
    const picture = pictures?.[model.get("image")], name = names[model.get("image")];
    choose.value = model.get("image");
    for (const { context } of [whole, hidden, filled]) {
      context.imageSmoothingEnabled = false;
      context.clearRect(0, 0, WIDTH, WIDTH);
    }
    if (picture) {
      whole.context.drawImage(picture, 0, 0, WIDTH, WIDTH);
      hidden.context.drawImage(picture, 0, 0, WIDTH, WIDTH);
    }
    if (answer) filled.context.drawImage(answer, 0, 0, WIDTH, WIDTH);
    hidden.context.fillStyle = GREY;
    for (const patch of mask) hidden.context.fillRect(patch % side * cell, Math.floor(patch / side) * cell, cell, cell);
    for (const [width, color] of [[6, "#fff"], [3, "#d55e00"]]) {
      hidden.context.lineWidth = width;
      hidden.context.strokeStyle = color;
      hidden.context.strokeRect(place % side * cell + 3, Math.floor(place / side) * cell + 3, cell - 6, cell - 6);
    }
    const { masked, image, text: said } = told;                          // of the picture that is shown
    const late = JSON.stringify(masked) !== JSON.stringify(list()) || image !== model.get("image");
    filled.canvas.classList.toggle("reconstruction-late", late);
    text.textContent = late ? `${mask.size} of ${side * side} patches masked. The network is at it …` : said;
    root.dataset.late = late ? "yes" : "no";
    hidden.canvas.setAttribute("aria-label", `${name}, ${mask.size} of ${side * side} patches hidden. Row `
      + `${Math.floor(place / side) + 1}, column ${place % side + 1} is ${mask.has(place) ? "hidden" : "visible"}. Arrows move, `
      + "space hides or shows.");
    whole.canvas.setAttribute("aria-label", name);
    filled.canvas.setAttribute("aria-label", `${name}, filled in by ${label}`);
  }

  // ---- the mask
  const list = () => [...mask].sort((a, b) => a - b);
  function change() {
    draw();
    ask();
  }
  function ask() {
    const now = JSON.stringify(list());
    if (waiting || now === sent) return;
    if (!reaches(model)) {
      text.textContent = ENDED;
      return;
    }
    sent = now;
    waiting = true;
    model.set("masked", list());
    model.save_changes();
  }
  function toggle(patch, hide) {
    if (hide) mask.add(patch); else mask.delete(patch);
  }
  const patchAt = event => {                                             // null outside of the picture
    const box = hidden.canvas.getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top) / box.height * side);
    const column = Math.floor((event.clientX - box.left) / box.width * side);
    return Math.min(row, column) < 0 || Math.max(row, column) >= side ? null : row * side + column;
  };
  /** The patches on a straight line: a quick hand leaves no gaps. */
  function between(from, to) {
    const rows = Math.floor(to / side) - Math.floor(from / side), columns = to % side - from % side;
    const steps = Math.max(Math.abs(rows), Math.abs(columns), 1);
    return Array.from({ length: steps }, (_, n) => from + Math.round(rows * (n + 1) / steps) * side
                                                   + Math.round(columns * (n + 1) / steps));
  }
  hidden.canvas.onpointerdown = event => {
    if (event.button) return;
    const first = patchAt(event);
    if (first === null) return;
    hidden.canvas.setPointerCapture(event.pointerId);
    place = last = first;
    paint = !mask.has(place);                                            // the first patch decides for all of the stroke
    toggle(place, paint);
    change();
  };
  hidden.canvas.onpointermove = event => {
    if (paint === null) return;
    const now = patchAt(event), stroke = now === null ? [] : last === null ? [now] : between(last, now);
    last = now;
    const fresh = stroke.filter(patch => mask.has(patch) !== paint);
    if (!fresh.length) return;
    place = now;
    fresh.forEach(patch => toggle(patch, paint));
    change();
  };
  hidden.canvas.onpointerup = hidden.canvas.onpointercancel = () => { paint = null; };
  hidden.canvas.onkeydown = event => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step && event.key !== " ") return;
    event.preventDefault();
    event.stopPropagation();                                             // JupyterLab would move to another cell
    if (!step) {
      toggle(place, !mask.has(place));
      return change();
    }
    const clamp = value => Math.max(0, Math.min(side - 1, value));
    place = clamp(Math.floor(place / side) + step[0]) * side + clamp(place % side + step[1]);
    draw();
  };

  // ---- what the kernel says
  const masked = () => {
    const now = JSON.stringify(model.get("masked"));
    if (now === sent) return;                                            // an echo of what was drawn here
    sent = now;
    mask = new Set(model.get("masked"));
    draw();
  };
  const report = async () => {
    const now = model.get("report"), decoded = await decode(model.get("filled"));
    if (now !== model.get("report")) return;                             // another came meanwhile, with its own picture
    [answer, told] = [decoded, now];
    waiting = JSON.stringify(told.masked) !== sent;
    draw();
    ask();
  };
  model.on("change:masked", masked);
  model.on("change:image", draw);
  model.on("change:report", report);
  Promise.all([decode(model.get("filled")), ...model.get("pictures").map(decode)]).then(([first, ...decoded]) => {
    answer ??= first;
    pictures = decoded;
    draw();
    root.dataset.ready = "yes";
  });
  return () => {
    model.off("change:masked", masked);
    model.off("change:image", draw);
    model.off("change:report", report);
  };
}

export default { render };
