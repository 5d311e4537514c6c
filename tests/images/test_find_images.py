"""Which files are images, and in which order a folder gives them."""

from pathlib import Path

import pytest

from vitlit.errors import InputError
from vitlit.files import OUTPUT_FILES
from vitlit.images.find_images import find_images


def test_images_of_other_kinds_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "b.HEIC", "sub/c.avif", "notes.txt", ".d.heic"):
        (tmp_path / name).touch()
    unread: list[str] = []
    assert find_images([str(tmp_path)], unread) == [str(tmp_path / "a.png")]
    assert unread == [str(tmp_path / name) for name in ("b.HEIC", "sub/c.avif")]


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_images_below_a_folder_are_found_in_order(tmp_path: Path) -> None:
    names = ["a.png", "b/c.JPG", "b/d.webp", "b/e/f.tif", "b/e/g.jfif"]
    touch(*(tmp_path / name for name in reversed(names)), tmp_path / "notes.txt")
    assert find_images([str(tmp_path)]) == [str(tmp_path / name) for name in names]


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "._a.png", tmp_path / ".thumbs" / "a.png")
    assert find_images([str(tmp_path)]) == [str(tmp_path / "a.png")]


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir"])
def test_what_other_systems_leave_is_left_out(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "a.png", tmp_path / name / "a.png")
    assert find_images([str(tmp_path)]) == [str(tmp_path / "a.png")]


@pytest.mark.parametrize("names", OUTPUT_FILES, ids="-".join)
def test_figures_that_a_command_wrote_are_left_out_unless_they_are_named(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    written = tmp_path / "any name"
    touch(tmp_path / "a.png", written / "figure.png", *(written / name for name in names))
    assert find_images([str(tmp_path)]) == [str(tmp_path / "a.png")]
    assert str(written / "figure.png") in find_images([str(written)])


def test_runs_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "lightning_logs" / "first" / "history.png")
    assert find_images([str(tmp_path)]) == [str(tmp_path / "a.png")]


def test_a_link_to_a_folder_elsewhere_is_followed(tmp_path: Path) -> None:
    touch(tmp_path / "here" / "a.png", tmp_path / "there" / "b.png")
    (tmp_path / "here" / "link").symlink_to(tmp_path / "there")
    names = ["here/a.png", "here/link/b.png"]
    assert find_images([str(tmp_path / "here")]) == [str(tmp_path / name) for name in names]


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_a_link_that_leads_back_is_not_followed(tmp_path: Path, target: str) -> None:
    touch(tmp_path / "cat" / "sub" / "a.png", tmp_path / "dog" / "b.png")
    (tmp_path / "cat" / "sub" / "loop").symlink_to(target)
    assert find_images([str(tmp_path / "cat")]) == [str(tmp_path / "cat" / "sub" / "a.png")]


def test_links_that_lead_to_each_other_end(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "1.png", tmp_path / "b" / "2.png")
    (tmp_path / "a" / "to").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "to").symlink_to(tmp_path / "a")
    names = ["a/1.png", "a/to/2.png"]
    assert find_images([str(tmp_path / "a")]) == [str(tmp_path / name) for name in names]


def test_a_folder_that_cannot_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(folder: str) -> None:
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr("vitlit.images.find_images.os.scandir", deny)
    with pytest.raises(InputError, match=rf"cannot list .*{tmp_path.name}: Permission denied"):
        find_images([str(tmp_path)])


def test_named_files_keep_their_order_whatever_their_ending(tmp_path: Path) -> None:
    names = ["z.scan", "a.png"]
    touch(*(tmp_path / name for name in names))
    paths = [str(tmp_path / name) for name in names]
    assert find_images(paths) == paths


def test_a_path_from_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    touch(tmp_path / "a.png")
    assert find_images(["~/a.png"]) == [str(tmp_path / "a.png")]


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file or folder: .*nowhere"):
        find_images([str(tmp_path / "nowhere")])


def test_a_missing_path_is_named_with_the_argument_that_gave_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere; check query") as caught:
        find_images([str(tmp_path / "nowhere")], argument="query")
    assert caught.value.arguments == ("query",)


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    touch(tmp_path / "blank" / "notes.txt")
    with pytest.raises(InputError, match=r"no images in .*blank.*\.png"):
        find_images([str(tmp_path / "blank")])


def test_a_folder_of_images_that_are_not_read_is_told(tmp_path: Path) -> None:
    touch(tmp_path / "phone" / "1.heic", tmp_path / "phone" / "2.heic")
    with pytest.raises(InputError, match=r"it has 2 of other formats, such as .*1\.heic: convert"):
        find_images([str(tmp_path / "phone")])
