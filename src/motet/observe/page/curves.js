/* Logged curves: one value at a time, all jobs in one plot. */
(function () {
  const canvas = byId("curves"), metric = byId("metric");
  if (!run.curves.length) {
    byId("curves-section").hidden = true;
    return;
  }
  const HEIGHT = 340, LEFT = 58, RIGHT = 14, TOP = 12, BOTTOM = 34;
  const dropped = new Set();
  let pointer = null;
  for (const [index, curve] of run.curves.entries()) metric.add(new Option(curve.name, index));
  /* Where a job diverges, only a logarithmic axis shows the others as well. */
  byId("log-scale").checked = Boolean(run.logarithmic) && run.curves[0].series.every((one) => one.points.every((point) => point[2] === null || point[2] > 0));

  /* Return what to draw: per job its points as {x, y, smooth}. */
  function series() {
    const axis = Number(byId("axis").value), log = byId("log-scale").checked;
    const usable = (value) => value !== null && (!log || value > 0);
    return run.curves[Number(metric.value)].series.filter((one) => !dropped.has(one.job)).map((one) => {
      const points = one.points.filter((point) => usable(point[2])).map(([turn, time, y]) => ({ x: axis ? time : turn, y, smooth: y }));
      smoothen(points);
      return { job: one.job, points, diverged: one.points.some((point) => point[2] === null) };
    }).filter((one) => one.points.length);
  }

  /* Average over neighbours on both sides, so that the smooth line does not lag behind. */
  function smoothen(points) {
    const reach = Math.max(2, Math.round(points.length / 40)), sums = [0];
    for (const point of points) sums.push(sums[sums.length - 1] + point.y);
    points.forEach((point, i) => {
      const half = Math.min(reach, i, points.length - 1 - i);
      point.smooth = (sums[i + half + 1] - sums[i - half]) / (2 * half + 1);
    });
  }

  /* Return the range of y: nearly all of what is drawn, so that one outlier does not flatten the rest. A job that
     diverges leaves the plot at its top. */
  function yRange(all, log) {
    const sound = all.filter((line) => !line.diverged), lines = sound.length ? sound : all, leaves = sound.length && sound.length < all.length;
    const values = lines.flatMap((line) => line.points.map((point) => point.y)).sort((a, b) => a - b);
    const at = (share) => values[Math.min(values.length - 1, Math.floor(share * values.length))];
    let low = at(0), high = at(0.995);
    if (values.length < 100) high = values[values.length - 1];
    if (leaves && high > 0) {
      const first = all.map((line) => line.points[0].y).filter((y) => y > 0);
      high = Math.max(high, Math.min(1000 * high, Math.max(0, ...first)));
    }
    if (log) return [Math.log10(low), Math.log10(Math.max(high, low * 1.01)) + (leaves ? 1 : 0)];
    if (low > 0 && low < 0.35 * high) low = 0;
    const margin = (high - low || Math.abs(high) || 1) * 0.05;
    return [low === 0 ? 0 : low - margin, high + margin];
  }

  function draw() {
    const [context, width] = sheetOf(canvas, HEIGHT), lines = series(), log = byId("log-scale").checked;
    if (!lines.length) {
      context.fillStyle = palette.soft;
      context.fillText("Nothing to show: every job is hidden, or no value is above zero.", LEFT, HEIGHT / 2);
      return;
    }
    const xs = lines.flatMap((line) => [line.points[0].x, line.points[line.points.length - 1].x]);
    const x0 = Math.min(...xs), x1 = Math.max(...xs, x0 + 1e-9), [y0, y1] = yRange(lines, log);
    const px = (x) => LEFT + ((x - x0) / (x1 - x0)) * (width - LEFT - RIGHT);
    const py = (y) => HEIGHT - BOTTOM - (((log ? Math.log10(y) : y) - y0) / (y1 - y0)) * (HEIGHT - TOP - BOTTOM);
    drawGrid(context, width, { x0, x1, y0, y1, px, py, log });
    context.save();
    context.beginPath();
    context.rect(LEFT, TOP - 4, width - LEFT, HEIGHT - TOP - BOTTOM + 8);
    context.clip();
    for (const line of lines) drawLine(context, line, px, py);
    context.restore();
    if (pointer) drawPointer(context, lines, px, py);
  }

  function drawGrid(context, width, { x0, x1, y0, y1, px, py, log }) {
    const time = byId("axis").value === "1", xTicks = ticks(x0, x1, width / 120), step = xTicks.length > 1 ? xTicks[1] - xTicks[0] : 1;
    const yTicks = log ? decades(y0, y1) : ticks(y0, y1, 6);
    context.fillStyle = palette.line;
    for (const value of yTicks) context.fillRect(LEFT, Math.round(py(value)), width - LEFT - RIGHT, 1);
    context.fillStyle = palette.soft;
    context.textAlign = "right";
    for (const value of yTicks) context.fillText(numberText(+value.toPrecision(6)), LEFT - 8, py(value));
    context.textAlign = "center";
    for (const value of xTicks) context.fillText(time ? secondsText(value, step) : numberText(value), Math.min(width - 24, px(value)), HEIGHT - BOTTOM + 13);
    context.textAlign = "right";
    context.fillText(time ? "time since the run began" : "turns of the job", width - RIGHT, HEIGHT - 7);
    context.textAlign = "left";
  }

  function decades(low, high) {
    const found = [], step = Math.ceil((high - low) / 8);
    for (let power = Math.floor(low / step) * step; power <= high; power += step)
      for (const factor of high - low < 2.5 ? [1, 2, 5] : [1]) {
        const value = factor * Math.pow(10, power);
        if (Math.log10(value) >= low - 1e-9 && Math.log10(value) <= high + 1e-9) found.push(value);
      }
    return found;
  }

  function drawLine(context, line, px, py) {
    const smooth = byId("smooth").checked && line.points.length > 30;
    context.strokeStyle = context.fillStyle = palette.jobs[line.job];
    context.lineJoin = "round";
    const trace = (pick) => {
      context.beginPath();
      for (const point of line.points) context.lineTo(px(point.x), py(pick(point)));
      context.stroke();
    };
    if (smooth) {
      context.globalAlpha = 0.25;
      context.lineWidth = 1;
      trace((point) => point.y);
      context.globalAlpha = 1;
    }
    context.lineWidth = 2;
    trace((point) => (smooth ? point.smooth : point.y));
    if (line.points.length < 30)
      for (const point of line.points) {
        context.beginPath();
        context.arc(px(point.x), py(point.y), 2.6, 0, 7);
        context.fill();
      }
  }

  function nearest(points, x, px) {
    let best = points[0];
    for (const point of points) if (Math.abs(px(point.x) - x) < Math.abs(px(best.x) - x)) best = point;
    return best;
  }

  function drawPointer(context, lines, px, py) {
    context.fillStyle = palette.soft;
    context.fillRect(Math.round(pointer.x), TOP, 1, HEIGHT - TOP - BOTTOM);
    const smooth = byId("smooth").checked, found = [];
    for (const line of lines) {
      const point = nearest(line.points, pointer.x, px), y = smooth && line.points.length > 30 ? point.smooth : point.y;
      if (Math.abs(px(point.x) - pointer.x) > 40) continue;
      found.push([y, [run.jobs[line.job] + "  " + numberText(point.y), line.job], point.x]);
      context.fillStyle = palette.jobs[line.job];
      context.beginPath();
      context.arc(px(point.x), py(y), 4, 0, 7);
      context.fill();
    }
    found.sort((a, b) => b[0] - a[0]);
    const time = byId("axis").value === "1", title = run.curves[Number(metric.value)].name;
    if (!found.length) showTip(null, null);
    else showTip(pointer.event, [title + (time ? ", " + secondsText(found[0][2]) : ", turn " + found[0][2]), ...found.map((one) => one[1])]);
  }

  canvas.addEventListener("pointermove", (event) => {
    pointer = { x: event.clientX - canvas.getBoundingClientRect().left, event };
    draw();
  });
  canvas.addEventListener("pointerleave", () => { pointer = null; showTip(null, null); draw(); });
  for (const id of ["metric", "axis", "log-scale", "smooth"]) byId(id).addEventListener("change", draw);
  addChips(byId("curve-chips"), run.jobs.keys(), (job, button) => {
    if (dropped.has(job)) dropped.delete(job); else dropped.add(job);
    button.setAttribute("aria-pressed", String(!dropped.has(job)));
    byId("curve-chips").classList.toggle("some", dropped.size > 0);
    draw();
  });
  for (const chip of byId("curve-chips").children) chip.setAttribute("aria-pressed", "true");
  redraws.push(draw);
})();
