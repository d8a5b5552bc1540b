"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);

// Charts take the width of their boxes; where there is a finger and no mouse, a drag scrolls the page.
const byTouch = matchMedia("(pointer: coarse)").matches;
for (const [id, chart] of Object.entries(data.charts)) {
  const layout = { ...chart.layout, dragmode: byTouch ? false : "zoom" };
  const config = { responsive: true, displaylogo: false, displayModeBar: false };
  Plotly.newPlot(id, chart.data, layout, config);
}

// A new element with what it holds: attributes, and text or other elements.
function element(name, attributes, ...inside) {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...inside);
  return made;
}

function bars(box, rows, largest) {
  box.replaceChildren(...rows.flatMap(([name, value, words, colour]) => {
    const style = `width: ${(100 * value) / largest}%; background: ${colour}`;
    return [element("span", {}, name), element("div", { style }), element("span", {}, words)];
  }));
}

function startPlayer(players) {
  let run = 0, image = 0, timer = null;

  function show() {
    const player = players[run], now = Number(at("step").value) - 1, last = player.stopped[image];
    Object.values(player.pictures).forEach((frames, row) => {
      at("pictures").children[row].lastChild.src = frames[image][Math.min(now, frames[image].length - 1)];
    });
    const spikes = player.spikes[now][image], most = Math.max(1, ...player.spikes[last - 1].flat());
    bars(at("spikes"), player.layers.map((name, layer) =>
      [name, spikes[layer], spikes[layer].toLocaleString("en"), data.parts[name.split(",")[0]]]), most);
    const sure = player.sure[now][image], best = player.answers[now][image];
    const shown = [...sure.keys()].sort((a, b) => sure[b] - sure[a]).slice(0, 10).sort((a, b) => a - b);
    bars(at("sure"), shown.map((name) =>
      [player.names[name], sure[name], `${(100 * sure[name]).toFixed(1)} %`, name === best ? "#222222" : "#999999"]), 1);
    at("now").textContent = `timestep ${now + 1} of ${last}`;
    const total = spikes.reduce((a, b) => a + b, 0).toLocaleString("en");
    at("said").textContent = [...player.said[now][image].split("\n"), `${total} spikes so far`].join("; ");
  }

  function choose(newRun, newImage) {
    [run, image] = [newRun, newImage];
    const player = players[run], labels = Object.keys(player.pictures);
    at("pictures").replaceChildren(...labels.map((label) =>
      element("figure", {}, element("h3", {}, label), element("img", { alt: label }))));
    at("rule").textContent = `${player.rule}.`;
    at("states").replaceChildren(...player.key.map(([colour, words]) =>
      element("li", {}, element("span", { className: "swatch", style: `background: ${colour}` }), words)));
    at("step").max = player.stopped[image];
    at("step").value = Math.min(at("step").value, player.stopped[image]);
    at("images").replaceChildren(...player.titles.map((words, number) => {
      const title = words + (player.labels[number] < 0 ? "" : `, image ${player.index[number]} of the data set`);
      const thumbnail = element("img", { src: player.images[number], alt: title });
      const button = element("button", { type: "button", title, onclick: () => choose(run, number) }, thumbnail);
      button.setAttribute("aria-pressed", number === image);
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
