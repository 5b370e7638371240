"""The parts that names are made of.

Names are glued from few parts ("Oldmoor" = "Old" + "moor"), so that a small vocabulary covers every world,
and each list is prefix-free against the others, so that greedy longest match finds the parts again (tested).
"""

from __future__ import annotations

__all__ = [
    "ADJECTIVES",
    "GIVEN_NAMES",
    "NOUNS",
    "PLACE_HEADS",
    "PLACE_TAILS",
    "SURNAME_HEADS",
    "SURNAME_TAILS",
    "THEME_FIGURES",
    "THEME_SUBJECTS",
]

GIVEN_NAMES = tuple(
    ["Adela", "Agnes", "Alina", "Anton", "Arno", "Astrid", "Aurel", "Beata", "Bruno", "Casper", "Celia", "Clara", "Conrad", "Cyril", "Dagny", "Daria", "Dorian", "Edda", "Edgar", "Elias", "Elsa", "Emil", "Enzo", "Esther", "Fabian", "Felix", "Flora", "Franz", "Frida", "Gerda", "Gideon", "Greta", "Gustav", "Hedda", "Hector", "Helga", "Henrik", "Hugo", "Ida", "Igor", "Ilse", "Ingrid", "Irena", "Isak", "Ivo", "Jasper", "Joachim", "Judith", "Julius", "Karin", "Kasimir", "Klaus", "Lena", "Leopold", "Livia", "Lotte", "Lucian", "Magda", "Malin", "Marek", "Matilda", "Milan", "Mira", "Nadia", "Nestor", "Nikolai", "Olga", "Oskar", "Otto", "Paula", "Petra", "Quentin", "Ragnar", "Rosa", "Rufus", "Selma", "Silvia", "Tamara", "Tobias", "Ulrich", "Vera", "Viktor", "Wanda", "Xenia", "Yvonne", "Zelda"]
)

SURNAME_HEADS = tuple(
    ["Barn", "Bel", "Brod", "Cald", "Cor", "Dal", "Dren", "Esk", "Fal", "Fen", "Gar", "Gild", "Hask", "Hol", "Jask", "Jor", "Kes", "Krag", "Lam", "Lind", "Lor", "Mard", "Mels", "Mord", "Nor", "Nyl", "Ost", "Pard", "Pelk", "Quar", "Rask", "Rin", "Rom", "Sand", "Schel", "Stor", "Tal", "Thorn", "Tor", "Tren", "Ur", "Vand", "Vasp", "Vog", "Wal", "Wend", "Wist", "Yar", "Zand", "Zim"]
)
SURNAME_TAILS = tuple(
    ["ack", "ahl", "ander", "aske", "aud", "berg", "bo", "burn", "by", "dahl", "don", "eck", "egaard", "elin", "ello", "emar", "eth", "gard", "grim", "gren", "hart", "hoff", "icek", "inna", "isto", "kamp", "kvist", "lund", "mann", "sen"]
)

PLACE_HEADS = tuple(
    ["Ash", "Amber", "Black", "Bright", "Broad", "Cold", "Crow", "Deep", "Dun", "East", "Elder", "Fair", "Fox", "Gold", "Grey", "Hazel", "High", "Iron", "Kings", "Lang", "Long", "Marsh", "Meadow", "Mist", "Oak", "Old", "Raven", "Red", "Salt", "Sheep", "Silver", "South", "Stone", "Swan", "Under", "West", "White", "Wind", "Winter", "Wolf"]
)
PLACE_TAILS = tuple(
    ["barrow", "beck", "brook", "cliff", "combe", "dale", "fell", "field", "ford", "gate", "grove", "haven", "holm", "keep", "mere", "mouth", "moor", "port", "ridge", "stead", "strand", "thorpe", "vale", "wick", "wood"]
)

ADJECTIVES = tuple(
    ["Bitter", "Borrowed", "Broken", "Burning", "Copper", "Crooked", "Distant", "Drowned", "Empty", "Endless", "Faded", "Final", "Frozen", "Gentle", "Gilded", "Hidden", "Hollow", "Idle", "Jagged", "Lonely", "Lost", "Midnight", "Narrow", "Painted", "Patient", "Quiet", "Restless", "Scarlet", "Second", "Secret", "Seventh", "Silent", "Sleeping", "Stolen", "Sudden", "Tender", "Velvet", "Violet", "Wandering", "Weary"]
)
NOUNS = tuple(
    ["Anchor", "Arcade", "Balcony", "Bridge", "Candle", "Carriage", "Cathedral", "Clock", "Compass", "Corridor", "Curtain", "Echo", "Ember", "Feather", "Garden", "Harvest", "Horizon", "Hourglass", "Island", "Journey", "Kingdom", "Ladder", "Lantern", "Letter", "Lighthouse", "Machine", "Mirror", "Mountain", "Orchard", "Palace", "Parade", "Portrait", "Promise", "River", "Shadow", "Signal", "Staircase", "Station", "Summer", "Theatre", "Throne", "Tower", "Voyage", "Whisper", "Window"]
)

THEME_FIGURES = tuple(
    ["apothecary", "baker", "beekeeper", "blacksmith", "bookbinder", "butcher", "cartographer", "clockmaker", "cobbler", "diver", "dyer", "falconer", "farmer", "ferryman", "fiddler", "gambler", "florist", "glassblower", "goldsmith", "juggler", "hermit", "midwife", "miller", "miner", "potter", "smuggler", "shepherd", "tailor", "thatcher", "weaver"]
)
THEME_SUBJECTS = tuple(
    ["avalanche", "banquet", "blizzard", "carnival", "comet", "duel", "earthquake", "eclipse", "election", "expedition", "famine", "fever", "flood", "forgery", "funeral", "heist", "inheritance", "lawsuit", "lottery", "mutiny", "pilgrimage", "plague", "rebellion", "regatta", "riot", "robbery", "stampede", "siege", "tournament", "wedding"]
)
