// The page's data: a JSON header and typed arrays, zlib, base64 (report/pack.py writes it).

const NONE = 0xffffffff;
const NO_PROBABILITY = 0xffff;
const NO_REASON = 0xff;
const TYPES = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, float64: Float64Array };

async function unpack(id) {
  const text = atob(document.getElementById(id).textContent);
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = await new Response(stream).arrayBuffer();
  const size = new DataView(bytes).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 4, size)));
  const data = { facts: header.facts };
  for (const [name, { dtype, offset, length }] of Object.entries(header.columns)) {
    data[name] = new TYPES[dtype](bytes, 4 + size + offset, length);
  }
  return data;
}

// Windows are unpacked when the first sequence is looked at.
let windowsOnce;
function allWindows() {
  windowsOnce ??= unpack("windows-data");
  return windowsOnce;
}

// The windows of a row: [{start, end, others, virus, source, counted}], probabilities in 0..1 or null; null if not in
// the page.
async function windowsOf(data, row) {
  if (data.trace[row] === NONE) return null;
  const all = await allWindows();
  const windows = [];
  let start = 0;
  for (let i = data.trace[row]; i < data.trace[row] + data.windows[row]; i++) {
    start += all.step[i];
    windows.push({
      start,
      end: start + all.span[i],
      others: probability(all.others[i]),
      virus: probability(all.virus[i]),
      source: data.facts.sources[all.source[i]],
      counted: all.counted[i] === 1,
    });
  }
  return windows;
}

function probability(code) {
  return code === NO_PROBABILITY ? null : code / 10000;
}

const grouped = new Intl.NumberFormat("en-US");
const verdictOf = (data, row) => data.facts.verdicts[data.verdict[row]];
const reasonOf = (data, row) => (data.reason[row] === NO_REASON ? "" : data.facts.reasons[data.reason[row]]);
// A share of unknown bases, empty for none; what is there is never shown as none.
const unknownText = (bases, of) => (bases ? (bases >= of / 1000 ? `${((100 * bases) / of).toFixed(1)}%` : "<0.1%") : "");
const scoreText = (code) => (code === NONE ? "NA" : (code / 1e6).toFixed(6));

// An element with a class, text and children; text is never parsed as markup.
function make(tag, className, text, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined && text !== null) element.textContent = text;
  element.append(...children);
  return element;
}

function drawn(tag, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const VERDICT_COLOUR = {
  viral: "viral", uncertain: "uncertain", "non-viral": "non-viral", incomplete: "incomplete",
  "no open frame": "none", "too short": "none",
};
const cssClass = (verdict) => verdict.replaceAll(" ", "-");
