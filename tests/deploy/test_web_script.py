"""The script around the model of an exported page: the paper, and errors of the model."""

import page_script
import pytest
from page_script import run_page

pytestmark = pytest.mark.skipif(page_script.NODE is None, reason="no node on PATH")


def test_pictures_are_opened_without_their_colour_profile_and_reduced_well() -> None:
    """Python reads the numbers that are in a file, whatever colours its profile says they are."""
    options, drawn, width = run_page("""
        frame();
        await open();
        const [, context, width] = calls.findLast(([name]) => name === "drawImage");
        return [calls.find(([name]) => name === "createImageBitmap")[1], context, width];
    """)
    assert options == {"imageOrientation": "from-image", "colorSpaceConversion": "none"}
    assert drawn["imageSmoothingQuality"] == "high"
    assert width == 4096


def test_the_page_goes_on_after_an_error_of_the_model() -> None:
    failed, later = run_page("""
        const state = () => ({
          waits: document.body.classList.has("waiting"), sent: sent.length,
          picture: sent.at(-1).picture !== null, notice: get("notice").hidden,
        });
        frame();
        wait(); // so long that the page fades
        tell({ error: "RangeError" });
        const failed = state();
        get("stage").onkeydown({ key: " ", preventDefault() {} }); // takes a patch away
        frame();
        answer();
        return [failed, state()];
    """)
    assert failed == {"waits": False, "sent": 2, "picture": True, "notice": False}
    assert later == {"waits": False, "sent": 3, "picture": True, "notice": True}


def test_a_model_that_does_not_open_is_never_asked() -> None:
    steps = "frame(); await open(); frame(); return [sent.length, get('notice').textContent];"
    # one message: the weights
    assert run_page(steps, first='{ error: "bad weights" }')[0] == 1


def test_a_picture_whose_pixels_cannot_be_read_is_reported_and_the_next_one_is_not() -> None:
    failed, sent, notice = run_page("""
        frame();
        answer();
        hasPixels = false;
        await open();
        frame();
        const failed = [sent.length, get("notice").textContent];
        hasPixels = true;
        await open();
        frame();
        answer();
        return [failed, sent.length, get("notice").hidden];
    """)
    assert failed == [2, "The model cannot compute this: RangeError: Out of memory"]
    assert (sent, notice) == (3, True)


@pytest.mark.parametrize(
    "step",
    [
        "paper.onpointerdown({ pointerId: 1, clientX: 140, clientY: 70 });",
        'paper.onkeydown({ key: " ", preventDefault() {} });',
        'paper.onkeydown({ key: "Delete", preventDefault() {} });',
    ],
)
def test_drawing_over_a_photo_starts_on_paper_of_the_usual_size(step: str) -> None:
    size, usual, moved = run_page(f"""
        const paper = get("paper"), usual = [paper.width, paper.height];
        await open();
        calls.splice(0);
        {step}
        const moved = calls.filter(([name]) => name === "moveTo").length;
        return [[paper.width, paper.height], usual, moved];
    """)
    assert size == usual == [280, 280]
    assert moved == (0 if "Delete" in step else 1)


def test_a_stroke_over_a_photo_begins_where_the_pen_is_on_the_new_paper() -> None:
    begun = run_page("""
        const paper = get("paper");
        await open();
        paper.onpointerdown({ pointerId: 1, clientX: 140, clientY: 70 });
        return points.at(-1);
    """)
    assert begun == [140, 70]
