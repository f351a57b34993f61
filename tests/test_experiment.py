"""From what a user says and gives to what is trained: settings are used, or refused by name."""

import numpy as np
import pandas as pd
import pytest
from quick import SMALL

from timeldm_jax import TimeLDM, convert
from timeldm_jax import config as configuration
from timeldm_jax.data import dataset as datasets
from timeldm_jax.data.given import take
from timeldm_jax.errors import ConfigError, DataError, in_flags


def small(**data):
    """The configuration of a table that trains in seconds."""
    config = configuration.base()
    configuration.apply_table(config)
    config.update_from_flattened_dict(SMALL)
    config.data.window = 8
    config.data.update(data)
    return config


def panel():
    hours = np.arange(800)
    value = np.sin(hours / 4) + np.random.default_rng(0).normal(0, 0.1, 800)
    return pd.DataFrame({"who": np.repeat(["a", "b"], 400), "t": hours % 400, "x": value.round(3)})


def test_settings_of_a_given_configuration_are_used():
    shuffled = panel().sample(frac=1, random_state=0, ignore_index=True)
    config = small(entity="who", time="t", irregular="sort")
    asked = convert.settings(config)
    _, given = take(asked, shuffled)
    schema = datasets.prepare(given, asked).schema
    assert schema.entity == ("who",)
    assert schema.clock.name == "t"
    assert [c.name for c in schema.columns] == ["x"]
    assert asked.data.irregular == "sort"


def test_settings_of_the_split_are_arguments():
    given = {"split": "entity", "stride": 3, "protocol": "future", "missing": "generate"}
    asked = convert.settings(small(), **given)
    assert {name: asked.data[name] for name in given} == given
    for name, value, message in (
        ("split", "half", "split='half' is not one of"),
        ("protocol", "later", "protocol='later' is not one of"),
        ("stride", 0, "stride"),
    ):
        with pytest.raises((ConfigError, DataError, ValueError), match=message):
            TimeLDM().fit(panel(), entity="who", time="t", **{name: value})
    with pytest.raises(TypeError, match="stride"):
        TimeLDM().describe(panel(), stride=2.5)


@pytest.mark.slow
@pytest.mark.training
def test_the_decimal_point_of_a_fitted_file_is_that_of_later_files(tmp_path):
    path = tmp_path / "comma.csv"
    panel()[["x"]].to_csv(path, sep=";", decimal=",", index=False)
    model = TimeLDM(config=small()).fit(path, decimal=",")
    assert model._generator.config.data.decimal == ","
    gaps = pd.read_csv(path, sep=";", decimal=",")
    gaps.loc[20:25, "x"] = np.nan
    gaps.to_csv(tmp_path / "gaps.csv", sep=";", decimal=",", index=False)
    filled = model.impute(tmp_path / "gaps.csv")
    assert filled["x"].notna().all()
    np.testing.assert_array_equal(filled["x"][:20], gaps["x"][:20])


def test_a_schema_may_be_a_mapping_its_text_or_a_path(tmp_path):
    path = tmp_path / "schema.json"
    path.write_text('{"columns": {"who": {"kind": "drop"}}}')
    for schema in ({"columns": {"who": {"kind": "drop"}}}, path.read_text(), path, str(path)):
        asked = convert.settings(small(), schema=schema)
        _, given = take(asked, panel())
        prepared = datasets.prepare(given, asked)
        assert [c.name for c in prepared.schema.columns] == ["t", "x"]


@pytest.mark.parametrize("schema", [5, [("a", 1)], {"columns": {1, 2}}], ids=str)
def test_a_schema_that_is_none_is_refused(schema):
    with pytest.raises(DataError, match=r"^schema "):
        TimeLDM().fit(panel(), schema=schema)


WINDOWS = np.random.default_rng(0).random((40, 8, 2))


@pytest.mark.parametrize(
    "setting",
    [{"entity": "who"}, {"time": "t"}, {"irregular": "sort"}, {"decimal": ","}, {"schema": {}}],
    ids=str,
)
def test_windows_refuse_the_settings_of_a_table(setting):
    (name,) = setting
    with pytest.raises(DataError, match=rf"^{name}=.* is not read for windows"):
        TimeLDM().fit(WINDOWS, **setting)


def test_windows_of_another_length_than_asked_for_are_refused():
    with pytest.raises(DataError, match=r"window='?12'? and the windows have 8 rows"):
        TimeLDM(window=12).fit(WINDOWS)
    asked, given = take(small(stride=0), WINDOWS)
    assert asked.data.window == given.values.shape[1] == 8


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"name": "etth", "path": "my.csv"}, "--config.data.path=my.csv"),
        ({"name": "etth", "stride": 3}, "--config.data.stride=3"),
        ({"name": "etth", "count": 5}, "--config.data.count=5"),
        ({"name": "sines", "entity": "who"}, "--config.data.entity=who"),
        ({"name": "sines", "irregular": "sort"}, "--config.data.irregular=sort"),
        ({"name": "stocks", "missing": "generate"}, "--config.data.missing=generate"),
        ({"name": "table", "count": 5}, "--config.data.count=5"),
    ],
    ids=str,
)
def test_what_a_set_does_not_read_is_refused(settings, flag):
    config = configuration.base()
    config.data.update(settings)
    with pytest.raises(DataError) as raised:
        take(config)
    assert in_flags(raised.value).startswith(f"{flag} is not read")


def test_a_budget_of_a_built_in_set_is_refused():
    config = configuration.base()
    config.data.name, config.budget = "sines", "10m"
    with pytest.raises(ConfigError, match=r"config\.budget='10m' is not read for simulated"):
        take(config)


@pytest.mark.parametrize("beside", [{"window": 12}, {"budget": "5m"}], ids=str)
def test_a_configuration_allows_no_window_or_budget_beside_it(beside):
    with pytest.raises(ConfigError, match="beside a config"):
        TimeLDM(config=small(), **beside)


def test_columns_name_the_features_of_arrays_only():
    with pytest.raises(DataError, match="names the features of an array"):
        TimeLDM().fit(panel(), columns=["a", "b", "c"])


@pytest.mark.parametrize("name", ["time", "entity", "irregular", "decimal"])
def test_settings_are_text(name):
    with pytest.raises(DataError, match=f"{name} is 5, of type int"):
        TimeLDM().fit(panel(), **{name: 5})
