"""List words whose exchange changes what a sentence says, and words that carry no meaning of their own.

The lists only sharpen a decision: between rows with different answers every word that is not glue decides anyway.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NEGATIONS = _words(
    """not no none never neither nor nothing nobody nowhere without cannot except unless only
    nicht kein keine keinen keinem keiner keines nie niemals nichts niemand ohne weder außer nur
    ne n pas jamais aucun aucune rien sans ni personne sauf seulement
    nunca jamás ningún ninguno ninguna nada sin tampoco salvo solo
    non mai nessun nessuno nessuna senza não nem nenhum nenhuma sem niet geen nooit
    не нет ни никогда без inte aldrig ingen utan ikke nie bez değil yok"""
)
"""One of them on one side alone turns the sentence round."""

ALTERNATIVES = tuple(
    _words(line)
    for line in """
    yes no maybe unknown ja nein oui non si sí true false wahr falsch vrai faux
    left right straight around forward backward forwards backwards clockwise counterclockwise links rechts gauche droite
    north south east west northern southern eastern western nord süd ost west sud est ouest
    before after during until since vor nach avant après antes después
    above below over under inside outside über unter dessus dessous
    from to von zu
    with without mit ohne avec sans con sin
    he she they him her them his their er sie il elle lui
    up down
    in out
    on off
    and or und oder et ou y o
    more less fewer most least mehr weniger plus moins más menos
    increase decrease increases decreases increased decreased increasing decreasing rise fall rises falls raise lower
    raises lowers gain loss gains losses grow shrink higher lower
    all some any every each both either half many few several most
    always sometimes often rarely usually seldom immer manchmal oft selten
    open closed close opened shut opening closing offen geschlossen
    first second third fourth fifth sixth seventh eighth ninth tenth last next previous former latter
    one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty hundred thousand million
    eins zwei drei vier fünf sechs sieben acht neun zehn deux trois quatre cinq dos tres cuatro cinco
    monday tuesday wednesday thursday friday saturday sunday today tomorrow yesterday
    january february march april may june july august september october november december
    spring summer autumn fall winter morning noon afternoon evening night
    day week month quarter year days weeks months quarters years hour hours minute minutes second seconds
    daily weekly monthly quarterly yearly annually hourly
    red blue green yellow black white orange purple pink brown grey gray rot blau grün gelb schwarz weiß
    big small large little tiny huge long short tall high low wide narrow thick thin
    good bad better worse best worst positive negative neutral success failure pass fail
    hot cold warm cool wet dry new old young early late fast slow light dark heavy
    male female man woman boy girl father mother son daughter brother sister husband wife mr mrs ms
    buy sell bought sold send receive sent received give take gave took accept reject accepted rejected approve deny
    approved denied allow forbid allowed forbidden enable disable enabled disabled start stop begin end
    include exclude included excluded add remove added removed import export encrypt decrypt win lose won lost
    can should must may might
    who what when where why whose whom
    mild moderate severe acute chronic benign malignant
    pending active inactive open cancelled completed paid unpaid
    """.strip().splitlines()
)
"""Words of one kind: where each side has another one of them, the rows say different things."""

GLUE = _words(
    """a an the please bitte
    am is are be been being was were has have had do does did will would can could
    i me my mine we us our ours you your yours he him his she her hers it its they them their theirs
    this that these those there here
    of to for in on at by into onto from with as and so then than just also too very really actually well
    hi hello hey thanks thank
    der die das den dem des ein eine einen einem einer eines und le la les une el los las una"""
)
"""Words that may be missing without a change of meaning. One in place of another is another matter."""

INTERCHANGEABLE = _words(
    """a an the please i me my we our us you your am is are be been do does this that these those it its there
    of for to just also so then very really actually hi hello hey thanks thank"""
)
"""Glue that may also stand in place of other such glue."""

ADVERBS = _words(
    "already still yet now soon again today tomorrow yesterday tonight often sometimes perhaps maybe anyway"
)
"""Words that mean the same wherever they stand in a sentence; so do those in -ly."""

UNMARKED = {f"{stem}nt": stem for stem in _words("do does did is are was were has have had could would should")}
UNMARKED |= {"cant": "can", "wont": "will"}
"""Contractions written without their apostrophe."""

CONTRACTIONS = {"m": "am", "re": "are", "ve": "have", "ll": "will", "d": "would", "s": "is"}
"""Letters after an apostrophe -> word."""
