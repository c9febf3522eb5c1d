// Figures of the whole batch: score distribution, length against score, and the map of the embeddings.

const SHAPES = {
  viral: (pen, x, y, r) => pen.arc(x, y, r, 0, 7),
  "non-viral": (pen, x, y, r) => pen.rect(x - r * 0.9, y - r * 0.9, r * 1.8, r * 1.8),
  uncertain: (pen, x, y, r) => (pen.moveTo(x, y - r * 1.2), pen.lineTo(x + r * 1.2, y + r), pen.lineTo(x - r * 1.2, y + r), pen.closePath()),
};
const MARGIN = { left: 48, right: 20, top: 10, bottom: 38 };

// A scatter plot on a canvas; points are {x, y, row, verdict} with x and y in 0..1 of the plot's box.
class Scatter {
  constructor(id, points, axes, label, onPick) {
    this.canvas = document.getElementById(id);
    this.points = points;
    this.axes = axes;
    this.label = label;
    this.tip = make("div", "tip");
    this.tip.hidden = true;
    this.canvas.after(this.tip);
    this.canvas.addEventListener("pointermove", (event) => this.onMove(event));
    this.canvas.addEventListener("pointerleave", () => (this.tip.hidden = true));
    this.canvas.addEventListener("click", (event) => {
      const point = this.nearest(event);
      if (point && point.row >= 0) onPick(point.row);
    });
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  place(point) {
    return [
      MARGIN.left + point.x * (this.width - MARGIN.left - MARGIN.right),
      MARGIN.top + (1 - point.y) * (this.height - MARGIN.top - MARGIN.bottom),
    ];
  }

  draw() {
    const sharp = window.devicePixelRatio || 1;
    this.width = this.canvas.clientWidth;
    this.height = this.canvas.clientHeight;
    if (!this.width) return;
    this.canvas.width = this.width * sharp;
    this.canvas.height = this.height * sharp;
    const pen = this.canvas.getContext("2d");
    pen.scale(sharp, sharp);
    this.drawAxes(pen);
    const radius = this.points.length > 20000 ? 1.6 : this.points.length > 2000 ? 2.4 : 4;
    pen.globalAlpha = this.points.length > 2000 ? 0.45 : 0.8;
    const names = [...new Set(this.points.map((point) => point.verdict))];
    for (const verdict of names) {
      pen.fillStyle = colour(VERDICT_COLOUR[verdict]);
      const shape = SHAPES[verdict] ?? SHAPES.viral;
      for (const point of this.points) {
        if (point.verdict !== verdict) continue;
        pen.beginPath();
        shape(pen, ...this.place(point), radius);
        pen.fill();
      }
    }
    pen.globalAlpha = 1;
  }

  drawAxes(pen) {
    const { x, y } = this.axes;
    pen.font = "12px system-ui, sans-serif";
    pen.fillStyle = colour("quiet");
    pen.strokeStyle = colour("line");
    pen.lineWidth = 1;
    for (const { at, label, dashed } of y.ticks) {
      const [left, top] = this.place({ x: 0, y: at });
      pen.setLineDash(dashed ? [4, 3] : []);
      pen.beginPath();
      pen.moveTo(left, top);
      pen.lineTo(this.width - MARGIN.right, top);
      pen.stroke();
      pen.textAlign = "right";
      pen.fillText(label, left - 6, top + 4);
    }
    pen.setLineDash([]);
    pen.textAlign = "center";
    for (const { at, label } of x.ticks) pen.fillText(label, this.place({ x: at, y: 0 })[0], this.height - 22);
    pen.fillText(x.title, MARGIN.left + (this.width - MARGIN.left - MARGIN.right) / 2, this.height - 5);
    pen.save();
    pen.translate(11, MARGIN.top + (this.height - MARGIN.top - MARGIN.bottom) / 2);
    pen.rotate(-Math.PI / 2);
    pen.fillText(y.title, 0, 0);
    pen.restore();
  }

  nearest(event) {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let best = null;
    let least = 14 ** 2;
    for (const point of this.points) {
      const [px, py] = this.place(point);
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least) [best, least] = [point, distance];
    }
    return best;
  }

  onMove(event) {
    const point = this.nearest(event);
    this.tip.hidden = !point;
    this.canvas.style.cursor = point && point.row >= 0 ? "pointer" : "default";
    if (!point) return;
    const [x, y] = this.place(point);
    this.tip.textContent = this.label(point);
    this.tip.style.left = `${Math.min(x + 14, this.width - 120)}px`;
    this.tip.style.top = `${y + this.canvas.offsetTop - 30}px`;
  }
}

function lengthFigure(data, onPick) {
  const logs = Float64Array.from(data.length, (bases) => Math.log10(Math.max(1, bases)));
  let [low, high] = [Infinity, -Infinity];
  for (const value of logs) [low, high] = [Math.min(low, value), Math.max(high, value)];
  [low, high] = [Math.floor(low), Math.max(Math.ceil(high), Math.floor(low) + 1)];
  const points = [];
  data.score.forEach((code, row) => {
    const scored = code !== NONE;
    const verdict = verdictOf(data, row);
    points.push({ x: (logs[row] - low) / (high - low), y: scored ? 0.12 + (0.88 * code) / 1e6 : 0.03, row, verdict });
  });
  const label = ({ row }) => `${data.facts.ids[row]}: ${grouped.format(data.length[row])} bases, ${scoreText(data.score[row])}`;
  const decades = Array.from({ length: high - low + 1 }, (_, i) => ({ at: i / (high - low), label: short(10 ** (low + i)) }));
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((value) => ({ at: 0.12 + 0.88 * value, label: String(value), dashed: value === 0.5 }));
  ticks.push({ at: 0.03, label: "NA" });
  return new Scatter("lengths", points, { x: { ticks: decades, title: "bases" }, y: { ticks, title: "score" } }, label, onPick);
}

function mapFigure(data, onPick) {
  const rows = new Map();
  data.number.forEach((number, row) => rows.set(number, row));
  const points = Array.from(data.mapSequence, (number, i) => {
    const row = rows.get(number) ?? -1;
    const verdict = data.facts.verdicts[data.mapVerdict[i]];
    return { x: 0.02 + (0.96 * data.mapX[i]) / 4095, y: 0.02 + (0.96 * data.mapY[i]) / 4095, row, verdict, i };
  });
  const label = ({ row, i }) => {
    const name = row < 0 ? `sequence ${data.mapSequence[i] + 1}` : data.facts.ids[row];
    return `${name}: P(virus) ${(data.mapVirus[i] / 10000).toFixed(4)}`;
  };
  const title = (axis) => `axis ${axis + 1} (${(100 * data.facts.explained[axis]).toFixed(0)} % of the variance)`;
  return new Scatter("map", points, { x: { ticks: [], title: title(0) }, y: { ticks: [], title: title(1) } }, label, onPick);
}

function short(number) {
  return number >= 1e6 ? `${number / 1e6}M` : number >= 1e3 ? `${number / 1e3}k` : String(number);
}

// Bars of the score distribution, stacked by verdict, with the two thresholds.
function histogramFigure(facts) {
  const [width, height, left, bottom] = [420, 330, 44, 40];
  const bins = facts.bins.viral.length;
  const totals = facts.bins.viral.map((_, i) => facts.bins.viral[i] + facts.bins.uncertain[i] + facts.bins["non-viral"][i]);
  const most = Math.max(1, ...totals);
  const step = Math.max(1, niceStep(most / 4));
  const top = Math.ceil(most / step) * step;
  const x = (score) => left + (width - left - 12) * score;
  const y = (count) => height - bottom - (height - bottom - 22) * (count / top);
  const picture = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Score distribution" });
  for (let count = 0; count <= top; count += step) {
    picture.append(
      drawn("line", { x1: left, x2: width - 12, y1: y(count), y2: y(count), stroke: "var(--line)" }),
      drawn("text", { x: left - 6, y: y(count) + 4, "text-anchor": "end" }, short(count)),
    );
  }
  for (let i = 0; i < bins; i++) {
    let below = 0;
    for (const verdict of ["non-viral", "uncertain", "viral"]) {
      const count = facts.bins[verdict][i];
      if (!count) continue;
      const bar = drawn("rect", { x: x(i / bins) + 1, width: x(1 / bins) - x(0) - 2, y: y(below + count), height: Math.max(1, y(below) - y(below + count)), fill: `var(--${verdict})` });
      bar.append(drawn("title", {}, `${(i / bins).toFixed(2)} to ${((i + 1) / bins).toFixed(2)}: ${grouped.format(count)} ${verdict}`));
      picture.append(bar);
      below += count;
    }
  }
  for (const [value, name] of [[facts.thresholds.non_viral, "non-viral"], [facts.thresholds.viral, "viral"]]) {
    picture.append(
      drawn("line", { x1: x(value), x2: x(value), y1: 18, y2: height - bottom, stroke: "var(--ink)", "stroke-dasharray": "4 3" }),
      drawn("text", { x: x(value), y: 12, "text-anchor": "middle" }, name),
    );
  }
  for (const value of [0, 0.25, 0.5, 0.75, 1]) picture.append(drawn("text", { x: x(value), y: height - 22, "text-anchor": "middle" }, value));
  picture.append(drawn("text", { x: x(0.5), y: height - 5, "text-anchor": "middle" }, "score"));
  document.getElementById("histogram").replaceChildren(picture);
}
