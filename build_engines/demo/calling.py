"""Conversations with tools: choose a function, fill its arguments, then use what it returned."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from .dialogue import Dialogue, Tool, Turn
from .draw import Draw, words
from .smalltalk import capital, smalltalk

# name | description | parameter:kind,... | questions
_FUNCTIONS = """
get_weather|Get the weather of a city|city:place|What is the weather in {city}?;How is the \
weather in {city}?;Weather in {city}?;Is it raining in {city}?;Tell me the weather in \
{city}.;What's the weather like in {city}?;Is it sunny in {city}?;What is the weather in {city} \
today?
get_current_weather|Get the current weather in a given location|location:place|What is the \
weather in {location}?;How is the weather in {location} now?;Weather in {location} please;What's \
the weather like in {location}?;Is it cold in {location}?;Do I need an umbrella in {location}?
get_temperature|Get the temperature of a place|place:place|How warm is it in {place}?;What is \
the temperature in {place}?;Temperature in {place}?;Is it hot in {place}?;How cold is {place} \
today?
get_weather_forecast|Weather forecast|city:place,days:number|Forecast for {city} for {days} \
days;Give me the forecast for {city} for the next {days} days.;What will the weather in {city} \
be in {days} days?;I need a {days} day forecast for {city}.;Weather in {city} for {days} days?
get_time|Get the time in a city|city:place|What time is it in {city}?;Tell me the time in \
{city}.;Time in {city}?;What is the local time in {city}?;How late is it in {city}?
send_email|Send an email|to:name,subject:words|Send an email to {to} about {subject}.;Write an \
email to {to} with the subject {subject}.;Email {to} about {subject}.;Please send {to} an email \
about {subject}.;Mail {to}: {subject}
send_message|Send a message to a person|recipient:name,text:words|Send {recipient} the message \
{text}.;Message {recipient}: {text};Tell {recipient} this: {text};Send a message to {recipient}: \
{text};Write to {recipient}: {text}
search|Search the web|query:words|Search for {query}.;Search the web for {query};Find \
{query}.;Look up {query}.;Can you search for {query}?
search_documents|Search documents|query:words,limit:number|Find {limit} documents about \
{query}.;Search {limit} documents on {query}.;Show me {limit} documents about {query};Search the \
documents for {query}, at most {limit}.;I need {limit} papers about {query}.
add|Add two numbers|a:number,b:number|Add {a} and {b}.;What is {a} plus {b}?;What is {a} + \
{b}?;Use the tool to add {a} and {b}.;Sum {a} and {b}.
multiply|Multiply two numbers|a:number,b:number|Multiply {a} and {b}.;What is {a} times \
{b}?;What is {a} * {b}?;{a} times {b};Compute {a} times {b}.
calculate|Evaluate an expression|expression:sum|Calculate {expression}.;What is \
{expression}?;Evaluate {expression};How much is {expression}?;Please compute {expression}
get_stock_price|Get the price of a stock|symbol:symbol|What is the price of {symbol}?;Stock \
price of {symbol}?;How much is {symbol} stock?;Get the stock price for {symbol}.;What does \
{symbol} cost now?
get_user|Get a user by name|name:name|Find the user {name}.;Get user {name};Who is the user \
{name}?;Show me the profile of {name}.;Look up the user {name}.
get_order|Get an order by its number|order_id:number|Where is order {order_id}?;What is the \
status of order {order_id}?;Show order {order_id}.;Find my order {order_id};Has order {order_id} \
been sent?
book_flight|Book a flight|origin:place,destination:place|Book a flight from {origin} to \
{destination}.;I want to fly from {origin} to {destination}.;Fly me from {origin} to \
{destination};Get me a flight from {origin} to {destination}.;I need a flight to {destination} \
from {origin}.
book_table|Book a table in a restaurant|restaurant:place,people:number|Book a table for {people} \
at {restaurant}.;Reserve a table at {restaurant} for {people} people.;I need a table for \
{people} at {restaurant};A table at {restaurant} for {people}, please.;We are {people} and want \
to eat at {restaurant}.
create_reminder|Create a reminder|text:words,day:day|Remind me of {text} on {day}.;Create a \
reminder for {day}: {text};On {day}, remind me: {text};Set a reminder for {day}: {text};Please \
remind me on {day} of {text}.
translate|Translate a word|word:word,language:tongue|Translate {word} to {language}.;How do you \
say {word} in {language}?;What is {word} in {language}?;Translate the word {word} into \
{language}.;{word} in {language}?
turn_on|Switch a device on|device:thing|Turn on the {device}.;Switch on the {device}.;Please \
turn the {device} on.;Start the {device}.;Can you switch the {device} on?
play_music|Play a song|song:words,artist:name|Play {song} by {artist}.;Play the song {song} by \
{artist};I want to hear {song} by {artist}.;Put on {song} by {artist}.;Please play {artist} with \
{song}
lookup_capital|Get the capital of a country|country:land|Look up the capital of {country}.;What \
is the capital of {country}?;Capital of {country}?;Which city is the capital of {country}?;Find \
the capital of {country}.
"""
_SKIES = words("""
sunny rainy cloudy windy snowy foggy clear stormy
""")
_SYMBOLS = words("""
AAPL MSFT NVDA AMZN GOOG TSLA INTC AMD IBM SAP BMW KO
""")
_TONGUES = words("""
English French German Spanish Italian Polish Dutch Greek Turkish Arabic Hindi
""")
_DAYS = words("""
Monday Tuesday Wednesday Thursday Friday Saturday Sunday
""")


def tool_call(draw: Draw) -> Dialogue:
    """A question that one of the offered tools answers; one in eight needs two calls."""
    name, questions, described, chosen = _choose(draw)
    arguments = {key: _value(draw, kind) for key, kind in described.items()}
    calls = [(name, arguments)]
    question = draw.phrase(questions).format(**arguments)
    if name == "get_weather" and draw.chance(0.3):
        second = {key: _value(draw, kind) for key, kind in described.items()}
        question = f"What is the weather in {arguments['city']} and in {second['city']}?"
        calls.append((name, second))
    turns = (Turn("user", question), Turn("assistant", "", tuple(calls)))
    return Dialogue("tool_call", _with_system(draw, turns), chosen)


def tool_result(draw: Draw) -> Dialogue:
    """An answer in words to what a tool returned."""
    name, questions, described, chosen = _choose(draw, draw.chance(0.5))
    arguments = {key: _value(draw, kind) for key, kind in described.items()}
    question = draw.phrase(questions).format(**arguments)
    result, answer = _outcome(draw, name, arguments)
    turns = (
        Turn("user", question),
        Turn("assistant", "", ((name, arguments),)),
        Turn("tool", result),
        Turn("assistant", answer),
    )
    return Dialogue("tool_result", _with_system(draw, turns), chosen)


def tool_unneeded(draw: Draw) -> Dialogue:
    """A question that needs none of the offered tools."""
    plain = draw.rng.choice((smalltalk, smalltalk, capital))(draw)
    offered = [one for one in _tools() if one != "lookup_capital"]
    names = draw.rng.sample(offered, draw.rng.choice((1, 1, 2)))
    chosen = tuple(_tools()[one][2] for one in names)
    return Dialogue("tool_unneeded", plain.turns, chosen, plain.accepted, plain.contains)


def called(arguments: Mapping[str, Any], name: str) -> str:
    """The text of one call exactly as the chat template writes it."""
    spoken = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{spoken}\n</tool_call>"


def _choose(
    draw: Draw, weather: bool = False
) -> tuple[str, tuple[str, ...], dict[str, str], tuple[Tool, ...]]:
    table = _tools()
    name = "get_weather" if weather or draw.chance(0.15) else draw.rng.choice(list(table))
    count = draw.rng.choice((1, 1, 1, 2, 2, 3))
    others = draw.rng.sample([one for one in table if not _rivals(one, name)], count - 1)
    questions, described, _ = table[name]
    tools = [table[one][2] for one in [name, *others]]
    draw.rng.shuffle(tools)
    if draw.chance(0.25):
        alias = _alias(draw, name)
        tools = [_renamed(one, name, alias) for one in tools]
        name = alias
    return name, questions, described, tuple(tools)


def _alias(draw: Draw, name: str) -> str:
    return draw.rng.choice((f"{name}_{draw.invented()}", f"{draw.invented()}_{name}", name.title()))


def _renamed(tool: Tool, name: str, alias: str) -> Tool:
    function = tool["function"]
    if function["name"] != name:
        return tool
    return {"type": "function", "function": {**function, "name": alias}}


def _rivals(one: str, other: str) -> bool:
    groups = (
        "get_weather get_current_weather get_temperature get_weather_forecast",
        "add multiply calculate",
        "send_email send_message",
        "search search_documents get_user lookup_capital translate get_order",
    )
    return one == other or any(one in group and other in group for group in groups)


def _tools() -> dict[str, tuple[tuple[str, ...], dict[str, str], Tool]]:
    table = {}
    for line in _FUNCTIONS.strip().split("\n"):
        name, description, described, questions = line.split("|")
        kinds = dict(one.split(":") for one in described.split(","))
        properties = {
            key: {"type": "integer" if kind == "number" else "string"}
            for key, kind in kinds.items()
        }
        function = {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": properties,
                "required": list(properties),
            },
        }
        tool: Tool = {"type": "function", "function": function}
        table[name] = (tuple(questions.split(";")), kinds, tool)
    return table


def _value(draw: Draw, kind: str) -> str | int:
    if kind == "number":
        return draw.number(2, 20) if draw.chance(0.5) else draw.number(2, 999)
    makers: dict[str, Callable[[], str]] = {
        "place": draw.place,
        "name": draw.name,
        "thing": draw.thing,
        "word": draw.thing,
        "words": lambda: " ".join(draw.word() for _ in range(draw.number(1, 3))),
        "sum": lambda: f"{draw.number(2, 99)} {draw.rng.choice('+-*')} {draw.number(2, 99)}",
        "symbol": lambda: draw.rng.choice(_SYMBOLS),
        "tongue": lambda: draw.rng.choice(_TONGUES),
        "day": lambda: draw.rng.choice(_DAYS),
        "land": lambda: draw.invented().capitalize(),
    }
    return makers[kind]()


def _outcome(draw: Draw, name: str, arguments: Mapping[str, Any]) -> tuple[str, str]:
    """What the tool returns, as JSON or as words, and the sentence that reports it."""
    city = arguments.get("city") or arguments.get("location")
    if "weather" in name.lower() and city and "days" not in arguments:
        sky, degrees = draw.rng.choice(_SKIES), draw.number(-9, 39)
        answer = f"It is {sky} in {city}, with {degrees} degrees."
        style = draw.rng.random()
        if style < 0.35:
            result = {"temperature": degrees, "condition": sky}
        elif style < 0.6:
            result = {"city": city, "temperature": degrees, "condition": sky}
        elif style < 0.7:
            result = {"temperature": f"{degrees} C", "sky": sky}
        else:
            words = (f"{sky}, {degrees} degrees", f"{degrees} degrees, {sky}", f"{degrees}C {sky}")
            return draw.rng.choice(words), answer
        return json.dumps(result), answer
    style = draw.rng.random()
    value = str(draw.number(0, 9999)) if draw.chance(0.4) else draw.word()
    answer = f"The result is {value}."
    if style < 0.4:
        return json.dumps({draw.rng.choice(("result", "value", "status")): value}), answer
    if style < 0.5:
        return json.dumps({"error": value}), f"The tool reported an error: {value}."
    return value, answer


def _with_system(draw: Draw, turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    if draw.chance(0.7):
        return turns
    return (Turn("system", "You are a helpful assistant."), *turns)
