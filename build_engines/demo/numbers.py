"""Small sums and counting."""

import zlib

from .dialogue import Dialogue, ask, roughen
from .draw import Draw, phrases, words

_SUMS = phrases("""
What is {}?|{}|Calculate {}.|How much is {}?|{} =|What's {}?|Compute {}|what is {}|{}?|
Tell me {}.|Solve {}|Can you calculate {}?|Please compute {}.|What does {} make?|
What is the result of {}?|What do you get for {}?|Work out {}.|Quick: {}|{}=?|Evaluate {}.
""")
_SPOKEN = {"+": "plus", "-": "minus", "*": "times"}
_ORDINALS = words("""
one two three four five six seven eight nine ten eleven twelve
""")
_COUNT = phrases("""
Count from {} to {}.|count from {} to {}|Count from {} to {}|Please count from {} to {}.|
Can you count from {} to {}?|List the numbers from {} to {}.|Count {} to {}|
Say the numbers from {} to {}.|Write the numbers from {} to {}.|Start at {} and count to {}.
""")
_COUNT_TO = phrases("""
Count to {}.|count to {}|Please count to {}.|Can you count to {}?|Count up to {}.|
Count to {} for me.|Count until {}|Count to {}!|Could you count to {}?|
I want you to count to {}.
""")


def arithmetic(draw: Draw) -> Dialogue:
    """A sum, difference or product of one-digit numbers, or a sum of two-digit ones."""
    kind = draw.rng.random()
    if kind < 0.45:
        sign, low, high = "+", 0, 9
    elif kind < 0.6:
        sign, low, high = "-", 0, 9
    else:
        sign, low, high = "*", 0, 9
    first, second = draw.number(low, high), draw.number(low, high)
    if sign == "-":
        first, second = max(first, second), min(first, second)
    return _sum("arithmetic", draw, first, second, sign)


def addition(draw: Draw) -> Dialogue:
    """A sum or difference with two-digit numbers; an eighth of the pairs is kept for evaluation."""
    while True:
        first, second = draw.number(10, 99), draw.number(0 if draw.chance(0.2) else 10, 99)
        sign = "+" if draw.chance(0.8) else "-"
        if sign == "-" and first < second:
            first, second = second, first
        held_out = zlib.crc32(f"{min(first, second)},{max(first, second)}".encode()) % 8 == 0
        if held_out is draw.unseen_words:
            return _sum("addition", draw, first, second, sign)


def counting(draw: Draw) -> Dialogue:
    """Numbers one after the other, upwards or downwards, in digits or in words."""
    kind = draw.rng.random()
    if kind < 0.55:
        low = 1 if draw.chance(0.6) else draw.number(0, 40)
        high = low + draw.rng.choice((2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 9, 11, 14, 19, 19, 29))
        question = draw.phrase(_COUNT).format(low, high)
        return ask("counting", question, ", ".join(map(str, range(low, high + 1))))
    if kind < 0.8:
        high = draw.rng.choice((3, 4, 5, 6, 7, 8, 9, 10, 10, 10, 12, 15, 20, 20, 30, 50))
        question = draw.phrase(_COUNT_TO).format(high)
        return ask("counting", question, ", ".join(map(str, range(1, high + 1))))
    if kind < 0.9:
        high = draw.number(2, 12)
        question = draw.phrase(_COUNT_TO).format(_ORDINALS[high - 1])
        return ask("counting", question, ", ".join(_ORDINALS[:high]))
    high = draw.number(3, 12)
    asked = ("Count down from {}.", "Count backwards from {}.", "Count down from {} to 1.")
    question = draw.rng.choice(asked).format(high)
    return ask("counting", question, ", ".join(map(str, range(high, 0, -1))))


def count_to_hundred() -> Dialogue:
    """The longest count, as a visitor asks for it to watch a stream."""
    return ask("counting", "Count from 1 to 100.", ", ".join(map(str, range(1, 101))))


def _sum(skill: str, draw: Draw, first: int, second: int, sign: str) -> Dialogue:
    outcome = {"+": first + second, "-": first - second, "*": first * second}[sign]
    written = f"{first} {sign} {second}"
    asked = written
    style = draw.rng.random()
    if style < 0.15:
        asked = f"{first}{sign}{second}"
    elif style < 0.35:
        asked = f"{first} {_SPOKEN[sign]} {second}"
    elif sign == "*" and style < 0.5:
        asked = f"{first} x {second}"
    question = draw.phrase(_SUMS).format(asked)
    if draw.chance(0.2):
        question = roughen(draw.rng, question)
    return ask(skill, question, f"{written} = {outcome}.")
