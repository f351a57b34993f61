"""What `describe` says of a table: before training, all at once, in the words of the interface."""

import json

import numpy as np
import pandas as pd
import pytest

from timeldm_jax import TimeLDM, describe
from timeldm_jax.data import gaps
from timeldm_jax.errors import DataError


def readings(rows=600, seed=0):
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "when": pd.date_range("2024-01-01", periods=rows, freq="h"),
            "level": np.round(20 + random.standard_normal(rows).cumsum() * 0.1, 2),
            "count": random.poisson(5, rows),
        }
    )


def test_a_plain_table_is_ready_and_its_facts_are_counted():
    found = TimeLDM().describe(readings())
    text = str(found)
    assert not found.problems
    assert not found.doubts
    assert "600 rows; 2 columns to learn, as 2 features" in text
    assert "Time: 'when', from 2024-01-01 00:00:00 to 2024-01-25 23:00:00" in text
    assert "step 0 days 01:00:00" in text
    assert text.endswith("Ready to train.")
    # 600 rows give windows of 6, and parts share no row: fewer than 595 windows in all.
    counts = [int(part.split()[0]) for part in text.split("features: ")[1].split(", ")[:3]]
    assert "Windows of 6 rows x 2 features" in text
    assert min(counts) > 0
    assert sum(counts) < 595


def test_describing_is_what_training_does(tmp_path):
    """The same windows as a run that starts from the same table and configuration."""
    from timeldm_jax import config as configuration
    from timeldm_jax import recipe
    from timeldm_jax.data import dataset as datasets
    from timeldm_jax.data.given import take

    config = configuration.base()
    configuration.apply_table(config)
    asked, given = take(config, readings())
    prepared = datasets.prepare(given, asked)
    series = datasets.cut(prepared, recipe.choose_sizes(asked, *prepared.sizes())).series
    said = f"{len(series.train):,} train, {len(series.valid):,} validate, {len(series.test):,} test"
    assert said in str(TimeLDM().describe(readings()))


def test_the_class_describes_too():
    assert str(TimeLDM.describe(readings())) == str(TimeLDM().describe(readings()))
    assert "windows of 12" in str(TimeLDM(window=12).describe(readings())).lower()
    with pytest.raises(DataError, match="'entiti' is not known"):
        TimeLDM.describe(readings(), entiti="site")


def test_a_description_can_be_read_by_programs():
    frame = readings().assign(site=np.repeat(["north", "south"], 300))
    found = TimeLDM(window=6).describe(frame, entity="site")
    assert [(c.name, c.kind, c.decimals) for c in found.schema.columns] == [
        ("level", "float", 2),
        ("count", "integer", None),
    ]
    assert found.clock.name == "when"
    assert (found.rows, found.series) == (600, 2)
    counted = [f"{count:,} {part}" for part, count in found.windows.items()]
    assert list(found.windows) == ["train", "valid", "test"]
    assert f"{', '.join(counted).replace('valid', 'validate')} (heldout)" in str(found)
    array = TimeLDM(window=6).describe(np.random.default_rng(0).normal(size=(400, 3)))
    assert array.clock is None
    assert array.rows == 400


def test_what_reading_guessed_is_a_problem_with_its_option(tmp_path):
    path = tmp_path / "it.csv"
    lines = [f"{i},{i % 7}.{i % 10}" for i in range(900)]
    path.write_text("\n".join(["station 7", "", "clock,flow", "s,l/s", *lines]))
    found = TimeLDM.describe(str(path))
    said = "\n".join(found.problems)
    assert "its line 4 is taken for units" in said
    assert "the line above its header left out" in said
    assert "\n\nGuessed:\n" in str(found)


def test_all_problems_are_told_at_once():
    frame = readings()
    frame["note"] = [f"remark {i}" for i in range(len(frame))]
    frame["words"] = np.where(np.arange(len(frame)) % 9, "1", "x")
    frame = frame.iloc[::-1].reset_index(drop=True)
    with pytest.raises(DataError, match="3 problems") as described:
        TimeLDM().describe(frame)
    said = str(described.value)
    assert "irregular='sort'" in said
    assert "'note'" in said
    assert "'words'" in said
    with pytest.raises(DataError, match="3 problems") as raised:
        TimeLDM().fit(frame)
    assert str(raised.value) == said


@pytest.mark.parametrize(
    ("value", "rows"), [(-200.0, 30), (-999.0, 1), (9999.0, 2)], ids=["often", "once", "twice"]
)
def test_values_far_from_all_others_are_seen(value, rows):
    frame = readings()
    frame.loc[frame.index[5 : 5 + rows], "level"] = value
    found = TimeLDM().describe(frame)
    assert len(found.doubts) == 1
    assert f"'level' holds {value:.15g} in {rows} row" in str(found.doubts[0])
    assert f"na_values='{value:.15g}'" in str(found.doubts[0])
    assert not TimeLDM().describe(frame, na_values=value).doubts


@pytest.mark.parametrize(
    "draw",
    [
        lambda r: np.where(r.random(600) < 0.7, 0.0, r.lognormal(0, 1, 600)),
        lambda r: r.choice([10, 20, 40], 600),
        lambda r: r.standard_t(3, 600),
        lambda r: np.r_[np.zeros(300), np.ones(300)] * 100 + r.standard_normal(600),
    ],
    ids=["rain", "codes", "tails", "modes"],
)
def test_ordinary_columns_raise_no_doubt(draw):
    frame = readings().assign(level=draw(np.random.default_rng(1)))
    assert not TimeLDM().describe(frame).doubts


def test_what_stands_for_missing_in_several_columns_is_said_once():
    frame = readings()
    frame["other"] = frame["level"] * 30 + 5_000  # a range in which -200 is not far
    frame.loc[frame.index[::9], ["level", "other"]] = -200.0
    (doubt,) = TimeLDM().describe(frame).doubts
    assert "column 'level' holds -200 in 67 rows" in str(doubt)
    assert "so do 'other'. If it stands for a missing value: na_values='-200'" in str(doubt)


def test_series_that_are_counted_anew_are_seen():
    lengths = (30, 50, 40)
    frame = pd.DataFrame(
        {
            "unit": np.repeat([4, 1, 9], lengths),
            "cycle": np.concatenate([np.arange(1, length + 1) for length in lengths]),
            "x": np.random.default_rng(0).normal(size=120),
        }
    )
    (doubt,) = TimeLDM().describe(frame).doubts
    assert "look like 3 series" in str(doubt)
    assert str(doubt).endswith("entity='unit' and time='cycle'")
    found = TimeLDM().describe(frame, entity="unit", time="cycle")
    assert not found.doubts
    assert "Series: 3 by 'unit', of 30 to 50 rows" in str(found)


def test_a_column_that_counts_the_rows_is_seen():
    frame = readings()
    frame.insert(0, "No", np.arange(1, len(frame) + 1))
    (doubt,) = TimeLDM().describe(frame).doubts
    assert str(doubt).startswith("column 'No' counts the rows. It is no measurement: leave it out")


def test_one_message_says_all_that_a_panel_newest_first_needs():
    frame = pd.concat([readings(seed=i).assign(site=f"site {i}").iloc[::-1] for i in range(3)])
    with pytest.raises(DataError, match=r"entity='site' and irregular='sort'$"):
        TimeLDM().describe(frame.reset_index(drop=True))
    settings = {"entity": "site", "irregular": "sort"}
    assert not TimeLDM().describe(frame.reset_index(drop=True), **settings).problems


def test_a_panel_without_its_entity_is_told_which_column_it_may_be():
    frame = pd.concat([readings(seed=i).assign(site=f"site {i}") for i in range(3)])
    with pytest.raises(DataError, match="entity='site'"):
        TimeLDM().describe(frame.reset_index(drop=True))
    assert "Series: 3 by 'site', of 600 to 600 rows (median 600)" in str(
        TimeLDM().describe(frame.reset_index(drop=True), entity="site")
    )


def test_a_setting_that_does_not_exist_is_refused_by_name():
    with pytest.raises(DataError, match="'entiti' is not known; did you mean 'entity'"):
        TimeLDM().describe(readings(), entiti="site")


@pytest.mark.parametrize(
    ("na_values", "expected"),
    [
        ("-200,?", {"a": [1, None, 3], "b": [0.5, None, None]}),
        ('{"a": [-200], "b": ["?"]}', {"a": [1, None, 3], "b": [0.5, -200.0, None]}),
        ('{"b": "?"}', {"a": [1, -200, 3], "b": [0.5, -200.0, None]}),
    ],
)
def test_values_that_stand_for_missing_ones(na_values, expected):
    frame = pd.DataFrame({"a": [1, -200, 3], "b": ["0.5", "-200.0", "?"]})
    found = gaps.mark_missing(frame, "it", na_values)
    assert found["a"].dtype == ("Int64" if None in expected["a"] else "int64")
    assert found["b"].dtype == "float64"
    for name, values in expected.items():
        assert [None if pd.isna(v) else v for v in found[name]] == values
    assert frame["b"].tolist() == ["0.5", "-200.0", "?"]  # the user's own is as it was


@pytest.mark.parametrize("na_values", ['{"c": [1]}', "{not json"])
def test_na_values_that_fit_nothing_are_refused(na_values):
    with pytest.raises(DataError, match="na_values"):
        gaps.mark_missing(pd.DataFrame({"a": [1]}), "it", na_values)


def test_the_command_says_it_in_flags(tmp_path, capsys):
    frame = readings()
    frame.loc[3:40, "count"] = -999
    path = tmp_path / "it.csv"
    frame.to_csv(path, index=False)
    describe.main(["describe", f"--data={path}"])
    assert "--na_values=-999" in capsys.readouterr().out
    describe.main(["describe", str(path), "--na_values=-999"])  # the file without its flag
    said = capsys.readouterr().out
    assert "Looks wrong" not in said
    assert "count  integer" in said
    assert "has missing values" in said
    with pytest.raises(SystemExit) as stopped:
        describe.main(["describe", f"--data={tmp_path / 'none.csv'}"])
    assert stopped.value.code == describe.EXIT_PROBLEMS
    assert "none.csv does not exist" in capsys.readouterr().out


def test_the_setting_is_kept_with_the_configuration():
    from timeldm_jax import config as configuration
    from timeldm_jax import convert

    config = configuration.base()
    configuration.apply_table(config)
    asked = convert.settings(config, na_values={"level": -200, "count": [0, "?"]})
    assert json.loads(asked.data.na_values) == {"level": [-200], "count": [0, "?"]}
    assert convert.settings(config, na_values=[-200, "?"]).data.na_values == "-200,?"
