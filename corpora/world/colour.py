"""Sentences that state no fact anybody asks for, so that short passages read like an encyclopedia's.

Fields as in `sentences.py`, and {trait}, {thing}, ... out of `FILLS`.
"""

from __future__ import annotations

from .sentences import table

__all__ = ["COLOUR", "FILLS"]

FILLS = {
    "trait": (
        "patience",
        "dry humour",
        "careful notes",
        "quick temper",
        "modest habits",
        "long silences",
        "love of detail",
        "early rising",
        "generous advice",
        "stubborn opinions",
        "steady hand",
        "sharp memory",
    ),
    "thing": (
        "sea shells",
        "pressed ferns",
        "old coins",
        "walking sticks",
        "postage stamps",
        "brass buttons",
        "barometers",
        "porcelain birds",
        "railway timetables",
        "chess sets",
        "butterflies",
        "door keys",
        "picture postcards",
        "pocket knives",
    ),
    "material": ("slate", "limestone", "red brick", "granite", "sandstone", "timber", "marble", "pale chalk"),
    "plant": ("larch", "heather", "juniper", "beech", "pine", "birch", "alder", "gorse", "willow", "rowan"),
    "animal": ("otters", "herons", "trout", "eagles", "deer", "hares", "owls", "badgers", "goats", "pike"),
    "ware": (
        "linen",
        "cheese",
        "paper",
        "pottery",
        "cider",
        "wool",
        "leather",
        "honey",
        "furniture",
        "clocks",
        "mustard",
        "rope",
    ),
    "cloth": ("linen", "leather", "wool", "canvas", "felt", "calfskin"),
    "mood": (
        "melancholy",
        "cheerful",
        "restrained",
        "playful",
        "solemn",
        "wry",
        "tender",
        "brisk",
        "dreamy",
    ),
    "sound": ("concertina", "cello", "trumpet", "bassoon", "clarinet", "harp", "drum", "flute", "mandolin"),
    "season": ("spring", "autumn", "January", "May", "October", "March", "November"),
    "weather": ("fog", "heavy snow", "gales", "thunder", "drought", "hard frost", "steady rain"),
}

COLOUR = table("""
[person]
{S} was known for {p} {trait}.
{S} collected {thing} and kept them in labelled drawers.
Those who met {o} recalled {p} {trait}.
{S} played the {sound} in {p} free hours.
{S} wrote long letters every {season}, of which few survive.
A small archive of {p} papers is kept together with {p} collection of {thing}.
{S} could not bear {weather} and said so often.
{S} left behind a house full of {thing}.
[town]
{S} is noted for its {ware} and its houses of {material}.
The weekly market deals mostly in {ware}.
Old streets paved with {material} lead up to the square.
Visitors come in {season} for the fair, where {ware} and {ware2} are sold.
Makers of {ware} once had a hall here, built of {material}.
Woods of {plant} begin just beyond the last houses.
[county]
{S} consists mainly of hills covered with {plant} and quarries of {material}.
Its farms produce {ware} and {ware2}.
The winters bring {weather}, and the roads are often closed in {season}.
Woods of {plant} shelter {animal} in great numbers.
The coat of arms shows two {animal} under a branch of {plant}.
[river]
{S} is home to {animal} and lined with {plant} for much of its course.
In {season} the water is high, and boats carry {ware} downstream.
The bed is of {material}, which keeps the water clear.
Anglers visit in {season}, when {animal} are plentiful.
Old mills on the upper course once made {ware}.
[mountain]
{S} is made of {material}, and its lower slopes are covered with {plant}.
Walkers are warned of {weather} in {season}.
A hut of {material} stands below the last ridge and opens in {season}.
The slopes are home to {animal} and dotted with {plant}.
The path winds through {plant} before it reaches bare rock.
[railway]
{S} carried mainly {ware} and {ware2} in its early years.
The bridges are of {material}, and several cuttings run through {plant}.
In {season} the trains are delayed by {weather}.
The carriages are painted in two colours and fitted with seats of {cloth}.
A tunnel of some length leads through {material}.
[company]
{S} began in a rented shed built of {material} and once dealt in {ware} too.
The trade mark shows a pair of {animal}.
The staff hold a dinner every {season}, with music on the {sound}.
Its early catalogues offered {ware} besides the usual goods.
The buildings are of {material} and face a row of {plant}.
[school]
{S} occupies a group of buildings of {material} among {plant} trees.
The crest shows {animal} and a sprig of {plant}.
Every {season} the pupils hold a concert, opened by the {sound}.
Lessons in making {ware} were once part of the day.
The library holds a cabinet of {thing} given by a former pupil.
[book]
{S} was praised for its {mood} tone.
Critics found the ending {mood}, but readers liked it.
The first chapter opens in {weather} and sets a {mood} mood.
A cheap edition, bound in {cloth}, sold well every {season}.
The cover shows {animal} under a branch of {plant}.
{S} was read aloud on the radio in {season}.
[film]
{S} was praised for its {mood} tone.
Reviewers called the last scene {mood}.
The score, for {sound} and {sound2}, is often played on its own.
Most scenes were shot outdoors during {weather}.
The opening scene, shot during {weather}, gave the crew much trouble.
{S} ran for many weeks and was shown again in {season}.
[band]
{S} is known for {mood} songs with {sound} and {sound2}.
The sound rests on the {sound} and a {mood} way of singing.
Every {season} it tours the country.
A live recording made during {weather} is much sought after.
The stage show includes a parade of {thing}.
[prize]
{S} is handed over each {season}, together with a medal that shows {animal}.
The winner receives a sum of money and a bowl of {material}.
The jury meets in {season} and votes in secret.
The ceremony closes with a piece for {sound} and {sound2}.
Nobody may receive it twice, a rule that has caused some {mood} debates.
[museum]
{S} shows {thing}, {thing2} and rooms full of {ware}.
The building is of {material} and stands among {plant} trees.
A large gift of {thing} arrived in one {season} and filled the upper floor.
Concerts for {sound} are given in the hall in {season}.
The most visited room holds {thing} and a stuffed group of {animal}.
[newspaper]
{S} has a {mood} style and a weekly page on {thing}.
The masthead shows {animal} and a branch of {plant}.
A supplement about {ware} appears in {season}.
Its reports of {weather} are read all over the country.
Advertisements for {ware} once filled the front page.
[ship]
{S} carried {ware} and {ware2} in its first years.
{S} survived {weather} more than once and was refitted in {season}.
The cabins are panelled in {plant} wood.
The figurehead, lost in {weather}, was replaced by a carved branch of {plant}.
The crew kept a {sound} on board for the evenings.
""")
