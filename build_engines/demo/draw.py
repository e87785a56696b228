"""One seeded source of words, names and numbers, with a part of each kept out of training."""

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass


def words(text: str) -> list[str]:
    """The words of a table written over several lines."""
    return text.split()


def phrases(text: str) -> list[str]:
    """The entries of a table in which a bar parts them and line breaks count as spaces."""
    return [one.strip() for one in " ".join(text.split("\n")).split("|")]


_ONSETS = words("""
b c d f g h j k l m n p r s t v w z br ch cl cr dr fl fr gl gr kl kr pl pr qu sh sk sl sn sp st
str sw th tr tw wh x y
""")
_VOWELS = words("""
a e i o u a e i o u ai au ea ee ei ia ie io oa oo ou y
""")
_CODAS = words("""
. . . . b ck d f g k l ll m n nd ng nk nt p r rd rk rn s sk ss st t th v x z
""")

_GIVEN = words("""
Aaron Abdul Ada Adam Adele Aisha Alan Albert Alice Amara Amir Amy Ana Anders Andrea Anna Anton
Aria Arjun Asha Ava Ben Bianca Boris Bruno Camila Carla Carlos Chen Chloe Clara Daniel David
Diana Diego Dina Dmitri Elena Elias Ella Emil Emma Erik Eva Farah Fatima Felix Fiona Frank Frida
George Grace Hana Hannah Hans Hassan Helen Henry Hugo Ibrahim Ida Igor Ines Ingrid Ivan Jack
Jacob James Jan Jane Javier John Jonas Jose Julia Kai Karim Karl Kate Kenji Khalid Lara Lars
Laura Lea Leo Lena Liam Lina Linda Lucas Lucy Luis Maja Marco Maria Marie Mark Marta Max Maya
Mehmet Mei Mia Michael Mila Mina Mohammed Nadia Nina Noah Nora Olga Oliver Olivia Omar Oscar
Paul Pedro Peter Petra Priya Rafael Ravi Rosa Ruth Sam Samir Sara Sofia Stefan Sven Tara Theo
Thomas Tom Uma Vera Victor Wei Yara Yuki Yusuf Zara Zoe
""")

_CITIES = words("""
Oslo Paris Berlin Rome Madrid Lisbon Vienna Prague Warsaw Dublin London Athens Cairo Nairobi
Lagos Accra Tunis Delhi Mumbai Tokyo Osaka Kyoto Seoul Beijing Shanghai Hanoi Bangkok Manila
Jakarta Sydney Perth Lima Quito Bogota Boston Chicago Denver Dallas Miami Seattle Toronto
Montreal Vancouver Geneva Zurich Basel Munich Hamburg Cologne Milan Turin Naples Venice Porto
Seville Valencia Lyon Nice Ghent Antwerp Utrecht Rotterdam Bergen Malmo Turku Riga Tallinn
Vilnius Krakow Brno Split Istanbul Ankara Dubai Doha Muscat Karachi Lahore Dhaka Colombo Kobe
Leeds York Bath Oxford Glasgow Cork Graz Linz
""")

_THINGS = words("""
apple anchor atlas bag ball banana basket bell bicycle blanket book boots bottle bowl box bread
brush bucket cake camera candle card carpet chair cheese clock coat compass cup curtain desk
diary dish drum engine envelope fan feather flag flute fork garden glass glove guitar hammer hat
helmet honey jacket jar kettle key kite knife ladder lamp laptop lemon letter lock magnet map
mirror mug needle notebook oven painting pan paper pen pencil phone piano pillow pin plate radio
ring robot rope ruler scarf shelf shirt shoe shovel soap sofa spoon stamp stone stool suitcase
sword table tape teapot telescope tent ticket towel toy train tray umbrella vase violin wallet
watch wheel whistle window
""")

_COMMON = words("""
the a one two big small red blue green yellow black white old new quick slow happy sad warm cold
sun moon star river lake sea hill tree leaf flower rain snow wind cloud bird cat dog fox horse
mouse fish bear house door road bridge town school music song dance light night day morning
evening summer winter spring autumn bread milk water tea sugar salt runs sleeps sings jumps
walks reads writes opens likes sees finds makes takes and or but with under over near far here
there today tomorrow never always it is we you they hello world good friend time work play open
closed server model token cloud network data
""")


def is_held_out(word: str) -> bool:
    """True for the eighth of all words that training never shows as an entity."""
    return zlib.crc32(word.lower().encode()) % 8 == 0


@dataclass(frozen=True, slots=True)
class Draw:
    """A random generator together with the side of the hold-out that it draws from."""

    rng: random.Random
    unseen_words: bool = False
    unseen_phrases: bool = False

    def phrase(self, options: Sequence[str]) -> str:
        """One wording; every fifth of five or more is reserved for evaluation."""
        if len(options) < 5:
            return self.rng.choice(options)
        kept = [one for i, one in enumerate(options) if (i % 5 == 4) is self.unseen_phrases]
        return self.rng.choice(kept)

    def among(self, options: Sequence[str]) -> str:
        """One entity of a closed list, on this side of the hold-out."""
        return self._entity(lambda: self.rng.choice(options))

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.rng.random() < probability

    def number(self, low: int, high: int) -> int:
        """An integer of [low, high]."""
        return self.rng.randint(low, high)

    def name(self) -> str:
        """A person's first name, in half of the cases an invented one."""
        if self.chance(0.4):
            return self.among(_GIVEN)
        return self.invented().capitalize()

    def place(self) -> str:
        """A town, in half of the cases an invented one."""
        if self.chance(0.4):
            return self.among(_CITIES)
        return self.invented().capitalize()

    def thing(self) -> str:
        """A lower-case noun, in a third of the cases an invented one."""
        return self.among(_THINGS) if self.chance(0.65) else self.invented()

    def word(self) -> str:
        """Any word to be copied: common, invented, capitalised, a number or a code."""
        kind = self.rng.random()
        if kind < 0.3:
            return self.rng.choice(_COMMON)
        if kind < 0.75:
            return self.invented()
        if kind < 0.85:
            return self.invented().capitalize()
        if kind < 0.93:
            return str(self.number(0, 9999))
        return self.code()

    def invented(self) -> str:
        """A made-up lower-case word of one to three syllables."""
        return self._entity(self._syllables)

    def code(self) -> str:
        """A short mix of letters and digits such as `kx7-42q`."""
        return self._entity(self._characters)

    def _syllables(self) -> str:
        rng = self.rng
        parts = []
        for _ in range(rng.choice((1, 2, 2, 2, 3))):
            coda = rng.choice(_CODAS)
            parts.append(rng.choice(_ONSETS) + rng.choice(_VOWELS) + ("" if coda == "." else coda))
        return "".join(parts)

    def _characters(self) -> str:
        rng = self.rng
        letters = "abcdefghijklmnopqrstuvwxyz"
        alphabet = letters + letters.upper() + "0123456789" * 2 + "-_"
        return "".join(rng.choice(alphabet) for _ in range(rng.randint(3, 8)))

    def _entity(self, make: Callable[[], str]) -> str:
        while True:
            entity = make()
            if is_held_out(entity) is self.unseen_words:
                return entity
