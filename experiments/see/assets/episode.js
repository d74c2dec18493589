// One episode, step by step: step 0 is the context, step t the t-th glimpse.

const open = { position: -1, step: 0, opener: null };
const SHOWN = 5;

const players = () => {
  const [number] = listed[open.position];
  return chosen.versus >= 0 && chosen.versus !== number ? [number, chosen.versus] : [number];
};
const lastStep = () => Math.max(...players().map((number) => data.players[number].looks));

function openEpisode(position) {
  open.position = position;
  open.step = 0;
  open.opener = document.activeElement;
  const dialog = byId('episode');
  if (!dialog.open) dialog.showModal();
  document.body.classList.add('still');
  drawEpisode();
  byId('forward').focus();
}

function closeEpisode() {
  if (byId('episode').open) byId('episode').close();
}

function stepTo(step) {
  open.step = Math.min(Math.max(step, 0), lastStep());
  drawEpisode();
}

function goTo(position) {
  if (position < 0 || position >= listed.length) return;
  open.position = position;
  open.step = Math.min(open.step, lastStep());
  drawEpisode();
}

// A canvas of its final size, drawn as soon as the pixels are decoded.
function canvasFor(label, draw, { kind = 'patch', width = PATCH, height = PATCH } = {}) {
  const canvas = make('canvas', { class: kind, role: 'img', 'aria-label': label, width, height });
  draw(canvas).then(() => canvas.classList.add('drawn'), () => canvas.classList.add('broken'));
  return canvas;
}

const figure = (caption, ...parts) => make('figure', {}, ...parts, make('figcaption', {}, caption));
const shortly = (step) => (step === 0 ? ['Context'] : [make('span', { class: 'word' }, 'Glimpse '), String(step)]);

function patchesUpTo(player, place, step) {
  const image = data.images[place];
  const rows = [make('li', { class: step === 0 ? 'now' : null },
    make('span', { class: 'mark context-mark' }, 'Context'),
    figure('low', canvasFor('Context patch, as the agent saw it', (canvas) => drawPatch(canvas, place, image.context, 'low'))))];
  const order = player.resolutions.map((_, s) => s)
    .sort((a, b) => ORDER.indexOf(player.resolutions[b]) - ORDER.indexOf(player.resolutions[a]));
  const episode = player.episodes[place];
  for (let t = 0; t < step; t += 1) {
    const scale = episode.scales ? episode.scales[t] : 0;
    const row = make('li', { class: t + 1 === step ? 'now' : null },
      make('span', { class: `mark mark-${t % COLORS.length}` }, make('span', { class: 'sr' }, 'Glimpse '), String(t + 1)));
    for (const s of order) {
      const name = player.resolutions[s];
      row.append(figure(scale ? `${name}, zoom ${scale}` : name,
        canvasFor(`Glimpse ${t + 1}, ${name} resolution`, (canvas) => drawPatch(canvas, place, episode.boxes[t][s], name, scale))));
    }
    rows.push(row);
  }
  return make('ol', { class: 'patches', 'aria-label': 'What was seen' }, ...rows);
}

function beliefs(player, place, step) {
  const at = data.images[place].at;
  const truth = data.labels[at];
  if (step === 0) {
    return make('div', { class: 'beliefs' }, make('h4', {}, 'Most probable breeds'),
      make('p', { class: 'quiet' }, 'Nothing yet: the context only chooses the first fixation. The answer rests on the glimpses.'));
  }
  const { best, probabilities, truth: told } = player.episodes[place];
  const rows = best[step - 1].slice(0, SHOWN).map((label, i) => [label, probabilities[step - 1][i]]);
  const body = make('tbody');
  const add = ([label, probability], away) => {
    const meter = make('span', { class: 'meter', 'aria-hidden': 'true' }, make('span', {}));
    meter.firstChild.style.width = `${Math.max(0.5, 100 * probability)}%`;
    body.append(make('tr', { class: `${label === truth ? 'is-truth' : ''} ${away ? 'away' : ''}` },
      make('th', { scope: 'row' }, breedName(label), label === truth ? make('span', { class: 'tag' }, 'truth') : ''),
      make('td', {}, meter), make('td', { class: 'number' }, percent(probability, 1))));
  };
  rows.forEach((row) => add(row, false));
  if (!rows.some(([label]) => label === truth)) add([truth, told[step - 1]], true);
  return make('div', { class: 'beliefs' },
    make('h4', {}, step === player.looks ? 'Answer: most probable breeds' : `Most probable breeds after glimpse ${step}`),
    make('table', { 'aria-label': `Probabilities after glimpse ${step}` }, body));
}

function side(number, place) {
  const player = data.players[number];
  const image = data.images[place];
  const step = Math.min(open.step, player.looks);
  const right = player.answers[image.at] === data.labels[image.at];
  const level = make('img', { alt: step === 0 ? 'The image; the outline is the context patch' : `The image with ${step === 1 ? 'the first fixation' : `the first ${step} fixations`}`, width: image.size[0], height: image.size[1], src: source(place, 'high') });
  const frame = make('span', { class: 'frame' }, level, overlay(player, place, {
    step, patches: byId('show-patches').checked, box: byId('show-box').checked, radius: 0.03 }));
  const withContext = byId('show-context').checked;
  const composite = canvasFor(step === 0 && !withContext ? 'Composite: nothing has been seen yet' : `Composite of what was seen so far, ${step} glimpses`,
    (canvas) => drawComposite(canvas, player, place, step, withContext), { kind: 'composite', ...compositeSize(image) });
  return make('section', { class: `side ${players().length > 1 ? '' : 'alone'}`, 'aria-label': nameOf(player) },
    make('h3', {}, named(nameOf(player)), ' ', make('span', { class: `outcome ${right ? 'right' : 'wrong'}` },
      right ? '✓ right' : '✗ wrong', make('span', { class: 'quiet' }, ` (answers `, breedName(player.answers[image.at]), `, ${percent(player.sure[image.at])})`))),
    make('div', { class: 'views' },
      figure('Image, with the fixations so far', make('span', { class: 'stage' }, frame)),
      figure('Composite: the sharpest pixel seen so far', composite)),
    make('div', { class: 'evidence' }, beliefs(player, place, step), patchesUpTo(player, place, step)));
}

// A button that would lose the focus if it were disabled, and the arrow keys with it.
const idle = (id, value) => byId(id).setAttribute('aria-disabled', String(value));

function drawSteps() {
  const [number, place] = listed[open.position];
  const player = data.players[number];
  const list = byId('steps');
  const focused = list.contains(document.activeElement);
  list.replaceChildren(...Array.from({ length: lastStep() + 1 }, (_, step) => {
    const button = make('button', { type: 'button', 'aria-current': step === open.step ? 'step' : null, class: step ? `step mark-${(step - 1) % COLORS.length}` : 'step' },
      ...shortly(step));
    if (step > 0 && step <= player.looks && players().length === 1) {
      button.append(make('span', { class: 'quiet' }, ` ${percent(player.episodes[place].truth[step - 1])}`));
      button.title = 'Probability of the true breed after this glimpse';
    }
    button.addEventListener('click', () => stepTo(step));
    return make('li', {}, button);
  }));
  const current = list.children[open.step].firstChild;
  if (focused) current.focus();
  list.scrollLeft = current.offsetLeft - list.offsetLeft - 40;
  idle('back', open.step === 0);
  idle('forward', open.step === lastStep());
}

function speak() {
  const place = listed[open.position][1];
  const parts = players().map((number) => {
    const player = data.players[number];
    const step = Math.min(open.step, player.looks);
    if (step === 0) return `${nameOf(player)}: context.`;
    const [x, y] = fixationsOf(player, data.images[place].at)[step - 1].map((value) => percent((value + 1) / 2));
    const { best, probabilities } = player.episodes[place];
    return `${nameOf(player)}: glimpse ${step} of ${player.looks}, ${x} from the left, ${y} from the top. Most probable: ${data.classes[best[step - 1][0]]}, ${percent(probabilities[step - 1][0])}.`;
  });
  byId('spoken').textContent = parts.join(' ');
}

function drawEpisode() {
  const [, place] = listed[open.position];
  const image = data.images[place];
  byId('episode-title').replaceChildren(breedName(data.labels[image.at]));
  byId('episode-name').replaceChildren(named(image.name), ` · ${image.size[0]} × ${image.size[1]} pixels · ${open.position + 1} of ${listed.length}`);
  idle('previous', open.position === 0);
  idle('next', open.position === listed.length - 1);
  byId('show-box').disabled = image.boxes.length === 0;
  byId('show-box').parentElement.title = image.boxes.length ? '' : 'This image has no box';
  drawSteps();
  const sides = byId('sides');
  sides.className = players().length > 1 ? 'sides two' : 'sides';
  sides.replaceChildren(...players().map((number) => side(number, place)));
  speak();
}

function episodeKey(event) {
  const field = event.target.closest('select, input:not([type=checkbox])');
  if (field || event.altKey || event.ctrlKey || event.metaKey) return;
  const actions = {
    ArrowLeft: () => stepTo(open.step - 1),
    ArrowRight: () => stepTo(open.step + 1),
    Home: () => stepTo(0),
    End: () => stepTo(lastStep()),
    PageUp: () => goTo(open.position - 1),
    PageDown: () => goTo(open.position + 1),
    b: () => { if (!byId('show-box').disabled) { byId('show-box').checked = !byId('show-box').checked; drawEpisode(); } },
  };
  const act = actions[event.key] || actions[event.key.toLowerCase()];
  if (act) {
    event.preventDefault();
    act();
  }
}

function startEpisode() {
  const dialog = byId('episode');
  dialog.addEventListener('keydown', episodeKey);
  dialog.addEventListener('close', () => {
    document.body.classList.remove('still');
    const back = byId('grid').querySelector(`[data-position="${open.position}"]`) || open.opener;
    if (back && back.isConnected) back.focus();
  });
  dialog.addEventListener('click', (event) => { if (event.target === dialog) closeEpisode(); });
  byId('close').addEventListener('click', closeEpisode);
  byId('back').addEventListener('click', () => stepTo(open.step - 1));
  byId('forward').addEventListener('click', () => stepTo(open.step + 1));
  byId('previous').addEventListener('click', () => goTo(open.position - 1));
  byId('next').addEventListener('click', () => goTo(open.position + 1));
  for (const id of ['show-box', 'show-patches', 'show-context']) byId(id).addEventListener('change', drawEpisode);
  byId('episode-versus').addEventListener('change', (event) => {
    const current = listed[open.position];
    setVersus(Number(event.target.value));
    // The list may have changed with it: the image stays.
    const again = listed.findIndex(([number, place]) => number === current[0] && place === current[1]);
    if (again < 0) { closeEpisode(); return; }
    open.position = again;
    open.step = Math.min(open.step, lastStep());
    drawEpisode();
  });
}
