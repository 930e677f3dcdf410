"""A whole report: what it shows, that it can be made again from its own runs, and that its HTML needs nothing else."""

import json
import re
import signal
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt
from omegaconf import OmegaConf

from composing import settled
from emanet.cli.arguments import quoted
from emanet.common.errors import ConfigError
from emanet.config.schema import PROJECT_ROOT
from emanet.studies.report.build import write_report
from emanet.studies.report.figures import draw
from emanet.studies.report.page import escaped
from emanet.studies.report.study import group
from emanet.studies.runs import gather
from fake_runs import write_run, write_sweep


def report(*overrides: str) -> Path:
    """Report as the command line does; the Markdown page."""
    return write_report(settled(*map(quoted, overrides), name="report"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Invented runs of three studies in ``runs``, and the report on them in ``report``."""
    folder = tmp_path_factory.mktemp("report")
    runs = folder / "runs"
    write_sweep(runs / "sweep_K", "model.K", {32: (0.40, 0.44, 0.42), 64: (0.43, 0.45, 0.47)}, study="K")
    error = f"ValueError: no | file\n{folder}/somewhere/x.png"
    write_run(runs / "sweep_K" / "x", 0.9, study="K", values={"model.K": 64}, seed=3, status="failed", error=error)
    write_run(runs / "sweep_K" / "y", None, study="K", values={"model.K": 32}, seed=3)
    for T in (1, 3):
        evaluations = {"1": 0.3 + T / 100, "3": 0.5}
        write_run(runs / f"sweep_T/{T}", 0.5, study="T", values={"model.T": T}, evaluations=evaluations)
    for number in (0, 1):
        write_run(runs / f"single/{number}", 0.4 + number / 10, study=None, seed=number)
    report(f"runs={runs}", f"output={folder}/report")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class References(HTMLParser):
    """What a page loads or links to, the names of its places, its tags and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded, self.links, self.names, self.tags, self.text = [], [], set(), set(), ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for key, value in attrs:
            if key in ("src", "srcset", "data", "poster", "background") or (key, tag) == ("href", "link"):
                self.loaded.append(value or "")
            elif key == "href":
                self.links.append(value or "")
            elif key == "id":
                self.names.add(value)

    def handle_data(self, data: str) -> None:
        self.text += data


# --- the page -------------------------------------------------------------------------------------------------------


def test_every_study_has_its_section_and_the_runs_without_a_result_their_reason(base):
    text = (base / "report" / "report.md").read_text()
    assert re.findall(r"^## (.*)$", text, flags=re.M) == ["K (invented)", "T (invented)", "invented"]
    assert "| sweep_K/x | failed: ValueError: no \\| file x.png |" in text
    assert "| sweep_K/y | no summary: it ended before its first step, or has not come to it |" in text
    assert "- **Runs:** 8, 6 of them finished;" in text
    assert text.count("**How to read the tables.**") == text.count("- **Data:**") == 1
    assert "| 64 (default) | 3 of 4 | 45.00 ± 2.00 |" in text
    assert "| 32 | 3 of 4 | 42.00 ± 2.00 | 62.00 ± 2.00 | −3.00 \\[−7.97, +1.97\\] |" in text  # noqa: RUF001
    assert "```\npython src/train.py name=invented" in text


def test_the_report_made_again_from_its_own_runs_is_the_same_byte_by_byte(base, tmp_path):
    report(f"runs={base}/report/runs.jsonl", f"output={tmp_path}/again")
    before, after = contents(base / "report"), contents(tmp_path / "again")
    assert before == after
    assert {Path(name).suffix for name in before} == {".md", ".html", ".csv", ".jsonl", ".svg", ".png"}
    assert not [name for name, content in before.items() if str(base).encode() in content], "nothing of the machine"


def test_the_page_on_our_ablations_is_what_their_runs_give(tmp_path):
    docs = PROJECT_ROOT / "docs"
    overrides = ["title='Ablations on two CPU cores'", f"notes={docs}/ablations_notes.md", "formats=[svg]"]
    places = [f"output={tmp_path}/ablations", f"page={tmp_path}/ablations.md"]
    made = report(f"runs={docs}/ablations/runs.jsonl", *places, *overrides)
    assert made.read_text() == (docs / "ablations.md").read_text()


def test_the_links_of_the_page_lead_to_files_wherever_the_page_lies(base, tmp_path):
    runs, output = base / "report" / "runs.jsonl", tmp_path / "docs" / "ablations of K"
    place = tmp_path / "docs" / "sub" / "ablations.md"
    assert report(f"runs={runs}", f"output={output}", f"page={place}", "formats=[svg]") == place
    links = References(MarkdownIt().render(place.read_text()))
    files = [link for link in links.links + links.loaded if not link.startswith("#")]
    assert len(files) > 6
    assert all((place.parent / unquote(link)).is_file() for link in files)
    assert [link for link in links.links if link.startswith("#")] == ["#k-invented", "#t-invented", "#invented"]


def test_the_html_page_loads_nothing_from_outside(base):
    text = (base / "report" / "report.html").read_text()
    found = References(text)
    assert len(found.loaded) == len(list((base / "report" / "figures").glob("*.svg"))) == 3
    assert all(link.startswith("data:image/svg+xml;base64,") for link in found.loaded)
    assert found.links
    assert all(link.startswith("#") and link[1:] in found.names for link in found.links)
    assert not found.tags & {"script", "link", "iframe", "object"}
    assert not re.search(r"@import|url\(", text)
    assert '<td style="text-align:right">45.00 ± 2.00</td>' in text


NASTY = ["![f](../private.png)", "_target_", "<script>alert(1)</script>", "`a` | *b* [c](d) &lt; $x$", "https://x.org"]


@pytest.mark.parametrize("name", NASTY)
def test_markdown_shows_a_name_as_it_is(name):
    html = MarkdownIt("commonmark").enable("table").render(f"| a |\n| --- |\n| {escaped(name)} |\n\n## {escaped(name)}")
    found = References(html)
    assert found.text.split("\n") == ["", "", "", "a", "", "", "", "", name, "", "", "", name, ""]
    assert found.tags == {"table", "thead", "tr", "th", "tbody", "td", "h2"}
    assert "://" not in escaped(name), "GitHub makes links of addresses"


def test_names_neither_embed_pictures_nor_end_the_report(tmp_path):
    (tmp_path / "private.png").write_bytes(b"secret picture")
    for place, name in enumerate(NASTY):
        values = {"name": name, "dataset.name": "${oc.env:HOME}"}
        write_run(tmp_path / "runs" / str(place), 0.5, study=None, values=values, command=f"python ``` {name}")
        write_run(tmp_path / "runs" / f"{place}b", None, study=None, values=values | {"model.norm": name})
    page = report(f"runs={tmp_path}/runs", f"output={tmp_path}/report")
    html = References((tmp_path / "report" / "report.html").read_text())
    markdown = References(MarkdownIt("commonmark").enable("table").render(page.read_text()))
    for found in (html, markdown):
        assert all(name in found.text for name in [*NASTY, "${oc.env:HOME}"])
        assert found.loaded == []
        assert "script" not in found.tags
        assert not any(link.startswith("http") for link in found.links)
    assert not any(link.endswith(".png") for link in html.links + markdown.links)


@pytest.mark.parametrize("key", ["name", "study", "seed", "model.K", "dataset.name", "init_from", "swept", "command"])
def test_nothing_of_a_foreign_run_is_resolved(tmp_path, monkeypatch, key):
    monkeypatch.setenv("EMANET_TEST_SECRET", "hidden-value")
    for number in (0, 1):
        folder = write_run(tmp_path / "runs" / f"{number}", 0.5, values={"model.T": number}, seed=number)
        config = OmegaConf.load(folder / "config.yaml")
        secret = "${oc.env:EMANET_TEST_SECRET}"
        OmegaConf.update(config, key, [secret, "model.T"] if key == "swept" else secret)
        OmegaConf.save(config, folder / "config.yaml")
        summary = json.loads((folder / "summary.json").read_text())
        summary["command"] += f" model.K={secret}" if key == "command" else ""
        (folder / "summary.json").write_text(json.dumps(summary))
    report(f"runs={tmp_path}/runs", f"output={tmp_path}/r", "formats=[svg]")
    found = contents(tmp_path / "r")
    assert not [name for name, content in found.items() if b"hidden-value" in content]
    assert b"EMANET_TEST_SECRET" in found["runs.jsonl"], "it stays text"


# --- notes ----------------------------------------------------------------------------------------------------------


def test_notes_stand_at_the_top_and_in_their_sections(base, tmp_path):
    notes = "# Title\n\nTop, [web](https://example.org/x), [file](y.md), ![p](z.png).\n\n## K\n\n**About** K.\n"
    (tmp_path / "notes.md").write_text(notes)
    overrides = [f"runs={base}/report/runs.jsonl", f"output={tmp_path}/r", f"notes={tmp_path}/notes.md"]
    report(*overrides, "formats=[png]")
    parts = (tmp_path / "r" / "report.md").read_text().split("\n## ")
    assert "Top, [web](https://example.org/x)" in parts[0]
    assert parts[1].startswith("K (invented)\n\n**About** K.\n")
    assert not any("About" in part for part in (parts[0], parts[2], parts[3]))
    text = (tmp_path / "r" / "report.html").read_text()
    assert "<strong>About</strong> K." in text
    assert [link for link in References(text).links if not link.startswith("#")] == ["https://example.org/x"]
    assert {link[:22] for link in References(text).loaded} == {"data:image/png;base64,"}


@pytest.mark.parametrize(("text", "message"), [("## Q\nx", "'## Q' names no section"), (None, "cannot be read")])
def test_notes_that_fit_nowhere_are_refused(base, tmp_path, text, message):
    if text is not None:
        (tmp_path / "notes.md").write_text(text)
    overrides = [f"runs={base}/runs/single", f"output={tmp_path}/r", f"notes={tmp_path}/notes.md", "formats=[png]"]
    with pytest.raises(ConfigError, match=message):
        report(*overrides)


# --- configuration --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "runs=FOLDER or wandb=ENTITY/PROJECT is missing"),
        (["runs=/nowhere"], "runs=/nowhere: no such folder, or runs.jsonl"),
        (["wandb=emanet", "output=x"], "wandb must be entity/project, got 'emanet'"),
        (["runs=x", "formats=[pdf]"], "formats must be a list of svg, png and pdf, with svg or png among them"),
    ],
)
def test_a_report_on_nothing_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        report(*overrides)


def test_without_a_place_the_report_lies_beside_the_runs(tmp_path):
    write_run(tmp_path / "a=1" / "run", 0.5, study=None)
    made = report(f"runs={tmp_path}/a=1", "formats=[png]")
    assert made == tmp_path / "a=1" / "report" / "report.md"
    before = made.read_text()
    report(f"runs={tmp_path}/a=1", "formats=[png]")
    assert made.read_text() == before, "the report itself is no run"


def test_the_script_writes_the_report_and_says_where(zygote, base, tmp_path):
    arguments = [f"runs=[{base}/runs/sweep_T,{base}/runs/single]", "output=here", "title='Of K=64: 50 %'"]
    output = zygote.run(*arguments, "formats=[png]", cwd=tmp_path, script="report.py")
    assert "4 runs; page here/report.md, to pass on here/report.html" in output
    assert (tmp_path / "here" / "report.md").read_text().startswith("# Of K=64: 50 %\n")
    failed = zygote.run("runs=nowhere", cwd=tmp_path, script="report.py", code=1)
    assert "runs=nowhere: no such folder" in failed
    assert "Traceback" not in failed


# --- kills, full disks, two at once ---------------------------------------------------------------------------------

KILL = """
import os, pathlib, signal
replace, calls = pathlib.Path.replace, []
def dying(self, target):
    calls.append(target)
    if len(calls) == {call}: os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
pathlib.Path.replace = dying
"""
FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))"  # the figures are larger


@pytest.fixture(scope="module")
def reports(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], list[dict[str, bytes]]]:
    """A place, the arguments of two reports on other runs, and the files of each; those of the first lie there."""
    folder = tmp_path_factory.mktemp("kills")
    commands = [[f"runs={base}/runs/{name}", f"output={folder}/out"] for name in ("sweep_K", "sweep_T")]
    files = []
    for command in reversed(commands):
        report(*command, "title=Kills")
        files.insert(0, contents(folder / "out"))
    return folder, [*commands[1], "title=Kills"], files


def test_a_report_that_is_killed_or_finds_the_disk_full_leaves_the_files_whole(zygote, reports):
    folder, command, (before, after) = reports
    start = contents(folder / "out")

    def left() -> dict[str, bytes]:
        return {name: content for name, content in contents(folder / "out").items() if not name.endswith(".tmp")}

    output = zygote.run(*command, cwd=folder, script="report.py", patch=FULL, code=1)
    assert "the report cannot be written ([Errno 27] File too large" in output
    assert "Traceback" not in output
    assert contents(folder / "out") == start
    for call in (1, 4):
        zygote.run(*command, cwd=folder, script="report.py", patch=KILL.format(call=call), code=-signal.SIGKILL)
        assert all(content in (start.get(name), before.get(name), after.get(name)) for name, content in left().items())
        assert (left() == start) == (call == 1)
    zygote.run(*command, cwd=folder, script="report.py")
    assert after.items() <= left().items()


def test_two_reports_into_one_folder_at_once_are_one_report(zygote, reports):
    folder, command, (_, after) = reports
    runs = [zygote.start(*command, cwd=folder, script="report.py") for _ in range(2)]
    for run in runs:
        run.wait(code=0)
    assert after.items() <= contents(folder / "out").items()


# --- figures --------------------------------------------------------------------------------------------------------


def test_a_curve_goes_through_the_means_with_their_deviations_and_all_seeds(tmp_path):
    write_sweep(tmp_path, "model.momentum", {0.0: (0.1, 0.3), 0.9: (0.4, 0.6), 0.999: (0.5,)})
    (axes,) = draw(group(gather([tmp_path]))[0])[1].axes
    line = next(line for line in axes.lines if len(line.get_xdata()) == 3)
    assert list(line.get_ydata()) == pytest.approx([20, 50, 50])
    assert axes.get_xlabel() == "model.momentum (values side by side, not to scale)"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "0.9", "0.999"]
    bounds = [collection.get_segments()[0][:, 1] for collection in axes.collections]
    assert sorted(high - low for low, high in bounds) == pytest.approx([2 * 100 * 0.02**0.5] * 2)  # 0.2 / root of 2
    dots = sorted(float(y) for line in axes.lines if line.get_markersize() < 3 for y in line.get_ydata())
    assert dots == pytest.approx([10, 30, 40, 50, 60])


def test_rows_hold_every_setting_with_a_result_or_not(tmp_path):
    write_sweep(tmp_path, "model.head", {"ema": (0.4, 0.5), "psp": (0.5, 0.6)})
    write_run(tmp_path / "failed", None, values={"model.head": "fcn"})
    (axes,) = draw(group(gather([tmp_path]))[0])[1].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["head=ema", "head=fcn", "head=psp"]
    means = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o" and line.get_markersize() > 3]
    assert [mean for mean in means if mean == mean] == pytest.approx([45, 55])
