"""Writes `orders.jsonl`, the same at every run: `python make_orders.py`. The demo does not need it."""

import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple

NUMBER: Final = 600
DECLINED: Final = (17, 58, 141, 233, 279, 371, 430, 512, 577)
EMPTY: Final = (33, 112, 264, 348, 491)
CARDS: Final = ("tok_visa", "tok_mastercard", "tok_amex", "tok_visa_debit", "tok_jcb")


class Country(NamedTuple):
    """What people in one country are called, where they live, and how they pay."""

    code: str
    currency: str
    names: tuple[str, ...]
    streets: tuple[str, ...]
    cities: tuple[tuple[str, str], ...]


COUNTRIES: Final = (
    Country(
        "DE",
        "EUR",
        ("Jürgen Groß", "Anneliese Weiß", "Käthe Schröder", "Sören Müller", "Özlem Öztürk"),
        ("Königstraße", "Schönhauser Allee", "Am Mühlgraben", "Gäßchen"),
        (("80331", "München"), ("50667", "Köln"), ("90402", "Nürnberg")),
    ),
    Country(
        "FR",
        "EUR",
        ("Zoé Lefèvre", "François Noël", "Maëlle Garçon", "Benoît Hervé"),
        ("rue de l'Évêché", "boulevard Saint-Michel", "allée des Chênes", "impasse du Pré"),
        (("69002", "Lyon"), ("42000", "Saint-Étienne"), ("62100", "Calais")),
    ),
    Country(
        "SE",
        "SEK",
        ("Åsa Björk", "Göran Åkerlöf", "Märta Öberg", "Håkan Sjögren"),
        ("Ångströmsgatan", "Södra Vägen", "Björkallén"),
        (("111 29", "Stockholm"), ("972 38", "Luleå"), ("753 20", "Uppsala")),
    ),
    Country(
        "NO",
        "NOK",
        ("Bjørn Ødegård", "Solveig Sæther", "Håkon Ås"),
        ("Bygdøy allé", "Øvre Slottsgate", "Sjøgata"),
        (("0265", "Oslo"), ("9008", "Tromsø"), ("5003", "Bergen")),
    ),
    Country(
        "PL",
        "PLN",
        ("Łukasz Żółć", "Małgorzata Wójcik", "Święcisława Gęś", "Paweł Dąbrowski"),
        ("ul. Świętokrzyska", "ul. Długa", "al. Niepodległości"),
        (("00-001", "Warszawa"), ("31-001", "Kraków"), ("90-001", "Łódź")),
    ),
    Country(
        "JP",
        "JPY",
        ("佐藤 美咲", "鈴木 一郎", "髙橋 さくら", "渡邉 健太"),
        ("千代田1丁目", "道頓堀2丁目", "銀座4丁目"),
        (("100-0001", "東京都千代田区"), ("542-0071", "大阪市中央区"), ("604-8571", "京都市中京区")),
    ),
    Country(
        "BG",
        "EUR",
        ("Иван Петров", "Ралица Йорданова", "Цветелина Щерева"),
        ("бул. Витоша", "ул. Шипка", "ул. Оборище"),
        (("1000", "София"), ("4000", "Пловдив"), ("9000", "Варна")),
    ),
    Country(
        "GR",
        "EUR",
        ("Ελένη Παπαδοπούλου", "Γιώργος Χατζής", "Αθηνά Ψαρρού"),
        ("Οδός Ερμού", "Λεωφόρος Κηφισίας", "Οδός Αγίου Δημητρίου"),
        (("105 63", "Αθήνα"), ("546 24", "Θεσσαλονίκη"), ("262 21", "Πάτρα")),
    ),
    Country(
        "JO",
        "USD",
        ("ليلى حداد", "عمر الخطيب", "نور الهدى منصور"),
        ("شارع الرينبو", "شارع الجامعة"),
        (("11181", "عمّان"), ("21110", "إربد")),
    ),
    Country(
        "IL",
        "USD",
        ("נועה כהן", "איתי לוי"),
        ("רחוב דיזנגוף", "שדרות רוטשילד"),
        (("6433222", "תל אביב"), ("9414101", "ירושלים")),
    ),
    Country(
        "TW",
        "USD",
        ("陳怡君", "林志豪", "黃淑芬"),
        ("中山北路二段", "忠孝東路四段"),
        (("104", "臺北市"), ("400", "臺中市")),
    ),
    Country(
        "IN",
        "USD",
        ("प्रिया शर्मा", "अर्जुन पटेल"),
        ("महात्मा गांधी मार्ग", "लिंक रोड"),
        (("110001", "नई दिल्ली"), ("400050", "मुंबई")),
    ),
    Country(
        "GB",
        "GBP",
        ("Siân O'Connor", "Oliver Whitaker", "Zoë Brontë", "Imogen St John-Smythe"),
        ("Baker Street", "King's Road", "Heol y Bont"),
        (("NW1 6XE", "London"), ("CF10 1EP", "Caerdydd"), ("EH1 1YZ", "Edinburgh")),
    ),
    Country(
        "US",
        "USD",
        ("Renée Washington", "José Martínez", "Mary-Ann O'Neill", 'Tyler "Ty" Brooks'),
        ("Main Street", "Peña Boulevard", "5th Avenue"),
        (("10001", "New York, NY"), ("87501", "Santa Fe, NM"), ("60601", "Chicago, IL")),
    ),
)

ARTICLES: Final = (
    ("MUG-001", "Becher „Guten Morgen“ 0,3 l", "12.90"),
    ("TEA-014", "煎茶 100g", "18.50"),
    ("TEA-022", "Thé vert à la menthe", "9.80"),
    ("CHO-007", "Czekolada gorzka 70 %", "4.25"),
    ("HON-003", "Θυμαρίσιο μέλι 450 g", "14.40"),
    ("JAM-011", "Сладко от бели череши", "6.70"),
    ("COF-005", "قهوة بالهيل 250 غ", "11.30"),
    ("SPI-009", "गरम मसाला", "5.95"),
    ("BOW-002", "抹茶茶碗", "64.00"),
    ("KET-001", "Cast-iron kettle 1.2 l", "79.90"),
    ("GRI-004", "Hand grinder, ½ lb", "119.00"),
    ("ESP-001", "Espresso machine “Caffè Nero”", "489.00"),
    ("FIL-100", "Filters, 100 pieces", "3.99"),
    ("SPO-006", "Sked i björk", "7.50"),
    ("CUP-008", "Kubek emaliowany żółty", "8.60"),
    ("TRA-002", "Tray, walnut 🌰", "39.00"),
)

NOTES: Final = (
    None,
    None,
    None,
    "Bitte beim Nachbarn abgeben",
    "Gift wrap, please 🎁",
    "インターホンが壊れています",
    "3ème étage, à gauche",
)
RATES: Final = {"EUR": "1", "USD": "1.08", "GBP": "0.85", "JPY": "162", "SEK": "11.3", "NOK": "11.7", "PLN": "4.3"}


def make(rng: random.Random, number: int) -> dict[str, Any]:
    """The order of this number."""
    country = rng.choice(COUNTRIES)
    postcode, city = rng.choice(country.cities)
    return {
        "id": f"order-{number:04}",
        "customer": rng.choice(country.names),
        "email": f"customer{number}@{country.code.lower()}.example",
        "address": {
            "street": f"{rng.choice(country.streets)} {rng.randint(1, 120)}",
            "postcode": postcode,
            "city": city,
            "country": country.code,
        },
        "currency": country.currency,
        "card": "tok_chargeDeclined" if number in DECLINED else rng.choice(CARDS),
        "note": rng.choice(NOTES),
        "items": [] if number in EMPTY else basket(rng, country.currency),
    }


def basket(rng: random.Random, currency: str) -> list[dict[str, Any]]:
    """Two to five articles in this currency."""
    chosen = rng.sample(ARTICLES, rng.randint(2, 5))
    return [
        {"sku": sku, "name": name, "quantity": rng.choice((1, 1, 1, 2, 3)), "unit_price": price(euros, currency)}
        for sku, name, euros in chosen
    ]


def price(euros: str, currency: str) -> str:
    """The price in another currency, as decimal text; yen have no cents."""
    amount = Decimal(euros) * Decimal(RATES[currency])
    return str(amount.quantize(Decimal(1) if currency == "JPY" else Decimal("0.01")))


def main() -> None:
    """Write the file beside this one."""
    rng = random.Random(2027)
    lines = [json.dumps(make(rng, number), ensure_ascii=False) for number in range(1, NUMBER + 1)]
    Path(__file__).with_name("orders.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
