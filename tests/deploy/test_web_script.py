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
