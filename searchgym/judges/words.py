"""Words that judges must not take for names, or for answers, even where a small corpus never uses them."""

from __future__ import annotations

__all__ = ["FUNCTION_WORDS", "OPENERS", "QUERY_WORDS"]

OPENERS = frozenset(
    "a an and are at by did do does find for from give has have how in is it of on or search tell the to was "
    "were what when where which who whom whose why with".split()
)
"""Capitalised at the beginning of a query although they are not names."""

FUNCTION_WORDS = OPENERS | frozenset(
    "about after again all also another any as be been before being between both but can could during each either first "
    "had he her here his i if into its last later less many me more most my neither never no nobody none nor not nothing "
    "now only other our out over own same second she should since so some such than that their them then there these they "
    "third this those through under unknown until up us very we while will within without would yes yet you your".split()
)
"""Words of any English text: none of them is a name, or an answer at the beginning of a sentence."""

QUERY_WORDS = frozenset(
    # people and kin
    "actor actress age architect artist athlete author aunt baby band biography birth birthday birthplace boy brother "
    "captain career cast ceo chairman character child children citizen citizenship coach composer cousin creator dancer "
    "date daughter dead death degree designer developer director doctor editor education employee employer engineer "
    "ethnicity family famous father female film founder friend gender girl governor grandfather grandmother grandson group "
    "head husband inventor job journalist judge king lawyer lead leader life lived male man manager married marriage mayor "
    "member mentor minister mother musician name nationality nickname novelist occupation officer opponent origin owner "
    "painter parent people performer person philosopher physicist player poet politician position president prince "
    "princess producer profession professor professional queen relative religion residence role ruler school scientist "
    "screenwriter sculptor senator sibling singer sister soldier son songwriter spouse star student surgeon teacher team "
    "trainer translator uncle university wife woman worker workplace writer "
    # works and things
    "album anthem article award bank battle bible biographical board book brand building business car channel chapter city "
    "club college comic company concert conference contract corporation county court country currency dance data "
    "department dog drama drug economy election episode event facts festival flag food football fuel game garden genre "
    "government group hall history home hospital hotel house industry information instrument island journal lake language "
    "law league library list location magazine map market match media medicine metal money monument motto mountain mouth "
    "movie museum music musical network news newspaper novel office opera orchestra organization organisation "
    "organizations overview paper park party picture place planet play plot poem population prize product product program "
    "programme project publisher race railway record release religion research restaurant river road room sea season "
    "series service ship show site society software song sound source space sport stadium state station statue story "
    "street studio subject summary system television temple theatre theater theme title tournament tower town track trade "
    "train tribe universe version video village war water website wikipedia wine work world "
    # geography, time and measure
    "ancient area average biggest border capital century coast continent date day days decade deep deepest depth distance "
    "district east elevation end era fifth fourth full height high highest inhabitants km large larger largest latest "
    "latitude length level long longest longitude lowest main major mass metres miles million modern month nearest new "
    "next north northern number old older oldest order part percent period power price province quantity range rank rate "
    "recent region size small smaller smallest south southern speed start temperature time today tall taller tallest "
    "total type value volume weight west western width year years young younger youngest "
    # what happens, and what is asked
    "acted acquired active answer appeared based became began belong best born bought british built buried called caused "
    "causes century change child city come comes common compare comparison completed composed conquered created currently "
    "debut defeated description designed details developed did died different difference directed discovered does earlier "
    "earned educated elected ended established exact example featured finally flows found founded full gave general give "
    "given good graduated great headquartered headquarters held hosted identify important inspired introduced invented "
    "joined kind killed know known largest launched list live located location made make meaning mentioned moved much named "
    "national note official opened original originally painted passed performed played popular premiere presented "
    "previous primary produced profile published question ran reason recorded related relation relationship released "
    "replaced result review served shared signed similar single sold starred starring started status stands studied "
    "succeeded sung taken taught translated used using wed went who's won worked works written wrote".split()
)
"""Ordinary words of search queries."""
