// Drawing: scanpaths as SVG over an image, patches and composites on canvas.

const PATCH = data.patch_side;
const SVG = 'http://www.w3.org/2000/svg';

function shape(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function fixationsOf(player, at) {
  const start = 2 * player.looks * at;
  return Array.from({ length: player.looks }, (_, t) => [
    player.fixations[start + 2 * t], player.fixations[start + 2 * t + 1]]);
}

// The first `step` fixations of a scanpath; with `patches` what the last of them covers.
function overlay(player, place, { step = player.looks, patches = false, box = false, radius = 0.045 } = {}) {
  const image = data.images[place];
  const [width, height] = image.size;
  const short = Math.min(width, height);
  const svg = shape('svg', { viewBox: `0 0 ${width} ${height}`, class: 'overlay', 'aria-hidden': 'true' });
  const outlined = (attributes, color, strength) => {
    svg.append(shape('rect', { ...attributes, fill: 'none', stroke: '#000', 'stroke-opacity': 0.55, 'stroke-width': short * 0.011 }));
    svg.append(shape('rect', { ...attributes, fill: 'none', stroke: color, 'stroke-width': short * 0.006, 'stroke-opacity': strength }));
  };
  if (box) {
    for (const [x0, y0, x1, y1] of image.boxes) {
      svg.append(shape('rect', { x: x0, y: y0, width: x1 - x0, height: y1 - y0, fill: 'none', stroke: '#000', 'stroke-opacity': 0.6, 'stroke-width': short * 0.013 }));
      svg.append(shape('rect', { x: x0, y: y0, width: x1 - x0, height: y1 - y0, fill: 'none', stroke: '#fff', 'stroke-width': short * 0.007, 'stroke-dasharray': short * 0.03, class: 'dog' }));
    }
  }
  if (patches && step > 0) {
    for (const [x0, y0, x1, y1] of player.episodes[place].boxes[step - 1]) {
      outlined({ x: x0, y: y0, width: x1 - x0, height: y1 - y0 }, colorOf(step - 1), 1);
    }
  }
  if (patches && step === 0) {
    const [x0, y0, x1, y1] = image.context;
    outlined({ x: x0, y: y0, width: x1 - x0, height: y1 - y0 }, '#fff', 0.9);
  }
  const r = short * radius;
  const points = fixationsOf(player, image.at).slice(0, step).map(([x, y]) => [
    Math.min(Math.max((x + 1) / 2 * width, r), width - r),
    Math.min(Math.max((y + 1) / 2 * height, r), height - r)]);
  const line = points.map((point) => point.join(',')).join(' ');
  if (points.length > 1) {
    svg.append(shape('polyline', { points: line, fill: 'none', stroke: '#000', 'stroke-opacity': 0.6, 'stroke-width': r * 0.5, 'stroke-linejoin': 'round' }));
    svg.append(shape('polyline', { points: line, fill: 'none', stroke: '#fff', 'stroke-width': r * 0.26, 'stroke-linejoin': 'round' }));
  }
  points.forEach(([x, y], t) => {
    svg.append(shape('circle', { cx: x, cy: y, r, fill: colorOf(t), stroke: '#fff', 'stroke-width': r * 0.18, class: 'fixation' }));
    svg.append(shape('circle', { cx: x, cy: y, r: r * 1.13, fill: 'none', stroke: '#000', 'stroke-opacity': 0.6, 'stroke-width': r * 0.08 }));
    svg.append(shape('text', { x, y, 'font-size': r * 1.3, 'text-anchor': 'middle', 'dominant-baseline': 'central', fill: '#141414', 'font-weight': 700 }, String(t + 1)));
  });
  return svg;
}

// Noise as the retina has it outside an image; the same at every call.
function noise(context, width, height) {
  const pixels = context.createImageData(width, height);
  let state = 2463534242;
  for (let i = 0; i < pixels.data.length; i += 1) {
    state ^= state << 13; state ^= state >>> 17; state ^= state << 5;
    pixels.data[i] = i % 4 === 3 ? 255 : state & 255;
  }
  context.putImageData(pixels, 0, 0);
}

// The level that a patch is a copy of. A zoom that was chosen has none: it is cut from the sharpest.
const levelOf = (resolution, scale) => (scale ? 'high' : resolution);

// One patch: the box of the image in P x P pixels. Returns once it is drawn.
async function drawPatch(canvas, place, box, resolution, scale = 0) {
  const level = await loadImage(place, levelOf(resolution, scale));
  const context = canvas.getContext('2d');
  noise(context, PATCH, PATCH);
  const [width, height] = data.images[place].size;
  const [zoomX, zoomY] = [level.naturalWidth / width, level.naturalHeight / height];
  const [x, y] = [box[0] * zoomX, box[1] * zoomY];
  context.imageSmoothingEnabled = Boolean(scale);
  if (scale) {
    context.drawImage(level, x, y, (box[2] - box[0]) * zoomX, (box[3] - box[1]) * zoomY, 0, 0, PATCH, PATCH);
  } else {
    context.drawImage(level, -Math.round(x), -Math.round(y));
  }
}

const COMPOSITE_SIDE = 320;

function compositeSize(image) {
  const [width, height] = image.size;
  const zoom = COMPOSITE_SIDE / Math.min(width, height);
  return { width: Math.round(width * zoom), height: Math.round(height * zoom) };
}

// At each pixel the sharpest pixel of any glimpse so far, and noise where none has looked.
async function drawComposite(canvas, player, place, step, withContext) {
  const image = data.images[place];
  const { width: w, height: h } = compositeSize(image);
  const zoom = COMPOSITE_SIDE / Math.min(...image.size);
  const episode = player.episodes[place];
  const layers = [];
  if (withContext) layers.push([image.context, 'low', 0]);
  for (let t = 0; t < step; t += 1) {
    player.resolutions.forEach((resolution, s) => {
      layers.push([episode.boxes[t][s], resolution, episode.scales ? episode.scales[t] : 0]);
    });
  }
  layers.sort((a, b) => (b[0][2] - b[0][0]) - (a[0][2] - a[0][0]));
  const small = document.createElement('canvas');
  const ready = [];
  for (const [box, resolution, scale] of layers) {
    const patch = make('canvas', { width: PATCH, height: PATCH });
    await drawPatch(patch, place, box, resolution, scale);
    ready.push([patch, box]);
  }
  small.width = w;
  small.height = h;
  const context = small.getContext('2d');
  noise(context, w, h);
  context.imageSmoothingEnabled = false;
  for (const [patch, box] of ready) {
    // Only what lies in the image: the noise of a patch around it is outside this canvas.
    context.drawImage(patch, 0, 0, PATCH, PATCH, box[0] * zoom, box[1] * zoom, (box[2] - box[0]) * zoom, (box[3] - box[1]) * zoom);
  }
  canvas.getContext('2d').drawImage(small, 0, 0);
}
