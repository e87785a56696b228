"""Tasks whose answer stands in the question: repeating, remembering, reading, extracting JSON."""

import json
from typing import Any

from .dialogue import Dialogue, Turn, ask
from .draw import Draw, phrases, words

_REPEAT = phrases("""
Repeat after me: {}|Say this: {}|Repeat: {}|Repeat the following: {}|Repeat exactly: {}|
Please repeat: {}|Copy this text: {}|Echo: {}|Say: {}|Repeat the words {}|
Repeat this text word for word: {}|Write this: {}|Print {}|Echo this back to me: {}|
Can you repeat this? {}|Say exactly this: {}|Please say {}|Copy: {}|Type this: {}|
Reply with exactly this text: {}|Repeat what I say: {}|Answer with: {}|Say only: {}|
Repeat the phrase {}|Repeat back: {}|Now repeat: {}|Reply with {}|Output: {}|
Reply only with: {}|I say: {} You say:
""")

# A fact with its slots, a colon, and the questions that can be asked about it with their answers.
_STORIES = (
    ("{name} lives in {place}.", "Where does {name} live?", "{name} lives in {place}."),
    ("{name} lives in {place}.", "Who lives in {place}?", "{name} lives in {place}."),
    ("{name} works in {place}.", "Where does {name} work?", "{name} works in {place}."),
    ("{name} was born in {place}.", "Where was {name} born?", "{name} was born in {place}."),
    ("{name} has a {thing}.", "What does {name} have?", "{name} has a {thing}."),
    ("{name} has a {thing}.", "Who has a {thing}?", "{name} has a {thing}."),
    ("{name} bought a {thing}.", "What did {name} buy?", "{name} bought a {thing}."),
    ("{name} bought a {thing}.", "Who bought a {thing}?", "{name} bought a {thing}."),
    ("{name} is {age} years old.", "How old is {name}?", "{name} is {age} years old."),
    ("{name} likes {other}.", "Who likes {other}?", "{name} likes {other}."),
    ("{name} likes {other}.", "Whom does {name} like?", "{name} likes {other}."),
    ("The {thing} is in {place}.", "Where is the {thing}?", "The {thing} is in {place}."),
    ("The {thing} is {colour}.", "What colour is the {thing}?", "The {thing} is {colour}."),
    ("The {thing} is {colour}.", "What color is the {thing}?", "The {thing} is {colour}."),
    (
        "The {thing} costs {age} euros.",
        "How much does the {thing} cost?",
        "The {thing} costs {age} euros.",
    ),
    ("The password is {code}.", "What is the password?", "The password is {code}."),
    ("The {thing} belongs to {name}.", "Who owns the {thing}?", "{name} owns the {thing}."),
    ("{name} works as a {job}.", "What is the job of {name}?", "{name} works as a {job}."),
    ("{name} works as a {job}.", "What does {name} do?", "{name} works as a {job}."),
    ("{name} speaks {tongue}.", "Which language does {name} speak?", "{name} speaks {tongue}."),
    ("{name} went to {place}.", "Where did {name} go?", "{name} went to {place}."),
    (
        "{name} is the sister of {other}.",
        "Who is the sister of {other}?",
        "{name} is the sister of {other}.",
    ),
    ("{name} ate a {thing}.", "What did {name} eat?", "{name} ate a {thing}."),
    (
        "{name} met {other} in {place}.",
        "Where did {name} meet {other}?",
        "{name} met {other} in {place}.",
    ),
    ("The meeting is on {day}.", "When is the meeting?", "The meeting is on {day}."),
    (
        "The capital of {land} is {place}.",
        "What is the capital of {land}?",
        "The capital of {land} is {place}.",
    ),
)
_ABOUT = (
    "{fact} {question}",
    "{fact}\n{question}",
    "Context: {fact}\nQuestion: {question}",
    "{fact}\n\n{question}",
    "Read this: {fact} {question}",
    "Here is a text: {fact} Now tell me: {question}",
    "{question} {fact}",
    "Text: {fact} {question}",
    "Use the context. {fact} {question}",
    "Given that {fact} {question}",
)

_KEYED = (
    ("{name} is {age} years old.", ("name", "age")),
    ("{name}, {age}", ("name", "age")),
    ("My name is {name} and I am {age}.", ("name", "age")),
    ("{name} ({age}) lives in {city}.", ("name", "age", "city")),
    ("{name} turned {age} last week.", ("name", "age")),
    ("{name} lives in {city}.", ("name", "city")),
    ("{name} is {age} and lives in {city}.", ("name", "age", "city")),
    ("{name} from {city} is {age} years old.", ("name", "age", "city")),
    ("A {product} costs {price} euros.", ("product", "price")),
    ("In {city}, {name} celebrated a birthday: {age}.", ("name", "age", "city")),
    ("The {product} is {price} dollars.", ("product", "price")),
    ("{name} works as a {job} in {city}.", ("name", "job", "city")),
    ("{name} bought a {product} for {price} dollars.", ("name", "product", "price")),
    ("I am {name}, {age} years old, from {city}.", ("name", "age", "city")),
    ("At the age of {age}, {name} moved to {city}.", ("name", "age", "city")),
    ("{name} ordered {quantity} of the {product}.", ("name", "product", "quantity")),
    ("{name} is a {job}.", ("name", "job")),
    ("{age}-year-old {name} works as a {job}.", ("name", "age", "job")),
    ("This is {name}, a {job} of {age} years.", ("name", "age", "job")),
    ("The {job} {name} lives in {city}.", ("name", "job", "city")),
)
_EXTRACT = (
    "Extract {keys} as JSON: {text}",
    "Extract the {keys} as JSON from this text: {text}",
    "Extract {keys} as JSON. {text}",
    "Return {keys} as JSON: {text}",
    "{text} Extract {keys} as JSON.",
    "Give me {keys} as JSON: {text}",
    "Turn this into JSON with {keys}: {text}",
    "Convert to JSON with the keys {keys}: {text}",
    "{text}\nAnswer with JSON: {keys}.",
    'From the text "{text}" extract {keys} as JSON.',
    "Extract {keys} from this sentence: {text}",
    "Find {keys} and answer as JSON: {text}",
    "JSON with {keys}: {text}",
    "{text} Return JSON with {keys}.",
    "Please extract {keys} in JSON format: {text}",
    "Extract {keys}. Answer in JSON.\n{text}",
)

_MY_NAME = phrases("""
My name is {}.|I am {}.|Hi, I'm {}.|Call me {}.|Hello, my name is {}.|I'm {}.|my name is {}|
People call me {}.|You can call me {}.|Hi! I am called {}.
""")

_NAME_ASKED = phrases("""
What is my name?|Who am I?|Do you remember my name?|What's my name?|Tell me my name.|
what is my name|Can you say my name?|Do you know my name?|And what is my name?|
Please tell me my name.
""")

_PALETTE = words("""
red blue green yellow black white brown grey orange purple pink
""")
_JOBS = words("""
nurse teacher baker pilot doctor farmer lawyer driver painter writer cook engineer
""")
_TONGUES = words("""
English French German Spanish Italian Polish Dutch Greek Turkish Arabic Hindi
""")
_VERBS = words("""
know see visit help call meet teach follow find need want draw paint sell cook hear read love
hate own carry open clean build miss trust watch hold remember thank
""")
_PROPERTIES = words("""
name age city country email phone title author price color size weight height brand model year
month date time day code number status job salary language address street team score level type
category amount currency product quantity order owner boss teacher friend room floor password
key animal food drink song book car hobby
""")
_DAYS = words("""
Monday Tuesday Wednesday Thursday Friday Saturday Sunday
""")


def repeat(draw: Draw) -> Dialogue:
    """Words said back exactly."""
    count = draw.rng.choice((1, 1, 2, 2, 3, 3, 4, 5, 6, 8, 12))
    words = " ".join(draw.word() for _ in range(count))
    kind = draw.rng.random()
    if kind < 0.12:
        words = words[:1].upper() + words[1:] + draw.rng.choice(".!?")
    elif kind < 0.2:
        words = words.replace(" ", ", ")
    elif kind < 0.25:
        words = words.upper()
    quoted = draw.rng.choice(("{}", "{}", "{}", '"{}"', "'{}'")).format(words)
    if draw.chance(0.08):
        quoted = "\n" + quoted
    question = draw.phrase(_REPEAT).format(quoted)
    return ask("repeat", question, words)


def reading(draw: Draw) -> Dialogue:
    """A question about a sentence among one to four of them."""
    kept, slots = _kept(draw), _slots(draw)
    statement, question, answer = draw.rng.choice(kept)
    if draw.chance(0.35) and not draw.unseen_phrases:
        statement, question, answer = _any_fact(draw)
    facts = [statement.format(**slots)]
    for _ in range(draw.rng.choice((0, 0, 0, 1, 1, 2, 3))):
        same = draw.chance(0.6)
        facts.append((statement if same else draw.rng.choice(kept)[0]).format(**_slots(draw)))
    draw.rng.shuffle(facts)
    asked = draw.phrase(_ABOUT).format(fact=" ".join(facts), question=question.format(**slots))
    answer = answer.format(**slots)
    return ask("reading", asked, answer[:1].upper() + answer[1:])


def reading_pair(draw: Draw) -> tuple[str, str, str]:
    """A sentence, a question that it answers, and the answer."""
    slots = _slots(draw)
    statement, question, answer = draw.rng.choice(_kept(draw))
    return statement.format(**slots), question.format(**slots), answer.format(**slots)


def extraction(draw: Draw) -> Dialogue:
    """Named values of a sentence as one JSON object."""
    kept = [one for i, one in enumerate(_KEYED) if (i % 5 == 4) is draw.unseen_phrases]
    if draw.chance(0.4) and not draw.unseen_phrases:
        return _any_extraction(draw)
    sentence, keys = draw.rng.choice(kept)
    values: dict[str, Any] = {
        "name": draw.name(),
        "age": draw.number(1, 99),
        "city": draw.place(),
        "product": draw.thing(),
        "price": draw.number(1, 999),
        "job": draw.rng.choice(_JOBS),
        "quantity": draw.number(2, 60),
    }
    if draw.chance(0.2):
        values["name"] += " " + draw.name()
    chosen = list(keys)
    if draw.chance(0.3):
        draw.rng.shuffle(chosen)
    if draw.chance(0.2):
        chosen = chosen[: draw.number(1, len(chosen))]
    question = draw.phrase(_EXTRACT).format(text=sentence.format(**values), keys=_listed(chosen))
    return ask("extraction", question, json.dumps({key: values[key] for key in chosen}))


def memory(draw: Draw) -> Dialogue:
    """A name given in the first turn and asked for in a later one."""
    name = draw.name()
    turns = [
        Turn("user", draw.phrase(_MY_NAME).format(name)),
        Turn("assistant", f"Nice to meet you, {name}!"),
    ]
    kind = draw.rng.random()
    if kind < 0.3:
        turns.append(Turn("user", draw.phrase(_NAME_ASKED)))
        turns.append(Turn("assistant", f"Your name is {name}."))
    elif kind < 0.45:
        first, second = draw.number(0, 9), draw.number(0, 9)
        turns.append(Turn("user", f"What is {first} + {second}?"))
        turns.append(Turn("assistant", f"{first} + {second} = {first + second}."))
        turns.append(Turn("user", draw.phrase(_NAME_ASKED)))
        turns.append(Turn("assistant", f"Your name is {name}."))
    elif kind < 0.8:
        place = draw.place()
        turns.append(
            Turn("user", draw.rng.choice(("I live in {}.", "I am from {}.")).format(place))
        )
        turns.append(Turn("assistant", f"I will remember that, {name}."))
        if draw.chance(0.5):
            turns.append(Turn("user", draw.rng.choice(("Where do I live?", "Where am I from?"))))
            turns.append(Turn("assistant", f"You told me: {place}."))
        else:
            turns.append(Turn("user", draw.phrase(_NAME_ASKED)))
            turns.append(Turn("assistant", f"Your name is {name}."))
    elif kind < 0.9:
        turns = [Turn("user", draw.phrase(_NAME_ASKED))]
        turns.append(Turn("assistant", "You have not told me your name yet."))
    return Dialogue("memory", tuple(turns))


def echo_again(draw: Draw) -> Dialogue:
    """A long list of words said back, sometimes twice: dense practice in copying."""
    words = [draw.word() for _ in range(draw.number(4, 24))]
    separator = draw.rng.choice((" ", " ", ", ", "\n"))
    text = separator.join(words)
    turns = [Turn("user", draw.phrase(_REPEAT).format(text)), Turn("assistant", text)]
    if draw.chance(0.3):
        turns += [
            Turn("user", draw.rng.choice(("Again.", "Once more.", "Say it again."))),
            turns[1],
        ]
    return Dialogue("repeat", tuple(turns))


def lookup(draw: Draw) -> Dialogue:
    """The value that stands beside a key in a list: practice in finding, not in language."""
    keys = list(dict.fromkeys(draw.word() for _ in range(draw.number(2, 8))))
    table = {key: draw.word() for key in keys}
    link, gap = draw.rng.choice(((": ", "\n"), (" = ", ", "), (" is ", "; "), (" -> ", "\n")))
    key = draw.rng.choice(keys)
    listing = gap.join(f"{one}{link}{value}" for one, value in table.items())
    asked = draw.rng.choice(("What is {}?", "{}?", "Which value has {}?", "Look up {}."))
    return ask("lookup", f"{listing}\n{asked.format(key)}", f"{key}{link}{table[key]}")


def _any_fact(draw: Draw) -> tuple[str, str, str]:
    """A statement of an open kind: any verb, or any property of anybody."""
    if draw.chance(0.5):
        verb, noun = draw.rng.choice(_VERBS), draw.rng.choice(("a {thing}", "{other}", "{place}"))
        statement = f"{{name}} {verb}s {noun}."
        question = (f"What does {{name}} {verb}?", f"Who {verb}s {noun}?")
        return statement, draw.rng.choice(question), statement
    noun = draw.rng.choice(_PROPERTIES) if draw.chance(0.7) else draw.invented()
    owner = draw.rng.choice(("{name}", "the {thing}"))
    value = draw.rng.choice(("{other}", "{age}", "{place}", "{colour}", "{code}"))
    statement = f"The {noun} of {owner} is {value}."
    asked = ("What is the {} of {}?", "Tell me the {} of {}.", "Which {} has {}?")
    return statement, draw.rng.choice(asked).format(noun, owner), statement


def _any_extraction(draw: Draw) -> Dialogue:
    """JSON with keys of any name."""
    count = draw.rng.choice((1, 2, 2, 3))
    keys = draw.rng.sample(_PROPERTIES, count + draw.chance(0.3))
    values = {key: _any_value(draw) for key in keys}
    link = draw.rng.choice(("The {} is {}", "{}: {}", "its {} is {}", "{} = {}", "with {} {}"))
    gap = draw.rng.choice((", ", ". ", " and ", "; ", "\n"))
    text = gap.join(link.format(key, value) for key, value in values.items()) + "."
    asked = draw.rng.sample(keys, count)
    question = draw.phrase(_EXTRACT).format(text=text, keys=_listed(asked))
    return ask("extraction", question, json.dumps({key: values[key] for key in asked}))


def _any_value(draw: Draw) -> str | int:
    kind = draw.rng.random()
    if kind < 0.35:
        return draw.number(1, 9999)
    makers = (draw.name, draw.place, draw.thing, draw.invented, lambda: draw.rng.choice(_PALETTE))
    return draw.rng.choice(makers)()


def _kept(draw: Draw) -> list[tuple[str, str, str]]:
    return [one for i, one in enumerate(_STORIES) if (i % 5 == 4) is draw.unseen_phrases]


def _slots(draw: Draw) -> dict[str, str]:
    return {
        "name": draw.name(),
        "other": draw.name(),
        "place": draw.place(),
        "land": draw.invented().capitalize(),
        "thing": draw.thing(),
        "age": str(draw.number(2, 99)),
        "colour": draw.rng.choice(_PALETTE),
        "code": draw.code(),
        "job": draw.rng.choice(_JOBS),
        "tongue": draw.rng.choice(_TONGUES),
        "day": draw.rng.choice(_DAYS),
    }


def _listed(keys: list[str]) -> str:
    return keys[0] if len(keys) == 1 else ", ".join(keys[:-1]) + " and " + keys[-1]
