"""List the words that call a number a telephone number in many languages, and those that speak against it."""

from __future__ import annotations

import re

from trainer.data.pii.rule import LETTER, OTHER_NUMBERS, context

WORDS = (
    # English
    r"(?:tele)?phones?|tel|mobiles?|mob|cell|cell ?phone|cellular|fax|whatsapp|sms|hotline|helpline|landline|pager"
    r"|voicemail|call(?:ed|ing|s)?|dial|ring|rang|answer(?:ing)?|messages?|texted|text me|text|reach|contact"
    r"|(?:desk|office|home|work)(?= ?:)"
    # German, Dutch, Nordic
    r"|telefon\w*|handy\w*|mobil\w*|festnetz\w*|ruf(?:nummer|en)?|durchwahl|anruf\w*|erreich\w*|zentrale"
    r"|telefoon\w*|gsm|bel(?:len)?|ringa?|sími|puhelin\w*|matkapuhelin\w*|soita|puh"
    # French, Spanish, Portuguese, Italian, Romanian
    r"|tél(?:éphone\w*)?|telephone|portable|télécopie|appel\w*|joindre|joignable|standard"
    r"|teléfono\w*|telefono\w*|tlf|tfno|móvil|celular|ll[aá]m\w*|fijo|telefone|telemóvel|ligue|ligar|contato|contacto"
    r"|cellulare|chiam\w*|telefonul\w*|sunați|sunati"
    # Slavic, Baltic, Hungarian, Greek, Turkish
    r"|komórk\w*|zadzwoń|dzwoń|volejte|zavolejte|zavolajte|mobitel|nazovite|pokličite|позвон\w*|звон\w*|телефон\w*|тел"
    r"|моб\w*|дзвон\w*|зателефон\w*|обад\w*|tālr\w*|zvan\w*|skambin\w*|helista|hívj\w*|τηλ\w*|κινητ\w*|καλέστε|cep|ara(?:yın|yin)?"
    # Arabic, Hebrew, Persian, Indian, South East Asian
    r"|هاتف|الهاتف|جوال|الجوال|اتصل|טלפון|הטלפון|נייד|התקשר\w*|تلفن|موبایل|फ़ोन|फोन|मोबाइल|कॉल|ফোন|โทรศัพท์|โทร|มือถือ"
    r"|điện thoại|sđt|gọi|di động|telepon|telp|hp|hubungi|telepono"
    # Chinese, Japanese, Korean
    r"|电话|電話|手机|手機|联系|聯繫|致电|致電|拨打|撥打|携帯|連絡先|전화\w*|휴대폰\w*|휴대전화\w*|연락처\w*|핸드폰\w*"
)
"""Source: Unicode CLDR (names of the telephone in annotations), and dictionaries."""

OTHERS = (
    OTHER_NUMBERS
    + r"|isbn|zip|vin|licen[cs]e|licence|passport|card|iban|ssn|account|acct|routing|p\.?o\.? box|box|costs?"
    r"|prices?|worth|total|sum|id|at the office of|port|grid|sectors?|coordinates?|range[sd]?|sales|scores?"
    r"|revenue|units|bestell\w*|artikel\w*|rechnung\w*|sendung\w*|teilenummer|kundennummer|aktenzeichen|commande|facture|référence|réf"
    r"|colis|pedido|factura|referencia|ordine|fattura|ordre|encomenda|bestelling|zamówieni\w*|faktur\w*|заказ\w*|订单号?|訂單"
    r"|编号|型号|注文番号|注文|品番|型番|주문\w*"
)

PHONE_CONTEXT = context(WORDS, OTHERS)

LABEL_AFTER = re.compile(
    rf"[ \t(,-]{{0,3}}(?:office|desk|fax|mobile?|cell|home|work|tel|phone|handy|telefon|büro|privat|portable|bureau"
    rf"|móvil|fijo|celular|cellulare|ufficio|mobiel|komórka|手机|携帯|自宅|직장|휴대폰)(?!{LETTER})",
    re.IGNORECASE,
)
"""How signatures name a number: `555 0199 (mobile)`."""

NO_PHONE = re.compile(
    rf"(?<!{LETTER})(?:{OTHERS}|p/n|oem|cat(?:alog(?:ue)?)?|drawings?|filters?|gaskets?|bolts?|brackets?|pumps?|bearings?"
    r"|cartridges?|belts?|hoses?|sensors?|valves?|switch(?:es)?|seals?|screws?|motors?|batter(?:y|ies)|adapters?|cables?|modules?"
    r"|assembl(?:y|ies)|kits?|replace(?:s|d|ment)?|stock|warehouse|inventory|fits|compatible|cells?|rows?|columns?|tiles?|blocks?"
    rf"|points?|goals?|won|lost|beat|versus|vs|copies|miles|votes|tons?|tonnes|dollars?|euros?)(?!{LETTER})",
    re.IGNORECASE,
)
"""Around a number that no word calls a telephone, one of these is enough to leave it alone."""
