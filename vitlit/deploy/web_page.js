"use strict";

/** The page around the model of web_model.js: paper to draw on, patches to click, probabilities. */
function start() {
  const get = (id) => document.getElementById(id);
  const settings = JSON.parse(get("settings").textContent);
  const names = settings.class_names;
  const [rows, cols] = settings.img_size.map((side) => side / settings.arguments.patch_size);
  const patches = rows * cols;
  const [height, width] = settings.source_size;
  const SHOWN = 10; // classes at most; with more, the most probable ones
  const ROLLOUT_COLOUR = [242, 97, 0], FULL_COLOUR = 4; // times the mean
  const paper = get("paper"), sight = get("sight");
  const ink = paper.getContext("2d", { willReadFrequently: true });

  let left = new Set(); // patches that were taken away
  let chosen = null; // the patch that the keyboard or the mouse is at
  let seen = null; // the last answer of the model
  let whole = null; // its answer for the same picture with all patches
  let isPicture = false, isEmpty = true;
  const pen = { x: 0.5, y: 0.5, down: false };

  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  const place = (patch) => `row ${1 + Math.floor(patch / cols)}, column ${1 + patch % cols}`;

  function element(name, parent, properties = {}) {
    return parent.appendChild(Object.assign(document.createElement(name), properties));
  }

  function complain(text) {
    get("notice").textContent = text;
    get("notice").hidden = !text;
  }

  // ---- the model, in a Worker where there is one, so that drawing never waits for it ----

  const queue = {
    busy: true, wanted: false, isNew: true, isReady: false, hasFailed: false, number: 0, frame: 0, times: [],
  };
  let ask = null; // sends a picture to the model
  let local = null; // the model, where there is no Worker

  async function open() {
    const text = get("weights").textContent;
    get("weights").remove();
    try {
      const source = new Blob([get("model").textContent], { type: "text/javascript" });
      const worker = new Worker(URL.createObjectURL(source));
      worker.onerror = () => complain("The model stopped working. Load this page again.");
      worker.onmessage = ({ data }) => receive(data);
      worker.postMessage({ settings, text });
      ask = (message, ...pixels) => worker.postMessage(message, pixels);
    } catch {
      local = await openModel(text, settings);
      ask = (message) => setTimeout(() => {
        const begun = performance.now();
        let found;
        try {
          found = local.look(message.picture, message.kept);
        } catch (error) {
          return receive({ error: String(error) });
        }
        receive({ number: message.number, ...found, time: performance.now() - begun });
      });
      receive({ ready: true, difference: local.check() });
    }
  }

  function receive(message) {
    queue.isReady ||= Boolean(message.ready); // if never, there is no model that could be asked
    queue.busy = !queue.isReady;
    clearTimeout(queue.wait);
    document.body.classList.remove("waiting");
    if (message.error) {
      queue.isNew = true; // the model may have kept the picture before
      queue.hasFailed = true;
      complain(`The model cannot compute this: ${message.error}`);
    } else if (message.ready) tellCheck(message.difference);
    else show(message);
    if (queue.wanted && !queue.frame && !queue.busy) request();
  }

  function tellCheck(difference) {
    const isGood = difference < 1e-3;
    get("checked").textContent = `This browser has just computed the logits of a test picture: they ` +
      `differ by at most ${difference.toExponential(1)} from those that PyTorch computed with the ` +
      `same weights.`;
    if (!isGood) complain("This browser does not compute the same numbers as PyTorch. Do not trust the answers.");
  }

  /** Ask for an answer to what is on the paper now: at once, or as soon as the model is free. */
  function request() {
    queue.frame = 0;
    queue.wanted = queue.busy;
    if (queue.busy) return;
    queue.busy = true;
    queue.number += 1;
    // large models need seconds: what is shown fades until the new answer is there
    queue.wait = setTimeout(() => document.body.classList.add("waiting"), 250);
    queue.all = !left.size;
    const kept = Array.from({ length: patches }, (_, i) => i).filter((i) => !left.has(i));
    const message = { number: queue.number, picture: null, kept };
    if (!queue.isNew) return ask(message);
    queue.isNew = false;
    let data;
    try {
      ({ data } = ink.getImageData(0, 0, paper.width, paper.height));
    } catch (error) { // such as too little memory for a large picture
      return receive({ error: String(error) });
    }
    message.picture = { data, width: paper.width, height: paper.height };
    ask(message, data.buffer);
  }

  // ---- what the model gave ----

  let talk = 0;

  function show(answer) {
    seen = answer;
    if (queue.hasFailed) complain(""); // what could not be computed is gone
    queue.hasFailed = false;
    if (queue.all) whole = answer.probabilities;
    paint();
    list(answer.probabilities);
    tellPace(answer.time);
    clearTimeout(talk);
    talk = setTimeout(speak, 600); // a screen reader hears the answer when the pen rests
  }

  function ranked(probabilities) {
    return [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
  }

  function list(probabilities) {
    const order = ranked(probabilities);
    const best = order[0];
    const listed = names.length <= SHOWN ? [...probabilities.keys()] : order.slice(0, SHOWN);
    const items = get("classes"), hasGhost = left.size > 0 && whole !== null;
    while (items.children.length < listed.length) addClass(items);
    listed.forEach((index, i) => {
      const item = items.children[i];
      const [name, bar, share] = item.children;
      item.className = index === best && !isEmpty ? "first" : "";
      name.textContent = names[index];
      bar.firstChild.style.width = percent(probabilities[index]).replace(" ", "");
      if (hasGhost) bar.lastChild.style.left = `${100 * whole[index]}%`;
      bar.lastChild.hidden = !hasGhost;
      share.textContent = percent(probabilities[index]);
    });
    get("ghost-note").hidden = !hasGhost;
    get("best").textContent = isEmpty ? "…" : names[best];
    get("best").className = names[best].length > 8 ? "long" : "";
    get("best-share").textContent = isEmpty ? "" : percent(probabilities[best]);
    if (chosen !== null || left.size) tellPatch();
  }

  function addClass(items) {
    items.classList.toggle("long", names.some((name) => name.length > 8));
    const item = element("li", items);
    element("bdi", item);
    const bar = element("div", item, { className: "bar" });
    element("span", bar);
    element("i", bar, { hidden: true });
    element("span", item);
  }

  function speak() {
    const [best, next] = ranked(seen.probabilities);
    if (isEmpty) return;
    const second = next === undefined ? "" : `, then ${names[next]}, ${percent(seen.probabilities[next])}`;
    get("spoken").textContent =
      `${names[best]}, ${percent(seen.probabilities[best])}${second}`;
  }

  function tellPace(time) {
    queue.times.push(time);
    if (queue.times.length > 10) queue.times.shift();
    const middle = [...queue.times].sort((a, b) => a - b)[queue.times.length >> 1];
    get("pace").textContent = `One answer takes ${middle < 10 ? middle.toFixed(1) : Math.round(middle)} ms here.`;
  }

  /** The model's input, patches in colour by their rollout; those taken away are hatched. */
  function paint() {
    if (!seen) return;
    const scale = sight.width / width;
    const context = sight.getContext("2d");
    const small = new OffscreenCanvas(width, height);
    const pixels = new ImageData(width, height);
    const planes = seen.planes;
    const mean = seen.rollout.reduce((sum, share) => sum + share, 0) / (patches - left.size);
    const coloured = get("colour").checked;
    for (let i = 0; i < width * height; i++) {
      const patch = Math.floor(Math.floor(i / width) * rows / height) * cols +
        Math.floor((i % width) * cols / width);
      const colour = planes.length === 3 ? planes.map((plane) => plane[i]) : Array(3).fill(planes[0][i]);
      const times = seen.rollout[patch] / mean;
      const strength = coloured && times > 1 ? 0.9 * Math.min(1, Math.log(times) / Math.log(FULL_COLOUR)) : 0;
      const grey = 255 * (0.1 + 0.75 * colour.reduce((sum, value) => sum + value, 0) / 765);
      for (let c = 0; c < 3; c++) {
        const below = coloured ? grey : colour[c];
        pixels.data[4 * i + c] = below + (ROLLOUT_COLOUR[c] - below) * strength;
      }
      pixels.data[4 * i + 3] = 255;
    }
    small.getContext("2d").putImageData(pixels, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, width * scale, height * scale);
    drawGrid(context, sight.width, sight.height);
  }

  function drawGrid(context, wide, high) {
    context.lineWidth = 1;
    context.strokeStyle = "rgba(128, 128, 128, .45)";
    context.beginPath();
    for (let c = 1; c < cols; c++) line(context, c * wide / cols, 0, c * wide / cols, high);
    for (let r = 1; r < rows; r++) line(context, 0, r * high / rows, wide, r * high / rows);
    context.stroke();
    for (const patch of left) {
      const [x, y] = [patch % cols * wide / cols, Math.floor(patch / cols) * high / rows];
      context.save();
      context.beginPath();
      context.rect(x, y, wide / cols, high / rows);
      context.clip();
      context.fillStyle = "#3b4149";
      context.fill();
      context.strokeStyle = "#7b838d";
      context.lineWidth = 2;
      context.beginPath();
      const step = Math.max(7, wide / cols / 6);
      for (let d = step / 2; d < wide / cols + high / rows; d += step) line(context, x + d, y, x, y + d);
      context.stroke();
      context.restore();
    }
  }

  function line(context, x, y, toX, toY) {
    context.moveTo(x, y);
    context.lineTo(toX, toY);
  }

  // ---- the paper ----

  const darkGround = () => !get("swap").checked;
  const penWidth = () => Number(get("pen").value) / 100 * Math.min(paper.width, paper.height);

  function clear() {
    ink.fillStyle = darkGround() ? "#000" : "#fff";
    ink.fillRect(0, 0, paper.width, paper.height);
    isPicture = false;
    isEmpty = true;
    changed();
  }

  /** After the picture changed; with a new one the patches that were taken away come back. */
  function changed(isOther = true) {
    if (isOther) {
      left.clear();
      tellPatch();
    }
    queue.isNew = true;
    whole = null; // of the picture before
    update();
  }

  /** After the picture, or the patches that the model may see, changed. */
  function update() {
    get("restore").disabled = !left.size;
    get("hint").hidden = !isEmpty;
    get("hint").classList.toggle("dark", !darkGround());
    queue.wanted = true;
    queue.frame ||= requestAnimationFrame(request); // once a frame, however fast the pen is
  }

  function stroke(from, to) {
    ink.strokeStyle = darkGround() ? "#fff" : "#000";
    ink.lineWidth = penWidth();
    ink.lineCap = ink.lineJoin = "round";
    ink.beginPath();
    line(ink, from.x * paper.width, from.y * paper.height, to.x * paper.width, to.y * paper.height);
    ink.stroke();
    isEmpty = false;
    changed(false);
  }

  function spot(event) {
    const box = paper.getBoundingClientRect();
    return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
  }

  function listenToPen() {
    let last = null;
    paper.onpointerdown = (event) => {
      if (event.button) return;
      if (isPicture) freshPaper(); // of its usual size: spot() comes after it
      paper.setPointerCapture(event.pointerId);
      get("nib").hidden = true;
      last = spot(event);
      stroke(last, last);
    };
    paper.onpointermove = (event) => {
      if (!last) return;
      const events = event.getCoalescedEvents ? event.getCoalescedEvents() : [event];
      for (const one of events.length ? events : [event]) {
        const to = spot(one);
        stroke(last, to);
        last = to;
      }
    };
    paper.onpointerup = paper.onpointercancel = () => { last = null; };
    paper.onkeydown = onPaperKey;
    paper.onblur = () => { get("nib").hidden = true; pen.down = false; };
  }

  const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  function onPaperKey(event) {
    const move = MOVES[event.key];
    if (move) {
      const step = event.shiftKey ? 0.01 : 0.04;
      const to = {
        x: Math.min(1, Math.max(0, pen.x + step * move[0])),
        y: Math.min(1, Math.max(0, pen.y + step * move[1])),
      };
      if (pen.down) stroke(pen, to);
      Object.assign(pen, to);
    } else if (event.key === " ") {
      if (!pen.down && isPicture) freshPaper();
      pen.down = !pen.down;
      if (pen.down) stroke(pen, pen);
    } else if (event.key === "Delete" || event.key === "Backspace") freshPaper();
    else return;
    event.preventDefault();
    const nib = get("nib");
    nib.hidden = false;
    nib.classList.toggle("down", pen.down);
    nib.style.left = `${100 * pen.x}%`;
    nib.style.top = `${100 * pen.y}%`;
    nib.style.width = nib.style.height = `${Math.max(10, penWidth() / paper.width * paper.clientWidth)}px`;
  }

  /** A file on the paper, in its own size: the model's code resizes it, as predict would. */
  async function openPicture(file) {
    complain("");
    if (!file) return;
    let picture;
    try {
      picture = await createImageBitmap(file, {
        imageOrientation: "from-image",
        colorSpaceConversion: "none", // predict reads the numbers in the file as they are, too
      });
    } catch {
      return complain(`${file.name || "This"} is not a picture that this browser can open.`);
    }
    resize(picture.width, picture.height);
    ink.imageSmoothingQuality = "high"; // a new size of the canvas resets it
    ink.fillStyle = "#fff"; // below transparent pixels
    ink.fillRect(0, 0, paper.width, paper.height);
    ink.drawImage(picture, 0, 0, paper.width, paper.height);
    isPicture = true;
    isEmpty = false;
    changed();
  }

  function resize(wide, high) {
    const MOST = 4096; // pixels of a side; larger pictures are scaled down by the browser first
    const scale = Math.min(1, MOST / Math.max(wide, high));
    paper.width = Math.max(1, Math.round(wide * scale));
    paper.height = Math.max(1, Math.round(high * scale));
    get("drop").style.maxWidth = `calc(34rem * ${paper.width / paper.height})`;
  }

  function save() {
    paper.toBlob((blob) => {
      const link = element("a", document.body, { download: "drawing.png", href: URL.createObjectURL(blob) });
      link.click();
      link.remove();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  }

  function freshPaper() {
    const scale = Math.max(1, Math.ceil(280 / Math.max(width, height)));
    resize(width * scale, height * scale);
    clear();
  }

  function listenToTools() {
    get("clear").onclick = freshPaper;
    get("save").onclick = save;
    get("swap").onchange = freshPaper;
    get("pen").oninput = () => { get("pen-name").textContent = `${get("pen").value} % of the side`; };
    get("file").onchange = (event) => {
      openPicture(event.target.files[0]);
      event.target.value = ""; // the same file may be opened again
    };
    const drop = get("drop");
    drop.ondragover = (event) => { event.preventDefault(); drop.classList.add("target"); };
    drop.ondragleave = () => drop.classList.remove("target");
    drop.ondrop = (event) => {
      event.preventDefault();
      drop.classList.remove("target");
      openPicture(event.dataTransfer.files[0]);
    };
    document.onpaste = (event) => {
      const [file] = event.clipboardData.files;
      if (file) openPicture(file);
    };
  }

  // ---- the patches ----

  function choose(patch) {
    chosen = patch;
    const here = get("here");
    here.hidden = patch === null;
    if (patch === null) return;
    here.style.left = `${100 * (patch % cols) / cols}%`;
    here.style.top = `${100 * Math.floor(patch / cols) / rows}%`;
    here.style.width = `${100 / cols}%`;
    here.style.height = `${100 / rows}%`;
    tellPatch();
  }

  function tellPatch() {
    const gone = left.size ? `${left.size} of ${patches} patches taken away. ` : "";
    if (!seen) return;
    let text = gone;
    if (chosen !== null) {
      const share = percent(seen.rollout[chosen]);
      text += left.has(chosen) ? `The patch in ${place(chosen)} is taken away. ` :
        `The patch in ${place(chosen)} has ${share} of the rollout. `;
    }
    if (left.size && whole) {
      const best = ranked(whole)[0];
      text += `${names[best]}: ${percent(seen.probabilities[best])} instead of ${percent(whole[best])}.`;
    }
    get("patch-status").textContent = text || "All patches are there.";
  }

  function toggle(patch) {
    if (!left.delete(patch)) {
      if (left.size === patches - 1) {
        get("patch-status").textContent = "This is the last patch. It stays, because the model needs at least one.";
        return;
      }
      left.add(patch);
    }
    update();
    tellPatch();
  }

  function restore() {
    left.clear();
    update();
    tellPatch();
  }

  function patchAt(event) {
    const box = sight.getBoundingClientRect();
    const c = Math.floor((event.clientX - box.left) / box.width * cols);
    const r = Math.floor((event.clientY - box.top) / box.height * rows);
    return Math.min(rows - 1, Math.max(0, r)) * cols + Math.min(cols - 1, Math.max(0, c));
  }

  function listenToPatches() {
    const stage = get("stage");
    stage.onpointermove = (event) => {
      if (event.pointerType !== "touch" && chosen !== patchAt(event)) choose(patchAt(event));
    };
    stage.onpointerleave = () => { choose(null); tellPatch(); };
    stage.onclick = (event) => { choose(patchAt(event)); toggle(chosen); };
    stage.onblur = () => choose(null);
    stage.onkeydown = (event) => {
      const move = MOVES[event.key];
      if (move) {
        const from = chosen ?? 0;
        const c = Math.min(cols - 1, Math.max(0, from % cols + (chosen === null ? 0 : move[0])));
        const r = Math.min(rows - 1, Math.max(0, Math.floor(from / cols) + (chosen === null ? 0 : move[1])));
        choose(r * cols + c);
      } else if (event.key === " " || event.key === "Enter") {
        if (chosen === null) choose(0);
        toggle(chosen);
      } else if (event.key === "Escape") restore();
      else return;
      event.preventDefault();
    };
    get("restore").onclick = restore;
    get("colour").onchange = paint;
  }

  if (settings.arguments.in_chans === 3) get("hint").textContent = "Drop a picture here, or draw one";
  // Pictures with a dark mean were bright strokes on a dark ground, as those of MNIST.
  const mean = settings.mean.reduce((sum, value) => sum + value, 0) / settings.mean.length;
  get("swap").checked = mean >= 0.5;
  get("pen").value = 13;
  const sharp = Math.max(1, Math.ceil(480 / Math.max(width, height)));
  [sight.width, sight.height] = [width * sharp, height * sharp];
  listenToTools();
  listenToPen();
  listenToPatches();
  get("pen").oninput();
  freshPaper();
  open();
  // for scripts and tests
  window.vitlit = {
    current: () => queue.busy || queue.wanted ? null : { ...seen, left: [...left] },
    answers: () => queue.number,
  };
}

if (typeof document !== "undefined") start();
