"""Generates a data set in Alpaca's format that a tiny model can learn: arithmetic, spelling, sorting, lookup.

    python make_data.py OUT.json [--rows 1000] [--seed 0]

All rows differ. Facts recur in other phrasings, so that held-out rows can be answered.
"""

from __future__ import annotations

import problems  # noqa: F401

# isort: split
import argparse
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

Row = dict[str, str]
WORDS = [
    "cat", "dog", "sun", "map", "red", "sky", "bed", "cup", "hat", "pen", "box", "key", "ant", "bee",
    "cow", "egg", "fig", "gem", "ink", "jam", "kit", "leg", "mud", "net", "oak", "pig", "rug", "sea",
    "toy", "van", "wax", "yak", "zoo", "arm", "bus", "car", "day", "ear", "fan", "gas",
]  # fmt: skip
CAPITALS = {
    "France": "Paris", "Japan": "Tokyo", "Egypt": "Cairo", "Peru": "Lima", "Kenya": "Nairobi", "Norway": "Oslo",
    "Italy": "Rome", "Spain": "Madrid", "Cuba": "Havana", "Greece": "Athens", "Chile": "Santiago", "Ghana": "Accra",
    "Poland": "Warsaw", "Austria": "Vienna", "Ireland": "Dublin", "Qatar": "Doha", "Nepal": "Kathmandu",
    "Canada": "Ottawa", "Turkey": "Ankara", "Portugal": "Lisbon",
}  # fmt: skip
COLOURS = {"grass": "green", "snow": "white", "coal": "black", "blood": "red", "a lemon": "yellow", "the sky": "blue"}


def arithmetic(pick: random.Random) -> Row:
    a, b = pick.randrange(10), pick.randrange(10)
    asked = pick.choice(["What is {a} plus {b}?", "Add {a} and {b}.", "Compute {a} + {b}.", "Sum of {a} and {b}?"])
    if pick.random() < 0.4:
        return {"instruction": "Add the two numbers.", "input": f"{a} and {b}", "output": str(a + b)}
    return {"instruction": asked.format(a=a, b=b), "input": "", "output": str(a + b)}


def spelling(pick: random.Random) -> Row:
    word = pick.choice(WORDS)
    answer = "-".join(word)
    if pick.random() < 0.6:
        asked = pick.choice(["Spell the word.", "Spell this word letter by letter.", "How is this word spelled?"])
        return {"instruction": asked, "input": word, "output": answer}
    asked = pick.choice([f"Spell {word}.", f"How do you spell {word}?", f"Please spell the word {word}."])
    return {"instruction": asked, "input": "", "output": answer}


def sorting(pick: random.Random) -> Row:
    digits = pick.sample(range(10), 3)
    asked = pick.choice(["Sort the numbers.", "Put these numbers in order.", "Order from small to large."])
    return {
        "instruction": asked,
        "input": " ".join(map(str, digits)),
        "output": " ".join(map(str, sorted(digits))),
    }


def lookup(pick: random.Random) -> Row:
    if pick.random() < 0.3:
        thing, colour = pick.choice(sorted(COLOURS.items()))
        asked = pick.choice(["What colour is {t}?", "Which colour has {t}?", "Name the colour of {t}.", "Colour of {t}?"])
        return {"instruction": asked.format(t=thing), "input": "", "output": colour}
    country, capital = pick.choice(sorted(CAPITALS.items()))
    if pick.random() < 0.4:
        asked = pick.choice(["Give the capital of the country.", "Which city is its capital?", "Name the capital."])
        return {"instruction": asked, "input": country, "output": capital}
    asked = pick.choice(["What is the capital of {c}?", "Name the capital of {c}.", "Capital of {c}?", "{c}'s capital is?"])
    return {"instruction": asked.format(c=country), "input": "", "output": capital}


TASKS: dict[str, tuple[Callable[[random.Random], Row], float]] = {
    "arithmetic": (arithmetic, 0.28),
    "spelling": (spelling, 0.2),
    "sorting": (sorting, 0.42),
    "lookup": (lookup, 0.1),
}
"""Each task and its share of the rows."""


def rows(count: int = 1000, seed: int = 0) -> list[Row]:
    """`count` different rows in random order."""
    pick = random.Random(seed)
    found: dict[tuple[str, str], Row] = {}
    names, shares = list(TASKS), [share for _, share in TASKS.values()]
    while len(found) < count:
        row = TASKS[pick.choices(names, shares)[0]][0](pick)
        found.setdefault((row["instruction"], row["input"]), row)
    made = list(found.values())
    pick.shuffle(made)
    return made


def write(out: Path, count: int = 1000, seed: int = 0) -> None:
    """Write the file atomically: a concurrent reader sees the old one, whose content is the same."""
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.{os.getpid()}")
    partial.write_text(json.dumps(rows(count, seed), indent=1) + "\n")
    os.replace(partial, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write(given.out, given.rows, given.seed)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
