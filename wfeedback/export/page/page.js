"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const sum = (values) => values.reduce((a, b) => a + b, 0);
const DIGITS = data.images.map(bytesOf);
const RATES = [1, 2, 5, 10, 20, 50, 100, 200, 1000]; // steps per second
const KEPT = 150; // steps in the chart
const SIDE = 28, PIXELS = SIDE * SIDE; // of the image

// --- the network: wfeedback/event/c/network.c, see its functions in network.h

function halves(bytes) { // float16 -> float32
  const view = new DataView(bytes.buffer), values = new Float32Array(bytes.length / 2);
  for (let i = 0; i < values.length; i++) {
    const half = view.getUint16(2 * i, true), exponent = (half >> 10) & 31, fraction = (half & 1023) / 1024;
    values[i] = (half >> 15 ? -1 : 1) * (exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction);
  }
  return new Uint8Array(values.buffer);
}

async function started() {
  const kernel = (await WebAssembly.instantiate(bytesOf(data.runtime), {})).instance.exports, { memory } = kernel, { offsets } = data;
  let end = kernel.__heap_base.value;
  const view = () => new DataView(memory.buffer); // which another one replaces when memory grows
  const room = (size) => { // where so many bytes may lie
    const place = (end + 15) & ~15;
    end = place + size;
    if (end > memory.buffer.byteLength) memory.grow(Math.ceil((end - memory.buffer.byteLength) / 65536));
    return place;
  };
  const put = (...pieces) => {
    const place = room(sum(pieces.map((piece) => piece.length)));
    let at = place;
    for (const piece of pieces) {
      new Uint8Array(memory.buffer).set(piece, at);
      at += piece.length;
    }
    return place;
  };
  const network = room(data.sizes.tables), settings = room(data.sizes.settings), image = room(PIXELS);
  const block = put(...data.block.map(([text, half]) => (half ? halves(bytesOf(text)) : bytesOf(text))));
  if (kernel.network_open(block, end - block, network, settings)) throw new Error("the network of this page is damaged");
  const bytes = kernel.network_size(network);
  const state = kernel.network_begin(network, settings, room(bytes), bytes);
  if (!state) throw new Error("the network of this page does not begin");
  const array = (name) => view().getUint32(state + offsets.state[name], true);
  const call = (name, ...values) => kernel[`network_${name}`](state, ...values);
  return {
    reset: () => call("reset", ...data.key, 0),
    step: () => call("step"),
    answer: () => call("answer"),
    margin: () => call("margin"),
    show(pixels) {
      new Uint8Array(memory.buffer).set(pixels, image);
      call("show", image);
    },
    set(name, value) {
      const place = settings + offsets.settings[name];
      if (name === "feedback") view().setInt32(place, value, true);
      else view().setFloat32(place, value, true);
      call("set", settings);
    },
    open: () => new Uint8Array(memory.buffer, array("is_open"), PIXELS),
    prediction: () => new Float32Array(memory.buffer, array("prediction"), PIXELS),
    logits: () => [...new Float32Array(memory.buffer, array("logits"), data.classes.length)],
    spikes: () => data.layers.map((_, layer) => call("spikes", layer)),
  };
}

// The first difference from the spikes that Python counted while it was shown the same images one after the other, or "".
function difference(net) {
  net.reset();
  for (const [image, steps] of data.golden.entries()) {
    net.show(DIGITS[image]);
    for (const [step, counts] of steps.entries()) {
      net.step();
      const found = net.spikes(), layer = counts.findIndex((count, at) => count !== found[at]);
      if (layer >= 0) {
        return `image ${image}, timestep ${step + 1}, ${data.layers[layer].name}: ${found[layer]} spikes, in Python ${counts[layer]}`;
      }
    }
  }
  return "";
}

// pJ of one step's spikes by layer; fed: whether they reach the decoder, too.
function energyOf(counts, fed) {
  return data.picojoules * sum(data.layers.map(({ forward, feedback }, layer) => counts[layer] * (forward + (fed ? feedback : 0))));
}

// --- what is shown

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const rgb = (name) => colour(name).match(/\w\w/g).map((part) => parseInt(part, 16));
const STATES = Object.fromEntries(["silent", "dark", "bright", "blocked"].map((name) => [name, rgb(name)]));
const grey = (value) => [value, value, value];
const amount = (value) => value.toLocaleString("en");

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

function bars(logits, best) { // the margin is the end of the best one's bar
  const low = Math.min(0, ...logits), share = 100 / (Math.max(1, ...logits) - low);
  const second = Math.max(...logits.filter((_, name) => name !== best));
  const bar = (from, to, className) =>
    element("i", { className, style: `left: ${(Math.min(from, to) - low) * share}%; width: ${Math.abs(to - from) * share}%` });
  at("bars").replaceChildren(...logits.map((value, name) => {
    const parts = name === best ? [bar(0, second, ""), bar(second, value, "margin")] : [bar(0, value, "")];
    const track = element("div", { className: "track" }, ...parts);
    return element("div", { className: "row" }, element("span", {}, data.classes[name]), track, element("span", {}, value.toFixed(1)));
  }));
}

function chart(history) {
  const canvas = at("chart"), ratio = window.devicePixelRatio, width = canvas.clientWidth, height = canvas.clientHeight;
  Object.assign(canvas, { width: width * ratio, height: height * ratio });
  const pen = canvas.getContext("2d"), left = 44, base = height - 4, room = base - 12, wide = (width - left) / KEPT;
  const most = Math.max(10, ...history.map(({ counts }) => sum(counts))), unit = 10 ** Math.floor(Math.log10(most));
  const top = unit * [1, 1.5, 2, 3, 5, 7.5, 10].find((times) => times * unit >= most);
  const x = (step) => left + (step + KEPT - history.length) * wide, heights = history.map(() => base);
  pen.scale(ratio, ratio);
  Object.assign(pen, { font: "12px system-ui, sans-serif", textAlign: "right", textBaseline: "middle" });
  for (const share of [0, 0.5, 1]) {
    pen.fillStyle = colour("line");
    pen.fillRect(left, Math.round(base - share * room), width - left, 1);
    pen.fillStyle = colour("soft");
    pen.fillText(amount(share * top), left - 8, base - share * room - (share ? 0 : 4));
  }
  data.layers.forEach((_, layer) => {
    pen.fillStyle = getComputedStyle(at("layers").rows[layer].querySelector(".swatch")).backgroundColor;
    history.forEach(({ counts }, step) => {
      const high = (counts[layer] / top) * room;
      pen.fillRect(x(step), (heights[step] -= high), Math.max(1, wide - 0.75), high);
    });
  });
  pen.fillStyle = colour("accent");
  history.forEach(({ first }, step) => first && pen.fillRect(x(step), base, Math.max(2, wide), 4)); // the image has changed
}

// --- the instrument

function instrument(net) {
  const image = new Uint8Array(PIXELS), history = [], fed = () => at("feedback").checked;
  const exited = () => at("exit").checked && since.holds && image.some(Boolean);
  let playing = true, picked = null, last = null, since;

  // Another image: a test image of this number, or what has been drawn (null). anew: what has been spent is counted anew.
  function change(number, anew = true) {
    if (anew) since = { steps: 0, silent: 0, spikes: data.layers.map(() => 0), energy: 0 };
    if (!fed()) net.reset(); // what never forgets begins at rest
    net.show(image);
    since.holds = 0;
    picked = number;
    at("title").textContent = number === null ? "draw here" : `test image, ${data.classes[number]}`;
    [...at("digits").children].forEach((button, each) => button.setAttribute("aria-pressed", each === number));
    show();
  }

  function pick(number) {
    image.set(DIGITS[number] ?? new Uint8Array(PIXELS));
    change(number);
  }

  function step() {
    if (exited()) return;
    since.holds = net.step();
    since.steps += 1;
    const counts = net.spikes();
    since.silent = sum(counts) ? 0 : since.silent + 1;
    counts.forEach((count, layer) => (since.spikes[layer] += count));
    since.energy += energyOf(counts, fed());
    history.push({ counts, first: since.steps === 1 });
    if (history.length > KEPT) history.shift();
  }

  function show() {
    const open = net.open(), prediction = net.prediction(), logits = net.logits(), best = net.answer();
    const state = (value, i) => (!value ? "silent" : !open[i] ? "blocked" : prediction[i] * 255 < value ? "dark" : "bright");
    const states = Array.from(image, state), lit = states.filter((name) => name !== "silent");
    paint(at("draw"), (i) => grey(image[i]));
    paint(at("seen"), (i) => STATES[states[i]]);
    paint(at("predicted"), (i) => grey(255 * prediction[i]));
    bars(logits, best);
    const counts = since.steps ? history.at(-1).counts : data.layers.map(() => 0);
    const is = exited() ? "early exit" : since.silent ? "silent" : since.steps ? "spiking" : "not begun";
    const quiet = (exited() || since.silent > 0) && lit.length, answer = logits.some(Boolean) ? data.classes[best] : "–";
    const left = lit.filter((name) => name !== "blocked").length;
    const words = {
      answer: lit.length ? answer : "–", margin: `margin ${net.margin().toFixed(1)}`, is, now: amount(sum(counts)),
      open: fed() ? `${left} of ${lit.length} pixels that are not black are open` : "no decoder, no prediction",
      steps: amount(since.steps), spikes: amount(sum(since.spikes)), energy: `${(since.energy / 1e6).toFixed(2)} µJ`,
      said: quiet ? `${is} after ${since.steps - since.silent} steps: the answer is ${answer}` : "",
    };
    for (const [id, text] of Object.entries(words)) if (at(id).textContent !== text) at(id).textContent = text;
    at("is").parentNode.className = quiet ? "quiet" : "";
    [...at("layers").rows].forEach(({ cells }, layer) => {
      [cells[1].textContent, cells[2].textContent] = [counts[layer], since.spikes[layer]].map(amount);
    });
    chart(history);
  }

  // --- drawing: a round brush with a soft edge along a line of pixels

  function stroke([x0, y0], [x1, y1], anew = false) {
    const erases = at("erase").getAttribute("aria-pressed") === "true", radius = erases ? 2.7 : 2.1;
    const length = Math.hypot(x1 - x0, y1 - y0) || 1;
    for (let way = 0; way <= length; way += 0.5) {
      const x = x0 + ((x1 - x0) * way) / length, y = y0 + ((y1 - y0) * way) / length;
      for (let i = 0; i < PIXELS; i++) {
        const distance = Math.hypot((i % SIDE) + 0.5 - x, Math.floor(i / SIDE) + 0.5 - y);
        const value = 255 * Math.min(1, Math.max(0, radius - distance));
        image[i] = erases ? Math.min(image[i], 255 - value) : Math.max(image[i], value);
      }
    }
    change(null, anew);
  }

  function place(event) {
    const box = at("draw").getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE];
  }

  at("draw").onpointerdown = (event) => event.button || stroke((last = place(event)), last, true);
  window.onpointermove = (event) => last && stroke(last, (last = place(event)));
  window.onpointerup = window.onpointercancel = () => (last = null);

  // --- controls

  DIGITS.forEach((digit, number) => {
    const small = element("canvas", { width: SIDE, height: SIDE }), title = `test image: ${data.classes[number]}`;
    paint(small, (i) => grey(digit[i]));
    at("digits").append(element("button", { type: "button", title, ariaLabel: title, onclick: () => pick(number) }, small));
  });
  data.layers.forEach(({ name, part, number }) => { // later layers of a part are paler
    const style = `--colour: color-mix(in srgb, var(--${part}) ${100 - 30 * number}%, var(--ground))`;
    const head = element("td", {}, element("span", { className: "swatch", style }), name);
    at("layers").append(element("tr", {}, head, element("td"), element("td")));
  });
  net.reset();
  pick(2);

  function play(now) {
    playing = now;
    at("play").textContent = playing ? "Pause" : "Play";
  }

  at("play").onclick = () => play(!playing);
  at("one").onclick = () => { play(false); step(); show(); };
  at("clear").onclick = () => pick(null);
  at("erase").onclick = ({ target }) => target.setAttribute("aria-pressed", target.getAttribute("aria-pressed") === "false");
  at("feedback").onchange = () => {
    net.set("feedback", Number(fed()));
    net.reset();
    change(picked);
  };
  const sliders = {
    rate: (value) => RATES[value],
    epsilon: (value) => { net.set("epsilon", value); return value.toFixed(2); },
    bound: (value) => { net.set("gap_bound", value); return value.toFixed(1); },
  };
  for (const [id, set] of Object.entries(sliders)) {
    at(id).oninput = () => {
      at(id).nextElementSibling.textContent = set(Number(at(id).value));
      since.holds = 0; // until the next step, by what is set now
    };
    at(id).oninput();
  }
  const keys = { " ": "play", s: "one", c: "clear", e: "erase", f: "feedback", x: "exit" };
  document.onkeydown = (event) => {
    const key = event.key.toLowerCase(), button = at(keys[key]) ?? at("digits").children[/^\d$/.test(key) ? key : -1];
    if (!button || event.ctrlKey || event.metaKey || event.altKey || (key === " " && event.target.closest("button, input"))) return;
    event.preventDefault();
    button.click();
  };
  window.onresize = matchMedia("(prefers-color-scheme: dark)").onchange = show;

  let then = performance.now(), due = 0;
  function frame(now) {
    if (playing) due = Math.min(due + (RATES[at("rate").value] * (now - then)) / 1000, 60);
    const began = performance.now(), moves = playing && due >= 1;
    for (; playing && due >= 1 && performance.now() - began < 12; due--) step();
    if (moves) show();
    then = now;
    requestAnimationFrame(frame);
  }

  requestAnimationFrame(frame);
}

started().then((net) => {
  window.network = net; // for tests, and for whoever opens the console
  const fault = difference(net);
  at("checked").textContent = fault
    ? `It is not the network that was exported: ${fault}.`
    : `Checked just now: on ${data.golden.length} images it spikes as in Python.`;
  instrument(net);
});
