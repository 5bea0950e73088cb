"""compare: interrupted and resumed, significance, two protocols, what the files hold."""

import base64
import csv
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import cli
import commands.compare
from common.errors import UserError
from common.kept import Kept
from evaluation.selective import BINS
from evaluation.vocabulary import Vocabulary
from reporting.columns import ORACLE, columns
from reporting.measuring import Measuring
from reporting.plan import Comparison, read_plan
from reporting.result import Result
from reporting.runs import read_compared
from reporting.tables import write_tables
from tests import data as tiny
from tests import processes

OBJECTS = {"name": "objects", "data": "Shapes", "options": {"pictures": 4, "num_workers": 0}, "protocol": "shapes"}
LIMIT = 1_000_000  # bytes: more than a result, less than a fit
SCLIP: dict[str, Any] = {"name": "SCLIP", "config": "configs/training_free/sclip.yaml"}
PLAN = {
    "title": "A tiny comparison",
    "pictures": 2,
    "seeds": [0, 1],
    "methods": [
        SCLIP,
        {"name": "CLIP_50%", "config": "configs/training_free/sclip.yaml", "set": {"model.rule": "clip"}},
    ],
    "benchmarks": [OBJECTS],
    "quotes": [{"method": "SCLIP", "benchmark": "VOC21", "value": "59.1", "source": "a paper"}],
}


def run(folder: Path, plan: dict[str, Any], name: str = "out", code: int = 0) -> Path:
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    assert cli.main(["compare", "--config", str(folder / "plan.yaml"), "--output", str(folder / name)]) == code
    return folder / name


def test_the_files_of_a_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(tmp_path, PLAN)
    rows = list(csv.DictReader((out / "results.csv").open()))
    assert [row["method"] for row in rows] == ["SCLIP", "CLIP_50%"]  # one seed: nothing here is trained
    for key in ("miou", "seed", "sees", "protocol_hash", "vocabulary_hash", "weights", "commit", "version_torch", "seconds"):
        assert all(row[key] for row in rows), key
    per_class = list(csv.DictReader((out / "per_class.csv").open()))
    assert len(per_class) == 2 * 13
    markdown, tex, page = ((out / f).read_text() for f in ("results.md", "results.tex", "report.html"))
    assert "| SCLIP | nothing |" in markdown
    assert "| SCLIP | VOC21 | 59.1 | a paper |" in markdown
    assert "CLIP\\_50\\% & " in tex
    assert tex.count("\\textbf{") == 1
    assert (
        page.count("data:image/jpeg;base64,") == 2 * 4 + 2 * 4
    )  # two pictures (it, its truth, two methods); each method's worst
    assert "http" not in page.replace("http-equiv", "")  # self-contained
    assert rows[0]["column_hash"] in page
    assert len(list((out / "label_maps" / "objects" / "CLIP_50").glob("*.png"))) == 2
    assert markdown in capsys.readouterr().out


def test_the_mean_over_all_benchmarks_is_of_methods_that_have_them_all(tmp_path: Path) -> None:
    second = OBJECTS | {"name": "two", "options": OBJECTS["options"] | {"vocabulary": "shapes16"}}
    methods = [*PLAN["methods"][:1], PLAN["methods"][1] | {"benchmarks": ["objects"]}]  # type: ignore[index]
    out = run(tmp_path, PLAN | {"mean": True, "methods": methods, "benchmarks": [OBJECTS, second]})
    mious = [100 * float(row["miou"]) for row in csv.DictReader((out / "results.csv").open())]
    assert len(mious) == 3
    cells = f"{mious[0]:.1f} | {mious[1]:.1f} | {(mious[0] + mious[1]) / 2:.1f} |"
    assert f"| SCLIP | {cells}" in (out / "results.md").read_text()
    assert f"| CLIP_50% | {mious[2]:.1f} | – | – |" in (out / "results.md").read_text()
    tex = (out / "results.tex").read_text()
    assert "\\begin{tabular}{lrrr}" in tex
    assert f"& {(mious[0] + mious[1]) / 2:.1f} \\\\" in tex
    assert "All benchmarks" in (out / "report.html").read_text()


def test_contrast_and_mined_masks_are_shown(tmp_path: Path) -> None:
    data = {"data.pictures": 4, "data.train_pictures": 8, "data.train_batch_size": 4, "data.num_workers": 0}
    freeseg = {"name": "FreeSeg", "config": "configs/freeseg/shapes.yaml", "fit": True, "seeds": [0]}
    plan = PLAN | {"contrast": True, "methods": [PLAN["methods"][0], freeseg | {"set": data | {"trainer.max_steps": 2}}]}  # type: ignore[index]
    for _ in range(2):  # the second time from what was kept
        out = run(tmp_path, plan)
        rows = list(csv.DictReader((out / "results.csv").open()))
        assert 0.1 < float(rows[0]["mean_score_contrast"]) < 0.9
        assert f"{100 * float(rows[0]['mean_score_contrast']):+.1f} |" in (out / "results.md").read_text()
        kept = Kept("results", out / "kept")
        results = [Result.load(kept, row["key"]) for row in rows]
        figures = [result.figure for result in results if result]
        assert figures[0] is None
        assert figures[1] is not None
        assert base64.b64encode(figures[1]).decode() in (out / "report.html").read_text()


def test_rows_that_read_one_training_otherwise_share_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = {"trainer.max_steps": 2, "data.maps": 8, "data.train_batch_size": 4, "data.num_workers": 0}
    small |= {"model.learning_rate": 1e-3}  # by which pixels change
    row = {"config": "configs/ifseg/shapes.yaml", "fit": True, "fit_words": True, "seeds": [0]}
    shares = {"trained": {}, "half": {"model.interpolation": 0.5}, "none": {"model.interpolation": 0}}
    rows = [row | {"name": name, "set": small | share} for name, share in shares.items()]
    untrained = {"name": "untrained", "config": "configs/ifseg/zero_shot.yaml", "set": {"model.reading": "surrogate"}}
    objects = OBJECTS | {"options": OBJECTS["options"] | {"vocabulary": "shapes12"}}
    out = run(tmp_path, PLAN | {"methods": [*rows, untrained], "benchmarks": [objects]})
    assert capsys.readouterr().out.count("training IFSeg") == 1
    mious = {line["method"]: line["miou"] for line in csv.DictReader((out / "results.csv").open())}
    assert len({mious[name] for name in shares}) == 3
    again = run(tmp_path, PLAN | {"methods": rows[1:2], "benchmarks": [objects]}, "alone")  # trained by this row itself
    assert next(csv.DictReader((again / "results.csv").open()))["miou"] == mious["half"]


def test_a_row_starts_from_what_another_left(tmp_path: Path) -> None:
    """A map of the projection that ICLIP's row trained: only a run of ``fit`` wrote it, and the row failed."""
    small = {"trainer.max_steps": 1, "data.train_pictures": 8, "data.train_batch_size": 4, "data.num_workers": 0}
    iclip = {"name": "ICLIP", "config": "configs/freeseg/iclip_shapes.yaml", "fit": True}
    there = {"trainer.default_root_dir": str(tmp_path / "left")}
    file = tmp_path / "left" / "iclip.safetensors"
    its_map = {"name": "its map", "config": "configs/freeseg/map_shapes.yaml", "after": "ICLIP"}
    its_map |= {"set": {"model.rule": "maskclip", "model.iclip": str(file)}}
    plan = PLAN | {"seeds": [0], "methods": [iclip | {"set": small | there}, its_map]}
    for _ in range(2):  # the second time from what was kept
        out = run(tmp_path, plan)
        rows = list(csv.DictReader((out / "results.csv").open()))
        assert [row["sees"] for row in rows] == ["pictures with captions"] * 2
        file.unlink()
    run(tmp_path, plan | {"methods": [iclip | {"set": small | there}]})
    assert not file.exists()  # nobody asked for it
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(plan | {"methods": [its_map, iclip | {"set": small | there}]}))
    with pytest.raises(UserError, match="unknown earlier row with fit for method 'its map' 'ICLIP'"):
        read_plan(tmp_path / "wrong.yaml", commands.compare.parse_plan)


def test_two_processes_get_the_same_table(tmp_path: Path) -> None:
    probe = {"name": "probe", "config": "configs/oracle/linear_probe.yaml", "fit": True}
    small = {"trainer.max_steps": 2, "data.train_pictures": 16, "data.train_batch_size": 4, "data.num_workers": 0}
    plan = PLAN | {"seeds": [0], "methods": [*PLAN["methods"], probe | {"set": small}]}  # type: ignore[misc]
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    tables = []
    for devices in ("1", "2"):
        out = tmp_path / devices
        command = ["cli.py", "compare", "--config", str(tmp_path / "plan.yaml"), "--output", str(out), "--devices", devices]
        ranks = processes.run(*command, ranks=int(devices))
        assert sum(rank.stdout.count("| SCLIP | nothing |") for rank in ranks) == 1  # one process speaks
        assert (out / "report.html").exists()
        rows = list(csv.DictReader((out / "results.csv").open()))
        tables.append([(row["method"], float(row["miou"]), row["pictures"], row["images_per_step"]) for row in rows])
        assert [row["devices"] for row in rows] == [devices] * 3
    assert tables[0][:2] == tables[1][:2]
    assert tables[0][2][::3] == tables[1][2][::3] == ("probe", "4")  # the same experiment: four pictures a step
    assert tables[0][2][1] == pytest.approx(tables[1][2][1], abs=1e-3)
    names = [{path.name for path in (tmp_path / devices / "fits").iterdir()} for devices in ("1", "2")]
    assert not names[0] & names[1]  # what two processes trained is not taken for what one did
    one, two = (read_compared(tmp_path / devices)[0] for devices in ("1", "2"))
    for shown in ("panels", "worst"):  # the pictures that the other process read, too
        assert set(getattr(one, shown)) == set(getattr(two, shown))
        assert all(torch.equal(part, getattr(two, shown)[key]) for key, part in getattr(one, shown).items())
    assert {key.partition("/")[0] for key in one.panels} == {"0", "1"}


def test_a_batch_that_does_not_go_round_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    probe = {"name": "probe", "config": "configs/oracle/linear_probe.yaml", "fit": True}
    plan = PLAN | {"methods": [probe | {"set": {"data.train_batch_size": 4}}]}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    command = ["compare", "--config", str(tmp_path / "plan.yaml"), "--output", str(tmp_path / "out"), "--devices", "3"]
    assert cli.main(command) == 2
    assert "a training batch of 4 cannot be shared by 3 devices" in capsys.readouterr().err


def test_an_interrupted_comparison_redoes_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    measure = Measuring._measure

    def second_fails(self: Any, model: Any, data: Any, method: Any, *rest: Any) -> Result:
        calls.append(method.name)
        if calls == ["SCLIP", "CLIP_50%"]:
            raise KeyboardInterrupt
        return measure(self, model, data, method, *rest)

    monkeypatch.setattr(Measuring, "_measure", second_fails)
    run(tmp_path, PLAN, code=130)
    first = (tmp_path / "out" / "results.csv").read_text()
    assert first.count("\n") == 2
    out = run(tmp_path, PLAN)
    assert calls == ["SCLIP", "CLIP_50%", "CLIP_50%"]
    assert (out / "results.csv").read_text().startswith(first)
    run(tmp_path, PLAN)
    assert len(calls) == 3
    changed = PLAN | {"benchmarks": [OBJECTS | {"protocol": "sclip"}]}
    run(tmp_path, changed)
    assert len(calls) == 5


def test_a_changed_config_is_measured_again(tmp_path: Path) -> None:
    config = tmp_path / "method.yaml"
    plan = PLAN | {"methods": [{"name": "m", "config": str(config)}]}
    found = []
    for rule in ("sclip", "gem"):
        config.write_text(Path(f"configs/training_free/{rule}.yaml").read_text())
        out = run(tmp_path, plan)
        found += [row["miou"] for row in csv.DictReader((out / "results.csv").open())]
    assert found[0] != found[1]


def test_a_result_that_is_damaged_is_measured_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cut off, or one bit flipped: 22.07 once became "32.07, kept from before"."""
    out = run(tmp_path, PLAN)
    before = [row["miou"] for row in csv.DictReader((out / "results.csv").open())]
    first, second = (out / "kept").iterdir()
    first.write_bytes(first.read_bytes()[:50])
    data = bytearray(second.read_bytes())
    data[data.index(b"miou") + 12] ^= 1
    second.write_bytes(data)
    capsys.readouterr()
    run(tmp_path, PLAN)
    said = capsys.readouterr()
    assert "kept from before" not in said.out
    assert said.err.count("(results) is damaged") == 2
    assert [row["miou"] for row in csv.DictReader((out / "results.csv").open())] == before


def test_a_result_follows_its_pictures_and_words_not_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = tiny.make_voc(tmp_path / "voc")
    voc = {"name": "VOC", "data": "VOC", "options": {**options, "num_workers": 0}, "protocol": "shapes"}
    plan = PLAN | {"methods": PLAN["methods"][:1], "benchmarks": [voc], "pictures": 1}  # type: ignore[index]
    run(tmp_path, plan)
    renamed = plan | {"benchmarks": [voc | {"name": "mine"}], "methods": [plan["methods"][0] | {"name": "M"}]}
    capsys.readouterr()
    out = run(tmp_path, renamed)
    assert "M on mine: mIoU" in (said := capsys.readouterr().out)
    assert "kept from before" in said
    assert [(row["method"], row["benchmark"]) for row in csv.DictReader((out / "results.csv").open())] == [("M", "mine")]
    folder = tmp_path / "voc" / "VOCdevkit" / "VOC2012" / "JPEGImages"
    tiny.picture(folder, tiny.VOC_NAMES[0], (60, 80), seed=99)  # another picture under its name
    run(tmp_path, renamed)
    assert "kept from before" not in capsys.readouterr().out


def test_training_is_done_once_per_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = {
        "name": "probe",
        "config": "configs/oracle/linear_probe.yaml",
        "fit": True,
        "set": {
            "trainer.max_steps": 2,
            "data.pictures": 4,
            "data.train_pictures": 16,
            "data.train_batch_size": 8,
            "data.num_workers": 0,
            "trainer.enable_progress_bar": False,
        },
    }
    out = run(tmp_path, PLAN | {"methods": [PLAN["methods"][0], probe]})  # type: ignore[index]
    rows = list(csv.DictReader((out / "results.csv").open()))
    assert [(row["method"], row["seed"]) for row in rows] == [("SCLIP", "0"), ("probe", "0"), ("probe", "1")]
    assert rows[1]["weights"] != rows[2]["weights"]
    assert len(list((out / "fits").iterdir())) == 2
    configs = {folder.name: yaml.safe_load((folder / "config_fit.yaml").read_text()) for folder in (out / "runs").iterdir()}
    assert {name: config["seed_everything"] for name, config in configs.items()} == {"probe_seed_0": 0, "probe_seed_1": 1}
    for kept in (out / "kept").iterdir():
        kept.unlink()
    monkeypatch.setattr("lightning.Trainer.fit", None)  # a second training would fail
    run(tmp_path, PLAN | {"methods": [PLAN["methods"][0], probe]})  # type: ignore[index]
    again = list(csv.DictReader((out / "results.csv").open()))
    assert [row["miou"] for row in again] == [row["miou"] for row in rows]
    assert "| probe | masks (oracle) |" in (out / "results.md").read_text()


def test_a_training_follows_its_words_and_its_prompts_not_their_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, shapes13 = tmp_path / "words.txt", Vocabulary.load("shapes13").names[1:]
    words.write_text("\n".join(shapes13))
    small = {"trainer.max_steps": 1, "data.num_workers": 0}
    of_names = {"data.maps": 8, "data.train_batch_size": 4, "data.classes": str(words)}
    ifseg = {"name": "IFSeg", "config": "configs/ifseg/shapes.yaml", "fit": True, "seeds": [0], "set": small | of_names}
    pictures = {"data.pictures": 4, "data.train_pictures": 8, "data.train_batch_size": 4, "model.masks": None}
    freeseg = {"name": "FreeSeg", "config": "configs/freeseg/shapes.yaml", "fit": True, "seeds": [0], "set": small | pictures}
    plan = PLAN | {"methods": [ifseg, freeseg]}

    def trained(plan: dict[str, Any]) -> list[str]:
        run(tmp_path, plan)
        return re.findall(r"training (\w+) \.\.\.", capsys.readouterr().out)

    assert trained(plan) == ["IFSeg", "FreeSeg"]
    assert trained(plan) == []
    words.write_text("\n".join(reversed(shapes13)))
    assert trained(plan) == ["IFSeg"]
    other_prompts = OBJECTS | {"protocol": "sclip"}
    assert trained(plan | {"benchmarks": [other_prompts]}) == ["FreeSeg"]


def result(method: str, hits: torch.Tensor, protocol: str = "a", sees: str = "nothing", **changed: Any) -> Result:
    """A made-up result: one class, ``hits`` of 100 pixels right in each picture."""
    areas = torch.stack([hits, torch.full_like(hits, 100), torch.full_like(hits, 100)], 1)[..., None]
    miou = (hits.sum() / (200 * len(hits) - hits.sum())).item()
    texts = dict.fromkeys(("data", "vocabulary", "vocabulary_hash", "device", "date"), "v")
    lists: dict[str, Any] = {"protocol_in_words": [], "column_in_words": [], "names": ["x"], "palette": [], "left_out": []}
    hashes = {"protocol": protocol, "protocol_hash": protocol, "column_hash": protocol}
    numbers = {"pixel_accuracy": 0.5, "frequency_weighted_iou": 0.5, "pictures_per_second": 1.0, "seconds": 1.0}
    numbers |= {"boundary_miou": 0.5, "small_miou": math.nan, "aurc": 0.5, "judged": len(hits)}
    counts = {"histogram": torch.ones(3, BINS, dtype=torch.int64), "losses": torch.zeros(BINS, dtype=torch.int64)}
    own = {"method": method, "benchmark": "b", "seed": 0, "sees": sees, "miou": miou, "pictures": len(hits)}
    return Result(**own | texts | lists | hashes | numbers | counts | changed, iou=torch.tensor([miou]), areas=areas)


def test_two_protocols_never_share_a_column() -> None:
    hits = torch.randint(20, 80, (30,))
    shown = columns([result("m", hits, "a"), result("m", hits, "b")])
    assert [(column.protocol_hash, len(column.entries)) for column in shown] == [("a", 1), ("b", 1)]


def test_best_tied_and_oracle() -> None:
    hits = torch.randint(20, 70, (60,))
    close = hits + torch.randint(-4, 5, (60,))
    found = [result("best", hits + 1), result("tied", close), result("worse", hits - 15)]
    (column,) = columns([*found, result("probe", hits + 25, sees=ORACLE)])
    marks = {entry.method: (entry.best, entry.tied) for entry in column.entries}
    assert marks == {"best": (True, False), "tied": (False, True), "worse": (False, False), "probe": (False, False)}
    assert [entry.method for entry in column.ranked] == ["best", "tied", "worse"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": [{"name": "a", "config": "absent.yaml"}]}, "config 'absent.yaml' of method 'a' does not exist"),
        ({"methods": PLAN["methods"] * 2}, "names methods twice"),  # type: ignore[operator]
        ({"methodes": {}}, "unknown key in '{plan}': 'methodes'. Did you mean 'methods'"),
        ({"methods": [{"name": "a", "confg": "x"}]}, "unknown key in methods[1] of '{plan}': 'confg'. Did you mean 'config'"),
        ({"methods": []}, "'{plan}' names no methods; there is nothing to compare"),
        ({"benchmarks": None}, "'{plan}' names no benchmarks"),
        ({"methods": {"name": "a"}}, "methods of '{plan}' are no list"),
        ({"methods": ["sclip"]}, "methods[1] of '{plan}' is 'sclip'; write 'key: value' lines"),
        ({"benchmarks": [OBJECTS, OBJECTS]}, "names benchmarks twice: objects"),
        ({"methods": [SCLIP | {"benchmarks": ["object"]}]}, "unknown benchmark of method 'SCLIP' 'object'. Did you mean"),
        ({"methods": [SCLIP | {"benchmarks": []}]}, "method 'SCLIP' of '{plan}' has no seeds or no benchmarks"),
        ({"title": None}, "title"),
        ({"seeds": "many"}, "seeds: 'many' is not a list"),
        ({"seeds": [-1]}, "seeds of Comparison is -1; it must be a whole number from 0 up"),
        ({"seeds": []}, "method 'SCLIP' of '{plan}' has no seeds"),
        ({"pictures": -1}, "pictures of Comparison is -1"),
        ({"benchmarks": [OBJECTS | {"options": {"pictures": 0}}]}, "benchmark 'objects': pictures of Shapes is 0; it must"),
        ({"benchmarks": [OBJECTS | {"data": "Shapez"}]}, "unknown datamodule 'Shapez'"),
        ({"benchmarks": [OBJECTS | {"protocol": "shapez"}]}, "unknown protocol 'shapez'"),
    ],
)
def test_mistakes_in_the_plan(change: dict, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN | change))
    assert cli.main(["compare", "--config", str(tmp_path / "plan.yaml"), "--output", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message.replace("{plan}", str(tmp_path / "plan.yaml")) in lines[0]
    assert not list((tmp_path / "out").glob("kept/*"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"title: [1", "is no valid YAML in line 1, column 10"),
        (b"title: !!python/object/apply:os.system ['touch evil']", "could not determine a constructor for the tag"),
        (b"\xff\xfe\x00\x01", "is no YAML file: it holds bytes that are no text"),
        (b"just words", "holds no options"),
        (b"", "holds no options"),
    ],
)
@pytest.mark.parametrize("command", ["compare", "test"])
def test_a_config_that_is_none(
    command: str,
    content: bytes,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plan.yaml").write_bytes(content)
    assert cli.main([command, "--config", "plan.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: 'plan.yaml' ")
    assert message in line
    assert not Path("evil").exists()


def test_the_whole_plan_is_checked_before_its_first_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A probe of 13 outputs, the last row, cannot be asked the 12 classes of the last column."""
    twelve = {"name": "twelve", "data": "Shapes", "protocol": "shapes", "options": {"vocabulary": "shapes12", "pictures": 4}}
    probe = {"name": "probe", "config": "configs/oracle/linear_probe.yaml", "fit": True}
    plan = PLAN | {"methods": [SCLIP, probe], "benchmarks": [OBJECTS, twelve]}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    assert cli.main(["compare", "--config", str(tmp_path / "plan.yaml"), "--output", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert "error: method 'probe' on benchmark 'twelve': LinearProbe has a closed head of 13 outputs" in printed.err
    assert "mIoU" not in printed.out


def test_a_full_disk_is_one_line_and_what_was_done_is_kept(tmp_path: Path) -> None:
    """A limit on the size of a file fails where a full disk does."""
    freeseg = {"name": "FreeSeg", "config": "configs/freeseg/shapes.yaml", "fit": True, "seeds": [0]}
    small = {"trainer.max_steps": 1, "data.train_pictures": 8, "data.train_batch_size": 4, "data.num_workers": 0}
    plan = PLAN | {"methods": [SCLIP, freeseg | {"set": small}]}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    options = ["compare", "--config", str(tmp_path / "plan.yaml"), "--output", str(tmp_path / "out")]
    limit = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT}, {LIMIT}))"
    code = f"import resource, cli; {limit}; raise SystemExit(cli.main({options}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False)
    errors = [line for line in done.stderr.splitlines() if not line.startswith("warning:")]
    assert done.returncode == 2
    assert len(errors) == 1, done.stderr
    assert f"error: cannot write '{tmp_path / 'out' / 'fits'}" in errors[0]
    assert "Nothing was replaced" in errors[0]
    assert len(list((tmp_path / "out" / "kept").glob("*.safetensors"))) == 1


def test_names_are_escaped(tmp_path: Path) -> None:
    """A formula, a cell border, a tag, and what LaTeX would run."""
    names = ["=cmd|' /C calc'!A1", "a | b <script>", "\\input{/etc/passwd}^~_&"]
    found = [replace(result("m", torch.randint(20, 70, (9,)), "a"), method=name, benchmark="new\nline") for name in names]
    plan = Comparison("A title\n\\input{x}", [], [])
    write_tables(found, plan, tmp_path)
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [row["method"] for row in rows] == [f"'{names[0]}", *names[1:]]
    assert rows[0]["miou"] == str(found[0].miou)  # numbers stay, negative ones too
    markdown, tex = ((tmp_path / f"results.{kind}").read_text() for kind in ("md", "tex"))
    cells = [re.split(r"(?<!\\)\|", line) for line in markdown.splitlines() if "calc" in line or "script" in line]
    assert [len(row) for row in cells] == [1 + 9 + 1] * 2  # borders left and right of nine cells
    assert "a \\| b \\<script\\>" in markdown
    assert "## new line" in markdown
    assert "\\textbackslash{}input\\{/etc/passwd\\}\\textasciicircum{}\\textasciitilde{}\\_\\& & " in tex
    assert tex.splitlines()[0].startswith("% A title \\input{x}. Bold")


def test_a_config_and_its_folder_must_exist() -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_plan(Path("absent.yaml"), commands.compare.parse_plan)


def test_a_checkpoint_is_scored_with_its_own_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And a checkpoint of another model is refused by name."""
    probe = ["--config", "configs/oracle/linear_probe.yaml", "--data.train_pictures=16", "--data.train_batch_size=8"]
    small = ["--data.num_workers=0", "--trainer.max_steps=2", "--trainer.enable_progress_bar=false"]
    saved = ["--trainer.enable_checkpointing=true", f"--trainer.default_root_dir={tmp_path / 'runs'}"]
    assert cli.main(["fit", *probe, *small, *saved]) == 0
    checkpoint = str(next(tmp_path.rglob("*.ckpt")))
    entry = {"name": "probe", "config": "configs/oracle/linear_probe.yaml", "checkpoint": checkpoint}
    out = run(tmp_path, PLAN | {"methods": [entry]})
    (row,) = csv.DictReader((out / "results.csv").open())
    untrained = run(tmp_path, PLAN | {"methods": [{**entry, "checkpoint": None}]}, "untrained")
    (other,) = csv.DictReader((untrained / "results.csv").open())
    assert row["weights"] != other["weights"]
    wrong = PLAN | {"methods": [{**entry, "config": "configs/training_free/sclip.yaml"}]}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(wrong))
    assert cli.main(["compare", "--config", str(tmp_path / "plan.yaml"), "--output", str(tmp_path / "wrong")]) == 2
    assert f"checkpoint '{checkpoint}' is of another model" in capsys.readouterr().err


def test_a_method_that_trains_on_words_is_trained_for_each_benchmark(tmp_path: Path) -> None:
    steps = {"trainer.max_steps": 1, "data.num_workers": 0}
    entry = {"name": "IFSeg", "config": "configs/ifseg/shapes.yaml", "set": steps, "fit": True, "fit_words": True}
    named = {**OBJECTS, "name": "everything", "options": {**OBJECTS["options"], "vocabulary": "shapes16"}}
    smoothed = {**OBJECTS, "name": "smoothed", "protocol": "shapes_neighbours"}  # the same words: the same training
    plan = {**PLAN, "methods": [entry], "benchmarks": [OBJECTS, named, smoothed], "seeds": [0]}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    assert cli.main(["compare", "--config", str(tmp_path / "plan.yaml"), "--output", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out" / "fits").iterdir())) == 2
    with (tmp_path / "out" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["benchmark"] for row in rows} == {"objects", "everything", "smoothed"}
    assert len({row["weights"] for row in rows}) == 2
