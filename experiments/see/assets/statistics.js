// Heat maps of fixations and accuracy by breed, over every image watched that passes the filters.

const CELLS = 56;

function bump(counts, column, row, weight) {
  const reach = 4;
  for (let y = Math.max(0, row - reach); y <= Math.min(CELLS - 1, row + reach); y += 1) {
    for (let x = Math.max(0, column - reach); x <= Math.min(CELLS - 1, column + reach); x += 1) {
      counts[y * CELLS + x] += weight * Math.exp(-((x - column) ** 2 + (y - row) ** 2) / 5);
    }
  }
}

// Density of points within [-reach, reach] on both axes, smoothed.
function density(points, reach) {
  const counts = new Float32Array(CELLS * CELLS);
  for (const [x, y] of points) {
    const column = Math.floor((x + reach) / (2 * reach) * CELLS);
    const row = Math.floor((y + reach) / (2 * reach) * CELLS);
    if (x < -reach || x > reach || y < -reach || y > reach) continue;
    bump(counts, Math.min(column, CELLS - 1), Math.min(row, CELLS - 1), 1);
  }
  return counts;
}

function paint(canvas, counts) {
  canvas.width = CELLS;
  canvas.height = CELLS;
  const context = canvas.getContext('2d');
  const pixels = context.createImageData(CELLS, CELLS);
  const most = Math.max(...counts, 1e-9);
  // From the ground of the page over violet and orange to yellow: light and dark alike.
  const ramp = [[38, 20, 72], [120, 28, 109], [203, 65, 73], [245, 125, 21], [250, 215, 90]];
  counts.forEach((value, i) => {
    const place = Math.sqrt(value / most) * (ramp.length - 1);
    const low = Math.min(Math.floor(place), ramp.length - 2);
    for (let c = 0; c < 3; c += 1) {
      pixels.data[4 * i + c] = ramp[low][c] + (place - low) * (ramp[low + 1][c] - ramp[low][c]);
    }
    pixels.data[4 * i + 3] = 255;
  });
  context.putImageData(pixels, 0, 0);
}

// Fixations of a player over the images that pass: on the image, and relative to the dog's box.
function gathered(number, glimpse) {
  const player = data.players[number];
  const found = { images: 0, points: [], relative: [], inside: 0 };
  for (let at = 0; at < data.watched; at += 1) {
    if (!passes(number, at)) continue;
    found.images += 1;
    for (let t = 0; t < player.looks; t += 1) {
      if (glimpse >= 0 && t !== glimpse) continue;
      const start = 2 * (player.looks * at + t);
      found.points.push([player.fixations[start], player.fixations[start + 1]]);
      if (player.in_box[start] !== null) {
        const [x, y] = [player.in_box[start], player.in_box[start + 1]];
        found.relative.push([x, y]);
        if (Math.abs(x) <= 1 && Math.abs(y) <= 1) found.inside += 1;
      }
    }
  }
  return found;
}

function heat(points, reach, caption, label, boxed) {
  const canvas = make('canvas', { class: 'heat', role: 'img', 'aria-label': label });
  paint(canvas, density(points, reach));
  const stage = make('span', { class: 'heat-stage' }, canvas);
  if (boxed) stage.append(make('span', { class: 'heat-box', 'aria-hidden': 'true' }, make('span', {}, "dog's box")));
  return figure(caption, stage);
}

const shownPlayers = () => {
  const found = selected();
  return chosen.versus >= 0 && !found.includes(chosen.versus) ? [...found, chosen.versus] : found;
};

function drawHeats() {
  const list = shownPlayers();
  const looks = Math.max(...list.map((number) => data.players[number].looks));
  fill(byId('heat-glimpse'), [[-1, 'all'], ...Array.from({ length: looks }, (_, t) => [t, String(t + 1)])]);
  const glimpse = Number(byId('heat-glimpse').value || -1);
  byId('heat-note').textContent = `Over the ${data.watched} images watched, as far as they pass the filters.`;
  byId('heats').replaceChildren(...list.map((number) => {
    const player = data.players[number];
    const { images, points, relative, inside } = gathered(number, glimpse);
    const share = relative.length ? percent(inside / relative.length) : 'no';
    const text = `${points.length} fixations in ${images} images; ${relative.length ? `${share} of ${relative.length} inside a dog's box` : 'no image has a box'}`;
    return make('section', { class: 'panel', 'aria-label': nameOf(player) },
      make('h3', {}, named(nameOf(player))),
      make('p', { class: 'quiet' }, text),
      make('div', { class: 'heat-row' },
        heat(points, 1, 'over the image', `Heat map of fixations over the image: ${text}`, false),
        relative.length ? heat(relative, 1.5, 'over the nearest box', `Heat map of fixations relative to the dog's box: ${text}`, true) : ''),
      make('p', { class: 'scale', 'aria-hidden': 'true' }, 'fewer', make('span', { class: 'ramp' }), 'more'));
  }));
}

function byBreed(number) {
  const player = data.players[number];
  const found = data.classes.map(() => ({ images: 0, right: 0, taken: new Map() }));
  data.labels.forEach((label, at) => {
    const row = found[label];
    row.images += 1;
    const answer = player.answers[at];
    if (answer === label) row.right += 1;
    else row.taken.set(answer, (row.taken.get(answer) || 0) + 1);
  });
  return found;
}

function pickPair(truth, answer) {
  chosen.breed = truth;
  chosen.answered = answer;
  chosen.answer = 'all';
  byId('breed').value = String(truth);
  document.querySelector('input[name=answer][value=all]').checked = true;
  showTab('images');
  refresh();
  byId('content').focus();
}

function drawBreeds() {
  const list = shownPlayers();
  const tables = list.map(byBreed);
  const first = tables[0];
  byId('breeds-note').textContent = `Over the ${data.watched} images watched${data.watched < data.total ? ` of ${data.total} in the split` : ', the whole split'}. Confusions are those of `;
  byId('breeds-note').append(named(nameOf(data.players[list[0]])), '.');
  const pairs = first.flatMap((row, truth) => [...row.taken].map(([answer, count]) => ({ truth, answer, count, of: row.images })))
    .sort((a, b) => b.count - a.count || b.count / b.of - a.count / a.of).slice(0, 15);
  byId('pairs').replaceChildren(...pairs.map(({ truth, answer, count, of }) => {
    const button = make('button', { type: 'button', class: 'plain' }, breedName(truth), ' taken for ', breedName(answer));
    button.addEventListener('click', () => pickPair(truth, answer));
    return make('li', {}, button, make('span', { class: 'number' }, `${count} of ${of}`));
  }));
  if (!pairs.length) byId('pairs').replaceChildren(make('li', {}, 'No wrong answer.'));
  const share = (label) => first[label].right / first[label].images;
  const orders = {
    worst: (a, b) => share(a) - share(b), best: (a, b) => share(b) - share(a),
    name: (a, b) => data.classes[a].localeCompare(data.classes[b]),
  };
  const labels = data.classes.map((_, label) => label).filter((label) => first[label].images > 0)
    .sort((a, b) => orders[byId('breed-sort').value](a, b) || a - b);
  const head = make('tr', {}, make('th', { scope: 'col' }, 'Breed'), make('th', { scope: 'col', class: 'number' }, 'Images'),
    ...list.map((number) => make('th', { scope: 'col' }, named(list.length > 1 ? nameOf(data.players[number]) : 'Right'))),
    make('th', { scope: 'col' }, 'Most often taken for'));
  const body = labels.map((label) => {
    const worst = [...first[label].taken].sort((a, b) => b[1] - a[1])[0];
    return make('tr', {}, make('th', { scope: 'row' }, breedName(label)),
      make('td', { class: 'number' }, String(first[label].images)),
      ...tables.map((table) => {
        const value = table[label].right / table[label].images;
        const meter = make('span', { class: 'meter', 'aria-hidden': 'true' }, make('span', {}));
        meter.firstChild.style.width = `${100 * value}%`;
        return make('td', {}, make('span', { class: 'measured' }, meter, make('span', { class: 'number' }, percent(value))));
      }),
      make('td', {}, worst ? breedName(worst[0]) : '', worst ? ` (${worst[1]})` : ''));
  });
  byId('breed-table').replaceChildren(make('thead', {}, head), make('tbody', {}, ...body));
}
