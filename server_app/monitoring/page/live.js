// Asks once a second for the parts of the page that have changed, and puts them in place.
const page = document.querySelector("main");
const link = document.querySelector(".link");
const footer = document.querySelector("footer");
const EVERY = 1000, EVERY_WHEN_LOST = 5000, TIMEOUT = 8000;
let version = Number(page.dataset.version);
let skew = Date.now() / 1000 - Number(page.dataset.now);
let heard = Date.now();
let timer;

const part = (key) => page.querySelector(`.part[data-key="${key}"]`);

const names = (figure) =>
  figure.querySelector("figcaption span").textContent +
  [...figure.querySelectorAll(".legend button")].map((entry) => `, ${entry.dataset.name}`);

// What the reader has opened, scrolled to or pointed at in a part stays as it is.
const replace = (old, html) => {
  const fresh = document.createElement("div");
  fresh.innerHTML = html;
  const both = (selector, keep) => {
    const now = fresh.querySelectorAll(selector);
    old.querySelectorAll(selector).forEach((before, i) => now[i] && keep(before, now[i]));
  };
  both("details", (before, now) => (now.open = before.open));
  const focused = [...old.querySelectorAll("summary, .plot, a, button")].indexOf(document.activeElement);
  const scrolled = [...old.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
  both(".legend button", (before, now) => {
    if (before.dataset.name === now.dataset.name) now.setAttribute("aria-pressed", before.getAttribute("aria-pressed"));
  });
  both(".chart", (before, now) => {
    if (names(before) !== names(now)) return before.chart?.dispose();
    const plot = now.querySelector(".plot");
    before.querySelector(".plot").setAttribute("aria-label", plot.getAttribute("aria-label"));
    before.update(now.querySelector("script").textContent);
    now.replaceWith(before);
  });
  old.replaceChildren(...fresh.childNodes);
  prepareCharts(old);
  old.querySelectorAll(".scroll").forEach((box, i) => (box.scrollLeft = scrolled[i] ?? 0));
  if (focused >= 0) old.querySelectorAll("summary, .plot, a, button")[focused]?.focus({ preventScroll: true });
};

const update = (news) => {
  if (news.server !== page.dataset.server) return location.reload();
  skew = Date.now() / 1000 - news.now;
  version = news.version;
  document.title = news.title;
  news.order.forEach((key, i) => {
    if (!part(key)) {
      const added = document.createElement("div");
      added.className = "part";
      added.dataset.key = key;
      page.insertBefore(added, i ? part(news.order[i - 1]).nextSibling : page.querySelector(".part") ?? footer);
    }
    if (key in news.parts) replace(part(key), news.parts[key]);
  });
  for (const old of page.querySelectorAll(".part")) {
    if (!news.order.includes(old.dataset.key)) old.remove();
  }
  link.className = news.ended ? "link over" : "link";
  link.textContent = news.ended ? "over" : "live";
};

const ask = async () => {
  clearTimeout(timer);
  try {
    const answer = await fetch(`parts?since=${version}`, {
      cache: "no-store",
      signal: AbortSignal.timeout(TIMEOUT),
    });
    if (answer.status === 401) return location.reload();
    if (!answer.ok) throw new Error(answer.statusText);
    update(await answer.json());
    heard = Date.now();
  } catch {
    const when = new Date(heard).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    link.className = "link lost";
    link.textContent = `not heard of since ${when}`;
  }
  // A page that nobody looks at asks nothing.
  if (!document.hidden) timer = setTimeout(ask, link.classList.contains("lost") ? EVERY_WHEN_LOST : EVERY);
};

const two = (number) => String(number).padStart(2, "0");
const elapsed = (amount) => {
  const seconds = Math.max(0, Math.floor(amount));
  const minutes = Math.floor(seconds / 60), hours = Math.floor(minutes / 60);
  if (hours) return `${hours}\u00a0h ${two(minutes % 60)}\u00a0min`;
  return minutes ? `${minutes}\u00a0min ${two(seconds % 60)}\u00a0s` : `${seconds}\u00a0s`;
};

const tick = () => {
  const now = Date.now() / 1000 - skew;
  for (const time of page.querySelectorAll("time[data-since]")) {
    const text = elapsed(now - Number(time.dataset.since));
    if (time.textContent !== text) time.textContent = text;
  }
};

prepareCharts(document);
document.addEventListener("visibilitychange", () => !document.hidden && ask());
link.hidden = false;
setInterval(tick, 1000);
tick();
ask();
