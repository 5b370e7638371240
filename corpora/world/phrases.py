"""How questions in natural English word relations: at least three ways each.

`NOUNS` words a value as a noun phrase, {x} being whose it is ("the employer of {x}"), to nest one hop in the next;
`ASKS` words the last hop as a whole question. The other tables word what comparisons ask, and starts that are
not simply named.
"""

from __future__ import annotations

from .sentences import table

__all__ = ["ASKS", "COMPARES", "FOUND", "MEASURES", "NOUNS", "OBSCURED", "ROLES"]

NOUNS = table("""
[person.birthplace]
the town where {x} was born
the birthplace of {x}
the town {x} came from
[person.mentor]
the mentor of {x}
the person who trained {x}
the teacher from whom {x} learned the craft
[person.employer]
the employer of {x}
the company that employed {x}
the company {x} worked for
[person.school]
the school {x} attended
the school where {x} was educated
the school attended by {x}
[town.county]
the county that {x} belongs to
the county in which {x} lies
the county around {x}
[town.mayor]
the mayor of {x}
the person who governs {x} as mayor
the elected mayor of {x}
[county.seat]
the seat of {x}
the town from which {x} is governed
the county seat of {x}
[county.governor]
the governor of {x}
the person who governs {x}
the politician at the head of {x}
[river.source]
the mountain on which {x} rises
the mountain where {x} has its source
the source mountain of {x}
[mountain.county]
the county in which {x} stands
the county of {x}
the county that {x} belongs to
[mountain.climber]
the first climber of {x}
the person who first climbed {x}
the geologist who was first on top of {x}
[railway.builder]
the builder of {x}
the company that built {x}
the company that laid the tracks of {x}
[railway.engineer]
the chief engineer of {x}
the engineer who planned {x}
the person who designed the route of {x}
[company.founder]
the founder of {x}
the person who founded {x}
the merchant who set up {x}
[company.headquarters]
the town where {x} has its headquarters
the town in which {x} is based
the town that houses the head office of {x}
[school.location]
the town where {x} is located
the town in which {x} stands
the home town of {x}
[school.principal]
the principal of {x}
the person who heads {x}
the head of {x}
[book.author]
the author of {x}
the novelist who wrote {x}
the writer of {x}
[book.publisher]
the publisher of {x}
the company that published {x}
the house that brought out {x}
[film.director]
the director of {x}
the person who directed {x}
the maker of {x}
[film.studio]
the studio of {x}
the studio that produced {x}
the company that produced {x}
[band.hometown]
the home town of {x}
the town {x} comes from
the town where {x} got together
[band.label]
the record label of {x}
the label that issues the records of {x}
the company {x} records for
[prize.sponsor]
the sponsor of {x}
the company that pays for {x}
the company behind {x}
[prize.laureate]
the first laureate of {x}
the first winner of {x}
the person who first won {x}
[museum.location]
the town where {x} is located
the town in which {x} stands
the town that is home to {x}
[museum.architect]
the architect of {x}
the person who designed {x}
the architect who drew the plans of {x}
[museum.curator]
the curator of {x}
the person who looks after {x}
the person in charge of {x}
[newspaper.location]
the town where {x} is published
the town in which {x} is printed
the town of publication of {x}
[newspaper.owner]
the owner of {x}
the company that owns {x}
the company to which {x} belongs
[newspaper.editor]
the editor of {x}
the journalist who edits {x}
the person in charge of {x}
[ship.homeport]
the home port of {x}
the port {x} sails from
the town where {x} is registered
[ship.builder]
the builder of {x}
the shipyard that built {x}
the company that constructed {x}
[ship.captain]
the first captain of {x}
the person who first commanded {x}
the sailor who took {x} on its maiden voyage
""")

ASKS = table("""
[person.born]
In which year was {x} born?
What is the year of birth of {x}?
When was {x} born?
[person.birthplace]
In which town was {x} born?
Where was {x} born?
Which town did {x} come from?
What is the birthplace of {x}?
[person.mentor]
Who was the mentor of {x}?
Who trained {x}?
From whom did {x} learn the craft?
[person.employer]
Which company did {x} work for?
Who employed {x}?
What was the employer of {x}?
[person.school]
Which school did {x} attend?
Where was {x} educated?
At which school did {x} study?
[person.spouse]
Who was the spouse of {x}?
Whom did {x} marry?
To whom was {x} married?
[town.county]
In which county is {x}?
Which county does {x} belong to?
What county does {x} lie in?
[town.mayor]
Who is the mayor of {x}?
Who was elected mayor of {x}?
Who serves as mayor in {x}?
[town.population]
How many people live in {x}?
What is the population of {x}?
How many inhabitants does {x} have?
[county.seat]
What is the seat of {x}?
Which town is the seat of {x}?
From which town is {x} governed?
[county.governor]
Who is the governor of {x}?
Who governs {x}?
Who holds the office of governor in {x}?
[county.area]
How many square kilometres does {x} cover?
What is the area of {x} in square kilometres?
How large is {x}, in square kilometres?
[river.source]
On which mountain does {x} rise?
Where is the source of {x}?
From which mountain does {x} spring?
[river.length]
How long is {x}, in kilometres?
What is the length of {x} in kilometres?
How many kilometres does {x} run?
[mountain.county]
In which county does {x} stand?
Which county does {x} belong to?
What county is {x} in?
[mountain.height]
How high is {x}, in metres?
What is the height of {x} in metres?
How many metres does {x} rise above the sea?
[mountain.climber]
Who was the first to climb {x}?
Who made the first ascent of {x}?
By whom was {x} first climbed?
[railway.opened]
In which year did {x} open?
When was {x} opened?
Since which year has {x} been running?
[railway.builder]
Which company built {x}?
Who built {x}?
What was the builder of {x}?
[railway.engineer]
Who was the chief engineer of {x}?
Which engineer designed {x}?
By which engineer was {x} planned?
[company.founded]
In which year was {x} founded?
When was {x} founded?
Since which year has {x} been in business?
[company.founder]
Who founded {x}?
Who was the founder of {x}?
By whom was {x} set up?
[company.headquarters]
In which town does {x} have its headquarters?
Where is {x} based?
Which town is home to the head office of {x}?
[school.founded]
In which year was {x} founded?
When was {x} founded?
From which year does {x} date?
[school.location]
In which town is {x}?
Where is {x} located?
Which town is {x} in?
[school.principal]
Who is the principal of {x}?
Who heads {x}?
Who is in charge of {x}?
[book.published]
In which year was {x} published?
When did {x} first appear?
What year did {x} come out?
[book.author]
Who wrote {x}?
Who is the author of {x}?
By whom was {x} written?
[book.publisher]
Which company published {x}?
Who was the publisher of {x}?
By which house was {x} brought out?
[film.released]
In which year was {x} released?
When did {x} reach cinemas?
What year did {x} come out?
[film.director]
Who directed {x}?
Who was the director of {x}?
By whom was {x} directed?
[film.studio]
Which studio produced {x}?
What was the studio of {x}?
By which company was {x} produced?
[band.formed]
In which year was {x} formed?
When did {x} get together?
Since which year has {x} existed?
[band.hometown]
Which town does {x} come from?
What is the home town of {x}?
Where is {x} from?
[band.label]
Which label does {x} record for?
What is the record label of {x}?
Which company issues the records of {x}?
[prize.established]
In which year was {x} established?
When was {x} first awarded?
Since which year has {x} been given?
[prize.sponsor]
Which company sponsors {x}?
Who pays for {x}?
What company is behind {x}?
[prize.laureate]
Who was the first laureate of {x}?
Who was the first to win {x}?
To whom was {x} first given?
[museum.opened]
In which year did {x} open?
When was {x} opened?
Since which year has {x} received visitors?
[museum.location]
In which town is {x}?
Where does {x} stand?
Which town is home to {x}?
[museum.architect]
Who designed {x}?
Who was the architect of {x}?
To whose plans was {x} built?
[museum.curator]
Who is the curator of {x}?
Who looks after {x}?
Who runs {x} as curator?
[newspaper.launched]
In which year was {x} launched?
When was {x} first printed?
In which year did {x} first appear?
[newspaper.location]
In which town is {x} published?
Where is {x} printed?
Which town does {x} come from?
[newspaper.owner]
Which company owns {x}?
Who is the owner of {x}?
To which company does {x} belong?
[newspaper.editor]
Who is the editor of {x}?
Who edits {x}?
By whom is {x} edited?
[ship.launched]
In which year was {x} launched?
When was {x} launched?
What year did {x} first go to sea?
[ship.homeport]
What is the home port of {x}?
From which port does {x} sail?
Where is {x} registered?
[ship.builder]
Which company built {x}?
Who built {x}?
At which shipyard was {x} built?
[ship.captain]
Who was the first captain of {x}?
Who first commanded {x}?
Under which captain did {x} make its maiden voyage?
""")

MEASURES = table("""
[person.born.least]
was born earlier
is older
came into the world first
[person.born.most]
was born later
is younger
came into the world last
[town.population.least]
has fewer inhabitants
is home to fewer people
has the smaller population
[town.population.most]
has more inhabitants
is home to more people
has the larger population
[county.area.least]
covers fewer square kilometres
is smaller in area
has the smaller area
[county.area.most]
covers more square kilometres
is larger in area
has the larger area
[river.length.least]
is shorter
has the smaller length
runs for fewer kilometres
[river.length.most]
is longer
has the greater length
runs for more kilometres
[mountain.height.least]
is lower
has the smaller height
rises to fewer metres
[mountain.height.most]
is higher
has the greater height
rises to more metres
[railway.opened.least]
opened earlier
was opened first
carried trains first
[railway.opened.most]
opened later
was opened last
is more recent
[company.founded.least]
was founded earlier
has been in business longer
is older
[company.founded.most]
was founded later
has been in business for less time
is younger
[school.founded.least]
was founded earlier
has taught for longer
is older
[school.founded.most]
was founded later
has taught for less time
is younger
[book.published.least]
was published earlier
appeared first
came out earlier
[book.published.most]
was published later
appeared last
came out later
[film.released.least]
was released earlier
reached cinemas first
came out earlier
[film.released.most]
was released later
reached cinemas last
came out later
[band.formed.least]
was formed earlier
got together first
has existed for longer
[band.formed.most]
was formed later
got together last
has existed for less time
[prize.established.least]
was established earlier
was given first
is older
[prize.established.most]
was established later
has been given for less time
is younger
[museum.opened.least]
opened earlier
was opened first
has been open for longer
[museum.opened.most]
opened later
was opened last
has been open for less time
[newspaper.launched.least]
was launched earlier
appeared first
has been printed for longer
[newspaper.launched.most]
was launched later
has been printed for less time
is more recent
[ship.launched.least]
was launched earlier
has been at sea longer
left the slipway first
[ship.launched.most]
was launched later
has been at sea for less time
left the slipway last
""")

COMPARES = table("""
[direct]
{which} {measure}, {x} or {y}?
Of {x} and {y}, {one} {measure}?
{x} or {y}: {one} {measure}?
[bridged]
Whose {role} {measure}, that of {x} or that of {y}?
{which} has the {role} that {measure}, {x} or {y}?
Of {x} and {y}, {one} has the {role} that {measure}?
""")

ROLES = {
    "climber": "first climber",
    "engineer": "chief engineer",
    "hometown": "home town",
    "label": "record label",
    "laureate": "first laureate",
    "location": "home town",
    "homeport": "home port",
    "captain": "first captain",
    "headquarters": "headquarters town",
    "school": "old school",
    "source": "source mountain",
}
"""What a bridged comparison calls the other page, where the relation's own word will not do."""

FOUND = table("""
[film]
the film that features {x} in its cast and was written by {y}
the film in which {x} acted to a script by {y}
the film with {x} on screen and a screenplay by {y}
[film?]
Which film features {x} in its cast and was written by {y}?
In which film did {x} act to a script by {y}?
What film has {x} on screen and a screenplay by {y}?
[book]
the book illustrated by {x} and translated by {y}
the book with pictures by {x} that {y} translated
the book that {x} illustrated and {y} put into other languages
[book?]
Which book was illustrated by {x} and translated by {y}?
Which book has pictures by {x} and was translated by {y}?
What book did {x} illustrate and {y} put into other languages?
[town]
the town that lies on {x} and is served by {y}
the town which {x} flows through and {y} calls at
the town on the banks of {x} with a station on {y}
[town?]
Which town lies on {x} and is served by {y}?
Through which town does {x} flow that is also a stop of {y}?
What town on the banks of {x} has a station on {y}?
[birthplace]
the member of {x} who was born in {y}
the musician of {x} born in {y}
the one who plays in {x} and comes from {y}
[birthplace?]
Which member of {x} was born in {y}?
Who plays in {x} and comes from {y}?
Which musician of {x} is a native of {y}?
[school]
the member of {x} who was educated at {y}
the musician of {x} who went to {y}
the one who plays in {x} and studied at {y}
[school?]
Which member of {x} was educated at {y}?
Who plays in {x} and studied at {y}?
Which musician of {x} went to {y}?
[spouse]
the member of {x} who married {y}
the musician of {x} married to {y}
the one who plays in {x} and shared a life with {y}
[spouse?]
Which member of {x} married {y}?
Who plays in {x} and was married to {y}?
Which musician of {x} shared a life with {y}?
[born]
the member of {x} born in the {decade}
the one in {x} who came into the world some time in the {decade}
the musician of {x} whose birth falls in the {decade}
""")
"""What two constraints leave, as a noun phrase and, with "?", as a whole question."""

OBSCURED = table("""
[film]
the film from the {decade} about {v}
a certain picture of the {decade} in which {v} play a part
a film, made at some time in the {decade}, that tells of {v}
[film.]
Some time in the {decade} a film was made about {v}.
There is a picture, shown in the {decade}, whose plot concerns {v}.
Somebody remembers a film of the {decade} with {v} in it, but not its name.
[book]
the novel from the {decade} about {v}
a certain book of the {decade} in which {v} play a part
a novel, printed at some time in the {decade}, that tells of {v}
[book.]
Some time in the {decade} a novel appeared about {v}.
There is a book, first sold in the {decade}, whose plot concerns {v}.
Somebody remembers a novel of the {decade} with {v} in it, but not its name.
[town]
the town with a legend of {v}
a certain town where they tell a tale of {v}
the town whose old story is about {v}
[town.]
Somewhere in the country there is a town that tells a legend of {v}.
A traveller heard a local tale about {v}, but forgot in which town.
One town keeps alive an old story about {v}.
""")
"""An entity known by its theme and decade: a noun phrase, and with "." a sentence that introduces it."""
