"""The encyclopedia rendering: paragraphs of natural English, and questions in words.

    Mira Vogack (born 14 March 1893) was a painter from Oldmoor. She learned the craft from the poet Jan Kerberg
    and was married to Otto Lindhart. Vogack died in 1961.

The choice of wordings, their order and the pronouns are a hash of the entity's number, so that a passage never changes.
Homonyms are distinguished in the text ("the painter Mira Vogack").
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from string import Formatter

from .arithmetic import hash64, key
from .facts import Country, Entity, Value, aliases
from .plans import Plan, end_of
from .schema import RELATIONS, Relation
from .wordings import wordings
from .words import MALE_NAMES

__all__ = ["Prose"]

_BRANCHES = re.compile(r", | and ")
_DOUBLED = re.compile(r"\b(\w+) \1\b")
_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_WITH_ARTICLE = frozenset({"river", "railway", "prize", "museum", "newspaper", "ship"})
_SHORT = 24
"""Passages with fewer words than this get more sentences of colour."""
_IN_A_LIFE = {"born": 0, "birthplace": 0, "died": 2}
_KEYS = {relation: key(relation) for _, relation in RELATIONS}
_LONG_PHRASE = 50  # characters
_TRADES = {
    "Press": "publishing",
    "Pictures": "film",
    "Records": "record",
    "Shipyard": "shipbuilding",
    "Railworks": "railway",
    "Mills": "textile",
    "Instruments": "toolmaking",
    "Motors": "motor",
}


@lru_cache(maxsize=1024)
def _fields(template: str) -> frozenset[str]:
    return frozenset(name for _, name, _, _ in Formatter().parse(template) if name)


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" or noun.startswith(("hour", "heir")) else f"a {noun}"


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _theme(words: Sequence[str]) -> str:
    figure, event, *more = words
    parts = [_article(f"{more[0]} {figure}" if more else figure), _article(event), *map(_article, more[1:])]
    return _listed(parts)


class Prose:
    """Renders facts and plans in the style of an encyclopedia.

    Args:
        country: the facts.
    """

    name = "encyclopedia"

    def __init__(self, country: Country) -> None:
        self._country = country
        self._seed = hash64(country.seed, key("prose"))

    # -- values ------------------------------------------------------------------------------------------------

    def mention(self, entity: Entity) -> str:
        """The entity's name in running text, with its qualifier if it has a homonym."""
        if entity.homonym:
            return f"the {entity.qualifier} {entity.name}"
        return f"the {entity.name}" if entity.type in _WITH_ARTICLE else entity.name

    def value(self, spec: Relation, value: Value) -> str:
        """A value as the passages word it."""
        if isinstance(value, list):
            return _listed([self.mention(item) for item in value])
        if isinstance(value, Entity):
            return self.mention(value)
        if isinstance(value, tuple):
            return _theme(value)
        return f"{value:,}" if spec.target == "number" else str(value)

    def bridge(self, spec: Relation, value: Value) -> str:
        """The value of a hop as it appears in the passage, without an article."""
        if isinstance(value, Entity):
            return f"{value.qualifier} {value.name}" if value.homonym else value.name
        return self.value(spec, value)

    def query(self, entity: Entity) -> str:
        """A search query that finds the entity's passage."""
        return f"{entity.name} {entity.qualifier}" if entity.homonym else entity.name

    def theme_query(self, plan: Plan) -> str:
        """A search query for an entity described by its theme."""
        return " ".join((plan.type, *plan.theme))

    # -- passages ----------------------------------------------------------------------------------------------

    def text(self, entity: Entity) -> str:
        """The entity's passage, without its title."""
        draw = hash64(self._seed, entity.index)
        facts = {spec.name: (spec, value) for spec, value in self._country.facts(entity)}
        words = {name: self.value(spec, value) for name, (spec, value) in facts.items()}
        lead, used = self._lead(entity, words, draw)
        names = [name for name in facts if name not in used]
        # The remaining facts in any order, except that a life begins with birth and ends with death.
        names.sort(key=lambda name: (_IN_A_LIFE.get(name, 1), hash64(draw, _KEYS[name])))
        sentences = [self._sentence(entity, facts[name], draw) for name in names]
        last = ["died"] if "died" in facts else []
        known_as = aliases(entity)
        extra = []
        if known_as and draw % 3 == 0 and entity.type in wordings("aliases"):
            extra.append(_choose(wordings("aliases")[entity.type], draw // 3).replace("{v}", known_as[-1]))
        extra += self._colour(entity, len(lead.split()) + sum(len(s.split()) for s in sentences), draw)
        for i, sentence in enumerate(extra):
            sentences.insert(hash64(draw, i, 4) % (len(sentences) + 1 - len(last)), sentence)
        return self._joined(entity, lead, sentences, draw)

    @staticmethod
    def _colour(entity: Entity, words: int, draw: int) -> list[str]:
        """One sentence of colour for most passages, more for short ones, none for some."""
        templates = list(wordings("colour")[entity.type])
        out: list[str] = []
        number = hash64(draw, 5)
        while words < _SHORT or (not out and number % 4):
            template = templates.pop(number % len(templates))
            number = hash64(number)
            for name, choices in wordings("fills").items():
                if f"{{{name}" in template:
                    first = number // 8 % len(choices)
                    template = template.replace(f"{{{name}}}", choices[first])
                    template = template.replace(f"{{{name}2}}", choices[(first + 1) % len(choices)])
                    number = hash64(number, 1)
            out.append(template)
            words += len(template.split())
        return out

    def _lead(self, entity: Entity, words: dict[str, str], draw: int) -> tuple[str, frozenset[str]]:
        fields = {**words, "n": entity.name}
        if entity.type == "person":
            fields |= {
                "is": "was" if "died" in words else "is",
                "role": entity.role,
                "a": _article(entity.role),
            }
            fields["born_date"] = self._date("born", int(words["born"]), draw)[0]
        elif entity.type == "company":
            fields["trade"] = _TRADES[entity.role]
        possible = [t for t in wordings("leads")[entity.type] if _fields(t) <= fields.keys()]
        template = possible[draw // 64 % len(possible)]
        used = {"born" if name == "born_date" else name for name in _fields(template)}
        return template.format_map(fields), frozenset(used)

    def _date(self, relation: str, year: int, draw: int) -> tuple[str, str]:
        number = hash64(draw, _KEYS[relation], 1)
        month = number % 12
        day = 1 + number // 12 % _DAYS[month]
        return f"{day} {_MONTHS[month]} {year}", f"{_MONTHS[month]} {year}"

    def _sentence(self, entity: Entity, fact: tuple[Relation, Value], draw: int) -> str:
        spec, value = fact
        table = wordings("sentences")
        templates = table.get(f"{entity.role}.{spec.name}") or table[f"{entity.type}.{spec.name}"]
        template = templates[hash64(draw, _KEYS[spec.name], 2) % len(templates)]
        text = template.replace("{v}", self.value(spec, value))
        if isinstance(value, int) and spec.target == "year":
            date, month = self._date(spec.name, value, draw)
            text = text.replace("{d}", date).replace("{m}", month)
        return text

    def _joined(self, entity: Entity, lead: str, sentences: list[str], draw: int) -> str:
        if entity.type == "person":
            he = entity.name.split()[0] in MALE_NAMES
            pronoun, possessive, objective = ("He", "his", "him") if he else ("She", "her", "her")
            subjects: tuple[str, ...] = (pronoun, pronoun, entity.name.split()[-1])
        else:
            pronoun, possessive, objective = "It", "its", "it"
            subjects = wordings("subjects")[entity.type]
        out = [lead]
        i = 0
        while i < len(sentences):
            choice = hash64(draw, i, 3)
            text = sentences[i]
            i += 1
            joins = text.startswith("{S} ") and i < len(sentences) and choice % 5 < 3
            # Only simple sentences: the result is hard to read if either contains a comma or "and".
            if joins and sentences[i].startswith("{S} ") and not _BRANCHES.search(text + sentences[i]):
                text = f"{text[:-1]} and {sentences[i].removeprefix('{S} ')}"
                i += 1
            out.append(
                text.replace("{S}", subjects[(len(out) - 1) % len(subjects)])
                .replace("{P}", _capital(possessive))
                .replace("{p}", possessive)
                .replace("{s}", pronoun.lower())
                .replace("{o}", objective)
            )
        return " ".join(map(_capital, out))

    # -- questions ---------------------------------------------------------------------------------------------

    def _named(self, entity: Entity) -> str:
        """A named entity in a question, always with a word that says what it is."""
        if entity.type in ("person", "town", "company", "book", "film", "band", "ship") or entity.homonym:
            return f"the {entity.qualifier} {entity.name}"
        return self.mention(entity)

    def question(self, plan: Plan, number: int) -> str:
        """The question in words.

        Args:
            plan: the question.
            number: chooses among the wordings.
        """
        starts = [self._country.entity(i) for i in plan.starts]
        if plan.compare is not None:
            return self._comparison(plan, starts, number)
        introduction = ""
        if plan.theme:
            fields = {"v": _theme(plan.theme), "decade": f"{plan.decade[1]}s" if plan.decade else ""}
            if number % 2 or len(plan.path) > 1:
                introduction = (
                    _choose(wordings("descriptions")[f"{plan.type}."], number // 2).format_map(fields) + " "
                )
                phrase = f"that {plan.type}"
            else:
                phrase = _choose(wordings("descriptions")[plan.type], number // 2).format_map(fields)
            type_ = plan.type
        elif plan.lists:
            which, type_, fields = self._found(plan, starts)
            if not plan.path:
                return _choose(wordings("constraints")[f"{which}?"], number).format_map(fields)
            phrase = _choose(wordings("constraints")[which], number).format_map(fields)
        else:
            phrase, type_ = self._named(starts[0]), starts[0].type
        simple = not plan.theme and not plan.lists
        for i, relation in enumerate(plan.path[:-1]):
            phrases = wordings("noun_phrases")[f"{type_}.{relation}"]
            if not simple:  # a long phrase reads well only at the end
                phrases = tuple(p for p in phrases if p.endswith("{x}"))
            phrase = _choose(phrases, hash64(number, i)).replace("{x}", phrase)
            type_ = end_of(type_, relation)
            simple = False
        asks = wordings("questions")[f"{type_}.{plan.path[-1]}"]
        if len(phrase) > _LONG_PHRASE:  # as above
            asks = tuple(a for a in asks if a.endswith("{x}?")) or asks
        first = hash64(number, 99)
        whole = [_choose(asks, first + i).replace("{x}", phrase) for i in range(len(asks))]
        # A phrase can end in the word that follows it: "the school where she was educated educated?"
        return introduction + next((w for w in whole if not _DOUBLED.search(w)), whole[0])

    def _found(self, plan: Plan, starts: list[Entity]) -> tuple[str, str, dict[str, str]]:
        x = self._named(starts[0]) if len(starts) == 1 else self.mention(starts[0])
        if plan.where is not None:
            return plan.where[0], "person", {"x": x, "y": self.mention(self._country.entity(plan.where[1]))}
        if plan.decade is not None:
            return plan.decade[0], "person", {"x": x, "decade": f"{plan.decade[1]}s"}
        type_ = end_of(starts[0].type, plan.lists[0])
        return type_, type_, {"x": x, "y": self.mention(starts[1])}

    def _comparison(self, plan: Plan, starts: list[Entity], number: int) -> str:
        assert plan.compare is not None
        relation, extreme = plan.compare
        type_ = starts[0].type
        end, form = type_, "direct"
        if plan.path:
            end, form = end_of(type_, plan.path[0]), "bridged"
        person = type_ == "person"
        text = _choose(wordings("comparisons")[form], number).format(
            which="Who" if person else f"Which {type_}",
            one="who" if person else "which",
            measure=_choose(wordings("measures")[f"{end}.{relation}.{extreme}"], number // 8),
            role=wordings("roles").get(plan.path[0], (plan.path[0],))[0] if plan.path else "",
            x=self.mention(starts[0]),
            y=self.mention(starts[1]),
        )
        return _capital(text)


def _choose(wordings: Sequence[str], number: int) -> str:
    return wordings[number % len(wordings)]
