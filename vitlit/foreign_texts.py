"""What other programs say, where the package acts on it: one table.

message of torch, Lightning, jsonargparse, … -> what it is about

Another version may say it in other words. Each row names the version whose words it holds, and
`tests/test_foreign_texts.py` asks the installed one for them, row by row.
"""

import re
from typing import Literal, NamedTuple

ForeignTopic = Literal[
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


class ForeignText(NamedTuple):
    """pattern: regular expression; seen: the program and the version that said so."""

    topic: ForeignTopic
    pattern: str
    seen: str


TORCH, LIGHTNING = "torch 2.15.0", "pytorch_lightning 2.6.6"
JSONARGPARSE, PYTHON, LINUX = "jsonargparse 4.53.0", "Python 3.11", "Linux"
FOREIGN_TEXTS = (
    ForeignText("loading process", r"^Caught ", TORCH),
    ForeignText("other weights", r"^Error\(s\) in loading state_dict", TORCH),
    ForeignText("no memory", "allocate memory", TORCH),
    ForeignText("no memory", "out of memory", TORCH),
    ForeignText("compiler module", r"^torch\._dynamo", TORCH),
    ForeignText("compiler module", r"^torch\._inductor", TORCH),
    ForeignText("slurm tasks", "--ntasks=", LIGHTNING),
    ForeignText("refused setting", "^MisconfigurationException$", LIGHTNING),
    ForeignText("unknown class", "given class_path", JSONARGPARSE),
    ForeignText("code in file", "(?i)weights[ _]only", TORCH),
    ForeignText("cut image", "(?i)truncated", "Pillow 13.0.0"),
    ForeignText("cut image", "EOF", "Pillow 13.0.0"),
    ForeignText("damaged safetensors", "^Error while deserializing header", "safetensors 0.8.0"),
    ForeignText("download hint", " You can use.*", "torchvision 0.29.2"),
    # of gloo, NCCL, the store of a group, and the system
    ForeignText("lost process", "Application timeout", TORCH),
    ForeignText("lost process", "Broken pipe", LINUX),
    ForeignText("lost process", "Connection closed by peer", TORCH),
    ForeignText("lost process", "Connection refused", LINUX),
    ForeignText("lost process", "Connection reset by peer", LINUX),
    ForeignText("lost process", "Connection was (likely )?closed", TORCH),
    ForeignText("lost process", "NCCL communicator", TORCH),
    ForeignText("lost process", "Socket Timeout", TORCH),
    ForeignText("lost process", "Timed out waiting", TORCH),
    ForeignText("lost process", "Watchdog caught collective", TORCH),
    ForeignText("lost process", "[Ff]ailed to recv, got 0 bytes", TORCH),  # failed: before 2.15
    ForeignText("lost process", "[Ff]ailed to send, sent 0 bytes", TORCH),
    ForeignText("lost process", "timed out after", TORCH),
    ForeignText("denied import", r"Importing '([\w.]+)' is not allowed", JSONARGPARSE),
    ForeignText("option", r'Parser key "([\w.]+)"', JSONARGPARSE),
    ForeignText("value", r"(?:Got|Given) value: (.*)", JSONARGPARSE),
    ForeignText("expected", r"(?m)Expected an? (.*?)(?:\. Got|$)", JSONARGPARSE),
    ForeignText("unknown option", r"does not accept option '([\w.]+)'", JSONARGPARSE),
    ForeignText("unknown option", r"unrecognized arguments: --([\w.]+)", JSONARGPARSE),
    ForeignText(
        "no config", r"Unable to load config '(.*?)' - Parser key \"([\w.]+)\"", JSONARGPARSE
    ),
    ForeignText("literal type", r"^typing\.Literal\[(.*)\]", PYTHON),
    ForeignText("class type", r"^<class '(?:\w+\.)*(\w+)'>", PYTHON),
    ForeignText("needless warning", "does not have many workers", LIGHTNING),
    ForeignText("needless warning", "Using `DistributedSampler` with the dataloaders", LIGHTNING),
    # what is logged is the same on every rank
    ForeignText("needless warning", "recommended to use `self.log", LIGHTNING),
    ForeignText("needless warning", "LeafSpec", TORCH),
    # a run that goes on
    ForeignText("needless warning", "Checkpoint directory .* exists and is not empty", LIGHTNING),
    # of class names; figures show a box
    ForeignText("needless warning", "Glyph .* missing from", "matplotlib 3.11.2"),
    # the order of its batches is resumable
    ForeignText("needless warning", "your dataloader is not resumable", LIGHTNING),
    ForeignText(
        "needless warning",
        "callbacks used to create the checkpoint need to be provided",
        LIGHTNING,
    ),
    # only the size in MB is off
    ForeignText("needless warning", "is not supported by the model summary", LIGHTNING),
    ForeignText("needless tip", "Tip:", LIGHTNING),
    # our own line on the precision tells more
    ForeignText("needless tip", "Automatic Mixed Precision", LIGHTNING),
)


def texts_on(topic: ForeignTopic) -> list[str]:
    """The patterns of a topic, in the order of the table."""
    return [text.pattern for text in FOREIGN_TEXTS if text.topic == topic]


def find_text(topic: ForeignTopic, message: str) -> re.Match[str] | None:
    """Where a message says something on a topic; by the first pattern that fits."""
    found = (re.search(pattern, message) for pattern in texts_on(topic))
    return next((match for match in found if match), None)
