"""Names, written for this project: those that the audit swaps in, by origin and gender, and those known in a header.

A name of the audit is one word in Cyrillic and one in Latin letters, no job, and no common word: "Роман" is also a
novel, "Baker" a baker. Which names count as those of an origin is a rough convention and says nothing of any person.
"""

from __future__ import annotations

import re

from hr_search.data.resumes import PATRONYMIC, split_name

GENDERS = ("female", "male")

_LISTS = {  # female first names, male first names, last names in their male form
    "russian": (
        "Ольга/Olga Татьяна/Tatiana Наталья/Natalia Екатерина/Ekaterina Ирина/Irina Дарья/Daria Полина/Polina "
        "Ксения/Ksenia",
        "Сергей/Sergey Алексей/Alexey Дмитрий/Dmitry Андрей/Andrey Николай/Nikolay Павел/Pavel Егор/Egor Кирилл/Kirill",
        "Смирнов/Smirnov Кузнецов/Kuznetsov Соколов/Sokolov Лебедев/Lebedev Морозов/Morozov Волков/Volkov "
        "Никитин/Nikitin Белинский/Belinsky",
    ),
    "ukrainian": (
        "Оксана/Oksana Леся/Lesya Галина/Halyna Богдана/Bohdana Соломия/Solomiya Ярина/Yaryna Зоряна/Zoriana "
        "Наталка/Natalka",
        "Тарас/Taras Богдан/Bohdan Остап/Ostap Олесь/Oles Мыкола/Mykola Андрий/Andriy Назар/Nazar Ярема/Yarema",
        "Шевчук/Shevchuk Бондаренко/Bondarenko Ткаченко/Tkachenko Коваленко/Kovalenko Олейник/Oliynyk "
        "Кравчук/Kravchuk Гнатюк/Hnatiuk Левицкий/Levytsky",
    ),
    "tatar": (
        "Гульнара/Gulnara Айгуль/Aigul Алсу/Alsu Лейсан/Leysan Гузель/Guzel Резеда/Rezeda Динара/Dinara Альфия/Alfia",
        "Ринат/Rinat Ильдар/Ildar Айрат/Airat Марат/Marat Рустем/Rustem Ильнур/Ilnur Наиль/Nail Фарид/Farid",
        "Галиев/Galiev Хабибуллин/Khabibullin Сафин/Safin Закиров/Zakirov Шарипов/Sharipov Нуриев/Nuriev "
        "Валиуллин/Valiullin Гарипов/Garipov",
    ),
    "caucasian": (
        "Мадина/Madina Заира/Zaira Патимат/Patimat Ануш/Anush Нино/Nino Тамила/Tamila Залина/Zalina Севда/Sevda",
        "Магомед/Magomed Аслан/Aslan Заур/Zaur Гиви/Givi Ашот/Ashot Эльчин/Elchin Хасан/Khasan Тигран/Tigran",
        "Алиев/Aliev Магомедов/Magomedov Саркисян/Sarkisyan Беридзе/Beridze Мамедов/Mamedov Кадыров/Kadyrov "
        "Петросян/Petrosyan Гаджиев/Gadzhiev",
    ),
    "central-asian": (
        "Гульшат/Gulshat Нигора/Nigora Айжан/Aizhan Зухра/Zukhra Мавлюда/Mavlyuda Жамиля/Zhamilya Фатима/Fatima "
        "Дилором/Dilorom",
        "Рустам/Rustam Бахтиёр/Bakhtiyor Нурлан/Nurlan Азамат/Azamat Фарход/Farkhod Тимур/Timur Санжар/Sanzhar "
        "Ерлан/Yerlan",
        "Каримов/Karimov Рахимов/Rakhimov Юсупов/Yusupov Абдуллаев/Abdullaev Нурмагамбетов/Nurmagambetov "
        "Исмоилов/Ismoilov Турсунов/Tursunov Ахметов/Akhmetov",
    ),
    "english": (
        "Эмили/Emily Джессика/Jessica Оливия/Olivia Эшли/Ashley Ханна/Hannah Меган/Megan Хизер/Heather "
        "Шарлотта/Charlotte",
        "Джеймс/James Оливер/Oliver Уильям/William Джордж/George Эндрю/Andrew Брайан/Brian Стивен/Steven Гарри/Harry",
        "Джонсон/Johnson Уильямс/Williams Томпсон/Thompson Эванс/Evans Робинсон/Robinson Харрис/Harris "
        "Паттерсон/Patterson Моррис/Morris",
    ),
    "german": (
        "Гретхен/Gretchen Хайке/Heike Урсула/Ursula Зигрид/Sigrid Аннелиза/Anneliese Катрин/Katrin Бригитта/Brigitte "
        "Лизелотта/Liselotte",
        "Юрген/Jürgen Хайнц/Heinz Вольфганг/Wolfgang Клаус/Klaus Дитер/Dieter Уве/Uwe Гюнтер/Günter Торстен/Thorsten",
        "Хоффманн/Hoffmann Шнайдерхан/Schneiderhan Вернер/Werner Кёлер/Köhler Лоренц/Lorenz Альбрехт/Albrecht "
        "Хартманн/Hartmann Краузе/Krause",
    ),
    "arabic": (
        "Амина/Amina Лейла/Layla Нур/Nour Ясмин/Yasmin Самира/Samira Хадиджа/Khadija Рания/Rania Зейнаб/Zainab",
        "Ахмед/Ahmed Омар/Omar Юсеф/Youssef Халид/Khalid Тарик/Tariq Мустафа/Mustafa Валид/Walid Махмуд/Mahmoud",
        "Хаддад/Haddad Мансур/Mansour Халиль/Khalil Хамдан/Hamdan Фарук/Farouk Нассер/Nasser Аль-Масри/Al-Masri "
        "Ибрагим/Ibrahim",
    ),
    "chinese": (
        "Сяолин/Xiaolin Мэйлин/Meiling Юйтин/Yuting Лихуа/Lihua Сюэмэй/Xuemei Цзяи/Jiayi Хуэйминь/Huimin "
        "Яньлинь/Yanlin",
        "Вэйминь/Weimin Цзюньцзе/Junjie Хаожань/Haoran Чжицян/Zhiqiang Гоцян/Guoqiang Минхуэй/Minghui Тяньюй/Tianyu "
        "Цзяньго/Jianguo",
        "Чжан/Zhang Чжао/Zhao Хуан/Huang Чжоу/Zhou Цзян/Jiang Сюй/Xu Чжэн/Zheng Оуян/Ouyang",
    ),
}
_INFLECTED = ("russian", "ukrainian", "tatar", "caucasian", "central-asian")  # whose last names have a female form
_MALE = re.compile(r"[оеё]в|[иы]н|ov|ev|in", re.IGNORECASE)
_ADJECTIVES = {"ский": "ская", "цкий": "цкая", "sky": "skaya", "tsky": "tskaya"}

ORIGINS = tuple(_LISTS)

_MORE = (  # further first names by which a header is recognised
    "Александр Александра Алена Алина Алиса Алла Анастасия Анатолий Ангелина Анжела Анна Антон Антонина Аркадий Артём "
    "Артур Борис Вадим Валентин Валентина Валерий Валерия Варвара Василий Василиса Вероника Виктор Виктория Виталий "
    "Владимир Владислав Всеволод Вячеслав Геннадий Георгий Григорий Даниил Данила Денис Диана Евгений Евгения Елена "
    "Елизавета Захар Зинаида Зоя Иван Игнат Игорь Илья Инна Карина Кира Клавдия Константин Кристина Лариса Леонид "
    "Лидия Любовь Людмила Максим Маргарита Марина Мария Марк Матвей Милана Михаил Надежда Нина Олег Пётр Роман "
    "Ростислав Руслан Светлана Семён Снежана София Станислав Степан Тамара Тимофей Ульяна Фёдор Филипп Эдуард Эльвира "
    "Эмма Юлия Юрий Яков Яна Ярослав Камила Рената Руфина Тагир Амир Эмиль "
    "Alexander Alexandra Alice Amanda Amy Angela Anna Anne Anthony Barbara Benjamin Carol Charles Christina "
    "Christine Christopher Daniel David Deborah Diana Donald Edward Elena Elizabeth Emma Eric Evgeny Frank Gary "
    "Gregory Helen Igor Ivan Jack Jacob Jane Jason Jeffrey Jennifer John Jonathan Joseph Joshua Julia Karen Katherine "
    "Kenneth Kevin Kimberly Laura Linda Lisa Margaret Maria Mary Matthew Maxim Melissa Michael Michelle Mikhail Nancy "
    "Nicholas Nicole Oleg Pamela Patricia Patrick Paul Peter Philip Rachel Rebecca Richard Robert Ronald Roman Ryan "
    "Samantha Samuel Sandra Sarah Scott Stephanie Stephen Susan Svetlana Thomas Timothy Victoria Vladimir"
)
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*\.?")


def names_of(origin: str, gender: str, latin: bool = False) -> list[tuple[str, str]]:
    """First and last names of one origin and gender, in Cyrillic or Latin letters, in the order of the lists."""
    female, male, lasts = (pairs.split() for pairs in _LISTS[origin])
    firsts = female if gender == "female" else male
    script = int(latin)
    found = [(first.split("/")[script], last.split("/")[script]) for first in firsts for last in lasts]
    if gender == "female" and origin in _INFLECTED:
        found = [(first, feminine(last)) for first, last in found]
    return found


def feminine(last: str) -> str:
    """The female form of a last name that has one: Петров, Петрова; Белинский, Белинская; others stay."""
    for male, female in _ADJECTIVES.items():
        if last.endswith(male):
            return last.removesuffix(male) + female
    return last + ("а" if last[-1] > "z" else "a") if _MALE.fullmatch(last[-2:]) else last


def read_name(line: str) -> tuple[str, str, str] | None:
    """First, middle and last name where a line is nothing but a name, None otherwise.

    Only what leaves little doubt counts: two to four capitalised words, one of which is a known first name or a
    patronymic.
    """
    words = line.replace(",", " ").split()
    if not 2 <= len(words) <= 4 or not all(_WORD.fullmatch(word) and word[0].isupper() for word in words[:3]):
        return None
    if any(PATRONYMIC.fullmatch(word) for word in words[1:]):
        return split_name(line)
    place = next((at for at, word in enumerate(words) if _key(word) in _FIRST), None)
    if place is None:
        return None
    if place == 0:
        return words[0], " ".join(words[1:-1]), words[-1]
    return words[place], " ".join(words[place + 1 :]), " ".join(words[:place])


def _key(word: str) -> str:
    return word.lower().replace("ё", "е")


_FIRST = {
    _key(name)
    for text in (_MORE, *(pairs for lists in _LISTS.values() for pairs in lists[:2]))
    for name in text.replace("/", " ").split()
}
