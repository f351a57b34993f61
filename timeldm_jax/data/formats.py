"""How times are written: the format of a column is learnt once, and reads and writes it.

A format has strftime's directives and a few more: `%-d` (no leading zero), `%3f` (that many digits
of the second), `%:z` (an offset with its colon), `%Z` (one of `ABBREVIATIONS`), `%q` (a quarter),
`%P` (am, pm). `@s`, `@ms`, `@us` and `@ns` are whole numbers since 1970. `ISO8601` has fractions of
a second only where there are some.
"""

import re
from typing import Any

import numpy as np
import pandas as pd

from timeldm_jax.errors import DataError, option

DATE = (
    r"\d[-/:.T \t]\d|\d{4}-?Q[1-4]|\d{4}-?W\d\d|Q[1-4][- /]?\d{4}|"
    r"(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
)
EPOCHS = {"@s": 1, "@ms": 10**3, "@us": 10**6, "@ns": 10**9}
_EARLIEST, _LATEST = 315_532_800, 4_102_444_800  # seconds of 1980 and 2100: what an epoch may be
_MONTHS = "January February March April May June July August September October November December"
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
_MONTH = r"(?:" + "|".join(f"{m}|{m[:3]}" for m in _MONTHS.split()) + r")\.?"
_WEEKDAY = r"(?:" + "|".join(f"{d}|{d[:3]}" for d in _DAYS.split()) + r")"
_TIME = re.compile(
    r"(?P<H>\d{1,2})(?P<c1>[:.h\t])(?P<M>\d{1,2})(?:(?P<c2>[:.\t])(?P<S>\d{1,2})(?:(?P<c3>[.,])(?P<f>\d{1,9}))?)?"
    r"(?P<gap> ?)(?P<p>[AaPp][Mm])?(?P<zgap> ?)(?P<z>Z|[A-Z]{3,4}|[+-]\d{2}:?\d{2})?"
)
_SEPARATOR = r"(?P<{0}>, |[-/. ])"
# What a date looks like, and the orders in which its parts may stand; the likelier first.
_DATES: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), orders)
    for pattern, orders in (
        (r"(\d{4})([-/.])(\d{1,2})([-/.])(\d{1,2})", ("%Y{1}%m{3}%d", "%Y{1}%d{3}%m")),
        (r"(\d{4})(\d{2})(\d{2})", ("%Y%m%d",)),
        (r"(\d{1,2})([/])(\d{1,2})([/])(\d{4})", ("%m{1}%d{3}%Y", "%d{1}%m{3}%Y")),
        (r"(\d{1,2})([-. ])(\d{1,2})([-. ])(\d{4})", ("%d{1}%m{3}%Y", "%m{1}%d{3}%Y")),
        (
            r"(\d{1,2})([/])(\d{1,2})([/])(\d{2})",
            ("%m{1}%d{3}%y", "%d{1}%m{3}%y", "%y{1}%m{3}%d"),
        ),
        (
            r"(\d{1,2})([-.])(\d{1,2})([-.])(\d{2})",
            ("%d{1}%m{3}%y", "%m{1}%d{3}%y", "%y{1}%m{3}%d"),
        ),
        (rf"({_MONTH})([- ])(\d{{1,2}})(,? |-)(\d{{4}})", ("{0}{1}%d{3}%Y",)),
        (rf"(\d{{1,2}})([-/. ]?)({_MONTH})([-/. ,]*)(\d{{4}})", ("%d{1}{2}{3}%Y",)),
        (rf"(\d{{1,2}})([-/. ]?)({_MONTH})([-/. ,]*)(\d{{2}})", ("%d{1}{2}{3}%y",)),
        (rf"(\d{{4}})([-/. ])({_MONTH})([-/. ])(\d{{1,2}})", ("%Y{1}{2}{3}%d",)),
        (rf"({_MONTH})([-/. ,]+)(\d{{4}})", ("{0}{1}%Y",)),
        (rf"({_MONTH})([-/. ']+)(\d{{2}})", ("{0}{1}%y",)),
        (r"(\d{4})([-/.])(\d{1,2})", ("%Y{1}%m",)),
        (r"(\d{1,2})([-/.])(\d{4})", ("%m{1}%Y",)),
        (r"(\d{4})([-/ ]?)(Q)([1-4])", ("%Y{1}Q%q",)),
        (r"(Q)([1-4])([-/ ]?)(\d{4})", ("Q%q{2}%Y",)),
        (r"(\d{4})(M)(\d{1,2})", ("%YM%m",)),
        (r"(\d{4})(-?)(W)(\d{2})", ("%G{1}W%V",)),
        (r"(\d{4})(\t)(\d{1,2})(\t)(\d{1,2})", ("%Y{1}%m{3}%d",)),  # in columns
        (r"(\d{4})(\t)(\d{1,2})", ("%Y{1}%m",)),
    )
)
# Names of clocks that change to summer time and back, in hours from UTC. Those of one clock alone,
# and those that stand for several, stay words of the format.
ABBREVIATIONS = {
    "WET": 0.0, "WEST": 1.0, "GMT": 0.0, "BST": 1.0, "CET": 1.0, "CEST": 2.0, "EET": 2.0,
    "EEST": 3.0, "NST": -3.5, "NDT": -2.5, "AST": -4.0, "ADT": -3.0, "EST": -5.0, "EDT": -4.0,
    "CST": -6.0, "CDT": -5.0, "MST": -7.0, "MDT": -6.0, "PST": -8.0, "PDT": -7.0, "AKST": -9.0,
    "AKDT": -8.0, "ACST": 9.5, "ACDT": 10.5, "AEST": 10.0, "AEDT": 11.0, "NZST": 12.0,
    "NZDT": 13.0,
}  # fmt: skip
_ISO = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d{1,9})?"
_DIRECTIVE = re.compile(r"%(-?[A-Za-z]|:z|\df|%)")
_SAMPLE = 2_000  # rows by which it is judged how a format writes its numbers


def looks_like_time(present: pd.Series, share: float = 1.0) -> bool:
    """Whether text is dates, or for `share` < 1 mostly means to be."""
    texts = present.iloc[:50].astype(str)
    matches = texts.str.contains(DATE)
    if texts.empty or matches.mean() < share:
        return False
    return has_date(time_format(texts[matches]))


def parse_one(value: Any, form: str) -> pd.Timestamp:
    """A time that a caller names: a datetime, or text as in the table or as ISO.

    Raises:
      DataError: it is none.
    """
    if isinstance(value, str):
        text = pd.Series([value.strip()], dtype="string")
        found = read(text, form) if form else pd.Series([pd.NaT])
        if found.notna().all():
            return found.iloc[0]
    try:
        return pd.Timestamp(value)
    except (ValueError, TypeError) as error:
        raise DataError(f"start={value!r} is no time; write it as 2024-01-31 13:00") from error


def foreign_months(present: pd.Series) -> bool:
    """Whether text is days with names of months that are not English, such as 3. März 2024."""
    texts = present.iloc[:: max(len(present) // _SAMPLE, 1)].astype("string").str.strip()
    day, year, gap = r"(?:[0-2]?\d|3[01])\.?", r"(?:19|20)\d\d", r"(?:[-/., ]+| de )"
    month = r"([^\W\d_]{3,12})\.?"
    found = texts.str.extract(rf"^(?:\D*\b)?{day}{gap}{month}{gap}{year}\b")[0]
    return bool(found.notna().all()) and 3 <= found.str.lower().nunique() <= 12


def parse_times(values: pd.Series, at: str, form: str = "") -> pd.Series:
    """Times of a column, from text or datetimes; UTC where the text has offsets.

    Args:
      values: the column.
      at: what to call it in errors.
      form: its format where that is known; else the one that fits the whole column.

    Raises:
      DataError: text that is no time, or not written in one way.
    """
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        return values
    texts = values.astype("string").str.strip()
    known = form or time_format(values)
    parsed = read(texts, known) if known else pd.Series(pd.NaT, values.index)
    bad = values[parsed.isna() & texts.notna()]
    if bad.empty:
        return parsed
    first = texts[bad.index[0]]
    if bad.index[0] != texts.index[0] and _formats(first):
        raise DataError(
            f"{at} writes times in several ways ({texts.iloc[0]!r} first, then {first!r} in row "
            f"{row_of(bad)}); use one, or say which ({option('time_format')})"
        )
    known = f" (times are written as {known})" if known else ""
    raise DataError(f"{at}, row {row_of(bad)} holds {bad.iloc[0]!r}, no time{known}")


def time_format(values: pd.Series, dayfirst: str = "") -> str:
    """The format of a column of text, or "".

    It fits every value. Where day and month could be either, `dayfirst` ("true" or "false")
    decides, else the reading in which times run on evenly.

    Args:
      values: the column.
      dayfirst: what the user said, or "".
    """
    if not (pd.api.types.is_string_dtype(values.dtype) or values.dtype == object):
        return ""
    texts = values.dropna().astype("string").str.strip()
    if texts.empty:
        return ""
    best, least = "", np.inf
    candidates = _formats(texts.iloc[0]) or _guessed(texts.iloc[0], dayfirst == "true")
    if dayfirst:
        wanted = [f for f in candidates if (f.find("%d") < f.find("%m")) == (dayfirst == "true")]
        candidates = wanted or candidates
    for candidate in candidates:
        parsed = read(texts, candidate)
        # Most of a column says how it is written; what does not follow is named when it is read.
        share = float(parsed.notna().mean())
        if share < 1 and (share < 0.5 or least < 1):
            continue
        fault = 1.0 - share + (_unevenness(parsed) if len(candidates) > 1 else 0.0)
        if share < 1:
            fault += 1.0
        if fault < least:
            best, least = candidate, fault
    if least >= 1 and read(texts, "ISO8601").notna().all():
        return "ISO8601"
    return _as_written(texts, best) if best else ""


def integer_format(numbers: pd.Series) -> str:
    """The format of whole numbers that are dates or counts since 1970, or "" where they are none.

    20230623 is a date, 202306231200 a time, 1687478400 seconds since 1970.
    """
    low, high = int(numbers.min()), int(numbers.max())
    digits = len(str(low)) if low > 0 else 0
    forms = {6: "%Y%m", 8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
    if digits in forms and digits == len(str(high)):
        years = int(str(low)[:4]), int(str(high)[:4])
        if years[0] >= 1900 and years[1] <= 2100:
            read_as = read(numbers.astype("string"), forms[digits])
            if read_as.notna().all():
                return forms[digits]
    for form, unit in EPOCHS.items():
        if _EARLIEST * unit <= low and high <= _LATEST * unit:
            return form
    return ""


def write(times: pd.DatetimeIndex, form: str) -> pd.Series:
    """Times as text, or as whole numbers for a format that counts since 1970."""
    if form in EPOCHS:
        wall = times.tz_convert("UTC").tz_localize(None) if times.tz is not None else times
        counts = wall.to_numpy(f"M8[{form.removeprefix('@')}]").astype(np.int64)
        return pd.Series(counts, dtype="int64")
    if form == "ISO8601":
        return pd.Series([time.isoformat() for time in times], dtype=object)
    found = pd.Series([""] * len(times), dtype=object)
    place = 0
    for directive in _DIRECTIVE.finditer(form):
        found = found + form[place : directive.start()] + _written(times, directive.group(1))
        place = directive.end()
    return found + form[place:]


def offsets_of(texts: pd.Series) -> pd.Series:
    """The offset from UTC that each text ends with, in seconds."""
    found = texts.astype("string").str.strip().str.extract(r"([+-])(\d{2}):?(\d{2})$")
    sign = found[0].map({"+": 1, "-": -1})
    seconds = sign * (found[1].astype("Float64") * 3600 + found[2].astype("Float64") * 60)
    named = names_of(texts).map(ABBREVIATIONS).astype("Float64") * 3600
    return seconds.fillna(named).fillna(0.0).astype(np.float64)


def names_of(texts: pd.Series) -> pd.Series:
    """The name of a clock that each text ends with, such as CEST; missing where there is none."""
    return texts.astype("string").str.strip().str.extract(r"([A-Z]{3,4})$")[0]


def has_offset(form: str) -> bool:
    """Whether text of this format says its offset from UTC."""
    return form.endswith(("z", "Z", "UTC", "GMT"))


def in_utc(form: str) -> bool:
    """Whether text of this format says that it is in UTC."""
    return form.endswith(("Z", "UTC", "GMT")) and not form.endswith("%Z")


def has_date(form: str) -> bool:
    """Whether text of this format says a day, month or year, and not a time of day alone."""
    return bool(re.search(r"%-?[YyGdmbB]|ISO|@", form))


def row_of(values: pd.Series) -> str:
    """The first row's label, counted as in a file: 1 is the first row below the header."""
    label = values.index[0]
    return str(label + 1) if isinstance(label, int | np.integer) else repr(label)


def _formats(text: str) -> list[str]:
    """The formats that a text may be in, the likelier first."""
    weekday = re.match(rf"({_WEEKDAY})(,? )", text, re.IGNORECASE)
    before = ""
    if weekday:
        before = ("%a" if len(weekday.group(1)) == 3 else "%A") + weekday.group(2)
        text = text[weekday.end() :]
    found = []
    for pattern, orders in _DATES:
        match = pattern.match(text)
        rest = _time_of(text[match.end() :]) if match else None
        if match is None or rest is None:
            continue
        parts = [_month_name(part) or part for part in match.groups()]
        found += [before + order.format(*parts) + rest for order in orders]
        name = re.search(r"[A-Z]{3,4}$", rest)
        if name and name.group() in ABBREVIATIONS:  # the next row may have another
            found += [form.removesuffix(name.group()) + "%Z" for form in found]
    hours = _time_of(" " + text)
    if not found and hours and "%M" in hours:  # a time of day alone
        found.append(hours[1:])
    return found


def _guessed(text: str, dayfirst: bool) -> list[str]:
    """What pandas makes of a text that no pattern here fits, where it can be written again."""
    if not re.search(DATE, text):
        return []
    guess = pd.tseries.api.guess_datetime_format(text, dayfirst=dayfirst) or ""
    known = {"Y", "y", "m", "d", "b", "B", "a", "A", "H", "I", "M", "S", "f", "p", "z", "j"}
    found = {each.group(1) for each in _DIRECTIVE.finditer(guess)}
    return [guess] if guess and found <= known else []


def _month_name(part: str) -> str:
    if not re.fullmatch(_MONTH, part, re.IGNORECASE):
        return ""
    return "%b" + part[3:] if len(part.rstrip(".")) == 3 else "%B"


def _time_of(text: str) -> str | None:
    """The format of what stands after a date, or None where it is no time."""
    if not text:
        return ""
    gap = re.match(r"T|,? +|\t|:|_|-", text)
    match = _TIME.fullmatch(text, gap.end()) if gap else None
    if gap is None or match is None:
        hour = re.fullmatch(r"(T|,? |\t)(\d{1,2})(Z?)", text)
        return f"{hour.group(1)}%H{hour.group(3)}" if hour else None
    part = match.groupdict(default="")
    found = gap.group() + ("%I" if part["p"] else "%H") + part["c1"] + "%M"
    if part["S"]:
        found += part["c2"] + "%S"
    if part["f"]:
        found += f"{part['c3']}%{len(part['f'])}f"
    found += part["gap"] + {"": "", "A": "%p", "a": "%P"}[_case(part["p"])] + part["zgap"]
    if part["z"] and part["z"][0] in "+-":
        return found + ("%:z" if ":" in part["z"] else "%z")
    return found + part["z"]


def _case(word: str) -> str:
    return "" if not word else "A" if word.isupper() else "a"


def read(texts: pd.Series, form: str) -> pd.Series:
    """Times of text in a format, NaT where it does not fit; UTC where the text has offsets."""
    if form in EPOCHS:
        counts = pd.to_numeric(texts, errors="coerce").astype("Int64")
        stamps = counts.to_numpy(np.int64, na_value=np.iinfo(np.int64).min)  # NaT
        return pd.Series(stamps.view(f"M8[{form[1:]}]"), texts.index)
    if form == "ISO8601":
        naive = texts.where(texts.str.fullmatch(_ISO).fillna(False))
        return pd.to_datetime(naive.astype(object), format=form, errors="coerce")
    if "%q" in form:
        pattern = re.escape(form).replace("%Y", r"(?P<Y>\d{4})").replace("%q", "(?P<q>[1-4])")
        parts = texts.str.extract(f"^{pattern}$", flags=re.IGNORECASE)
        months = (parts["q"].astype("Int64") * 3 - 2).astype("string").str.zfill(2)
        texts, form = parts["Y"] + months, "%Y%m"
    zone = re.search(r" ?(UTC|GMT)$", form)
    if zone:
        body = texts.where(texts.str.endswith(zone.group())).str.slice(stop=-len(zone.group()))
        return read(body, form[: zone.start()]).dt.tz_localize("UTC")
    if form.endswith("%Z"):
        name = names_of(texts).where(lambda each: each.isin(list(ABBREVIATIONS)))
        minutes = (name.map(ABBREVIATIONS).astype("Float64") * 60).astype("Int64")
        sign = (minutes < 0).map({True: "-", False: "+"})
        hours, minutes = minutes.abs() // 60, minutes.abs() % 60
        digits = (part.astype("string").str.zfill(2) for part in (hours, minutes))
        texts = (
            texts.str.replace(r"[A-Z]{3,4}$", "", regex=True) + sign + next(digits) + next(digits)
        )
        return read(texts, form.removesuffix("%Z") + "%z")
    if "%V" in form:  # a week starts on its Monday
        texts, form = texts + "-1", form + "-%u"
    plain = form.replace("%:z", "%z").replace("%-", "%").replace("%P", "%p")
    plain = re.sub(r"%\df", "%f", plain)
    plain = re.sub(r"Z$", "%z", plain)
    return pd.to_datetime(texts.astype(object), format=plain, errors="coerce", utc=has_offset(form))


def _as_written(texts: pd.Series, form: str) -> str:
    """A format that writes numbers as the column does, with or without a zero before them."""
    some = texts.iloc[:: max(len(texts) // _SAMPLE, 1)]
    times = read(some, form).dropna()
    some = some[times.index]
    if form.endswith(("%z", "%:z", "%Z")):
        times = times + pd.to_timedelta(offsets_of(some), unit="s")
    wall = pd.DatetimeIndex(times if times.dt.tz is None else times.dt.tz_localize(None))
    body = re.sub(r"%(:?z|Z)$", "", form)
    ending = r"([+-]\d{2}:?\d{2}|[A-Z]{3,4})$"
    written = some.str.replace(ending, "", regex=True) if body != form else some
    date = re.sub(r"%([dm])", r"%-\1", body)
    bare = re.sub(r"%([dmHIMS])", r"%-\1", body)
    hours = (re.sub(r"%([HI])", r"%-\1", each) for each in (body, date))
    for candidate in (body, date, *hours, bare):
        if (write(wall, candidate).to_numpy() == written.to_numpy(object)).all():
            return candidate + form[len(body) :]
    return form


def _written(times: pd.DatetimeIndex, directive: str) -> pd.Series:
    """One part of each time, as text."""
    names = {"b": (_MONTHS, 3), "B": (_MONTHS, None), "a": (_DAYS, 3), "A": (_DAYS, None)}
    if directive in names:
        text, length = names[directive]
        place = times.month - 1 if directive in "bB" else times.day_of_week
        words = np.array([word[:length] for word in text.split()], dtype=object)
        return pd.Series(words[place])
    if directive in ("p", "P"):
        halves = ("AM", "PM") if directive == "p" else ("am", "pm")
        return pd.Series(np.where(times.hour < 12, *halves), dtype=object)
    if directive == "Z":
        return pd.Series(times.strftime("%Z"), dtype=object)
    if directive in ("z", ":z"):
        wall = times if times.tz is None else times.tz_localize(None)
        utc = times if times.tz is None else times.tz_convert("UTC").tz_localize(None)
        seconds = (wall - utc).total_seconds().astype(int)
        colon = ":" if directive == ":z" else ""
        return pd.Series(
            [f"{'+-'[s < 0]}{abs(s) // 3600:02d}{colon}{abs(s) % 3600 // 60:02d}" for s in seconds],
            dtype=object,
        )
    if directive.endswith("f"):
        digits = int(directive[0]) if directive[0].isdigit() else 6
        nanoseconds = times.microsecond * 1000 + times.nanosecond
        return pd.Series([f"{n:09d}"[:digits] for n in nanoseconds], dtype=object)
    if directive == "%":
        return pd.Series(["%"] * len(times), dtype=object)
    numbers, width = _numbers(times, directive.lstrip("-"))
    width = 0 if directive.startswith("-") else width
    return pd.Series([f"{number:0{width}d}" for number in numbers], dtype=object)


def _numbers(times: pd.DatetimeIndex, directive: str) -> tuple[pd.Index, int]:
    """The number that a directive writes, and its digits."""
    simple = {
        "m": times.month,
        "d": times.day,
        "H": times.hour,
        "M": times.minute,
        "S": times.second,
    }
    if directive in simple:
        return simple[directive], 2
    if directive == "Y":
        return times.year, 4
    if directive == "y":
        return times.year % 100, 2
    if directive in "GV":
        weeks = times.isocalendar()
        return pd.Index(weeks["year" if directive == "G" else "week"].astype(int)), 2
    if directive == "I":
        return (times.hour + 11) % 12 + 1, 2
    if directive == "q":
        return times.quarter, 1
    if directive == "j":
        return times.dayofyear, 3
    raise DataError(
        f"{option('time_format')}: %{directive} is not known; known are %Y %y %m %d %b %B %a %A %H "
        "%I %M %S %f %p %z %Z %q %j %G and %V"
    )


def _unevenness(times: pd.Series) -> float:
    """The share of gaps that are not, within the lengths of months, the median gap."""
    gaps = times.dropna().diff().dt.total_seconds().to_numpy()[1:]
    if not gaps.size:
        return 0.0
    usual = np.median(gaps)
    return float((abs(gaps - usual) > abs(usual) / 5).mean())
