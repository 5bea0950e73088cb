"""The page of ``zerolabel serve``: it gives what ``predict`` writes, to this machine alone, and leaves nothing behind."""

import io
import json
import re
import signal
import socket
import tempfile
import threading
import time
import weakref
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from starlette.testclient import TestClient

import cli
from commands import serve
from commands.serving import work as works
from commands.serving.app import application
from commands.serving.menu import PHOTOGRAPHS, SHAPES, Choice, menu
from commands.serving.work import Workplace, picture_name, unlike
from common import images
from datamodules import Shapes
from methods import METHODS
from tests.browser import Browser, needs_chromium
from tests.commands.test_cli import fails
from tests.processes import Started

SCLIP, NACLIP = (Choice(n, SHAPES, n, ("--config", f"configs/training_free/{n}.yaml")) for n in ("sclip", "naclip"))
WORDS = "red dotted triangle; green dotted star, star; grass"
QUESTION = {"method": "sclip", "classes": WORDS, "background": False}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of the embedded benchmark, one of them a JPEG."""
    folder = tmp_path_factory.mktemp("pictures")
    scenes = Shapes(pictures=2).benchmark("test")
    for i, name in enumerate(("a b.png", "ü.jpg")):
        Image.fromarray(scenes[i]["image"].permute(1, 2, 0).numpy()).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(cli.__file__).parent)
        with Workplace(tmp_path_factory.mktemp("work"), [SCLIP, NACLIP]) as made:
            yield made


@pytest.fixture(scope="module")
def client(work: Workplace) -> TestClient:
    return TestClient(application(work), base_url="http://127.0.0.1:8000", raise_server_exceptions=False)


def asked(client: TestClient, **changed: Any) -> int:
    return int(client.post("/runs", json=QUESTION | changed).raise_for_status().json()["run"])


def refused(response: Any, status: int = 400) -> str:
    """The one line of an answer that is a mistake."""
    assert response.status_code == status, response.text
    (line,) = response.json()["error"].splitlines()
    return str(line)


def unzipped(client: TestClient, run: int, what: str) -> dict[str, bytes]:
    href = client.post(f"/runs/{run}/downloads/{what}").raise_for_status().json()["href"]
    with zipfile.ZipFile(io.BytesIO(client.get(href).raise_for_status().content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_it_gives_what_predict_writes(client: TestClient, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--images", str(pictures), "--classes", WORDS, "--output", str(out), "--export", "coco,voc", "--instances"]
    assert cli.main(["predict", *SCLIP.options, *options, "--trainer.accelerator=cpu"]) == 0
    expected = {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*") if file.is_file()}
    run = asked(client, instances="true")
    for file in sorted(pictures.iterdir()):
        row = client.post(f"/runs/{run}/pictures", params={"name": file.name}, content=file.read_bytes()).json()
        assert client.get(f"/runs/{run}/labels/{row['index']}").content == expected[f"labels/{file.name}.png"]
    given = unzipped(client, run, "labels") | unzipped(client, run, "coco") | unzipped(client, run, "voc")
    about_the_run = ("predictions.html", "config_predict.yaml", "environment.json")
    assert given == {name: content for name, content in expected.items() if name not in about_the_run}
    assert "pictures/ü.jpg" in unzipped(client, run, "labelme")  # whose files say where the pictures lie
    assert "unknown download 'fiftyone'" in refused(client.post(f"/runs/{run}/downloads/fiftyone"))


class Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))


def test_the_page_needs_nobody_else_and_names_its_fields(client: TestClient) -> None:
    answer = client.get("/")
    policy, elements = answer.headers["content-security-policy"], Elements(answer.text).found
    assert not re.findall(r"https?://|@import|url\(", answer.text)
    assert not [at for _, at in elements for name in at if name == "style" or name.startswith("on")]
    (nonce,) = set(re.findall(r'nonce="([^"]+)"', answer.text))
    assert set(policy.split("; ")) >= {"default-src 'none'", f"script-src 'nonce-{nonce}'", "connect-src 'self'"}
    assert "unsafe" not in policy
    assert client.get("/").text.count(nonce) == 0  # each has its own
    labelled = {at["for"] for tag, at in elements if tag == "label" and "for" in at}
    fields = [at for tag, at in elements if tag in ("textarea", "select") or at.get("type") == "file"]
    assert {at["id"] for at in fields} == labelled
    described = {name for _, at in elements for name in at.get("aria-describedby", "").split()}
    assert described <= {at.get("id") for _, at in elements}
    assert [at["label"] for tag, at in elements if tag == "optgroup"] == [SHAPES]


@pytest.mark.parametrize("path", ["/", "/runs/1/labels/0", "/absent"])
def test_another_name_of_this_machine_is_refused(client: TestClient, path: str) -> None:
    for host in ("evil.example:8000", "127.0.0.1.evil.example:8000", "10.0.0.1:8000", "[::1]:8000", ""):
        assert "127.0.0.1" in refused(client.get(path, headers={"host": host}), 403)
    assert client.get("/", headers={"host": "localhost:8123"}).status_code == 200
    assert client.get("/", headers={"host": "127.0.0.1"}).status_code == 200  # port 80


def test_another_page_is_refused(client: TestClient) -> None:
    other = [
        {"origin": "http://127.0.0.1:9000"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"origin": "http://evil"},
    ]
    for headers in other:
        assert "another page" in refused(client.post("/runs", json=QUESTION, headers=headers), 403)
    own = {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}
    assert client.post("/runs", json=QUESTION, headers=own).status_code == 200
    assert client.post("/runs", json=QUESTION, headers=own).headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"classes": ""}, "the class list is empty"),
        ({"classes": "cat; cat"}, "duplicate classes"),
        ({"classes": "cat;; dog"}, "an empty class"),
        ({"classes": "/etc/passwd.txt"}, "is the name of a file"),
        ({"classes": "../own.yaml\n"}, "is the name of a file"),
        ({"method": "sclop"}, "unknown method 'sclop'. Did you mean 'sclip'"),
        ({"unsure": "2"}, "--unsure is 2.0; it must be a number from 0 to 1"),
        ({"min_area": "few"}, "--min_area is 'few'"),
        ({"classes": "a" * 100_000}, "longer than"),
    ],
)
def test_mistakes_are_one_line(client: TestClient, changed: dict[str, str], message: str) -> None:
    assert message in refused(client.post("/runs", json=QUESTION | changed))


def test_what_is_no_picture_leaves_nothing_and_the_next_goes_on(
    client: TestClient, work: Workplace, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, good = asked(client), (pictures / "a b.png").read_bytes()

    def sent(name: str, content: bytes = good) -> Any:
        return client.post(f"/runs/{run}/pictures", params={"name": name}, content=content)

    assert "no picture by its name" in refused(sent("a.svg"))
    assert refused(sent("broken.png", good[:200])).startswith("picture 'broken.png' cannot be read")
    assert "it is no picture" in refused(sent("text.png", b"text"))
    with monkeypatch.context() as patch:
        patch.setattr(images, "MAX_PIXELS", 100)
        assert "megapixels" in refused(sent("large.png"))
    with monkeypatch.context() as patch:
        patch.setattr("commands.serving.app.MAX_BYTES", len(good) - 1)
        assert "larger than" in refused(sent("long.png"))
    assert sent("../../a b.png").json()["picture"] == "a b.png"
    assert sent("a b.jpg").json()["picture"] == "a b (2).jpg"
    left = {file.relative_to(work.folder / str(run)).as_posix() for file in (work.folder / str(run) / "pictures").iterdir()}
    assert left == {"pictures/a b.png", "pictures/a b (2).jpg"}
    assert not list(work.folder.glob("upload-*"))
    failed = json.loads(unzipped(client, run, "labels")["predictions.json"])["failed"]
    assert [one["picture"] for one in failed] == ["broken.png", "text.png", "large.png"]
    monkeypatch.setattr(works, "MAX_PICTURES", 5)
    assert "takes 5 pictures" in refused(sent("more.png"))


def test_names_are_fit_for_files() -> None:
    assert picture_name("C:\\x\n/../a:b\0.PNG") == "a_b_.PNG"
    assert len(picture_name("ü" * 300 + ".png").encode()) <= 130
    assert unlike("a.png", ["a.jpg", "b.png", "a (2).png"]) == "a (3).png"


def test_older_runs_go(client: TestClient, work: Workplace) -> None:
    first = asked(client)
    later = [asked(client) for _ in range(works.RUNS_KEPT)]
    assert "no longer kept" in refused(client.post(f"/runs/{first}/pictures", params={"name": "a.png"}, content=b""))
    assert {path.name for path in work.folder.iterdir()} == {str(run) for run in later}


def test_one_model_in_memory_and_one_picture_at_a_time(
    client: TestClient, work: Workplace, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [asked(client, method=name) for name in ("sclip", "naclip")]
    first, at_once, most = weakref.ref(work.model.of(SCLIP)), 0, []
    work.model.of(NACLIP)
    assert first() is None
    inner = type(work.model.model).label_maps

    def counted(model: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal at_once
        at_once += 1
        most.append(at_once)
        time.sleep(0.05)
        found = inner(model, *arguments, **options)
        at_once -= 1
        return found

    monkeypatch.setattr(type(work.model.model), "label_maps", counted)
    content, answers = (pictures / "a b.png").read_bytes(), []

    def send(run: int) -> None:
        answers.append((run, client.post(f"/runs/{run}/pictures", params={"name": "a.png"}, content=content).json()))

    threads = [threading.Thread(target=send, args=(run,)) for run in runs * 3]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert most == [1] * 6
    by_run = [{json.dumps(row["classes"]) for at, row in answers if at == run} for run in runs]
    assert [len(found) for found in by_run] == [1, 1]  # each by its own method, whatever came between
    assert by_run[0] != by_run[1]


def test_a_fault_of_ours_does_not_end_the_page(
    client: TestClient, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fault(*arguments: Any) -> None:
        raise RuntimeError("out of\nmemory")

    run = asked(client)
    monkeypatch.setattr(works, "read_image", fault)
    answer = client.post(f"/runs/{run}/pictures", params={"name": "a.png"}, content=b"x")
    assert "RuntimeError: out of memory" in refused(answer, 500)
    assert "Traceback" in capsys.readouterr().err
    assert client.get("/").status_code == 200


def test_a_picture_that_is_done_after_the_end_is_not_written(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Workplace(tmp_path, [SCLIP]) as work:
        number, run = work.new_run("sclip", WORDS, False, {})
        model = work.model.of(SCLIP)
        found = model.label_maps([torch.zeros(3, 8, 8)], with_score=True)

        def ends(*arguments: Any, **options: Any) -> Any:
            work.__exit__()
            return found

        monkeypatch.setattr(type(model), "label_maps", ends)
        upload = work.upload()
        upload.write_bytes((pictures / "a b.png").read_bytes())
        with pytest.raises(ValueError, match="was stopped"):
            work.segment(number, "a.png", upload)
        assert not run.out.exists()


def test_the_menu_has_what_needs_no_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    without = {choice.title: choice for choice in menu([])}
    assert (next(iter(without)), without["sclip"].group) == ("packaged tower", SHAPES)
    assert not [title for title in without if "+" in title or title == "groupvit"]
    for repository in ("timm--vit_base_patch16_clip_224.openai", "nvidia--groupvit-gcc-yfcc"):
        file = tmp_path / f"models--{repository}" / "snapshots" / "1" / "model.safetensors"
        file.parent.mkdir(parents=True)
        file.touch()
    cached = {choice.title: choice for choice in menu(["--config", "own/a.yaml"])}
    assert next(iter(cached)) == "command line"
    assert {"groupvit", "sclip + clip_vit_b16", "gem + clip_vit_b16"} <= cached.keys() - without.keys()
    assert cached["sclip + clip_vit_b16"].group == cached["groupvit"].group == PHOTOGRAPHS
    assert not [title for title in cached if "siglip2" in title or "tips" in title]


def test_a_command_line_of_a_method_is_that_of_predict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = works.load([*SCLIP.options, "--model.rule", "gem", "--model.protocol_values={temperature: 7}"])
    assert (model.hparams["rule"], model.protocol.decision.temperature) == ("gem", 7)


def test_mistakes_of_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert f"port {taken.getsockname()[1]} cannot be had" in fails(capsys, "serve", "--port", str(taken.getsockname()[1]))
    assert "port 70000 cannot be had" in fails(capsys, "serve", "--port", "70000")
    assert "--port" in fails(capsys, "serve", "--port", "http")
    assert "absent.yaml" in fails(capsys, "serve", "--port", "0", "--config", "absent.yaml")
    assert "sclop" in fails(capsys, "serve", "--port", "0", *SCLIP.options, "--model.rule", "sclop")
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'zerolabel[serve]'" in fails(capsys, "serve")


def let_segmenting_wait() -> None:
    tempfile.tempdir = None  # of the tests' own environment
    setattr(METHODS["TrainingFree"], "label_maps", lambda *_, **__: time.sleep(60))  # noqa: B010


@pytest.mark.parametrize(("sent", "code", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")])
def test_it_stops_at_once_and_leaves_nothing(sent: signal.Signals, code: int, name: str, tmp_path: Path) -> None:
    """Also while a picture is segmented."""
    there = {"TMPDIR": str(tmp_path)}
    run = Started("cli.py", "serve", "--port=0", *SCLIP.options, environment=there, before=let_segmenting_wait)
    port = int(run.says(r"http://127.0.0.1:(\d+)/"))
    host = f"Host: 127.0.0.1:{port}\r\nConnection: close\r\nContent-Length:"
    pixels = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(pixels, "PNG")
    first = b'{"method": "command line", "classes": "cat; dog"}'
    for path, body, waits in (("/runs", first, True), ("/runs/1/pictures?name=a.png", pixels.getvalue(), False)):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(f"POST {path} HTTP/1.1\r\n{host} {len(body)}\r\n\r\n".encode() + body)
        assert not waits or b'"run":1' in b"".join(iter(lambda: connection.recv(4096), b""))  # noqa: B023
    while not list(tmp_path.glob("*/1/pictures/a.png")):
        time.sleep(0.05)
    run.send_signal(sent)
    assert (run.wait(30), run.stderr.strip()) == (code, f"stopped by {name}; its temporary files are removed")
    assert not list(tmp_path.glob("zerolabel-*"))


@needs_chromium
def test_in_a_browser(work: Workplace, pictures: Path, tmp_path: Path) -> None:
    """Files are dropped, words typed, Enter pressed on the button; the answer is read, by its text and on its picture."""
    at = serve.listening(0)
    server = serve.server(application(work))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [at]})
    thread.start()
    (tmp_path / "broken.png").write_bytes(b"no picture")
    files = [pictures / "a b.png", tmp_path / "broken.png", pictures / "ü.jpg"]
    try:
        with Browser(tmp_path / "profile") as browser:
            browser.look(f"http://127.0.0.1:{at.getsockname()[1]}/")
            browser.drop(files, "#drop")
            assert browser.ask("part('chosen').textContent") == "3: a b.png, broken.png, ü.jpg"
            browser.ask("part('classes').focus()")
            browser.call("Input.insertText", text=WORDS)
            browser.ask("part('go').focus()")
            browser.key("Enter", 13)
            browser.wait("/segmented/.test(part('status').textContent)")
            assert browser.ask("part('status').textContent") == "2 of 3 pictures segmented, 1 failed"
            assert "broken.png' cannot be read" in browser.ask("part('errors').textContent")
            browser.wait("[...document.images].every(image => image.complete && image.naturalWidth)")
            found = json.loads(browser.ask("JSON.stringify([...document.querySelectorAll('article')].map(a => a.innerText))"))
            run = next(reversed(work.runs.values()))
            for text, row in zip(found, run.rows, strict=True):
                assert text.startswith(row["picture"])
                for name, of_class in row["classes"].items():
                    area = f"{100 * of_class['area']:.0f} %" if of_class["area"] >= 0.005 else "< 1 %"
                    assert re.search(rf"{name}\s+{area}\s+{of_class['score']:.2f}", text), text
            for width in (1280, 390):
                browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
                assert browser.ask("document.documentElement.scrollWidth") <= width
            named = browser.ask("[...document.querySelectorAll('img')].every(image => image.alt)")
            assert named is True
            outside = [
                event["params"]["request"]["url"] for event in browser.events if event["method"] == "Network.requestWillBeSent"
            ]
            assert {url.split("/")[2] for url in outside if url.startswith("http")} == {f"127.0.0.1:{at.getsockname()[1]}"}
            logged = [event["params"]["entry"] for event in browser.events if event["method"] == "Log.entryAdded"]
            assert not [entry for entry in logged if "400" not in entry["text"]]  # nothing that the policy forbids
    finally:
        server.should_exit = True
        thread.join(20)
