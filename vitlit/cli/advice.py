"""What to tell a person about an error that their settings or machine caused.

exception, or a parser's message -> one sentence with the way out; None for a defect of the program
"""

import re
import traceback

from vitlit.errors import InputError, did_you_mean, find_text, message_and_arguments, texts_on
from vitlit.files import WRITE_FAULTS

# A ValueError, TypeError or ImportError raised by these is taken for a setting that they refuse.
SETTINGS_PACKAGES = ("pytorch_lightning", "lightning_fabric", "jsonargparse")
# what other programs call an option, if its name here is not similar
USUAL_NAMES = {
    "epochs": "trainer.max_epochs",
    "batch": "data.batch_size",
    "imgsz": "data.img_size",
    "device": "trainer.accelerator",
    "workers": "data.num_workers",
    "source": "data.images",
    "name": "run",
}
YAML_HINT = (
    "; without quotes, YAML reads no, off, yes and on as false and true, and digits as a number: "
    "write text in quotes"
)
TRUST_OPTION = "allow_classes_of"
PRETRAINING_OPTION = "model.mask_ratio"  # which pretrain alone has
LABEL_OPTIONS = ("model.label_smoothing", "model.class_weights", "model.teacher")
PRETRAINING_HINT = (
    "; pretrain reads no labels and has no settings for them: leave it out, and give a config made "
    "for pretrain, such as pretrain.yaml or digits_pretrain.yaml, in place of one for fit"
)
# Packages whose classes a config may name. Any other import would run code that a config chooses.
TRUSTED_PACKAGES = ("pytorch_lightning", "lightning_fabric", "vitlit")
ONE_OF = "one of "
PLAIN_TYPES = {  # of Python -> what a person writes
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list",
    "NoneType": "null",
}


def class_path_reason(text: str) -> str:
    """The lines about a class that a config names, of the parser's long report on it."""
    lines = [line.strip(" -") for line in text.splitlines()]
    start = next(i for i, line in enumerate(lines) if find_text("unknown class", line))
    return " ".join(lines[start : start + 3])


def advice(error: Exception) -> str | None:
    """The message for an error that settings or the machine caused; None for a defect.

    Errors of other libraries have no common type, so they are told by their texts.
    """
    if isinstance(error, InputError):
        return message_and_arguments(error)[0]
    text = str(error).strip()
    if find_text("other weights", text):
        first = text.splitlines()[1].strip()
        return f"the checkpoint does not fit the model; leave out --model flags: {first}"
    if isinstance(error, MemoryError) or find_text("no memory", text):
        return "not enough memory; make --data.batch_size, --data.img_size or the model smaller"
    if find_text("dead loading process", text):
        return (
            f"a process that loads images was killed, perhaps because memory ran out "
            f"({text.splitlines()[0][:120]}); give --data.num_workers 0"
        )
    if find_text("compiler module", type(error).__module__):
        return f"compiling failed: {text.splitlines()[0]}; give --model.compile false"
    if isinstance(error, OSError) and error.errno in WRITE_FAULTS:
        place = f"to {error.filename}" if error.filename else "all files"
        return f"cannot write {place}: {error.strerror}; free some space on the disk"
    if isinstance(error, OSError) and error.filename:
        return f"cannot use {error.filename}: {error.strerror}; check the path and its permissions"
    if find_text("slurm tasks", text):
        return (
            "SLURM has --ntasks without --ntasks-per-node; write --ntasks-per-node in the batch "
            "script, equal to --trainer.devices"
        )
    if missing := find_text("no accelerator", text):
        return (
            f"PyTorch finds no {missing[1].upper()} on this machine; leave out "
            f"--trainer.accelerator or give cpu, or install a PyTorch and a driver that support it"
        )
    if find_text("refused setting", type(error).__name__):
        return text
    if find_text("unknown class", text):
        return class_path_reason(text)
    # Where it was raised decides: a ValueError from our own code that is no InputError is a defect.
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    is_setting = any(f"/{package}/" in last.replace("\\", "/") for package in SETTINGS_PACKAGES)
    if is_setting and isinstance(error, ValueError | TypeError | ImportError):
        return text
    return None


def plain_message(message: str, known: list[str]) -> str:
    """A parser's message in plain words: the value, what was expected, and a near miss."""
    if denied := find_text("denied import", message):
        package = denied[1].partition(".")[0]
        return (
            f"{denied[1]} is not a class of {TRUSTED_PACKAGES[0]}; if you trust the package, give "
            f"--{TRUST_OPTION} {package}"
        )
    if find_text("unknown class", message):
        return class_path_reason(message)
    key, value = find_text("option", message), find_text("value", message)
    kinds = [kind for pattern in texts_on("expected") for kind in re.findall(pattern, message)]
    expected = [_plain_type(kind) for kind in kinds]
    if key and value and expected:
        listed = [kind.removeprefix(ONE_OF) for kind in expected if kind.startswith(ONE_OF)]
        names = [*dict.fromkeys(name for names in listed for name in names.split(", "))]
        others = [kind for kind in dict.fromkeys(expected) if not kind.startswith(ONE_OF)]
        among = (ONE_OF if len(names) > 1 else "") + ", ".join(names)
        choices = " or ".join(filter(None, [among, *others]))
        got = value[1].strip()
        # of text that YAML has read as something else
        is_misread = "text" in expected and re.search(r"\b(True|False|[\d.]+)\b", got)
        hint = YAML_HINT if is_misread else did_you_mean(got, names)
        return f"{key[1]} {got} is not valid; expected {choices}{hint}"
    if unknown := find_text("unknown option", message):
        is_of_labels = unknown[1].startswith(LABEL_OPTIONS) and PRETRAINING_OPTION in known
        hint = PRETRAINING_HINT if is_of_labels else _known_option(unknown[1], known)
        return f"unknown option {unknown[1]}{hint}"
    message = " ".join(message.split())
    if find_text("stray words", message):
        return (
            f"{message}; name a run with --run NAME, and images with --data.images FILE_OR_FOLDER"
        )
    if group := find_text("no config", message):
        return f"{group[2]} {group[1]} is neither a group of settings nor a file that holds one"
    return message


def _known_option(word: str, known: list[str]) -> str:
    """A hint at the option that is meant: by its name in other programs, or the most similar."""
    usual = USUAL_NAMES.get(word)
    return f"; did you mean {usual}?" if usual in known else did_you_mean(word, known)


def _plain_type(text: str) -> str:
    """``<class 'int'>`` -> a whole number; ``typing.Literal['a', 'b']`` -> one of a, b."""
    if match := find_text("literal type", text):
        return ONE_OF + match[1].replace("'", "")
    match = find_text("class type", text)
    name = match[1] if match else text.replace("typing.", "")
    return PLAIN_TYPES.get(name, name)
