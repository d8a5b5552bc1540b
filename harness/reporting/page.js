"use strict";
const data = JSON.parse(document.getElementById("data").textContent);

// Charts take the width of their boxes; where there is a finger and no mouse, a drag scrolls the page.
const byTouch = matchMedia("(pointer: coarse)").matches;
for (const [id, chart] of Object.entries(data.charts)) {
  const layout = { ...chart.layout, dragmode: byTouch ? false : "zoom" };
  const config = { responsive: true, displaylogo: false, displayModeBar: false };
  Plotly.newPlot(id, chart.data, layout, config);
}

// The player. data.states: [colour, words] of each state of a pixel's input neuron, in the order of harness/drawing/film.py.
const STATES = data.states, SILENT = 0, BLOCKED = 4, SENDS = 6, SENT = 7;
const at = (id) => document.getElementById(id);

function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

function draw(canvas, player, colourOf) {
  canvas.width = player.width;
  canvas.height = player.height;
  const context = canvas.getContext("2d");
  const picture = context.createImageData(player.width, player.height);
  for (let pixel = 0; pixel < player.width * player.height; pixel++) {
    picture.data.set([...colourOf(pixel), 255], 4 * pixel);
  }
  context.putImageData(picture, 0, 0);
}

function grey(values, start, channels) {
  return (pixel) => [0, 1, 2].map((colour) => values[start + pixel * channels + (channels === 3 ? colour : 0)]);
}

// Pixels that were sent, on a checkerboard.
function sentOnly(state, known, { width, board }) {
  return (pixel) => {
    const tone = board[(Math.floor(pixel / width / 4) + Math.floor((pixel % width) / 4)) % 2];
    return state[pixel] === SENDS || state[pixel] === SENT ? known(pixel) : [tone, tone, tone];
  };
}

function rgb(colour) {
  return [1, 3, 5].map((place) => parseInt(colour.slice(place, place + 2), 16));
}

function bars(box, rows, largest) {
  box.replaceChildren(...rows.flatMap(([name, value, words, colour]) => {
    const label = document.createElement("span");
    const bar = document.createElement("div");
    const figure = document.createElement("span");
    label.textContent = name;
    bar.style.cssText = `width: ${(100 * value) / largest}%; background: ${colour}`;
    figure.textContent = words;
    return [label, bar, figure];
  }));
}

function startPlayer(players) {
  const pixels = players.map((player) => ({
    images: bytes(player.images), predictions: bytes(player.predictions), states: bytes(player.states),
    misses: player.misses && bytes(player.misses), inputs: player.inputs && bytes(player.inputs),
  }));
  const errorColours = data.error_colours.map(rgb), stateColours = STATES.map(([colour]) => rgb(colour));
  at("scale").style.background = `linear-gradient(to right, ${data.error_colours})`;
  let run = 0, image = 0, timer = null;

  function show() {
    const player = players[run], { images, predictions, states, misses, inputs } = pixels[run];
    const count = player.labels.length, size = player.width * player.height, step = Number(at("step").value);
    const place = (step - 1) * count + image;
    const state = states.subarray(place * size, (place + 1) * size);
    draw(at("input"), player, inputs ? grey(inputs, place * size * player.channels, player.channels)
      : grey(images, image * size * player.channels, player.channels));
    const prediction = grey(predictions, place * size * player.channels, player.channels);
    draw(at("prediction"), player, prediction);
    if (misses) {
      draw(at("sent"), player, sentOnly(state, prediction, player));
      draw(at("miss"), player, (pixel) =>
        errorColours[Math.min(255, Math.floor(misses[place * size + pixel] / player.largest))]);
    }
    draw(at("state"), player, (pixel) => stateColours[state[pixel]]);
    const seen = player.counts[step - 1][image];
    at("states").replaceChildren(...player.key.map((kind) => {
      const [colour, words] = STATES[kind];
      const item = document.createElement("li");
      item.innerHTML = `<span class=swatch style="background:${colour}"></span><span>${words}</span><b>${seen[kind]} pixels</b>`;
      return item;
    }));
    const spikes = player.spikes[step - 1][image];
    const most = Math.max(1, ...player.spikes[player.stopped[image] - 1].flat());
    bars(at("spikes"), player.layers.map((name, layer) =>
      [name, spikes[layer], spikes[layer].toLocaleString("en"), data.parts[name.split(",")[0]]]), most);
    const sure = player.sure[step - 1][image], label = player.labels[image];
    const best = player.answers[step - 1][image];
    const shown = sure.map((share, name) => [share, name]).sort((a, b) => b[0] - a[0]).slice(0, 10).map(([, name]) => name);
    bars(at("sure"), shown.sort((a, b) => a - b).map((name) =>
      [player.names[name], sure[name], `${(100 * sure[name]).toFixed(1)} %`, name === best ? "#222222" : "#999999"]), 1);
    const answer = best < 0 ? "the network has no answer yet"
      : `the network answers ${player.names[best]}, ${(100 * sure[best]).toFixed(1)}\u00a0% sure${label < 0 ? "" : best === label ? "; right" : `; wrong, it is ${player.names[label]}`}`;
    const active = seen.reduce((a, b) => a + b, 0) - seen[SILENT], open = active - seen[BLOCKED], values = player.values;
    const total = spikes.reduce((a, b) => a + b, 0).toLocaleString("en");
    const last = player.stopped[image];
    at("now").textContent = `step ${step} of ${last}`;
    at("said").textContent = `After step ${step}, ${answer}. ${total} spikes so far. `
      + (misses ? `${spikes[0].toLocaleString("en")} of ${values.toLocaleString("en")} values (${Math.round((100 * spikes[0]) / values)}\u00a0%) `
        + `were sent so far; one that is guessed within ±${player.epsilon} is not.`
        : `${open} of ${active} active pixels (${Math.round((100 * open) / Math.max(1, active))}\u00a0%) were open in this step`
        + (player.epsilon ? `; a pixel is predicted within ±${player.epsilon}.` : "; nothing blocks them."))
      + (step === last && last < player.steps ? ` The image stops here, before step ${player.steps}.` : "");
  }

  function choose(newRun, newImage) {
    const player = players[newRun];
    [run, image] = [newRun, newImage];
    document.querySelectorAll(".once").forEach((part) => { part.hidden = !player.misses; });
    at("taken").textContent = player.misses ? "As known" : "Prediction";
    at("largest").textContent = player.misses ? `${Math.round(100 * player.largest)} % of a pixel's range and more` : "";
    at("tolerance").style.left = player.misses ? `${(100 * player.tolerance) / player.largest}%` : "0";
    at("step").max = player.stopped[image];
    at("step").value = Math.min(at("step").value, player.stopped[image]);
    at("images").replaceChildren(...player.labels.map((label, number) => {
      const button = document.createElement("button"), canvas = document.createElement("canvas");
      const start = number * player.width * player.height * player.channels;
      draw(canvas, player, grey(pixels[run].images, start, player.channels));
      button.type = "button";
      button.title = player.titles[number] + (label < 0 ? "" : `, image ${player.index[number]} of the data set`);
      button.setAttribute("aria-label", button.title);
      button.setAttribute("aria-pressed", number === image);
      button.onclick = () => choose(run, number);
      button.append(canvas);
      return button;
    }));
    show();
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    at("play").textContent = "Play";
  }

  function play() {
    if (timer) return stop();
    if (at("step").value === at("step").max) at("step").value = 1;
    show();
    at("play").textContent = "Pause";
    timer = setInterval(() => {
      at("step").value = Number(at("step").value) + 1;
      show();
      if (at("step").value === at("step").max) stop();
    }, 700);
  }

  at("run").replaceChildren(...players.map((player, number) => new Option(`${player.run} ${player.name}`, number)));
  at("runs").hidden = players.length < 2;
  at("run").onchange = () => { stop(); choose(Number(at("run").value), 0); };
  at("step").oninput = () => { stop(); show(); };
  at("play").onclick = play;
  choose(0, 0);
}

if (data.players.length) startPlayer(data.players);
