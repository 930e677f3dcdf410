"""A whole report: what it shows, that it can be made again from its own runs, and that its HTML needs nothing else."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig

from emanet.common.errors import ConfigError
from emanet.config.report_schema import register_report_schemas
from emanet.config.schema import CONF_DIR, register
from emanet.studies.report.build import make_report
from emanet.studies.report.figures import drawings, main_drawing
from emanet.studies.report.maps import iterations_map, value_map
from emanet.studies.report.marks import places_of
from emanet.studies.report.page import anchor, split_notes
from emanet.studies.report.plots import bars, cost_rows, curve
from emanet.studies.report.runs import gather
from emanet.studies.report.studies import Study, group
from emanet.studies.report.style import COLORS, looks, new_figure, styled, to_bytes
from fake_runs import invented_robustness, write_run, write_sweep


def configured(*overrides: str) -> DictConfig:
    """The configuration that a command line gives."""
    register()
    arguments = register_report_schemas(["report.py", *overrides])[1:]
    with initialize_config_dir(CONF_DIR, version_base="1.3"):
        return compose("report", arguments)


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
    (folder / "robustness.json").write_text(json.dumps(invented_robustness({"a": (0.4, 0.5)})))
    make_report(configured(f"runs={runs}", f"output={folder}/report", f"robustness={folder}/robustness.json"))
    return folder


def page(folder: Path) -> str:
    """The Markdown page."""
    return (folder / "report" / "report.md").read_text()


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- the page -------------------------------------------------------------------------------------------------------


def test_every_study_has_its_section_and_the_runs_without_a_result_their_reason(base):
    text = page(base)
    headings = re.findall(r"^## (.*)$", text, flags=re.M)
    assert headings == ["K (invented)", "T (invented)", "invented", "Robustness to the input"]
    assert "| `sweep_K/x` | failed: ValueError: no \\| file x.png |" in text
    assert "| `sweep_K/y` | no summary: it ended before its first step, or has not come to it |" in text
    assert "- **Runs:** 8, of which 6 finished;" in text
    assert text.count("**How to read the tables.**") == 1
    assert "| 64 (default) | 3 of 4 | 45.00 ± 2.00 |" in text
    assert "| 32 | 3 of 4 | 42.00 ± 2.00 | 62.00 ± 2.00 | −3.00 ± 1.15 |" in text  # noqa: RUF001
    assert "```\npython src/train.py name=invented" in text


def test_the_report_made_again_from_its_own_runs_is_the_same_byte_by_byte(base, tmp_path):
    report = base / "report"
    make_report(
        configured(f"runs={report}/runs.jsonl", f"output={tmp_path}/again", f"robustness={report}/robustness.json")
    )
    before, after = contents(report), contents(tmp_path / "again")
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == []
    assert {Path(name).suffix for name in before} == {".md", ".html", ".csv", ".jsonl", ".json", ".svg", ".png"}


def test_nothing_of_the_machine_is_in_the_report(base):
    for name, content in contents(base / "report").items():
        assert str(base).encode() not in content, name
        assert b"emanet_secret" not in content


def test_the_links_of_the_page_lead_to_files_wherever_the_page_lies(base, tmp_path):
    runs, output = base / "report" / "runs.jsonl", tmp_path / "docs" / "ablations of K"
    place = tmp_path / "docs" / "sub" / "ablations.md"
    assert (
        make_report(configured(f"runs={runs}", f"output={output}", f"page={place}", "title=Ablations", "formats=[svg]"))
        == place
    )
    text = place.read_text()
    assert text.startswith("# Ablations\n")
    links = re.findall(r"\]\(<?([^)>]+)>?\)", text)
    files = [link for link in links if not link.startswith("#")]
    assert len(files) > 6
    for link in files:
        assert (place.parent / unquote(link)).is_file(), link
    headings = {anchor(heading) for heading in re.findall(r"^## (.*)$", text, flags=re.M)}
    assert {link[1:] for link in links if link.startswith("#")} == headings


class References(HTMLParser):
    """What a page loads or links to, and the names of its places."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.names: set[str] = set()
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for key, value in attrs:
            if key in ("src", "srcset", "data", "poster", "background"):
                self.loaded.append(value or "")
            elif key == "href":
                (self.loaded if tag == "link" else self.links).append(value or "")
            elif key == "id":
                self.names.add(value or "")


def test_the_html_page_loads_nothing_from_outside(base):
    text = (base / "report" / "report.html").read_text()
    found = References()
    found.feed(text)
    assert len(found.loaded) == len(list((base / "report" / "figures").glob("*.svg"))) >= 4
    assert all(link.startswith("data:image/svg+xml;base64,") for link in found.loaded)
    assert found.links
    assert all(link.startswith("#") and link[1:] in found.names for link in found.links)
    assert not found.tags & {"script", "link", "iframe", "object"}
    assert "@import" not in text
    assert "url(" not in text
    assert '<td style="text-align:right">45.00 ± 2.00</td>' in text


# --- notes ----------------------------------------------------------------------------------------------------------

NOTES = """# Title of the notes

For the top, with [a paper](https://example.org/paper).

## K

About K.

```
## no heading
```

### Below
More.

## robustness
About robustness.
"""


def test_notes_stand_at_the_top_and_in_their_sections(base, tmp_path):
    (tmp_path / "notes.md").write_text(NOTES)
    runs, robustness = base / "report" / "runs.jsonl", base / "robustness.json"
    make_report(
        configured(
            f"runs={runs}",
            f"robustness={robustness}",
            f"output={tmp_path}/r",
            f"notes={tmp_path}/notes.md",
            "formats=[png]",
        )
    )
    parts = re.split(r"^## (?=K \(|T \(|invented|Robust)", (tmp_path / "r" / "report.md").read_text(), flags=re.M)
    assert "For the top" in parts[0]
    assert "About K." in parts[1]
    assert "## no heading" in parts[1]
    assert "### Below" in parts[1]
    assert "About robustness." in parts[4]
    assert not any("About" in part for part in (parts[0], parts[2], parts[3]))
    found = References()
    found.feed((tmp_path / "r" / "report.html").read_text())
    assert "https://example.org/paper" in found.links
    assert found.loaded[0].startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("## Q\nx", r"'## Q' names no section; there are invented"),
        ("![x](https://example.org/x.png)", "no picture there"),
        (None, "cannot be read"),
    ],
)
def test_notes_that_fit_nowhere_are_refused(base, tmp_path, text, message):
    path = tmp_path / "notes.md"
    if text is not None:
        path.write_text(text)
    overrides = [f"runs={base}/runs/single", f"output={tmp_path}/r", f"notes={path}", "formats=[png]"]
    with pytest.raises(ConfigError, match=message):
        make_report(configured(*overrides))


def test_notes_are_split_at_headings_of_the_second_level_outside_of_code():
    assert split_notes("a\n## B\nb\n```\n## C\n```\n### D") == [("", "a"), ("B", "b\n```\n## C\n```\n### D")]


# --- configuration --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "runs=FOLDER, wandb=ENTITY/PROJECT or robustness=FILE is missing"),
        (["runs=/nowhere"], "runs=/nowhere: no such folder or file"),
        (["wandb=emanet", "output=x"], "wandb must be entity/project, got 'emanet'"),
        (["robustness=/nowhere.json", "output=x"], "no results of src/robustness"),
        (["runs=x", "formats=[pdf]"], "formats must be a list of svg, png and pdf, with svg or png among them"),
        (["runs=x", "formats=[gif]"], "formats must be a list"),
    ],
)
def test_a_report_on_nothing_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        make_report(configured(*overrides))


def test_an_unknown_key_is_refused():
    with pytest.raises(HydraException, match="rnus"):
        configured("rnus=x")


def test_without_a_place_the_report_lies_beside_the_runs(tmp_path):
    write_run(tmp_path / "a=1" / "run", 0.5, study=None)
    made = make_report(configured(f"runs={tmp_path}/a=1", "formats=[png]"))
    assert made == tmp_path / "a=1" / "report" / "report.md"
    again = make_report(configured(f"runs={tmp_path}/a=1", "formats=[png]"))  # the report itself is no run
    assert again.read_text() == made.read_text()


# --- figures --------------------------------------------------------------------------------------------------------


def study_of(place: Path) -> Study:
    """The one study below a place."""
    (study,) = group(gather([place]))
    return study


def test_a_curve_goes_through_the_means_with_their_deviations_and_all_seeds(tmp_path):
    write_sweep(tmp_path, "model.momentum", {0.0: (0.1, 0.3), 0.9: (0.4, 0.6), 0.999: (0.5,)})
    (axes,) = curve(study_of(tmp_path)).axes
    line = next(line for line in axes.lines if len(line.get_xdata()) == 3 and line.get_linestyle() == "-")
    assert list(line.get_ydata()) == pytest.approx([20, 50, 50])
    assert axes.get_ylabel() == "mIoU (%)"
    assert axes.get_xlabel() == "momentum, share of the old bases kept (not to scale)"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "0.9", "0.999"]
    bounds = [collection.get_segments()[0][:, 1] for collection in axes.collections]
    assert sorted(high - low for low, high in bounds) == pytest.approx([2 * 100 * 0.02**0.5] * 2)  # 0.2 / root of 2
    dots = sorted(float(y) for line in axes.lines if line.get_markersize() < 3 for y in line.get_ydata())
    assert dots == pytest.approx([10, 30, 40, 50, 60])


def test_numbers_stand_by_size_by_logarithm_or_one_after_the_other():
    assert places_of([1, 2, 3, 4, 6]) == ([1, 2, 3, 4, 6], "")
    assert places_of([8, 16, 32, 256]) == ([3, 4, 5, 8], "")
    assert places_of([8, 16, 32]) == ([3, 4, 5], "")
    assert places_of([0.0, 0.5, 0.9, 0.999]) == ([0, 1, 2, 3], " (not to scale)")


def test_bars_are_the_means_and_start_at_zero(tmp_path):
    for maintenance, norm, miou in (("none", "none", 0.2), ("none", "l2", 0.3), ("moving_average", "l2", 0.5)):
        values = {"model.maintenance": maintenance, "model.norm": norm}
        write_run(tmp_path / f"{maintenance}{norm}", miou, values=values)
    write_run(tmp_path / "failed", None, values={"model.maintenance": "moving_average", "model.norm": "none"})
    (axes,) = bars(study_of(tmp_path)).axes
    assert sorted(bar.get_height() for bar in axes.patches) == pytest.approx([20, 30, 50])
    assert {bar.get_y() for bar in axes.patches} == {0}
    assert axes.get_ylim()[0] == 0
    assert [text.get_text() for text in axes.texts] == ["no result"]


def test_a_study_where_all_is_wrong_can_be_drawn_all_the_same(tmp_path):
    write_run(tmp_path / "a", 0.0, values={"model.gradient": "none"})
    write_run(tmp_path / "b", None, values={"model.gradient": "full"})
    with styled():
        assert len(to_bytes(bars(study_of(tmp_path)), "png")) > 5000  # matplotlib would warn of axes without room


def test_the_map_of_iterations_shows_the_mean_of_each_evaluation(tmp_path):
    for T in (1, 3):
        for seed in (0, 1):
            evaluations = {"1": 0.1 * T, "3": 0.2 * T + 0.1 * seed}
            write_run(tmp_path / f"{T}{seed}", 0.5, values={"model.T": T}, seed=seed, evaluations=evaluations)
    figure = iterations_map(study_of(tmp_path))
    image = figure.axes[0].images[0].get_array()
    assert image.tolist() == [pytest.approx([10, 25]), pytest.approx([30, 65])]
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["10.0", "25.0\n±7.1", "30.0", "65.0\n±7.1"]
    assert len(figure.axes[0].patches) == 2, "as many iterations in evaluation as in training"


def test_a_map_says_where_there_is_no_result():
    figure = value_map([[(float("nan"), 0.0), (50.0, 0.0)]], ["a"], ["b", "c"], ("x", "y"), set())
    assert [text.get_text() for text in figure.axes[0].texts] == ["-", "50.0"]


@pytest.mark.parametrize(
    ("values", "draw"),
    [
        ({"model.K": (8, 16)}, "curve"),
        ({"model.gradient": ("none", "full")}, "bars"),
        ({"model.head": ("ema", "psp")}, "cost_rows"),
        ({"model.T": (1, 2), "model.K": (8, 16)}, "two_key_map"),
        ({"model.norm": ("l2", "none"), "model.K": (8, 16)}, "bars"),
        ({"model.T": (1, 2), "model.K": (8, 16), "model.norm": ("l2", "none")}, "dot_plot"),
        ({}, "seed_strip"),
    ],
)
def test_the_figure_suits_the_keys(tmp_path, monkeypatch, values, draw):
    import emanet.studies.report.figures as module
    from emanet.studies.report.costs import complete

    for number in (0, 1):
        setting = {key: each[number] for key, each in values.items()}
        write_run(tmp_path / str(number), 0.5, study="s", values=setting, seed=0 if values else number)
    drawn = []
    real = getattr(module, draw)
    monkeypatch.setattr(module, draw, lambda study: drawn.append(draw) or real(study))
    (study,) = group(complete(gather([tmp_path])) if "model.head" in values else gather([tmp_path]))
    assert main_drawing(study).name == "invented_s"
    assert drawn == [draw]


def test_rows_beside_costs_show_the_costs_in_words(tmp_path):
    from emanet.studies.report.costs import complete
    from emanet.studies.report.tables import varying_costs

    write_sweep(tmp_path, "model.head", {"ema": (0.4, 0.5), "psp": (0.5, 0.6)})
    (study,) = group(complete(gather([tmp_path])))
    first, *others = cost_rows(study).axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["ema", "psp"]
    for axes, cost in zip(others, varying_costs(study), strict=True):
        assert [text.get_text().strip() for text in axes.texts] == [cost.text(cell) for cell in study.cells]
    assert [drawing.name for drawing in drawings(study)] == ["invented_invented", "invented_invented_costs"]


def test_a_study_without_a_result_has_no_figure_and_still_a_page(tmp_path):
    write_run(tmp_path / "a" / "b", None, values={"model.K": 8})
    assert drawings(study_of(tmp_path)) == []
    made = make_report(configured(f"runs={tmp_path}/a", f"output={tmp_path}/r"))
    assert "| 8 | 0 of 1 | no result | no result |" in made.read_text()


@pytest.mark.parametrize("kind", ["svg", "png", "pdf"])
def test_a_figure_has_the_same_bytes_each_time_and_no_date(kind):
    def drawn() -> bytes:
        with styled():
            figure = new_figure(2.0)
            figure.add_subplot().plot([1, 2], label="x")
            figure.legend()
            return to_bytes(figure, kind)

    first = drawn()
    assert first == drawn()
    assert not re.search(rb"(?i)creationdate|dc:date|20[0-9]{2}-[01][0-9]-", first)


def test_series_differ_in_color_and_marker_as_long_as_there_are_any():
    assert len(set(looks(64))) == 64
    assert [color for color, _ in looks(8)] == list(COLORS)


# --- the script -----------------------------------------------------------------------------------------------------


def test_the_script_writes_the_report_and_says_where(zygote, base, tmp_path):
    arguments = [
        f"runs=[{base}/runs/sweep_T,{base}/runs/single]",
        "output=here",
        "title='Of K=64: 50 %'",
        "formats=[png]",
    ]
    output = zygote.run(*arguments, cwd=tmp_path, script="report.py")
    assert "4 runs; page here/report.md, to pass on here/report.html" in output
    assert (tmp_path / "here" / "report.md").read_text().startswith("# Of K=64: 50 %\n")
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".txt") == ["here"]
    failed = zygote.run("runs=nowhere", cwd=tmp_path, script="report.py", code=1)
    assert "runs=nowhere: no such folder or file" in failed
    assert "Traceback" not in failed
