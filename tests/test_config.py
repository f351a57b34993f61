"""Configurations: sizes as published, every key read, and a clear error for whatever is wrong."""

import ast
import copy
import inspect
import json
import math
import pathlib
import re
import shlex
import shutil

import jax
import numpy as np
import pytest
from absl import flags
from etils import epath
from ml_collections import config_flags

from timeldm_jax import config as c
from timeldm_jax import experiment, launch
from timeldm_jax.data.builders import COLUMNS
from timeldm_jax.data.sources import FILES
from timeldm_jax.data.table import Options
from timeldm_jax.errors import ConfigError
from timeldm_jax.training import stages
from timeldm_jax.training.beta import BetaConfig
from timeldm_jax.workdir import Workdir

PACKAGE = pathlib.Path(c.__file__).parent
SETS = ("sines", "mujoco", "stocks", "etth", "fmri", "energy")
VARIANTS = ("", "paper", "released", "quick")

# docs/method.md, 5, in the order of SETS.
FEATURES = (5, 14, 6, 7, 50, 28)
WINDOWS = (10000, 10000, 3662, 17397, 9977, 19712)
PAPER_LAYERS = ((1, 2), (1, 2), (2, 3), (2, 3), (1, 2))
PAPER_BATCH_HIDDEN = ((1024, 1024), (1024, 4096), (512, 1024), (1024, 1024), (1024, 4096))
RELEASED = (
    (10, 1, 16, 2),
    (14, 2, 32, 3),
    (12, 2, 16, 3),
    (14, 2, 16, 3),
    (100, 1, 16, 2),
    (56, 1, 16, 3),
)
RELEASED_BATCH_HIDDEN = (
    (1024, 2048),
    (1024, 1024),
    (512, 1024),
    (1024, 1024),
    (1024, 4096),
    (2048, 6144),
)


def load(name, variant=""):
    return c.load(f"configs/{name}.py", variant)


def columns(name):
    return len(COLUMNS[name] if name in COLUMNS else FILES[name].columns)


def shapes(tree):
    return {
        "/".join(str(key.key) for key in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def test_the_package_has_a_config_for_each_set():
    assert c.config_names() == sorted(f"{name}.py" for name in (*SETS, "table"))


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_builds_networks_that_fit_each_other(name, variant):
    config = load(name, variant)
    features, window = FEATURES[SETS.index(name)], 24
    assert (columns(name), config.data.window) == (features, window)
    assert config.data.name == name
    models = stages.build_models(config, features)
    model = config.vae.model
    vae = jax.eval_shape(lambda: stages.init_vae_state(config, models)).params
    ldm = jax.eval_shape(
        lambda: stages.init_ldm_state(config, models, stages.zero_stats(config, models))
    ).params
    vae, ldm = shapes(vae), shapes(ldm)
    # The convolution reads 3 steps of D features; the decoder's reads 3 steps of m channels.
    assert vae["embed/taps/kernel"] == (3 * features, model.width)
    assert vae["embed_latent/taps/kernel"] == (3 * model.latent, model.width)
    assert vae["encoder_positions_table"] == (window, model.width)
    for stack, layers in (
        ("mean_stack", model.encoder_layers),
        ("log_variance_stack", model.encoder_layers),
        ("decoder_stack", model.decoder_layers),
    ):
        blocks = {key.split("/")[1] for key in vae if key.startswith(f"{stack}/")}
        assert blocks == {f"block_{i}" for i in range(layers)}
        assert vae[f"{stack}/block_0/ff_in/kernel"] == (model.width, model.mlp_ratio * model.width)
        heads, channels, head = vae[f"{stack}/block_0/self_attention/query_kernel"]
        assert (heads, channels, heads * head) == (model.heads, model.width, model.width)
    hidden = config.ldm.model.hidden
    assert ldm["project/kernel"] == (window * model.latent, hidden)
    assert ldm["out/kernel"] == (hidden, window * model.latent)


@pytest.mark.parametrize("name", SETS)
def test_paper_sizes(name):
    config = load(name, "paper")
    i = SETS.index(name)
    model = config.vae.model
    # 2 heads of 16, everywhere; the paper's table has no Energy.
    assert (model.heads, model.width // model.heads, model.norm, model.head) == (
        2,
        16,
        "post",
        "conv",
    )
    if name != "energy":
        assert (model.encoder_layers, model.decoder_layers) == PAPER_LAYERS[i]
        batch, hidden = PAPER_BATCH_HIDDEN[i]
        assert (config.vae.batch, config.ldm.batch) == (batch, batch)
        assert config.ldm.model.hidden == hidden
    assert config.vae.beta.restart
    check_published(config, i)


@pytest.mark.parametrize("name", SETS)
def test_released_sizes(name):
    config = load(name, "released")
    i = SETS.index(name)
    model = config.vae.model
    latent, heads, factor, layers = RELEASED[i]
    assert (model.latent, model.width, model.heads) == (latent, latent, heads)
    assert (model.mlp_ratio, model.encoder_layers, model.decoder_layers) == (factor, layers, layers)
    assert (model.norm, model.head) == ("pre", None)
    batch, hidden = RELEASED_BATCH_HIDDEN[i]
    assert (config.vae.batch, config.ldm.batch, config.ldm.model.hidden) == (batch, batch, hidden)
    assert not config.vae.beta.restart  # β falls once a plateau
    check_published(config, i)


def check_published(config, i):
    """docs/method.md, 2 and 3: what "paper" and "released" share."""
    epoch = math.ceil(WINDOWS[i] / config.vae.batch)
    vae, ldm = config.vae, config.ldm
    assert (vae.steps, ldm.steps) == (15_000 * epoch, 15_000 * epoch)
    assert (vae.optimizer.learning_rate, vae.optimizer.b2) == (1e-3, 0.999)
    assert (ldm.optimizer.learning_rate, ldm.optimizer.b2) == (1e-4, 0.96)
    plateaus = [
        (o.schedule, o.plateau_factor, o.plateau_patience, o.plateau_window)
        for o in (vae.optimizer, ldm.optimizer)
    ]
    assert plateaus == [("plateau", 0.95, 10, epoch), ("plateau", 0.9, 20, epoch)]
    assert (vae.optimizer.ema, ldm.optimizer.ema) == (0.0, 0.0)
    assert (vae.beta.maximum, vae.beta.minimum, vae.beta.decay) == (1e-2, 1e-5, 0.7)
    assert vae.beta.patience == 10 * epoch
    assert (ldm.model.blocks, ldm.latents) == (0, "raw")
    assert ldm.noise.to_dict() == {"sigma_data": 0.5, "P_mean": -1.2, "P_std": 1.2}
    sample = config.sample
    assert (sample.steps, sample.churn, sample.rho) == (50, 1.0, 7.0)
    assert (sample.sigma_min, sample.sigma_max) == (0.002, 80.0)


@pytest.mark.parametrize("name", SETS)
def test_as_many_samples_as_training_windows(name):
    for variant in ("", "paper", "released"):
        assert load(name, variant).sample.count == WINDOWS[SETS.index(name)]
    if name in FILES:
        assert FILES[name].rows - 24 + 1 == WINDOWS[SETS.index(name)]


def test_quick_is_less_work_than_the_default():
    for name in SETS:
        full, quick = load(name), load(name, "quick")
        assert quick.vae.steps <= full.vae.steps
        assert quick.ldm.steps * quick.ldm.model.hidden < full.ldm.steps * full.ldm.model.hidden
        assert quick.sample.steps < full.sample.steps


def reads_of(path):
    """Attribute names, subscripts and arguments of `get` in a module, checks left out.

    What `__post_init__` looks at is checked and not yet used.
    """
    tree = ast.parse(path.read_text())
    checks = [
        part
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "__post_init__"
        for part in ast.walk(node)
    ]
    for node in ast.walk(tree):
        if node in checks:
            continue
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            yield node.slice.value


def test_every_key_is_read_somewhere():
    sources = [
        p for p in PACKAGE.rglob("*.py") if p.parent.name != "configs" and p.name != "config.py"
    ]
    read = {word for path in sources for word in reads_of(path)}
    unread = [key for key, _ in c.leaves(c.base()) if key.rsplit(".")[-1] not in read]
    assert unread == []


def test_keys_are_the_fields_of_what_reads_them():
    """No key is declared twice, and none but those of the sections exists."""
    fields = [
        f"{prefix}.{field}".lstrip(".")
        for prefix, default in c.SECTIONS
        for field in c.settings_fields(default)
    ]
    assert len(fields) == len(set(fields))
    assert set(fields) == {key for key, _ in c.leaves(c.base())}
    assert set(c.AUTOMATIC) < set(fields)


@pytest.mark.parametrize(
    ("section", "default"),
    c.SECTIONS,
    ids=[f"{prefix or 'run'}-{type(default).__name__}" for prefix, default in c.SECTIONS],
)
def test_every_key_has_a_line_that_says_what_it_is(section, default):
    """The reference of the configuration is made from these."""
    doc = inspect.getdoc(type(default))
    attributes = doc[doc.index("Attributes:") :]
    for field in c.settings_fields(default):
        assert re.search(rf"^  {field}: \S", attributes, re.MULTILINE), (section, field)


def test_every_number_has_a_range():
    """All but P_mean, which may be any: zero, or −1, is refused wherever it makes no sense."""
    free = {"seed", "microbatch", "blocks", "block", "axes", "maximum", "minimum", "P_std"}
    free |= {"churn", "b2", "ema", "P_mean", "marginal_windows", "span", "trees"}
    free |= {"band_windows"}
    free |= {"context_fid_steps", "context", "guidance"}
    for prefix, default in c.SECTIONS:
        for field in c.settings_fields(default):
            kind = type(getattr(default, field))
            if kind not in (int, float) or field == "P_mean":
                continue
            wrong = kind(-1) if field in free else kind(0)
            with pytest.raises(ConfigError, match=f"^config.*{field}="):
                c._build(prefix, default, {field: wrong})


def test_settings_check_themselves_in_python_too():
    """In Python's words: no `config.` before a field."""
    with pytest.raises(ConfigError, match=r"^decay=1\.5 must be in \(0, 1\]"):
        BetaConfig(maximum=1.0, minimum=0.0, decay=1.5, patience=3, restart=True)
    with pytest.raises(ConfigError, match=r"^irregular='mend' is not one of error, sort, resample"):
        Options(irregular="mend")
    with pytest.raises(ConfigError, match=r"^heads=3 must divide width=32"):
        dict(c.SECTIONS)["vae.model"].clone(heads=3)


def test_every_key_of_a_section_is_a_field_of_what_it_builds():
    config = load("sines")
    vae, denoiser = stages.build_models(config, 5).vae, stages.build_models(config, 5).denoiser
    for section, built in (
        (config.vae.model, vae),
        (config.ldm.model, denoiser),
        (config.vae.beta, c.beta_config(config)),
        (config.vae.optimizer, c.optimizer_config(config.vae)),
        (config.ldm.noise, c.noise_config(config)),
    ):
        assert {key: getattr(built, key) for key in section} == section.to_dict()


# Errors.


def set_value(config, key, value):
    *sections, last = key.split(".")
    for section in sections:
        config = config[section]
    with config.unlocked(), config.ignore_type():
        config[last] = value


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("vae.stpes", 5, "unknown key config.vae.stpes; did you mean config.vae.steps?"),
        ("zzz", 5, "unknown key config.zzz"),
        ("vae.steps", 5.5, "config.vae.steps=5.5 is of type float, expected int"),
        ("vae.steps", True, "config.vae.steps=True is of type bool, expected int"),
        ("vae.beta.restart", 1, "config.vae.beta.restart=1 is of type int, expected bool"),
        (
            "ldm.latents",
            "whole",
            "config.ldm.latents='whole' is not one of raw, standard, principal",
        ),
        ("data.window", 1_001, "needs the axes of 10,010 numbers, more than 10,000"),
        ("sample.rho", "7", "config.sample.rho='7' is of type str, expected float"),
        ("data.name", None, "config.data.name=None is of type NoneType, expected str"),
        ("vae.steps", 0, "config.vae.steps=0 must be at least 1"),
        ("sample.count", -3, "config.sample.count=-3 must be at least 1"),
        ("seed", -1, "config.seed=-1 must be in [0, 2^32)"),
        ("sample.seed", 2**32, "config.sample.seed=4294967296 must be in [0, 2^32)"),
        ("ldm.model.blocks", -1, "config.ldm.model.blocks=-1 must be at least 0"),
        ("data.window", 1, "config.data.window=1 must be at least 2"),
        ("sample.steps", 1, "config.sample.steps=1 must be at least 2"),
        ("ldm.model.hidden", 17, "config.ldm.model.hidden=17 must be even and at least 2"),
        ("vae.optimizer.ema", 1.0, "config.vae.optimizer.ema=1.0 must be in [0, 1)"),
        ("ldm.optimizer.b2", 1.5, "config.ldm.optimizer.b2=1.5 must be in [0, 1)"),
        ("vae.optimizer.learning_rate", math.nan, "learning_rate=nan must be positive"),
        ("vae.optimizer.learning_rate", math.inf, "learning_rate=inf must be positive"),
        ("ldm.noise.P_mean", math.inf, "config.ldm.noise.P_mean=inf must be finite"),
        ("ldm.model.blocks", 0, "config.ldm.model.gated=True needs blocks of 1 or more"),
        ("ldm.span", 0.5, "config.ldm.span=0.5 must be at least 1, or 0"),
        ("vae.beta.decay", 0.0, "config.vae.beta.decay=0.0 must be in (0, 1]"),
        ("vae.beta.minimum", 0.5, "config.vae.beta.minimum=0.5 must not exceed"),
        ("sample.sigma_max", 0.001, "must not exceed config.sample.sigma_max=0.001"),
        ("vae.chunk", 7, "config.vae.eval_every=500 must be a multiple of config.vae.chunk=7"),
        ("vae.model.head", "lineal", "config.vae.model.head='lineal' is not one of linear, conv"),
        ("vae.model.head", 3, "config.vae.model.head=3 is of type int, expected str or NoneType"),
        ("data.irregular", "mend", "irregular='mend' is not one of error, sort, resample"),
        ("sample.churn", 0.5, "config.sample.churn=0.5 needs config.sample.solver='heun'; 'polar'"),
        ("data.decimal", ";", "config.data.decimal=';' must be '.' or ','"),
        ("vae.microbatch", -1, "config.vae.microbatch=-1 must be at least 0"),
        ("data.protocol", "papre", "config.data.protocol='papre' is not one of paper, heldout"),
        ("vae.model.heads", 3, "config.vae.model.heads=3 must divide config.vae.model.width=32"),
        (
            "vae.model.head",
            None,
            "config.vae.model.head=None makes a stack's output the latent",
        ),
        ("vae.model.norm", "mid", "config.vae.model.norm='mid' is not one of pre, post"),
        (
            "ldm.optimizer.schedule",
            "warm",
            "config.ldm.optimizer.schedule='warm' is not one of cosine",
        ),
    ],
)
def test_a_wrong_value_is_named(key, value, message):
    config = load("sines")
    # What messages quote, whatever the recipe.
    config.vae.eval_every = 500
    config.vae.model.update({"width": 32, "latent": 10, "heads": 2})
    config.ldm.model.gated = True
    set_value(config, key, value)
    with pytest.raises(ConfigError) as error:
        c.validate(config)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ldm.noise.P_mean", -1),  # a whole number stands for a float, below 1 too
        ("sample.sigma_max", 80),
        ("sample.churn", 0),
        ("seed", 0),
        ("ldm.span", 0),
        ("vae.optimizer.ema", 0.0),
    ],
)
def test_a_value_at_the_edge_is_accepted(key, value):
    config = load("sines")
    set_value(config, key, value)
    c.validate(config)


def test_a_missing_key_is_named():
    config = load("sines")
    del config.vae.beta["decay"]
    with pytest.raises(ConfigError, match=r"config\.vae\.beta\.decay is missing; start from"):
        c.validate(config)


def test_unknown_variant():
    with pytest.raises(ConfigError, match=r"unknown variant 'papre'.*: paper, quick, released"):
        load("etth", "papre")


def test_missing_file_lists_those_that_exist():
    with pytest.raises(ConfigError, match=r"no such file.*energy\.py, etth\.py.*stocks\.py"):
        c.find_config_file("configs/eth.py")


def test_a_config_of_ones_own_is_found_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pathlib.Path(c.find_config_file("configs/etth.py")) == PACKAGE / "configs/etth.py"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/etth.py").write_text(
        "from timeldm_jax.configs import etth\n"
        "def get_config(variant=''):\n"
        "  config = etth.get_config(variant)\n"
        "  config.vae.steps = 123\n"
        "  return config\n"
    )
    assert c.load("configs/etth.py").vae.steps == 123


def test_difference_names_each_leaf_that_changed():
    old = load("sines").to_dict()
    new = copy.deepcopy(old)
    assert c.difference(old, new) == []
    old["vae"]["steps"], new["vae"]["steps"] = 5000, 7
    new["data"]["dir"] = "/x"
    del new["sample"]["rho"]
    new["more"] = 1
    assert c.difference(old, new) == [
        "config.data.dir: '' -> '/x'",
        "config.more: '(absent)' -> 1",
        "config.sample.rho: 7.0 -> '(absent)'",
        "config.vae.steps: 5000 -> 7",
    ]


def test_base_gives_a_fresh_config_each_time():
    first = c.base()
    first.vae.steps = 1
    assert c.base().vae.steps != 1
    assert np.isfinite([v for _, v in c.leaves(c.base()) if isinstance(v, float)]).all()


def test_a_configuration_saved_under_earlier_names_is_read_as_today_s():
    today = load("mujoco")
    saved = today.to_dict()
    saved["vae"]["model"]["ff_factor"] = saved["vae"]["model"].pop("mlp_ratio")
    saved["ldm"]["noise"]["log_mean"] = saved["ldm"]["noise"].pop("P_mean")
    saved["ldm"]["noise"]["log_std"] = saved["ldm"]["noise"].pop("P_std")
    saved["sample"]["match_margins"] = saved["sample"].pop("match_marginals")
    before = copy.deepcopy(saved)
    assert c.upgrade(saved) == today.to_dict()
    assert saved == before


GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.mark.parametrize(
    "path", sorted(GOLDEN.rglob("config.json")), ids=lambda p: str(p.relative_to(GOLDEN))
)
def test_a_configuration_of_any_earlier_version_is_valid_today(path):
    saved = json.loads(path.read_text())
    config = c.ConfigDict(c.upgrade(saved))
    assert [key for key, _ in c.leaves(config)] != []
    c.validate(config)
    assert c.upgrade(c.to_saved(config)) == config.to_dict()


def test_the_first_version_s_configuration_means_what_it_meant():
    """No skip, float32, Heun and standardised latents: what that version did without the keys."""
    saved = json.loads((GOLDEN / "model_fe41211/model/config.json").read_text())
    found = c.upgrade(saved)
    assert saved["ldm"]["standardize"]
    assert found["ldm"]["latents"] == "standard"
    assert "standardize" not in found["ldm"]
    assert (found["vae"]["model"]["skip"], found["ldm"]["model"]["precision"]) == (False, "float32")
    assert (found["sample"]["solver"], found["sample"]["match_marginals"]) == ("heun", False)
    assert found["vae"]["model"]["mlp_ratio"] == saved["vae"]["model"]["ff_factor"]
    # Every key of today was there, or has a value for those who lack it.
    saved_keys = {key for key, _ in c.leaves(c.ConfigDict(found))}
    assert saved_keys == {key for key, _ in c.leaves(c.base())}


def test_a_table_that_left_axes_open_leaves_the_layout_open_too():
    config = load("table")
    saved = c.to_saved(config) | {"format": 8}
    saved["ldm"]["latents"] = "principal"
    assert not c.difference(c.upgrade(saved), config.to_dict())
    saved["ldm"]["axes"] = 30  # as a run chose
    assert c.upgrade(saved)["ldm"]["latents"] == "principal"


def test_what_samples_are_asked_for_is_guided_by_one_unless_it_is_said():
    saved = c.to_saved(load("etth")) | {"format": 5}
    del saved["sample"]["guidance"]
    assert c.upgrade(saved)["sample"]["guidance"] == 1.0
    config = load("etth")
    for wrong, message in (
        (-0.5, r"config\.sample\.guidance=-0\.5 must be at least 0"),
        (float("nan"), r"config\.sample\.guidance=nan must be at least 0"),
        (2.0, r"config\.sample\.guidance=2\.0 needs a model .*ldm\.model\.context=0; leave"),
    ):
        config.sample.guidance = wrong
        with pytest.raises(ConfigError, match=message):
            c.validate(config)


def test_a_key_that_is_gone_from_todays_format_is_not_filled_in():
    saved = c.to_saved(load("etth"))
    del saved["sample"]["solver"]
    with pytest.raises(ConfigError, match=r"config\.sample\.solver is missing"):
        c.validate(c.ConfigDict(c.upgrade(saved)))


def test_a_configuration_of_a_later_version_says_so():
    saved = c.to_saved(load("etth")) | {"format": c.FORMAT + 1}
    with pytest.raises(
        ConfigError, match=rf"later version .*, in format {c.FORMAT + 1}; .*up to {c.FORMAT}:"
    ):
        c.upgrade(saved)


def test_a_work_directory_of_an_earlier_version_is_the_same_configuration(tmp_path):
    """What the rerun asks for, against what 8ed8097 saved when it was asked the same."""
    folder = tmp_path / "run"
    shutil.copytree(GOLDEN / "workdir_8ed8097", folder)
    saved = json.loads((folder / "config.json").read_text())
    asked = c.ConfigDict(c.upgrade(saved))
    assert experiment.conflict(asked, Workdir(epath.Path(folder))) == ""
    asked.ldm.noise.P_mean += 0.25
    changed = experiment.conflict(asked, Workdir(epath.Path(folder)))
    assert "config.ldm.noise.P_mean: " in changed
    assert changed.count("->") == 1


def test_none_on_a_command_line_is_no_head():
    """A flag can only hold words: `--config.vae.model.head=none`."""
    for recipe in (load("etth", "released"), load("etth")):
        recipe.vae.model.update({"latent": 8, "width": 8})
        for word, meant in (("none", None), ("linear", "linear"), ("None", None), ("conv", "conv")):
            own, arguments = flags.FlagValues(), ["program", f"--config.vae.model.head={word}"]
            config_flags.DEFINE_config_dict("config", recipe, flag_values=own, sys_argv=arguments)
            own(arguments)
            c.read_none(own.config)
            assert own.config.vae.model.head == meant
            c.validate(own.config)


def doc_of(name):
    return ast.get_docstring(ast.parse((PACKAGE / "configs" / f"{name}.py").read_text()))


@pytest.mark.filterwarnings("ignore:the load_module")  # of ml_collections
@pytest.mark.parametrize("name", [*SETS, "table"])
def test_a_config_says_its_command_which_parses(name, monkeypatch):
    text = doc_of(name)
    (line,) = [x.strip() for x in text.splitlines() if x.strip().startswith("python ")]
    _, _, module, *arguments = shlex.split(line)
    assert module == "timeldm_jax.launch"
    assert arguments[0] == f"--config=configs/{name}.py"
    run = []
    monkeypatch.setattr(experiment, "run_stages", lambda config, *_: run.append(config))
    launch.main([module, *arguments])
    assert run[0].data.name == name
    assert re.search(r"^Costs|\. Costs|cost not measured", text, re.MULTILINE)


@pytest.mark.parametrize("name", SETS)
def test_a_config_says_what_the_benchmark_table_says(name):
    """The figures are those of the page's table, or there are none."""
    table = (PACKAGE.parent / "docs" / "benchmarks.md").read_text()
    row = next(r for r in table.splitlines() if r.startswith("| | Sines"))
    names = [cell.strip().lower() for cell in row.strip("|").split("|")]
    for score in ("Context-FID", "Discriminative", "Predictive", "Correlational"):
        text = " ".join(doc_of(name).split())
        said = re.search(rf"{score} (\.\d+ ± \.\d+)", text, re.IGNORECASE)
        if name not in names:
            assert said is None
            continue
        cells = next(r for r in table.splitlines() if r.startswith(f"| **{score}: ours**"))
        cell = cells.strip("|").split("|")[names.index(name)]
        assert said[1] == re.sub(r"[*▼▲]", "", cell).strip()
