// The grid: a card an episode, its image decoded when it comes near the screen.

const CHUNK = 60;
let listed = [];
let drawn = 0;

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting && showThumbnail(entry.target)) watcher.unobserve(entry.target);
  }
}, { rootMargin: '400px' });

const thumbnailLevel = () => (hasLevel('medium') ? 'medium' : 'high');

function showThumbnail(image) {
  const text = source(image.dataset.place, thumbnailLevel());
  if (text === null) return false;
  image.src = text;
  return true;
}

// An image whose space is reserved, so that nothing moves when its pixels come.
function thumbnail(place) {
  const [width, height] = data.images[place].size;
  const image = make('img', { alt: '', width, height, 'data-place': place, decoding: 'async' });
  watcher.observe(image);
  return image;
}

function verdict(number, at) {
  const player = data.players[number];
  const right = player.answers[at] === data.labels[at];
  const text = make('span', { class: right ? 'right' : 'wrong' },
    make('span', { 'aria-hidden': 'true' }, right ? '✓ ' : '✗ '),
    make('span', { class: 'sr' }, right ? 'right: ' : 'wrong: '), breedName(player.answers[at]));
  return make('span', { class: 'verdict' }, text,
    make('span', { class: 'number', title: 'Probability of the answer' }, percent(player.sure[at])));
}

function card([number, place], position) {
  const image = data.images[place];
  const both = chosen.versus >= 0 && chosen.versus !== number ? [number, chosen.versus] : [number];
  const many = both.length > 1 || selected().length > 1;
  const button = make('button', { type: 'button', class: 'card', 'data-position': position },
    make('span', { class: 'truth' }, breedName(data.labels[image.at])));
  const images = make('span', { class: both.length > 1 ? 'images two' : 'images' });
  for (const each of both) {
    const right = data.players[each].answers[image.at] === data.labels[image.at];
    const [width, height] = image.size;
    const frame = make('span', { class: `frame ${right ? 'is-right' : 'is-wrong'} ${height > width ? 'tall' : ''}` });
    frame.style.aspectRatio = `${width} / ${height}`;
    frame.append(thumbnail(place), overlay(data.players[each], place));
    images.append(make('span', { class: 'slot' },
      make('span', { class: 'stage' }, frame), verdict(each, image.at),
      many ? make('span', { class: 'who' }, named(nameOf(data.players[each]))) : ''));
  }
  button.append(images);
  button.addEventListener('click', () => openEpisode(position));
  return make('li', {}, button);
}

function showMore() {
  const grid = byId('grid');
  const part = listed.slice(drawn, drawn + CHUNK);
  grid.append(...part.map((episode, i) => card(episode, drawn + i)));
  drawn += part.length;
  byId('more').hidden = drawn >= listed.length;
}

function drawGrid() {
  listed = episodes();
  drawn = 0;
  byId('grid').replaceChildren();
  byId('grid').classList.toggle('paired', chosen.versus >= 0);
  const total = selected().length * data.images.length;
  byId('count').textContent = listed.length === 0
    ? `None of the ${total} episodes in this file matches the filters.`
    : `${listed.length} of ${total} episodes`;
  showMore();
}

// Arrow keys go from card to card.
function moveInGrid(event) {
  const cards = [...byId('grid').querySelectorAll('.card')];
  const here = cards.indexOf(document.activeElement);
  if (here < 0) return;
  const top = cards[0].getBoundingClientRect().top;
  const columns = Math.max(1, cards.filter((each) => each.getBoundingClientRect().top === top).length);
  const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
  const target = cards[here + moves[event.key]];
  if (target) {
    event.preventDefault();
    target.focus();
  }
}

function startGrid() {
  byId('grid').addEventListener('keydown', moveInGrid);
  byId('more').addEventListener('click', showMore);
  new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting) && drawn < listed.length) showMore();
  }, { rootMargin: '800px' }).observe(byId('more'));
  // Images that were looked for before their pixels had been read.
  document.addEventListener('DOMContentLoaded', () => {
    for (const image of document.querySelectorAll('img[data-place]:not([src])')) {
      watcher.unobserve(image);
      watcher.observe(image);
    }
  });
}
