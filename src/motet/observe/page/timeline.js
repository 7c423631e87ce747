/* The timeline: per worker one thick row of turns and a thin row a job of its synchronizations. */
(function () {
  const canvas = byId("timeline"), overview = byId("overview");
  if (!run.workers.some((worker) => worker.turns.length)) {
    byId("timeline-section").hidden = true;
    return;
  }
  const COMPUTE = 26, LANE = run.jobs.length > 8 ? 13 : 16, GAP = 4, TOP = 24, TITLE = 20, LEFT = 108;
  const lanes = run.workers.map((worker) => readWorker(worker));
  const whole = Math.max(run.seconds, 1e-6);
  let view = firstView(), chosenJob = null, pointed = null, shown = byId("workers").value;

  /* Give each turn names; find, a job, its turns in order, and the waits in theirs. Times become seconds. */
  function readWorker(worker) {
    const byJob = run.jobs.map(() => []);
    const turns = worker.turns.map((row) => {
      const turn = { job: row[0], turn: row[1], begin: row[2] / 1e6, end: (row[2] + row[3]) / 1e6, worker: worker.worker };
      if (row.length > 4) {
        turn.launched = row[4] / 1e6;
        turn.completed = (row[4] + row[5]) / 1e6;
        turn.waitBegin = row[6] / 1e6;
        turn.synced = (row[6] + row[7]) / 1e6;
        turn.kilobytes = row[8];
      }
      byJob[turn.job].push(turn);
      return turn;
    });
    /* A worker waits for one thing at a time, but not in the order in which the turns began. */
    const waits = turns.filter((turn) => turn.synced > turn.waitBegin).sort((one, other) => one.waitBegin - other.waitBegin);
    return { worker: worker.worker, turns, byJob, waits, busy: worker.busy };
  }

  /* Show about thirty turns at first: the whole run at once is a blur. They lie where the run is under way. */
  function firstView() {
    const turns = lanes[0].turns, count = Math.min(turns.length, Math.max(30, 3 * run.jobs.length));
    const start = Math.min(turns.length - count, Math.floor(Math.min(turns.length, 4000) * 0.3));
    const begin = turns[start].begin, end = turns[start + count - 1].end;
    const margin = 0.02 * (end - begin);
    return { begin: Math.max(0, begin - margin), end: Math.min(whole, end + margin) };
  }

  function shownLanes() {
    return shown === "all" ? lanes : lanes.filter((lane) => String(lane.worker) === shown);
  }
  const workerHeight = () => TITLE + COMPUTE + GAP + run.jobs.length * LANE + 14;
  const at = (time, width) => LEFT + ((time - view.begin) / (view.end - view.begin)) * (width - LEFT);
  const timeAt = (x, width) => view.begin + ((x - LEFT) / (width - LEFT)) * (view.end - view.begin);

  /* Return the index of the last item that begins before `time`, or 0; a list is sorted by what `begin` says. */
  function lastBefore(items, time, begin) {
    let low = 0, high = items.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (begin(items[middle]) < time) low = middle + 1; else high = middle;
    }
    return Math.max(0, low - 1);
  }
  const firstVisible = (turns, time) => lastBefore(turns, time, (turn) => turn.begin);
  const firstWait = (waits, time) => lastBefore(waits, time, (turn) => turn.waitBegin);

  function draw() {
    const rows = shownLanes();
    const [context, width] = sheetOf(canvas, TOP + rows.length * workerHeight());
    drawTicks(context, width, TOP + rows.length * workerHeight());
    rows.forEach((lane, place) => drawWorker(context, width, lane, TOP + place * workerHeight()));
    context.clearRect(0, 0, LEFT - 1, TOP - 4);
    drawMarks(context, width, TOP + rows.length * workerHeight());
    drawOverview();
  }

  function drawTicks(context, width, height) {
    const found = ticks(view.begin, view.end, (width - LEFT) / 110), step = found.length > 1 ? found[1] - found[0] : 1;
    context.textAlign = "center";
    for (const time of found) {
      const x = Math.round(at(time, width)) + 0.5;
      context.fillStyle = palette.line;
      context.fillRect(x - 0.5, TOP - 6, 1, height);
      context.fillStyle = palette.soft;
      if (x > LEFT + 12 && x < width - 20) context.fillText(secondsText(time, step), x, 9);
    }
  }

  function drawWorker(context, width, lane, y) {
    const computeY = y + TITLE, laneY = computeY + COMPUTE + GAP;
    context.textAlign = "left";
    context.fillStyle = palette.ink;
    context.font = "600 " + context.font.replace(/^600 /, "");
    context.fillText("worker " + lane.worker, 0, y + 9);
    context.font = context.font.replace(/^600 /, "");
    context.fillStyle = palette.soft;
    context.fillText("computes", 0, computeY + COMPUTE / 2);
    run.jobs.forEach((name, job) => {
      context.globalAlpha = chosenJob === null || chosenJob === job ? 1 : 0.4;
      context.fillStyle = palette.soft;
      context.fillText(clipped(context, name, LEFT - 12), 0, laneY + job * LANE + LANE / 2);
      context.globalAlpha = 1;
      context.fillStyle = palette.faint;
      context.fillRect(LEFT, laneY + job * LANE + LANE - 1, width - LEFT, 1);
    });
    context.save();
    context.beginPath();
    context.rect(LEFT, y, width - LEFT, workerHeight());
    context.clip();
    context.fillStyle = palette.faint;
    context.fillRect(LEFT, computeY, width - LEFT, COMPUTE);
    drawTurns(context, width, lane.turns, computeY);
    drawWaits(context, width, lane.waits, computeY);
    lane.byJob.forEach((turns, job) => drawTravel(context, width, turns, job, laneY + job * LANE, computeY));
    if (pointed && pointed.worker === lane.worker) drawPointed(context, width, computeY, laneY);
    context.restore();
  }

  function drawTurns(context, width, turns, y) {
    let lastPixel = -1;
    for (let i = firstVisible(turns, view.begin); i < turns.length && turns[i].begin <= view.end; i++) {
      const turn = turns[i], x = at(turn.begin, width), right = at(turn.end, width);
      if (right > lastPixel + 0.4) {
        context.globalAlpha = chosenJob === null || chosenJob === turn.job ? 1 : 0.16;
        context.fillStyle = palette.jobs[turn.job];
        const from = Math.max(x, lastPixel);
        context.fillRect(from, y, Math.max(0.6, right - from - (right - x > 4 ? 1 : 0)), COMPUTE);
        lastPixel = right;
        if (right - x > 34) label(context, turn, Math.max(x, LEFT), Math.min(right, width), y);
      }
    }
    context.globalAlpha = 1;
  }

  function drawWaits(context, width, waits, y) {
    for (let i = firstWait(waits, view.begin); i < waits.length && waits[i].waitBegin <= view.end; i++) {
      const x = at(waits[i].waitBegin, width), right = at(waits[i].synced, width);
      if (right - x >= 0.7) hatch(context, x, y, right - x, COMPUTE);
    }
  }

  function label(context, turn, left, right, y) {
    const name = run.jobs[turn.job], room = right - left - 8, full = name + " " + turn.turn;
    const text = context.measureText(full).width <= room ? full : clipped(context, name, room);
    if (text.length < Math.min(4, name.length)) return;
    context.textAlign = "center";
    context.fillStyle = palette.sheet;
    context.fillText(text, (left + right) / 2, y + COMPUTE / 2 + 0.5);
    context.textAlign = "left";
  }

  function hatch(context, x, y, width, height) {
    context.fillStyle = palette.exposed;
    context.globalAlpha = 0.30;
    context.fillRect(x, y, width, height);
    context.globalAlpha = 0.9;
    context.save();
    context.beginPath();
    context.rect(x, y, width, height);
    context.clip();
    context.strokeStyle = palette.exposed;
    context.lineWidth = 1;
    context.beginPath();
    const left = Math.max(x, LEFT) - height, right = Math.min(x + width, canvas.clientWidth);
    for (let line = Math.floor(left / 6) * 6; line < right; line += 6) {
      context.moveTo(line, y + height);
      context.lineTo(line + height, y);
    }
    context.stroke();
    context.restore();
    context.globalAlpha = 1;
  }

  function drawTravel(context, width, turns, job, y, computeY) {
    let lastPixel = -1;
    context.fillStyle = palette.jobs[job];
    context.globalAlpha = chosenJob === null || chosenJob === job ? 0.85 : 0.13;
    const wide = turns.length > 1 && at(turns[1].begin, width) - at(turns[0].begin, width) > 12;
    for (let i = Math.max(0, firstVisible(turns, view.begin) - 1); i < turns.length && turns[i].begin <= view.end; i++) {
      const turn = turns[i];
      if (turn.launched === undefined || turn.completed < view.begin) continue;
      const x = Math.max(at(turn.launched, width), lastPixel), right = at(turn.completed, width);
      if (right < lastPixel + 0.4) continue;
      context.fillRect(x, y + 1, Math.max(0.8, right - x), LANE - 4);
      lastPixel = right;
      if (chosenJob === job && wide) arrow(context, at(turn.end, width), computeY + COMPUTE, right, y + LANE / 2);
    }
    context.globalAlpha = 1;
  }

  function arrow(context, x, y, toX, toY) {
    context.strokeStyle = palette.soft;
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(x, y);
    context.bezierCurveTo(x, toY, toX - 14, toY, toX, toY);
    context.stroke();
  }

  function drawPointed(context, width, computeY, laneY) {
    const left = at(pointed.begin, width), right = at(pointed.end, width);
    context.strokeStyle = palette.ink;
    context.lineWidth = 1.5;
    context.strokeRect(left, computeY + 0.75, Math.max(1, right - left), COMPUTE - 1.5);
    if (pointed.launched === undefined) return;
    const y = laneY + pointed.job * LANE, arrival = at(pointed.completed, width);
    context.strokeRect(at(pointed.launched, width), y + 0.5, Math.max(1, arrival - at(pointed.launched, width)), LANE - 3);
    arrow(context, right, computeY + COMPUTE, arrival, y + LANE / 2 - 1);
  }

  function drawMarks(context, width, height) {
    for (const mark of run.marks) {
      if (mark.time < view.begin || mark.time > view.end) continue;
      const x = Math.round(at(mark.time, width));
      context.fillStyle = palette.accent;
      context.fillRect(x, TOP - 8, 1, mark.kind === "resumed" ? height : 8);
      context.beginPath();
      context.moveTo(x - 4, TOP - 8);
      context.lineTo(x + 5, TOP - 8);
      context.lineTo(x + 0.5, TOP - 2);
      context.fill();
    }
  }

  function drawOverview() {
    const [context, width] = sheetOf(overview, 54), lane = shownLanes()[0];
    const place = (time) => LEFT + (time / whole) * (width - LEFT), low = 44, high = 6;
    context.fillStyle = palette.faint;
    context.fillRect(LEFT, high, width - LEFT, low - high);
    context.fillStyle = palette.compute;
    context.globalAlpha = 0.75;
    for (const [begin, length, compute] of lane.busy)
      context.fillRect(place(begin), low - compute * (low - high), Math.max(1, place(begin + length) - place(begin) - 0.3), compute * (low - high));
    context.globalAlpha = 1;
    context.strokeStyle = palette.exposed;
    context.lineWidth = 1.6;
    context.beginPath();
    for (const [begin, length, , network] of lane.busy) {
      context.lineTo(place(begin), low - network * (low - high));
      context.lineTo(place(begin + length), low - network * (low - high));
    }
    context.stroke();
    context.fillStyle = palette.soft;
    context.textAlign = "left";
    context.fillText("whole run", 0, 25);
    context.fillText(secondsText(whole), 0, 39);
    const left = place(view.begin), right = Math.max(left + 3, place(view.end));
    context.fillStyle = palette.sheet;
    context.globalAlpha = 0.6;
    context.fillRect(LEFT, high, left - LEFT, low - high);
    context.fillRect(right, high, width - right, low - high);
    context.globalAlpha = 1;
    context.strokeStyle = palette.ink;
    context.lineWidth = 1.5;
    context.strokeRect(left, high - 3, right - left, low - high + 6);
  }

  function clipped(context, text, room) {
    if (context.measureText(text).width <= room) return text;
    /* The middle goes: names of a sweep begin alike and differ at their ends. */
    for (let most = text.length - 1; most > 1; most--) {
      const head = most < 18 ? 0 : Math.floor((most - 1) / 3), cut = text.slice(0, head) + "…" + text.slice(text.length - (most - 1 - head));
      if (context.measureText(cut).width <= room) return cut;
    }
    return "";
  }

  let asked = false;
  function redrawSoon() {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; draw(); });
  }

  function setView(begin, end) {
    const length = Math.min(whole, Math.max(20e-6, end - begin));
    const start = Math.min(Math.max(0, begin), whole - length);
    view = { begin: start, end: start + length };
    redrawSoon();
  }

  function zoom(factor, centre) {
    const middle = centre === undefined ? (view.begin + view.end) / 2 : centre;
    setView(middle - (middle - view.begin) * factor, middle + (view.end - middle) * factor);
  }
  const move = (share) => setView(view.begin + share * (view.end - view.begin), view.end + share * (view.end - view.begin));

  /* Return the turn under a point of the canvas, be it its computing or its synchronization. */
  function turnAt(x, y, width) {
    const place = Math.floor((y - TOP) / workerHeight()), lane = shownLanes()[place];
    if (!lane || x < LEFT) return null;
    const inside = y - TOP - place * workerHeight() - TITLE, time = timeAt(x, width);
    const near = (2 / (width - LEFT)) * (view.end - view.begin);
    if (inside >= 0 && inside < COMPUTE) {
      const start = firstVisible(lane.turns, time - near);
      for (let i = start; i < lane.turns.length && lane.turns[i].begin <= time + near; i++)
        if (lane.turns[i].end >= time - near) return lane.turns[i];
      const waited = lane.waits[firstWait(lane.waits, time)];
      if (waited && waited.waitBegin <= time && time <= waited.synced) return waited;
    }
    const job = Math.floor((inside - COMPUTE - GAP) / LANE);
    if (job >= 0 && job < run.jobs.length) {
      const turns = lane.byJob[job];
      for (let i = Math.max(0, firstVisible(turns, time - near) - 1); i < turns.length && turns[i].begin <= time + near; i++)
        if (turns[i].launched - near <= time && time <= turns[i].completed + near) return turns[i];
    }
    return null;
  }

  function describe(turn) {
    const lines = [run.jobs[turn.job] + ", turn " + turn.turn, "worker " + turn.worker + ", " + secondsText(turn.begin) + " into the run",
      "computes " + secondsText(turn.end - turn.begin)];
    if (turn.launched === undefined) return [...lines, "nothing to synchronize"];
    lines.push("gradients are in flight " + secondsText(turn.completed - turn.launched) +
      (turn.kilobytes ? " (" + (turn.kilobytes >= 1000 ? +(turn.kilobytes / 1000).toPrecision(3) + " MB" : turn.kilobytes + " kB") + ")" : ""));
    const waited = turn.synced - turn.waitBegin;
    lines.push(waited > 20e-6 ? "worker waits for them " + secondsText(waited) : "nobody waits for them");
    return lines;
  }

  function step(direction) {
    const lane = shownLanes()[0], turns = chosenJob === null ? lane.turns : lane.byJob[chosenJob];
    if (!turns.length) return;
    let index = pointed && turns.indexOf(pointed) >= 0 ? turns.indexOf(pointed) + direction
      : firstVisible(turns, (view.begin + view.end) / 2);
    index = Math.min(turns.length - 1, Math.max(0, index));
    pointed = turns[index];
    byId("turn-text").textContent = describe(pointed).join(" · ");
    const length = view.end - view.begin;
    if (pointed.begin < view.begin + 0.1 * length || pointed.end > view.end - 0.1 * length)
      setView(pointed.begin - 0.4 * length, pointed.begin + 0.6 * length);
    redrawSoon();
  }

  let held = null;
  canvas.addEventListener("pointerdown", (event) => {
    held = { x: event.clientX, view };
    canvas.setPointerCapture(event.pointerId);
    canvas.classList.add("dragging");
  });
  canvas.addEventListener("pointerup", () => { held = null; canvas.classList.remove("dragging"); });
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    if (held) {
      const moved = ((event.clientX - held.x) / (box.width - LEFT)) * (held.view.end - held.view.begin);
      setView(held.view.begin - moved, held.view.end - moved);
      return;
    }
    const found = turnAt(event.clientX - box.left, event.clientY - box.top, box.width);
    const mark = event.clientY - box.top < TOP && run.marks.find((one) => Math.abs(at(one.time, box.width) - event.clientX + box.left) < 6);
    showTip(event, found ? describe(found) : mark ? [mark.text || mark.kind, "at " + secondsText(mark.time)] : null);
    if (found !== pointed) { pointed = found; redrawSoon(); }
  });
  canvas.addEventListener("pointerleave", () => showTip(null, null));
  canvas.addEventListener("dblclick", (event) => {
    const box = canvas.getBoundingClientRect();
    zoom(0.4, timeAt(event.clientX - box.left, box.width));
  });
  canvas.addEventListener("wheel", (event) => {
    const box = canvas.getBoundingClientRect();
    if (event.ctrlKey || event.metaKey) zoom(Math.exp(Math.sign(event.deltaY) * 0.22), timeAt(event.clientX - box.left, box.width));
    else if (Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey) move((event.deltaX || event.deltaY) / 1500);
    else return;
    event.preventDefault();
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const actions = { ArrowLeft: () => move(-0.15), ArrowRight: () => move(0.15), "+": () => zoom(0.6), "=": () => zoom(0.6),
      "-": () => zoom(1.7), "0": () => setView(0, whole), Home: () => setView(0, whole) };
    if (!actions[event.key] || event.ctrlKey || event.metaKey) return;
    actions[event.key]();
    event.preventDefault();
  });

  function centreOverview(event) {
    const box = overview.getBoundingClientRect(), length = view.end - view.begin;
    const time = ((event.clientX - box.left - LEFT) / (box.width - LEFT)) * whole;
    setView(time - length / 2, time + length / 2);
  }
  overview.addEventListener("pointerdown", (event) => { overview.setPointerCapture(event.pointerId); centreOverview(event); });
  overview.addEventListener("pointermove", (event) => { if (event.buttons) centreOverview(event); });

  byId("zoom-in").addEventListener("click", () => zoom(0.5));
  byId("zoom-out").addEventListener("click", () => zoom(2));
  byId("fit").addEventListener("click", () => setView(0, whole));
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("workers").addEventListener("change", (event) => { shown = event.target.value; redrawSoon(); });
  addChips(byId("job-chips"), run.jobs.keys(), (job) => {
    chosenJob = chosenJob === job ? null : job;
    pointed = null;
    byId("job-chips").classList.toggle("some", chosenJob !== null);
    [...byId("job-chips").children].forEach((chip, index) => chip.setAttribute("aria-pressed", String(index === chosenJob)));
    redrawSoon();
  });
  redraws.push(draw);
})();
