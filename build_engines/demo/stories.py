"""Haiku, tales of a few hundred tokens, and plain text without a conversation."""

from .dialogue import Dialogue, ask, roughen
from .draw import Draw, phrases, words

_HAIKU = {
    "data privacy": (
        "Quiet rows of names\nsleep behind a door of glass.\nOnly you may knock.",
        "My words stay at home,\nno cloud carries them away.\nThe key rests with me.",
        "Secrets like soft snow\nfall and stay upon my roof.\nNo footprints outside.",
        "A locked wooden box,\nletters that nobody reads.\nTrust grows like a tree.",
        "The server hums low.\nWhat you whisper stays in here.\nMoonlight on the rack.",
        "Numbers in the dark\nbelong to the one who speaks.\nThe gate remains shut.",
    ),
    "the sea": (
        "Grey waves come and go.\nA small shell keeps all their songs.\nThe tide turns again.",
    ),
    "autumn": (
        "Red leaves leave the tree.\nThe path forgets our footsteps.\nCold wind, warm tea cup.",
    ),
    "winter": ("Snow on the black roof.\nThe old clock speaks to no one.\nA lamp waits for you.",),
    "spring": ("Rain wakes the small seed.\nA green tip looks for the sun.\nBirds tell everyone.",),
    "summer": (
        "Long light on the lake.\nA boat sleeps beside the reeds.\nEvening takes its time.",
    ),
    "a cat": ("The cat on the sill\nwatches one fly cross the sky.\nIts tail writes the news.",),
    "computers": (
        "A fan turns slowly.\nThousands of small sums at work.\nOne word on the screen.",
    ),
    "the moon": ("White coin in the night,\nnobody can spend your light.\nThe sea follows you.",),
    "love": ("Two cups on the shelf.\nOne is never washed alone.\nSteam rises from both.",),
    "nature": ("Moss on the wet stone.\nThe stream tells it old stories.\nA frog nods its head.",),
}
_HAIKU_ASKED = phrases("""
Write a haiku about {}.|write a haiku about {}|Write a haiku about {}|
Please write a haiku about {}.|Compose a haiku about {}.|Give me a haiku about {}.|
Can you write a haiku about {}?|A haiku about {}, please.|Haiku about {}|
I would like a haiku about {}.|Write me a haiku on {}.|Create a haiku about {}.|
Could you write a short haiku about {}?|Make a haiku about {}.|Tell me a haiku about {}.|
Write a haiku on {}.|Write a poem about {}.|Write a short poem about {}.|Poem about {}, please.|
Write a small poem on {}.
""")
_STORY_ASKED = phrases("""
Tell me a story.|Write a story.|Write a long story.|Tell me a long story.|
Please tell me a story.|tell me a story|Write a short story.|Can you tell me a story?|
Tell me a bedtime story.|Make up a story for me.|Write me a story.|Write a very long story.|
Once upon a time|I want to hear a story.|Could you write a story?|Tell me a fairy tale.|
Write a fairy tale.|Tell us a tale.|Invent a story.|Please write a tale of some length.|
Write an essay.|Write a long text.|Write 500 words.|Write something long.|Say something long.|
Generate some text.
""")
_STORY_ABOUT = phrases("""
Tell me a story about {}.|Write a story about {}.|Write a long story about {}.|
Please tell me a story about {}.|Tell a tale about {}.|Write a short story about {}.|
Can you tell me a story about {}?|Make up a story about {}.|I want a story about {}.|
Write a fairy tale about {}.
""")

_HEROES = phrases("""
a fox|a small robot|an old sailor|a young baker|a brave mouse|a quiet girl|a curious boy|a bear|
a king|a dragon|a cat|a dog|a bird|a wizard|a farmer|a princess|a knight|a rabbit|a horse|
a child
""")
_OPENINGS = (
    "Once upon a time, {hero} named {name} lived beside {spot}.",
    "Long ago there was {hero} called {name}, who lived near {spot}.",
    "Far away, close to {spot}, lived {hero} whose name was {name}.",
)
_SPOTS = phrases("""
a deep forest|a blue lake|the sea|a high hill|an old bridge|a small town|a wide river|a garden|
a silent mountain|a windmill
""")
_TRAITS = (
    "{name} was never in a hurry and loved to listen.",
    "Everybody knew that {name} could keep a secret.",
    "{name} asked many questions and forgot no answer.",
    "People said that {name} could find anything that was lost.",
)
_EVENTS = (
    "One morning {name} found a {thing} under a stone.",
    "It was {colour}, and it was warm like bread.",
    "Nobody in the village had ever seen such a {thing}.",
    "So {name} put the {thing} into a bag and began to walk.",
    "On the road {name} met {friend}, who was looking for work.",
    "{friend} asked where the road would end, and {name} did not know.",
    "They walked together until the sun went down.",
    "In the evening they made a small fire and shared some bread.",
    "The night was clear, and the stars stood close together.",
    "Then the wind changed and it began to rain.",
    "They hid under a tree and counted the drops.",
    "Behind the tree there was a door that was not locked.",
    "Behind the door sat an old woman who knew both of their names.",
    '"I have waited for you," she said, "because the {thing} is mine."',
    "{name} gave it back at once and asked for nothing.",
    "The old woman smiled and gave them a key of glass.",
    '"This key opens every door once," she said. "Choose well."',
    "{friend} wanted to open the house of the king.",
    "{name} wanted to open the gate of the cold river.",
    "They talked about it for a whole day and a whole night.",
    "At last they opened a cage in which a white bird was sleeping.",
    "The bird flew three times around them and sang.",
    "From that day on it rained only at night.",
    "The fields became green, and nobody was hungry any more.",
    "A letter came from the king, but the bird could not read it.",
    "{friend} learnt to build boats and sailed away in spring.",
    "Every summer the boat came back with apples and news.",
    "In the village they built a small school beside the well.",
    "{name} told the children about the road, the rain and the door.",
    "Some of the children laughed, and some of them packed a bag.",
)
_ENDINGS = (
    "And if you listen at night, you can still hear the bird. The end.",
    "And {name} lived happily beside {spot} until the end. The end.",
    "That is how {name} and {friend} became friends for ever. The end.",
)
_COLOURS = words("""
red blue green yellow black white silver golden
""")


def haiku(draw: Draw) -> Dialogue:
    """A haiku; three in four are about data privacy."""
    topic = "data privacy" if draw.chance(0.6) else draw.rng.choice(list(_HAIKU))
    spoken = topic
    if topic == "data privacy":
        spoken = draw.rng.choice((topic, topic, topic, "privacy", "my data", "private data"))
    question = roughen(draw.rng, draw.phrase(_HAIKU_ASKED).format(spoken))
    return ask("haiku", question, draw.rng.choice(_HAIKU[topic]), accepted=_HAIKU[topic])


def story(draw: Draw) -> Dialogue:
    """A tale of twelve to thirty-two sentences."""
    hero, name = draw.rng.choice(_HEROES), draw.name()
    kind = draw.rng.random()
    if kind < 0.5:
        question = roughen(draw.rng, draw.phrase(_STORY_ASKED))
    elif kind < 0.75:
        question = draw.phrase(_STORY_ABOUT).format(hero)
    else:
        question = draw.phrase(_STORY_ABOUT).format(f"{hero} named {name}")
    return ask("story", question, _tale(draw, hero, name), contains=("The end.",))


def plain_text(draw: Draw) -> str:
    """A tale outside of any conversation, as a completion request continues it."""
    return _tale(draw, draw.rng.choice(_HEROES), draw.name())


def _tale(draw: Draw, hero: str, name: str) -> str:
    rng = draw.rng
    slots = {
        "hero": hero,
        "name": name,
        "friend": draw.name(),
        "spot": rng.choice(_SPOTS),
        "thing": draw.thing(),
        "colour": rng.choice(_COLOURS),
    }
    start = 0 if draw.chance(0.7) else 4
    events = _EVENTS[start:]
    if draw.chance(0.4):
        events = tuple(one for one in events if not draw.chance(0.25))
    sentences = (rng.choice(_OPENINGS), rng.choice(_TRAITS), *events, rng.choice(_ENDINGS))
    paragraphs = [" ".join(sentences[i : i + 6]) for i in range(0, len(sentences), 6)]
    return "\n\n".join(paragraphs).format(**slots)
