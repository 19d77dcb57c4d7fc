"""Contact details are found in the forms people write them in, and nothing else is taken for one."""

from __future__ import annotations

import re

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hr_search.data import exploration, loading
from hr_search.data.counts import Counts
from hr_search.data.redaction import WORDS, redact, redact_pairs, redacted
from hr_search.settings import Settings

PHONES = [
    "+7 (916) 123-45-67", "+7(916)123-45-67", "+79161234567", "+7 916 123 45 67", "+7-916-123-45-67",
    "+7 916 123-4567", "+7.916.123.45.67", "+7 (4812) 12-34-56", "+7\u00a0916\u00a0123\u00a045\u00a067", "+ 7 916 1234567",
    "8 (916) 123-45-67", "8(916)1234567", "89161234567", "8 916 123 45 67", "8-916-123-45-67", "8-916-1234567",
    "8 916 12 34 567", "8 (495) 12-34-567", "8 (48439) 1-23-45", "8–916–123–45–67", "8.916.123.45.67",
    "8 800 555 35 35", "8-800-555-35-35", "8 (800) 100-0-100", "8-800-100-0-100", "7 916 123 45 67", "79161234567",
    "(495) 123-45-67", "(4812) 12-34-56", "(48439) 1-23-45", "916-123-45-67", "916 123-45-67", "916 123 45 67",
    "+375 (29) 123-45-67", "+380 44 123 45 67", "+998 90 123-45-67", "+44 20 7946 0958", "+44 (0)20 7946 0958",
    "+1 (212) 555-0100", "+1 212 555 0100", "+12125550100", "+49 30 123456", "+33 1 23 45 67 89", "+86 138 0013 8000",
    "+972-3-123-4567", "212-555-0100",
]  # fmt: skip

NO_CONTACTS = [
    "80 000 - 120 000 руб", "80 000 – 120 000 руб.", "от 80 000 до 120 000 ₽", "80000-120000 руб", "150 000 рублей",
    "зарплата 8 000 000 - 10 000 000", "+15 000 - 20 000 руб", "премия +10 000 000 сум", "8 000 – 12 000 ₽",
    "+ 15 000 руб. к окладу", "100-150 тыс. руб.", "8 500 000 тенге", "$80,000 - $120,000", "9 000 000 00 руб",
    "24/7", "2/2", "5/2 с 9:00 до 18:00", "смены 8-20, 20-8", "с 01.02.2015 по 03.04.2016", "2015-2019", "2015 – 2019",
    "01.01.2020-31.12.2020", "8.10.2015 - 12.12.2016", "8-10 лет", "2019-03-15", "UTC+3", "UTC +3 10-12-2020",
    "МСК +2 2019-2023", "18+", "ИНН 7701234567", "ИНН 770123456789", "ИНН 781234567890", "ИНН/КПП 7812345678/781201001",
    "ОГРН 1027700132195", "ОГРНИП 315784700123456", "р/с 40702810900000012345", "БИК 044525225", "ОКВЭД 62.01",
    "EAN 8901234567894", "карта 8600 1234 5678 9012", "ГОСТ Р 54593-2011", "ISO 9001:2015", "приказ № 8-916/12",
    "C++", "C++ 11 2017 2020", "C++14/17/20", "C#", "Node.js", "Vue.js/React", "Node.js/Express", "ASP.NET", "asp.net core",
    "ASP.NET/MVC", "VB.NET", ".NET Core 3.1", "Socket.IO", "socket.io", "main.py", "setup.md", "index.html", "resume.doc",
    "т.д. и т.п.", "и.о. директора", "г.Москва", "ул.Ленина, д.5", "гр.РФ", "ТК РФ", "т.е. в т.ч.", "ООО «Ромашка.»",
    "опыт работы.Знание Excel", "in a team.It is fun", "contact.us", "компании.HR-менеджер", "done.Online", "до 15.kg",
    "1С:Предприятие 8.3", "версия 10.0.19045.3803", "Python 3.11.4", "8.8.8.8", "192.168.0.1", "1.2.3",
    "Telegram", "бот в Telegram", "Telegram-бот", "Skype for Business", "WhatsApp и Viber", "VK API5", "ведение VK",
    "Навыки: Instagram, Telegram", "тг 500", "a @ b", "5 @ 10", "@", "email", "телефон 24/7", "телефоны", "мобильный",
    "Mobile: 2015-2019 Flutter", "оклад (80 000) 12 000", "50% + 10 000", "100 000+", "тел: 100 000 ₽", "",
]  # fmt: skip


@pytest.mark.parametrize("phone", PHONES)
@pytest.mark.parametrize("frame", ["{}", "звоните {}.", "тел.: {}, Анна", "({})", "опыт 2015-2019 {}; 24/7", "т{}"])
def test_phones(phone: str, frame: str) -> None:
    if frame == "т{}" and phone[0] not in "+8":
        return
    text, counts = redact(frame.format(phone))
    assert text == frame.format("[phone]")
    assert counts == {"phones": 1}


@pytest.mark.parametrize("text", NO_CONTACTS)
def test_what_is_no_contact_stays(text: str) -> None:
    assert redact(text) == (text, {})
    assert redact(f"Опыт: {text} (обязательно)")[0] == f"Опыт: {text} (обязательно)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("пишите на ivan.petrov@mail.ru!", "пишите на [email]!"),
        ("e-mail:Ivan_Petrov+hr@sub.company.co.uk.", "e-mail:[email]."),
        ("иван@почта.рф, hr@xn--80a1acny.xn--p1ai", "[email], [email]"),
        ("mailto:a@b.io?subject=x", "mailto:[email]?subject=x"),
        ("ivan (at) mail.ru / ivan[собака]mail.ru", "[email] / [email]"),
        ("<a@b.ru><c@d.com>", "<[email]><[email]>"),
    ],
)
def test_emails(text: str, expected: str) -> None:
    assert redact(text) == (expected, {"emails": expected.count("[email]")})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("см. https://hh.ru/vacancy/1?query=a&b=c#d, там", "см. [link], там"),
        ("(http://example.com/a_(b))", "([link]))"),
        ("«https://пример.рф/путь»", "«[link]»"),
        ("HTTPS://HH.RU", "[link]"),
        ("https://user:secret@host.ru/x", "[link]"),
        ("www.example.museum/jobs.", "[link]."),
        ("hh.ru/vacancy/1", "[link]"),
        ("на сайте hh.ru. Далее", "на сайте [link]. Далее"),
        ("HH.RU, SuperJob.ru; rabota.by", "[link], [link]; [link]"),
        ("t.me/ivan_petrov и vk.com/id1 и wa.me/79161234567", "[link] и [link] и [link]"),
        ("t.me", "[link]"),
        ("tg://resolve?domain=ivan", "[link]"),
        ("linkedin.com/in/ivan-petrov-1a2b3c/", "[link]"),
        ("behance.net/ivan", "[link]"),
        ("boards.greenhouse.io/x/jobs/1", "[link]"),
        ("компания.рф", "[link]"),
        ("api.site.example.com:8080/v1", "[link]"),
        ("forms.gle.me/abc", "[link]"),
    ],
)
def test_links(text: str, expected: str) -> None:
    assert redact(text) == (expected, {"links": expected.count("[link]")})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Telegram: @ivan_petrov", "Telegram: [handle]"),
        ("пишите @hr.company.", "пишите [handle]."),
        ("tg: ivan77, тг:ivan_p", "tg: [handle], тг:[handle]"),
        ("Skype: live:ivan.petrov_1", "Skype: [handle]"),
        ("skype live:ivan.petrov", "skype [handle]"),
        ("скайп - ivan_petrov", "скайп - [handle]"),
        ("телеграм ivan_petrov", "телеграм [handle]"),
        ("VK: id123456", "VK: [handle]"),
        ("vk id123456", "vk [handle]"),
        ("ICQ 123-456-789", "ICQ [handle]"),
        ("github: ivanpetrov", "github: [handle]"),
        ("@Иван", "[handle]"),
    ],
)
def test_handles(text: str, expected: str) -> None:
    assert redact(text) == (expected, {"handles": expected.count("[handle]")})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("тел. 2-34-56", "тел. [phone]"),
        ("Телефон: 123-45-67 (Анна)", "Телефон: [phone] (Анна)"),
        ("факс: (48439) 12345", "факс: [phone]"),
        ("Phone: 020 7946 0958", "Phone: [phone]"),
    ],
)
def test_a_word_announces_shorter_phones(text: str, expected: str) -> None:
    assert redact(text) == (expected, {"phones": 1})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("89161234567,89167654321", "[phone],[phone]"),
        ("89161234567/89167654321/+79161234567", "[phone]/[phone]/[phone]"),
        ("89161234567.8-916-123-45-67:8(916)1234567-89161234567", "[phone].[phone]:[phone]-[phone]"),
        ("тел.: 123-45-67,89161234567", "тел.: [phone],[phone]"),
        ("8 916 123-45-67/68", "[phone]/68"),
    ],
)
def test_phones_joined_without_spaces(text: str, expected: str) -> None:
    assert redact(text) == (expected, {"phones": expected.count("[phone]")})


@pytest.mark.parametrize("phone", PHONES)
@pytest.mark.parametrize("frame", ["{} тг", "{}тг", "{} р.Волга", "{} руб"])
def test_no_currency_hides_a_phone_or_a_part_of_it(phone: str, frame: str) -> None:
    assert redact(frame.format(phone)) == (frame.format("[phone]"), {"phones": 1})


@pytest.mark.parametrize(
    "amount",
    ["250 000", "250 500", "8 500 000", "80 000 - 120 000", "+250 500 - 300 500", "+15500-200500", "8000-1200000"],
)
@pytest.mark.parametrize("currency", [" тг", " руб.", "₸", " р. в месяц"])
def test_amounts_before_a_currency_stay(amount: str, currency: str) -> None:
    for text in (f"оклад {amount}{currency}", f"тел: {amount}{currency}"):
        assert redact(text) == (text, {})


def test_a_text_with_everything() -> None:
    text = (
        "Сварщик, 80 000 - 120 000 руб, 5/2. Анна: 8(916)123-45-67, +7 495 1234567, anna@mail.ru, @anna_hr, "
        "hh.ru/vacancy/1. ИНН 7701234567. C++, Node.js."
    )
    assert redact(text) == (
        "Сварщик, 80 000 - 120 000 руб, 5/2. Анна: [phone], [phone], [email], [handle], [link]. ИНН 7701234567. "
        "C++, Node.js.",
        {"phones": 2, "emails": 1, "handles": 1, "links": 1},
    )


@given(st.text(alphabet="ab1789@.:/+-() ,_[]тгru\n", max_size=40))
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_any_text_is_worked_on_and_only_loses(text: str) -> None:
    result, counts = redact(text)
    assert sum(result.count(word) for word in WORDS.values()) == sum(counts.values())
    assert all(count > 0 for count in counts.values())
    if not counts:
        assert result == text
    # What is left are pieces of the text in their order.
    pieces = re.split("|".join(re.escape(word) for word in WORDS.values()), result)
    place = 0
    for piece in pieces:
        place = text.index(piece, place) + len(piece)


@pytest.mark.parametrize(
    "unit",
    [
        "8",
        "8 ",
        "8 (",
        "+7 ",
        "+4 ",
        "a",
        "a.",
        "a-",
        "a@",
        "@a",
        "http://",
        "t.me/",
        "vk ",
        "тел. 1",
        "89161234567,",
        "(at) ",
        ". ",
    ],
)
def test_long_hostile_texts_come_to_an_end(unit: str) -> None:
    """A pattern whose time grows with the square of the length would take minutes here."""
    result, counts = redact(unit * (100_000 // len(unit)))
    assert sum(result.count(word) for word in WORDS.values()) == sum(counts.values())


def test_columns_are_counted_by_row() -> None:
    column = pd.Series(["a@b.ru", "x", "a@b.ru", "8 916 123-45-67 a@b.ru"], index=[3, 1, 0, 2])
    clean, counts = redacted(column)
    assert clean.to_dict() == {3: "[email]", 1: "x", 0: "[email]", 2: "[phone] [email]"}
    assert counts == {"emails": 3, "phones": 1}
    assert redacted(pd.Series([], dtype=object))[1] == {}


def test_pairs_lose_contacts_in_all_texts_and_keep_their_groups_apart() -> None:
    columns = {
        "query": ["cook @anna", "smith", "clerk"],
        "positive": ["call 8 916 123-45-67", "see hh.ru/vacancy/1", "plain"],
        "negatives": [["a@b.ru", "plain"], [], ["hh.ru"]],
        "group": ["hh.ru/vacancy/1", "hh.ru/vacancy/2", "clerks"],
    }
    pairs = pd.DataFrame(columns)
    clean, counts = redact_pairs(pairs)
    assert clean["query"].tolist() == ["cook [handle]", "smith", "clerk"]
    assert clean["positive"].tolist() == ["call [phone]", "see [link]", "plain"]
    assert clean["negatives"].tolist() == [["[email]", "plain"], [], ["[link]"]]
    assert clean["group"].tolist() == ["[link] 1", "[link] 2", "clerks"]
    assert counts == Counts(emails=1, phones=1, links=4, handles=1)
    bare, none = redact_pairs(pairs.drop(columns="group").assign(query="x", positive="y", negatives=[[], [], []]))
    assert list(bare) == ["query", "positive", "negatives"] and none.to_dict() == dict.fromkeys(WORDS, 0)


def test_redaction_on_reading(tmp_path) -> None:
    rows = [f'cook {n},"bakes bread number {n} at 8 (916) 123-45-{n:02}, a{n}@mail.ru"' for n in range(20)]
    path = tmp_path / "rows.csv"
    path.write_text("query,positive\n" + "\n".join(rows) + "\n", encoding="utf-8")
    plain, clean = (loading.load_data(Settings(datapath=str(path), redact=redact)) for redact in (False, True))
    assert (clean.counts.phones, clean.counts.emails, clean.counts.links) == (20, 20, 0)
    assert "phones" not in plain.counts.to_dict()
    assert clean.train["positive"].str.contains(r"at \[phone\], \[email\]$").all()
    assert not plain.train["positive"].str.contains("[phone]", regex=False).any()
    assert clean.fingerprint != plain.fingerprint
    shown = exploration.counts_table(clean)["count"]
    assert (
        shown["replaced: phone numbers"] == 20
        and "replaced: phone numbers" not in exploration.counts_table(plain).index
    )
    assert loading.load_all(Settings(datapath=str(path), redact=True))["positive"].str.endswith("[email]").all()
