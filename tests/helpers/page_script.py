"""The script around the model of an exported page, run by Node with a document that notes calls.

The document is made of objects that accept everything; what the script does with its canvas, its
Worker and the pictures that are opened is kept in ``calls`` and can be driven by a test.
"""

import json
import shutil
import subprocess
from importlib.resources import files
from typing import Any

NODE = shutil.which("node")
SETTINGS = {
    "class_names": ["cat", "dog"],
    "img_size": [8, 8],
    "source_size": [8, 8],
    "arguments": {"patch_size": 4, "in_chans": 3},
    "mean": [0.3],
}
DOCUMENT = """
"use strict";
const calls = [], elements = {}, frames = [], timers = new Set(), sent = [], points = [];
let worker = null, photo = { width: 6000, height: 2000 }, hasPixels = true;
const classes = () => {
  const own = new Set();
  return {
    add: (name) => own.add(name), remove: (name) => own.delete(name), has: (name) => own.has(name),
    toggle: (name, on) => (on ? own.add(name) : own.delete(name)),
  };
};
const canvas = (owner) => new Proxy({}, {
  get: (target, name) => target[name] ?? ((...given) => {
    if (name === "moveTo") points.push(given);
    if (name !== "getImageData") return calls.push([name, { ...target }, owner.width]);
    if (!hasPixels) throw new RangeError("Out of memory");
    return { data: new Uint8ClampedArray(4) };
  }),
});
const made = () => {
  const self = {
    style: {}, classList: classes(), children: [], textContent: "", checked: false, value: "13",
    setPointerCapture() {}, remove() {}, hidden: true,
    appendChild(child) { self.children.push(child); return child; },
    get firstChild() { return self.children[0]; },
    get lastChild() { return self.children.at(-1); },
    getBoundingClientRect: () => ({ left: 0, top: 0, width: self.width, height: self.height }),
  };
  const context = canvas(self);
  self.getContext = () => context;
  return self;
};
globalThis.document = {
  body: made(),
  getElementById: (id) => (elements[id] ??= made()),
  createElement: made,
};
globalThis.window = {};
globalThis.URL = { createObjectURL: () => "" };
globalThis.requestAnimationFrame = (call) => frames.push(call);
globalThis.OffscreenCanvas = class { getContext() { return canvas(this); } };
globalThis.ImageData = class { constructor() { this.data = []; } };
globalThis.createImageBitmap = async (file, options) => {
  calls.push(["createImageBitmap", options]);
  return photo;
};
globalThis.Worker = class {
  constructor() { worker = this; }
  postMessage(message) { sent.push(message); }
};
globalThis.setTimeout = (call) => { timers.add(call); return call; };
globalThis.clearTimeout = (call) => timers.delete(call);
const get = document.getElementById;
const frame = () => { for (const call of frames.splice(0)) call(); };
const wait = () => { for (const call of [...timers]) { timers.delete(call); call(); } };
const tell = (data) => worker.onmessage({ data });
const answer = () => tell({
  number: sent.length, probabilities: [0.75, 0.25], rollout: [1, 1, 1, 1], time: 1,
  planes: [new Array(64).fill(0)],
});
const open = async () => {
  get("file").onchange({ target: { files: [{ name: "photo.jpg" }] } });
  await null;
  await null;
};
get("settings").textContent = process.env.SETTINGS;
"""


def run_page(steps: str, *, first: str = "{ ready: true, difference: 0 }") -> Any:
    """What steps in JavaScript return, after the page was opened; first: what the model says."""
    script = files("vitlit.deploy").joinpath("web_page.js").read_text(encoding="utf-8")
    code = (
        f"{DOCUMENT}\n(() => {{ {script} }})();\n(async () => {{\n"
        f"tell({first});\n{steps}\n"
        "})().then((found) => console.log(JSON.stringify(found)));"
    )
    assert NODE is not None
    command = [NODE, "--input-type=commonjs"]
    done = subprocess.run(
        command,
        input=code,
        text=True,
        capture_output=True,
        check=False,
        timeout=60,
        env={"SETTINGS": json.dumps(SETTINGS)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)
