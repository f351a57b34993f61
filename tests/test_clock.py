"""Time: formats are learnt and kept, zones and calendars are followed, holes are seen."""

import json

import numpy as np
import pandas as pd
import pytest

from timeldm_jax.data import table
from timeldm_jax.data.schema import Schema, features
from timeldm_jax.data.table import Options
from timeldm_jax.errors import DataError


def prepared(frame, **options):
    return table.prepare(frame, "the table", Options(**options))


def timed(times, **more):
    return pd.DataFrame({"date": times, "x": np.arange(len(times)) * 1.5, **more})


def sampled(found, rows=4):
    """One window of zeros as a table, with the schema as a saved model carries it."""
    found = Schema.from_json(json.loads(json.dumps(found.to_json())))
    zeros = np.zeros((1, rows, len(features(found))))
    return table.decode(zeros, found).drop(columns="series")


def text(start, form, freq="D", rows=60):
    return list(pd.date_range(start, periods=rows, freq=freq).strftime(form))


@pytest.mark.parametrize(
    "times",
    [
        text("2024-01-30", "%d/%m/%Y %H:%M", "h"),
        text("2024-01-01", "%m/%d/%Y"),
        text("2020-01-01", "%d/%m/%Y", "MS"),
        text("2024-01-01", "%d-%m-%Y"),
        text("1998-12-20", "%d.%m.%y"),
        text("2022-01-03", "%b %d, %Y"),
        text("2022-01-03", "%d %B %Y"),
        text("2022-01-03", "%d-%b-%y"),
        text("2022-01-03", "%a, %d %b %Y"),
        text("2022-01-03", "%Y%m%d"),
        text("2022-01-03", "%m/%d/%Y %I:%M %p", "h"),
        text("2022-01-03", "%Y/%m/%d %H.%M.%S", "h"),
        text("2022-01-03", "%Y-%m-%dT%H:%M:%SZ", "h"),
        text("2022-01-03", "%Y-%m-%dT%H:%M:%S+05:30", "h"),
        text("2022-01-03", "%Y-%m-%d %H:%M:%S-0300", "h"),
        text("2022-01-03", "%Y-%m", "MS"),
        text("2022-01-03", "%b %Y", "MS"),
        text("1500-01-01", "%Y-%m-%d", "D"),
        text("2022-01-03", "%a, %d %b %Y %H:%M:%S GMT", "h"),
        text("2022-01-03", "%a %b %d %H:%M:%S %Y", "h"),
        text("2022-01-03", "%Y-%m-%d %H:%M:%S CET", "h"),
        text("2018-01-01", "%G-W%V", "7D"),
        text("2018-01-01", "%GW%V", "7D"),
        [f"{year}Q{quarter}" for year in range(2000, 2012) for quarter in (1, 2, 3, 4)],
        [
            f"{day}/{month}/2024 {hour}:00"
            for month in (4, 5)
            for day in range(1, 31)
            for hour in (0,)
        ],
        [f"2024-01-01 00:00:{i // 4:02d}.{i % 4 * 25:02d}" for i in range(120)],
        [f"2024-01-01T00:00:{i // 4:02d}.{i % 4 * 250:03d}Z" for i in range(120)],
    ],
    ids=lambda times: times[0],
)
def test_text_in_the_same_text_out(times):
    _, found = prepared(timed(times))
    assert found.clock is not None
    assert list(sampled(found)["date"]) == times[:4]
    history = timed(times[:20])
    assert list(found.clock.following(history, 3)["date"]) == times[20:23]


@pytest.mark.parametrize(
    "times",
    [
        np.array([20230623 + i for i in range(7)]),
        np.array([20240101, 20240201, 20240301, 20240401, 20240501]),
        1_687_478_400 + 3600 * np.arange(30),
        1_687_478_400_000 + 250 * np.arange(30),
        1_687_478_400_000_001 + 3600 * np.arange(30),
        1_687_478_400_000_000_001 + 7 * np.arange(30),
        np.round(0.1 * np.arange(3, 2000), 1),
        np.round(np.arange(500) / 30, 3),
        np.arange(5, 300, 5).astype(np.int32),
        pd.to_timedelta(np.arange(40) * 15, "min"),
        pd.period_range("2020Q1", periods=20, freq="Q"),
        pd.date_range("1200-01-01", periods=30, freq="D", unit="s"),
        pd.date_range("2024-01-01", periods=50, freq="B"),
        pd.date_range("2024-01-15", periods=30, freq=pd.DateOffset(months=1)),
        pd.date_range("2020-12-31", periods=12, freq="YE"),
        pd.date_range("2024-03-30", periods=20, freq="D", tz="Europe/Paris"),
        pd.date_range("2024-01-01", periods=20, freq="MS", tz="America/New_York"),
        pd.date_range("2024-03-30", periods=80, freq="h", tz="Europe/Paris"),
    ],
    ids=lambda times: str(times[0]),
)
def test_numbers_and_datetimes_come_back_exactly(times):
    given = timed(pd.Series(times))
    _, found = prepared(given, time="date")
    rows = len(times)
    pd.testing.assert_series_equal(sampled(found, rows)["date"], given["date"], check_exact=True)
    later = found.clock.following(given.head(5), rows - 5)["date"]
    expected = given["date"].iloc[5:].reset_index(drop=True)
    pd.testing.assert_series_equal(later, expected, check_exact=True)


def test_the_whole_column_decides_which_part_is_the_day():
    days = pd.date_range("2024-01-01", periods=12 * 24 + 30, freq="h")
    assert prepared(timed(days.strftime("%d/%m/%Y %H:%M")))[1].clock.format == "%d/%m/%Y %H:%M"
    assert prepared(timed(days.strftime("%m/%d/%Y %H:%M")))[1].clock.format == "%m/%d/%Y %H:%M"


def test_the_user_says_how_times_are_written():
    times = ["01/02/2020", "02/02/2020", "03/02/2020", "04/02/2020"]
    assert prepared(timed(times), dayfirst="true")[1].clock.start == "2020-02-01T00:00:00"
    months = [f"01/{month:02d}/2020" for month in range(1, 13)]
    assert prepared(timed(months), dayfirst="true")[1].clock.offset == "MS"
    assert prepared(timed(months), dayfirst="false")[1].clock.step == 86_400
    swapped = [f"2020-{day:02d}-01" for day in range(1, 12)]
    assert prepared(timed(swapped), time_format="%Y-%d-%m")[1].clock.step == 86_400
    with pytest.raises(DataError, match=r"row 1 holds '2020-01-01', no time.*%d\.%m"):
        prepared(timed(swapped), time_format="%d.%m.%Y")


def test_two_digit_years_are_read_by_one_format():
    times = text("1999-12-25", "%y-%m-%d", rows=20)
    frame, found = prepared(timed(times[::-1]), irregular="sort")
    assert list(frame["date"]) == times
    assert found.clock.start.startswith("1999-12-25")


# Zones.


def test_offsets_that_change_at_a_switch_come_back_as_written():
    hours = pd.date_range("2024-03-30", periods=72, freq="h", tz="Europe/Berlin")
    times = [time.isoformat() for time in hours]
    _, found = prepared(timed(times))
    assert list(sampled(found, 72)["date"]) == times
    assert list(found.clock.following(timed(times[:24]), 48)["date"]) == times[24:]


@pytest.mark.parametrize(
    "zone",
    ["Europe/Berlin", "Europe/Lisbon", "Europe/London", "America/New_York", "America/St_Johns",
     "Australia/Adelaide", "Pacific/Auckland"],
)  # fmt: skip
def test_names_of_clocks_that_change_come_back_as_written(zone):
    for month, rows in (("2024-03", 800), ("2024-10", 1_200), ("2023-01", 8_000)):
        clock = pd.date_range(month, periods=rows, freq="h", tz="UTC").tz_convert(zone)
        times = list(clock.strftime("%Y-%m-%d %H:%M %Z"))
        _, found = prepared(timed(times))
        assert found.clock.step == 3600
        assert list(sampled(found, rows)["date"]) == times


@pytest.mark.parametrize("freq", ["h", "15min"])
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
def test_local_hours_that_are_missing_or_come_twice_are_taken(freq, zone, caplog):
    per_day = 24 if freq == "h" else 96
    hours = pd.date_range("2024-03-01", "2024-11-20", freq=freq, tz=zone).tz_localize(None)
    given = timed(hours.strftime("%Y-%m-%d %H:%M"))
    frame, found = prepared(given)
    assert "an hour is missing or comes twice" in caplog.text
    assert found.clock.step == 86_400 / per_day
    rows = len(hours)
    assert list(sampled(found, rows)["date"]) == list(given["date"])
    _, place = table.arrange(given, "it", found)[1:]
    assert list(place) == list(range(rows))
    assert len(frame) == rows


def test_hours_that_are_missing_elsewhere_are_holes():
    hours = pd.date_range("2024-05-01", periods=100, freq="h").delete(40)
    with pytest.raises(DataError, match="not evenly spaced"):
        prepared(timed(hours))


# Steps.


def test_holidays_are_no_holes_in_business_days():
    days = pd.bdate_range("2023-01-02", "2024-12-30")
    days = days.delete([0, 70, 71, 100, 254, 300])
    frame, found = prepared(timed(days))
    assert len(frame) == len(days)
    assert found.clock.offset == "B"
    assert sampled(found, 30)["date"].dt.day_of_week.max() == 4
    with pytest.raises(DataError, match=r"the usual step is B.*comes 2\d days"):
        prepared(timed(days.delete(range(100, 115))))


@pytest.mark.parametrize("freq", ["D", "MS", "QE", "h"])
def test_a_hole_in_the_second_series_is_seen(freq):
    times = pd.date_range("2020-01-31", periods=24, freq=freq)
    holed = times.delete(9)
    frame = pd.concat([timed(times, who="a"), timed(holed, who="b")], ignore_index=True)
    with pytest.raises(DataError, match=r"not evenly spaced.*row 34 of series b"):
        prepared(frame, entity="who")
    even, found = prepared(frame, entity="who", irregular="resample")
    assert len(even) == 48
    assert np.flatnonzero(even["x"].isna()).tolist() == [33]
    assert list(even["date"][24:]) == list(times)
    _, _, place = table.arrange(frame, "it", found, "resample")
    assert len(place) == 47
    assert 33 not in place


def test_another_step_than_the_models_is_refused():
    _, found = prepared(timed(pd.date_range("2024-01-01", periods=50, freq="h")))
    daily = timed(pd.date_range("2024-01-01", periods=50, freq="D"))
    with pytest.raises(DataError, match=r"a row every 1 days.*learnt rows every 0 days 01:00:00"):
        table.arrange(daily, "it", found)
    _, monthly = prepared(timed(pd.date_range("2024-01-01", periods=50, freq="MS")))
    with pytest.raises(DataError, match="learnt rows every 31 days"):
        table.arrange(daily, "it", monthly)
    table.arrange(timed(pd.date_range("2025-02-01", periods=2, freq="MS")), "it", monthly)


# Which column is the time.


def visits(**more):
    times = pd.date_range("2024-01-01", periods=30, freq="h")
    return pd.DataFrame({"x": np.arange(90.0), "who": np.repeat(list("abc"), 30), **more}), times


@pytest.mark.parametrize("name", ["utc_ts", "measured_at", "Zeit"])
def test_the_time_may_stand_anywhere_under_any_name(name):
    times = pd.date_range("2024-01-01", periods=90, freq="h")
    frame, _ = visits(**{name: times.strftime("%Y-%m-%d %H:%M")})
    assert prepared(frame)[1].clock.name == name


def test_a_date_of_birth_is_not_the_clock():
    frame, times = visits()
    frame["born"] = np.repeat(pd.to_datetime(["1960-05-01", "1971-01-02", "1955-12-24"]), 30)
    frame["seen_at"] = np.tile(times, 3)
    _, found = prepared(frame, entity="who")
    assert found.clock.name == "seen_at"
    assert "born" in [column.name for column in found.columns]


def test_a_day_and_a_time_of_day_in_two_columns():
    times = pd.date_range("2004-03-10 18:00", periods=80, freq="h")
    frame = pd.DataFrame(
        {
            "Date": times.strftime("%d/%m/%Y"),
            "Time": times.strftime("%H.%M.%S"),
            "x": np.arange(80.0),
        }
    )
    for options in ({}, {"time": "Date"}, {"time": "Date,Time"}):
        _, found = prepared(frame, **options)
        assert found.clock.names == ("Date", "Time")
        assert [column.name for column in found.columns] == ["x"]
        pd.testing.assert_frame_equal(sampled(found, 80).drop(columns="x"), frame[["Date", "Time"]])
    frame["Time"] = times.hour
    frame = frame.rename(columns={"Time": "Hour"})
    _, found = prepared(frame)
    assert found.clock.names == ("Date", "Hour")
    pd.testing.assert_frame_equal(
        sampled(found, 80).drop(columns="x"), frame[["Date", "Hour"]], check_dtype=False
    )


def test_a_time_of_day_alone_is_the_clock_where_it_runs_on():
    times = pd.date_range("2024-01-01", periods=80, freq="10s").strftime("%H:%M:%S")
    frame = pd.DataFrame({"elapsed": times, "x": np.arange(80.0)})
    _, found = prepared(frame)
    assert found.clock.name == "elapsed"
    assert found.clock.step == 10
    assert sampled(found, 80)["elapsed"].tolist() == times.tolist()
    frame["elapsed"] = np.tile(times[:8], 10)  # a time of day that comes again is none
    assert prepared(frame)[1].clock is None


@pytest.mark.parametrize("parts", [2, 3, 4, 5])
def test_a_time_in_parts_is_the_clock(parts):
    freq = ("MS", "D", "h", "7min")[parts - 2]
    times = pd.date_range("2019-12-01", periods=90, freq=freq)
    names = ("year", "month", "day", "hour", "minute")[:parts]
    frame = pd.DataFrame({name: getattr(times, name) for name in names} | {"x": np.arange(90.0)})
    _, found = prepared(frame.iloc[:, ::-1])
    assert found.clock.names == names
    assert [column.name for column in found.columns] == ["x"]
    back = sampled(found, 90)
    pd.testing.assert_frame_equal(back[list(names)], frame[list(names)], check_dtype=False)


def test_numbers_that_are_no_parts_of_a_time_are_learnt():
    times = pd.date_range("2020-01-01", periods=90)
    frame = pd.DataFrame({"when": times, "year": times.year, "month": times.month, "x": 1.5})
    _, found = prepared(frame)
    assert found.clock.names == ("when",)
    frame = pd.DataFrame({"year": np.arange(90) % 2, "month": 1, "x": np.arange(90.0)})
    assert prepared(frame)[1].clock is None


@pytest.mark.parametrize("kind", ["date objects", "date32[day][pyarrow]", "timestamp[us][pyarrow]"])
def test_times_of_other_dtypes_come_back(kind):
    days = pd.Series(pd.date_range("2024-01-01", periods=60))
    times = days.dt.date if kind == "date objects" else days.astype(kind)
    _, found = prepared(timed(times))
    assert found.clock.name == "date"
    pd.testing.assert_series_equal(sampled(found, 60)["date"], times, check_names=False)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("Time (s)", np.arange(60) * 0.02),
        ("t", (np.arange(60) * 0.02).astype(np.float32)),
        ("time_ms", np.arange(60) * 40),
        ("year", np.arange(1950, 2010)),
        ("date", 45_000 + np.arange(60) / 24),  # a spreadsheet's days
        ("elapsed", pd.to_timedelta(np.arange(60), unit="min")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_counts_of_time_are_the_clock_and_come_back(name, numbers):
    frame = pd.DataFrame({"x": np.arange(60.0) ** 2, name: numbers})
    _, found = prepared(frame)
    assert found.clock.name == name
    # The steps of hours in days are thirds, which no number holds exactly.
    pd.testing.assert_series_equal(sampled(found, 60)[name], frame[name], rtol=1e-12)


@pytest.mark.parametrize("form", ["%Y-%m-%dT%H:%M:%SZ", ""], ids=["text", "datetimes"])
@pytest.mark.parametrize("freq", ["D", "MS"])
def test_local_days_written_in_utc_are_even(form, freq):
    local = pd.date_range("2024-01-01", periods=400 if freq == "D" else 60, freq=freq)
    times = local.tz_localize("Europe/Berlin").tz_convert("UTC")
    given = pd.Series(times.strftime(form) if form else times)
    _, found = prepared(timed(given))
    assert found.clock.zone == "Europe/Berlin"
    pd.testing.assert_series_equal(sampled(found, len(given))["date"], given, check_names=False)


def test_the_user_says_which_zone():
    # An hour is missing at another time than in Berlin.
    times = pd.date_range("2024-03-25", periods=300, freq="h", tz="Europe/Helsinki")
    local = pd.Series(times.tz_localize(None))
    _, found = prepared(timed(local), zone="Europe/Helsinki")
    assert found.clock.zone == "Europe/Helsinki"
    pd.testing.assert_series_equal(sampled(found, 300)["date"], local, check_names=False)
    with pytest.raises(
        DataError, match=r"zone='Europe/Berln' is no known time zone; .*Europe/Berlin"
    ):
        prepared(timed(local), zone="Europe/Berln")


def test_a_counter_called_time_is_the_clock_where_it_is_even():
    frame = pd.DataFrame({"v": np.arange(50.0) ** 2, "time": np.arange(50) * 0.004})
    _, found = prepared(frame)
    assert found.clock.name == "time"
    assert list(sampled(found, 50)["time"]) == [round(0.004 * i, 3) for i in range(50)]


# Whose a row is.


def test_several_columns_say_whose_a_row_is_and_samples_get_new_ids():
    times = pd.date_range("2024-01-01", periods=30, freq="D")
    parts = [
        timed(times, store=store, item=f"sku{item:03d}")[["store", "item", "date", "x"]]
        for store in (1, 2, 6)
        for item in (3, 11)
    ]
    frame = pd.concat(parts, ignore_index=True)
    for given in ({"entity": "store,item"}, {"schema": '{"entity": ["store", "item"]}'}):
        _, found = prepared(frame, **given)
        assert found.entity == ("store", "item")
        samples = table.decode(np.zeros((2, 3, 1)), Schema.from_json(found.to_json()))
        assert list(samples.columns) == ["series", "store", "item", "date", "x"]
        assert list(samples["store"]) == [7, 7, 7, 8, 8, 8]
        assert list(samples["item"]) == ["sku012"] * 3 + ["sku013"] * 3
        assert samples["item"].dtype == frame["item"].dtype
    with pytest.raises(DataError, match="entity='store,item'"):
        prepared(frame, irregular="error")


def test_names_without_a_form_become_new_ones():
    times = pd.date_range("2024-01-01", periods=30, freq="D")
    frame = pd.concat([timed(times, who=who) for who in ("Ann", "Bob")], ignore_index=True)
    _, found = prepared(frame, entity="who")
    samples = table.decode(np.zeros((2, 1, 1)), found)
    assert list(samples["who"]) == ["who_1", "who_2"]


def test_a_model_saved_with_one_entity_still_loads():
    times = pd.date_range("2024-01-01", periods=30, freq="D")
    frame = pd.concat([timed(times, who=who) for who in ("Ann", "Bob")], ignore_index=True)
    _, found = prepared(frame, entity="who")
    saved = found.to_json()
    del saved["ids"]
    for entity, expected in (("who", ("who",)), ("", ())):
        assert Schema.from_json(saved | {"entity": entity}).entity == expected


def test_resampled_rows_find_their_way_back():
    times = pd.date_range("2024-01-01", periods=40, freq="h").delete([5, 6, 20])
    frame = timed(times.strftime("%d.%m.%Y %H:%M"))
    even, found = prepared(frame, irregular="resample")
    assert list(even["date"]) == list(
        pd.date_range("2024-01-01", periods=40, freq="h").strftime("%d.%m.%Y %H:%M")
    )
    ordered = table.arrange(frame, "it", found, "resample")
    encoded = table.encode(ordered.frame, found)
    np.testing.assert_array_equal(encoded.values[ordered.place, 0], frame["x"])


@pytest.mark.parametrize(
    ("form", "months"),
    [
        ("{d}. {m} {y}", "Januar Februar März April Mai Juni Juli August September Oktober"),
        ("{d:02d} {m} {y}", "janv. févr. mars avr. mai juin juil. août sept. oct."),
        (
            "{d} de {m} de {y}",
            "enero febrero marzo abril mayo junio julio agosto septiembre octubre",
        ),
        ("Do, {d:02d}-{m}-{y} 00:00", "jan feb mrt apr mei jun jul aug sep okt"),
    ],
)
@pytest.mark.parametrize("entities", [1, 8])
def test_names_of_months_that_are_not_english_are_told(form, months, entities):
    days = pd.date_range("2023-01-01", periods=300)
    texts = [form.format(d=day.day, m=months.split()[day.month - 1], y=day.year) for day in days]
    frame = pd.concat([timed(texts, who=f"p{i}") for i in range(entities)])
    with pytest.raises(DataError, match="names of months are read in English"):
        prepared(frame, entity="who" if entities > 1 else "")
