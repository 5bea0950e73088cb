"""Shell completion: the printed script is asked by a real shell, and knows what the commands' own help knows."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import cli
from commands.lightning import ZeroLabelCLI
from commands.list import KINDS
from commands.options import options_of

ASKED = [
    ("zerolabel compa", "compare"),
    ("zerolabel list v", "vocabularies"),
    ("zerolabel prepare c", "cityscapes coco context"),
    ("zerolabel test --model.rule na", "naclip"),
    ("zerolabel predict --imag", "--images"),
    ("zerolabel fit --trainer.precision bf16-", "bf16-true bf16-mixed"),
    ("zerolabel validate --model.protocol_values.refine p", "pamr"),
    ("zerolabel test --data.vocabulary voc", "voc20 voc21"),
    (
        "zerolabel test --config configs/training_free/s",
        " ".join(f"configs/training_free/{n}.yaml" for n in ["sc_clip", "sclip", "surgery"]),
    ),
    ("zerolabel compare -c configs/compare/if", "configs/compare/ifseg.yaml"),
]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    with pytest.MonkeyPatch.context() as patch:
        for shell in ("bash", "zsh", "fish"):
            printed: list[str] = []
            patch.setattr("builtins.print", lambda text, end="\n", printed=printed: printed.append(text))
            assert cli.main(["completion", shell]) == 0
            (folder / shell).write_text("".join(printed))
    return folder


def answered(shell: str, script: str, folder: Path) -> list[set[str]]:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, "-c", script], cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    assert not done.stderr
    return [set(line.split()) for line in done.stdout.splitlines()]


def test_bash_completes(scripts: Path) -> None:
    asked = [*ASKED, ("zerolabel test --model.rule = na", "naclip")]  # as bash splits --model.rule=na
    ask = 'ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _zerolabel; echo ${COMPREPLY[@]}; }'
    lines = [f"ask {line}" for line, _ in asked]
    script = "\n".join([f"source {scripts / 'bash'}", "complete -p zerolabel", ask, *lines])
    registered, *found = answered("bash", script, scripts)
    assert {"complete", "-F", "_zerolabel", "zerolabel"} <= registered
    assert found == [set(expected.split()) for _, expected in asked]


def test_fish_completes(scripts: Path) -> None:
    lines = [f"echo (complete -C '{line}' | string split -f 1 \\t)" for line, _ in ASKED if " -c " not in line]
    found = answered("fish", "\n".join([f"source {scripts / 'fish'}", *lines]), scripts)
    assert found == [set(expected.split()) for line, expected in ASKED if " -c " not in line]


def test_zsh_reads_its_script(scripts: Path) -> None:
    """Its line editor cannot be asked in a script; the tables can. By hand, with zsh/zpty, it completes the same."""
    asked = "_zerolabel_words test --model.rule; _zerolabel_options compare; echo $_comps[zerolabel]"
    setup = f"autoload -Uz compinit; compinit -u -D; source {scripts / 'zsh'}"
    rules, options, function = answered("zsh", f"{setup}; {asked}", scripts)
    assert {"naclip", "sclip"} <= rules
    assert {"--config", "--output", "--devices"} <= options
    assert function == {"_zerolabel"}


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict", "compare", "prepare voc"])
def test_every_option_of_the_help_is_known(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([*command.split(), "--help_all" if command in ZeroLabelCLI.subcommands() else "--help"])
    usage = capsys.readouterr().out.partition("\noptions:")[0]
    listed = set(re.findall(r"--[\w.]+", usage)) - {"--return_predictions"}  # which predict sets itself
    assert len(listed) > 2
    assert listed <= set(options_of(command.split()[0]))


def test_the_kinds_are_those_of_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    assert tuple(re.findall(r"^(\w+):$", capsys.readouterr().out, re.MULTILINE)) == KINDS


def test_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "tcsh"]) == 2
    assert "unknown shell 'tcsh'" in capsys.readouterr().err
    assert cli.main(["completion"]) == 0
    assert "usage: zerolabel completion" in capsys.readouterr().out
