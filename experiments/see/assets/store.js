// The data, what is chosen, and small helpers. Names from outside reach the page as text only.

const data = JSON.parse(document.getElementById('data').textContent);
const byId = (id) => document.getElementById(id);
const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)}%`;
const COLORS = ['#ffd13e', '#3dd6c4', '#ff69b4', '#6eaaff', '#ff9240', '#be8cff'];
const colorOf = (glimpse) => COLORS[glimpse % COLORS.length];
const ORDER = ['low', 'medium', 'high'];

const chosen = {
  run: '0',            // index into `runs`, or 'all'
  agent: '',           // name, or 'all'
  versus: -1,          // player to compare with, or -1
  answer: 'all',
  breed: -1,
  answered: -1,        // the other half of a confused pair, or -1
  sort: 'sure',
  disagree: false,
};

const runs = [...new Set(data.players.map((player) => player.run))];
const nameOf = (player) => `${player.run}, ${player.agent}`;

// An element with attributes and children; a string becomes a text node, never markup.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(key, '');
    else if (value !== false && value !== null) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

// A name of unknown direction: it must not turn the text around it.
const named = (text) => make('bdi', {}, text);
const breedName = (label) => named(data.classes[label]);

function fill(select, options) {
  const kept = select.value;
  select.replaceChildren(
    ...options.map(([value, text]) => make('option', { value: String(value), dir: 'auto' }, text)));
  if (options.some(([value]) => String(value) === kept)) select.value = kept;
}

// Players that run and agent select.
function selected() {
  return data.players.map((_, number) => number).filter((number) => {
    const player = data.players[number];
    return (chosen.run === 'all' || player.run === runs[Number(chosen.run)])
      && (chosen.agent === 'all' || player.agent === chosen.agent);
  });
}

// Whether the answer of a player to an image watched passes the filters.
function passes(number, at) {
  const player = data.players[number];
  const right = player.answers[at] === data.labels[at];
  return (chosen.answer === 'all' || right === (chosen.answer === 'right'))
    && (chosen.breed < 0 || data.labels[at] === chosen.breed)
    && (chosen.answered < 0 || player.answers[at] === chosen.answered)
    && (!chosen.disagree || chosen.versus < 0
      || player.answers[at] !== data.players[chosen.versus].answers[at]);
}

// Episodes of the images in this file that pass, in order: [player, image] pairs.
function episodes() {
  const found = [];
  for (const number of selected()) {
    data.images.forEach((image, place) => {
      if (passes(number, image.at)) found.push([number, place]);
    });
  }
  const sure = ([number, place]) => data.players[number].sure[data.images[place].at];
  const label = ([, place]) => data.labels[data.images[place].at];
  const orders = {
    sure: (a, b) => sure(b) - sure(a),
    unsure: (a, b) => sure(a) - sure(b),
    breed: (a, b) => data.classes[label(a)].localeCompare(data.classes[label(b)]),
    order: (a, b) => data.images[a[1]].index - data.images[b[1]].index,
  };
  return found.sort((a, b) => orders[chosen.sort](a, b) || a[1] - b[1] || a[0] - b[0]);
}

// The pixels of a level follow this script in the file, so they may not be there yet.
function source(place, level) {
  const held = byId(`pixels-${place}-${level}`);
  return held ? `data:image/webp;base64,${held.textContent}` : null;
}
const hasLevel = (level) => byId(`pixels-0-${level}`) !== null;

const loaded = new Map();
function loadImage(place, level) {
  const key = `${place}-${level}`;
  if (!loaded.has(key)) {
    if (loaded.size > 60) loaded.delete(loaded.keys().next().value);
    const image = new Image();
    image.src = source(place, level);
    loaded.set(key, image.decode().then(() => image));
  }
  return loaded.get(key);
}
