"""What is refused before a run starts."""

from __future__ import annotations

import pytest

from hr_search.base.errors import InputError
from hr_search.checks import check_launch


@pytest.mark.parametrize(
    ("variable", "value", "flag"),
    [
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "--dynamo_backend"),
        ("ACCELERATE_MIXED_PRECISION", "fp8", "--mixed_precision"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "take --precision bf16"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "--use_deepspeed"),
        ("ACCELERATE_USE_FSDP", "true", "--use_fsdp"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "--gradient_accumulation_steps"),
    ],
)
def test_settings_of_a_launcher_that_are_not_served_are_refused(variable, value, flag):
    with pytest.raises(InputError, match=flag):
        check_launch({variable: value})


def test_what_a_launcher_sets_by_itself_is_fine():
    check_launch({})
    check_launch(
        {
            "ACCELERATE_DYNAMO_BACKEND": "NO",
            "ACCELERATE_MIXED_PRECISION": "no",
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
            "ACCELERATE_USE_FSDP": "false",
        }
    )
