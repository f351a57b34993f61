"""A saved model is closed: what is damaged, altered, linked or added is refused, and quickly."""

import hashlib
import io
import json
import os
import pathlib
import random
import shutil
import time
import zipfile

import numpy as np
import pytest

from timeldm_jax import TimeLDM, model_folder
from timeldm_jax.errors import CheckpointError
from timeldm_jax.workdir import FORMAT

pytestmark = pytest.mark.training

GOLDEN = pathlib.Path(__file__).parent / "golden" / "model_8ed8097" / "model"
JSON = ["config.json", "manifest.json", "model.json", "scores.json"]
FILES = ["MODEL_CARD.md", *JSON, "weights.npz"]
QUICK = 3.0  # seconds; a load takes a tenth of that


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model of a table with its scores, saved by this version. Not to be changed."""
    folder = tmp_path_factory.mktemp("saved") / "m.timeldm"
    TimeLDM.load(GOLDEN).save(folder)
    return folder


@pytest.fixture
def saved(made, tmp_path):
    return pathlib.Path(shutil.copytree(made, tmp_path / "m.timeldm"))


def seal(folder):
    """Makes the manifest right for what the folder holds: what a forger would do."""
    files = {
        path.name: {
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in folder.iterdir()
        if path.name != "manifest.json"
    }
    own = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    content = {"format": FORMAT, "files": files, "sha256": own}
    (folder / "manifest.json").write_text(json.dumps(content))


def refused(folder, match):
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=match) as caught:
        TimeLDM.load(folder)
    assert time.monotonic() - start < QUICK
    assert "\n" not in str(caught.value)


def alter(path, key, value):
    """Sets a dotted key of a file of JSON."""
    content = json.loads(path.read_text())
    *nodes, last = key.split(".")
    node = content
    for name in nodes:
        node = node[name]
    node[last] = value
    path.write_text(json.dumps(content))


def test_it_holds_averaged_weights_and_what_sampling_needs(saved):
    assert sorted(path.name for path in saved.iterdir()) == FILES
    original, again = TimeLDM.load(GOLDEN), TimeLDM.load(saved)
    with np.load(saved / "weights.npz", allow_pickle=False) as arrays:
        numbers = sum(arrays[name].size for name in arrays.files)
        assert {name.split("/")[0] for name in arrays.files} == {"vae", "ldm", "stats"}
    assert (saved / "weights.npz").stat().st_size < 4 * numbers + 500 * 120
    assert again.sample(3, seed=1).equals(original.sample(3, seed=1))
    assert again.evaluate() == original.evaluate()
    again.save(saved.with_name("again"))
    for name in FILES:
        assert (saved.with_name("again") / name).read_bytes() == (saved / name).read_bytes()


def test_each_file_is_read_once(saved, monkeypatch):
    read = []
    real = model_folder.checks.read_plain
    monkeypatch.setattr(
        model_folder.checks, "read_plain", lambda path, most: read.append(path) or real(path, most)
    )
    TimeLDM.load(saved)
    assert sorted(path.name for path in read) == FILES


@pytest.mark.parametrize("name", FILES)
def test_any_changed_byte_is_seen(saved, name):
    path = saved / name
    content = path.read_bytes()
    for place in np.linspace(0, len(content) - 1, 8).astype(int):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        refused(saved, r"manifest\.json" if name == "manifest.json" else name)
    for cut in (b"", content[:-2], content + b"{"):
        path.write_bytes(cut)
        refused(saved, "manifest|" + name)
    path.unlink()
    if name != "manifest.json":  # without it a folder counts as one of an earlier version
        refused(saved, f"{name} is missing")


def values():
    nested = json.loads("[" * 900 + "]" * 900)
    huge = [10**9, 10**18, 10**30, -1, 0, 1e308, 1e-320]
    return [*huge, None, True, "x", "", "../../etc/passwd", [], {}, [1] * 50, nested]


def keys(content, prefix=""):
    """Dotted keys of every value, of lists the first."""
    for key, value in content.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{key}.")


@pytest.mark.parametrize("name", ["config.json", "model.json", "scores.json"])
def test_a_forged_value_is_refused_or_harmless(made, saved, name):
    """Whatever a value is changed to under a right manifest: a CheckpointError, or a model."""
    content = json.loads((made / name).read_text())
    choice = random.Random(name)
    outcomes = []
    for _ in range(40):
        key, value = choice.choice(list(keys(content))), choice.choice(values())
        (saved / name).write_text(json.dumps(content))
        alter(saved / name, key, value)
        seal(saved)
        start = time.monotonic()
        try:
            loaded = TimeLDM.load(saved)
            loaded.report(saved.parent / "r.html")
            loaded.save(saved.parent / f"again{len(outcomes)}")
            outcomes.append("loaded")
        except CheckpointError as error:
            outcomes.append("refused" if "\n" not in str(error) else str(error))
        assert time.monotonic() - start < QUICK, (key, value)
    assert set(outcomes) == {"refused", "loaded"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vae.model.encoder_layers", 10**6),
        ("vae.model.encoder_layers", 300),
        ("vae.model.width", 10**12),
        ("vae.model.mlp_ratio", 10**18),
        ("vae.model.latent", 10**30),
        ("data.window", 10**9),
        ("data.window", 0),
        ("ldm.model.hidden", 2 * 10**9),
        ("ldm.model.blocks", 10**7),
    ],
)
def test_a_configuration_of_other_sizes_ends_quickly(saved, key, value):
    alter(saved / "config.json", key, value)
    refused(saved, r"config\.json is damaged")
    seal(saved)
    refused(saved, r"config\.json")


@pytest.mark.parametrize("name", JSON)
@pytest.mark.parametrize("content", ["[" * 10**6, '{"a":' * 10**5, "[]", "NaN", "1" * 10**5, "\0"])
def test_no_json_is_too_deep_or_too_odd(saved, name, content):
    (saved / name).write_text(content)
    if name != "manifest.json":
        seal(saved)
    refused(saved, name)


def test_only_listed_plain_files_are_in_it(saved, tmp_path):
    (tmp_path / "private.txt").write_text("secret")
    for add in (
        lambda path: path.write_text("<script>"),
        lambda path: path.mkdir(),
        lambda path: path.symlink_to(tmp_path / "private.txt"),
        os.mkfifo,
    ):
        added = saved / "report.html"
        add(added)
        refused(saved, r"report\.html is not listed in manifest\.json")
        added.rmdir() if added.is_dir() else added.unlink()
    for name in FILES:
        moved = saved / name
        moved.rename(tmp_path / name)
        moved.symlink_to(tmp_path / name)
        refused(saved, f"{name} is a link")
        moved.unlink()
        os.mkfifo(moved)
        refused(saved, f"{name} is no file")
        moved.unlink()
        (tmp_path / name).rename(moved)
    TimeLDM.load(saved)


@pytest.mark.parametrize("name", ["../private.txt", "/etc/passwd", "vae/20", "report.html", "x"])
def test_a_manifest_lists_files_of_a_model_only(saved, tmp_path, name):
    (tmp_path / "private.txt").write_text("secret")
    content = json.loads((saved / "manifest.json").read_text())
    content["files"][name] = {"size": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    content["sha256"] = model_folder._digest(content["files"])
    (saved / "manifest.json").write_text(json.dumps(content))
    refused(saved, "is no file of a model")


def test_a_newer_version_is_not_called_damaged(saved):
    """Whatever else its manifest and folder have."""
    (saved / "shards").mkdir()
    (saved / "manifest.json").write_text(json.dumps({"format": FORMAT + 1, "parts": []}))
    refused(saved, rf"newer version .*\(format {FORMAT + 1}, this one reads up to {FORMAT}\): upg")


def npz(arrays, **how):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **how) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array)
    return buffer.getvalue()


def test_forged_weights_are_refused(saved):
    path = saved / "weights.npz"
    with np.load(path) as loaded:
        arrays = {name: loaded[name] for name in loaded.files}
    name = "stats/mean"
    zeros = {key: np.zeros_like(array) for key, array in arrays.items()}
    for content in (
        npz(arrays, compression=zipfile.ZIP_DEFLATED),
        npz(arrays | {name: arrays[name].astype(np.float64)}),
        npz(arrays | {name: arrays[name].astype(">f4")}),
        npz(arrays | {name: arrays[name][:-1]}),
        npz(arrays | {name: arrays[name] * np.nan}),
        npz(arrays | {"more": arrays[name]}),
        npz({key: array for key, array in arrays.items() if key != name}),
        npz(zeros, compression=zipfile.ZIP_DEFLATED),
        b"PK" * 1000,
        b"",
    ):
        path.write_bytes(content)
        seal(saved)
        refused(saved, r"weights\.npz")
    path.write_bytes(b"")
    os.truncate(path, 2**40)  # a hole: nothing is on the disk
    files = json.loads((saved / "manifest.json").read_text())["files"]
    files["weights.npz"]["size"] = 2**40
    content = {"format": FORMAT, "files": files, "sha256": model_folder._digest(files)}
    (saved / "manifest.json").write_text(json.dumps(content))
    refused(saved, r"weights\.npz has 1,099,511,627,776 bytes")


def test_a_report_is_rendered_again_and_escaped(saved):
    alter(saved / "scores.json", "verdict", "<script>alert(1)</script>")
    seal(saved)
    TimeLDM.load(saved).report(saved.parent / "r.html")
    page = (saved.parent / "r.html").read_text()
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page
    assert "Memorisation" in page


def test_no_page_of_an_earlier_folder_is_copied(tmp_path):
    folder = shutil.copytree(GOLDEN, tmp_path / "old")
    (folder / "report.html").write_text("<script>alert(1)</script>")
    model = TimeLDM.load(folder)
    model.report(tmp_path / "r.html")
    assert "<script" not in (tmp_path / "r.html").read_text()
    model.save(tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == FILES


def test_an_earlier_folder_is_closed_too(tmp_path):
    folder = shutil.copytree(GOLDEN, tmp_path / "old")
    (tmp_path / "private.txt").write_text("secret")
    step = folder / "vae" / "20"
    link, extra = step / "state" / "link", step / "more"
    link.symlink_to(tmp_path / "private.txt")
    refused(folder, "link is a link")
    link.unlink()
    extra.write_text("x")
    refused(folder, "more is not listed")
    extra.unlink()
    (folder / "vae").rename(tmp_path / "vae")
    (folder / "vae").symlink_to(tmp_path / "vae")
    refused(folder, "vae is a link")
    (folder / "vae").unlink()
    (tmp_path / "vae").rename(folder / "vae")
    for key, value in (("vae.model.encoder_layers", 10**6), ("data.window", 10**9)):
        shutil.copy(GOLDEN / "config.json", folder)
        alter(folder / "config.json", key, value)
        refused(folder, r"config\.json")


def test_saving_deletes_nothing_that_it_did_not_make(made, tmp_path):
    model = TimeLDM.load(made)
    kept = tmp_path / "m.tmp" / "mine.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    model.save(tmp_path / "m")
    assert kept.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "m.tmp"]


def test_a_save_that_fails_leaves_nothing(made, tmp_path, monkeypatch):
    model = TimeLDM.load(made)
    real = pathlib.Path.write_bytes

    def full(path, content):
        if path.name == "manifest.json":
            raise OSError(28, "No space left on device", str(path))
        return real(path, content)

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        model.save(tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_home_is_a_place_for_models(made, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    TimeLDM.load(made).save("~/m")
    model = TimeLDM.load("~/m")
    model.report("~/pages/r.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "pages"]
