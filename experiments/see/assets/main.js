// Filters, tabs and theme; then the first drawing.

const TABS = ['images', 'heat', 'breeds'];
let tab = 'images';

function showTab(name, focus = false) {
  tab = name;
  for (const each of TABS) {
    const button = byId(`tab-${each}`);
    button.setAttribute('aria-selected', String(each === name));
    button.tabIndex = each === name ? 0 : -1;
    byId(`panel-${each}`).hidden = each !== name;
    if (focus && each === name) button.focus();
  }
  drawTab();
}

function drawTab() {
  if (tab === 'heat') drawHeats();
  if (tab === 'breeds') drawBreeds();
}

function refresh() {
  const pair = byId('pair');
  pair.hidden = chosen.answered < 0;
  if (chosen.answered >= 0) pair.replaceChildren('Answered ', breedName(chosen.answered), ' ✕');
  byId('disagree-label').hidden = chosen.versus < 0;
  drawGrid();
  drawTab();
}

function setVersus(number) {
  chosen.versus = number;
  byId('versus').value = String(number);
  byId('episode-versus').value = String(number);
  if (number < 0) {
    chosen.disagree = false;
    byId('disagree').checked = false;
  }
  refresh();
}

function offerAgents() {
  const own = data.players.filter((player) => chosen.run === 'all' || player.run === runs[Number(chosen.run)]);
  const agents = [...new Set(own.map((player) => player.agent))];
  fill(byId('agent'), [...agents.map((name) => [name, name]), ...(agents.length > 1 ? [['all', 'all agents']] : [])]);
  chosen.agent = byId('agent').value;
}

function startFilters() {
  const labels = [...new Set(data.labels)].sort((a, b) => data.classes[a].localeCompare(data.classes[b]));
  fill(byId('run'), [...runs.map((run, i) => [i, run]), ...(runs.length > 1 ? [['all', 'all runs']] : [])]);
  fill(byId('breed'), [[-1, 'all breeds'], ...labels.map((label) => [label, data.classes[label]])]);
  const others = [[-1, 'nobody'], ...data.players.map((player, i) => [i, nameOf(player)])];
  fill(byId('versus'), others);
  fill(byId('episode-versus'), others);
  offerAgents();
  byId('filters').addEventListener('submit', (event) => event.preventDefault());
  byId('filters').addEventListener('change', (event) => {
    const { id, name, value, checked } = event.target;
    if (id === 'versus') { setVersus(Number(value)); return; }
    if (id === 'run') { chosen.run = value; offerAgents(); }
    if (id === 'agent') chosen.agent = value;
    if (id === 'breed') { chosen.breed = Number(value); chosen.answered = -1; }
    if (id === 'sort') chosen.sort = value;
    if (id === 'disagree') chosen.disagree = checked;
    if (name === 'answer') { chosen.answer = value; chosen.answered = -1; }
    refresh();
  });
  byId('pair').addEventListener('click', () => { chosen.answered = -1; refresh(); byId('breed').focus(); });
  byId('heat-glimpse').addEventListener('change', drawHeats);
  byId('breed-sort').addEventListener('change', drawBreeds);
}

function startTabs() {
  TABS.forEach((name, i) => {
    const button = byId(`tab-${name}`);
    button.addEventListener('click', () => showTab(name));
    button.addEventListener('keydown', (event) => {
      const moves = { ArrowLeft: i - 1, ArrowRight: i + 1, Home: 0, End: TABS.length - 1 };
      if (event.key in moves) {
        event.preventDefault();
        showTab(TABS[(moves[event.key] + TABS.length) % TABS.length], true);
      }
    });
  });
}

function startTheme() {
  const themes = ['system', 'light', 'dark'];
  let theme = 0;
  byId('theme').addEventListener('click', () => {
    theme = (theme + 1) % themes.length;
    if (theme) document.documentElement.dataset.theme = themes[theme];
    else delete document.documentElement.dataset.theme;
    byId('theme').textContent = `Theme: ${themes[theme]}`;
  });
}

function summarise() {
  const scores = data.players.filter((player, i) => data.players.findIndex((each) => each.run === player.run) === i)
    .map((player) => [named(nameOf(player)), ` ${player.ma[0].toFixed(1)}% (${player.ma[1].toFixed(1)} to ${player.ma[2].toFixed(1)})`]);
  const parts = scores.flatMap((score, i) => (i ? ['; ', ...score] : score));
  byId('summary').append(`Split ${data.split}, ${data.images.length} images shown, ${data.watched} watched. Mean accuracy over the breeds: `, ...parts, '.');
}

summarise();
startFilters();
startTabs();
startTheme();
startGrid();
startEpisode();
refresh();
