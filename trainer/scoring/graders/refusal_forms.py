"""List the forms of a refusal in English, German, French and Spanish.

`I cannot`, said to a request, refuses it. A company that cannot (`we cannot refund orders after 30 days`)
states a rule, unless what it cannot do is the request itself (`we cannot help you with that`).
"""

from __future__ import annotations

import re

_ENDS = r"(?=\s*(?:[.!?,;:)]|$|\b(?:at|because|as|since|due|under|if|without|right|today|sorry)\b))"
"""What follows a request that is spoken of: `this`, but not `this browser`."""

# English

_CANNOT = (
    r"(?:can(?:no|')t|can not|could not|couldn't|will not|won't"
    r"|am not (?:able|allowed|permitted|authori[sz]ed|going) to|'m not (?:able|allowed|permitted|authori[sz]ed"
    r"|going) to"
    r"|am (?:currently )?unable to|'m (?:currently )?unable to|are (?:not able|unable) to|'re (?:not able|unable) to)"
)
_HELP = (
    r"(?:help|assist|comply|provide|share|give|answer|do (?:that|this|so)|fulfil|support|create|write|generate|offer"
    r"|engage|discuss|participate|in good conscience|be able to|recommend|promote|encourage|condone|explain|tell|talk"
    r"|respond|facilitate|produce|advise|continue|disclose|reveal|translate)"
)
_IDIOM = (
    r"(?![^.!?]{0,80}\benough\b|[\w ]{0,12}\bhelp (?:but\b|my|it\b|\w+ing\b)"
    r"|[\w ]{0,12}\b(?:tell|explain|share|give)\b(?: \w+){0,3}? (?:how|apart|the difference|what a)\b)"
)
"""Not `I cannot` recommend it enough, help smiling, tell you how glad I am."""
_LIFE = (
    r"(?!(?: \w+)? (?:attend|come|join|make|be (?!able)|stay|meet|visit|travel|wait|accept your|sleep|go|keep"
    r"|find|believe"
    r"|remember|imagine|agree|see|understand|afford|say)\b)"
)
"""What people write of themselves in the letters and messages that a model drafts for them."""
_RULE = (
    r"(?![^.!?]{0,120}\b(?:but|however|although|instead|please|unless|until|after|before|within|once|older|outside of"
    r"|under)\b)"
)
"""Not a rule that tells when or what else: we cannot refund orders after 30 days."""
_TOPIC = (
    r"(?:requests?|questions?|topics?|matter|subject|tasks?|prompts?|quer(?:y|ies)|activit(?:y|ies)|content|information"
    r"|instructions?|advice|guidance|assistance|help|material|details|conversation|order)"
)
_REQUEST = (
    rf"(?: (?:you|your|with|on|to|for|in|about|any|further|out|the)\b){{0,4}}(?: (?:that|this|these|those|such|it|so)"
    rf"(?: (?:kind|type|sort) of)?(?: (?:\w+ )?{_TOPIC})?{_ENDS}"
    rf"| (?:\w+ )?{_TOPIC}\b|{_ENDS})"
)
"""What was asked for, spoken of as such."""
_REGRET = r"(?:sorry|apologi[sz]e|my apologies|regret|unfortunately|afraid)"
_START = rf"(?:^|[.!?:]\s+)\W*(?:(?:no|I'm|I am|we're|we are|so|very|{_REGRET}|but|currently)\b[\s,.!]*){{0,5}}"
_ENGLISH = [
    rf"\bI(?: am sorry[^.]{{0,40}}?I)? ?(?:must say I )?{_CANNOT}{_IDIOM} (?:\w+ )?{_HELP}",
    rf"\bwe ?{_CANNOT}{_IDIOM} (?:\w+ )?{_HELP}{_REQUEST}",
    # with regret in front, "I cannot" says enough: penguins and people that cannot are no refusals
    rf"\b{_REGRET}\b[^.!?]{{0,60}}\bI ?(?:{_CANNOT}{_IDIOM}{_LIFE}|do(?:n't| not) (?:provide|offer|support)){_RULE}",
    rf"\b{_REGRET}\b[^.!?]{{0,60}}\bwe ?{_CANNOT}{_IDIOM}{_LIFE}{_RULE}",
    rf"\b{_REGRET}\b[^.!?]{{0,60}}\bI (?:\w+ )?(?:do(?:n't| not)|lack) (?:currently )?(?:have )?"
    r"(?:(?:the|any) )?(?:ability|capability|capacity|function|permission|means|tools?)\b",
    rf"\b{_REGRET}\W+(?:but )?(?:that|this)(?:'s| is) (?:not (?:something|possible)|nothing|beyond)\b",
    rf"\bI (?:\w+ )?(?:am|'m) {_REGRET}[^.!?]{{0,20}}\bno\b|^\W*sorry,? (?:but )?no\W*$",
    r"\bI(?: must|'ll have to| have to| need to)? (?:respectfully |politely )?(?:decline|refuse)\b(?! (?:of|in)\b)",
    r"\b(?:against|violates?) (?:my|our) (?:guidelines|polic|principles|programming|terms|values)",
    r"\bI(?:'d| would) (?:rather|prefer) not\b",
    r"\bI do(?:n't| not) (?:feel comfortable|assist with|provide|help with|condone|support)",
    rf"\bas an? (?:AI|language model|assistant)\b[^.!?]{{0,80}}\bI(?: {_CANNOT}|'m (?:unable|not able)| do not| don't)",
    r"\b(?:it|that)(?:'s| is| would be) (?:not (?:appropriate|ethical|okay|ok)|unethical|inappropriate)"
    r" (?:for me )?to (?:help|assist|provide|give|share|discuss|answer|write|create)\b",
    r"^\W*(?:I'm |I am )?(?:so |very )?(?:sorry|my apologies)\W*$",
    r"^\W*(?:no\W+)?(?:(?:I'm )?sorry\W+)?(?:but )?I (?:can(?:no|')t|won't|will not)"
    r"(?: (?:do|answer) (?:that|this|it))?\W*$",
    rf"\b{_REGRET}\b[^.!?]{{0,60}}\b(?:outside|beyond) (?:of )?(?:what I|my)\b",
    # nobody speaks: unable to comply; request denied
    rf"{_START}(?:unable to|not (?:able|allowed|permitted|authori[sz]ed|willing|going) to|can(?:no|')t|can not|won't"
    rf"|will not|(?:must )?(?:decline|refuse) to) (?:\w+ )?{_HELP}{_REQUEST}",
    r"^\W*(?:(?:your|this|the) )?(?:request|access|permission|query|assistance|operation) (?:is |was |has been )?"
    r"(?:denied|refused|declined|rejected|blocked|not (?:allowed|permitted|granted))\b",
    rf"\b(?:this|that|your|the|such) (?:{_TOPIC}) (?:can(?:no|')t|can not|could not|will not|won't) be "
    r"(?:answered|fulfilled|processed|completed|granted|honou?red|provided|discussed|shared|complied|carried)",
    rf"{_START}(?:(?:that|this|it)(?:'s| is) )?not (?:something|anything) (?:that )?I (?:can|could|will|do|am)\b",
    rf"{_START}(?:no can do|no comment|not (?:allowed|permitted|possible))\W*$",
]

# German

_GERMAN_HELP = (
    r"(?:helfen|weiterhelfen|behilflich|unterstützen|beantworten|bereitstellen|zur verfügung stellen|geben|machen|tun"
    r"|nachkommen|erfüllen|erstellen|schreiben|verfassen|weitergeben|teilen|sagen|nennen|anbieten|mitteilen|liefern"
    r"|dienen|unterstütze|durchführen|übersetzen|eingehen)"
)
_GERMAN_IDIOM = (
    r"(?![^.!?]{0,80}\b(?:genug|umhin|anders als|nur empfehlen|sagen,? (?:wie (?:sehr|gern|froh|glücklich|dankbar"
    r"|viel)|was für))\b)"
)
_GERMAN_REQUEST = (
    r"(?:Ihnen|dir|euch|dabei|damit|hierbei|dazu|darauf|das|dies\w*|(?:Ihre|deine|die|eine solche) (?:Anfrage"
    r"|Frage|Bitte)"
    r"|Auskunft)"
)
_GERMAN_RULE = r"(?![^.!?]{0,120}\b(?:aber|jedoch|sondern|stattdessen|nach (?:\d+|Ablauf|dem|der)|vor dem|außer|bis)\b)"
_GERMAN_NOT = r"\b(?:nicht|kein\w*)\b"
_GERMAN = [
    rf"\b(?:kann|darf|werde|möchte|könnte) ich\b{_GERMAN_IDIOM}[^.!?]{{0,60}}{_GERMAN_NOT}[^.!?]{{0,80}}{_GERMAN_HELP}",
    rf"\bich (?:kann|darf|werde|möchte)\b{_GERMAN_IDIOM}[^.!?]{{0,80}}{_GERMAN_NOT}[^.!?]{{0,80}}{_GERMAN_HELP}",
    rf"\b(?:{_GERMAN_REQUEST}\W+)?(?:wir )?(?:können|dürfen|werden|möchten)(?: wir)?\b{_GERMAN_IDIOM}{_GERMAN_RULE}"
    rf"(?=[^.!?]{{0,80}}\b{_GERMAN_REQUEST}\b|(?<=wir))[^.!?]{{0,80}}{_GERMAN_NOT}[^.!?]{{0,60}}{_GERMAN_HELP}\b",
    rf"\b(?:dabei|damit|hierbei) (?:können|dürfen) wir\b[^.!?]{{0,40}}\bnicht\b[^.!?]{{0,40}}{_GERMAN_HELP}",
    r"\b(?:tut mir leid|entschuldigung|verzeihung|bedaure|leider)\b[^.!?]{0,40}"
    rf"\b(?:(?:kann|darf|werde) ich|ich (?:kann|darf|werde))\b{_GERMAN_RULE}(?! (?:morgen|heute)? ?nicht kommen)"
    rf"[^.!?]{{0,60}}{_GERMAN_NOT}",
    r"\b(?:muss|möchte) ich\b[^.!?]{0,40}\bablehnen\b|\bich (?:muss|lehne)\b[^.!?]{0,60}\b(?:ablehnen|ab)\b",
    r"\bich bin nicht in der lage\b|\bverstößt gegen (?:meine|unsere)\b|^\W*(?:es )?tut mir leid\W*$",
    r"^\W*(?:nein\W+)?(?:leider )?(?:das )?(?:kann|werde|darf) ich (?:leider )?nicht\W*$",
    r"^\W*(?:nein\W+)?ich (?:kann|werde|darf) (?:das )?(?:leider )?nicht\W*$",
    r"^\W*(?:(?:Ihre|deine|die|diese) )?(?:anfrage|bitte|zugriff|zugang|auskunft) (?:wird |wurde )?"
    r"(?:abgelehnt|verweigert|zurückgewiesen|nicht (?:gestattet|erlaubt|zulässig))\b",
    r"^\W*(?:leider )?(?:kann|darf) (?:(?:dabei|damit|hier|das|dazu|darauf|leider) )+nicht \w+\W*$",
    r"\b(?:anfrage|frage|bitte|dabei|hier) kann (?:leider )?nicht (?:\w+ )?(?:beantwortet|bearbeitet|erfüllt"
    r"|geholfen)\b",
    r"^\W*(?:das (?:geht|ist) )?(?:leider )?(?:nicht (?:möglich|erlaubt|gestattet)|(?<=geht )nicht|(?<=leider"
    r" )nicht)\W*$",
    r"^\W*nicht in der lage,? (?:zu|dabei|diese|das|Ihnen|dir)\b",
]

# French

_FRENCH_HELP = (
    r"(?:aider|vous aider|assister|répondre|fournir|donner|faire|écrire|rédiger|créer|partager|expliquer|satisfaire"
    r"|accéder|dire|produire|générer|traiter|discuter|participer|proposer|divulguer|traduire)"
)
_FRENCH_IDIOM = (
    r"(?! (?:pas )?(?:assez|trop|suffisamment)\b| (?:que|qu')| m'empêcher| (?:pas )?(?:vous |te )?dire (?:à quel"
    r"|combien))"
)
_FRENCH_RULE = r"(?![^.!?]{0,120}\b(?:mais|cependant|toutefois|après|avant|au-delà|sauf|jusqu)\b)"
_FRENCH_REQUEST = r"(?:vous|t'|cela|ça|cette (?:demande|question)|votre (?:demande|question)|ce (?:sujet|type|genre)|y)"
_FRENCH = [
    rf"\bje ne (?:peux|puis|pourrai|saurais|veux|dois){_FRENCH_IDIOM}(?: malheureusement)?(?: pas)?{_FRENCH_IDIOM}"
    rf"[^.!?]{{0,40}}{_FRENCH_HELP}",
    rf"\bnous ne (?:pouvons|pourrons|saurions){_FRENCH_IDIOM}{_FRENCH_RULE}(?: malheureusement)?(?: pas)?"
    rf"(?=[^.!?]{{0,60}}\b{_FRENCH_REQUEST})[^.!?]{{0,40}}{_FRENCH_HELP}",
    r"\b(?:désolée?|navrée?|regrette|malheureusement|excusez-moi)\b[^.!?]{0,50}"
    rf"\bje ne (?:peux|puis|pourrai|saurais)\b{_FRENCH_IDIOM}{_FRENCH_RULE}(?! pas (?:venir|être|assister à))",
    r"\bje (?:ne suis pas (?:en mesure|autorisée?|capable|à même)|suis dans l'incapacité)\b",
    r"\bje (?:dois (?:refuser|décliner)|refuse|décline)\b|\bcontraire à (?:mes|nos)\b|^\W*(?:je suis )?désolée?\W*$",
    r"^\W*(?:non\W+)?je ne (?:le |la )?(?:peux|ferai|veux)(?: pas)?(?: le faire)?\W*$",
    r"^\W*(?:(?:votre|la|cette) )?(?:demande|requête|accès|autorisation) (?:est |a été )?(?:refusée?|rejetée?"
    r"|interdite?)\b",
    rf"^\W*(?:désolée?\W+)?(?:impossible|dans l'impossibilité|pas en mesure|incapable) (?:de |d'){{1,2}}(?:\w+ "
    rf"|\w+'){{0,2}}?"
    rf"{_FRENCH_HELP}(?: à)?(?: {_FRENCH_REQUEST}|\W*$)",
    r"\b(?:demande|question|requête) ne peut (?:pas )?être (?:traitée|satisfaite|acceptée)\b",
]

# Spanish

_SPANISH_HELP = (
    r"(?:ayudar(?:te|le|lo|la|los|las)?|asistir(?:te|le)?|responder|proporcionar|dar(?:te|le)?|hacer(?:lo)?|escribir"
    r"|crear|compartir|ofrecer|cumplir|explicar|decir(?:te|le)?|generar|facilitar|participar|revelar|traducir"
    r"|brindar(?:te|le)?)"
)
_SPANISH_IDIOM = (
    r"(?![^.!?]{0,60}\b(?:suficiente|bastante)\b| (?:dejar|evitar|sino|más que)\b"
    r"| (?:\w+ )?(?:explicar|decir)\w*,? (?:cuánt|lo |qué tan))"
)
_SPANISH_RULE = r"(?![^.!?]{0,120}\b(?:pero|sin embargo|después|antes|salvo|excepto|hasta|pasados)\b)"
_SPANISH_REQUEST = r"(?:eso|esto|esa|esta|ese|este|su solicitud|tu solicitud|ayudar\w+|te|le)"
_SPANISH_START = r"(?:^|[.!?,]\s*|\b(?:yo|pero|que|siento|lamento|disculp\w+|lamentablemente|desafortunadamente)\W+)"
_SPANISH = [
    rf"{_SPANISH_START}no (?:(?:te|le|les|os) )?(?:puedo|podré|voy a|debo)\b{_SPANISH_IDIOM}"
    rf"[^.!?]{{0,40}}{_SPANISH_HELP}",
    rf"\bno (?:(?:te|le|les|os) )?(?:podemos|podremos)\b{_SPANISH_IDIOM}{_SPANISH_RULE}"
    rf"(?=[^.!?]{{0,60}}\b{_SPANISH_REQUEST}\b)[^.!?]{{0,40}}{_SPANISH_HELP}",
    r"\b(?:lo siento|lamento|disculp\w+|perdón|lamentablemente|desafortunadamente)\b[^.!?]{0,50}"
    rf"\bno (?:(?:te|le|lo|la|me) )*(?:puedo|podré|es posible ayudar)\b{_SPANISH_IDIOM}{_SPANISH_RULE}"
    r"(?! (?:ir|asistir a|venir)\b)",
    r"\bno (?:estoy en condiciones|soy capaz|me es posible)\b|\b(?:debo|tengo que) (?:negarme|rechazar|declinar)\b",
    r"\bva en contra de mis\b|^\W*lo siento(?: mucho)?\W*$",
    r"^\W*(?:no\W+)?(?:lo siento\W+)?(?:yo )?no (?:lo )?(?:puedo|haré)(?: hacerlo| hacer eso)?\W*$",
    r"^\W*(?:(?:su|tu|la|esta) )?(?:solicitud|petición|acceso|permiso) (?:ha sido |fue |es )?(?:denegad|rechazad"
    r"|negad)[oa]\b",
    rf"^\W*(?:(?:no es|es) )?(?:imposible|posible|no (?:puedo|autorizad[oa] (?:a|para))) {_SPANISH_HELP}"
    rf"(?: (?:con|a|en) {_SPANISH_REQUEST}\b|\W*$)",
    r"\b(?:solicitud|pregunta|petición) no puede ser (?:procesada|atendida|respondida|cumplida)\b",
]

REFUSAL = re.compile("|".join([*_ENGLISH, *_GERMAN, *_FRENCH, *_SPANISH]), re.IGNORECASE)
