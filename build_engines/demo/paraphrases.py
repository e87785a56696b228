"""Pairs of sentences that mean the same or belong together, for the sentence encoder."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .copying import reading_pair
from .draw import Draw, is_held_out
from .facts import capitals, concepts, small_facts
from .smalltalk import CAPITAL_QUESTIONS, EXPLAIN, SAME_ANSWER
from .unknown import ABOUT, ACTIONS, HOW, TOPICS

# One line per meaning; the last of every five lines is kept for evaluation.
_SAYINGS = """
Operayde keeps your data on-premise.|Your data stays in your own building with Operayde.|With \
Operayde no data leaves the premises.|Operayde stores and processes data on site.
Virtual keys control API access.|Access to the API is governed by virtual keys.|A virtual key \
decides who may call the API.|Only callers with a virtual key can use the API.
The quick brown fox jumps over the lazy dog.|A fast brown fox leaps over a sleepy dog.|Over the \
lazy dog jumps a quick fox.
Hello world.|Greetings to the world.|Good day, world!|Hi, everybody in the world.
The meeting was moved to Friday.|We will meet on Friday instead.|The appointment is now on \
Friday.
The server is down.|The machine does not respond.|Our server has stopped working.|The system \
cannot be reached.
The policy denies cloud models.|Cloud models are forbidden by the policy.|The rules do not allow \
models in the cloud.|No request may go to a cloud model.
The request was refused because the limit was reached.|Too many requests were sent.|The rate \
limit has been exceeded.|The caller used up the quota.
Encryption protects the stored files.|The files on disk are encrypted.|Stored data is kept \
secret.
The invoice must be paid within thirty days.|Payment is due in a month.|You have thirty days to \
pay the bill.
I forgot my password.|I cannot remember my password.|My password has slipped my mind.|Please help \
me reset my password.
The model answers slowly.|Replies from the model take a long time.|The responses are slow.
The contract ends in December.|The agreement expires at the end of the year.|In December the \
contract runs out.
The weather is nice today.|It is a sunny day.|Today the sun is shining.|We have fine weather.
She bought a new car.|She purchased a vehicle.|A new car was bought by her.
The train is late.|The train has a delay.|Our train will arrive later than planned.
He is very tired.|He needs some sleep.|He is exhausted.|He can hardly stay awake.
The food tastes good.|This meal is delicious.|The dish is tasty.|I like this food.
The shop closes at six.|The store is open until six.|After six the shop is shut.
The patient has a fever.|The temperature of the patient is too high.|The sick man is feverish.
Graphics cards speed up training.|Training runs faster on a GPU.|A GPU makes learning faster.
The operator loads a larger model.|A bigger model is loaded by the operator.|The administrator \
starts a more capable model.
Personal data must be deleted on request.|People may ask for their data to be erased.|Private \
data is removed when somebody asks.
The audit log records every call.|Each call is written to the audit trail.|All requests are noted \
in a log.
The children play in the garden.|Kids are playing in the yard.|In the garden the children have \
fun.
The company hired two engineers.|Two engineers were employed by the firm.|The business has two \
new engineers.
The price of oil is rising.|Oil becomes more expensive.|Oil prices go up.
The team won the match.|Our side was victorious in the game.|The players won their game.
The river flooded the village.|Water from the river covered the houses.|The village was under \
water after the flood.
The key was revoked.|The key is no longer valid.|Somebody withdrew the key.|The key has been \
disabled.
The file is too large to upload.|The upload failed because of the size of the file.|The document \
is too big to send.
My computer does not start.|The laptop will not boot.|My machine stays off.
We need more storage.|The disk is almost full.|There is not enough space on the drive.
The plane lands at noon.|The flight arrives at twelve.|At midday the aircraft touches down.
The library opens on Monday.|From Monday on you can visit the library.|On Monday the library is \
open.
The doctor prescribed medicine.|The physician gave the patient some drugs.|Medicine was ordered \
by the doctor.
Sales fell last quarter.|Revenue went down in the last three months.|We sold less last quarter.
The bridge is closed for repairs.|You cannot cross the bridge during the works.|The bridge is \
shut because it is being repaired.
The teacher explains the lesson.|The lesson is explained by the teacher.|In class the teacher \
makes things clear.
The dog barks at night.|At night the hound is noisy.|The dog makes noise in the dark.
"""
_SYNONYMS = """
buys,purchases,acquires;sells,offers for
sale;repairs,fixes,mends;cleans,washes;builds,constructs,makes;
finds,discovers;loses,misplaces;likes,enjoys,is fond of;hates,dislikes,cannot
stand;shows,presents; hides,conceals;starts,begins
with;needs,requires;paints,colours;breaks,destroys,ruins;carries,transports;
sends,ships,mails;receives,gets;describes,explains;watches,looks at,observes;forgets,does not
remember
"""
_DOERS = """
the boy,the lad;the girl,the young lady;the doctor,the physician;the boss,the manager,the chief;
the company,the firm,the business;the customer,the client,the buyer;the pupil,the student;the
child,the kid; the woman,the lady;the man,the gentleman;the policeman,the officer;the worker,the
employee; the author,the writer;the driver,the chauffeur;the guest,the visitor;the lawyer,the
attorney
"""
_OBJECTS = """
a car,an automobile,a vehicle;a bicycle,a bike;a house,a home,a building;a present,a gift;a
picture,an image; a letter,a message;a computer,a laptop,a PC;a phone,a telephone;a shop,a
store;a road,a street;a sofa,a couch; a film,a movie;a stone,a rock;a rabbit,a bunny;a boat,a
ship;a coat,a jacket;a bag,a sack;a song,a tune; a book,a novel;the rubbish,the garbage;the
money,the cash;an error,a mistake,a fault;a contract,an agreement
"""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts that belong together; pairs with the same `meaning` never oppose each other."""

    first: str
    second: str
    meaning: str


def pairs(seed: int, held_out: bool) -> Iterator[Pair]:
    """Pairs without end; the held-out ones have words and wordings that training never sees."""
    draw = Draw(random.Random(seed), unseen_words=held_out, unseen_phrases=held_out)
    makers = tuple(kinds().values())
    while True:
        made = draw.rng.choice(makers)(draw)
        if made.first != made.second:
            yield made


def kinds() -> dict[str, Callable[[Draw], Pair]]:
    """The kinds of pairs by name."""
    return {
        "same question about the appliance": _smalltalk,
        "same capital": _capital,
        "idea and explanation": _concept,
        "same task": _task,
        "same topic": _topic,
        "fact and question": _fact,
        "same statement of a person": _statement,
        "synonyms": _synonyms,
        "synonyms again": _synonyms,
        "sayings": _saying,
        "sayings again": _saying,
        "shared words": _shared_words,
    }


def _smalltalk(draw: Draw) -> Pair:
    answer, questions = draw.rng.choice(SAME_ANSWER)
    return Pair(draw.phrase(questions), draw.phrase([*questions, answer]), answer)


def _capital(draw: Draw) -> Pair:
    country, city = draw.rng.choice(list(capitals().items()))
    first = draw.phrase(CAPITAL_QUESTIONS).format(country)
    if draw.chance(0.4):
        return Pair(first, f"The capital of {country} is {city}.", country)
    return Pair(first, draw.phrase(CAPITAL_QUESTIONS).format(country), country)


def _concept(draw: Draw) -> Pair:
    idea, explanation = draw.rng.choice(list(concepts().items()))
    first = draw.phrase(EXPLAIN).format(idea)
    return Pair(first, explanation if draw.chance(0.5) else draw.phrase(EXPLAIN).format(idea), idea)


def _task(draw: Draw) -> Pair:
    action = draw.among(ACTIONS)
    return Pair(draw.phrase(HOW).format(action), draw.phrase(HOW).format(action), action)


def _topic(draw: Draw) -> Pair:
    topic = draw.among(TOPICS) if draw.chance(0.6) else draw.thing()
    wordings = [one for one in ABOUT if one.count("{}") == 1]
    return Pair(draw.phrase(wordings).format(topic), draw.phrase(wordings).format(topic), topic)


def _fact(draw: Draw) -> Pair:
    question, answer = draw.rng.choice(list(small_facts().items()))
    return Pair(question, answer, answer)


def _statement(draw: Draw) -> Pair:
    statement, question, answer = reading_pair(draw)
    return Pair(statement, question if draw.chance(0.6) else answer, answer)


def _synonyms(draw: Draw) -> Pair:
    while True:
        doer, verb, thing = (_pick(draw, one) for one in (_DOERS, _SYNONYMS, _OBJECTS))
        meaning = " ".join((doer[0], verb[0], thing[0]))
        if is_held_out(meaning) is draw.unseen_words:
            break
    first = " ".join(draw.rng.choice(one) for one in (doer, verb, thing))
    second = " ".join(draw.rng.choice(one) for one in (doer, verb, thing))
    return Pair(first.capitalize() + ".", second.capitalize() + ".", meaning)


def _saying(draw: Draw) -> Pair:
    lines = _SAYINGS.strip().split("\n")
    kept = [one for i, one in enumerate(lines) if (i % 5 == 4) is draw.unseen_phrases]
    line = draw.rng.choice(kept)
    first, second = draw.rng.sample(line.split("|"), 2)
    return Pair(first, second, line)


def _shared_words(draw: Draw) -> Pair:
    makers = (draw.word, draw.thing, draw.thing, draw.name, draw.invented)
    words = [draw.rng.choice(makers)() for _ in range(draw.number(3, 8))]
    kept = draw.rng.sample(words, max(2, len(words) - draw.number(0, 2)))
    return Pair(" ".join(words), " ".join(kept), " ".join(words))


def _pick(draw: Draw, table: str) -> list[str]:
    rows = [one.strip() for one in table.replace("\n", " ").split(";")]
    return draw.rng.choice(rows).split(",")
