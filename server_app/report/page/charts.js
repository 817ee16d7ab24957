// Draws every figure with ECharts from the data beside it, in the colours of the style sheet.
const NBSP = "\u00a0", MINUS = "\u2212";
const LETTER = 7.3, ROOMY = 460; // width of a letter, and of a chart that has room for names, px
const SIGNS = { "fell back": "▲", "no update": "◆", "replies rejected": "■", resumed: "●" };
const SYMBOLS = { "▲": "triangle", "◆": "diamond", "■": "rect", "●": "circle" };

const figureOf = (value, decimals) => {
  if (value === null || value === undefined) return "not a number";
  const [mantissa, exponent] = value.toExponential(2).split("e");
  const power = Number(exponent);
  let text = Number(mantissa) + "·10" + String(power).replace(/./g, (c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]);
  if (decimals !== null) text = value.toFixed(decimals);
  else if (!value || (power >= -4 && power < 5)) text = String(Number(value.toFixed(Math.max(0, 2 - power))));
  return text.replace(/^1·/, "").replace(/^-(?=[0.]*$)/, "").replace(/^-/, MINUS);
};
const textOf = (value, unit) =>
  figureOf(value, unit.decimals) + (unit.suffix && value !== null ? NBSP + unit.suffix : "");
const tickOf = (value, unit) =>
  figureOf(Number(value.toPrecision(10)), null) + (unit.suffix ? NBSP + unit.suffix : "");
const short = (name) => (name.length <= 24 ? name : name.slice(0, 23).trimEnd() + "…");
const finite = (values) => values.filter((value) => value !== null);

// Colours are variables of the style sheet: they follow light and dark, screen and paper by themselves.
const INK = "var(--ink)", QUIET = "var(--quiet)", HAIR = "var(--hair)", LINE = "var(--line)", PAPER = "var(--paper)";
const colourOf = (style) => ({ base: "var(--base)", rest: LINE })[style] ?? `var(--s${style})`;
const probe = Object.assign(document.body.appendChild(document.createElement("i")), { hidden: true });
const valueOf = (name, within) => {
  probe.className = within;
  return getComputedStyle(probe).getPropertyValue(name).trim();
};
const dashOf = (style) => {
  const dash = valueOf("--dash", "s" + style);
  return dash === "none" ? "solid" : dash.split(" ").map(Number);
};
const TEXT = { color: QUIET, fontSize: 12.5 };

// An axis that fits its values, and beyond `limits` not even where all are equal.
const valueAxis = (chart, values) => {
  const limit = (side, flat) => (extent) => {
    const end = chart.limits[side];
    if (!Number.isFinite(extent.min)) return side;
    if (extent.min !== extent.max) return null;
    const value = extent.min + flat * (Math.abs(extent.min) * 0.1 || 0.5);
    return end === null ? value : side ? Math.min(value, end) : Math.max(value, end);
  };
  const log = chart.log && values.some((value) => value > 0);
  return {
    type: log ? "log" : "value", scale: !chart.zero, splitNumber: 4,
    ...(log ? {} : { min: chart.zero ? 0 : limit(0, -1), max: limit(1, 1) }),
    axisLine: { show: false }, axisTick: { show: false },
    splitLine: { lineStyle: { color: HAIR } },
    axisLabel: { ...TEXT, hideOverlap: true, formatter: (v) => tickOf(v, chart.unit) },
  };
};
const flatAxis = (name, unit, more) => ({
  name, nameLocation: "middle", nameGap: 24, nameTextStyle: TEXT,
  axisLine: { onZero: false, lineStyle: { color: LINE } },
  axisTick: { show: more.type === "value", lineStyle: { color: LINE } },
  splitLine: { show: false },
  axisLabel: {
    ...TEXT, hideOverlap: true, ...(unit.suffix ? { alignMinLabel: "left" } : {}),
    formatter: (v) => (typeof v === "string" ? v : unit.whole && v % 1 ? "" : tickOf(v, unit)),
  },
  ...more,
});

const lineChart = (chart, roomy) => {
  const values = finite(chart.series.flatMap((line) => line.y));
  const usable = (y) => y !== null && (!chart.log || y > 0);
  const series = chart.bands.flatMap((band) => outlines(chart, band));
  let room = 12;
  for (const line of chart.series) {
    const color = colourOf(line.style);
    const shown = line.y.map(usable), final = shown.lastIndexOf(true), quiet = line.style === "rest";
    const diverged = final >= 0 && line.y[line.y.length - 1] === null;
    const end = diverged ? "diverged" : final >= 0 ? textOf(line.y[final], chart.unit) : "";
    const name = chart.ends === "names" && roomy ? short(line.name) + " " : "";
    if (!quiet && chart.ends !== "none") room = Math.max(room, 16 + LETTER * (name + end).length);
    series.push({
      type: "line", name: line.name, clip: true, triggerLineEvent: false, z: quiet ? 2 : 3,
      lineStyle: { color, width: quiet ? 1.2 : 2.1, type: dashOf(line.style) }, itemStyle: { color },
      symbolSize: 7.4, showAllSymbol: true,
      data: line.x.map((x, i) => {
        const lone = shown[i] && !shown[i - 1] && !shown[i + 1];
        const point = { value: [x, shown[i] ? line.y[i] : null], symbol: "none" };
        if (lone && !quiet) point.symbol = "circle";
        if (i !== final || quiet) return point;
        const cross = { color: "transparent", borderColor: color, borderWidth: 2.2 };
        return {
          ...point, symbol: diverged ? "path://M0,0L8,8M0,8L8,0" : "circle",
          ...(diverged ? { itemStyle: cross } : {}),
          label: {
            show: chart.ends !== "none", position: "right", distance: 7, color, fontSize: 12.5,
            formatter: `${name}{value|${end}}`, rich: { value: { color, fontWeight: 600, fontSize: 12.5 } },
          },
        };
      }),
    });
  }
  if (chart.events.length) series.push(marks(chart));
  const xs = chart.series.flatMap((line) => line.x);
  const first = chart.xunit ? 0 : Math.min(...xs), last = Math.max(...xs);
  return {
    series, room,
    xAxis: flatAxis(chart.xname, chart.xunit ?? { suffix: "", whole: true }, {
      type: "value", min: first === 1 && last > 1 ? 0 : first, max: chart.xunit ? null : last > first ? last : first + 1,
      splitNumber: roomy ? 5 : 3, ...(chart.xunit ? {} : { minInterval: 1 }),
    }),
    yAxis: [valueAxis(chart, values), { type: "value", min: 0, max: 1, show: false }],
  };
};

// A band is the closed outline of a line there and back, one for each stretch without a gap.
const outlines = (chart, band) => {
  const stretches = [[]], color = colourOf(band.style);
  band.x.forEach((x, i) => {
    if (band.low[i] === null || band.high[i] === null || (chart.log && band.low[i] <= 0)) stretches.push([]);
    else stretches.at(-1).push([x, band.low[i], band.high[i]]);
  });
  return stretches.filter((points) => points.length > 1).map((points) => ({
    type: "line", name: ownerOf(chart, band)?.name, silent: true, symbol: "none", z: 1, tooltip: { show: false },
    lineStyle: { width: 0 }, itemStyle: { color }, areaStyle: { color, opacity: 0.16 },
    data: [...points.map(([x, low]) => [x, low]), ...points.toReversed().map(([x, , high]) => [x, high])],
  }));
};
const ownerOf = (chart, band) => chart.series.find((line) => line.style === band.style);

// What happened beside training stands on the axis, a sign for each kind.
const marks = (chart) => ({
  type: "scatter", yAxisIndex: 1, silent: true, z: 5, clip: true, symbolSize: 8, tooltip: { show: false },
  itemStyle: { color: INK },
  data: chart.events.map((event) => ({ value: [event.round, 0], symbol: SYMBOLS[SIGNS[event.kind]] })),
});

const barChart = (chart) => {
  const sums = chart.heads.map((_, i) => chart.series.reduce((sum, part) => sum + (part.y[i] ?? 0), 0));
  return {
    room: 16,
    xAxis: flatAxis(chart.xname, {}, { type: "category", data: chart.heads }),
    yAxis: [valueAxis({ ...chart, zero: true, limits: [0, null] }, sums)],
    series: chart.series.map((part) => ({
      type: "bar", stack: "all", name: part.name, data: part.y,
      barCategoryGap: chart.heads.length > 60 ? "0%" : "20%",
      itemStyle: { color: colourOf(part.style), opacity: part.style === "base" ? 0.45 : 0.82 },
    })),
  };
};

// A column for each head: a ring, a dot, and a stem between, orange where the dot is lower.
const pairChart = (chart) => {
  const [after, before] = chart.series.map((side) => side.y);
  const colour = (i) => colourOf(before[i] !== null && after[i] !== null && after[i] < before[i] ? "1" : "0");
  const stem = { type: "bar", stack: "stem", barWidth: 1.6, silent: true };
  const ends = chart.heads.map((_, i) => [before[i], after[i]]).map((pair) => (pair.includes(null) ? [null, null] : pair));
  return {
    room: 8,
    xAxis: flatAxis(chart.xname, {}, { type: "category", data: chart.heads, axisLabel: { show: false }, nameGap: 10 }),
    yAxis: [valueAxis(chart, finite([...after, ...before]))],
    series: [
      { ...stem, itemStyle: { color: "transparent" }, data: ends.map((pair) => pair[0] && Math.min(...pair)) },
      { ...stem, data: ends.map(([from, to], i) => ({
        value: from === null ? null : Math.abs(to - from), itemStyle: { color: colour(i), opacity: 0.45 } })) },
      { type: "scatter", symbolSize: 7.4, data: before, itemStyle: { color: PAPER, borderColor: colourOf("base"), borderWidth: 1.4 } },
      { type: "scatter", symbolSize: 7.4, data: after.map((value, i) => ({ value, itemStyle: { color: colour(i) } })) },
    ],
  };
};

const KINDS = { lines: lineChart, bars: barChart, pairs: pairChart };

// What the pointer shows at one place of the horizontal axis.
const tipAt = (chart, x, hidden) => {
  const lines = chart.kind === "lines", rows = [];
  const at = (list) => (lines ? list.x.indexOf(x) : x);
  for (const line of chart.series) {
    const value = line.y[at(line)];
    if (value === undefined || hidden.has(line.name) || (chart.kind === "bars" && value === null)) continue;
    rows.push([line.name, line.style, textOf(value, chart.unit)]);
  }
  for (const band of chart.bands) {
    const [low, high] = [band.low[at(band)] ?? null, band.high[at(band)]];
    if (low === null || hidden.has(ownerOf(chart, band)?.name)) continue;
    rows.push([band.name, band.style, `${textOf(low, chart.unit)} to ${textOf(high, chart.unit)}`]);
  }
  for (const event of chart.events) if (event.round === x) rows.push([`${SIGNS[event.kind]} ${event.kind}`, "base", ""]);
  const head = !lines ? chart.heads[x] : chart.xunit ? textOf(x, chart.xunit) : x;
  const safe = echarts.format.encodeHTML;
  const said = rows.map(([name, style, value]) => `<span><i class="s${style}">${safe(name)}</i><em>${safe(value)}</em></span>`);
  return `<div class="tip"><b>${safe(chart.kind === "pairs" || chart.xunit ? head : `${chart.xname} ${head}`)}</b>${said.join("")}</div>`;
};

const optionOf = (chart, roomy, hidden) => {
  const { room, series, ...drawn } = KINDS[chart.kind](chart, roomy);
  return {
    ...drawn,
    series: series.map((one) => ({ ...one, emphasis: { disabled: true } })),
    animation: false,
    textStyle: { fontFamily: getComputedStyle(document.body).fontFamily },
    grid: { left: 4, right: room, top: 10, bottom: 22, containLabel: true },
    legend: { show: false, selected: Object.fromEntries([...hidden].map((name) => [name, false])) },
    tooltip: {
      trigger: "axis", confine: true, transitionDuration: 0, padding: 0, borderWidth: 0,
      backgroundColor: "transparent", extraCssText: "box-shadow:none",
      axisPointer: { type: "line", snap: true, lineStyle: { color: QUIET, type: "solid" } },
      formatter: ([{ axisValue, dataIndex }]) => tipAt(chart, chart.kind === "lines" ? axisValue : dataIndex, hidden),
    },
    toolbox: { top: -40, feature: { dataZoom: { yAxisIndex: "none", filterMode: "filter", brushStyle: { color: LINE, opacity: 0.25 } } } },
  };
};

// Moves what stands at the ends of lines to the right edge and apart, as little as that takes.
const spread = (drawn, series) => {
  const plot = drawn.getModel().getComponent("grid").coordinateSystem.getRect();
  const ends = series.flatMap((line, seriesIndex) => {
    const point = line.data.find((item) => item?.label?.show);
    if (!point) return [];
    const [x, y] = drawn.convertToPixel({ seriesIndex }, point.value);
    return [{ label: point.label, x, y }];
  }).sort((a, b) => a.y - b.y);
  let floor = plot.y + plot.height;
  ends.forEach((end, i) => (end.to = i ? Math.max(end.y, ends[i - 1].to + 15) : end.y));
  for (const end of ends.toReversed()) {
    end.to = Math.min(end.to, floor);
    floor = end.to - 15;
    end.label.offset = [plot.x + plot.width - end.x, end.to - end.y];
  }
  return series;
};

// Gives a figure its chart. `figure.update(data)` draws other data and keeps what the reader chose.
function prepareChart(figure) {
  const source = figure.querySelector("script");
  const plot = figure.querySelector(".plot");
  const hidden = new Set();
  let chart = JSON.parse(source.textContent), roomy = plot.clientWidth > ROOMY, at = -1;
  const drawn = echarts.init(plot, null, { renderer: "svg" });
  const draw = (merge) => {
    const fresh = optionOf(chart, roomy, hidden);
    drawn.setOption(fresh, merge ? { replaceMerge: ["series"] } : { notMerge: true });
    if (chart.series.length > 1 && chart.kind === "lines") {
      drawn.setOption({ series: spread(drawn, fresh.series) }, { replaceMerge: ["series"] });
    }
    // Dragging with a mouse chooses what to look at; a finger scrolls the page.
    if (!matchMedia("(pointer: coarse)").matches) {
      drawn.dispatchAction({ type: "takeGlobalCursor", key: "dataZoomSelect", dataZoomSelectActive: true });
    }
  };
  const button = (text, label, act) => {
    const made = tools.appendChild(document.createElement("button"));
    Object.assign(made, { type: "button", textContent: text, title: label, onclick: act });
    return made;
  };
  const tools = figure.querySelector("figcaption").appendChild(document.createElement("span"));
  tools.className = "tools";
  const whole = button("whole", "Show all of the chart again", () => {
    draw(false);
    whole.hidden = true;
  });
  whole.hidden = true;
  button("SVG", "Save the chart as a picture", () => save(chart, hidden));

  figure.chart = drawn;
  figure.update = (text) => {
    chart = JSON.parse(source.textContent = text);
    draw(true);
  };
  figure.toggle = (name, on) => {
    on ? hidden.delete(name) : hidden.add(name);
    drawn.dispatchAction({ type: on ? "legendSelect" : "legendUnSelect", name });
  };
  figure.querySelectorAll(".legend button").forEach((entry) => listen(entry, [figure]));
  const kinds = [...new Set(chart.events.map((event) => `${SIGNS[event.kind]} ${event.kind}`))];
  const events = figure.querySelector(".events");
  if (events) events.textContent = kinds.join("   ").replaceAll(" ", NBSP);

  // On paper the style sheet makes a chart as wide as the paper is.
  drawn.on("rendered", () => plot.querySelector("svg").setAttribute("viewBox", `0 0 ${drawn.getWidth()} ${drawn.getHeight()}`));
  drawn.on("datazoom", () => (whole.hidden = false));
  drawn.getZr().on("dblclick", () => whole.onclick());
  plot.tabIndex = 0;
  plot.addEventListener("keydown", (event) => {
    const points = chart.series.reduce((most, line) => Math.max(most, line.y.length), 0);
    const goal = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: points - 1 }[event.key];
    if (event.key === "Escape") drawn.dispatchAction({ type: "hideTip" });
    if (goal === undefined || !points) return;
    event.preventDefault();
    at = Math.max(0, Math.min(points - 1, goal));
    const longest = chart.bands.length + chart.series.findIndex((line) => line.y.length === points);
    drawn.dispatchAction({ type: "showTip", seriesIndex: longest, dataIndex: at });
  });
  new ResizeObserver(() => {
    if (!plot.clientWidth) return;
    drawn.resize();
    if (roomy !== plot.clientWidth > ROOMY) {
      roomy = !roomy;
      draw(true);
    }
  }).observe(plot);
  draw(false);
}

const listen = (entry, figures) =>
  entry.addEventListener("click", () => {
    const on = entry.getAttribute("aria-pressed") !== "true";
    entry.setAttribute("aria-pressed", on);
    for (const figure of figures) figure.toggle(entry.dataset.name, on);
  });

// A picture for a paper: of fixed size, with its legend, without a screen's width and colours.
const save = (chart, hidden) => {
  const drawn = echarts.init(null, null, { renderer: "svg", ssr: true, width: 640, height: 360 });
  const option = optionOf(chart, true, hidden);
  const legend = { show: true, top: 0, data: chart.series.map((line) => line.name) };
  const textStyle = { fontFamily: "Helvetica, Arial, sans-serif" };
  drawn.setOption({ ...option, textStyle, legend, grid: { ...option.grid, top: 40 }, toolbox: undefined, tooltip: undefined });
  if (chart.kind === "lines") drawn.setOption({ series: spread(drawn, option.series) });
  const link = document.createElement("a");
  const text = drawn.renderToSVGString().replace(/var\((--\w+)\)/g, (_, name) => valueOf(name, "picture"));
  link.href = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
  link.download = chart.title.replace(/[^\p{L}\p{N}]+/gu, "-").toLowerCase() + ".svg";
  link.click();
  URL.revokeObjectURL(link.href);
  drawn.dispose();
};

function prepareCharts(within) {
  if (!globalThis.echarts) {
    return within.querySelectorAll(".plot").forEach((plot) => (plot.textContent = plot.getAttribute("aria-label")));
  }
  within.querySelectorAll(".chart").forEach((figure) => figure.chart || prepareChart(figure));
  within.querySelectorAll(".legend.shared button").forEach((entry) =>
    listen(entry, [...entry.closest("section").querySelectorAll(".chart")]));
}
