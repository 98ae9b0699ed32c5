import { pixelsOf } from "./image.js";
import { openModel } from "./model.js";

const SHOWN = 12;
const TIMES = 9; // an embedding is made so often, to tell what it takes

const at = (id) => document.getElementById(id);
const state = { model: null, image: null, asked: 0 };

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function tell(problem) {
  at("problem").textContent = problem ?? "";
  at("problem").hidden = !problem;
}

const milliseconds = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;

// The sub-model

async function useModel(bytes, name) {
  const model = await openModel(bytes, name);
  await state.model?.close();
  state.model = model;
  const { width, form, image_size, dimension, fingerprint } = model.about;
  const size = `${Math.round(bytes.length / 1000).toLocaleString("en")} kB`;
  at("about").replaceChildren(
    element("b", { textContent: `Width ${width}, ${form}` }),
    ` · ${size} · images of ${image_size[1]} × ${image_size[0]} pixels · family ${fingerprint}`,
  );
  at("dimension").textContent = dimension;
}

async function useOwnModel() {
  const answer = await fetch("model.onnx", { cache: "no-cache" });
  if (answer.ok) return useModel(new Uint8Array(await answer.arrayBuffer()), "model.onnx");
  at("about").textContent = "None yet.";
  throw new Error("model.onnx is not beside this page: write it with sfsc export RUN --width 0.25 --int8 --out model.onnx, or open a file.");
}

async function embed() {
  const pixels = await pixelsOf(state.image, state.model.about.image_size);
  let embedding;
  const times = [];
  for (let time = 0; time < TIMES; time++) {
    const start = performance.now();
    embedding = await state.model.embed(pixels);
    times.push(performance.now() - start);
  }
  const median = times.sort((a, b) => a - b)[(TIMES - 1) / 2];
  at("embedding").textContent = `Embedded in ${milliseconds(median)}, the median of ${TIMES} times.`;
  return embedding;
}

// The service

async function ask(path, options = {}) {
  const address = at("address").value.replace(/\/*$/, "/");
  const key = at("key").value;
  let answer;
  try {
    answer = await fetch(address + path, { ...options, headers: { ...options.headers, ...(key ? { "X-API-Key": key } : {}) } });
  } catch {
    throw new Error(`No answer from ${address} for this page: start sfsc serve RUN --gallery GALLERY --allow-origin ${location.origin}`);
  }
  if (answer.ok) return answer;
  const { error } = await answer.json().catch(() => ({ error: `${address} is not sfsc serve: it answers ${answer.status}.` }));
  throw new Error(error);
}

async function search(embedding) {
  const { fingerprint, width } = state.model.about;
  const body = JSON.stringify({ embedding: Array.from(embedding), fingerprint, width, top: SHOWN });
  const start = performance.now();
  const answer = await ask("search/embedding", { method: "POST", body, headers: { "Content-Type": "application/json" } });
  return { ...(await answer.json()), elapsed: performance.now() - start };
}

// An <img> cannot send a key, so that images are asked for as all else is.
async function fill(image, id) {
  try {
    const answer = await ask(`images/${encodeURIComponent(id)}`);
    image.src = URL.createObjectURL(await answer.blob());
    await image.decode();
    URL.revokeObjectURL(image.src);
  } catch {
    image.replaceWith(element("span", { className: "missing soft", textContent: "no image here" }));
  }
}

function hitItem(hit) {
  const name = hit.identity ?? hit.id.split("/").pop();
  const image = element("img", { alt: [name, hit.camera].filter(Boolean).join(", ") });
  fill(image, hit.id);
  const score = element("b", { textContent: hit.score.toFixed(3) });
  const caption = element("figcaption", {}, score, ` ${name}`, element("span", { textContent: hit.camera ?? "" }));
  return element("li", {}, element("figure", {}, image, caption));
}

function showHits({ hits, elapsed, search_ms }) {
  at("hits").replaceChildren(...hits.map(hitItem));
  const spent = `${milliseconds(elapsed)}, of which the gallery took ${milliseconds(search_ms)}`;
  at("status").textContent = `${hits.length} images, found in ${spent}.`;
}

// What the user does: a change, and the search that follows. Whatever goes wrong is told in one line.
async function attempt(change) {
  let asked;
  tell();
  try {
    await change();
    asked = ++state.asked;
    if (!state.image || !state.model) return;
    const answer = await search(await embed());
    if (asked === state.asked) showHits(answer);
  } catch (error) {
    if (asked !== undefined && asked !== state.asked) return;
    tell(error.message);
    at("hits").replaceChildren();
    at("status").textContent = "";
  }
}

function show(image) {
  state.image = image;
  URL.revokeObjectURL(at("preview").src);
  at("preview").src = URL.createObjectURL(image);
  at("preview").hidden = false;
  at("image-name").textContent = image.name;
  at("embedding").textContent = "";
}

function whenChosen(id, work) {
  at(id).addEventListener("change", () => {
    const [file] = at(id).files;
    at(id).value = ""; // the same file may be chosen again
    if (file) attempt(() => work(file));
  });
}

at("preview").addEventListener("error", () => (at("preview").hidden = true));
whenChosen("image", show);
whenChosen("model", async (file) => useModel(new Uint8Array(await file.arrayBuffer()), file.name));
at("service").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(() => {});
});
at("address").value = `http://${location.hostname}:8000`;
attempt(useOwnModel);
