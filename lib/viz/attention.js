// Maps in the browser: where the row of a query begins, what stands in it, and the colour that it gets.
//
// A view has a byte for each patch, of each query, head, layer, image and model, in that nesting (the patch runs fastest);
// low + codes / 255 * (high - low) is attention, rollout or a cosine. Layers and heads count from 1, everything else from 0.

const CLS = -1;

// Cividis, made to look alike with and without colour blindness: 16 stops, interpolated to 256 colours as 0xAABBGGRR.
const STOPS = [
  0x00224e, 0x002e6c, 0x1e3a6f, 0x35456c, 0x47516c, 0x575d6d, 0x666970, 0x757575,
  0x848279, 0x948e77, 0xa59c74, 0xb7a96e, 0xc8b866, 0xdbc75a, 0xeed649, 0xfee838,
];
const PALETTE = Uint32Array.from({ length: 256 }, (_, code) => {
  const place = code / 255 * 15, stop = Math.min(14, Math.floor(place)), part = place - stop;
  const channel = shift => {
    const [from, to] = [STOPS[stop] >> shift & 255, STOPS[stop + 1] >> shift & 255];
    return Math.round(from + part * (to - from));
  };
  return (255 << 24 | channel(0) << 16 | channel(8) << 8 | channel(16)) >>> 0;
});

const bytes = view => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
const floats = view => new Float32Array(bytes(view).slice().buffer);

/** One view: of each model, where the row of a query begins, and what stands there. low is 0 but for cosines. */
function readView(meta, [codes, high, rest], { heads, cosines }) {
  const patches = meta.rows * meta.columns;
  codes = bytes(codes), high = floats(high), rest = floats(rest);
  const low = row => cosines ? rest[row] : 0;
  let first = 0;                                               // row with which a model begins
  const row = meta.models.map(each => {
    const queries = patches + (each.cls ? 1 : 0), begin = first, count = heads(each);
    first += meta.images.length * each.layers * count * queries;
    return (image, layer, head, query) =>
      begin + ((image * each.layers + Math.min(layer, each.layers) - 1) * count + Math.min(head, count) - 1)
      * queries + query + (each.cls ? 1 : 0);
  });

  /** A query's row, added to `into` with a weight; gives what goes to CLS, with the same weight. */
  function add(into, row, weight) {
    const bottom = low(row) * weight, step = (high[row] * weight - bottom) / 255, begin = row * patches;
    for (let patch = 0; patch < patches; patch++) into[patch] += bottom + codes[begin + patch] * step;
    return cosines ? 0 : rest[row] * weight;
  }
  return { codes, high, low, row, add, heads, cosines };
}

/** All that the kernel sent: the models, and each view that it has. */
function readViews(model) {
  const meta = model.get("meta"), single = () => 1;
  const read = (parts, heads, cosines) => readView(meta, parts, { heads, cosines });
  const views = {
    attention: read(["codes", "brightest", "outside"].map(name => model.get(name)), each => each.heads, false),
    rollout: read(model.get("rollout"), single, false),
  };
  if (meta.views.includes("similarity")) views.similarity = read(model.get("similarity"), single, true);
  const models = meta.models.map(each => ({ ...each, sees: query => query !== CLS || each.cls }));
  return { meta, models, views };
}
