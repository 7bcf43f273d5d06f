# SPDX-License-Identifier: Apache-2.0
"""The picture of the whole: every room once, in the order of the contract, and every step true."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import picture  # noqa: E402 - found by the line above

SVG = "{http://www.w3.org/2000/svg}"


def texts(kind: str) -> list[ElementTree.Element]:
    """The texts of a kind, as they follow each other."""
    drawn = ElementTree.fromstring(picture.picture())
    return [text for text in drawn.iter(f"{SVG}text") if text.get("class") == kind]


def test_every_room_is_drawn_once_and_below_what_imports_it() -> None:
    layers = picture.layers()
    drawn = [text.text for text in texts("name")]
    assert drawn == [f"{room}/" for layer in layers for room in layer]
    rooms = {path.parent.name for path in (ROOT / "migrator").glob("*/__init__.py")}
    assert {f"{room}/" for room in rooms} == set(drawn)
    assert len(layers) <= 8


def test_sentences_are_those_of_the_rooms() -> None:
    told = " ".join(str(text.text) for text in texts("text"))
    for layer in picture.layers():
        for room in layer:
            assert picture.sentence(room) in told


def test_texts_stay_in_the_picture() -> None:
    drawn = ElementTree.fromstring(picture.picture())
    height = float(drawn.attrib["height"])
    assert all(0 < float(text.attrib["y"]) < height for text in drawn.iter(f"{SVG}text"))


@pytest.mark.parametrize("gone", ["planning.plan.made_plan", "planning.plans.make_plan"])
def test_a_step_that_nothing_takes_is_noticed(monkeypatch: pytest.MonkeyPatch, gone: str) -> None:
    monkeypatch.setattr(picture, "WAY", (picture.Step((gone,), ("plan", "")),))
    with pytest.raises((AttributeError, ModuleNotFoundError), match=r"made_plan|plans"):
        picture.picture()


def test_a_room_without_a_layer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "layers", lambda: [["cli"], ["files"]])
    with pytest.raises(ValueError, match="the import contract has no codemod"):
        picture.picture()
