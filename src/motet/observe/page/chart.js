"use strict";
/* What the two charts share: colours that follow the page's theme, sharp canvases, a tip, ticks, numbers. */
const run = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const redraws = [];
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
let palette = {};

function readPalette() {
  for (const name of ["ink", "soft", "line", "faint", "sheet", "accent", "compute", "exposed", "idle", "page"])
    palette[name] = colour(name);
  palette.jobs = run.jobs.map((_, job) => colour("job-" + job));
}

function redrawAll() {
  readPalette();
  for (const redraw of redraws) redraw();
}

/* Return a canvas's context, its size in CSS pixels being width x height, cleared. */
function sheetOf(canvas, height) {
  const width = Math.max(200, canvas.clientWidth), ratio = window.devicePixelRatio || 1;
  if (canvas.style.height !== height + "px") canvas.style.height = height + "px";
  const pixels = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== pixels[0]) canvas.width = pixels[0];
  if (canvas.height !== pixels[1]) canvas.height = pixels[1];
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = "11.5px system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif";
  context.textBaseline = "middle";
  return [context, width];
}

/* Return round numbers from low to high, about `count` of them. */
function ticks(low, high, count) {
  const raw = (high - low) / Math.max(1, count);
  if (!(raw > 0) || !isFinite(raw)) return [low];
  const power = Math.pow(10, Math.floor(Math.log10(raw)));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return found;
}

function secondsText(seconds, step) {
  const unit = step !== undefined ? step : Math.abs(seconds);
  if (seconds === 0) return "0";
  if (unit < 1e-3) return +(seconds * 1e6).toFixed(step ? 0 : 1) + " µs";
  if (unit < 1 && Math.abs(seconds) < 1) return +(seconds * 1e3).toPrecision(step ? 6 : 3) + " ms";
  if (Math.abs(seconds) < 120) return +seconds.toFixed(step ? Math.max(0, Math.ceil(-Math.log10(step))) : unit < 10 ? 3 : 2) + " s";
  const whole = Math.round(seconds), two = (n) => String(n).padStart(2, "0");
  if (whole < 3600) return Math.floor(whole / 60) + ":" + two(whole % 60);
  return Math.floor(whole / 3600) + ":" + two(Math.floor(whole / 60) % 60) + ":" + two(whole % 60);
}

function numberText(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size < 1e-3 || size >= 1e6 ? value.toExponential(2).replace(/\.?0+e/, "e") : String(+value.toPrecision(4));
}

/* Show `lines` at the pointer, the first one bold. A line may be [text, job]: then the job's colour stands before it.
   Only text, never markup. */
function showTip(event, lines) {
  const tip = byId("tip");
  if (!lines) { tip.hidden = true; return; }
  const title = document.createElement("b");
  title.textContent = lines[0];
  tip.replaceChildren(title);
  for (const line of lines.slice(1)) {
    const [text, job] = Array.isArray(line) ? line : [line];
    tip.append("\n");
    if (job !== undefined) tip.append(dotOf(job));
    tip.append(text);
  }
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const x = event.clientX + 16 + box.width > innerWidth ? event.clientX - box.width - 12 : event.clientX + 16;
  const y = event.clientY + 16 + box.height > innerHeight ? event.clientY - box.height - 12 : event.clientY + 16;
  tip.style.left = Math.max(4, x) + "px";
  tip.style.top = Math.max(4, y) + "px";
}

function dotOf(job) {
  const dot = document.createElement("span");
  dot.className = "dot";
  dot.style.background = "var(--job-" + job + ")";
  return dot;
}

/* Add a button a job; `pressed` is called with the job and its button. */
function addChips(box, jobs, pressed) {
  for (const job of jobs) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(dotOf(job), run.jobs[job]);
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => pressed(job, button));
    box.append(button);
  }
}

byId("theme").addEventListener("click", () => {
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = root.dataset.theme || (dark ? "dark" : "light");
  root.dataset.theme = now === "dark" ? "light" : "dark";
  redrawAll();
});
if (/theme=(dark|light)/.test(location.hash)) document.documentElement.dataset.theme = RegExp.$1;
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);
window.addEventListener("resize", redrawAll);
window.addEventListener("load", redrawAll);
readPalette();
