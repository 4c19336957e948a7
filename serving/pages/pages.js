"use strict";
// Airflow shows the pages in a frame and keeps its theme in its own storage.
try {
  const theme = window.parent !== window && window.parent.localStorage.getItem("theme");
  if (theme === "dark" || theme === "light") document.documentElement.classList.add(theme);
} catch { /* another origin: the system's theme */ }

const NAMES = { c: "complete", r: "repaired", p: "partial", m: "missing", ".": "none" };
const style = getComputedStyle(document.documentElement);
const color = (name) => style.getPropertyValue("--" + name).trim();

// Each state has a mark besides its colour: none, a dot, a diagonal, a cross.
function paint(context, letter, x, y, size) {
  context.fillStyle = color(NAMES[letter]);
  context.fillRect(x, y, size, size);
  context.strokeStyle = context.fillStyle = color("mark");
  context.lineWidth = 1;
  const near = x + 1.5, far = x + size - 1.5, top = y + 1.5, low = y + size - 1.5;
  context.beginPath();
  if (letter === "r") context.arc(x + size / 2, y + size / 2, size / 6, 0, 7);
  if (letter === "p" || letter === "m") { context.moveTo(near, low); context.lineTo(far, top); }
  if (letter === "m") { context.moveTo(near, top); context.lineTo(far, low); }
  if (letter === "r") context.fill(); else context.stroke();
}

for (const canvas of document.querySelectorAll("canvas[data-letter]"))
  paint(canvas.getContext("2d"), canvas.dataset.letter, 0, 0, 18);

const grid = document.getElementById("grid");
if (grid) {
  const { instruments, rows } = JSON.parse(document.getElementById("cells").textContent);
  const days = Number(grid.dataset.days), first = Date.parse(grid.dataset.first + "T00:00Z");
  const cell = days > 120 ? 8 : 12, left = 150, top = 18;
  const dayOf = (place) => new Date(first + place * 86400000).toISOString().slice(0, 10);
  const scale = window.devicePixelRatio || 1;
  grid.width = (left + days * cell) * scale;
  grid.height = (top + rows.length * cell) * scale;
  grid.style.width = left + days * cell + "px";
  grid.style.height = top + rows.length * cell + "px";
  const context = grid.getContext("2d");
  context.scale(scale, scale);
  // One picture of each state, copied to its cells.
  const pictures = {};
  for (const letter of Object.keys(NAMES)) {
    const picture = document.createElement("canvas");
    picture.width = picture.height = cell * scale;
    const own = picture.getContext("2d");
    own.scale(scale, scale);
    paint(own, letter, 0, 0, cell - 1);
    pictures[letter] = picture;
  }
  context.font = "11px system-ui, sans-serif";
  context.fillStyle = color("ink");
  for (let n = 0; n < days; n += cell > 8 ? 14 : 30) context.fillText(dayOf(n), left + n * cell, 11);
  const step = cell > 8 ? 1 : 2;
  instruments.forEach((name, y) => {
    if (y % step === 0) context.fillText(name.split("|").slice(-1)[0] + " " + name.split("|")[0], 0, top + y * cell + 9, left - 8);
    for (let x = 0; x < days; x++) context.drawImage(pictures[rows[y][x]], left + x * cell, top + y * cell, cell, cell);
  });

  grid.parentElement.scrollLeft = grid.parentElement.scrollWidth; // the newest days

  const form = document.getElementById("choice"), answer = document.getElementById("cell");
  const write = (tag, text, parent) => {
    const element = document.createElement(tag);
    element.textContent = text;
    return parent.appendChild(element);
  };
  async function show(instrument, day) {
    const query = new URLSearchParams({ instrument, day });
    const response = await fetch(grid.dataset.url + "?" + query);
    answer.replaceChildren();
    write("h2", instrument + ", " + day, answer);
    if (response.status === 404) { write("p", "Not sealed, or the instrument was not listed.", answer); return; }
    if (!response.ok) { write("p", "The details could not be read (" + response.status + ").", answer); return; }
    const found = await response.json();
    write("p", `${found.state}: ${found.covered_h.toFixed(2)} hours covered, ${found.missing_h.toFixed(2)} missing, ` +
      `${found.repairable_h.toFixed(2)} of them can still be filled.`, answer);
    if (found.causes.length) {
      const list = write("ul", "", answer);
      for (const item of found.causes) write("li", `${item.cause}: ${item.hours.toFixed(2)} hours`, list);
    }
    if (found.command) { write("p", "Backfill this:", answer); write("code", found.command, answer); }
  }
  grid.addEventListener("click", (event) => {
    const x = Math.floor((event.offsetX - left) / cell), y = Math.floor((event.offsetY - top) / cell);
    if (x < 0 || y < 0 || x >= days || y >= rows.length) return;
    form.instrument.value = instruments[y];
    form.day.value = dayOf(x);
    show(instruments[y], dayOf(x));
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    show(form.instrument.value, form.day.value);
  });
}

const reload = document.getElementById("reload");
if (reload) setTimeout(() => location.reload(), Number(reload.dataset.seconds) * 1000);
