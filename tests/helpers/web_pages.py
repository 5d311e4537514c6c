"""The JavaScript of an exported page, run by Node on pictures, without a browser."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

NODE = shutil.which("node")
SCRIPT = """
const fs = require("fs");
const part = (text, name) =>
  text.split(new RegExp(`<script[^>]* id="${name}">`))[1].split("</script>")[0];
const text = fs.readFileSync(process.argv[1], "utf8");
const module_ = { exports: {} };
new Function("module", part(text, "model"))(module_);
const { pictures, kept } = JSON.parse(fs.readFileSync(0, "utf8"));
const settings = JSON.parse(part(text, "settings"));
module_.exports.openModel(part(text, "weights"), settings).then((model) => {
  const found = pictures.map(({ data, height, width }) => {
    const picture = { data: Uint8ClampedArray.from(data), height, width };
    const { logits, probabilities, rollout, planes } = model.look(picture, kept ?? undefined);
    const plain = (values) => Array.from(values);
    return { logits: plain(logits), probabilities: plain(probabilities), rollout: plain(rollout),
      planes: planes.map(plain) };
  });
  console.log(JSON.stringify({ found, check: model.check() }));
});
"""


def answers(page: Path, pictures: list[Any], kept: list[int] | None = None) -> dict[str, Any]:
    """What the page's code answers to pictures, uint8 ``(h, w, 3)``, and its check of itself."""
    given = [
        {
            "data": np.dstack([one, np.full(one.shape[:2], 255, np.uint8)]).flatten().tolist(),
            "height": one.shape[0],
            "width": one.shape[1],
        }
        for one in pictures
    ]
    assert NODE is not None
    done = subprocess.run(
        [NODE, "-e", SCRIPT, str(page)],
        input=json.dumps({"pictures": given, "kept": kept}),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
