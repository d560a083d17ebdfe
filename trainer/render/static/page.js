// Draws the line charts by uPlot, and searches and filters the answers. Nothing of the run is ever set as markup.
"use strict";
(() => {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

  const short = (value) => {
    if (value === null || value === undefined) return "";
    const size = Math.abs(value);
    if (size >= 1e9) return +(value / 1e9).toPrecision(3) + "G";
    if (size >= 1e6) return +(value / 1e6).toPrecision(3) + "M";
    if (size >= 1e4) return +(value / 1e3).toPrecision(3) + "k";
    if (size > 0 && size < 1e-3) return (+value.toPrecision(3)).toExponential().replace("e-", "e\u2212");
    return String(+value.toPrecision(4)).replace("-", "\u2212");
  };

  const axis = (label) => ({
    label,
    labelSize: label ? 18 : 0,
    labelFont: "12px system-ui, sans-serif",
    font: "12px system-ui, sans-serif",
    stroke: colour("quiet"),
    grid: { stroke: colour("rule"), width: 1 },
    ticks: { stroke: colour("rule"), width: 1, size: 4 },
    values: (_, splits) => splits.map(short),
  });

  const line = (series) => {
    const own = { first: "first", raw: "first", second: "second", rest: "quiet" }[series.role];
    return {
      label: series.label || "each step",
      stroke: colour(own) + (series.role === "raw" ? "55" : ""),
      width: series.role === "raw" || series.role === "rest" ? 1 : 2,
      points: { show: series.dots, size: 6, fill: colour(own) },
      spanGaps: true,
      value: (_, value) => short(value),
    };
  };

  const drawMarks = (marks) => (plot) => {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.font = 12 * devicePixelRatio + "px system-ui, sans-serif";
    ctx.strokeStyle = ctx.fillStyle = colour("ink");
    ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
    marks.forEach((mark, index) => {
      const x = plot.valToPos(mark.x, "x", true);
      if (x < bbox.left || x > bbox.left + bbox.width) return;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      const isRight = x > bbox.left + bbox.width / 2;
      ctx.textAlign = isRight ? "right" : "left";
      ctx.fillText(mark.label, x + (isRight ? -6 : 6) * devicePixelRatio, bbox.top + (14 + 16 * index) * devicePixelRatio);
    });
    ctx.restore();
  };

  const draw = (place) => {
    const chart = JSON.parse(place.dataset.chart);
    place.hidden = false;
    place.replaceChildren();
    const scale = chart.log ? { distr: 3 } : {};
    const options = {
      width: place.clientWidth,
      height: Math.max(180, Math.min(300, place.clientWidth * 0.5)),
      scales: { x: { time: false, ...scale }, y: scale },
      axes: [{ ...axis(chart.xLabel), size: 32, space: 40 }, { ...axis(""), size: 52, space: 28 }],
      series: [{ label: chart.xLabel, value: (_, value) => short(value) }, ...chart.series.map(line)],
      hooks: { draw: [drawMarks(chart.marks)] },
      cursor: { drag: { x: false, y: false } },
    };
    return new uPlot(options, [chart.x, ...chart.series.map((series) => series.y)], place);
  };

  // A table that is wider than the page becomes a list of its cells: no column is hidden, nothing scrolls sideways.
  const fitTables = () => {
    for (const frame of document.querySelectorAll(".scroll")) {
      const table = frame.firstElementChild;
      table.classList.remove("stacked");
      if (frame.clientWidth && frame.scrollWidth > frame.clientWidth) table.classList.add("stacked");
    }
  };

  const places = [...document.querySelectorAll("[data-chart]")];
  const drawAll = () => {
    fitTables();
    places.forEach(draw);
  };
  document.querySelectorAll(".charts").forEach((group) => (group.hidden = false));
  document.querySelectorAll("details.values").forEach((table) => (table.open = false));
  drawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  let width = innerWidth, waiting = 0;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(drawAll, 150);
  });

  document.querySelectorAll("details").forEach((part) => part.addEventListener("toggle", fitTables));

  const controls = document.getElementById("answer-controls");
  if (!controls) return;
  const rows = [...document.querySelectorAll("#answers .row")];
  const texts = new Map();
  const textOf = (row) => {
    if (!texts.has(row)) texts.set(row, row.textContent.toLowerCase());
    return texts.get(row);
  };
  const search = controls.querySelector("input");
  const buttons = [...controls.querySelectorAll("button")];
  const status = controls.querySelector("[role=status]");
  const more = document.getElementById("more-answers");
  const STEP = 50;
  let kind = "all";
  let limit = STEP;
  const show = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const isMatch =
        (kind === "all" || row.dataset.kinds.split(" ").includes(kind)) && words.every((word) => textOf(row).includes(word));
      count += isMatch;
      row.hidden = !isMatch || count > limit;
    }
    status.textContent = count.toLocaleString("en") + " of " + rows.length.toLocaleString("en") + " on this page";
    more.hidden = count <= limit;
    more.textContent = "Show " + Math.min(count - limit, 4 * STEP).toLocaleString("en") + " more";
  };
  const restart = () => {
    limit = STEP;
    show();
  };
  more.addEventListener("click", () => {
    limit += 4 * STEP;
    show();
  });
  controls.hidden = false;
  buttons.forEach((button) =>
    button.addEventListener("click", () => {
      kind = button.value;
      buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      restart();
    }),
  );
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(restart, 120);
  });
  show();
})();
