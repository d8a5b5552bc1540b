"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const RATES = [1, 2, 5, 10, 20, 50, 100, 200, 1000]; // steps per second
const KEPT = 150; // steps in the chart
const SIDE = 28, PIXELS = SIDE * SIDE; // of the image
const DIGITS = data.images.map(bytesOf);

// --- the network: network.c, see its functions in network.h

function halves(bytes) { // float16 -> float32
  const view = new DataView(bytes.buffer), values = new Float32Array(bytes.length / 2);
  for (let i = 0; i < values.length; i++) {
    const half = view.getUint16(2 * i, true), exponent = (half >> 10) & 31, fraction = (half & 1023) / 1024;
    values[i] = (half >> 15 ? -1 : 1) * (exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction);
  }
  return new Uint8Array(values.buffer);
}

async function started() {
  const { instance } = await WebAssembly.instantiate(bytesOf(data.runtime), {});
  const net = instance.exports;
  for (const [name, pieces] of Object.entries(data.arrays)) {
    let place = net[`network_${name}`].value;
    for (const [text, half] of pieces) {
      const bytes = half ? halves(bytesOf(text)) : bytesOf(text);
      new Uint8Array(net.memory.buffer).set(bytes, place);
      place += bytes.length;
    }
  }
  const seen = (address, length, kind) => new kind(net.memory.buffer, address, length);
  return Object.assign(Object.create(net), {
    show(pixels) {
      seen(net.page_image.value, PIXELS, Uint8Array).set(pixels);
      net.network_show(net.page_image.value);
    },
    open: () => seen(net.network_open(), PIXELS, Uint8Array),
    prediction: () => seen(net.network_prediction(), PIXELS, Float32Array),
    logits: () => seen(net.network_logits(), data.classes.length, Float32Array),
    spikes: () => data.layers.map((_, layer) => net.network_spikes(layer)),
  });
}

// The first difference from the spikes that Python counted while it was shown the same images one after the other, or "".
function difference(net) {
  net.network_reset(...data.key, 0);
  for (const [image, steps] of data.golden.entries()) {
    net.show(DIGITS[image]);
    for (const [step, counts] of steps.entries()) {
      net.network_step();
      const found = net.spikes(), layer = counts.findIndex((count, at) => count !== found[at]);
      if (layer >= 0) {
        return `image ${image}, step ${step + 1}, ${data.layers[layer].name}: ${found[layer]} spikes, in Python ${counts[layer]}`;
      }
    }
  }
  return "";
}

// --- what is shown

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const grey = (value) => [value, value, value];
const rgb = (name) => colour(name).match(/\w\w/g).map((part) => parseInt(part, 16));
const STATES = Object.fromEntries(["silent", "dark", "bright", "blocked"].map((name) => [name, rgb(name)]));

function paint(canvas, pixel) { // pixel(i): [red, green, blue]
  const picture = new ImageData(SIDE, SIDE), bytes = picture.data.fill(255);
  for (let i = 0; i < PIXELS; i++) [bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2]] = pixel(i);
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

function element(name, attributes, ...inside) {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...inside);
  return made;
}

const amount = (value) => Math.round(value).toLocaleString("en");
const joules = (pico) => {
  const [unit, scale] = pico < 1e5 ? ["nJ", 1e-3] : ["µJ", 1e-6];
  return `${(pico * scale).toFixed(pico < 1e6 ? 2 : 1)} ${unit}`;
};

function bars(logits, best) {
  const low = Math.min(0, ...logits), span = Math.max(1, ...logits) - low;
  const second = Math.max(...logits.filter((_, name) => name !== best));
  const part = (from, to, className) => element("i", { className, style: `left: ${(100 * (from - low)) / span}%; width: ${(100 * (to - from)) / span}%` });
  at("bars").replaceChildren(...logits.map((value, name) => {
    const end = name === best ? second : value, track = element("div", { className: "track" }, part(Math.min(0, end), Math.max(0, end), ""));
    if (name === best) track.append(part(second, value, "margin"));
    return element("div", { className: "row" }, element("span", {}, data.classes[name]), track, element("span", {}, value.toFixed(1)));
  }));
}

function chart(history, changes) {
  const canvas = at("chart"), ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  Object.assign(canvas, { width: width * ratio, height: height * ratio });
  const pen = canvas.getContext("2d"), left = 44, base = height - 4, room = base - 12, wide = (width - left) / KEPT;
  const most = Math.max(10, ...history.map((counts) => counts.reduce((a, b) => a + b)));
  const unit = 10 ** Math.floor(Math.log10(most)), top = unit * [1, 1.5, 2, 3, 5, 7.5, 10].find((times) => times * unit >= most);
  pen.scale(ratio, ratio);
  pen.font = "12px system-ui, sans-serif";
  pen.textAlign = "right";
  for (const share of [0, 0.5, 1]) {
    const y = Math.round(base - share * room) + 0.5;
    pen.fillStyle = colour("line");
    pen.fillRect(left, y - 0.5, width - left, 1);
    pen.fillStyle = colour("soft");
    pen.fillText(amount(share * top), left - 8, share ? y + 4 : y);
  }
  const stack = history.map(() => base); // how high the bars are so far
  data.layers.forEach((layer, number) => {
    pen.fillStyle = layer.colour;
    history.forEach((counts, step) => {
      const high = (counts[number] / top) * room;
      stack[step] -= high;
      pen.fillRect(left + (step + KEPT - history.length) * wide, stack[step], Math.max(1, wide - 0.75), high);
    });
  });
  pen.fillStyle = colour("accent");
  for (const step of changes) pen.fillRect(left + (step + KEPT - history.length) * wide, base, Math.max(1, wide), 4);
}

// --- the instrument

function instrument(net) {
  const image = new Uint8Array(PIXELS), none = () => image.every((value) => !value);
  let playing = true, picked = null, erasing = false, history = [], changes = [], since, before = "";

  function began() { // counts begin anew
    since = { steps: 0, silent: 0, exited: false, spikes: data.layers.map(() => 0), energy: 0 };
    at("said").textContent = "";
    if (changes.at(-1) !== history.length) changes.push(history.length);
  }

  function restart() {
    net.network_reset(...data.key, 0);
    net.show(image);
    began();
  }

  function changed() { // the baseline never forgets, so it begins at rest
    if (!at("feedback").checked) net.network_reset(...data.key, 0);
    net.show(image);
    since.exited = false;
  }

  function step() {
    if (since.exited) return;
    const holds = net.network_step(), counts = net.spikes(), total = counts.reduce((a, b) => a + b);
    since.steps += 1;
    since.silent = total ? 0 : since.silent + 1;
    since.exited = at("exit").checked && holds === 1 && !none();
    counts.forEach((count, layer) => {
      const { forward, feedback } = data.layers[layer];
      since.spikes[layer] += count;
      since.energy += data.picojoules * count * (forward + (at("feedback").checked ? feedback : 0));
    });
    history.push(counts);
    if (history.length > KEPT) {
      history.shift();
      changes = changes.map((step) => step - 1).filter((step) => step >= 0);
    }
  }

  function show() {
    const open = net.open(), prediction = net.prediction(), fed = at("feedback").checked, empty = none();
    const state = (i) => (!image[i] ? "silent" : !open[i] ? "blocked" : prediction[i] * 255 < image[i] ? "dark" : "bright");
    paint(at("draw"), (i) => grey(image[i]));
    paint(at("seen"), (i) => STATES[state(i)]);
    paint(at("predicted"), (i) => grey(255 * Math.min(1, Math.max(0, prediction[i]))));
    const lit = image.reduce((sum, value) => sum + (value > 0), 0), left = image.reduce((sum, value, i) => sum + (value > 0 && open[i]), 0);
    at("open").textContent = fed ? `${left} of ${lit} pixels that are not black are open` : "no decoder, no prediction";
    const logits = [...net.logits()], best = net.network_answer();
    at("answer").textContent = logits.every((value) => !value) || empty ? "–" : data.classes[best];
    at("margin").textContent = empty ? "" : `margin ${net.network_margin().toFixed(1)}`;
    bars(logits, best);
    const now = history.at(-1) ?? [], sum = (counts) => counts.reduce((a, b) => a + b, 0);
    const words = since.exited ? "early exit" : since.silent ? "silent" : since.steps ? "spiking" : "not begun";
    at("state").lastChild.textContent = words;
    at("state").className = since.silent || since.exited ? "quiet" : "";
    at("now").textContent = amount(since.steps ? sum(now) : 0);
    at("steps").textContent = amount(since.steps);
    at("spikes").textContent = amount(sum(since.spikes));
    at("energy").textContent = joules(since.energy);
    at("layers").replaceChildren(...data.layers.map((layer, number) => element("tr", {},
      element("td", {}, element("span", { className: "swatch", style: `--colour: ${layer.colour}` }), layer.name),
      element("td", {}, amount(since.steps ? now[number] : 0)), element("td", {}, amount(since.spikes[number])))));
    chart(history, changes);
    if (words !== before && (since.silent || since.exited) && !empty) {
      at("said").textContent = `${words} after ${since.steps - since.silent} steps: the answer is ${data.classes[best]}`;
    }
    before = words;
  }

  function pick(number) { // a test image, or null: a black one
    picked = number;
    image.set(number === null ? new Uint8Array(PIXELS) : DIGITS[number]);
    began();
    changed();
    told();
  }

  function told() {
    at("title").textContent = picked === null ? "draw here" : `test image, ${data.classes[picked]}`;
    [...at("digits").children].forEach((button, number) => button.setAttribute("aria-pressed", number === picked));
    show();
  }

  // A round brush with a soft edge along a line of pixels.
  function stroke([x0, y0], [x1, y1]) {
    const length = Math.hypot(x1 - x0, y1 - y0), radius = erasing ? 2.2 : 1.6;
    for (let way = 0; way <= length; way += 0.5) {
      const x = x0 + ((x1 - x0) * way) / (length || 1), y = y0 + ((y1 - y0) * way) / (length || 1);
      for (let i = 0; i < PIXELS; i++) {
        const distance = Math.hypot((i % SIDE) + 0.5 - x, Math.floor(i / SIDE) + 0.5 - y);
        const value = 255 * Math.min(1, Math.max(0, radius + 0.5 - distance));
        image[i] = erasing ? Math.min(image[i], 255 - value) : Math.max(image[i], value);
      }
    }
    picked = null;
    changed();
    told();
  }

  const canvas = at("draw"), cursor = [SIDE / 2, SIDE / 2];
  let last = null;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE];
  };
  canvas.onpointerdown = (event) => {
    if (event.button) return;
    began();
    stroke((last = place(event)), last);
  };
  window.onpointermove = (event) => {
    if (last) stroke(last, (last = place(event)));
  };
  window.onpointerup = window.onpointercancel = () => (last = null);
  canvas.onkeydown = (event) => {
    const moved = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!moved) return;
    event.preventDefault();
    const from = [...cursor];
    moved.forEach((by, axis) => (cursor[axis] = Math.min(SIDE - 0.5, Math.max(0.5, cursor[axis] + by))));
    if (event.shiftKey) {
      began();
      stroke(from, cursor);
    }
    moveCursor();
  };

  function moveCursor() {
    const size = 100 / SIDE;
    at("cursor").style = `left: ${(cursor[0] - 1.5) * size}%; top: ${(cursor[1] - 1.5) * size}%; width: ${3 * size}%; height: ${3 * size}%`;
  }

  // --- controls

  function play(now) {
    playing = now;
    at("play").textContent = playing ? "Pause" : "Play";
  }
  const toggle = (id) => at(id).click();
  at("play").onclick = () => play(!playing);
  at("one").onclick = () => { play(false); step(); show(); };
  at("clear").onclick = () => pick(null);
  at("erase").onclick = () => { erasing = !erasing; at("erase").setAttribute("aria-pressed", erasing); };
  at("exit").onchange = () => (since.exited = false);
  at("feedback").onchange = () => { net.network_set_feedback(Number(at("feedback").checked)); restart(); show(); };
  const ranges = {
    rate: (value) => RATES[value], epsilon: (value) => (net.network_set_epsilon(value), value.toFixed(2)),
    bound: (value) => (net.network_set_bound(value), value.toFixed(1)),
  };
  for (const [id, set] of Object.entries(ranges)) {
    at(id).oninput = () => {
      at(id).nextElementSibling.textContent = set(Number(at(id).value));
      if (since) since.exited = false;
    };
    at(id).oninput();
  }
  document.onkeydown = (event) => {
    const keys = { " ": "play", s: "one", c: "clear", e: "erase", f: "feedback", x: "exit" }, key = event.key.toLowerCase();
    if (event.ctrlKey || event.metaKey || event.altKey || (key === " " && event.target.closest("button, input"))) return;
    if (key in keys) at(keys[key]).click();
    else if (/^\d$/.test(key) && DIGITS[key]) pick(Number(key));
    else return;
    event.preventDefault();
  };
  DIGITS.forEach((digit, number) => {
    const name = data.classes[number], small = element("canvas", { width: SIDE, height: SIDE }), title = `test image: ${name}`;
    paint(small, (i) => grey(digit[i]));
    at("digits").append(element("button", { type: "button", title, ariaLabel: title, onclick: () => pick(number) }, small));
  });
  matchMedia("(prefers-color-scheme: dark)").onchange = () => { tint(); show(); };
  window.onresize = show;

  let then = null, due = 0;
  function frame(now) {
    if (playing) {
      due = Math.min(due + (RATES[at("rate").value] * (now - (then ?? now))) / 1000, 60);
      const began = performance.now(), taken = due >= 1;
      for (; due >= 1 && performance.now() - began < 12; due--) step();
      if (taken) show();
    }
    then = now;
    requestAnimationFrame(frame);
  }

  tint();
  moveCursor();
  restart();
  pick(Math.min(2, DIGITS.length - 1));
  requestAnimationFrame(frame);
}

// Layers of a part have its colour, later ones paler.
function tint() {
  data.layers.forEach((layer) => {
    layer.colour = `color-mix(in srgb, ${colour(layer.part)} ${100 - 30 * layer.number}%, ${colour("ground")})`;
  });
}

started().then((net) => {
  window.network = net; // for tests, and for whoever opens the console
  const fault = difference(net);
  at("checked").textContent = fault
    ? `It is not the network that was exported: ${fault}.`
    : `Checked just now: on ${data.golden.length} images it spikes as in Python.`;
  instrument(net);
});
