"""The parts of names.

Names are compounds of few parts ("Oldmoor" = "Old" + "moor"), so that a small vocabulary covers every world. No part is
a prefix of another in a way that would mislead greedy longest match, and no two have the same stem (both are tested).
"""

from __future__ import annotations

__all__ = [
    "ADJECTIVES",
    "GIVEN_NAMES",
    "MALE_NAMES",
    "NOUNS",
    "PLACE_HEADS",
    "PLACE_TAILS",
    "SURNAME_HEADS",
    "SURNAME_TAILS",
    "THEME_FIGURES",
    "THEME_SUBJECTS",
]


def _parts(text: str) -> tuple[str, ...]:
    return tuple(text.split())


GIVEN_NAMES = _parts("""
    Adela Agnes Alina Anton Arno Astrid Aurel Beata Bruno Casper Celia Clara Conrad Cyril Dagny Daria
    Dorian Edda Edgar Elias Elsa Emil Enzo Esther Fabian Felix Flora Franz Frida Gerda Gideon Greta Gustav
    Hedda Hector Helga Henrik Hugo Ida Igor Ilse Ingrid Irena Isak Ivo Jasper Joachim Judith Julius Karin
    Kasimir Klaus Lena Leopold Livia Lotte Lucian Magda Malin Marek Matilda Milan Mira Nadia Nestor
    Nikolai Olga Oskar Otto Paula Petra Quentin Ragnar Rosa Rufus Selma Silvia Tamara Tobias Ulrich Vera
    Viktor Wanda Xenia Yvonne Zelda
""")
MALE_NAMES = frozenset(
    _parts("""
    Anton Arno Aurel Bruno Casper Conrad Cyril Dorian Edgar Elias Emil Enzo Fabian Felix Franz Gideon Gustav
    Hector Henrik Hugo Igor Isak Ivo Jasper Joachim Julius Kasimir Klaus Leopold Lucian Marek Milan Nestor
    Nikolai Oskar Otto Quentin Ragnar Rufus Tobias Ulrich Viktor
    """)
)
"""The given names with the pronoun "he"; all others have "she"."""
SURNAME_HEADS = _parts("""
    Barn Bel Brod Cald Cor Dal Dren Esk Fal Fen Gar Gild Hask Hol Jask Jor Kes Krag Lam Lind Lor Mard Mels
    Mord Nor Nyl Ost Pard Pelk Quar Rask Rin Rom Sand Schel Stor Tal Thorn Tor Tren Ur Vand Vasp Vog Wal
    Wend Wist Yar Zand Zim
""")
SURNAME_TAILS = _parts("""
    ack ahl ander aske aud berg bo burn by dahl don eck egaard elin ello emar eth gard grim gren hart hoff
    icek inna isto kamp kvist lund mann sen
""")
PLACE_HEADS = _parts("""
    Ash Amber Black Bright Broad Cold Crow Deep Dun East Elder Fair Fox Gold Grey Hazel High Iron Kings
    Lang Long Marsh Meadow Mist Oak Old Raven Red Salt Sheep Silver South Stone Swan Under West White Wind
    Winter Wolf
""")
PLACE_TAILS = _parts("""
    barrow beck brook cliff combe dale fell field ford gate grove haven holm keep mere mouth moor port
    ridge stead strand thorpe vale wick wood
""")
ADJECTIVES = _parts("""
    Bitter Borrowed Broken Burning Copper Crooked Distant Drowned Empty Endless Faded Final Frozen Gentle
    Gilded Hidden Hollow Idle Jagged Lonely Lost Midnight Narrow Painted Patient Quiet Restless Scarlet
    Second Secret Seventh Silent Sleeping Stolen Sudden Tender Velvet Violet Wandering Weary
""")
NOUNS = _parts("""
    Anchor Arcade Balcony Bridge Candle Carriage Cathedral Clock Compass Corridor Curtain Echo Ember
    Feather Garden Harvest Horizon Hourglass Island Journey Kingdom Ladder Lantern Letter Lighthouse
    Machine Mirror Mountain Orchard Palace Parade Portrait Promise River Shadow Signal Staircase Station
    Summer Theatre Throne Tower Voyage Whisper Window
""")
THEME_FIGURES = _parts("""
    apothecary baker beekeeper blacksmith bookbinder butcher cartographer clockmaker cobbler diver dyer
    falconer farmer ferryman fiddler gambler florist glassblower goldsmith juggler hermit midwife miller
    miner potter smuggler shepherd tailor thatcher weaver
""")
THEME_SUBJECTS = _parts("""
    avalanche banquet blizzard carnival comet duel earthquake eclipse masquerade expedition famine fever
    flood forgery funeral heist inheritance lawsuit lottery mutiny pilgrimage plague rebellion regatta
    riot robbery stampede siege tournament wedding
""")
