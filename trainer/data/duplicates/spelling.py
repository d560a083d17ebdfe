"""Recognise typing errors by the letters of two words."""

from __future__ import annotations

MIN_TYPO_LETTERS = 4
"""Shorter words that differ by a letter are different words."""
VOWELS = frozenset("aeiouy")
KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def _neighbours() -> dict[str, str]:
    """Return the keys beside, above and below each key; of two vowels none can be told to be a slip."""
    # half a key as the unit: each row stands half a key further right than the one above
    keys = {key: (row, 2 * column + row) for row, letters in enumerate(KEYBOARD) for column, key in enumerate(letters)}
    return {
        key: "".join(
            neighbour
            for neighbour, (r, c) in keys.items()
            if neighbour != key and abs(r - row) <= 1 and abs(c - column) <= 2 and not {key, neighbour} <= VOWELS
        )
        for key, (row, column) in keys.items()
    }


NEIGHBOURS = _neighbours()


def may_be_typo(left: str, right: str, least: int = MIN_TYPO_LETTERS) -> bool:
    """Tell whether two words differ by one slip of the hand.

    A letter that is missing, doubled, swapped with the next one, or that of a key beside it. Another first letter or
    another vowel makes other words: sulfate and sulfite, ein and kein, able and unable.

    Example:
        >>> may_be_typo("recieve", "receive"), may_be_typo("sulfate", "sulfite"), may_be_typo("able", "unable")
        (True, False, False)
    """
    if frozenset((left, right)) in LOOKALIKES:
        return False
    if max(len(left), len(right)) < least or abs(len(left) - len(right)) > 1:
        return False
    start = _shared(left, right)
    left_end, right_end = left[start:], right[start:]
    # ie and ei
    if left_end[:2] == right_end[1::-1] and left_end[2:] == right_end[2:]:
        return True
    if len(left) != len(right):
        return start > 0 and (left_end[1:] == right_end or left_end == right_end[1:])
    # equal but for one letter, which lies beside the right one
    return start > 0 and left_end[1:] == right_end[1:] and right_end[0] in NEIGHBOURS.get(left_end[0], "")


MIN_KIN_LETTERS, MIN_SHARED, SHARED_PART = 4, 3, 0.35
"""Words of so many letters that share so many at their beginning and end, and so large a part, are kin."""
_ENDINGS = "/s /es /ed e/ed /d /ing e/ing s/ing s/ed es/ed ed/ing y/ies y/ied /ly"
ENDINGS = frozenset(frozenset(pair.split("/")) for pair in _ENDINGS.split())
"""Endings of English words that leave the word what it is."""


def are_kin(left: str, right: str) -> bool:
    """Tell two words of one stem or one ending that are not one word in two forms.

    Opposites and their like are built so: legal and illegal, maximum and minimum, employer and employee, ascending and
    descending, prednisone and prednisolone.

    Example:
        >>> are_kin("legal", "illegal"), are_kin("walk", "walked"), are_kin("cat", "dog")
        (True, False, False)
    """
    longest = max(len(left), len(right))
    if min(len(left), len(right)) < MIN_KIN_LETTERS or left == right:
        return False
    start = _shared(left, right)
    left_end, right_end = left[start:], right[start:]
    if start >= MIN_SHARED and frozenset((left_end, right_end)) in ENDINGS:
        return False
    return start + _shared(left_end[::-1], right_end[::-1]) >= max(MIN_SHARED, SHARED_PART * longest)


def _shared(left: str, right: str) -> int:
    """Count the letters with which both begin."""
    return next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


_LOOKALIKES = """
    ablation/ablution accent/accept acres/cares action/auction actions/auctions acts/cats adaptation/adaption
    adverse/averse aliquant/aliquot alter/later angel/angle angels/angles apples/applies arteritis/arthritis
    ascent/assent bacon/beacon baker/beaker baking/banking bands/brands bared/barred barely/barley bath/bathe
    beach/breach beast/beats beast/breast board/broad boost/boots bought/brought breath/breathe breathes/breaths
    bride/bridge buses/bushes busy/buys buyer/buyers cancel/cancer caning/canning carbon/carton carton/cartoon
    cartons/cartoons cases/causes casual/causal casually/causally cation/caution cations/cautions chance/change
    change/charge changed/charged changes/charges changing/charging choose/chose chords/cords closest/closet
    cloth/clothe clothes/cloths coast/coats compete/complete competed/completed competing/completing complaint/compliant
    complaints/compliants concept/concert concert/convert consent/content consumers/consumes contact/contract
    contacted/contracted contacts/contracts contend/content content/contest content/context contest/context
    contiguous/continuous convert/covert corporal/corporeal country/county course/curse courses/curses crate/create
    crates/creates creation/cremation cries/crimes dairy/diary debit/debt decent/descent deduce/deduct defend/depend
    desert/dessert deserts/desserts device/devise diner/dinner diners/dinners divers/diverse diving/driving
    drivers/drives east/eats empire/expire employee/employer exalt/exult failing/falling farther/father fathers/feathers
    favor/flavor favour/flavour feeding/feeling ferment/foment fiction/friction fiend/friend fiends/friends fight/flight
    fights/flights filed/filled files/flies filing/filling fired/fried fires/fries form/from formal/format forms/forums
    forth/fourth founded/funded founder/funder fried/friend furry/fury garage/garbage gasses/glasses genes/genres
    graders/grades groove/grove guess/guests handed/handled hardly/hardy hated/heated haven/heaven hoping/hopping
    horses/houses hosing/housing human/humane hypocalcemia/hypokalemia identify/identity immoral/immortal
    immorality/immortality infection/inflection infections/inflections installation/instillation interment/internment
    internal/interval interstate/intestate later/latter lath/lathe launch/lunch lawyer/layer lawyers/layers laying/lying
    leading/leaving leaned/learned lender/lenders lightening/lightning lighting/lightning liked/linked lined/linked
    liter/litter loath/loathe loaves/loves locked/looked loose/lose looses/loses loses/losses lost/lots maker/marker
    makers/markers marital/martial master/matter meals/medals meat/meta medal/metal mediation/meditation mental/metal
    minister/minster money/monkey moral/morale moral/mortal morality/mortality moves/movies nearby/nearly neuron/neutron
    neurons/neutrons nobel/noble nothing/noting nuclear/unclear officers/offices pains/paints pains/plains paints/pants
    paints/pints palace/place pants/plants parity/party partly/party patent/patient patents/patients payed/played
    paying/playing perfect/prefect perform/preform personal/personnel petty/pretty phase/phrase phases/phrases
    piece/pierce pining/pinning pints/points pints/prints places/plates planed/planned planer/planner planet/plant
    planets/plants planing/planning planks/plans planned/planted plans/plants points/prints ponds/pounds
    portability/potability portable/potable post/pots powder/power powdered/powered precision/prevision present/prevent
    price/prince prices/princes princes/princess produce/product producers/produces project/protect properly/property
    prostate/prostrate providers/provides quiet/quite raises/rises raising/rising rating/ratting reality/realty
    regard/reward regards/rewards relation/relaxation remainder/reminder remote/remove renter/renters revenge/revenue
    riders/rides robbed/robed robots/roots routine/routing sacks/snacks sacred/scared sales/scales salmon/salon
    salvage/savage saves/slaves saving/saying saying/staying scores/stores scraped/scrapped scraping/scrapping
    seating/setting secession/session seeds/speeds seeing/seeking selling/spelling sells/shells sells/smells
    sender/senders sending/spending sends/spends servers/serves sewing/swing shaped/shared shared/shred shoots/shots
    shopping/stopping shorts/shots shorts/sorts sighs/sights sight/slight sign/sing signed/singed signing/singing
    silver/sliver sloping/slopping socks/stocks solder/soldier sorting/sporting sorts/sports sports/spots spring/string
    stages/states stain/strain stairs/stars stands/strands stared/started staring/starring stars/starts started/stated
    starting/stating state/statue stated/stayed statue/statute steak/streak stones/stores stores/stories storing/string
    striped/stripped stripes/strips struck/stuck sued/used super/supper tables/tablets tails/trails taking/talking
    tanks/thanks taped/tapped taping/tapping teachers/teaches there/three things/thinks thirsty/thirty thorough/through
    though/through though/tough thread/tread threat/treat threats/treats through/trough ticks/tricks tiled/tilled
    tiles/titles tired/tried tires/tries topical/tropical trail/trial trails/trials tribes/tries unblock/unlock
    united/untied urban/urbane venous/venus violent/violet voters/votes waiter/water waiting/writing wales/whales
    weighs/weights wether/whether widow/window wining/winning winner/winter words/worlds
    """
LOOKALIKES = frozenset(frozenset(pair.split("/")) for pair in _LOOKALIKES.split())
"""Words that one slip turns into one another, and that are both words: no slip can be told from the other word."""
