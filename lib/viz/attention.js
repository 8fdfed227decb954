// Attention in the browser: where the row of a query begins, what stands in it, and the colour that it gets.
//
// model.get("codes") holds a byte for each patch, of each query, head, layer, image and model, in that nesting (the patch
// runs fastest); codes / 255 * brightest is attention. Layers and heads count from 1, everything else from 0.

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

/** All attention: where the row of a query begins, and what stands in it. */
function readAttention(model) {
  const meta = model.get("meta"), patches = meta.rows * meta.columns;
  const codes = bytes(model.get("codes"));
  const brightest = floats(model.get("brightest")), outside = floats(model.get("outside"));
  let first = 0;                                               // row with which a model begins
  const models = meta.models.map(each => {
    const queries = patches + (each.cls ? 1 : 0), begin = first;
    first += meta.images.length * each.layers * each.heads * queries;
    const row = (image, layer, head, query) =>
      begin + ((image * each.layers + Math.min(layer, each.layers) - 1) * each.heads + Math.min(head, each.heads) - 1)
      * queries + query + (each.cls ? 1 : 0);
    return { ...each, row, sees: query => query !== CLS || each.cls };
  });

  /** Attention of a query to each patch, added to `into` with a weight; gives what goes to CLS, with the same weight. */
  function add(into, row, weight) {
    const step = brightest[row] / 255 * weight, begin = row * patches;
    for (let patch = 0; patch < patches; patch++) into[patch] += codes[begin + patch] * step;
    return outside[row] * weight;
  }
  return { meta, models, patches, codes, brightest, add };
}
