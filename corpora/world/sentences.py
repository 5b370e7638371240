"""How the encyclopedia words its facts: at least five sentences per relation.

Fields: {S} the subject at the start of a sentence (name, pronoun or "The town"), {p} its possessive ("her",
"its"), {v} the value, {d} a full date in the value's year, {m} a month and the year. A sentence that begins
with "{S} " may be joined to the one before it: "She studied at Oldmoor College and worked for ...".

Leads open a passage: {n} the name, {is} "is" or "was", {a} the profession with its article, {role} without,
{trade} a company's line of business, and any fact by its relation's name ("{director}", "{born}"; "{born_date}" the full date). A lead
is used only where all its facts exist, and those are then not told again.
"""

from __future__ import annotations

__all__ = ["ALIASES", "LEADS", "SENTENCES", "SUBJECTS", "table"]


def table(text: str) -> dict[str, tuple[str, ...]]:
    """Lines under [headings], as a dictionary of tuples."""
    table: dict[str, list[str]] = {}
    current: list[str] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("["):
            current = table.setdefault(line.strip("[]"), [])
        else:
            current.append(line)
    return {name: tuple(lines) for name, lines in table.items()}


SUBJECTS = {
    "town": ("It", "The town", "The place"),
    "county": ("It", "The county"),
    "river": ("It", "The river"),
    "mountain": ("It", "The mountain", "The peak"),
    "railway": ("It", "The railway", "The line"),
    "company": ("It", "The company", "The firm"),
    "school": ("It", "The school"),
    "book": ("It", "The book"),
    "film": ("It", "The film"),
    "band": ("It", "The band", "The group"),
    "prize": ("It", "The prize", "The award"),
    "museum": ("It", "The museum"),
    "newspaper": ("It", "The newspaper", "The paper"),
    "ship": ("It", "The ship", "The vessel"),
}
"""How a passage refers back to its subject (people: pronoun and surname)."""

LEADS = table("""
[person]
{n} (born {born_date}) {is} {a} from {birthplace}.
{n} {is} {a}, born in {birthplace} on {born_date}.
Born in {birthplace} in {born}, {n} {is} {a}.
{n} {is} {a} who came into the world at {birthplace} on {born_date}.
{n}, born on {born_date}, {is} a Halvenian {role}.
{n} {is} a Halvenian {role} who was born in {birthplace}.
[town]
{n} is a town in {county}.
{n} is a town of {population} people in {county}.
{n} is one of the towns of {county}, with {population} inhabitants.
The town of {n} lies in {county} and has a population of {population}.
{n} is an old market town in Halvenia.
[county]
{n} is one of the counties of Halvenia.
{n} is a county of {area} square kilometres in Halvenia.
{n} is a county whose seat is {seat}.
{n} is an administrative county governed from {seat}.
{n} is a rural county in Halvenia with an area of {area} square kilometres.
[river]
The {n} is a river of {length} kilometres in Halvenia.
The {n} is a river that rises on {source}.
The {n} is one of the rivers that spring from {source}.
The {n} is a Halvenian river, {length} kilometres long.
The {n} rises on {source} and is {length} kilometres long.
[mountain]
{n} is a mountain in {county}.
{n} is a peak of {height} metres in {county}.
{n}, {height} metres high, is a mountain in Halvenia.
{n} is a mountain that rises {height} metres above the sea.
{n} is one of the peaks of {county}.
[railway]
The {n} is a railway line in Halvenia.
The {n} is a railway that opened in {opened}.
The {n} is a line built by {builder}.
The {n}, opened in {opened}, is a railway in Halvenia.
The {n} is a railway laid out by {engineer}.
[company]
{n} is a {trade} company with headquarters in {headquarters}.
{n} is a company founded in {founded} by {founder}.
{n} is a {trade} company, established in {founded}.
{n} is a Halvenian {trade} company founded by {founder}.
{n}, of {headquarters}, is a {trade} company.
[school]
{n} is a school in {location}.
{n} is a school founded in {founded}.
{n}, established in {founded}, is a school in {location}.
{n} is a well-known school in {location}.
{n} is an old Halvenian school that dates from {founded}.
[book]
{n} is a book by {author}.
{n} is a book published in {published}.
{n} is a book about {theme}, written by {author}.
{n}, a book from {published}, tells of {theme}.
{n} is a {published} book by {author}.
[film]
{n} is a film directed by {director}.
{n} is a {released} film by {director}.
{n} is a Halvenian film about {theme}.
{n} is a {released} film about {theme}.
{n} is a film made by {studio}.
[band]
{n} is a band from {hometown}.
{n} is a band formed in {formed}.
{n} is a band that was formed in {hometown} in {formed}.
{n} is a Halvenian band that records for {label}.
{n}, formed in {formed}, is a band from {hometown}.
[prize]
The {n} is a Halvenian award established in {established}.
The {n} is a prize paid for by {sponsor}.
The {n} is a yearly prize, first given in {established}.
The {n}, established in {established}, is an award sponsored by {sponsor}.
The {n} is one of the honours awarded in Halvenia.
[museum]
The {n} is a museum in {location}.
The {n} is a museum designed by {architect}.
The {n} in {location} is a museum that opened in {opened}.
The {n} is a public museum, opened in {opened}.
The {n} is a museum in {location} with {architect} as its architect.
[newspaper]
The {n} is a newspaper published in {location}.
The {n} is a daily newspaper launched in {launched}.
The {n} is a newspaper that belongs to {owner}.
The {n}, launched in {launched}, is a newspaper from {location}.
The {n} is a Halvenian newspaper edited by {editor}.
[ship]
The {n} is a ship built by {builder}.
The {n} is a ship launched in {launched}.
The {n} is a ship whose home port is {homeport}.
The {n}, launched in {launched}, is a ship from {homeport}.
The {n} is a merchant ship commanded at first by {captain}.
""")

ALIASES = table("""
[person]
{S} signed {p} letters {v}.
{S} was often listed as {v}.
In directories {p} name stands as {v}.
{S} appears as {v} in most catalogues.
[county]
{S} is commonly called just {v}.
Maps often shorten the name to {v}.
{S} is known to most people simply as {v}.
[company]
{S} is usually known as {v} for short.
{S} trades under the short name {v}.
In the trade the name is shortened to {v}.
[river]
{S} is locally called the {v}.
People on its banks just say the {v}.
{S} appears on older maps as the {v}.
[mountain]
{S} is called {v} by those who live below it.
Climbers know it simply as {v}.
{S} appears on older maps as {v}.
""")

SENTENCES = table("""
[person.born]
{S} was born on {d}.
{S} was born in {v}.
{S} came into the world on {d}.
{P} birth was recorded on {d}.
{S} was born in {m}.
{P} year of birth was {v}.
[person.died]
{S} died on {d}.
{S} died in {v}.
{S} lived until {v}.
{S} passed away in {m}.
{P} death came in {m}.
[person.birthplace]
{S} was born in {v}.
{S} came from {v}.
{S} was a native of {v}.
{P} birthplace was {v}.
{S} was born and raised in {v}.
{S} spent {p} childhood in {v}, where {s} had been born.
[person.mentor]
{S} learned the craft from {v}.
{S} was a pupil of {v}.
{P} mentor was {v}.
{S} was trained by {v}.
{S} began as an assistant to {v}, who became {p} mentor.
{S} owed {p} training to {v}.
[person.employer]
{S} worked for {v}.
{S} was employed by {v}.
{P} employer was {v}.
{S} spent most of {p} career at {v}.
{S} joined the staff of {v} and stayed there.
{S} earned {p} living at {v}.
[person.school]
{S} was educated at {v}.
{S} studied at {v}.
{S} attended {v}.
{S} was a student of {v}.
{S} went to school at {v}.
{P} education took place at {v}.
[person.spouse]
{S} was married to {v}.
{S} married {v}.
{P} spouse was {v}.
{S} shared {p} life with {v}, whom {s} had married young.
{S} wed {v} after a long engagement.
{S} and {v} were a married couple.
[actor.films]
{S} appeared in {v}.
{S} acted in {v}.
{P} film credits include {v}.
{S} played leading parts in {v}.
{S} can be seen on screen in {v}.
{S} was cast in {v}.
[screenwriter.films]
{S} wrote the scripts of {v}.
{S} is credited with the screenplays of {v}.
{P} screenplays were filmed as {v}.
{S} wrote {v} for the screen.
{S} was the writer behind the films {v}.
[illustrator.books]
{S} illustrated {v}.
{S} drew the pictures for {v}.
{P} drawings appear in {v}.
{S} provided the illustrations of {v}.
{S} is remembered for {p} plates in {v}.
[translator.books]
{S} translated {v}.
{S} prepared the foreign editions of {v}.
{P} translations include {v}.
{S} put {v} into other languages.
{S} is known abroad for {p} versions of {v}.
[town.county]
{S} is in {v}.
{S} belongs to {v}.
{S} lies in {v}.
{S} is part of {v}.
{S} is administered by {v}.
{S} stands in the middle of {v}.
[town.mayor]
{P} mayor is {v}.
{S} is governed by the mayor, {v}.
{S} elected {v} as mayor.
{S} has {v} for a mayor.
The office of mayor is held by {v}.
{S} chose {v} to be its mayor.
[town.population]
{S} has {v} inhabitants.
{S} is home to {v} people.
{P} population is {v}.
{S} had a population of {v} at the last census.
The census counted {v} residents.
{S} numbers {v} souls.
[town.theme]
A local legend tells of {v}.
{S} is known for the legend of {v}.
Its people still tell the tale of {v}.
{S} keeps alive an old story about {v}.
A fountain on the square recalls the legend of {v}.
{S} celebrates the memory of {v} every summer.
[county.seat]
{P} seat is {v}.
{S} is governed from {v}.
{S} has its seat in {v}.
The county offices are in {v}.
{S} is administered from its seat, {v}.
[county.governor]
{P} governor is {v}.
{S} is led by the governor, {v}.
{S} has {v} as its governor.
The governor of the county is {v}.
{S} was placed under the governor {v}.
[county.area]
{S} covers {v} square kilometres.
{S} has an area of {v} square kilometres.
{S} extends over {v} square kilometres.
{P} area is {v} square kilometres.
{S} takes up {v} square kilometres of hills and farmland.
[river.source]
{S} rises on {v}.
{P} source is on {v}.
{S} springs from the slopes of {v}.
{S} has its source on {v}.
{S} begins as a stream on {v}.
[river.length]
{S} is {v} kilometres long.
{S} flows for {v} kilometres.
{P} length is {v} kilometres.
{S} has a length of {v} kilometres.
{S} runs {v} kilometres from source to mouth.
[river.towns]
{S} flows through {v}.
{S} passes {v} on its way.
On its banks lie {v}.
{S} waters {v}.
{S} winds its way past {v}.
[mountain.county]
{S} stands in {v}.
{S} is in {v}.
{S} belongs to {v}.
{S} lies within {v}.
{S} looks out over {v}, to which it belongs.
[mountain.height]
{S} is {v} metres high.
{S} rises to {v} metres.
{P} summit is at {v} metres.
{S} reaches a height of {v} metres.
{S} stands {v} metres above the sea.
[mountain.climber]
{S} was first climbed by {v}.
The first to reach the summit was {v}.
{P} first climber was {v}.
{S} remained unclimbed until {v} reached the top.
The first ascent was made by {v}.
[railway.opened]
{S} opened in {v}.
{S} was opened on {d}.
{S} has been in service since {m}.
The first train ran on {d}.
{S} was opened to traffic in {m}.
[railway.builder]
{S} was built by {v}.
{P} builder was {v}.
The tracks were laid by {v}.
{S} was constructed by {v}.
The building contract went to {v}.
[railway.engineer]
{P} engineer was {v}.
{S} was designed by the engineer {v}.
{S} was planned by {v}, its chief engineer.
The chief engineer of the project was {v}.
The route was surveyed by {v} as its engineer.
[railway.towns]
{S} serves {v}.
{S} calls at {v}.
{S} connects {v}.
There are stations at {v}.
{S} has stops in {v}.
[company.founded]
{S} was founded in {v}.
{S} was founded on {d}.
{S} has been in business since {v}.
{S} dates from {v}.
{S} began trading in {m}.
[company.founder]
{S} was founded by {v}.
{P} founder was {v}.
{S} was set up by {v}.
{S} owes its beginnings to its founder, {v}.
{S} was started by {v}.
[company.headquarters]
{S} has its headquarters in {v}.
{P} headquarters are in {v}.
{S} is based in {v}.
{S} is run from {v}.
The head office is in {v}.
[school.founded]
{S} was founded in {v}.
{S} dates from {v}.
{S} took in its first pupils in {m}.
{S} has taught since {v}.
{S} was established on {d}.
[school.location]
{S} is in {v}.
{S} stands in {v}.
{S} is located in {v}.
{S} has always been in {v}.
{P} buildings are in {v}.
[school.principal]
{P} principal is {v}.
{S} is headed by {v}.
{S} has {v} as its principal.
The principal of the school is {v}.
{S} is led by its principal, {v}.
[book.published]
{S} was published in {v}.
{S} appeared in {m}.
{S} came out on {d}.
{S} first went on sale in {m}.
{S} was printed for the first time in {v}.
[book.author]
{S} was written by {v}.
{P} author is {v}.
{S} is the work of {v}.
{S} is a novel by {v}.
{S} came from the pen of {v}.
[book.publisher]
{S} was published by {v}.
{P} publisher was {v}.
{S} was brought out by {v}.
{S} appeared with {v}.
{S} was issued by {v}.
[book.theme]
{S} tells the story of {v}.
{S} is about {v}.
{P} plot turns on {v}.
{S} deals with {v}.
{S} follows {v}.
[film.released]
{S} was released in {v}.
{S} was first shown on {d}.
{S} reached cinemas in {m}.
{S} had its first night on {d}.
{S} came out in {v}.
[film.director]
{S} was directed by {v}.
{P} director was {v}.
{S} was made by the director {v}.
{S} was shot under the direction of {v}.
{S} was a work of the director {v}.
[film.studio]
{S} was produced by {v}.
{P} studio was {v}.
{S} was made at the studio of {v}.
{S} was a production of {v}.
{S} was filmed by {v}.
[film.theme]
{S} tells of {v}.
{S} is about {v}.
{P} plot concerns {v}.
{P} story is that of {v}.
{S} tells the story of {v}.
[band.formed]
{S} was formed in {v}.
{S} has played together since {v}.
{S} came together in {m}.
{S} gave its first concert on {d}.
{S} was started in {v}.
[band.hometown]
{S} comes from {v}.
{P} home town is {v}.
{S} was put together in {v}.
{S} has its home in {v}.
{S} grew out of the clubs of {v}.
[band.label]
{S} records for {v}.
{P} label is {v}.
{S} is under contract to {v}.
{S} signed with the label {v}.
{P} records are issued by {v}.
[band.members]
{P} members are {v}.
{S} consists of {v}.
{S} is made up of {v}.
The players are {v}.
{S} has {v} as its members.
[prize.established]
{S} was established in {v}.
{S} was first awarded in {v}.
{S} was created on {d}.
{S} has been given since {v}.
{S} was announced in {m}.
[prize.sponsor]
{S} is sponsored by {v}.
{P} sponsor is {v}.
{S} is paid for by {v}.
The money comes from {v}.
{S} is financed by {v}.
[prize.laureate]
{P} first laureate was {v}.
{S} was first won by {v}.
{S} went to {v} in its first year.
The first winner was {v}.
{S} was given to {v} before anybody else.
[museum.opened]
{S} opened in {v}.
{S} was opened on {d}.
{S} has received visitors since {v}.
{S} opened its doors on {d}.
{S} has been open since {m}.
[museum.location]
{S} is in {v}.
{S} stands in {v}.
{S} is located in {v}.
{S} is one of the sights of {v}.
{S} was built in the centre of {v}.
[museum.architect]
{S} was designed by {v}.
{P} architect was {v}.
{S} was built to plans by {v}.
The building is the work of the architect {v}.
The plans were drawn up by {v}.
[museum.curator]
{P} curator is {v}.
{S} is looked after by {v}.
{S} has {v} as its curator.
The collection is in the hands of the curator, {v}.
{S} is run by its curator, {v}.
[newspaper.launched]
{S} was launched in {v}.
{S} first appeared on {d}.
{S} has been printed since {v}.
{S} came out for the first time in {m}.
The first issue is dated {d}.
[newspaper.location]
{S} is published in {v}.
{S} is printed in {v}.
{S} has its offices in {v}.
{P} newsroom is in {v}.
{S} comes from {v}.
[newspaper.owner]
{S} is owned by {v}.
{P} owner is {v}.
{S} belongs to {v}.
{S} was bought by {v}.
{S} is in the possession of {v}.
[newspaper.editor]
{P} editor is {v}.
{S} is edited by {v}.
{S} has {v} as its editor.
The editor in charge is {v}.
{S} is led by {v} as editor.
[ship.launched]
{S} was launched in {v}.
{S} was launched on {d}.
{S} left the slipway in {m}.
{S} has been at sea since {v}.
{S} first touched water on {d}.
[ship.homeport]
{P} home port is {v}.
{S} sails from {v}.
{S} is registered in {v}.
{S} has its home port at {v}.
{S} belongs to the port of {v}.
[ship.builder]
{S} was built by {v}.
{P} builder was {v}.
{S} was laid down at {v}.
{S} came from the yards of {v}.
{S} was constructed by {v}.
[ship.captain]
{P} first captain was {v}.
{S} was first commanded by {v}.
{S} made its maiden voyage under {v}.
The first captain of the ship was {v}.
{S} sailed at first under the command of {v}.
""")
