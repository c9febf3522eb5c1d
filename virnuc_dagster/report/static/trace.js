// Score along one sequence: every window at its place, P(virus) and P(others); gaps are hatched.

const TRACE = { height: 230, top: 12, left: 44, right: 16, plot: 150 };

class Trace {
  constructor(data) {
    this.data = data;
    this.zoom = 1;
    this.panel = document.getElementById("trace");
    this.scroll = document.getElementById("trace-scroll");
    document.getElementById("closer").addEventListener("click", () => this.zoomTo(this.zoom * 2));
    document.getElementById("wider").addEventListener("click", () => this.zoomTo(this.zoom / 2));
    new ResizeObserver(() => this.draw()).observe(this.panel);
    this.legend();
  }

  async show(row) {
    this.row = row;
    this.zoom = 1;
    this.windows = undefined; // not drawn until they are unpacked
    const windows = await windowsOf(this.data, row);
    if (this.row !== row) return;
    this.windows = windows;
    this.draw();
  }

  zoomTo(zoom) {
    const middle = (this.scroll.scrollLeft + this.scroll.clientWidth / 2) / this.scroll.scrollWidth;
    this.zoom = Math.min(64, Math.max(1, zoom));
    this.draw();
    this.scroll.scrollLeft = middle * this.scroll.scrollWidth - this.scroll.clientWidth / 2;
  }

  draw() {
    const { data, row } = this;
    if (row === undefined || this.windows === undefined) return;
    const verdict = verdictOf(data, row);
    const facts = [
      `${grouped.format(data.length[row])} bases`,
      ...(data.unknown[row] ? [`${unknownText(data.unknown[row], data.length[row])} unknown`] : []),
      `${grouped.format(data.scored[row])} of ${grouped.format(data.windows[row])} windows with open frames`,
      ...(data.fallback[row] ? [`${grouped.format(data.fallback[row])} scored by the fallback`] : []),
      `score ${scoreText(data.score[row])}`,
    ];
    const why = reasonOf(data, row);
    this.panel.querySelector("h3").textContent = data.facts.ids[row];
    this.panel.querySelector("header").replaceChildren(
      this.panel.querySelector("h3"), make("span", `chip ${cssClass(verdict)}`, why ? `${verdict}: ${why}` : verdict), ...facts.map((t) => make("span", "note", t)),
    );
    if (!this.windows?.length) {
      const note = this.windows ? "This sequence has no window." : "Its windows are not in this page (see the limits below); they are in windows.tsv.";
      this.scroll.replaceChildren(make("p", "note", note));
      return;
    }
    const width = Math.max(300, (this.panel.clientWidth || 900) - 34) * this.zoom;
    const picture = drawn("svg", { width, height: TRACE.height, role: "img", "aria-label": this.description() });
    this.frame(picture, width);
    this.bars(picture, width);
    this.scroll.replaceChildren(picture);
  }

  description() {
    const scored = this.windows.filter((w) => w.counted);
    const high = scored.filter((w) => w.virus >= w.others).length;
    return `Scores along ${this.data.facts.ids[this.row]}: ${scored.length} of ${this.windows.length} windows scored, ${high} lean to virus`;
  }

  x(base, width) {
    return TRACE.left + ((width - TRACE.left - TRACE.right) * base) / this.data.length[this.row];
  }

  y(value) {
    return TRACE.top + TRACE.plot * (1 - value);
  }

  frame(picture, width) {
    for (const value of [0, 0.25, 0.5, 0.75, 1]) {
      const y = this.y(value);
      picture.append(
        drawn("line", { x1: TRACE.left, x2: width - TRACE.right, y1: y, y2: y, stroke: colour("line"), "stroke-dasharray": value === 0.5 ? "4 3" : "none" }),
        drawn("text", { x: TRACE.left - 6, y: y + 4, "text-anchor": "end" }, value),
      );
    }
    const length = this.data.length[this.row];
    const step = niceStep(length / Math.max(2, Math.floor(width / 130)));
    for (let base = 0; base <= length; base += step) {
      const x = this.x(base, width);
      picture.append(
        drawn("line", { x1: x, x2: x, y1: TRACE.top + TRACE.plot + 20, y2: TRACE.top + TRACE.plot + 25, stroke: colour("quiet") }),
        drawn("text", { x: Math.min(x, width - 4), y: TRACE.top + TRACE.plot + 39, "text-anchor": base ? (x > width - 60 ? "end" : "middle") : "start" }, grouped.format(base)),
      );
    }
    picture.append(drawn("text", { x: width - TRACE.right, y: TRACE.height - 6, "text-anchor": "end" }, "position (bases)"));
    picture.append(hatching());
  }

  bars(picture, width) {
    const paths = { gap: "", lost: "", frame: "", fallback: "", unknown: "" };
    const lines = { virus: "", others: "", weakVirus: "", weakOthers: "" };
    const strip = TRACE.top + TRACE.plot + 6;
    for (const w of this.windows) {
      const x = this.x(w.start, width);
      const wide = Math.max(1, this.x(w.end, width) - x);
      const box = `M${x.toFixed(1)} ${strip}h${wide.toFixed(1)}v10h-${wide.toFixed(1)}z`;
      if (w.virus === null) {
        paths[w.source === "missing" ? "lost" : "gap"] += box;
        continue;
      }
      if (!w.counted) {
        paths.unknown += box;
        continue;
      }
      const weak = w.source === "fallback";
      paths[weak ? "fallback" : "frame"] += box;
      const at = (value) => `M${x.toFixed(1)} ${this.y(value).toFixed(1)}h${wide.toFixed(1)}`;
      lines[weak ? "weakVirus" : "virus"] += at(w.virus);
      lines[weak ? "weakOthers" : "others"] += at(w.others);
    }
    const path = (d, attributes) => d && picture.append(drawn("path", { d, ...attributes }));
    path(paths.gap, { fill: "url(#hatch)" });
    path(paths.unknown, { fill: "url(#unknown)" });
    path(paths.lost, { fill: colour("incomplete") });
    path(paths.frame, { fill: colour("quiet") });
    path(paths.fallback, { fill: "none", stroke: colour("quiet") });
    path(lines.others, { stroke: colour("non-viral"), "stroke-width": 3, fill: "none" });
    path(lines.virus, { stroke: colour("viral"), "stroke-width": 3, fill: "none" });
    path(lines.weakOthers, { stroke: colour("non-viral"), "stroke-width": 1.5, "stroke-dasharray": "3 2", fill: "none" });
    path(lines.weakVirus, { stroke: colour("viral"), "stroke-width": 1.5, "stroke-dasharray": "3 2", fill: "none" });
  }

  legend() {
    const sample = (attributes) => {
      const picture = drawn("svg", { width: 26, height: 10, "aria-hidden": "true" });
      picture.append(drawn("path", { d: "M1 5h24", "stroke-width": 3, fill: "none", ...attributes }));
      return picture;
    };
    const box = (attributes) => {
      const picture = drawn("svg", { width: 26, height: 10, "aria-hidden": "true" });
      picture.append(drawn("rect", { x: 1, y: 1, width: 24, height: 8, ...attributes }));
      return picture;
    };
    const entries = [
      [sample({ stroke: "var(--viral)" }), "P(virus), best frame"],
      [sample({ stroke: "var(--non-viral)" }), "P(others), best frame"],
      [box({ fill: "var(--quiet)" }), "open frames, scored"],
      [box({ fill: "url(#hatch)" }), "not scored"],
    ];
    if (this.data.facts.fallback) {
      entries.splice(3, 0, [box({ fill: "none", stroke: "var(--quiet)" }), "scored by the fallback (thin, dashed)"]);
    }
    if (this.data.facts.uncounted) entries.push([box({ fill: "url(#unknown)" }), "too little known, does not count"]);
    if (this.data.facts.incomplete) entries.push([box({ fill: "var(--incomplete)" }), "result missing"]);
    document.getElementById("trace-legend").replaceChildren(...entries.map(([picture, text]) => make("span", "", null, picture, text)));
  }
}

function hatching() {
  const definitions = drawn("defs", {});
  for (const [id, angle, ink] of [["hatch", 45, "none"], ["unknown", -45, "uncertain"]]) {
    const pattern = drawn("pattern", { id, width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: `rotate(${angle})` });
    pattern.append(drawn("rect", { width: 5, height: 5, fill: colour("soft") }), drawn("line", { x1: 0, y1: 0, x2: 0, y2: 5, stroke: colour(ink), "stroke-width": 1.6 }));
    definitions.append(pattern);
  }
  return definitions;
}

function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, rough)));
  return power * ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10);
}
