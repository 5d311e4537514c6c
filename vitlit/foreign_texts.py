"""What other programs say, where the package acts on it: one table.

message of torch, Lightning, jsonargparse, … -> what it is about

Another version may say it in other words. Each row names the version whose words it holds, and
`tests/test_foreign_texts.py` asks the installed one for them, row by row.
"""

import re
from typing import Literal, NamedTuple

Topic = Literal[
    "loading process",
    "other weights",
    "no memory",
    "compiler module",
    "slurm tasks",
    "refused setting",
    "unknown class",
    "code in file",
    "cut image",
    "damaged safetensors",
    "download hint",
    "lost process",
    "denied import",
    "option",
    "value",
    "expected",
    "unknown option",
    "no config",
    "literal type",
    "class type",
    "needless warning",
    "needless tip",
]


class Text(NamedTuple):
    """pattern: regular expression; seen: the program and the version that said so."""

    topic: Topic
    pattern: str
    seen: str


TORCH, LIGHTNING = "torch 2.15.0", "pytorch_lightning 2.6.6"
PARSER, PYTHON, LINUX = "jsonargparse 4.53.0", "Python 3.11", "Linux"
TEXTS = (
    Text("loading process", r"^Caught ", TORCH),
    Text("other weights", r"^Error\(s\) in loading state_dict", TORCH),
    Text("no memory", "allocate memory", TORCH),
    Text("no memory", "out of memory", TORCH),
    Text("compiler module", r"^torch\._dynamo", TORCH),
    Text("compiler module", r"^torch\._inductor", TORCH),
    Text("slurm tasks", "--ntasks=", LIGHTNING),
    Text("refused setting", "^MisconfigurationException$", LIGHTNING),
    Text("unknown class", "given class_path", PARSER),
    Text("code in file", "(?i)weights[ _]only", TORCH),
    Text("cut image", "(?i)truncated", "Pillow 13.0.0"),
    Text("cut image", "EOF", "Pillow 13.0.0"),
    Text("damaged safetensors", "^Error while deserializing header", "safetensors 0.8.0"),
    Text("download hint", " You can use.*", "torchvision 0.29.2"),
    # of gloo, NCCL, the store of a group, and the system
    Text("lost process", "Application timeout", TORCH),
    Text("lost process", "Broken pipe", LINUX),
    Text("lost process", "Connection closed by peer", TORCH),
    Text("lost process", "Connection refused", LINUX),
    Text("lost process", "Connection reset by peer", LINUX),
    Text("lost process", "Connection was (likely )?closed", TORCH),
    Text("lost process", "NCCL communicator", TORCH),
    Text("lost process", "Socket Timeout", TORCH),
    Text("lost process", "Timed out waiting", TORCH),
    Text("lost process", "Watchdog caught collective", TORCH),
    Text("lost process", "[Ff]ailed to recv, got 0 bytes", TORCH),  # failed: before 2.15
    Text("lost process", "[Ff]ailed to send, sent 0 bytes", TORCH),
    Text("lost process", "timed out after", TORCH),
    Text("denied import", r"Importing '([\w.]+)' is not allowed", PARSER),
    Text("option", r'Parser key "([\w.]+)"', PARSER),
    Text("value", r"(?:Got|Given) value: (.*)", PARSER),
    Text("expected", r"(?m)Expected an? (.*?)(?:\. Got|$)", PARSER),
    Text("unknown option", r"does not accept option '([\w.]+)'", PARSER),
    Text("unknown option", r"unrecognized arguments: --([\w.]+)", PARSER),
    Text("no config", r"Unable to load config '(.*?)' - Parser key \"([\w.]+)\"", PARSER),
    Text("literal type", r"^typing\.Literal\[(.*)\]", PYTHON),
    Text("class type", r"^<class '(?:\w+\.)*(\w+)'>", PYTHON),
    Text("needless warning", "does not have many workers", LIGHTNING),
    Text("needless warning", "Using `DistributedSampler` with the dataloaders", LIGHTNING),
    # what is logged is the same on every rank
    Text("needless warning", "recommended to use `self.log", LIGHTNING),
    Text("needless warning", "LeafSpec", TORCH),
    # a run that goes on
    Text("needless warning", "Checkpoint directory .* exists and is not empty", LIGHTNING),
    # of class names; figures show a box
    Text("needless warning", "Glyph .* missing from", "matplotlib 3.11.2"),
    # the order of its batches is resumable
    Text("needless warning", "your dataloader is not resumable", LIGHTNING),
    Text(
        "needless warning",
        "callbacks used to create the checkpoint need to be provided",
        LIGHTNING,
    ),
    # only the size in MB is off
    Text("needless warning", "is not supported by the model summary", LIGHTNING),
    Text("needless tip", "Tip:", LIGHTNING),
    # our own line on the precision tells more
    Text("needless tip", "Automatic Mixed Precision", LIGHTNING),
)


def texts_on(topic: Topic) -> list[str]:
    """The patterns of a topic, in the order of the table."""
    return [text.pattern for text in TEXTS if text.topic == topic]


def find_text(topic: Topic, message: str) -> re.Match[str] | None:
    """Where a message says something on a topic; by the first pattern that fits."""
    found = (re.search(pattern, message) for pattern in texts_on(topic))
    return next((match for match in found if match), None)
