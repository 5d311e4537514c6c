"use strict";

/** The rows of one image, from deflated bytes in base64; page.py describes their layout. */
async function unpack(text) {
  const packed = atob(text.trim());
  const bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new DataView(await new Response(stream).arrayBuffer());
}

/** One row: levels 0 to 15 of the patches, the share `top` that 15 stands for, the patch `best`
 * that has it, and the shares of the prefix tokens. */
function readRow(view, prefix, patches, matrix, row) {
  const size = 4 + 2 * prefix + Math.ceil(patches / 2);
  const start = (matrix * (prefix + patches + 1) + row) * size;
  const share = (i) => view.getUint16(start + i, true) / 65535;
  const levels = Uint8Array.from({ length: patches }, (_, i) => {
    const pair = view.getUint8(start + 4 + 2 * prefix + (i >> 1));
    return i % 2 ? pair & 15 : pair >> 4;
  });
  const others = Array.from({ length: prefix }, (_, i) => share(4 + 2 * i));
  return { levels, top: share(0), best: view.getUint16(start + 2, true), others };
}

function start() {
  const get = (id) => document.getElementById(id);
  const data = JSON.parse(get("data").textContent);
  const [rows, cols] = data.grid;
  const patches = rows * cols;
  const prefix = data.prefix.length;
  const mean = prefix + patches; // the row after the tokens'
  const state = { image: 0, kind: "attention", block: data.blocks - 1, head: 0 };
  if (data.heads > 1) state.head = data.heads; // the mean, which follows the heads
  let view = null; // the rows of the chosen image; null while they are being unpacked
  let held = data.home; // the selected row, shown while nothing is pointed at
  let pointed = null; // the row of the patch under the pointer

  const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;
  const place = (patch) => `row ${Math.floor(patch / cols)}, column ${patch % cols}`;
  const current = () => pointed ?? held;

  function element(name, parent, properties = {}) {
    return parent.appendChild(Object.assign(document.createElement(name), properties));
  }

  function matrix(head = state.head) {
    const blocks = data.blocks * (data.heads + 1);
    if (state.kind === "rollout") return blocks;
    if (state.kind === "relevance") return blocks + 1;
    return state.block * (data.heads + 1) + head;
  }

  const read = (head) => readRow(view, prefix, patches, matrix(head), current());

  function paint(canvas, levels) {
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(cols, rows);
    levels.forEach((level, i) => pixels.data.set([...data.colors[level], 255], 4 * i));
    context.putImageData(pixels, 0, 0);
  }

  function mark(box, patch) {
    box.hidden = patch === null;
    if (box.hidden) return;
    box.style.left = `${(100 * (patch % cols)) / cols}%`;
    box.style.top = `${(100 * Math.floor(patch / cols)) / rows}%`;
    box.style.width = `${100 / cols}%`;
    box.style.height = `${100 / rows}%`;
  }

  function sentence(shown) {
    const from = current();
    const name = from < prefix ? data.prefix[from] : from === mean ? data.mean.one : null;
    const who = name ? `the ${name}` : `patch ${place(from - prefix)}`;
    const verb = {
      attention: "attends most to",
      rollout: "receives most, through all blocks, from",
      relevance: "has its most relevant patch at",
    }[state.kind];
    const text = shown.top
      ? `${who} ${verb} ${place(shown.best)}: ${percent(shown.top)}`
      : `${who} attends to no patch`;
    return text[0].toUpperCase() + text.slice(1);
  }

  function aside(shown) {
    const parts = shown.others.map((share, i) => `${data.prefix[i]} ${percent(share)}`);
    const left = Math.max(0, 1 - shown.others.reduce((sum, share) => sum + share, 0));
    const all = `Shares of this row: all patches ${percent(shown.top ? left : 0)}`;
    const peak = (shown.top * patches) / left; // from exact shares, since levels are rounded
    const most = shown.top ? `; the largest is ${peak.toFixed(2)} times their mean` : "";
    return [all, ...parts].join(", ") + most;
  }

  function draw() {
    if (!view) return;
    const shown = read(state.head);
    const from = current();
    const isPatch = from >= prefix && from < mean;
    paint(get("overlay"), shown.levels);
    mark(get("here"), isPatch ? from - prefix : null);
    mark(get("best"), shown.top ? shown.best : null);
    get("status").textContent = sentence(shown);
    get("aside").textContent = aside(shown);
    get("top").textContent = percent(shown.top);
    get("from").value = isPatch ? "patch" : String(from);
    if (state.kind === "attention") {
      for (const button of get("heads").children) {
        const head = Number(button.value);
        paint(button.firstChild, read(head).levels);
        button.setAttribute("aria-pressed", String(head === state.head));
      }
    }
  }

  /** Redraw after the kind, block, head or image changed; draw() suffices for another row. */
  function update() {
    const isAttention = state.kind === "attention";
    get("kind").value = state.kind;
    get("head").value = state.head;
    get("block").value = state.block;
    get("block-name").textContent = `${state.block} (0 to ${data.blocks - 1})`;
    get("block").disabled = get("head").disabled = !isAttention;
    get("heads-part").hidden = !isAttention || data.heads === 1;
    get("heads-note").hidden = data.heads > 0;
    draw();
  }

  function set(changes) {
    Object.assign(state, changes);
    update();
  }

  function hold(row) {
    held = row;
    pointed = null;
    draw();
  }

  /** "right" or "wrong", or "" if the true class or the prediction is not known. */
  function verdict(example) {
    if (example.label === null || !example.probabilities.length) return "";
    return (example.given ?? example.probabilities[0][0]) === example.label ? "right" : "wrong";
  }

  /** A file's name without folders; of a long one both ends, since its last digits tell it from others. */
  function short(name) {
    const letters = [...(name.split("/").pop() || name)];
    if (letters.length <= 13) return letters.join("");
    return `${letters.slice(0, 5).join("")}…${letters.slice(-6).join("")}`;
  }

  function listClasses(example) {
    get("classes").replaceChildren();
    const isHeadless = !example.probabilities.length;
    get("classes-title").hidden = isHeadless;
    for (const [name, share] of example.probabilities) {
      const item = element("li", get("classes"));
      item.className = name === example.label ? "true" : "";
      element("bdi", item, { textContent: name });
      element("span", item, { textContent: percent(share) });
      const bar = element("span", item, { className: "bar" });
      element("span", bar).style.width = `${100 * share}%`;
    }
    get("label").replaceChildren(
      example.answer ??
        (isHeadless
          ? "The model has no head, so it predicts no classes and has no relevance maps. "
          : ""),
    );
    if (example.given !== null) {
      get("label").append("Given: ");
      element("bdi", get("label"), { textContent: example.given });
      get("label").append(". ");
    }
    if (example.label === null) return;
    get("label").append("True class: ");
    element("bdi", get("label"), { textContent: example.label });
    if (verdict(example)) get("label").append(`. The prediction is ${verdict(example)}.`);
  }

  /** Show an image: its pixels at once, its maps as soon as they are unpacked. */
  async function choose(number) {
    const example = data.examples[number];
    const first = example.probabilities[0];
    state.image = number;
    view = null;
    get("stage").setAttribute("aria-busy", "true");
    get("stage").setAttribute("aria-label", `Attention map of ${example.name}`);
    get("name").textContent = example.name;
    Object.assign(get("image"), { src: example.image, className: example.small ? "square" : "" });
    get("image").style.aspectRatio = `${example.size[0]} / ${example.size[1]}`;
    get("stage").style.maxWidth = `max(10rem, 85vh * ${example.size[0] / example.size[1]})`;
    for (const button of get("images").children) {
      button.setAttribute("aria-pressed", String(Number(button.value) === number));
    }
    const option = get("kind").options[2];
    option.hidden = option.disabled = !example.relevance;
    option.textContent = first ? `relevance to ${first[0]}` : "relevance";
    if (!example.relevance && state.kind === "relevance") state.kind = "attention";
    listClasses(example);
    const unpacked = await unpack(get(`maps-${number}`).textContent);
    if (state.image !== number) return; // another image was chosen while this one was unpacked
    view = unpacked;
    get("stage").setAttribute("aria-busy", "false");
    update();
  }

  function report(error) {
    get("notice").hidden = false;
    get("notice").textContent = `The maps cannot be shown in this browser: ${error.message}`;
  }

  const show = (number) => choose(number).catch(report);

  function rowAt(event) {
    const box = get("stage").getBoundingClientRect();
    const at = (offset, length, count) =>
      Math.min(count - 1, Math.max(0, Math.floor((offset / length) * count)));
    const row = at(event.clientY - box.top, box.height, rows);
    return prefix + row * cols + at(event.clientX - box.left, box.width, cols);
  }

  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

  function onKey(event) {
    if (!view || event.ctrlKey || event.altKey || event.metaKey) return;
    const step = steps[event.key];
    if (!step && event.key !== "Escape" && event.key !== "Home") return;
    event.preventDefault();
    if (!step) return hold(data.home);
    const from = current();
    // from a token without a place, an arrow key goes to the patch that it looks at most
    if (from < prefix || from === mean) return hold(prefix + read(state.head).best);
    const row = Math.floor((from - prefix) / cols) + step[0];
    const col = ((from - prefix) % cols) + step[1];
    if (row >= 0 && row < rows && col >= 0 && col < cols) hold(prefix + row * cols + col);
  }

  function build() {
    data.examples.forEach((example, i) => {
      const button = element("button", get("images"), { type: "button", value: i });
      button.title = example.name;
      button.onclick = () => show(i);
      const className = example.small ? "square" : "";
      const image = element("img", button, { src: example.image, alt: "", className });
      const [width, height] = example.size.map((side) => (5 * side) / Math.max(...example.size));
      image.style.cssText = `width: ${width}rem; height: ${height}rem; margin: ${(5 - height) / 2}rem 0`;
      element("bdi", button, { textContent: short(example.name) });
      if (example.label === null) return;
      const line = element("span", button, { textContent: "true: " });
      element("bdi", line, { textContent: example.label });
      if (verdict(example) === "wrong") element("em", button, { textContent: "wrong" });
    });
    const names = [...Array(data.heads).keys()].map((i) => [i, `head ${i}`]);
    if (data.heads !== 1) names.unshift([data.heads, "mean"]);
    for (const [value, name] of names) {
      const text = name === "mean" ? "mean over heads" : name;
      element("option", get("head"), { value, textContent: text });
      const button = element("button", get("heads"), { type: "button", value });
      element("canvas", button, { width: cols, height: rows, className: "square" });
      element("span", button, { textContent: name });
      button.onclick = () => set({ head: value });
    }
    const froms = data.prefix.map((name, i) => [i, name]);
    froms.push([mean, data.mean.whole], ["patch", "a patch"]);
    for (const [value, textContent] of froms) {
      element("option", get("from"), { value, textContent });
    }
    get("block").max = data.blocks - 1;
    Object.assign(get("overlay"), { width: cols, height: rows });
    const colors = data.colors.map((color) => `rgb(${color})`);
    get("ramp").style.background = `linear-gradient(to right, ${colors})`;
  }

  function listen() {
    const fade = () => {
      get("overlay").style.opacity = get("opacity").value / 100;
      get("opacity-name").textContent = `${get("opacity").value} %`;
    };
    get("opacity").oninput = fade;
    fade();
    get("kind").onchange = (event) => set({ kind: event.target.value });
    get("block").oninput = (event) => set({ block: Number(event.target.value) });
    get("head").onchange = (event) => set({ head: Number(event.target.value) });
    get("from").onchange = (event) => {
      if (!view) return; // the maps of another image are being unpacked
      const value = event.target.value;
      hold(value === "patch" ? prefix + read(state.head).best : Number(value));
    };
    const stage = get("stage");
    stage.onpointermove = (event) => {
      if (event.pointerType === "touch" || pointed === rowAt(event)) return;
      pointed = rowAt(event);
      draw();
    };
    stage.onpointerleave = () => hold(held);
    stage.onclick = (event) => hold(rowAt(event));
    stage.onkeydown = onKey;
  }

  build();
  listen();
  show(0);
  // what is on the screen, for scripts and tests; null while maps are being unpacked
  window.vitlit = {
    current: () => view && { ...state, row: current(), ...read(state.head) },
  };
}

if (typeof document !== "undefined") start();
