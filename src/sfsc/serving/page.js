// The page of the service: everything it shows, it asks the endpoints for.

const SHOWN = 18;
const IN_LANE = 10;
// Lightness falls steadily, so the order survives colour blindness.
const CELLS = [[220, 234, 247], [127, 178, 220], [47, 120, 183], [18, 63, 112]];
const OPERATORS = { text: ["=", "!="], boolean: ["=", "!="], integer: ["=", "!=", "<", "<=", ">", ">="] };
OPERATORS.number = OPERATORS.integer;

const at = (id) => document.getElementById(id);
const state = { query: null, width: 1, filters: [], family: null, gallery: null, asked: 0 };

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

async function ask(path, options = {}) {
  const key = sessionStorage.getItem("key");
  const headers = { ...options.headers, ...(key ? { "X-API-Key": key } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("The service cannot be reached.");
  }
  if (answer.ok) return answer;
  if (answer.status === 401) at("key-form").hidden = false;
  const told = await answer.json().catch(() => ({ error: `the service answered ${answer.status}` }));
  throw new Error(told.error);
}

const askJson = async (path, options) => (await ask(path, options)).json();

function tell(problem) {
  at("problem").textContent = problem ?? "";
  at("problem").hidden = !problem;
}

const imageAddress = (id) => `images/${encodeURIComponent(id)}`;

function imageOf(id, alt) {
  const image = element("img", { alt, loading: "lazy", decoding: "async" });
  image.addEventListener("error", () => {
    image.replaceWith(element("div", { className: "missing soft", textContent: "no image here" }));
  });
  if (!sessionStorage.getItem("key")) {
    image.src = imageAddress(id);
  } else {
    // An <img> cannot send the key.
    ask(imageAddress(id))
      .then((answer) => answer.blob())
      .then((blob) => {
        image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
        image.src = URL.createObjectURL(blob);
      })
      .catch(() => image.dispatchEvent(new Event("error")));
  }
  return image;
}

const short = (count) => {
  if (count >= 1e9) return `${(count / 1e9).toFixed(2)} G`;
  return count >= 1e6 ? `${(count / 1e6).toFixed(1)} M` : `${Math.round(count / 1e3)} k`;
};
const milliseconds = (value) => (value < 10 ? value.toFixed(1) : Math.round(value).toString());
const nameOf = (hit) => hit.identity ?? hit.id.split("/").pop();

// The query and the search

function requestFor(kind, limits = {}) {
  const top = (kind === "compare" ? IN_LANE : SHOWN) + 1; // the query itself is not shown
  if (state.query.id !== undefined) {
    const width = kind === "compare" ? {} : { width: state.width };
    const body = JSON.stringify({ id: state.query.id, top, where: state.filters, ...width, ...limits });
    return [`${kind}/id`, { method: "POST", body, headers: { "Content-Type": "application/json" } }];
  }
  const form = new FormData();
  form.append("image", state.query.file);
  form.append("top", top);
  if (state.query.box) form.append("box", state.query.box);
  if (kind === "search") form.append("width", state.width);
  for (const condition of state.filters) form.append("where", condition);
  for (const [name, value] of Object.entries(limits)) form.append(name, value);
  return [`${kind}/image`, { method: "POST", body: form }];
}

async function search() {
  if (!state.query) return;
  const asked = ++state.asked;
  const compare = at("compare").checked;
  at("results").setAttribute("aria-busy", "true");
  tell();
  try {
    const kind = compare ? "compare" : "search";
    const requests = [requestFor(kind)];
    if (state.family.smallest_fmr !== null && !compare) requests.push(requestFor(kind, { max_fmr: rate() }));
    const [answer, matches] = await Promise.all(requests.map((request) => askJson(...request)));
    if (asked === state.asked) compare ? showLanes(answer.answers) : showHits(answer, matches);
  } catch (error) {
    if (asked !== state.asked) return;
    tell(error.message);
    at("results").replaceChildren();
    at("status").textContent = "";
  } finally {
    if (asked === state.asked) at("results").removeAttribute("aria-busy");
  }
}

const others = (answer, count) => answer.hits.filter((hit) => hit.id !== state.query.id).slice(0, count);

function hitItem(hit) {
  const right = state.query.identity != null && hit.identity === state.query.identity;
  const caption = element(
    "figcaption", {},
    element("span", { title: hit.id }, element("b", { textContent: `${right ? "✓ " : ""}${hit.score.toFixed(3)}` }), ` ${nameOf(hit)}`),
    ...(hit.probability === null ? [] : [element("span", { textContent: `match: ${percent(hit.probability)}` })]),
    element("span", { textContent: [hit.camera, ...attributes(hit)].filter((part) => part != null).join(" · ") }),
    element("span", { textContent: `stored by ${hit.width}${hit.form === "float32" ? "" : `, ${hit.form}`}` }),
  );
  const image = imageOf(hit.id, `${nameOf(hit)}${hit.camera ? `, ${hit.camera}` : ""}${right ? ", same identity" : ""}`);
  return element("li", { className: right ? "right" : "" }, element("figure", {}, image, caption));
}

const attributes = (hit) =>
  Object.entries(hit.attributes).filter(([, value]) => value != null).map(([name, value]) => `${name} ${value}`);

const percent = (share) => `${(100 * share).toFixed(share < 0.1 || share > 0.99 ? 1 : 0)}%`;

const hitList = (hits) => element("ol", { className: "hits" }, ...hits.map(hitItem));

function rightOnes(hits) {
  if (state.query.identity == null) return "";
  return `${hits.filter((hit) => hit.identity === state.query.identity).length} of the same identity (✓)`;
}

// Hits in two lists: those that match at the chosen false match rate, and those that are only similar.
function apart(hits, matches) {
  const ids = new Set(matches.hits.map((hit) => hit.id));
  const [same, similar] = [true, false].map((match) => hits.filter((hit) => ids.has(hit.id) === match));
  const rest = element("section", { className: "others" }, element("h3", { textContent: "Similar, but no match" }), hitList(similar));
  const title = same.length ? `Matches: ${same.length}` : "No match in this gallery";
  return [element("h3", { textContent: title }), hitList(same), ...(similar.length ? [rest] : [])];
}

function showHits(answer, matches) {
  const hits = others(answer, SHOWN);
  at("results").replaceChildren(...(matches ? apart(hits, matches) : [hitList(hits)]));
  at("status").textContent = [
    `${hits.length} of ${state.gallery.rows.toLocaleString("en")} images`,
    rightOnes(hits),
    `embedded by sub-model ${answer.width} in ${milliseconds(answer.embed_ms)} ms`,
    `searched in ${milliseconds(answer.search_ms)} ms`,
  ].filter(Boolean).join(" · ");
}

function showLanes(answers) {
  const full = new Set(others(answers.at(-1), IN_LANE).map((hit) => hit.id));
  const lanes = answers.map((answer) => {
    const hits = others(answer, IN_LANE);
    const same = hits.filter((hit) => full.has(hit.id)).length;
    const about = [
      `embedded in ${milliseconds(answer.embed_ms)} ms`,
      rightOnes(hits),
      answer.width === 1 ? "" : `${same} of ${hits.length} as the full sub-model`,
    ];
    const small = element("small", { textContent: about.filter(Boolean).join(" · ") });
    const title = element("h3", {}, `Sub-model ${answer.width}`, small);
    return element("section", { className: "lane" }, title, hitList(hits));
  });
  at("results").replaceChildren(...lanes);
  at("status").textContent = `The results of each of the ${answers.length} sub-models.`;
}

// Choosing

function choose(query, button) {
  state.query = query;
  for (const other of at("examples").children) other.setAttribute("aria-pressed", String(other === button));
  at("preview").hidden = !query.file;
  at("drop-text").textContent = query.file ? query.file.name : "Drop another image here, or choose a file";
  if (query.file) {
    URL.revokeObjectURL(at("preview").src);
    at("preview").src = URL.createObjectURL(query.file);
    at("whole").src = at("preview").src;
  }
  at("part").hidden = !query.file;
  showPart();
  search();
}

// A part of the image, in pixels of the upright image

function choosePart(box) {
  state.query.box = box;
  showPart();
  search();
}

function showPart() {
  const { box } = state.query;
  const { naturalWidth, naturalHeight } = at("whole");
  const [x, y, width, height] = (box ?? "").split(",").map(Number);
  at("box").value = box ?? "";
  at("rectangle").hidden = !(width > 0 && height > 0 && naturalWidth);
  const sides = { left: x / naturalWidth, top: y / naturalHeight, width: width / naturalWidth, height: height / naturalHeight };
  for (const [side, share] of Object.entries(sides)) at("rectangle").style[side] = `${100 * share}%`;
}

function listenToPart() {
  let start = null;
  const pointAt = (event) => {
    const image = at("whole");
    const shown = image.getBoundingClientRect();
    const along = (value, size, pixels) => Math.round(Math.min(Math.max(value / size, 0), 1) * pixels);
    return [
      along(event.clientX - shown.left, shown.width, image.naturalWidth),
      along(event.clientY - shown.top, shown.height, image.naturalHeight),
    ];
  };
  const boxTo = (event) => {
    const end = pointAt(event);
    const [x, y] = start.map((value, axis) => Math.min(value, end[axis]));
    const [width, height] = start.map((value, axis) => Math.abs(value - end[axis]));
    return width && height ? [x, y, width, height].join(",") : null;
  };
  at("frame").addEventListener("pointerdown", (event) => {
    start = pointAt(event);
    at("frame").setPointerCapture(event.pointerId);
  });
  at("frame").addEventListener("pointermove", (event) => {
    if (!start) return;
    state.query.box = boxTo(event);
    showPart();
  });
  at("frame").addEventListener("pointerup", (event) => {
    if (!start) return;
    const box = boxTo(event);
    start = null;
    choosePart(box);
  });
  at("frame").addEventListener("pointercancel", () => {
    start = null;
  });
  at("box").addEventListener("change", () => choosePart(at("box").value.trim() || null));
  at("whole-image").addEventListener("click", () => choosePart(null));
  at("whole").addEventListener("load", showPart);
}

function showExamples() {
  const buttons = state.gallery.examples.map((example) => {
    const name = nameOf(example);
    const button = element("button", { type: "button", title: name }, imageOf(example.id, name));
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => choose(example, button));
    return button;
  });
  at("examples").replaceChildren(...buttons);
  at("examples").hidden = !buttons.length;
}

function listenToFiles() {
  at("file").addEventListener("change", () => {
    if (at("file").files.length) choose({ file: at("file").files[0] });
    at("file").value = ""; // the same file may be chosen again
  });
  const drop = at("drop");
  for (const type of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(type, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", type === "dragover");
      if (type === "drop" && event.dataTransfer.files.length) choose({ file: event.dataTransfer.files[0] });
    });
  }
}

function showWidths() {
  const labels = state.family.submodels.map(({ width, parameters }) => {
    const radio = element("input", { type: "radio", name: "width", value: width, checked: width === state.width });
    radio.addEventListener("change", () => {
      state.width = width;
      markChosen();
      search();
    });
    const title = element("strong", { textContent: width === 1 ? "1 · full" : width });
    return element("label", {}, radio, title, `${short(parameters)} parameters`);
  });
  at("widths").replaceChildren(...labels);
}

function markChosen() {
  const all = at("compare").checked;
  for (const radio of at("widths").querySelectorAll("input")) radio.disabled = all;
  for (const row of document.querySelectorAll("aside tr[data-width]")) {
    row.classList.toggle("chosen", !all && Number(row.dataset.width) === state.width);
  }
}

// Strictness

const rate = () => Math.max(10 ** -at("fmr").value, state.family.smallest_fmr);

function sayRate() {
  const wrong = rate() * state.gallery.rows;
  const said = wrong < 0.1 ? "less than 0.1" : wrong.toPrecision(2);
  at("fmr-said").textContent = `false match rate ${Number(rate().toPrecision(2))}: about ${said} wrong per query in this gallery`;
}

function showStrictness() {
  const least = state.family.smallest_fmr;
  at("fmr-label").hidden = least === null;
  if (least === null) return;
  const most = Math.ceil(-4 * Math.log10(least)) / 4;
  Object.assign(at("fmr"), { min: 0, max: most, value: Math.min(3, most) });
  sayRate();
}

// Filters

function showFilterValues() {
  const { kind, values } = state.gallery.columns[at("column").value];
  const numeric = kind === "integer" || kind === "number";
  at("operator").replaceChildren(...OPERATORS[kind].map((sign) => element("option", { textContent: sign })));
  const field = values
    ? element("select", {}, ...values.map((value) => element("option", { value, textContent: value })))
    : element("input", { type: numeric ? "number" : "text", required: true, ...(numeric ? { step: "any" } : {}) });
  field.id = "value";
  field.setAttribute("aria-label", "Value");
  at("value-place").replaceChildren(field);
}

function showColumns() {
  const usable = Object.entries(state.gallery.columns).filter(([, { values }]) => !values || values.length > 1);
  at("column").replaceChildren(...usable.map(([name]) => element("option", { textContent: name })));
  at("filter-form").hidden = !usable.length;
  if (usable.length) showFilterValues();
}

// A name or a value as conditions have it: what is not a plain word stands in quotes.
function quoted(text) {
  return /^[\p{L}\p{N}_./:-]*$/u.test(text) ? text : `"${text.replaceAll('"', '""')}"`;
}

function showFilters() {
  const chips = state.filters.map((condition) => {
    const button = element("button", { type: "button", textContent: `${condition} ✕` });
    button.setAttribute("aria-label", `Remove the filter ${condition}`);
    button.addEventListener("click", () => {
      state.filters = state.filters.filter((other) => other !== condition);
      showFilters();
      at("column").focus();
      search();
    });
    return element("li", {}, button);
  });
  at("filters").replaceChildren(...chips);
}

function listenToFilters() {
  at("column").addEventListener("change", showFilterValues);
  at("filter-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const condition = quoted(at("column").value) + at("operator").value + quoted(at("value").value);
    if (!state.filters.includes(condition)) state.filters.push(condition);
    showFilters();
    search();
  });
}

// What stands beside

const heading = (text, scope) => element("th", { scope, textContent: text });

function showFamily() {
  const sizes = state.family.submodels.map((one) => [...one.image_size].reverse().join(" × "));
  const differ = new Set(sizes).size > 1;
  const shallow = state.family.submodels.some((one) => one.depth < 1);
  const rows = state.family.submodels.map((one, place) => {
    const shape = [...(shallow ? [one.depth] : []), ...(differ ? [sizes[place]] : [])];
    const values = [...shape, short(one.parameters), short(one.multiply_adds), `${milliseconds(one.latency_ms)} ms`];
    const cells = values.map((textContent) => element("td", { textContent }));
    const row = element("tr", {}, heading(one.width, "row"), ...cells);
    row.dataset.width = one.width;
    return row;
  });
  const names = ["sub-model", ...(shallow ? ["depth"] : []), ...(differ ? ["pixels"] : []), "parameters", "multiply-adds", "time here"];
  const titles = names.map((text) => heading(text, "col"));
  at("family").replaceChildren(element("thead", {}, element("tr", {}, ...titles)), element("tbody", {}, ...rows));
  const writers = Object.entries(state.gallery.rows_by_width);
  const written = writers.map(([width, rows]) => `${rows.toLocaleString("en")} by ${width}`).join(", ");
  const by = state.gallery.bridged ? "Rows of an old model, to which a bridge maps the query, by width" : "Images stored by sub-model";
  at("gallery").textContent =
    `${by}: ${written || "none yet"}. Embeddings of ${state.family.dimension} numbers, from ${state.family.backbone}.`;
}

function paint(cell, share) {
  const place = Math.min(Math.max(share, 0), 0.999) * (CELLS.length - 1);
  const [low, high] = [CELLS[Math.floor(place)], CELLS[Math.floor(place) + 1]];
  const colour = low.map((part, i) => Math.round(part + (high[i] - part) * (place % 1)));
  cell.style.backgroundColor = `rgb(${colour})`;
  cell.style.color = place > 1.4 ? "#fff" : "#12161c";
}

function showMatrix() {
  const evaluation = state.family.evaluation;
  at("matrix-section").hidden = !evaluation;
  if (!evaluation) return;
  const { widths, matrix, criterion } = evaluation;
  const all = matrix.flat();
  const [least, most] = [Math.min(...all), Math.max(...all)];
  const rows = matrix.map((values, q) => {
    const cells = values.map((value, g) => {
      const mark = q !== g && criterion[q][g] ? " ✓" : "";
      const cell = element("td", { textContent: `${(100 * value).toFixed(1)}${mark}` });
      paint(cell, (value - least) / (most - least || 1));
      return cell;
    });
    const row = element("tr", {}, heading(widths[q], "row"), ...cells);
    row.dataset.width = widths[q];
    return row;
  });
  const met = criterion.flatMap((row, q) => row.filter((holds, g) => holds && q !== g)).length;
  const pairs = widths.length * (widths.length - 1);
  at("criterion").textContent = `${met} of ${pairs} cross-tests (✓) are at least as accurate as the self-test of their smaller sub-model.`;
  const head = element("tr", {}, heading("query ↓", "col"), ...widths.map((width) => heading(width, "col")));
  const caption = element("caption", { textContent: "gallery stored by →" });
  at("matrix").replaceChildren(caption, element("thead", {}, head), element("tbody", {}, ...rows));
}

async function start() {
  try {
    [state.family, state.gallery] = await Promise.all([askJson("family"), askJson("gallery")]);
  } catch (error) {
    tell(error.message);
    return;
  }
  tell();
  at("key-form").hidden = true;
  at("content").hidden = false;
  state.width = state.family.submodels[0].width;
  for (const show of [showExamples, showWidths, showStrictness, showColumns, showFamily, showMatrix, markChosen]) show();
  const first = at("examples").firstElementChild;
  if (first) first.click();
  else at("status").textContent = "Choose an image to begin.";
}

at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", at("key").value);
  start();
});
at("compare").addEventListener("change", () => {
  markChosen();
  search();
});
at("fmr").addEventListener("input", sayRate);
at("fmr").addEventListener("change", search);
listenToFiles();
listenToPart();
listenToFilters();
start();
