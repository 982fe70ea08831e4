"""Examples and quickstart do what their pages say: every block of commands runs as written, as a user runs it."""

from __future__ import annotations

import os
import re
import shutil
import site
import socket
import subprocess
import time
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from clipperfs import Registry

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
NAMES = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
BLOCK = re.compile(r"<!-- runs in the tests -->\n```bash\n(.*?)```", re.DOTALL)
CLIPPERFS = "#!{python}\nfrom clipperfs.cli import main\nmain()\n"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # a busy machine imports scikit-learn thirty times


@dataclass
class Workshop:
    """A copy of ``examples/``, and an environment of its own in which commands run and packages can be installed."""

    place: Path
    port: int
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def registry(self) -> Registry:
        """Return the registry that :meth:`init` made, seen from the test."""
        return Registry(self.environment["CLIPPERFS_REGISTRY"])

    def init(self) -> Registry:
        """Make a registry and name it in the environment."""
        self.environment["CLIPPERFS_REGISTRY"] = str(self.place / "registry")
        return Registry.init(self.place / "registry")

    def run(self, script: str, folder: str, *, status: int = 0, **environment: str) -> str:
        """Run a script in bash in a folder of the copy, hold it to an exit status, and return all that it said."""
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.place / folder,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=280,
            check=False,
        )
        assert result.returncode == status, f"exit status {result.returncode}\n{result.stdout}"
        return result.stdout

    def run_blocks(self, page: Path, folder: str) -> str:
        """Run the blocks of a page in one shell. The daemon's port is the only thing that is changed."""
        blocks = BLOCK.findall(page.read_text())
        assert blocks, f"{page} shows no commands"
        script = "\n".join(blocks).replace(":1337", f":{self.port}")
        # A block that fails in the middle must not leave its daemon behind.
        return self.run(f"trap 'clipperfs stop >/dev/null 2>&1 || true' EXIT\n{script}", folder)


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    shutil.copytree(
        EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info", "tour")
    )
    bin_folder = make_environment(tmp_path / "venv")
    port, admin_port = free_ports(2)
    (tmp_path / "tmp").mkdir()
    yield Workshop(
        tmp_path / "examples",
        port,
        {
            **os.environ,
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            "TMPDIR": str(tmp_path / "tmp"),
            "CLIPPERFS_PORT": str(port),
            "CLIPPERFS_ADMIN_PORT": str(admin_port),
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip reads "0" as: no isolation; there is no network to get a builder from
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_ROOT_USER_ACTION": "ignore",
            "PYTHONDONTWRITEBYTECODE": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            **{f"GIT_{who}_{what}": "ci@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        },
    )


def make_environment(place: Path) -> Path:
    """Make an environment that sees what the running one has, and into which more can be installed."""
    venv.create(place, symlinks=True)
    [packages] = (place / "lib").glob("python*/site-packages")
    # addsitedir, unlike a bare path, also follows the .pth file of an editable install.
    seen = [path for path in [*site.getsitepackages(), site.getusersitepackages()] if Path(path).is_dir()]
    (packages / "outer.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in seen))
    script = place / "bin" / "clipperfs"
    script.write_text(CLIPPERFS.format(python=place / "bin" / "python"))
    script.chmod(0o755)
    return script.parent


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


def wait_until(is_so: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline_s, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.05)


SAYS = {
    "ci_job": [
        r"published digits/[0-9a-f]{12}, record 1\n",
        r"digits/[0-9a-f]{12} is published already",
        r"worse of model digits was refused by quality: Not good enough",
        r"exit code 6",
        r"copied digits/copied to ",
        r"digits: copied is active \(was [0-9a-f]{12}\)",
    ],
    "custom_hook": [
        r"= 9 passed in",
        r"hook +class_recall +clipperfs_class_recall:ClassRecall",
        r"version 2 of model digits was refused by class_recall: .*'8' \(0\.000\)",
        r"see whether training-rows\.npy with 10000000 bytes belongs into the version",
        r"digits/3 would be refused by command",
        r"\nactive +1\n",
    ],
    "custom_wrapper": [
        r"module-finder: 1 is active",
        r"= 16 passed in",
        r'\n\[\{"module": "statistics", "score": 0\.\d+\}\]\n',
        r'\n\{"risk": 0\.25\}\n\{"risk": 0\.5\}\n',
    ],
    "digits": [
        r"accuracy of version 1 on 599 held-out rows: 0\.9",
        r"accuracy of version 2: 0\.99",
        r"version 3 of model digits was refused by quality",
        r"7  rollback  1 .* integrity passed, loadable passed",
        r"Done: [1-9]\d* answers, 0 failed requests\.",
        r": all as it should be",
    ],
    "images": [
        r'\n\{"label": "circle", "distance": 0\.\d+\}\n',
        r'"output":\{"label":"triangle",.*"default":false\}',
        r"python: square\n",
        r"(?s)no picture\n.*default output",
    ],
    "onnx": [r"\n450 rows: same digit in 450; probabilities differ by \d\.\de-0[5-9] at most"],
    "plain_shell": [
        r"digits/1 is complete: 2 files",
        r"digits: 1 is active",
        r"2 records, 1 version, 2 files, .*: all as it should be",
    ],
}


QUICKSTART_SAYS = [
    r"quality passed .* mae is 4",
    r'"output":\d+\.\d+,"default":false\}',
    r'\{"batch_predictions":\[\{',
    r"version 3 of model diabetes was refused by quality",
    r"exit code 6",
    r"rollback +1 .* complaints from the ward",
    r": all as it should be",
]


@pytest.mark.needs("curl")
def test_quickstart_runs_as_written(workshop: Workshop) -> None:
    (workshop.place / "empty").mkdir()
    said = workshop.run_blocks(ROOT / "docs" / "quickstart.md", "empty")
    for pattern in QUICKSTART_SAYS:
        assert re.search(pattern, said), f"no {pattern!r} in\n{said}"


@pytest.mark.needs("git", "rsync", "sha256sum")
@pytest.mark.parametrize("name", NAMES)
def test_readme_runs_as_written(workshop: Workshop, name: str) -> None:
    workshop.run("git init --quiet && git add . && git commit --quiet -m 'all examples'", ".")
    said = workshop.run_blocks(EXAMPLES / name / "README.md", name)
    for pattern in SAYS[name]:
        assert re.search(pattern, said), f"no {pattern!r} in\n{said}"


QUICK_TRAINING = """\
import os, sys
os.mkdir(sys.argv[1])
open(sys.argv[1] + "/model.yaml", "w").write("wrapper: {kind: noop, output: " + os.environ["VERSION"] + "}\\n")
"""


def test_job_while_somebody_rolls_back_does_not_overrule_them(workshop: Workshop) -> None:
    registry = workshop.init()
    train = workshop.place / "ci_job" / "train.py"
    train.write_text(QUICK_TRAINING)
    for version in ("a", "b"):
        assert f"digits/{version} is active" in workshop.run("./publish.sh", "ci_job", VERSION=version)

    train.write_text(f"{QUICK_TRAINING}os.system('clipperfs rollback digits --reason 3am')\n")
    said = workshop.run("./publish.sh", "ci_job", status=4, VERSION="c")
    assert "digits moved while this job ran" in said
    head = registry.head("digits")
    assert head is not None and head.record.state.active is not None
    assert head.record.state.active.version == "a", "what the person wanted at 3 a.m. still holds"

    said = workshop.run("./publish.sh", "ci_job", VERSION="c")
    assert "digits/c is published already" in said
    assert "digits/c is active" in said
    ops = [(record.op, record.evidence.version) for record in registry.history("digits", limit=3)]
    assert ops == [("activate", "c"), ("publish", "c"), ("rollback", "a")]


def test_job_without_a_registry_fails_before_it_trains(workshop: Workshop) -> None:
    said = workshop.run("./publish.sh", "ci_job", status=3, VERSION="a", CLIPPERFS_REGISTRY=str(workshop.place / "no"))
    assert "no registry at" in said
    assert "trained" not in said
    assert not (workshop.place / "no").exists()


@pytest.mark.needs("rsync")
def test_job_by_copy_is_adopted_activated_and_served_by_a_daemon(workshop: Workshop) -> None:
    registry = workshop.init()
    registry.policy("digits", {"activation": "on-publish"})
    registry.app_register("reader", input_type="doubles", default_output="none", slo_us=2_000_000, link="digits")
    workshop.run("clipperfs start", ".")
    try:
        workshop.run("./copy.sh", "ci_job", VERSION="a", TARGET=str(workshop.place / "registry"))
        wait_until(lambda: any(record.op == "activate" for record in registry.history("digits")), "the activation")
        ask = "clipperfs predict reader \"$(python -c 'print([0] * 64)')\" --json"
        wait_until(lambda: '"version": "a"' in workshop.run(ask, "."), "the answer of version a")
        workshop.run("./copy.sh", "ci_job", VERSION="a", TARGET=str(workshop.place / "registry"))
        assert registry.verify().ok, "a second run of the same job changes nothing"
    finally:
        workshop.run("clipperfs stop", ".")


@pytest.mark.needs("sha256sum")
def test_plain_shell_leaves_a_version_alone_that_is_there(workshop: Workshop) -> None:
    registry = workshop.init()
    publish = f"./publish.sh {workshop.place / 'registry'} words 1 noop strings weights"
    (workshop.place / "plain_shell" / "weights").write_text("first")
    workshop.run(publish, "plain_shell")
    (workshop.place / "plain_shell" / "weights").write_text("second")
    said = workshop.run(publish, "plain_shell", status=4)
    assert "take another version name" in said
    version = registry.show_version("words", "1")
    assert (version.state, version.size_bytes) == ("complete", len("first"))
    registry.seal("words", "1", activate=True)
    assert registry.verify().ok


@pytest.mark.parametrize("name", ["manifest.json", "READY", 'a"b', "naïve"])
def test_plain_shell_refuses_names_that_json_or_the_registry_would_choke_on(workshop: Workshop, name: str) -> None:
    workshop.init()
    (workshop.place / "plain_shell" / name).write_text("weights")
    publish = f"./publish.sh {workshop.place / 'registry'} words 1 noop strings '{name}'"
    assert "choose a plain name" in workshop.run(publish, "plain_shell", status=2)
    assert not (workshop.place / "registry" / "models").exists()


def test_every_example_says_what_it_shows() -> None:
    assert sorted(SAYS) == NAMES
    for name in NAMES:
        assert (EXAMPLES / name / "README.md").read_text().startswith("# "), name
