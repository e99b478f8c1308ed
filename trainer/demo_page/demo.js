// Sends a photo to the server, draws the class ids that come back, and names them.
"use strict";

const settings = JSON.parse(document.getElementById("settings").textContent);
const element = (id) => document.getElementById(id);
const photo = element("photo"), overlay = element("overlay"), picture = element("picture");

let ids = null; // Uint8Array, a class of each pixel, row by row
let chosen = null; // the class that is shown alone
let cursor = null; // where the keyboard points: [x, y]
let asked = 0; // photos so far: an answer to any but the last is not shown

function tell(status, error = "") {
  element("status").textContent = status;
  element("error").textContent = error;
  element("error").hidden = !error;
}

async function show(file) {
  const number = ++asked;
  element("result").hidden = true;
  tell("Looking at the photo ...");
  try {
    const began = performance.now();
    const [pixels, found] = await Promise.all([drawable(file), predict(file)]);
    if (number !== asked) return;
    draw(pixels, found);
    const seconds = (performance.now() - began) / 1000;
    tell(`Done: ${file.name}, ${seconds.toFixed(1)} s.`);
    const reduced = pixels.width > photo.width ? `, of ${pixels.width} x ${pixels.height}` : "";
    element("facts").textContent = `${photo.width} x ${photo.height} pixels${reduced}`;
    element("result").hidden = false;
  } catch (error) {
    if (number === asked) tell("", error.message);
  }
}

async function predict(file) {
  if (file.size > settings.max_mebibytes * 2 ** 20) {
    throw new Error(`${file.name} is too large: at most ${settings.max_mebibytes} MiB are taken.`);
  }
  const headers = { "Content-Type": "application/octet-stream" };
  const answer = await fetch("predict", { method: "POST", headers, body: file }).catch(() => {
    throw new Error("The server does not answer: is trainer.demo still running?");
  });
  if (!answer.ok) throw new Error(await answer.text());
  // Ids are no colours: they must come out as they went in.
  return createImageBitmap(await answer.blob(), { colorSpaceConversion: "none" });
}

async function drawable(file) {
  // What the server says of a file that is no photo is clearer than what the browser says.
  const image = await createImageBitmap(file).catch(() => null);
  return image ?? { width: 0, height: 0 };
}

function draw(pixels, found) {
  if (!pixels.width) throw new Error("This browser cannot show the photo.");
  for (const canvas of [photo, overlay]) {
    canvas.width = found.width;
    canvas.height = found.height;
  }
  picture.style.maxWidth = `calc(80vh * ${found.width / found.height})`; // seen whole
  const context = overlay.getContext("2d", { willReadFrequently: true });
  context.drawImage(found, 0, 0);
  const { data } = context.getImageData(0, 0, found.width, found.height);
  ids = new Uint8Array(data.length / 4);
  for (let index = 0; index < ids.length; index++) ids[index] = data[4 * index];
  const shown = photo.getContext("2d");
  shown.imageSmoothingQuality = "high";
  shown.drawImage(pixels, 0, 0, photo.width, photo.height);
  chosen = cursor = null;
  point(null);
  paint();
  list();
}

function paint() {
  const colors = settings.classes.flatMap(({ color }, id) => {
    return [...color, chosen === null || chosen === id ? 255 : 0];
  });
  const table = new Uint32Array(Uint8Array.from(colors).buffer);
  const context = overlay.getContext("2d");
  const image = context.createImageData(overlay.width, overlay.height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let index = 0; index < ids.length; index++) pixels[index] = table[ids[index]];
  context.putImageData(image, 0, 0);
}

function list() {
  const counts = settings.classes.map(() => 0);
  for (const id of ids) counts[id]++;
  const present = [...counts.keys()].filter((id) => counts[id]);
  present.sort((a, b) => counts[b] - counts[a]);
  element("legend").replaceChildren(...present.map((id) => entry(id, counts[id] / ids.length)));
}

function entry(id, share) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.id = id;
  button.setAttribute("aria-pressed", "false");
  const percent = share < 0.001 ? "< 0.1%" : `${(100 * share).toFixed(1)}%`;
  for (const [tag, kind, text] of [
    ["i", "swatch", ""], ["span", "name", settings.classes[id].name], ["span", "share", percent],
    ["i", "bar", ""],
  ]) {
    const part = document.createElement(tag);
    part.className = kind;
    part.textContent = text;
    if (tag === "i") part.style.background = css(id);
    if (kind === "bar") part.style.width = `${100 * share}%`;
    button.append(part);
  }
  button.addEventListener("click", () => {
    chosen = chosen === id ? null : id;
    for (const other of element("legend").querySelectorAll("button")) {
      other.setAttribute("aria-pressed", String(Number(other.dataset.id) === chosen));
    }
    paint();
  });
  const item = document.createElement("li");
  item.append(button);
  return item;
}

const css = (id) => `rgb(${settings.classes[id].color.join(" ")})`;

// Names the class at a pixel, [x, y], beside it and in the legend; null names none.
function point(place) {
  const id = place && ids[place[1] * overlay.width + place[0]];
  for (const button of element("legend").querySelectorAll("button")) {
    button.classList.toggle("pointed", place !== null && Number(button.dataset.id) === id);
  }
  const tip = element("tip");
  tip.hidden = place === null;
  if (place === null) return null;
  tip.querySelector("span").textContent = settings.classes[id].name;
  tip.querySelector("i").style.background = css(id);
  const [x, y] = [place[0] / overlay.width, place[1] / overlay.height];
  tip.style.left = `calc(${100 * x}% + ${x < 0.6 ? 14 : -14}px)`;
  tip.style.top = `calc(${100 * y}% + ${y < 0.8 ? 14 : -14}px)`;
  tip.style.transform = `translate(${x < 0.6 ? 0 : -100}%, ${y < 0.8 ? 0 : -100}%)`;
  return settings.classes[id].name;
}

function pixelUnder(event) {
  const box = overlay.getBoundingClientRect();
  const inside = (share, size) => Math.min(Math.max(Math.floor(share * size), 0), size - 1);
  return [
    inside((event.clientX - box.left) / box.width, overlay.width),
    inside((event.clientY - box.top) / box.height, overlay.height),
  ];
}

function mark(place) {
  const cross = element("cross");
  cross.hidden = place === null;
  if (place === null) return;
  cross.style.left = `${(100 * (place[0] + 0.5)) / overlay.width}%`;
  cross.style.top = `${(100 * (place[1] + 0.5)) / overlay.height}%`;
}

for (const kind of ["pointermove", "pointerdown"]) {
  picture.addEventListener(kind, (event) => {
    mark(null);
    point(pixelUnder(event));
  });
}
picture.addEventListener("pointerleave", (event) => {
  // A finger leaves when it is lifted: what it touched can still be read.
  if (event.pointerType === "mouse") point(null);
});
picture.addEventListener("blur", () => {
  mark(null);
  point(null);
});

const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
picture.addEventListener("keydown", (event) => {
  if (!(event.key in moves)) return;
  event.preventDefault();
  cursor ??= [overlay.width >> 1, overlay.height >> 1];
  const far = (event.shiftKey ? 0.1 : 0.01) * Math.max(overlay.width, overlay.height);
  const step = Math.max(1, Math.round(far));
  cursor = [overlay.width, overlay.height].map((size, axis) => {
    return Math.min(Math.max(cursor[axis] + step * moves[event.key][axis], 0), size - 1);
  });
  mark(cursor);
  element("spoken").textContent = point(cursor);
});

function setOpacity() {
  element("percent").textContent = `${element("opacity").value}%`;
  overlay.style.opacity = element("opacity").value / 100;
}
element("opacity").addEventListener("input", setOpacity);
setOpacity();

element("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = ""; // so that the same file can be chosen again
  if (file) show(file);
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) show(file);
});
