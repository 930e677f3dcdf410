"""Write docs/results.md from docs/published.yaml and the runs kept in docs/runs/.

python src/results.py                                       the page alone
python src/results.py runs/voc_r101_512/2026-01-01_12-00-00 keep this run's summary first
python src/results.py RUN:ss_os8                            the same, measured otherwise: ss, ss_os8, ms, test
"""

import sys

from emanet.common.errors import EMANetError
from emanet.studies.results import main

if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except EMANetError as error:
        sys.exit(f"error: {error}")
