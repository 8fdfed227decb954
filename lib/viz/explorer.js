// The attention explorer: all attention is in the browser, so a pointer move is a look-up and a redraw, without the kernel.
//
// `dom.js` and `attention.js` go before this file, in one module. `shown` is what Python sees as traits; `pointed` is the
// patch under the pointer, which Python does not see until a click keeps it.

const TRAITS = ["view", "query", "layer", "head", "image", "overlay", "scale"];
const WIDTH = 480;                                             // pixels of a canvas; the style sheet fits it to the page
const LARGEST = 1024;                                          // short side of an image that is sent to the kernel
const VIEWS = { attention: "attention", rollout: "attention rollout", similarity: "similarity of tokens" };

const canvas = (width, height, properties = {}) => make("canvas", { width, height, ...properties });
const percent = share => share > 0 && share < 0.001 ? "< 0.1 %" : (100 * share).toFixed(share < 0.1 ? 1 : 0) + " %";
const place = (patch, columns) => patch === CLS ? "CLS" : `row ${Math.floor(patch / columns) + 1}, column ${patch % columns + 1}`;

/** A picture in colour and in grey, as canvases, from the bytes of a PNG. */
async function decode(view) {
  const bitmap = await createImageBitmap(new Blob([bytes(view)], { type: "image/png" }));
  const color = canvas(bitmap.width, bitmap.height), grey = canvas(bitmap.width, bitmap.height);
  color.getContext("2d").drawImage(bitmap, 0, 0);
  const pixels = color.getContext("2d").getImageData(0, 0, bitmap.width, bitmap.height), p = pixels.data;
  for (let i = 0; i < p.length; i += 4) p[i] = p[i + 1] = p[i + 2] = 0.3 * p[i] + 0.59 * p[i + 1] + 0.11 * p[i + 2];
  grey.getContext("2d").putImageData(pixels, 0, 0);
  return { color, grey };
}

/** An image file as a PNG that is not too large to send. Fails for a file that the browser cannot show. */
async function png(file) {
  const bitmap = await createImageBitmap(file), shrink = Math.min(1, LARGEST / Math.min(bitmap.width, bitmap.height));
  const drawn = canvas(Math.round(bitmap.width * shrink), Math.round(bitmap.height * shrink));
  const context = drawn.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, drawn.width, drawn.height);
  const blob = await new Promise(done => drawn.toBlob(done, "image/png"));
  return blob.arrayBuffer();
}

// --------------------------------------------------------------------------------------------------------------- widget

function render({ model, el }) {
  let { meta, models, views } = readViews(model);
  const { rows, columns } = meta, patches = rows * columns, height = Math.round(WIDTH / meta.aspect);
  const most = { layers: Math.max(...models.map(m => m.layers)), heads: Math.max(...models.map(m => m.heads)) };
  const shown = Object.fromEntries(TRAITS.map(name => [name, model.get(name)]));
  let pointed = null, pictures = null;

  const query = () => pointed ?? shown.query;
  const view = () => views[shown.view], ofHeads = () => shown.view === "attention";
  const heads = each => !ofHeads() ? [1] : typeof shown.head === "number" ? [Math.min(shown.head, each.heads)]
    : Array.from({ length: each.heads }, (_, h) => h + 1);
  const number = value => view().cosines ? value.toFixed(3) : value === 0 ? "0" : percent(value);

  // What a person did: show it, and tell Python.
  function set(changes, tell = true) {
    Object.assign(shown, changes);
    if (tell) {
      for (const [name, value] of Object.entries(changes)) model.set(name, value);
      model.save_changes();
    }
    drawAll();
  }

  // ---- controls
  const field = (label, ...nodes) => make("label", {}, make("span", { textContent: label }), ...nodes);
  const choose = (options, change) => {
    const node = make("select", { onchange: () => change(node.value) });
    for (const [value, text] of options) node.add(new Option(text, value));
    return node;
  };
  const range = (name, min, max, step) => {
    const node = make("input", { type: "range", min, max, step });
    node.oninput = () => set({ [name]: +node.value }, false);
    node.onchange = () => set({ [name]: +node.value });
    return node;
  };
  const controls = {
    image: choose(meta.images.map((name, n) => [n, name]), value => set({ image: +value })),
    view: choose(meta.views.map(name => [name, VIEWS[name]]), value => set({ view: value })),
    layer: range("layer", 1, most.layers, 1),
    head: choose([["mean", "mean of heads"], ["all", "all heads"],
                  ...Array.from({ length: most.heads }, (_, h) => [h + 1, h + 1])],
                 value => set({ head: isNaN(value) ? value : +value })),
    overlay: range("overlay", 0, 1, 0.05),
    scale: choose([["own", "each map to its own"], ["shared", "one for all models"]], value => set({ scale: value })),
  };
  const layerNumber = make("output");
  const askCls = make("button", { type: "button", textContent: "CLS asks", title: "Show where the CLS token looks (key C)",
                                  onclick: () => set({ query: shown.query === CLS ? middle : CLS }) });
  const middle = Math.floor(rows / 2) * columns + Math.floor(columns / 2);
  askCls.disabled = !models.some(m => m.cls);
  const file = make("input", { type: "file", accept: "image/*", hidden: true });
  const upload = make("button", { type: "button", textContent: "Your image …", hidden: !meta.open,
                                  title: "Choose an image file; the models look at it in the kernel", onclick: () => file.click() });
  const notice = make("p", { className: "explorer-notice", role: "alert" });
  const about = make("p", { className: "explorer-about", id: `explorer-about-${Math.random().toString(36).slice(2)}` });
  controls.head.setAttribute("aria-describedby", about.id);
  const bar = make("div", { className: "explorer-bar" },
    field("Image", controls.image), upload, file, field("View", controls.view), field("Layer", controls.layer, layerNumber), field("Head", controls.head), askCls,
    field("Overlay", controls.overlay), field("Colours", controls.scale), about, notice);

  // ---- the image, and a panel for each model
  const stage = (label, first) => canvas(WIDTH, height, {
    className: "explorer-map", tabIndex: first ? 0 : -1, role: "application", "aria-roledescription": "patches", "data-of": label });
  const imageMap = stage("image", true);
  const asks = make("p", { className: "explorer-asks" });
  const imagePanel = make("figure", {}, make("figcaption", { textContent: "Image" }), imageMap, asks,
    make("p", { className: "explorer-help", textContent:
      "Point at a patch: every model shows where it looks. A click keeps it, arrow keys move it, C asks CLS. "
      + "In a strip of all heads, click the one to see." }));
  const small = canvas(columns, rows), smallContext = small.getContext("2d");
  const smallPixels = smallContext.createImageData(columns, rows), smallColors = new Uint32Array(smallPixels.data.buffer);

  const panels = models.map((each, n) => {
    const map = stage(each.label, false), top = make("output"), outside = make("p", { className: "explorer-outside" });
    const numbers = make("table", { className: "explorer-numbers" });
    const overview = canvas(1, 1, {
      className: "explorer-overview", tabIndex: n ? -1 : 0, role: "application", "aria-roledescription": "all heads",
      "data-of": each.label });
    overview.style.maxWidth = `${3 * each.layers}rem`;        // a network of few layers gets no huge thumbnails
    const tiny = canvas(1, 1), axis = make("p", { className: "explorer-axis" }), low = make("span", { className: "explorer-low" });
    const swatch = make("span", { className: "explorer-swatch" });
    if (each.color) swatch.style.background = each.color; else swatch.hidden = true;
    const node = make("figure", {}, make("figcaption", {}, swatch, each.label), map,
      make("p", { className: "explorer-legend" }, low, make("span", { className: "explorer-ramp" }), top), outside, numbers,
      axis, overview);
    return { n, each, map, context: map.getContext("2d"), low, top, outside, numbers, axis, overview, tiny, node };
  });

  /** The strip of a panel in the shape that the view has: layers across, heads down. */
  function shapeStrip(panel) {
    const { each, axis, overview, tiny } = panel, count = view().heads(each);
    if (panel.count === count) return;
    const stripColumns = each.layers * (columns + 1) - 1, stripRows = count * (rows + 1) - 1;
    const zoom = Math.max(1, Math.round(WIDTH / stripColumns));
    [overview.width, overview.height, tiny.width, tiny.height] = [stripColumns * zoom, stripRows * zoom, stripColumns, stripRows];
    const pixels = tiny.getContext("2d").createImageData(stripColumns, stripRows);
    Object.assign(panel, { count, stripColumns, zoom, pixels, colors: new Uint32Array(pixels.data.buffer) });
    axis.textContent = `Layers 1–${each.layers} →` + (count > 1 ? `, heads 1–${count} ↓` : "");
  }
  const ramp = [0, 51, 102, 153, 204, 255].map(code => {
    const c = PALETTE[code];
    return `rgb(${c & 255} ${c >> 8 & 255} ${c >> 16 & 255})`;
  });
  for (const node of panels) node.node.querySelector(".explorer-ramp").style.background = `linear-gradient(to right, ${ramp})`;

  const status = make("p", { className: "explorer-status", role: "status" });
  const root = make("div", { className: "explorer", role: "group", "aria-label": "Attention explorer",
                             "data-lm-suppress-shortcuts": "true" },    // JupyterLab: keys that are typed here stay here
    bar, make("div", { className: "explorer-stage" }, imagePanel, ...panels.map(panel => panel.node)), status);
  root.style.setProperty("--panels", panels.length + 1);
  el.append(root);

  // ---- drawing
  /** Maps of a panel: one for each head where all are shown, else one. */
  function mapsOf({ n, each }) {
    if (!each.sees(query())) return { maps: [new Float32Array(patches)], outside: 0, low: 0, high: 0 };
    const { row, add, cosines } = view(), chosen = heads(each), all = ofHeads() && shown.head === "all", maps = [];
    let outside = 0;
    for (const head of chosen) {
      if (all || !maps.length) maps.push(new Float32Array(patches));
      const weight = all ? 1 : 1 / chosen.length;
      outside += add(maps.at(-1), row[n](shown.image, shown.layer, head, query()), weight) / (all ? chosen.length : 1);
    }
    return { maps, outside, ...ends(maps, cosines) };
  }

  /** The smallest and largest value of maps; shares of 1 begin at 0. */
  function ends(maps, cosines) {
    let low = cosines ? Infinity : 0, high = cosines ? -Infinity : 0;
    for (const map of maps) {
      for (const value of map) {
        if (value > high) high = value;
        if (value < low) low = value;
      }
    }
    return { low, high };
  }

  function mark(context, x, y, width, tall) {
    if (query() === CLS) return;
    const w = width / columns, h = tall / rows;
    const box = [x + query() % columns * w, y + Math.floor(query() / columns) * h, w, h];
    context.lineWidth = Math.max(3, w / 7);
    context.strokeStyle = "#fff";
    context.strokeRect(...box);
    context.lineWidth = Math.max(1.5, w / 14);
    context.strokeStyle = pointed === null ? "#d55e00" : "#000";        // orange is kept, black is pointed at
    context.strokeRect(...box);
  }

  /** Number of cells across and down, and their size, where so many maps share a panel. */
  function cells(count) {
    const across = Math.ceil(Math.sqrt(count)), down = Math.ceil(count / across);
    return { across, down, width: WIDTH / across, tall: height / across };
  }

  function drawPanel(panel, { maps, outside, low, high }, scale) {
    const { context, each } = panel, { across, width, tall } = cells(maps.length), gap = maps.length > 1 ? 4 : 0;
    context.clearRect(0, 0, WIDTH, height);
    maps.forEach((map, n) => {
      const x = n % across * width, y = Math.floor(n / across) * tall;
      const own = scale ?? ends([map], view().cosines), step = own.high > own.low ? 255 / (own.high - own.low) : 0;
      for (let patch = 0; patch < patches; patch++) {
        smallColors[patch] = PALETTE[Math.min(255, Math.max(0, Math.round((map[patch] - own.low) * step)))];
      }
      smallContext.putImageData(smallPixels, 0, 0);
      context.imageSmoothingEnabled = true;
      context.globalAlpha = 1;
      if (pictures?.[shown.image]) context.drawImage(pictures[shown.image].grey, x, y, width - gap, tall - gap);
      context.imageSmoothingEnabled = false;
      context.globalAlpha = shown.overlay;
      context.drawImage(small, x, y, width - gap, tall - gap);
      context.globalAlpha = 1;
      mark(context, x, y, width - gap, tall - gap);
      if (gap) {
        context.font = "bold 22px sans-serif";
        context.lineWidth = 5;
        context.strokeStyle = "#000";
        context.strokeText(n + 1, x + 6, y + 24);
        context.fillStyle = "#fff";
        context.fillText(n + 1, x + 6, y + 24);
      }
    });
    const sees = each.sees(query());
    panel.low.textContent = number(scale?.low ?? low);
    panel.top.textContent = scale || maps.length === 1 ? number(scale?.high ?? high) : "own brightest";
    panel.outside.textContent = !sees ? "no CLS token" : !each.cls || view().cosines ? "\u00a0"
      : `${ofHeads() ? "CLS gets" : "from CLS"} ${percent(outside)}`;
  }

  function drawOverview(panel, scale) {
    shapeStrip(panel);
    const { n, each, count, colors, stripColumns, zoom } = panel, { codes, high, low, row: rowOf } = view();
    colors.fill(0);
    if (each.sees(query())) {
      for (let layer = 1; layer <= each.layers; layer++) {
        for (let head = 1; head <= count; head++) {
          const row = rowOf[n](shown.image, layer, head, query()), bottom = low(row);
          const factor = !scale ? 1 : scale.high > scale.low ? (high[row] - bottom) / (scale.high - scale.low) : 0;
          const base = !scale || !factor ? 0 : 255 * (bottom - scale.low) / (scale.high - scale.low);
          let code = row * patches, corner = (head - 1) * (rows + 1) * stripColumns + (layer - 1) * (columns + 1);
          for (let r = 0; r < rows; r++, corner += stripColumns) {
            for (let c = 0; c < columns; c++) colors[corner + c] = PALETTE[Math.round(base + codes[code++] * factor)];
          }
        }
      }
    }
    panel.tiny.getContext("2d").putImageData(panel.pixels, 0, 0);
    const context = panel.overview.getContext("2d"), layer = Math.min(shown.layer, each.layers);
    context.clearRect(0, 0, panel.overview.width, panel.overview.height);
    context.imageSmoothingEnabled = false;
    context.drawImage(panel.tiny, 0, 0, panel.overview.width, panel.overview.height);
    const chosen = heads(each), x = (layer - 1) * (columns + 1) * zoom, y = (chosen[0] - 1) * (rows + 1) * zoom;
    const box = [x + 3, y + 3, columns * zoom - 6, (chosen.length * (rows + 1) - 1) * zoom - 6];
    for (const [width, color] of [[7, "#fff"], [4, "#d55e00"]]) {
      context.lineWidth = width;
      context.strokeStyle = color;
      context.strokeRect(...box);
    }
  }

  /** Everything that depends on the query: what a pointer move redraws. */
  function drawQuery() {
    const found = panels.map(mapsOf), shared = shown.scale === "shared";
    const { high, low, row } = view(), asked = panels.filter(({ each }) => each.sees(query()));
    const scale = !shared || !asked.length ? null : { low: Math.min(...asked.map(({ n }) => found[n].low)),
                                                      high: Math.max(...asked.map(({ n }) => found[n].high)) };
    const stripScale = scale && { low: view().cosines ? Infinity : 0, high: -Infinity };
    for (const { n, each } of scale ? asked : []) {
      for (let layer = 1; layer <= each.layers; layer++) {
        for (let head = 1; head <= view().heads(each); head++) {
          const place = row[n](shown.image, layer, head, query());
          stripScale.low = Math.min(stripScale.low, low(place));
          stripScale.high = Math.max(stripScale.high, high[place]);
        }
      }
    }
    const context = imageMap.getContext("2d");
    context.clearRect(0, 0, WIDTH, height);
    if (pictures?.[shown.image]) context.drawImage(pictures[shown.image].color, 0, 0, WIDTH, height);
    mark(context, 0, 0, WIDTH, height);
    panels.forEach((panel, n) => {
      drawPanel(panel, found[n], scale);
      drawOverview(panel, stripScale);
    });
    asks.textContent = `Query: ${place(query(), columns)}`;
    root.dataset.query = query();
    return found;
  }

  function drawNumbers({ each, numbers }) {
    numbers.hidden = !ofHeads();
    if (numbers.hidden) return;
    const layer = Math.min(shown.layer, each.layers) - 1, all = each.layers * each.heads;
    const single = typeof shown.head === "number", head = heads(each)[0];
    const title = make("caption", { textContent:
      `Layer ${layer + 1}, ${single ? `head ${head}` : "mean of heads"}${meta.images.length > 1 ? ", all images" : ""}` });
    const lines = [["distance", "distance", " px", 1], ["entropy", "entropy", " nats", 2], ["nmi", "NMI", "", 3]];
    numbers.replaceChildren(title, ...lines.map(([key, name, unit, digits]) => {
      const values = each.statistics[key], inLayer = values[layer];
      const value = single ? inLayer[head - 1] : inLayer.reduce((sum, v) => sum + v, 0) / inLayer.length;
      const above = values.flat().filter(v => v > value).length;
      return make("tr", {}, make("th", { textContent: name, scope: "row" }),
        make("td", { textContent: value.toFixed(digits) + unit }),
        make("td", { textContent: single ? `${above + 1} of ${all}` : "", title: "rank among all heads; 1 has the largest" }));
    }));
  }

  function drawAll() {
    controls.image.value = shown.image;
    controls.view.value = shown.view;
    controls.head.disabled = !ofHeads();
    about.textContent = {
      rollout: `Rollout: where the query draws from through layers 1 to ${shown.layer} together, half of each skipping attention. It `
        + "takes the mean of heads: there is no head to choose.",
      similarity: `Similarity: cosine of the query's token with every other, behind layer ${shown.layer}. A token belongs to no `
        + "head: there is none to choose.",
    }[shown.view] ?? "";
    controls.layer.value = shown.layer;
    layerNumber.textContent = `${shown.layer} of ${most.layers}`;
    controls.head.value = shown.head;
    controls.overlay.value = shown.overlay;
    controls.scale.value = shown.scale;
    askCls.setAttribute("aria-pressed", shown.query === CLS);
    const found = drawQuery();
    panels.forEach(drawNumbers);
    const where = `Query ${place(shown.query, columns)}, layer ${shown.layer}, ` + (!ofHeads() ? VIEWS[shown.view]
      : typeof shown.head === "number" ? `head ${shown.head}` : `${shown.head === "all" ? "all" : "mean of"} heads`);
    for (const node of [imageMap, ...panels.map(panel => panel.map)]) {
      node.setAttribute("aria-label", `${node.dataset.of}. ${where}. Arrow keys move the query, C asks CLS.`);
    }
    for (const { each, overview } of panels) {
      overview.setAttribute("aria-label", ofHeads()
        ? `${each.label}, ${each.layers} layers of ${each.heads} heads. Layer ${shown.layer}, head ${shown.head}. Left and right `
          + "change the layer, up and down the head."
        : `${each.label}, ${VIEWS[shown.view]} of ${each.layers} layers. Layer ${shown.layer}. Left and right change the layer.`);
    }
    status.textContent = where + ". " + models.map((each, n) => {
      const map = found[n].maps[0];
      let best = -1;                                           // every token is most like itself: that goes without saying
      map.forEach((value, patch) => {
        if ((best < 0 || value > map[best]) && !(view().cosines && patch === shown.query)) best = patch;
      });
      const value = view().cosines ? `about ${map[best].toFixed(2)}` : number(map[best]);
      const does = { attention: "looks most at", rollout: "draws most from", similarity: "finds most alike" }[shown.view];
      return `${each.label}${ofHeads() && shown.head === "all" ? ", head 1," : ""} ${does} ${place(best, columns)}, ${value}`;
    }).join("; ");
  }

  // ---- pointer and keys
  const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
  const inside = (node, event) => {
    const box = node.getBoundingClientRect();
    return [clamp((event.clientX - box.left) / box.width, 0, 0.9999), clamp((event.clientY - box.top) / box.height, 0, 0.9999)];
  };
  function patchAt(node, count, event) {
    const { across } = cells(count), [x, y] = inside(node, event);
    if (Math.floor(y * across) * across + Math.floor(x * across) >= count) return null;      // the place of no head
    return Math.floor(y * across % 1 * rows) * columns + Math.floor(x * across % 1 * columns);
  }
  function moveQuery(event) {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const cls = event.key.toLowerCase() === "c" && !event.ctrlKey && !event.metaKey && !askCls.disabled;
    if (!step && !cls) return;
    event.preventDefault();
    event.stopPropagation();
    pointed = null;
    if (cls) return set({ query: CLS });
    if (shown.query === CLS) return set({ query: middle });
    const row = clamp(Math.floor(shown.query / columns) + step[0], 0, rows - 1);
    set({ query: row * columns + clamp(shown.query % columns + step[1], 0, columns - 1) });
  }
  for (const [node, each] of [[imageMap, null], ...panels.map(panel => [panel.map, panel.each])]) {
    const count = () => each && ofHeads() && shown.head === "all" ? each.heads : 1;
    node.onpointermove = event => {
      const patch = patchAt(node, count(), event);
      if (patch !== pointed) { pointed = patch; drawQuery(); }
    };
    node.onpointerleave = () => { pointed = null; drawQuery(); };
    node.onclick = event => {
      const patch = patchAt(node, count(), event);
      pointed = null;
      if (patch !== null) set({ query: patch });
    };
    node.onkeydown = moveQuery;
  }
  for (const { each, overview } of panels) {
    overview.onclick = event => {
      const [x, y] = inside(overview, event);
      const layer = Math.floor(x * each.layers) + 1;
      set(ofHeads() ? { layer, head: Math.floor(y * each.heads) + 1 } : { layer });
    };
    overview.onkeydown = event => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      if (!ofHeads()) return set({ layer: clamp(shown.layer + step[0], 1, most.layers) });
      const head = typeof shown.head === "number" ? shown.head + step[1] : step[1] ? 1 : shown.head;
      set({ layer: clamp(shown.layer + step[0], 1, most.layers),
            head: typeof head === "number" ? clamp(head, 1, most.heads) : head });
    };
  }

  // ---- what Python changes
  const changed = Object.fromEntries(TRAITS.map(name => [name, () => { shown[name] = model.get(name); drawAll(); }]));
  for (const name of TRAITS) model.on(`change:${name}`, changed[name]);

  // ---- one image more
  file.onchange = async () => {
    const [chosen] = file.files;
    if (!chosen) return;
    file.value = "";                                           // or the same file could not be chosen again
    notice.textContent = `The models look at ${chosen.name} as soon as the kernel is free …`;
    const bytes = await png(chosen).catch(() => null);
    if (!bytes) notice.textContent = `${chosen.name} is not an image that this browser can read.`;
    else if (!reaches(model, { add: chosen.name.replace(/\.[^.]*$/, "") }, [bytes])) notice.textContent = ENDED;
  };
  const answered = answer => { notice.textContent = answer.problem ?? ""; };
  function showPictures() {
    return Promise.all(model.get("pictures").map(decode)).then(decoded => {
      pictures = decoded;
      drawQuery();
      root.dataset.ready = "yes";
    });
  }
  function more() {
    ({ meta, models, views } = readViews(model));
    panels.forEach((panel, n) => { panel.each = models[n]; });
    controls.image.replaceChildren(...meta.images.map((name, n) => new Option(name, n)));
    drawAll();
    showPictures();
  }
  model.on("change:meta", more);
  model.on("msg:custom", answered);
  drawAll();
  showPictures();
  return () => {
    for (const name of TRAITS) model.off(`change:${name}`, changed[name]);
    model.off("change:meta", more);
    model.off("msg:custom", answered);
  };
}

export default { render };
