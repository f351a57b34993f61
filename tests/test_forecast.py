"""What a forecast says of its futures: bands that hold what they say."""

import numpy as np
import pandas as pd
import pytest

from timeldm_jax import forecast
from timeldm_jax.data import schema as schemas
from timeldm_jax.data import table as tables
from timeldm_jax.data.table import Options


def schema_of(frame):
    return tables.prepare(frame, "it", Options())[1]


@pytest.mark.parametrize("futures", [19, 50])
def test_a_band_holds_one_more_future_as_often_as_it_says(futures):
    """Of n + 1 draws of one distribution, the last is within the band of the others."""
    random = np.random.default_rng(0)
    horizon = 4_000  # trials, a step each
    schema = schema_of(pd.DataFrame({"x": random.gumbel(size=300), "y": random.gumbel(size=300)}))
    drawn = random.gumbel(size=(futures, horizon, 2))
    samples = pd.DataFrame(drawn.reshape(-1, 2), columns=["x", "y"])
    samples.insert(0, schemas.SERIES, np.repeat(np.arange(futures), horizon))
    found = forecast.summarise(samples, schema, None, samples.head(0)).quantiles
    truth = random.gumbel(size=(horizon, 2))
    for place, name in enumerate("xy"):
        own = found[found["column"] == name]
        inside = (own[0.05].to_numpy() <= truth[:, place]) & (
            truth[:, place] <= own[0.95].to_numpy()
        )
        # 4,000 trials of .9: a standard error of .005.
        assert inside.mean() == pytest.approx(0.9, abs=0.015)
        np.testing.assert_allclose(own[0.5], np.median(drawn[..., place], axis=0))


def test_futures_that_lack_values_have_the_quantiles_of_the_others():
    frame = pd.DataFrame({"x": np.arange(300.0) ** 1.5})
    samples = pd.DataFrame(
        {schemas.SERIES: np.repeat([0, 1, 2], 2), "x": [1.0, np.nan, np.nan, np.nan, 3.0, np.nan]}
    )
    found = forecast.summarise(samples, schema_of(frame), None, frame).quantiles
    assert found[0.5].tolist()[0] == 2.0
    assert np.isnan(found[0.5].tolist()[1])
