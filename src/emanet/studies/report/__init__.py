"""Reports on many runs: tables, figures and one page, made from the files that the runs left behind.

``runs`` and ``wandb_runs`` gather, ``portable`` leaves out what belongs to a machine, ``costs`` counts, ``studies``
groups and averages, ``checks`` compares circumstances, ``tables`` and ``figures`` show, ``page`` puts together.
"""
