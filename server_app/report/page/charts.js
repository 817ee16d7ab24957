// Draws every figure with ECharts from the data beside it, in the colours of the style sheet.
const NBSP = "\u00a0", MINUS = "\u2212";
const LETTER = 7.3, ROOMY = 460; // width of a letter, and of a chart that has room for names, px
const SYMBOLS = {
  "fell back": "triangle", "no update": "diamond", "replies rejected": "roundRect", resumed: "arrow",
};
const SIGNS = { "fell back": "▲", "no update": "◆", "replies rejected": "■", resumed: "➤" };

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
const signedOf = (value, unit) => (value > 0 ? "+" : "") + textOf(value, unit);
const tickOf = (value, unit) =>
  figureOf(Number(value.toPrecision(10)), null) + (unit.suffix ? NBSP + unit.suffix : "");
const short = (name) => (name.length <= 24 ? name : name.slice(0, 23).trimEnd() + "…");
const finite = (values) => values.filter((value) => value !== null);

// The colours and dashes of the style sheet, as they are now: dark or light, screen or paper.
const palette = (picture = false) => {
  const around = document.body.appendChild(document.createElement("div"));
  around.className = picture ? "picture" : "";
  const probe = around.appendChild(document.createElement("i"));
  const read = (name) => getComputedStyle(probe).getPropertyValue(name).trim();
  const styles = {};
  for (const style of ["0", "1", "2", "3", "4", "5", "6", "rest", "base"]) {
    probe.className = "s" + style;
    const dash = read("--dash");
    styles[style] = { color: read("--c"), dash: dash === "none" ? "solid" : dash.split(" ").map(Number) };
  }
  const found = { styles, font: picture ? "Helvetica, Arial, sans-serif" : getComputedStyle(document.body).fontFamily };
  for (const name of ["paper", "ink", "quiet", "hair", "line", "veil"]) found[name] = read("--" + name);
  around.remove();
  return found;
};

// An axis that fits its values, and beyond `limits` not even where all are equal.
const valueAxis = (chart, colours, values) => {
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
    splitLine: { lineStyle: { color: colours.hair } },
    axisLabel: { color: colours.quiet, fontSize: 12.5, hideOverlap: true, formatter: (v) => tickOf(v, chart.unit) },
  };
};
const flatAxis = (colours, name, unit, more) => ({
  name, nameLocation: "middle", nameGap: 24, nameTextStyle: { color: colours.quiet, fontSize: 12.5 },
  axisLine: { onZero: false, lineStyle: { color: colours.line } },
  axisTick: { lineStyle: { color: colours.line } },
  splitLine: { show: false },
  axisLabel: {
    color: colours.quiet, fontSize: 12.5, hideOverlap: true, ...(unit.suffix ? { alignMinLabel: "left" } : {}),
    formatter: (v) => (typeof v === "string" ? v : unit.whole && v % 1 ? "" : tickOf(v, unit)),
  },
  ...more,
});

const lineChart = (chart, colours, roomy) => {
  const values = finite(chart.series.flatMap((line) => line.y));
  const usable = (y) => y !== null && (!chart.log || y > 0);
  const series = chart.bands.flatMap((band) => outlines(chart, band, colours));
  let room = 12;
  for (const line of chart.series) {
    const { color, dash } = colours.styles[line.style];
    const shown = line.y.map(usable), final = shown.lastIndexOf(true), quiet = line.style === "rest";
    const diverged = final >= 0 && line.y[line.y.length - 1] === null;
    const end = diverged ? "diverged" : final >= 0 ? textOf(line.y[final], chart.unit) : "";
    const name = chart.ends === "names" && roomy ? short(line.name) + " " : "";
    if (!quiet && chart.ends !== "none") room = Math.max(room, 16 + LETTER * (name + end).length);
    series.push({
      type: "line", name: line.name, clip: true, triggerLineEvent: false, z: quiet ? 2 : 3,
      lineStyle: { color, width: quiet ? 1.2 : 2.1, type: dash }, itemStyle: { color },
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
  series.push(...marks(chart, colours));
  const xs = chart.series.flatMap((line) => line.x);
  const first = chart.xunit ? 0 : Math.min(...xs), last = Math.max(...xs);
  return {
    series, room,
    xAxis: flatAxis(colours, chart.xname, chart.xunit ?? { suffix: "", whole: true }, {
      type: "value", min: first === 1 && last > 1 ? 0 : first, max: chart.xunit ? null : last > first ? last : first + 1,
      splitNumber: roomy ? 5 : 3, ...(chart.xunit ? {} : { minInterval: 1 }),
    }),
    yAxis: [valueAxis(chart, colours, values), { type: "value", min: 0, max: 1, show: false }],
  };
};

// A band is the closed outline of a line there and back, one for each stretch without a gap.
const outlines = (chart, band, colours) => {
  const stretches = [[]];
  band.x.forEach((x, i) => {
    if (band.low[i] === null || band.high[i] === null || (chart.log && band.low[i] <= 0)) stretches.push([]);
    else stretches[stretches.length - 1].push([x, band.low[i], band.high[i]]);
  });
  const owner = chart.series.find((line) => line.style === band.style);
  return stretches.filter((points) => points.length > 1).map((points) => ({
    type: "line", name: owner?.name, silent: true, symbol: "none", z: 1, tooltip: { show: false },
    lineStyle: { width: 0 }, itemStyle: { color: colours.styles[band.style].color },
    areaStyle: { color: colours.styles[band.style].color, opacity: Number(colours.veil) },
    data: [...points.map(([x, low]) => [x, low]), ...points.toReversed().map(([x, , high]) => [x, high])],
  }));
};

// What happened beside training stands on the axis, a sign for each kind.
const marks = (chart, colours) =>
  Object.keys(SYMBOLS).map((kind) => ({
    type: "scatter", name: kind, yAxisIndex: 1, silent: true, symbol: SYMBOLS[kind], z: 5, clip: true,
    symbolSize: 8, symbolRotate: kind === "resumed" ? -90 : 0, tooltip: { show: false },
    itemStyle: { color: colours.ink },
    data: chart.events.filter((event) => event.kind === kind).map((event) => [event.round, 0]),
  })).filter((series) => series.data.length);

const barChart = (chart, colours) => {
  const sums = chart.heads.map((_, i) => chart.series.reduce((sum, part) => sum + (part.y[i] ?? 0), 0));
  return {
    room: 16,
    xAxis: flatAxis(colours, chart.xname, {}, { type: "category", data: chart.heads, axisTick: { show: false } }),
    yAxis: [valueAxis({ ...chart, zero: true, limits: [0, null] }, colours, sums)],
    series: chart.series.map((part) => ({
      type: "bar", stack: "all", name: part.name, data: part.y,
      barCategoryGap: chart.heads.length > 60 ? "0%" : "20%",
      itemStyle: { color: colours.styles[part.style].color, opacity: part.style === "base" ? 0.45 : 0.82 },
    })),
  };
};

const pairChart = (chart, colours) => {
  const [after, before] = chart.series.map((side) => side.y);
  const worse = (i) => before[i] !== null && after[i] !== null && after[i] < before[i];
  const { color } = colours.styles["0"], orange = colours.styles["1"].color, grey = colours.styles.base.color;
  const stem = { type: "bar", stack: "stem", barWidth: 1.6, silent: true, tooltip: { show: false } };
  const whole = before.map((_, i) => before[i] !== null && after[i] !== null);
  return {
    room: 8,
    xAxis: flatAxis(colours, chart.xname, {}, {
      type: "category", data: chart.heads, axisTick: { show: false }, axisLabel: { show: false }, nameGap: 10,
    }),
    yAxis: [valueAxis(chart, colours, finite([...after, ...before]))],
    series: [
      { ...stem, name: "base", itemStyle: { color: "transparent" },
        data: whole.map((there, i) => (there ? Math.min(before[i], after[i]) : null)) },
      { ...stem, name: "stem", data: whole.map((there, i) => ({
          value: there ? Math.abs(after[i] - before[i]) : null,
          itemStyle: { color: worse(i) ? orange : color, opacity: 0.45 } })) },
      { type: "scatter", name: "before", symbolSize: 7.4, data: before,
        itemStyle: { color: colours.paper, borderColor: grey, borderWidth: 1.4 } },
      { type: "scatter", name: "after", symbolSize: 7.4,
        data: after.map((value, i) => ({ value, itemStyle: { color: worse(i) ? orange : color } })) },
    ],
  };
};

// Rows of dots, those of nearly equal value on top of each other; the mean and its error below.
const stripChart = (chart, colours) => {
  const values = [0, ...finite(chart.strips.flatMap((strip) => strip.values))];
  const low = Math.min(...values), bin = (Math.max(...values) - low || 1) / 70;
  const series = chart.strips.flatMap((strip, row) => {
    const { color } = colours.styles[strip.style], columns = {};
    const order = strip.values.map((_, i) => i).filter((i) => strip.values[i] !== null);
    order.sort((a, b) => strip.values[a] - strip.values[b]);
    for (const i of order) (columns[Math.round((strip.values[i] - low) / bin)] ??= []).push(i);
    const gap = Math.min(0.075, 0.55 / Math.max(...Object.values(columns).map((column) => column.length - 1), 1));
    const dots = Object.values(columns).flatMap((column) =>
      column.map((i, level) => ({
        value: [strip.values[i], row + 0.76 - gap * level], name: `client ${strip.subjects[i]}`,
      })));
    if (strip.mean === null) return [];
    const ends = strip.error === null ? [] : [-1, 1].map((side) => ({ coord: [strip.mean + side * 1.96 * strip.error, row + 0.9] }));
    return [
      { type: "scatter", name: strip.name, symbolSize: 7.4, data: dots, itemStyle: { color, opacity: 0.6 } },
      { type: "scatter", name: strip.name, symbolSize: 7.4, itemStyle: { color },
        data: [{ value: [strip.mean, row + 0.9], name: "mean" }],
        markLine: { silent: true, symbol: "none", animation: false, label: { show: false },
          lineStyle: { color, width: 2, type: "solid" }, data: ends.length ? [ends] : [] } },
      { type: "scatter", name: strip.name, silent: true, symbolSize: 0, data: [[low, row + 0.1]],
        label: { show: true, position: "right", distance: 0, color, fontSize: 12.5,
          formatter: `${short(strip.name)} {value|${signedOf(strip.mean, chart.unit)}}`,
          textBorderColor: colours.paper, textBorderWidth: 4,
          rich: { value: { color, fontWeight: 600, fontSize: 12.5, textBorderColor: colours.paper, textBorderWidth: 4 } } } },
    ];
  });
  series[0]?.type && (series[0].markLine = { silent: true, symbol: "none", label: { show: false },
    lineStyle: { color: colours.quiet, type: "solid", width: 1 }, data: [{ xAxis: 0 }] });
  return {
    room: 20, series,
    xAxis: flatAxis(colours, "", { suffix: "" }, { type: "value", scale: true }),
    yAxis: [{ type: "value", min: 0, max: chart.strips.length, inverse: true, show: false }],
  };
};

const KINDS = { lines: lineChart, bars: barChart, pairs: pairChart, strips: stripChart };

// The words of a tooltip at one place of the horizontal axis.
const rowsAt = (chart, x, hidden) => {
  const column = (list) => (chart.kind === "lines" ? list.x.indexOf(x) : x);
  const rows = [];
  for (const line of chart.series) {
    const at = column(line);
    if (at < 0 || hidden.has(line.name) || (chart.kind === "bars" && line.y[at] === null)) continue;
    rows.push([line.name, line.style, textOf(line.y[at], chart.unit)]);
  }
  for (const band of chart.bands) {
    const at = column(band), owner = chart.series.find((line) => line.style === band.style);
    if (at < 0 || band.low[at] === null || hidden.has(owner?.name)) continue;
    const [low, high] = [band.low[at], band.high[at]].map((value) => textOf(value, chart.unit));
    rows.push([band.name, band.style, `${low} to ${high}`]);
  }
  for (const event of chart.events) if (event.round === x) rows.push([SIGNS[event.kind] + " " + event.kind, "base", ""]);
  return rows;
};

const words = (head, rows) => {
  const tip = document.createElement("div");
  tip.className = "tip";
  const add = (parent, tag, text, style) => {
    const element = parent.appendChild(document.createElement(tag));
    element.textContent = text;
    if (style !== undefined) element.className = "s" + style;
    return element;
  };
  add(tip, "b", head);
  for (const [name, style, value] of rows) {
    const line = add(tip, "span", "");
    add(line, "i", name, style);
    add(line, "em", value);
  }
  return tip;
};

const optionOf = (chart, colours, roomy, hidden) => {
  const { room, ...drawn } = KINDS[chart.kind](chart, colours, roomy);
  const axis = chart.kind !== "strips";
  return {
    ...drawn,
    animation: false,
    textStyle: { fontFamily: colours.font },
    grid: { left: 4, right: room, top: 10, bottom: axis ? 22 : 4, containLabel: true },
    legend: { show: false, selected: Object.fromEntries([...hidden].map((name) => [name, false])) },
    axisPointer: { lineStyle: { color: colours.quiet, type: "solid" } },
    tooltip: {
      trigger: axis ? "axis" : "item", confine: true, transitionDuration: 0, padding: 0, borderWidth: 0,
      backgroundColor: "transparent", extraCssText: "box-shadow:none",
      axisPointer: { type: "line", snap: true },
      formatter: (params) => {
        if (!axis) return words(params.name, [[params.seriesName, "base", signedOf(params.value[0], chart.unit)]]);
        const [{ axisValue, dataIndex }] = params;
        if (chart.kind === "pairs") return words(chart.heads[dataIndex], rowsAt(chart, dataIndex, hidden));
        if (chart.kind === "bars") return words("round " + chart.heads[dataIndex], rowsAt(chart, dataIndex, hidden));
        const head = chart.xunit ? textOf(axisValue, chart.xunit) : `${chart.xname} ${axisValue}`;
        return words(head, rowsAt(chart, axisValue, hidden));
      },
    },
    toolbox: { top: -40, feature: { dataZoom: { yAxisIndex: "none", filterMode: "filter", brushStyle: { color: colours.line, opacity: 0.25 } } } },
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
  const draw = (merge, picture = false) => {
    const fresh = optionOf(chart, palette(picture), roomy, hidden);
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
  figure.draw = (picture) => draw(true, picture);
  figure.update = (text) => {
    chart = JSON.parse(source.textContent = text);
    draw(true);
  };
  figure.toggle = (name, on) => {
    on ? hidden.delete(name) : hidden.add(name);
    drawn.dispatchAction({ type: on ? "legendSelect" : "legendUnSelect", name });
  };
  figure.querySelectorAll(".legend button").forEach((entry) => listen(entry, [figure]));
  const kinds = [...new Set(chart.events.map((event) => event.kind))];
  const events = figure.querySelector(".events");
  const said = kinds.map((kind) => `${SIGNS[kind]} ${kind}`.replaceAll(" ", NBSP));
  if (events) events.textContent = said.join("   ");

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
  const option = optionOf(chart, palette(true), true, hidden);
  const legend = { show: true, top: 0, data: chart.series.map((line) => line.name) };
  drawn.setOption({ ...option, legend, grid: { ...option.grid, top: 40 }, toolbox: undefined, tooltip: undefined });
  if (chart.kind === "lines") drawn.setOption({ series: spread(drawn, option.series) });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([drawn.renderToSVGString()], { type: "image/svg+xml" }));
  link.download = chart.title.replace(/[^\p{L}\p{N}]+/gu, "-").toLowerCase() + ".svg";
  link.click();
  URL.revokeObjectURL(link.href);
  drawn.dispose();
};

function prepareCharts(within) {
  within.querySelectorAll(".chart").forEach((figure) => figure.chart || prepareChart(figure));
  within.querySelectorAll(".legend.shared button").forEach((entry) =>
    listen(entry, [...entry.closest("section").querySelectorAll(".chart")]));
}
const redraw = (picture) => document.querySelectorAll(".chart").forEach((figure) => figure.draw(picture));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw(false));
// On paper a chart has dark lines, and is as wide as the paper.
addEventListener("beforeprint", () => {
  redraw(true);
  for (const drawn of document.querySelectorAll(".plot svg")) {
    drawn.setAttribute("viewBox", `0 0 ${drawn.getAttribute("width")} ${drawn.getAttribute("height")}`);
  }
});
addEventListener("afterprint", () => {
  document.querySelectorAll(".plot svg").forEach((drawn) => drawn.removeAttribute("viewBox"));
  redraw(false);
});
