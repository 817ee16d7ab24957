"""What a zero-shot teacher is asked: class names put into an ensemble of prompts."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from common.errors import SettingsError

PLACEHOLDER = "{}"

_PHOTO = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a small photo of a {}.",
    "a blurry photo of a {}.",
    "a close-up photo of a {}.",
)
_DIGIT = ("a handwritten {}.", "the digit {}.", "a photo of the number {}.")
PROMPTS: dict[str, tuple[str, ...]] = {
    "digits": _DIGIT,
    "mnist": _DIGIT,
    "fashion-mnist": (
        "a photo of a {}.",
        "a grey photo of a {}.",
        "a product photo of a {}.",
        "a {}, a piece of clothing.",
        "a low resolution photo of a {}.",
    ),
    "emnist-letters": ("a handwritten letter {}.", "the letter {}.", "a photo of the letter {}."),
}
"""Prompts by data set; all others are asked for with ``_PHOTO``."""

CLASS_NAMES: dict[str, dict[str, str]] = {
    "fashion-mnist": {
        "T-shirt/top": "t-shirt",
        "Trouser": "pair of trousers",
        "Sneaker": "sneaker",
        "Ankle boot": "ankle boot",
    },
}
"""Class names by data set, where the label itself is no word for a sentence."""


def texts(
    dataset: str,
    classes: Sequence[str],
    prompts: Sequence[str] = (),
    class_names: Mapping[str, str] | None = None,
) -> list[list[str]]:
    """The sentences that stand for each class.

    Parameters
    ----------
    prompts: instead of the data set's own.
    class_names: how to call some of the classes, over the data set's own names for them.

    Raises
    ------
    SettingsError: a prompt without placeholder, an empty name, or a name for no class.
    """
    chosen = list(prompts) or list(PROMPTS.get(dataset, _PHOTO))
    for prompt in chosen:
        if PLACEHOLDER not in prompt:
            raise SettingsError(
                f"prompt {prompt!r} has no placeholder: write {PLACEHOLDER} where the class "
                "name belongs, such as 'a photo of a {}.'"
            )
    own = dict(class_names or {})
    for name, spoken in own.items():
        if name not in classes:
            near = difflib.get_close_matches(name, classes, n=3) or list(classes[:20])
            raise SettingsError(
                f"class-names: the run has no class {name!r}; near: {', '.join(near)}"
            )
        if not spoken.strip():
            raise SettingsError(f"class-names: class {name!r} has an empty name")
    names = {**CLASS_NAMES.get(dataset, {}), **own}
    called = [names.get(name, name.replace("_", " ").replace("/", " or ")) for name in classes]
    doubled = {name for name in called if called.count(name) > 1}
    if doubled:
        raise SettingsError(
            f"class-names: several classes are called {sorted(doubled)[0]!r}, so that no teacher "
            "can tell them apart"
        )
    return [[prompt.replace(PLACEHOLDER, name) for prompt in chosen] for name in called]
