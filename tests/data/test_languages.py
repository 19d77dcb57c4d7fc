"""The language of a text, as its table gives it or as its script suggests it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from hr_search.data.languages import languages


def test_the_language_is_the_script_of_the_letters_or_what_the_data_say():
    texts = ["Сварщик", "Java-разработчик", "C++ разработчик игр", "Senior Java Developer в Пермь"]
    table = pd.DataFrame({"text": [*texts, "žena über", "1С", "42 %", ""]})
    scripts = ["Cyrillic", "Cyrillic", "Cyrillic", "Latin", "Latin", "Cyrillic", "other", "other"]
    assert languages(table) == scripts
    told = table.assign(language=["ru", " de ", "", None, np.nan, "ru", "", "en"])
    assert languages(told) == ["ru", "de", "Cyrillic", "Latin", "Latin", "ru", "other", "en"]
    assert languages(table[:0]) == []
