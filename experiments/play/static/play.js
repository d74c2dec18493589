"use strict";
// Names come from data sets and files: they are set as text, never as markup.

const by = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const STEP = 0.05;

let task = null;
let state = null;
let cursor = null; // where the keyboard points, [-1, 1]; null until an arrow key is used
let chosen = null; // index of the breed chosen
let active = -1; // position in the list shown
let shown = []; // indices of the breeds that match the search
let busy = false;

function pretty(name) {
  return name.replace(/_/g, " ").trim() || "(no name)";
}

function breed(index) {
  return pretty(task.breeds[index]);
}

function isolated(text, className) {
  const element = document.createElement("bdi");
  element.textContent = text;
  if (className) element.className = className;
  return element;
}

function say(text) {
  by("live").textContent = text;
}

function complain(text) {
  by("alert").textContent = text || "";
  by("alert").hidden = !text;
}

async function call(path, body) {
  if (busy) return false;
  busy = true;
  document.querySelector("main").setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(path, body === undefined ? { cache: "no-store" } : {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    const told = await answer.json();
    if (answer.status === 409) {
      // Another tab, or a click that came twice: show what is.
      busy = false;
      await call("/api/state");
      complain(`${told.error}: this is where you are.`);
      return false;
    }
    if (!answer.ok) throw new Error(told.error);
    if (told.task) task = told.task;
    state = told;
    complain("");
    return true;
  } catch (error) {
    const lost = error instanceof TypeError;
    complain(lost ? "The server does not answer. What you did is kept there; try again." : error.message);
    return false;
  } finally {
    busy = false;
    document.querySelector("main").setAttribute("aria-busy", "false");
    if (state) render();
  }
}

// Drawing --------------------------------------------------------------------------------------

function svg(name, attributes, className) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (className) element.setAttribute("class", className);
  by("marks").appendChild(element);
  return element;
}

function drawPath(looks, who, unit, width, height) {
  const at = (look) => [((look.x + 1) / 2) * width, ((look.y + 1) / 2) * height];
  for (const look of looks) {
    look.boxes.forEach(([left, top, right, bottom], index) => {
      const opacity = 0.45 + (0.5 * (index + 1)) / look.boxes.length;
      const place = {
        x: left * width, y: top * height,
        width: (right - left) * width, height: (bottom - top) * height,
      };
      svg("rect", { ...place, "stroke-width": 1.2 * unit, "stroke-opacity": opacity }, "rim");
      svg("rect", { ...place, "stroke-width": 0.7 * unit, "stroke-opacity": opacity }, `box ${who}`);
    });
  }
  if (looks.length > 1) {
    const points = looks.map((look) => at(look).join(",")).join(" ");
    svg("polyline", { points, "stroke-width": 2 * unit }, "rim");
    svg("polyline", { points, "stroke-width": 1.1 * unit }, `line ${who}`);
  }
  looks.forEach((look, index) => {
    const [x, y] = at(look);
    const r = 4.2 * unit;
    if (who === "you") {
      svg("circle", { cx: x, cy: y, r, "stroke-width": 0.6 * unit }, `disc ${who}`);
    } else {
      svg("rect", { x: x - r, y: y - r, width: 2 * r, height: 2 * r, rx: unit, "stroke-width": 0.6 * unit }, `disc ${who}`);
    }
    svg("text", { x, y: y + 0.2 * unit, "font-size": 5.4 * unit }).textContent = index + 1;
  });
}

function drawMarks() {
  const marks = by("marks");
  const [width, height] = state.size;
  marks.replaceChildren();
  marks.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const unit = Math.max(width, height) / 200;
  const result = state.result;
  if (result && result.agent) drawPath(result.agent.looks, "agent", unit, width, height);
  drawPath(state.looks, "you", unit, width, height);
  if (state.phase === "look" && cursor) {
    const [x, y] = [((cursor[0] + 1) / 2) * width, ((cursor[1] + 1) / 2) * height];
    const r = 6 * unit;
    const path = `M${x - r} ${y}H${x + r}M${x} ${y - r}V${y + r}`;
    svg("path", { d: path, "stroke-width": 2.2 * unit }, "cursor rim");
    svg("path", { d: path, "stroke-width": unit }, "cursor");
  }
}

function drawStrip() {
  const strip = by("strip");
  strip.replaceChildren();
  state.glimpses.forEach((glimpse, number) => {
    const row = document.createElement("div");
    row.className = "glimpse";
    const disc = document.createElement("span");
    disc.className = "number";
    disc.textContent = number + 1;
    row.appendChild(disc);
    glimpse.forEach((source, index) => {
      const figure = document.createElement("figure");
      const image = document.createElement("img");
      image.src = source;
      image.alt = `Look ${number + 1}, ${task.resolutions[index]} resolution`;
      const caption = document.createElement("figcaption");
      caption.textContent = task.resolutions[index];
      figure.append(image, caption);
      row.appendChild(figure);
    });
    strip.appendChild(row);
  });
  by("strip-none").hidden = state.glimpses.length > 0;
}

function place(x, y) {
  const percent = (value) => Math.round(((value + 1) / 2) * 100);
  return `${percent(x)}% from the left, ${percent(y)}% from the top`;
}

// The list of breeds ---------------------------------------------------------------------------

function fold(text) {
  return text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
}

function search() {
  const words = fold(by("breed").value).split(/\s+/).filter(Boolean);
  shown = task.breeds.map((_, index) => index).filter((index) => {
    const name = fold(breed(index));
    return words.every((word) => name.includes(word));
  });
  shown.sort((a, b) => breed(a).localeCompare(breed(b)));
  active = -1;
  drawList();
}

function drawList() {
  const list = by("breeds");
  list.replaceChildren();
  shown.forEach((index, position) => {
    const option = document.createElement("li");
    option.id = `breed-${index}`;
    option.setAttribute("role", "option");
    option.setAttribute("aria-selected", String(index === chosen));
    if (position === active) option.className = "active";
    option.dir = "auto";
    option.textContent = breed(index);
    option.addEventListener("click", () => choose(index));
    list.appendChild(option);
  });
  const input = by("breed");
  if (active >= 0) {
    input.setAttribute("aria-activedescendant", `breed-${shown[active]}`);
    list.children[active].scrollIntoView({ block: "nearest" });
  } else {
    input.removeAttribute("aria-activedescendant");
  }
  by("found").textContent = shown.length === 1 ? "1 breed" : `${shown.length} breeds`;
  by("send").disabled = chosen === null;
}

function choose(index) {
  chosen = index;
  const kept = by("breeds").scrollTop;
  drawList();
  by("breeds").scrollTop = kept;
  by("send").replaceChildren("Answer: ", isolated(breed(index)));
  say(`${breed(index)} chosen`);
}

function searchKey(event) {
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    if (!shown.length) return;
    const step = event.key === "ArrowDown" ? 1 : -1;
    active = active < 0 ? (step > 0 ? 0 : shown.length - 1) : (active + step + shown.length) % shown.length;
    drawList();
  } else if (event.key === "Enter") {
    const picked = active >= 0 ? shown[active] : shown.length === 1 ? shown[0] : null;
    if (picked !== null && picked !== chosen) {
      event.preventDefault(); // the first Enter chooses, the next one answers
      choose(picked);
    } else if (chosen === null) {
      event.preventDefault();
    }
  } else if (event.key === "Escape") {
    by("breed").value = "";
    search();
  }
}

// The page -------------------------------------------------------------------------------------

function render() {
  const { phase, result, score, looks } = state;
  const left = task.glimpses - looks.length;
  by("title").replaceChildren(isolated(task.title));
  by("score").hidden = !task.truth;
  by("score-you").textContent = score.person;
  by("score-agent").textContent = score.agent;
  by("score-agent").closest("div").hidden = !task.agent;
  by("score-of").textContent = score.episodes;
  by("kept").textContent =
    "Your looks and answers are kept on the computer that serves this page, without a name. " +
    `You can close the tab and go on within ${task.days} days.`;

  const image = by("image");
  [image.width, image.height] = state.size;
  image.src = result ? result.image : state.seen;
  image.alt = result ? "The whole image" : "The blurred image, sharp where you have looked";
  const stage = by("stage");
  stage.classList.toggle("look", phase === "look");
  stage.tabIndex = phase === "look" ? 0 : -1;
  stage.setAttribute("role", phase === "look" ? "application" : "group");
  stage.setAttribute("aria-label",
    phase === "look" ? `Image. Look ${looks.length + 1} of ${task.glimpses}` : "Image");
  by("how").textContent = phase === "look"
    ? "Click a place to look there. With the keyboard: arrow keys point, Enter looks."
    : "";
  by("how").hidden = phase !== "look";
  const heads = {
    look: left === 1 ? "One look left: choose where" : `${left} looks left: choose where`,
    answer: "Now name the breed",
    result: "The whole image",
  };
  by("do").textContent = heads[phase];
  by("answer").hidden = phase !== "answer";
  by("result").hidden = phase !== "result";
  by("legend").hidden = phase !== "result" || !result.agent;
  drawStrip();
  drawMarks();
  if (phase === "answer") search();
  if (phase === "result") renderResult();
}

function verdict(right) {
  if (right === null) return null;
  const mark = document.createElement("span");
  mark.className = right ? "right" : "wrong";
  mark.textContent = right ? " ✓ right" : " ✗ wrong";
  return mark;
}

function renderResult() {
  const { result } = state;
  const line = by("verdict");
  line.className = result.right === null ? "" : result.right ? "right" : "wrong";
  line.textContent = result.right === null ? "Nobody knows the truth here."
    : result.right ? "You are right." : "That was another breed.";
  const answers = by("answers");
  answers.replaceChildren();
  const row = (who, name, right) => {
    const term = document.createElement("dt");
    term.textContent = who;
    const told = document.createElement("dd");
    told.appendChild(isolated(name));
    const mark = verdict(right);
    if (mark) told.appendChild(mark);
    answers.append(term, told);
  };
  if (result.truth !== null) row("It is", breed(result.truth), null);
  row("You", breed(result.label), result.right);
  if (result.agent) row("Agent", breed(result.agent.label), result.agent.right);
  by("likeliest-box").hidden = !result.agent;
  const list = by("likeliest");
  list.replaceChildren();
  for (const [index, probability] of result.agent ? result.agent.likeliest : []) {
    const item = document.createElement("li");
    const meter = document.createElement("meter");
    meter.value = probability;
    meter.setAttribute("aria-hidden", "true");
    const percent = document.createElement("span");
    percent.className = "percent";
    percent.textContent = `${(100 * probability).toFixed(1)}%`;
    item.append(isolated(breed(index), "name"), meter, percent);
    list.appendChild(item);
  }
  by("next").hidden = state.left === 0;
  if (state.left === 0) line.textContent += " You have played every image.";
}

async function look(x, y) {
  if (!state || state.phase !== "look") return;
  const done = await call("/api/look", {
    episode: state.episode, look: state.looks.length, x, y,
  });
  if (!done) return;
  if (state.phase === "answer") {
    say(`You looked ${place(x, y)}. Now name the breed.`);
    chosen = null;
    by("breed").value = "";
    by("send").textContent = "Answer";
    search();
    by("breed").focus({ preventScroll: matchMedia("(min-width: 46.01rem)").matches });
  } else {
    const left = task.glimpses - state.looks.length;
    say(`You looked ${place(x, y)}. ${left} ${left === 1 ? "look" : "looks"} left.`);
  }
}

function stageClick(event) {
  const box = by("image").getBoundingClientRect();
  if (!box.width || !box.height) return;
  const clip = (value) => Math.min(1, Math.max(-1, value));
  cursor = null;
  look(
    clip(((event.clientX - box.left) / box.width) * 2 - 1),
    clip(((event.clientY - box.top) / box.height) * 2 - 1),
  );
}

function stageKey(event) {
  if (!state || state.phase !== "look" || event.ctrlKey || event.metaKey || event.altKey) return;
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (moves[event.key]) {
    event.preventDefault();
    const [x, y] = moves[event.key];
    const step = event.shiftKey ? STEP / 5 : STEP;
    const clip = (value) => Math.round(Math.min(1, Math.max(-1, value)) * 1000) / 1000;
    cursor = cursor ? [clip(cursor[0] + step * x), clip(cursor[1] + step * y)] : [0, 0];
    drawMarks();
    say(place(...cursor));
  } else if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    look(...(cursor || [0, 0]));
  }
}

async function send(event) {
  event.preventDefault();
  if (chosen === null || !state || state.phase !== "answer") return;
  if (!(await call("/api/answer", { episode: state.episode, label: chosen }))) return;
  const { result } = state;
  const known = result.truth !== null ? ` It is ${breed(result.truth)}.` : "";
  const other = result.agent ? ` The agent says ${breed(result.agent.label)}.` : "";
  say(`${by("verdict").textContent}${known}${other}`);
  by("next").focus({ preventScroll: true });
  by("do").scrollIntoView({ block: "nearest" });
}

async function next() {
  if (!(await call("/api/next", { episode: state.episode + 1 }))) return;
  cursor = null;
  by("stage").focus({ preventScroll: true });
  scrollTo({ top: 0 });
  say(`A new image. ${task.glimpses} looks.`);
}

by("stage").addEventListener("click", stageClick);
by("stage").addEventListener("keydown", stageKey);
by("breed").addEventListener("input", search);
by("breed").addEventListener("keydown", searchKey);
by("answer").addEventListener("submit", send);
by("next").addEventListener("click", next);
call("/api/state");
