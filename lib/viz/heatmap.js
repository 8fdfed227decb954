// Heat maps side by side: one pointer for all, and the value of its cell below each.
function render({ model, el }) {
  const { titles, rows, columns, quantity, axes, low, high } = model.get("meta");
  const raw = model.get("values");
  const values = new Float32Array(raw.buffer.slice(raw.byteOffset, raw.byteOffset + raw.byteLength));
  const make = (tag, name, parent) => {
    const node = document.createElement(tag);
    node.className = name;
    parent.append(node);
    return node;
  };
  const root = make("div", "heatmaps", el);
  const stage = make("div", "heatmaps-stage", root);
  const urls = model.get("pictures").map(picture => URL.createObjectURL(new Blob([picture], { type: "image/png" })));
  const scale = value => Math.abs(value) >= 0.01 || !value ? value.toFixed(2) : value.toPrecision(2);
  let pointed = null;                                            // the cell under the pointer, while it is over a map
  const clamp = (value, count) => Math.max(0, Math.min(count - 1, value));

  const panels = titles.map((title, index) => {
    const figure = make("figure", "", stage);
    make("figcaption", "", figure).textContent = title;
    const map = make("div", "heatmaps-map", figure);
    map.tabIndex = 0;
    map.setAttribute("role", "application");
    const image = make("img", "", map);
    image.src = urls[index];
    image.alt = "";
    const cell = make("div", "heatmaps-cell", map);
    const text = make("div", "heatmaps-value", figure);
    const cellAt = event => {
      const box = map.getBoundingClientRect();
      return { row: clamp(rows.length - 1 - Math.floor((event.clientY - box.top) / box.height * rows.length), rows.length),
               column: clamp(Math.floor((event.clientX - box.left) / box.width * columns.length), columns.length) };
    };
    map.addEventListener("pointermove", event => { pointed = cellAt(event); draw(); });
    map.addEventListener("pointerleave", () => { pointed = null; draw(); });
    map.addEventListener("click", event => keep(cellAt(event)));
    map.addEventListener("keydown", event => {
      const step = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();                                  // JupyterLab would move to another cell
      const { row, column } = current();
      keep({ row: clamp(row + step[0], rows.length), column: clamp(column + step[1], columns.length) });
    });
    return { title, map, cell, text };
  });
  const pair = make("p", "heatmaps-pair", root);
  pair.setAttribute("aria-live", "polite");
  make("p", "heatmaps-help", root).textContent =
    `Point at a cell; a click keeps it, arrow keys move it. Upwards: ${axes[0]}, ${rows[0]} to ${rows.at(-1)}; to the right: `
    + `${axes[1]}, ${columns[0]} to ${columns.at(-1)}. Colours from ${scale(low)} (dark) to ${scale(high)} (light).`;

  const current = () => pointed ?? { row: model.get("row"), column: model.get("column") };
  function keep({ row, column }) {
    pointed = null;
    model.set("row", row);
    model.set("column", column);
    model.save_changes();
    draw();
  }

  function draw() {
    const { row, column } = current();
    panels.forEach(({ title, map, cell, text }, index) => {
      const value = values[(index * rows.length + row) * columns.length + column].toFixed(3);
      Object.assign(cell.style, {
        left: `${100 * column / columns.length}%`, width: `${100 / columns.length}%`,
        top: `${100 * (rows.length - 1 - row) / rows.length}%`, height: `${100 / rows.length}%`,
      });
      text.textContent = `${quantity} ${value}`;
      map.setAttribute("aria-label", `${title}: ${axes[0]} ${rows[row]}, ${axes[1]} ${columns[column]}, ${quantity} ${value}`);
    });
    pair.textContent = `${axes[0]} ${rows[row]}, ${axes[1]} ${columns[column]}`;
  }

  model.on("change:row", draw);
  model.on("change:column", draw);
  draw();
  root.dataset.ready = "yes";
  return () => {
    model.off("change:row", draw);
    model.off("change:column", draw);
    urls.forEach(url => URL.revokeObjectURL(url));
  };
}

export default { render };
