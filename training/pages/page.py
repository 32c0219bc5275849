"""The page of an evaluation: one HTML file that needs nothing beside it.

page(results)       # the text of index.html
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup

from training.measures.graph import blocks_from
from training.pages import words
from training.pages.card import model_card
from training.pages.figures import TITLES, by_quality, picture_of_folds, pictures
from training.pages.structure import structure

TEMPLATE = "page.html.j2"
FOLDS_TEMPLATE = "folds.html.j2"
CATEGORIES = 12
"""Rows of a table of item groups that are shown; the results hold all."""


def page(results: Mapping[str, Any]) -> str:
    """The page of a results document."""
    drawn = {name: Markup(picture) for name, picture in pictures(results).items()}
    # "js-default": no HTML of anybody's passes.
    card = MarkdownIt("js-default").render(model_card(results))
    return _rendered(
        TEMPLATE,
        r=results,
        k=results["protocol"]["k"],
        pictures=drawn,
        structure=Markup(structure(blocks_from(results["structure"]))),
        order=by_quality(results),
        card=Markup(card),
        most=CATEGORIES,
    )


def folds_page(document: Mapping[str, Any]) -> str:
    """The page of a cross-validation."""
    return _rendered(
        FOLDS_TEMPLATE,
        r=document,
        k=document["protocol"]["k"],
        picture=Markup(picture_of_folds(document)),
    )


def _rendered(template: str, **values: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": words.number, "span": words.span, "day": words.day, "told": words.told,
        "buyers": words.buyers, "words": lambda text: str(text).replace("_", " "),
        "count": lambda value: f"{value:,}",
    }  # fmt: skip
    return environment.get_template(template).render(
        titles=TITLES, standing=words.standing, verdict=words.verdict, lead=words.lead, **values
    )
