"""Uploads to a stand-in of the hub, and what the hub's own package then downloads from it."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from fake_hub import TOKEN, Hub, fake_hub
from huggingface_hub import constants

from vitlit.__main__ import main
from vitlit.deploy.push import check_push, push_folder
from vitlit.errors import InputError
from vitlit.weights.load import load

CHECKPOINT = Path(__file__).parents[1] / "stored" / "old_checkpoint" / "last.ckpt"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub that the package and the program talk to, with a token that it knows."""
    with fake_hub() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        # The package reads its variables when it is imported.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        huggingface_hub.close_session()
        yield found
        huggingface_hub.close_session()


# of httpx, about how huggingface_hub calls it
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_an_export_is_uploaded_and_can_be_downloaded_by_its_name(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["export", f"--ckpt_path={CHECKPOINT}", f"--out={out}", "--push=me/digits-vit"]
    assert main(words) == 0
    assert f"uploaded to {hub.address}/me/digits-vit" in capsys.readouterr().out
    assert [(one["name"], one["visibility"]) for one in hub.created] == [("digits-vit", "private")]
    assert hub.repositories["me/digits-vit"] == {
        path.name: path.read_bytes() for path in out.iterdir()
    }
    folder = huggingface_hub.snapshot_download(
        "me/digits-vit", endpoint=hub.address, cache_dir=tmp_path / "cache"
    )
    found, wanted = load(folder), load(CHECKPOINT)
    images = torch.randn(2, wanted.model.in_chans, *wanted.model.img_size)
    with torch.no_grad():
        torch.testing.assert_close(found.model(images), wanted.model(images))
    card = huggingface_hub.ModelCard.load(str(Path(folder) / "README.md"))
    assert 'timm.create_model("hf-hub:me/digits-vit", pretrained=True)' in card.text
    assert (card.data.library_name, card.data.pipeline_tag) == ("timm", "image-classification")


def test_a_refused_token_is_told_and_the_folder_stays(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    (tmp_path / "README.md").write_text("hello")
    with pytest.raises(InputError, match="cannot be uploaded to me/x; check the name") as caught:
        push_folder(tmp_path, "me/x")
    assert "401" in str(caught.value)
    assert (tmp_path / "README.md").read_text() == "hello"


@pytest.mark.parametrize("name", ["", "name", "a/b/c", "https://huggingface.co/a/b", "a b/c"])
def test_what_is_no_repository_is_refused_before_anything_is_written(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="is not the name of a repository on the hub; give"):
        check_push(name)
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    missing: Any = None  # as Python marks a module that cannot be imported
    monkeypatch.setitem(sys.modules, "huggingface_hub", missing)
    with pytest.raises(InputError, match=r"pip install 'vitlit\[hub\]'"):
        check_push("a/b")
