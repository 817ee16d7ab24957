// Gives a chart its tooltip; `figure.shown` is the index of the point that it shows, or undefined.
function prepareChart(figure) {
  const source = figure.querySelector("script");
  if (!source) return;
  const tips = JSON.parse(source.textContent);
  const plot = figure.querySelector(".plot");
  const rule = figure.querySelector(".rule");
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.setAttribute("role", "status");
  tip.hidden = true;
  figure.append(tip);
  plot.tabIndex = 0;
  let at = -1;

  const add = (parent, tag, text, style) => {
    const element = parent.appendChild(document.createElement(tag));
    element.textContent = text;
    if (style !== undefined) element.className = "s" + style;
    return element;
  };
  const hide = () => {
    tip.hidden = true;
    figure.shown = undefined;
    rule.style.visibility = "hidden";
  };
  const show = (index) => {
    at = figure.shown = index;
    tip.replaceChildren();
    add(tip, "b", tips.heads[at]);
    for (const row of tips.rows) {
      if (!row.values[at]) continue;
      const line = add(tip, "span", "");
      add(line, "i", row.name, row.style);
      add(line, "em", row.values[at]);
    }
    for (const end of ["x1", "x2"]) rule.setAttribute(end, tips.x[at] + "%");
    rule.style.visibility = "visible";
    tip.hidden = false;
    const box = plot.getBoundingClientRect();
    const frame = figure.getBoundingClientRect();
    const x = box.left - frame.left + (box.width * tips.x[at]) / 100;
    const room = frame.width - tip.offsetWidth;
    const side = x + 14 <= room ? x + 14 : x - tip.offsetWidth - 14;
    tip.style.left = Math.max(0, Math.min(side, room)) + "px";
    tip.style.top = box.top - frame.top + 8 + "px";
  };
  const nearest = (percent) => {
    let best = 0;
    tips.x.forEach((x, i) => {
      if (Math.abs(x - percent) < Math.abs(tips.x[best] - percent)) best = i;
    });
    return best;
  };
  const point = (event) => {
    const box = plot.getBoundingClientRect();
    show(nearest((100 * (event.clientX - box.left)) / box.width));
  };
  plot.addEventListener("pointermove", point);
  plot.addEventListener("pointerdown", point);
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    const last = tips.x.length - 1;
    const goal = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
    if (event.key === "Escape") hide();
    if (goal === undefined) return;
    event.preventDefault();
    show(Math.max(0, Math.min(last, goal)));
  });
  figure.show = (index) => show(Math.min(index, tips.x.length - 1));
}
