"""The command ``emanet JOB ...``: the scripts of src/ with the same arguments, from wherever they are installed."""

import runpy
import sys

from emanet.cli.entry import JOBS
from emanet.config.schema import PACKAGE

#: where the scripts lie: in a wheel, or beside the package in a source tree
SCRIPTS = PACKAGE / "scripts" if (PACKAGE / "scripts").is_dir() else PACKAGE.parent
#: file of each job: a script must not be called inspect, as a module of the standard library
FILES = {name.removesuffix("_data"): SCRIPTS / f"{name}.py" for name in JOBS}


def usage() -> str:
    """What there is, each with the first sentence of its script."""
    first = {job: file.read_text(encoding="utf-8").splitlines()[0].strip('"') for job, file in FILES.items()}
    lines = [f"  emanet {job:<11} {sentence}" for job, sentence in first.items()]
    return (
        "usage: emanet JOB [KEY=VALUE ...]\n\n"
        + "\n".join(lines)
        + "\n\nemanet JOB --help shows the configuration of one"
    )


def main() -> None:
    """Run a job as ``python src/JOB.py`` does: whoever starts the command again finds a file to start."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    if arguments[0] not in FILES:
        sys.exit(f"error: no job {arguments[0]!r}\n{usage()}")
    path = FILES[arguments[0]]
    sys.argv = [str(path), *arguments[1:]]
    runpy.run_path(str(path), run_name="__main__")
