"""Which command each process of a job gets, and which jobs are refused."""

import pytest
from omegaconf import OmegaConf

from emanet.cli import launch
from emanet.common.errors import ConfigError

VARIABLES = [
    *launch.LAUNCHER_VARIABLES,
    launch.SHARED_STORE,
    *("TORCHELASTIC_RUN_ID", "TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_RESTART_COUNT"),
    *("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_JOB_NAME", "SUBMITIT_EXECUTOR"),
]
ARGV = ["src/train.py", "model.K=3"]


@pytest.fixture
def started_by(monkeypatch):
    """Sets the environment that a launcher leaves."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def set_variables(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_variables


@pytest.mark.parametrize(
    "variables",
    [{}, {"SLURM_JOB_ID": "7"}, {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_JOB_NAME": "interactive"}],
    ids=["plain", "in an allocation", "in a shell of one"],
)
def test_a_run_that_is_no_job_of_a_launcher_keeps_its_command(started_by, variables):
    started_by(**variables)
    assert launch.place_process(ARGV) == ARGV


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"TORCHELASTIC_RUN_ID": "voc-1", "RANK": "{rank}"}, "torchrun_voc-1"),
        ({"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0", "SLURM_PROCID": "{rank}"}, "slurm_77"),
        ({"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "2", "SLURM_PROCID": "{rank}"}, "slurm_77_2"),
    ],
)
def test_all_processes_of_a_job_get_one_folder_and_the_first_alone_writes_hydras_files(started_by, variables, folder):
    commands = []
    for rank in "01":
        started_by(**{name: value.format(rank=rank) for name, value in variables.items()})
        commands.append(launch.place_process(ARGV))
    expected = [*ARGV, f"hydra.run.dir=${{paths.runs_dir}}/${{name}}/{folder}", "resume=auto"]
    assert commands[0] == expected
    assert commands[1] == [*expected, "hydra.output_subdir=null", "hydra.job.name=train_rank1"]


def test_a_folder_or_run_that_was_given_stays(started_by):
    started_by(TORCHELASTIC_RUN_ID="none", RANK="0")
    argv = [*ARGV, "resume='/runs/a'", "hydra.run.dir='/runs/a'"]
    assert launch.place_process(argv) == argv


@pytest.mark.parametrize(
    ("variables", "more", "message"),
    [
        ({"TORCHELASTIC_RUN_ID": "none"}, [], "--standalone on one machine, --rdzv-id=NAME on several"),
        ({"TORCHELASTIC_RUN_ID": "a"}, ["--multirun"], "torchrun starts every process with the whole sweep"),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}, ["-m"], "slurm starts every process with the whole sweep"),
        (
            {"TORCHELASTIC_RUN_ID": "a", "TORCHELASTIC_MAX_RESTARTS": "3"},
            [],
            "--max-restarts=3 needs the environment variable TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1",
        ),
    ],
)
def test_jobs_that_would_go_wrong_silently_are_refused(started_by, variables, more, message):
    started_by(**variables)
    with pytest.raises(ConfigError) as caught:
        launch.place_process([*ARGV, *more])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("devices", "nodes", "alone"), [(1, 1, False), ("1", 1, False), (2, 1, True), ("auto", 1, True), (1, 2, True)]
)
def test_a_job_of_a_sweep_that_lightning_might_start_again_gets_its_own_process(
    started_by, monkeypatch, devices, nodes, alone
):
    cfg = {"trainer": {"devices": devices, "num_nodes": nodes}}
    hydra = OmegaConf.create({"mode": launch.RunMode.MULTIRUN})
    monkeypatch.setattr(launch.HydraConfig, "get", staticmethod(lambda: hydra))
    assert launch.needs_own_process(cfg) is alone
    started_by(SUBMITIT_EXECUTOR="slurm")
    assert not launch.needs_own_process(cfg)
    hydra.mode = launch.RunMode.RUN
    assert not launch.needs_own_process(cfg)


def test_only_processes_that_lightning_started_count_as_its_children(started_by):
    assert not launch.in_lightning_child()
    started_by(LOCAL_RANK="1")
    assert launch.in_lightning_child()
    started_by(TORCHELASTIC_RUN_ID="a")
    assert not launch.in_lightning_child()
