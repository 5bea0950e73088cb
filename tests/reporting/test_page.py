"""report.html: what a reader sees on it, by properties of the page and not by its text."""

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.colours import contrast
from evaluation.metrics import confusion, iou_of
from reporting import album
from reporting.cells import from_safe_cell, percent, safe_cell
from reporting.columns import ORACLE, columns
from reporting.page import write_report
from reporting.plan import BenchmarkEntry, Comparison
from reporting.result import Result
from reporting.scale import Scale
from reporting.worst import KEPT, LONGEST, Worst, worst_indices
from tests.browser import needs_chromium
from tests.reporting.test_compare import result

NAMES = ["background", "red disc", "blue star", "cat"]
SIZE = (40, 60)


class Page(HTMLParser):
    """The elements of a page: (tag, attributes, text directly inside) in their order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[list[Any]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append([tag, {name: value or "" for name, value in attrs}, ""])

    def handle_data(self, data: str) -> None:
        if self.elements:
            self.elements[-1][2] += data

    def of(self, tag: str, **attributes: str) -> list[tuple[dict[str, str], str]]:
        return [
            (found, text.strip())
            for name, found, text in self.elements
            if name == tag and all(value in found.get(key.rstrip("_"), "") for key, value in attributes.items())
        ]


def measured(method: str, draw: int, names: list[str] | None = None, **changed: Any) -> Result:
    """A made-up result of 14 pictures, each with a strip that is not counted, of which two are shown."""
    names = names or NAMES
    rng, panels, worst, areas = np.random.default_rng(draw), {}, {}, []
    for index in range(14):
        mask = torch.from_numpy(np.random.default_rng(index).integers(0, len(names), SIZE, dtype=np.uint8))
        mask[:, :20] = 255
        labels = torch.where(torch.from_numpy(rng.random(SIZE) < 0.05 * (index + 1)), mask, int(rng.integers(1, len(names))))
        labels[mask == 255] = 1  # a method says something there, too
        counts = confusion(labels, mask, len(names))
        areas.append(torch.stack([counts.diagonal(), counts.sum(0), counts.sum(1)]))
        picture = torch.full((3, *SIZE), 90, dtype=torch.uint8)
        parts = {f"{index}/picture": picture, f"{index}/mask": mask, f"{index}/prediction": labels.to(torch.uint8)}
        panels |= parts if index < 2 else {}
        worst |= parts
    stacked = torch.stack(areas)
    iou = iou_of(stacked.sum(0))
    own = {"names": names, "panels": panels, "worst": worst, "miou": iou.nanmean().item()}
    made = result(method, torch.tensor([1, 2]), **own | changed)
    made.areas, made.iou = stacked, iou
    return made


def rendered(folder: Path, results: list[Result], **options: Any) -> str:
    benchmarks = [BenchmarkEntry(name, "", "a") for name in dict.fromkeys(r.benchmark for r in results)]
    write_report(results, Comparison("A <page>", [], benchmarks, pictures=2, **options), folder)
    return (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    found = [measured("Z <b>", 1), measured("A", 2), measured("probe", 3, sees=f"masks {ORACLE}")]
    found += [measured(name, 4, NAMES[1:], benchmark="two", vocabulary_hash="w") for name in ("Z <b>", "A")]
    return rendered(tmp_path_factory.mktemp("page"), found, mean=True)


def opened(source: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))).astype(int)


def test_one_self_contained_page_in_the_order_of_the_plan(text: str) -> None:
    page = Page(text)
    assert not re.findall(r"https?:|@import|src=\"(?!data:)|<link", text)
    assert "Z &lt;b&gt;" in text
    assert not re.findall("Z <b>|A <page>", text)
    ids = {found["id"] for _, found, _ in page.elements if "id" in found}
    targets = [found["href"] for found, _ in page.of("a")]
    assert len(targets) >= 4
    assert {target.removeprefix("#") for target in targets} == ids
    rows = [row for row, _ in page.of("th", scope="row")]
    matrix = text[text.index("<tbody>") : text.index("</tbody>")]
    assert re.findall(r'scope="row">([^<]*)<', matrix) == ["Z &lt;b&gt;", "A", "probe"]
    assert len(rows) > 3


def test_miou_is_the_second_column_and_nothing_scrolls_sideways(text: str) -> None:
    heads = re.findall(r'<table class="sorted ([\w ]+)"><thead>(.*?)</thead>', text, re.DOTALL)
    second = [(kind, re.findall(r"<button>(.*?)</button>", head)[1]) for kind, head in heads]
    assert second[0] == ("matrix", "mean")
    assert [name for kind, name in second if kind == "scores"] == ["mIoU", "mIoU"]
    style = text[text.index("<style>") : text.index("</style>")]
    assert not re.findall(r"overflow(-x)?:|nowrap|min-width: [\d.]+(em|rem|%)", style)
    assert re.search(r"\.pictures \{ display: grid; grid-template-columns: repeat\(auto-fill", style)
    for narrow in ("max-width: 700px", "prefers-color-scheme: dark", "@media print"):
        assert narrow in style


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_all_text_is_read_in_light_and_in_dark(text: str, scheme: int) -> None:
    variables = [dict(re.findall(r"--(\w+): #(\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", text)]
    found = {name: tuple(bytes.fromhex(code)) for name, code in variables[scheme].items()}
    for ink in ("ink", "soft", "accent"):
        for ground in ("ground", "wash"):
            assert contrast(found[ink], found[ground]) >= 4.5, (ink, ground)
    assert contrast(found["bar"], found["wash"]) >= 1.5


def test_numbers_on_heat_cells_are_read(text: str) -> None:
    cells = re.findall(r"\.h\d+\{background:#(\w{6});color:#(\w{3})\}", text)
    assert len(cells) == 21
    assert min(contrast(tuple(bytes.fromhex(a)), tuple(bytes.fromhex(2 * b))) for a, b in cells) >= 4.5
    assert 'class="h' in text


def test_what_is_not_counted_is_grey_on_every_picture(text: str) -> None:
    maps = [(found["alt"], opened(found["src"])) for found, _ in Page(text).of("img", alt=", picture ")]
    assert len(maps) == 2 * (4 + 3)  # two pictures of the truth and three methods, and of the truth and two
    for alt, pixels in maps:
        strip = pixels[4:-4, 4:14]
        assert (strip.max(-1) - strip.min(-1)).max() < 12, alt  # no colour
        assert 170 < strip.mean() < 210  # the picture's grey, paled
        assert (np.ptp(pixels[:, 24:], -1) > 40).any()


def test_a_class_has_one_colour_on_the_whole_page(text: str) -> None:
    colours: dict[str, set[str]] = {}
    for colour, name in re.findall(r'<i class="swatch" style="background:(#\w+)"></i>([\w ]+)<', text):
        colours.setdefault(name, set()).add(colour)
    assert set(colours) == {*NAMES, "not counted"}
    assert all(len(found) == 1 for found in colours.values())


def test_alternative_texts_say_what_is_seen(text: str) -> None:
    images = [found for found, _ in Page(text).of("img")]
    plain = [found["alt"] for found in images if re.fullmatch(r"picture \d of (b|two)", found["alt"])]
    assert len(plain) == 4
    others = [found["alt"] for found in images if found["alt"] not in plain]
    assert all(re.search(r"(red disc|blue star|cat|background) \d+ %", alt) for alt in others)
    assert len(set(others)) == len(others)
    plots = Page(text).of("span", class_="plot")
    assert len(plots) == 2 * 5
    assert all("95 % interval" in found["aria-label"] for found, _ in plots)


def test_the_ten_worst_pictures_come_worst_first(text: str) -> None:
    expected = worst_indices(measured("A", 2).areas)
    part = text[text.index("The ten worst") :]
    shown = re.findall(r"<figcaption>picture (\d+): ([\d.]+)<", part[part.index("<h3>A</h3>") :])[:KEPT]
    assert shown == [(str(index), percent(miou)) for index, miou in expected]
    assert [float(miou) for _, miou in shown] == sorted(float(miou) for _, miou in shown)


def test_the_worst_pictures_are_found_while_they_pass() -> None:
    class Metric:
        areas: list[torch.Tensor]

    metric, found, scores = Metric(), Worst(), []
    metric.areas = []
    for start in range(0, 30, 3):  # batches of three
        masks = [torch.randint(0, 4, (200, 333)) for _ in range(3)]
        share = torch.rand(3)
        maps = [torch.where(torch.rand(mask.shape) < s, mask, 0) for mask, s in zip(masks, share, strict=True)]
        for labels, mask in zip(maps, masks, strict=True):
            counts = confusion(labels, mask, 4)
            metric.areas.append(torch.stack([counts.diagonal(), counts.sum(0), counts.sum(1)])[None])
            scores.append(iou_of(metric.areas[-1][0]).nanmean().item())
        batch = {"image": [torch.rand(3, 200, 333)] * 3, "mask": masks, "index": [start, start + 1, start + 2]}
        found.look(metric, batch, [type("Map", (), {"labels": labels}) for labels in maps])
    lowest = np.argsort(scores)[:KEPT].tolist()
    kept = found.panels()
    assert list(dict.fromkeys(int(key.partition("/")[0]) for key in kept)) == lowest
    assert {tuple(part.shape[-2:]) for part in kept.values()} == {(67, 111)}
    assert max(67, 111) <= LONGEST
    assert [index for index, _ in worst_indices(torch.cat(metric.areas))] == lowest


def test_a_page_has_a_size_that_pictures_cannot_exceed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [measured("A", 1), measured("B", 2)]
    whole = rendered(tmp_path, found)
    assert "are left out" not in whole
    budget = sum(len(source) for source in re.findall(r"data:image[^\"]+", whole)) // 2
    monkeypatch.setattr(album.Album.__init__, "__defaults__", (budget,))
    small = rendered(tmp_path, found)
    sources = re.findall(r"data:image[^\"]+", small)
    assert 0 < sum(map(len, sources)) <= budget
    left_out = int(re.findall(r"(\d+) pictures are left out", small)[0])
    assert len(sources) + left_out == whole.count("data:image")
    assert album.BUDGET < 20_000_000


def test_an_interval_can_be_seen_on_its_scale() -> None:
    (column,) = columns([measured("A", 1), measured("B", 2)])
    scale = Scale.of(column.entries)
    assert 0 <= min(entry.low for entry in column.entries) - scale.low < 0.01
    assert 0 <= scale.high - max(entry.high for entry in column.entries) < 0.01
    for entry in column.entries:
        places = {name: float(place.rstrip("%")) for name, place in scale.plot(entry).items()}
        assert -0.1 <= places["left"] <= places["point"] <= places["left"] + places["width"] <= 100.1
        assert places["width"] >= 5
    (same,) = columns([result("m", torch.tensor([100, 100]))])
    scale = Scale.of(same.entries)
    assert scale.plot(same.entries[0])["width"] == "0.0%"
    assert 0 <= scale.at(1) <= 100
    (single,) = columns([result("m", torch.tensor([40]))])  # one picture: no interval
    assert Scale.of(single.entries).plot(single.entries[0])["width"] == "0.0%"


def test_missing_numbers_look_alike_everywhere() -> None:
    assert [percent(fraction) for fraction in (None, float("nan"), 0.0, 0.12345)] == ["–", "–", "0.0", "12.3"]
    for name in ("SCLIP", "=cmd", "'quoted", "-1"):
        assert from_safe_cell(safe_cell(name)) == name


PROBE = """<script>
const box = part => part.getBoundingClientRect(), table = document.querySelector("table.scores");
const names = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent), orders = [names()];
for (let i = 0; i < 3; i++) { table.tHead.rows[0].cells[1].querySelector("button").click(); orders.push(names()); }
document.querySelectorAll("details").forEach(part => { part.open = true; });
document.title = JSON.stringify({
  wide: document.documentElement.clientWidth, needed: document.documentElement.scrollWidth,
  miou: box(table.tHead.rows[0].cells[1]).right, pictures: Math.max(...[...document.images].map(image => box(image).right)),
  cells: Math.max(...[...document.querySelectorAll("th, td")].map(cell => cell.scrollWidth - cell.clientWidth)),
  ground: getComputedStyle(document.body).backgroundColor, orders});
</script>"""


@needs_chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser_nothing_is_off_the_screen_and_a_click_sorts(width: int, text: str, tmp_path: Path) -> None:
    """A frame of that width, for a window of the browser has a least width."""
    (tmp_path / "page.html").write_text(text + PROBE)
    style, done = f"border:0;width:{width}px;height:3000px", "document.title = this.contentDocument.title"
    frame = f'<iframe src="page.html" style="{style}" onload="{done}">'
    (tmp_path / "frame.html").write_text(f"<!doctype html><title></title>{frame}")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--hide-scrollbars"]
    command = ["chromium", *options, "--window-size=1400,3000", "--dump-dom", f"file://{tmp_path}/frame.html"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    found = json.loads(re.findall(r"<title>(.*?)</title>", printed)[0])
    assert found["wide"] == width
    assert max(found[name] for name in ("needed", "miou", "pictures")) <= width
    assert found["cells"] <= 0
    planned, falling, rising, back = found["orders"]
    assert planned == back
    assert rising == falling[::-1] != falling


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_script_sorts_and_takes_it_back() -> None:
    script = Path("reporting/page.js.j2").read_text()
    assert len(script) < 2500
    rows = [[0, "10.5"], [1, ""], [2, "9.25"], [3, "100"], [4, "9.25"]]
    words = [[0, "b"], [1, "A"], [2, "c"]]
    calls = [(rows, -1), (rows, 1), (rows, 0), (words, 1)]
    code = script + "".join(f"\nconsole.log(JSON.stringify(inOrder({json.dumps(r)}, {turn})))" for r, turn in calls)
    done = subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found == [[3, 0, 2, 4, 1], [2, 4, 0, 3, 1], [0, 1, 2, 3, 4], [1, 0, 2]]
