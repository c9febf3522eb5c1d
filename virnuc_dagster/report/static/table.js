// The table of sequences: only the rows in sight exist; search, filter and sort work on arrays of row numbers.

const ROW_HEIGHT = 34;
const SPARE_ROWS = 8;
const KEYS = {
  number: (data) => data.number,
  length: (data) => data.length,
  unknown: (data) => Float64Array.from(data.unknown, (bases, row) => (data.length[row] ? bases / data.length[row] : 0)),
  scored: (data) => Float64Array.from(data.scored, (n, row) => (data.windows[row] ? (n + data.fallback[row]) / data.windows[row] : -1)),
  score: (data) => Float64Array.from(data.score, (code) => (code === NONE ? -1 : code)),
  verdict: (data, rank) => Uint8Array.from(data.verdict, (code) => rank[code]),
};

class SequenceTable {
  constructor(data, onSelect) {
    this.data = data;
    this.onSelect = onSelect;
    this.lower = data.facts.ids.map((id) => id.toLowerCase());
    this.grid = document.getElementById("grid");
    this.body = this.grid.querySelector("tbody");
    this.count = document.getElementById("count");
    this.search = document.getElementById("search");
    this.filter = document.getElementById("verdict");
    this.sort = { key: "verdict", descending: false };
    this.rank = data.facts.verdicts.map((verdict) => data.facts.order.indexOf(verdict));
    this.selected = -1;
    this.keys = new Map();
    this.grid.addEventListener("scroll", () => this.draw());
    this.search.addEventListener("input", () => this.update());
    this.filter.addEventListener("change", () => this.update());
    for (const heading of this.grid.querySelectorAll("th[data-key]")) {
      heading.querySelector("button").addEventListener("click", () => this.sortBy(heading.dataset.key));
    }
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr[data-row]");
      if (row) this.select(Number(row.dataset.row));
    });
    this.grid.addEventListener("keydown", (event) => this.onKey(event));
    new ResizeObserver(() => this.draw()).observe(this.grid);
    this.update();
  }

  sortBy(key) {
    const textual = ["id", "number", "verdict"].includes(key);
    this.sort = { key, descending: this.sort.key === key ? !this.sort.descending : !textual };
    this.update();
  }

  update() {
    const { lower, data } = this;
    const wanted = this.search.value.trim().toLowerCase();
    const verdict = data.facts.verdicts.indexOf(this.filter.value);
    const rows = [];
    for (let row = 0; row < lower.length; row++) {
      if ((verdict < 0 || data.verdict[row] === verdict) && (!wanted || lower[row].includes(wanted))) rows.push(row);
    }
    this.shown = Uint32Array.from(rows);
    this.order();
    for (const heading of this.grid.querySelectorAll("th[data-key]")) {
      const direction = this.sort.descending ? "descending" : "ascending";
      heading.setAttribute("aria-sort", heading.dataset.key === this.sort.key ? direction : "none");
    }
    this.count.textContent = `${grouped.format(this.shown.length)} of ${grouped.format(lower.length)} sequences`;
    this.grid.classList.toggle("short", this.shown.length < 10);
    this.grid.firstElementChild.setAttribute("aria-rowcount", this.shown.length + 1);
    this.grid.scrollTop = 0;
    this.draw();
  }

  order() {
    const sign = this.sort.descending ? -1 : 1;
    const name = this.sort.key;
    if (name === "id") {
      this.places ??= rankTexts(this.data.facts.ids);
      this.keys.set("id", this.places);
    } else if (!this.keys.has(name)) this.keys.set(name, KEYS[name](this.data, this.rank));
    const key = this.keys.get(name);
    this.keys.set("score", this.keys.get("score") ?? KEYS.score(this.data));
    const score = this.keys.get("score");
    this.shown.sort((a, b) => sign * (key[a] - key[b]) || score[b] - score[a] || a - b);
  }

  draw() {
    const first = Math.max(0, Math.floor(this.grid.scrollTop / ROW_HEIGHT) - SPARE_ROWS);
    const inSight = Math.ceil((this.grid.clientHeight || 400) / ROW_HEIGHT) + 2 * SPARE_ROWS;
    const last = Math.min(this.shown.length, first + inSight);
    const rows = [spacer(first * ROW_HEIGHT)];
    for (let place = first; place < last; place++) rows.push(this.row(place));
    rows.push(spacer((this.shown.length - last) * ROW_HEIGHT));
    if (!this.shown.length) rows.splice(1, 0, make("tr", "", null, make("td", "note", "No sequence fits.")));
    const focused = this.body.contains(document.activeElement);
    this.body.replaceChildren(...rows);
    if (focused) this.body.querySelector(`tr[data-row="${this.selected}"]`)?.focus({ preventScroll: true });
  }

  row(place) {
    const { data } = this;
    const row = this.shown[place];
    const verdict = verdictOf(data, row);
    const id = make("td", "id", data.facts.ids[row]);
    id.title = data.facts.ids[row];
    const why = reasonOf(data, row);
    const windows = data.windows[row];
    const both = data.scored[row] + data.fallback[row];
    const scored = make("td", "n", `${grouped.format(both)} / ${grouped.format(windows)}`, meter(data.scored[row] / windows || 0, data.fallback[row] / windows || 0));
    if (data.fallback[row]) scored.title = `${data.scored[row]} with open frames, ${data.fallback[row]} by the fallback`;
    const element = make(
      "tr", "", null,
      make("td", "n", grouped.format(data.number[row] + 1)),
      id,
      make("td", "n", grouped.format(data.length[row])),
      make("td", "n", unknownText(data.unknown[row], data.length[row])),
      scored,
      make("td", "n", scoreText(data.score[row]), meter(data.score[row] === NONE ? 0 : data.score[row] / 1e6)),
      make("td", "", null, make("span", `chip ${cssClass(verdict)}`, verdict), ...(why ? [make("small", "", why)] : [])),
    );
    element.dataset.row = row;
    element.tabIndex = row === this.selected || (this.selected < 0 && place === 0) ? 0 : -1;
    element.setAttribute("aria-rowindex", place + 2);
    element.setAttribute("aria-selected", row === this.selected);
    return element;
  }

  select(row, reveal = false) {
    this.selected = row;
    if (reveal) {
      if (!this.shown.includes(row)) {
        this.search.value = this.filter.value = "";
        this.update();
      }
      this.grid.scrollTop = (this.shown.indexOf(row) - 3) * ROW_HEIGHT;
    }
    this.draw();
    this.onSelect(row);
  }

  onKey(event) {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[event.key];
    if (!step || !event.target.closest("tbody") || !this.shown.length) return;
    event.preventDefault();
    const place = Math.min(this.shown.length - 1, Math.max(0, this.shown.indexOf(this.selected) + step));
    const top = place * ROW_HEIGHT;
    if (top < this.grid.scrollTop) this.grid.scrollTop = top;
    const bottom = this.grid.scrollTop + this.grid.clientHeight - 2 * ROW_HEIGHT;
    if (top > bottom) this.grid.scrollTop = top - this.grid.clientHeight + 3 * ROW_HEIGHT;
    this.select(this.shown[place]);
    this.body.querySelector(`tr[data-row="${this.selected}"]`)?.focus({ preventScroll: true });
  }
}

function rankTexts(texts) {
  const order = Uint32Array.from(texts, (_, row) => row).sort((a, b) => (texts[a] < texts[b] ? -1 : texts[a] > texts[b] ? 1 : a - b));
  const places = new Uint32Array(texts.length);
  order.forEach((row, place) => (places[row] = place));
  return places;
}

function spacer(height) {
  const cell = make("td", "");
  cell.colSpan = 7;
  cell.style.height = `${height}px`;
  const row = make("tr", "spacer", null, cell);
  row.setAttribute("aria-hidden", "true");
  return row;
}

// A bar of one or two parts; the second is paler.
function meter(...shares) {
  const bar = make("span", "meter");
  for (const share of shares) {
    const part = make("i", "");
    part.style.width = `${(share * 100).toFixed(1)}%`;
    bar.append(part);
  }
  return bar;
}
