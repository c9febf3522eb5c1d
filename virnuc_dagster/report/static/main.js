// Puts the page together once its data is unpacked.

function legendOf(id, verdicts) {
  const entries = verdicts.map((verdict) => make("span", `chip ${cssClass(verdict)}`, verdict));
  document.getElementById(id).replaceChildren(...entries);
}

async function start() {
  const data = await unpack("sequences-data");
  document.documentElement.classList.add("live");
  const trace = new Trace(data);
  const table = new SequenceTable(data, (row) => trace.show(row));
  const pick = (row) => table.select(row, true);
  const figures = [lengthFigure(data, pick)];
  if (data.mapX.length) figures.push(mapFigure(data, pick));
  histogramFigure(data.facts);
  const present = [...new Set(data.verdict)].sort().map((code) => data.facts.verdicts[code]);
  legendOf("length-legend", present);
  if (data.mapX.length) legendOf("map-legend", [...new Set(data.mapVerdict)].sort().map((code) => data.facts.verdicts[code]));
  if (table.shown.length) table.select(table.shown[0]);
  const redraw = () => (figures.forEach((figure) => figure.draw()), trace.draw());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  matchMedia("print").addEventListener("change", redraw);
  document.documentElement.dataset.ready = "yes";
}

start().catch((error) => {
  const message = make("p", "stop", `The interactive part of this page could not start (${error.message}). It needs a browser of 2023 or newer; all results are in the tables beside this page.`);
  document.querySelector("h1").after(message);
  console.error(error);
});
