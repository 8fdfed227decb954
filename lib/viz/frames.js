// Pictures under controls: one slider for each, and for every setting a picture that is already here.
function render({ model, el }) {
  const { controls, titles, captions, alt } = model.get("meta");
  const files = model.get("pictures");
  const urls = [];                                               // made when first shown
  const make = (tag, name, parent, text) => {
    const node = document.createElement(tag);
    node.className = name;
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  };
  const root = make("section", "frames", el);
  root.setAttribute("aria-label", alt);
  const panel = make("div", "frames-controls", root);
  const sliders = controls.map(({ name, labels }, index) => {
    const label = make("label", "", panel);
    make("span", "frames-name", label, name);
    const slider = make("input", "", label);
    Object.assign(slider, { type: "range", min: 0, max: labels.length - 1, step: 1, ariaLabel: name });
    const shown = make("output", "", label);
    slider.addEventListener("input", () => {
      model.set("position", model.get("position").map((place, other) => other === index ? Number(slider.value) : place));
      draw();
    });
    slider.addEventListener("change", () => model.save_changes());
    slider.addEventListener("keydown", event => {
      if (event.key.startsWith("Arrow")) event.stopPropagation();           // JupyterLab would move to another cell
    });
    return { slider, shown, labels };
  });
  const stage = make("div", "frames-stage", root);
  stage.style.setProperty("--frames-count", titles.length);
  const cells = titles.map(title => {
    const figure = make("figure", "", stage);
    make("figcaption", "", figure, title);
    return make("div", "frames-picture", figure);
  });
  cells.forEach((cell, index) => {
    cell.style.backgroundPositionX = titles.length > 1 ? `${100 * index / (titles.length - 1)}%` : "0";
    cell.setAttribute("role", "img");
    cell.setAttribute("aria-label", titles[index]);
  });
  const caption = make("p", "frames-caption", root);
  caption.setAttribute("aria-live", "polite");

  const probe = new Image();                                      // tells the shape of a picture
  probe.addEventListener("load", () => {
    stage.style.setProperty("--frames-shape", `${probe.naturalWidth / titles.length} / ${probe.naturalHeight}`);
    root.dataset.ready = "yes";
  });

  function draw() {
    const position = model.get("position");
    const number = controls.reduce((sum, { labels }, index) => sum * labels.length + position[index], 0);
    urls[number] ??= URL.createObjectURL(new Blob([files[number]], { type: "image/png" }));
    for (const cell of cells) cell.style.backgroundImage = `url(${urls[number]})`;
    sliders.forEach(({ slider, shown, labels }, index) => {
      slider.value = position[index];
      shown.textContent = labels[position[index]];
      slider.setAttribute("aria-valuetext", labels[position[index]]);
    });
    caption.textContent = captions[number];
    root.dataset.number = number;
    if (!probe.src) probe.src = urls[number];
  }

  model.on("change:position", draw);
  draw();
  return () => {
    model.off("change:position", draw);
    urls.forEach(url => URL.revokeObjectURL(url));
  };
}

export default { render };
