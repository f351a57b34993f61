"""Errors about data speak the words of the interface that was used."""

import numpy as np
import pandas as pd
import pytest

from timeldm_jax import TimeLDM, command
from timeldm_jax.errors import DataError, in_flags, option


def uneven():
    times = pd.date_range("2024-01-01", periods=20, freq="D").delete([5, 6])
    return pd.DataFrame({"date": times, "x": np.arange(18) * 1.5})


def test_a_setting_is_named_as_it_would_be_set():
    error = DataError(f"{option('entity')}, {option('decimal', ',')}, {option('split', 'time')}")
    assert str(error) == "entity, decimal=',', split='time'"
    assert in_flags(error) == (
        "--config.data.entity, --config.data.decimal=,, --config.data.split=time"
    )
    assert in_flags(OSError("no {option:entity}")) == "no --config.data.entity"


def test_python_names_arguments():
    with pytest.raises(DataError) as caught:
        TimeLDM(window=4).fit(uneven())
    assert "irregular='sort' takes every row" in str(caught.value)
    assert "config" not in str(caught.value)


def test_the_command_names_flags(capsys):
    with pytest.raises(DataError) as caught:
        TimeLDM(window=4).fit(uneven())
    with pytest.raises(SystemExit):
        command.fail(caught.value)
    said = capsys.readouterr().err
    assert "--config.data.irregular=sort takes every row" in said
    assert "'sort'" not in said
