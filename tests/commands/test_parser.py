"""The parser: flags, their help, and one sentence for what they do not allow."""

from __future__ import annotations

import pandas as pd
import pytest

from hr_search.bench import proof, race, speeds
from hr_search.commands import benchmark, parser
from hr_search.settings import FIELDS


def test_every_setting_is_a_flag_with_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        parser.main(["train", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{name} " in text for name in FIELDS)


@pytest.mark.parametrize("spelling", ["--learning_rate=2e-5", "--learning-rate=2e-5", "--LearningRate=2e-5"])
def test_a_flag_may_be_spelled_in_several_ways(spelling):
    word = parser.plain_flag(spelling)
    assert parser.build_parser().parse_args(["train", word]).learningrate == "2e-5"
    assert parser.plain_flag("--") == "--" and parser.plain_flag("a_b") == "a_b"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--help"),
        (["trian"], "train"),
        (["train", "--learningrat", "1"], 'did you mean "--learningrate"'),
        (["train", "--epoch", "2"], "there is no flag --epoch;"),  # no abbreviations
        (["compare", "one"], "no finished runs"),
        (["benchmark", "--proof", "--race"], "--race: not allowed with argument --proof"),
        (["benchmark", "--costs", "--scaletable"], "not allowed with"),
        (["benchmark", "--minutes", "3"], "--minutes does not apply to speeds, only to --race"),
        (["benchmark", "--proof", "--case", "mine"], "--case does not apply to --proof, only to speeds"),
        (["benchmark", "--race", "--threads", "2"], "--threads does not apply to --race"),
        (["benchmark", "--costs", "--datapath", "x.csv"], "--datapath does not apply to --costs"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(home, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert parser.main(words) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert error.count("\n") == 1 and error.startswith("hr_search: ")


SPEEDS = pd.DataFrame({"case": ["mine"], "hardware": "", "versions": "", "commit": ""})
PROOF = pd.DataFrame({"difference": [0.5]})


@pytest.mark.parametrize(
    ("module", "function", "flags", "given", "answer", "code"),
    [
        (speeds, "run_benchmark", "--case mine --scale 0.5", {"case": "mine", "scale": 0.5}, SPEEDS, 0),
        (proof, "proof", "--proof --steps 4 --out x", {"steps": 4, "out": "x"}, (PROOF, PROOF), 1),
        (proof, "scale_table", "--scaletable --threads 2", {"threads": 2}, PROOF, 0),
        (proof, "scale_table", "--scaletable --rows 500 --stream", {"rows": 500, "stream": True}, PROOF, 0),
        (race, "race", "--race --minutes 2 --workers 2", {"minutes": 2.0, "workers": 2}, (PROOF, PROOF), 0),
    ],
)
def test_a_benchmark_gets_the_flags_that_are_given(
    home, monkeypatch, capsys, module, function, flags, given, answer, code
):
    calls = []
    monkeypatch.setattr(module, function, lambda *recipe, **values: calls.append(values) or answer)
    assert parser.main(["benchmark", *flags.split()]) == code
    assert calls == [given] and capsys.readouterr().out


def test_every_flag_of_a_benchmark_belongs_to_a_measurement():
    flags = vars(parser.build_parser().parse_args(["benchmark"])).keys() - {"verb", "kind", "run"}
    assert flags == {flag for names in benchmark.FLAGS.values() for flag in names}
