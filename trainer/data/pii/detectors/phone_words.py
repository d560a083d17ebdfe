"""List words for a telephone number in many languages, and words for other numbers."""

from __future__ import annotations

import re

from trainer.data.pii.detectors.rule import LETTER, THING_NUMBERS, context

NAMES = (
    # English
    r"(?:tele)?phones?|tel|mobiles?|mob|cell|cell ?phone|cellular|fax|whatsapp|sms|hotline|helpline|landline|pager"
    r"|voicemail|answering machine|contact"
    # German, Dutch, Nordic
    r"|telefon\w*|handy\w*|mobil\w*|festnetz\w*|rufnummer|durchwahl|erreich\w*"
    r"|telefoon\w*|gsm|sími|puhelin\w*|matkapuhelin\w*|puh"
    # French, Spanish, Portuguese, Italian, Romanian
    r"|tél(?:éphone\w*)?|telephone|portable|télécopie|joignable"
    r"|teléfono\w*|telefono\w*|tlf|tfno|móvil|celular|telefone|telemóvel|contato|contacto"
    r"|cellulare|telefonul\w*"
    # Slavic, Baltic, Hungarian, Greek, Turkish
    r"|komórk\w*|mobitel|телефон\w*|тел|моб\w*|зателефон\w*|tālr\w*|τηλ\w*|κινητ\w*|cep"
    # Arabic, Hebrew, Persian, Indian, South East Asian
    r"|هاتف|الهاتف|جوال|الجوال|טלפון|הטלפון|נייד|تلفن|موبایل|फ़ोन|फोन|मोबाइल|ফোন|โทรศัพท์|โทร|มือถือ"
    r"|điện thoại|sđt|di động|telepon|telp|hp|telepono"
    # Chinese, Japanese, Korean
    r"|电话|電話|手机|手機|联系|聯繫|携帯|連絡先|전화\w*|휴대폰\w*|휴대전화\w*|연락처\w*|핸드폰\w*"
)
"""Source: Unicode CLDR (names of the telephone in annotations), and dictionaries."""

CALLS = (
    r"call(?:ed|ing|s)?|dial|ring|rang|reach|texted|(?:desk|office|home|work)(?= ?:)"
    r"|ruf(?:en)?|anruf\w*|zentrale|bel(?:len)?|ringa?|soita"
    r"|appel\w*|joindre|standard|ll[aá]m\w*|fijo|ligue|ligar|chiam\w*|sunați|sunati"
    r"|zadzwoń|dzwoń|volejte|zavolejte|zavolajte|nazovite|pokličite|позвон\w*|звон\w*|дзвон\w*|обад\w*|zvan\w*|skambin\w*"
    r"|helista|hívj\w*|καλέστε|ara(?:yın|yin)?|اتصل|התקשר\w*|कॉल|gọi|hubungi|致电|致電|拨打|撥打"
)
"""Words with other meanings too."""
LABELS_TEXT = r"(?![*_]{0,2}\s?[:：][*_\s]{0,4}[^\s*_])"
"""Not with a colon and text before the number: `Call: the frequency is 2400000000 Hz` is no call."""
WRITES = (
    r"(?:text|message|messaging) (?:me|us|him|her|them|back)|(?:text|message|messaging)(?= (?:at|on|to) $)"
    r"|(?:please|or|and|to|can|just) (?:text|message)(?= $)"
)
"""`Text:` and `Message:` are labels of prompts, and `the text 2400000000` is none."""

WORDS = rf"{NAMES}|(?:{CALLS}){LABELS_TEXT}|{WRITES}"

NO_PHONE_WORDS = (
    THING_NUMBERS + r"|npi|rgb|cmyk|frequenc(?:y|ies)|auftrag\w*"
    r"|isbn|zip|vin|licen[cs]e|licence|passport|card|iban|ssn|account|acct|routing|p\.?o\.? box|box|costs?"
    r"|prices?|worth|total|sum|id|at the office of|port|grid|sectors?|coordinates?|range[sd]?|sales|scores?"
    r"|revenue|units|bestell\w*|artikel\w*|rechnung\w*|sendung\w*|teilenummer|kundennummer|aktenzeichen|commande|facture|référence|réf"
    r"|colis|pedido|factura|referencia|ordine|fattura|ordre|encomenda|bestelling|zamówieni\w*|faktur\w*|заказ\w*|订单号?|訂單"
    r"|编号|型号|注文番号|注文|品番|型番|주문\w*"
)

PHONE_CONTEXT = context(WORDS, NO_PHONE_WORDS)

LABEL_AFTER = re.compile(
    rf"[ \t(,-]{{0,3}}(?:office|desk|fax|mobile?|cell|home|work|tel|phone|handy|telefon|büro|privat|portable|bureau"
    rf"|móvil|fijo|celular|cellulare|ufficio|mobiel|komórka|手机|携帯|自宅|직장|휴대폰"
    rf"|رقم الهاتف|الهاتف|هاتف|الجوال|جوال)(?!{LETTER})",
    re.IGNORECASE,
)
"""Labels after a number, as in signatures: `555 0199 (mobile)`."""

NO_PHONE = re.compile(
    rf"(?<!{LETTER})(?:{NO_PHONE_WORDS}|p/n|oem|cat(?:alog(?:ue)?)?|drawings?|filters?|gaskets?|bolts?|brackets?|pumps?|bearings?"
    r"|cartridges?|belts?|hoses?|sensors?|valves?|switch(?:es)?|seals?|screws?|motors?|batter(?:y|ies)|adapters?|cables?|modules?"
    r"|assembl(?:y|ies)|kits?|replace(?:s|d|ment)?|stock|warehouse|inventory|fits|compatible|cells?|rows?|columns?|tiles?|blocks?"
    rf"|points?|goals?|won|lost|beat|versus|vs|copies|miles|votes|tons?|tonnes|dollars?|euros?)(?!{LETTER})",
    re.IGNORECASE,
)
"""One of these near an unlabelled number, and it is no telephone number."""
